//! What an operator and a program with WebRTC ask for, and TLS.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use aws_lc_rs::hmac;
use common::*;
use data_encoding::BASE64;
use peerloom_conformance::identity::identity;
use peerloom_registry_server::{IceConfig, Registry, RegistryConfig, TlsFiles};
use serde_json::{Value, json};

#[tokio::test]
async fn ice_credentials_are_what_coturn_checks() {
    let ice = IceConfig {
        stun: vec!["stun:stun.example:3478".into()],
        turn: vec!["turn:turn.example:3478?transport=udp".into()],
        turn_secret: Some("north".into()),
        ttl: Duration::from_secs(600),
    };
    let registry = start(RegistryConfig { ice: ice.clone(), ..config() }).await;
    let answer = get_in(registry.local_addr(), "ice-servers").await.json();
    assert_eq!(answer["ttlSeconds"], 600);
    assert_eq!(answer["iceServers"][0], json!({"urls": ["stun:stun.example:3478"]}));
    let turn = &answer["iceServers"][1];
    assert_eq!(turn["urls"], json!(["turn:turn.example:3478?transport=udp"]));
    let username = turn["username"].as_str().expect("a user name");
    let expires: u64 = username.parse().expect("a time");
    assert!(expires.abs_diff(now_ms() / 1000 + 600) < 60);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"north");
    assert_eq!(turn["credential"], BASE64.encode(hmac::sign(&key, username.as_bytes()).as_ref()));
    assert!(!format!("{ice:?}").contains("north"), "the secret stays out of logs");

    let registry = start(config()).await;
    let none = get_in(registry.local_addr(), "ice-servers").await.json();
    assert_eq!(none["iceServers"], json!([]));
}

#[tokio::test]
async fn the_document_lists_every_call() {
    let registry = start(config()).await;
    let at = registry.local_addr();
    let document = get(at, "/openapi.json").await.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let listed: Vec<_> = document["paths"].as_object().expect("paths").keys().cloned().collect();
    let mut expected = [
        "/coordinator/heartbeat",
        "/healthz",
        "/metrics",
        "/network/{networkId}/active-peers",
        "/network/{networkId}/announce",
        "/network/{networkId}/device/{peerId}",
        "/network/{networkId}/ice-servers",
        "/network/{networkId}/item",
        "/network/{networkId}/device-list/{userId}",
        "/network/{networkId}/key-package/{hash}",
        "/network/{networkId}/service/{kind}",
        "/network/{networkId}/peer/{userId}",
        "/openapi.json",
        "/signal/{peerId}",
    ];
    expected.sort_unstable();
    let mut found = listed.clone();
    found.sort_unstable();
    assert_eq!(found, expected);
    let schemas = &document["components"]["schemas"];
    for schema in [
        "Announce",
        "ActivePeers",
        "UserAnswer",
        "DeviceAnswer",
        "PublishItem",
        "ItemsAnswer",
        "Heartbeat",
        "IceAnswer",
        "ErrorBody",
    ] {
        assert!(schemas[schema].is_object(), "{schema}");
    }
}

/// Everything in the document by which a client checks what it sends, against what the registry really takes and gives.
#[tokio::test]
async fn the_document_has_patterns_lengths_and_content_types() {
    let registry = start(RegistryConfig { allow_local: Some(true), ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let announce_at = format!("/network/{}/announce", network());
    let document = get(at, "/openapi.json").await.json();
    let fits = |schema: &str, value: &Value| {
        let schema = json!({"$ref": format!("#/components/schemas/{schema}"), "components": document["components"]});
        jsonschema::validator_for(&schema).expect("a schema").is_valid(value)
    };
    let good = announcement(&alice, &record(&alice, 1, |_| {}));
    assert!(fits("Announce", &good), "{good}");
    assert_eq!(post(at, &announce_at, &good).await.status, 200);
    let id = alice.device.to_string();
    let record_text = good["record"].as_str().expect("text").to_owned();
    for (key, wrong) in [
        ("peerId", id[1..].to_owned()),
        ("peerId", format!("{id}a")),
        ("peerId", id.replace(&id[..1], "1")),
        ("peerId", format!("{}b", &id[..51])),
        ("record", format!("{record_text}=")),
        ("record", "A".repeat(1201)),
        ("signalAddress", format!("wss://{}", "x".repeat(128))),
        ("signalAddress", "no address".into()),
    ] {
        let mut body = good.clone();
        body[key] = wrong.into();
        assert!(!fits("Announce", &body), "{key}: {body}");
        assert_ne!(post(at, &announce_at, &body).await.status, 200, "{key}: {body}");
    }
    for (schema, place) in [
        ("DeviceAnswer", format!("device/{id}")),
        ("UserAnswer", format!("peer/{}", alice.user)),
        ("ActivePeers", "active-peers?limit=1".into()),
        ("IceAnswer", "ice-servers".into()),
    ] {
        let answer = get_in(at, &place).await.json();
        assert!(fits(schema, &answer), "{schema}: {answer}");
    }
    let heartbeat = |signature: &str| json!({"networkId": network().to_string(), "peerId": id, "activePeers": 0, "capacity": 1, "atMs": 1, "signature": signature});
    assert!(fits("Heartbeat", &heartbeat(&"A".repeat(86))));
    for wrong in ["A".repeat(85), "A".repeat(87), format!("{}==", "A".repeat(86)), format!("{}B", "A".repeat(85))] {
        assert!(!fits("Heartbeat", &heartbeat(&wrong)), "{wrong}");
    }

    // Every parameter that is an id has the same rule.
    let calls = document["paths"].as_object().expect("paths").values();
    let parameters = calls.flat_map(|call| call.as_object().expect("methods").values());
    let parameters = parameters.filter_map(|method| method["parameters"].as_array()).flatten();
    let ids: Vec<_> = parameters
        .filter(|parameter| !["limit", "kind"].contains(&parameter["name"].as_str().unwrap_or_default()))
        .collect();
    assert!(ids.len() >= 8, "{ids:?}");
    assert!(ids.iter().all(|parameter| parameter["schema"].to_string().contains("{51}[AaQq]$")), "{ids:?}");

    // And what an operator's tools are given is what the document says.
    for place in ["/metrics", "/healthz", "/openapi.json"] {
        let answer = get(at, place).await;
        let given = answer.headers["content-type"].to_str().expect("text").to_owned();
        let said = document["paths"][place]["get"]["responses"]["200"]["content"].as_object();
        let said = said.and_then(|content| content.keys().next().cloned());
        assert_eq!(said.as_deref(), Some(given.as_str()), "{place}");
    }
}

#[tokio::test]
async fn figures_count_requests() {
    let registry = start(config()).await;
    let other = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    for _ in 0..3 {
        get_in(at, &format!("peer/{}", alice.user)).await;
    }
    let figures = get(at, "/metrics").await;
    assert_eq!(figures.status, 200);
    let line = r#"peerloom_registry_requests_total{route="/network/{networkId}/peer/{userId}",status="200"} 3"#;
    assert!(figures.text.contains(line), "{}", figures.text);
    let elsewhere = get(other.local_addr(), "/metrics").await.text;
    assert!(!elsewhere.contains(line), "each registry counts for itself");
    assert_eq!(get(at, "/healthz").await.json(), json!({"status": "ok", "protocol": 1, "devices": 0}));
}

#[tokio::test]
async fn it_speaks_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).expect("a file");
    peerloom_core::private::create(&files.key, made.signing_key.serialize_pem().as_bytes()).expect("a file");
    let registry = start(RegistryConfig { tls: Some(files.clone()), ..config() }).await;
    assert!(registry.names().iter().any(|name| name.starts_with("localhost:")));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let stream = tokio::net::TcpStream::connect(registry.local_addr()).await.expect("a connection");
    let stream = connector.connect("localhost".try_into().expect("a name"), stream).await.expect("TLS");
    let url = format!("wss://localhost:{}/signal/{}", registry.local_addr().port(), identity(1).device);
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
    let challenge = futures_util::StreamExt::next(&mut socket).await.expect("a message").expect("a message");
    assert!(challenge.to_text().expect("text").contains("challenge"));

    // Files that are no certificate are noticed at the start.
    std::fs::write(&files.key, "no key").expect("a file");
    let refused = || async {
        let started = Registry::start(RegistryConfig { tls: Some(files.clone()), ..config() }).await;
        started.err().expect("an error").to_string()
    };
    assert!(refused().await.contains("key.pem: not a private key"), "{}", refused().await);
    // And so is a key that others can read.
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    assert!(refused().await.contains("chmod 600"), "{}", refused().await);
}

#[tokio::test]
async fn settings_are_checked() {
    let wrong = [
        RegistryConfig { listen: "nowhere".into(), ..config() },
        RegistryConfig { work_bits: 25, ..config() },
        RegistryConfig { names: vec!["https://reg.example".into()], ..config() },
        RegistryConfig { networks: [("x".into(), String::new())].into(), ..config() },
        RegistryConfig { networks: [("x".into(), "no client can say this".into())].into(), ..config() },
        RegistryConfig { only_listed: true, ..config() },
        RegistryConfig { store: "/nonexistent/registry.sqlite".into(), ..config() },
    ];
    for config in wrong {
        assert!(Registry::start(config.clone()).await.is_err(), "{config:?}");
    }
    let secret = RegistryConfig { networks: [("x".into(), "hush".into())].into(), ..config() };
    assert!(!format!("{secret:?}").contains("hush"));
    let first = start(config()).await;
    let taken = RegistryConfig { listen: first.local_addr().to_string(), ..config() };
    assert_eq!(Registry::start(taken).await.err().map(|e| e.kind()), Some(peerloom_core::ErrorKind::InUse));
}

//! What others may try over HTTP, and what they get.

mod common;

use std::time::Duration;

use common::*;
use peerloom_conformance::identity::identity;
use peerloom_core::wire::NetworkId;
use peerloom_registry_protocol::proof::Work;
use peerloom_registry_server::{Limits, RegistryConfig, Times};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

fn path(what: &str) -> String {
    format!("/network/{}/{what}", network())
}

#[tokio::test]
async fn forged_and_foreign_records_are_refused() {
    let registry = start(config()).await;
    let (at, alice, mallory) = (registry.local_addr(), identity(1), identity(2));
    let good = record(&alice, 1, |_| {});
    let mut bytes = good.encode().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let mut forged = announcement(&alice, &good);
    forged["record"] = json!(base64url(&bytes));
    assert_eq!(post(at, &path("announce"), &forged).await.code(), "badRecord");

    // Mallory signs a record with alice's certificate, and announces alice's record as its own.
    let stolen = record(&mallory, 9, |record| record.certificate = alice.certificate.clone());
    assert_eq!(announce(at, &alice, &stolen).await.code(), "badRecord");
    assert_eq!(announce(at, &mallory, &good).await.code(), "badRecord");

    let other = format!("/network/{}/announce", NetworkId::from_name("other"));
    assert_eq!(post(at, &other, &announcement(&alice, &good)).await.code(), "foreignNetwork");
    let expired = record(&alice, 1, |record| record.expires_at_ms = now_ms() - 1);
    assert_eq!(announce(at, &alice, &expired).await.code(), "expired");
    let mut boasting = announcement(&alice, &good);
    boasting["capabilities"] = json!(7);
    assert_eq!(post(at, &path("announce"), &boasting).await.code(), "badRecord");
    assert_eq!(get(at, "/healthz").await.json()["devices"], 0);

    // A certificate that was good once is no excuse for a bad record later.
    assert_eq!(announce(at, &alice, &good).await.status, 200);
    assert_eq!(announce(at, &alice, &stolen).await.code(), "badRecord");
}

#[tokio::test]
async fn whatever_fails_is_json() {
    let registry = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let announce_path = path("announce");
    for (method, path, body, status, code) in [
        ("GET", "/", "", 404, "notFound"),
        ("GET", "/nowhere", "", 404, "notFound"),
        ("DELETE", "/healthz", "", 405, "method"),
        ("POST", &announce_path, "", 400, "malformed"),
        ("POST", &announce_path, "{", 400, "malformed"),
        ("POST", &announce_path, "{}", 400, "malformed"),
        ("POST", &announce_path, "[]", 400, "malformed"),
        ("POST", "/coordinator/heartbeat", "null", 400, "malformed"),
        ("POST", &announce_path, &" ".repeat(8 * 1024 + 1), 413, "tooLarge"),
        ("GET", &format!("/signal/{}", alice.device), "", 400, "malformed"),
    ] {
        let answer = call(at, method, path, &[], body.to_owned()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path}");
    }
}

#[tokio::test]
async fn ids_are_ids_and_nothing_else() {
    let registry = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    assert_eq!(announce(at, &alice, &record(&alice, 1, |_| {})).await.status, 200);
    let user = alice.user.to_string();
    for id in [
        "'%20OR%20'1'='1",
        "x'%3B%20DROP%20TABLE%20devices%3B--",
        "%00",
        "%FF%FE",
        "..%2f..%2fetc%2fpasswd",
        &user[1..],
        &format!("{user}a"),
        &format!("{}%27", &user[1..]),
        &user.replace('a', "1").replace('b', "8").replacen(&user[..1], "0", 1),
    ] {
        for path in [path(&format!("peer/{id}")), path(&format!("device/{id}")), format!("/network/{id}/active-peers")]
        {
            let answer = get(at, &path).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "invalidId"), "{path}");
        }
        assert_eq!(get(at, &format!("/signal/{id}")).await.status, 400);
    }
    let mut body = announcement(&alice, &record(&alice, 2, |_| {}));
    body["peerId"] = json!("' OR 1=1 --");
    assert_eq!(post(at, &path("announce"), &body).await.code(), "malformed");
    assert_eq!(get(at, "/healthz").await.json()["devices"], 1);
}

#[tokio::test]
async fn inward_addresses_are_refused() {
    let registry = start(RegistryConfig { allow_local: Some(false), ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    for address in ["quic://127.0.0.1:1", "quic://[::1]:1", "quic://169.254.169.254:80", "quic://0.0.0.0:1"] {
        let answer = announce(at, &alice, &record(&alice, 1, with_address(address))).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "inwardAddress"), "{address}");
        assert!(answer.text.contains("allow_local"), "it says what to do: {}", answer.text);
    }
    // A name, since any address may be in a network of the machine that runs this.
    let outward = record(&alice, 1, with_address("quic://node.example:4433"));
    let mut body = announcement(&alice, &outward);
    for (address, code) in [("http://localhost:6379/", "inwardAddress"), ("no address", "malformed")] {
        body["signalAddress"] = json!(address);
        assert_eq!(post(at, &path("announce"), &body).await.code(), code);
    }
    assert_eq!(announce(at, &alice, &outward).await.status, 200);

    // A registry on loopback is for tests on one machine.
    let registry = start(config()).await;
    let local = record(&alice, 1, with_address("quic://127.0.0.1:1"));
    assert_eq!(announce(registry.local_addr(), &alice, &local).await.status, 200);
    // One with a name or behind a proxy is for others, wherever it listens.
    let named = RegistryConfig { names: vec!["reg.example".into()], ..config() };
    for config in [named, RegistryConfig { trust_forwarded: true, ..config() }] {
        let registry = start(config).await;
        assert_eq!(announce(registry.local_addr(), &alice, &local).await.code(), "inwardAddress");
    }
}

#[tokio::test]
async fn announcing_may_take_work() {
    let registry = start(RegistryConfig { work_bits: 8, ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let signed = record(&alice, 1, |_| {});
    let answer = announce(at, &alice, &signed).await;
    assert_eq!((answer.status, answer.code().as_str()), (428, "workRequired"));
    assert_eq!(answer.json()["error"]["workBits"], 8);
    let work = Work::new(&signed, 8);
    let number = work.find().expect("a number");
    let mut body = announcement(&alice, &signed);
    let wrong = (0..).find(|number| !work.is_done_by(*number)).expect("a number");
    body["work"] = json!(wrong);
    assert_eq!(post(at, &path("announce"), &body).await.code(), "workRequired");
    body["work"] = json!(number);
    assert_eq!(post(at, &path("announce"), &body).await.status, 200);
}

#[tokio::test]
async fn a_private_network_wants_its_token() {
    let networks = [("test".to_owned(), "open-sesame".to_owned())].into();
    let registry = start(RegistryConfig { networks, only_listed: true, ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let body = announcement(&alice, &record(&alice, 1, |_| {})).to_string();
    let announce_path = path("announce");
    for (token, status) in
        [(None, 401), (Some("Bearer open"), 401), (Some("open-sesame"), 401), (Some("Bearer open-sesame"), 200)]
    {
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let answer = call(at, "POST", &announce_path, &headers, body.clone()).await;
        assert_eq!(answer.status, status, "{token:?}");
        for what in ["active-peers", &format!("peer/{}", alice.user), "ice-servers"] {
            assert_eq!(call(at, "GET", &path(what), &headers, String::new()).await.status, status, "{token:?} {what}");
        }
    }
    let other = format!("/network/{}/active-peers", NetworkId::from_name("other"));
    assert_eq!(get(at, &other).await.code(), "networkRefused");
}

#[tokio::test]
async fn rates_are_limited_by_address_and_by_device() {
    let limits = Limits { address_per_second: 1, address_burst: 5, ..config().limits };
    let registry = start(RegistryConfig { limits, ..config() }).await;
    let at = registry.local_addr();
    let mut refused = None;
    for _ in 0..50 {
        let answer = get_in(at, "active-peers").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("not for ever");
    assert_eq!((refused.status, refused.code().as_str()), (429, "rateLimited"));
    assert_eq!(refused.headers["access-control-allow-origin"], "*", "a page can read it");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.json()["error"]["retryAfterMs"].as_u64().is_some_and(|ms| ms > 0));
    assert_eq!(get(at, "/healthz").await.status, 200, "an operator isn't kept out");

    let limits = Limits { device_per_second: 1, device_burst: 2, ..config().limits };
    let registry = start(RegistryConfig { limits, ..config() }).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let mut codes = Vec::new();
    for sequence in 1..50 {
        let answer = announce(at, &alice, &record(&alice, sequence, |_| {})).await;
        if answer.status != 200 {
            codes.push(answer.code());
        }
    }
    assert!(codes.iter().any(|code| code == "rateLimited"), "{codes:?}");
    assert_eq!(announce(at, &bob, &record(&bob, 1, |_| {})).await.status, 200, "others have their own budget");
    // Whoever announces bob's record again and again uses up nothing of bob's.
    for _ in 0..20 {
        assert_eq!(announce(at, &bob, &record(&bob, 1, |_| {})).await.json()["changed"], false);
    }
    assert_eq!(announce(at, &bob, &record(&bob, 2, |_| {})).await.status, 200);
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let limits = Limits { address_per_second: 1, address_burst: 2, ..config().limits };
    let registry = start(RegistryConfig { limits, trust_forwarded: true, ..config() }).await;
    let at = registry.local_addr();
    let from = |forwarded: String| async move {
        call(at, "GET", &path("active-peers"), &[("x-forwarded-for", &forwarded)], String::new()).await.status
    };
    let mut refused = false;
    for claimed in 0..50 {
        // What the client itself puts in front changes nothing.
        refused |= from(format!("198.51.100.{claimed}, 192.0.2.1")).await == 429;
    }
    assert!(refused);
    assert_eq!(from("192.0.2.2".into()).await, 200);
    // With a port it is still one client, and not the same as all others. An end that can't be read counts as the
    // proxy, whatever stands before it.
    for end in ["192.0.2.3:PORT", "unknown"] {
        let mut refused = false;
        for number in 0..50 {
            refused |= from(format!("198.51.100.{number}, {}", end.replace("PORT", &number.to_string()))).await == 429;
        }
        assert!(refused, "{end}");
        assert_eq!(from(format!("198.51.100.1, 192.0.2.{}:1", 4 + end.len())).await, 200);
    }
}

#[tokio::test]
async fn new_devices_of_an_address_are_limited() {
    let limits = Limits { new_devices_per_second: 1, new_devices_burst: 2, ..config().limits };
    let config = RegistryConfig { limits, trust_forwarded: true, allow_local: Some(true), ..config() };
    let registry = start(config).await;
    let at = registry.local_addr();
    let from = async |address: &str, number: u8, sequence| {
        let device = identity(number);
        let body = announcement(&device, &record(&device, sequence, |_| {})).to_string();
        call(at, "POST", &path("announce"), &[("x-forwarded-for", address)], body).await
    };
    let mut refused = None;
    for number in 1..50 {
        let answer = from("192.0.2.1", number, 1).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    assert_eq!(refused.expect("not for ever").code(), "rateLimited");
    assert_eq!(from("192.0.2.1", 1, 2).await.status, 200, "a known device is always welcome");
    assert_eq!(from("192.0.2.2", 60, 1).await.status, 200, "others have their own budget");
}

#[tokio::test]
async fn sockets_of_an_address_are_bounded_behind_a_proxy_too() {
    let limits = Limits { connections_per_address: 2, ..config().limits };
    let registry = start(RegistryConfig { limits, trust_forwarded: true, ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let open = async |address: &str| {
        let mut request = format!("ws://{at}/signal/{}", alice.device).into_client_request().expect("a request");
        request.headers_mut().insert("x-forwarded-for", address.parse().expect("a header"));
        let stream = TcpStream::connect(at).await.expect("a connection");
        tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
    };
    let first = open("192.0.2.1").await.expect("a socket");
    let _second = open("192.0.2.1").await.expect("a socket");
    assert!(open("192.0.2.1").await.is_err());
    assert!(open("192.0.2.2").await.is_ok(), "others have their own places");
    drop(first);
    until("a place comes back", async || open("192.0.2.1").await.is_ok()).await;
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_dropped() {
    let times = Times { head: Duration::from_millis(200), ..Times::default() };
    let limits = Limits { connections: 4, ..config().limits };
    let registry = start(RegistryConfig { times, limits, ..config() }).await;
    let at = registry.local_addr();
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ").await.expect("a beginning");
        slow.push(stream);
    }
    for mut stream in slow {
        // A byte now and then doesn't help.
        let drip = async {
            let mut rest = Vec::new();
            let (mut reading, mut writing) = stream.split();
            let dripping = async {
                while writing.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = reading.read_to_end(&mut rest) => rest,
                () = dripping => unreachable!("it waits for ever"),
            }
        };
        let rest = tokio::time::timeout(PATIENCE, drip).await.expect("dropped");
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    until("room for others", async || {
        let Ok(mut stream) = TcpStream::connect(at).await else { return false };
        let request = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && answer.contains("200 OK")
    })
    .await;
}

#[tokio::test]
async fn a_slow_body_is_not_waited_for() {
    let times = Times { request: Duration::from_millis(200), ..Times::default() };
    let registry = start(RegistryConfig { times, ..config() }).await;
    let mut stream = TcpStream::connect(registry.local_addr()).await.expect("a connection");
    let head =
        format!("POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{{", path("announce"));
    stream.write_all(head.as_bytes()).await.expect("a beginning");
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains(r#""code":"timeout""#), "{answer}");
}

#[tokio::test]
async fn connections_are_bounded() {
    // One address takes half of them.
    let limits = Limits { connections: 6, ..config().limits };
    let registry = start(RegistryConfig { limits, ..config() }).await;
    let at = registry.local_addr();
    let mut open = Vec::new();
    for number in 1..=3 {
        let device = identity(number);
        open.push(Socket::greeted(at, &device, &record(&device, 1, |_| {})).await);
    }
    let mut fourth = TcpStream::connect(at).await.expect("the system accepts it");
    let mut nothing = Vec::new();
    // Closed without an answer: with an end or, if bytes were on the way, a reset.
    let read = tokio::time::timeout(PATIENCE, fourth.read_to_end(&mut nothing)).await.expect("closed");
    assert!(read.is_err() || nothing.is_empty());
    open.pop().expect("a socket").close().await;
    until("the place comes back", async || {
        let Ok(mut stream) = TcpStream::connect(at).await else { return false };
        let mut answer = String::new();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        stream.read_to_string(&mut answer).await.is_ok() && answer.contains("200 OK")
    })
    .await;
}

#[tokio::test]
async fn pages_of_other_origins_may_call() {
    let registry = start(config()).await;
    let headers = [("origin", "https://chat.example"), ("access-control-request-method", "POST")];
    let answer = call(registry.local_addr(), "OPTIONS", &path("announce"), &headers, String::new()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let value: Value = get(registry.local_addr(), "/nowhere").await.json();
    assert!(value["error"].is_object());
}

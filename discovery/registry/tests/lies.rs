//! A registry that lies, babbles or says nothing gets nowhere.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::SinkExt;
use peerloom_conformance::discovery::{announce, find, records};
use peerloom_conformance::identity::{Identity, identity, record};
use peerloom_core::kinds::DurationText;
use peerloom_core::wire::{
    DiscoveryItem, DiscoveryKey, NetworkId, PeerRecord, PublishedKeyPackage, ServiceKind, ServiceOffer, Signed, context,
};
use peerloom_core::{Discovery, ErrorKind};
use peerloom_crypto_primitives::SigningKey;
use peerloom_discovery_registry::{RegistryConfig, RegistryDiscovery};
use peerloom_registry_protocol::text::{encode_item, encode_record};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request with the same bytes.
async fn liar(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&answer).await;
                // Until the client has had enough.
                while matches!(stream.read(&mut head).await, Ok(1..)) {}
            });
        }
    });
    at
}

fn json_answer(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn client(at: SocketAddr) -> RegistryDiscovery {
    let cache = DurationText(Duration::from_secs(60));
    let config = RegistryConfig { url: format!("http://{at}"), cache, ..RegistryConfig::default() };
    RegistryDiscovery::new(config, NetworkId::from_name("conformance"), identity(9).signer()).expect("a client")
}

fn device(identity: &Identity, record: &Signed) -> Value {
    let record = encode_record(record);
    json!({"peerId": identity.device.to_string(), "signalAddress": null, "lastSeen": 1, "record": record, "online": true})
}

fn user(devices: &[Value]) -> Vec<u8> {
    json_answer(&json!({"online": true, "devices": devices, "lastCoordinators": []}))
}

#[tokio::test]
async fn false_records_are_passed_over() {
    let (alice, mallory) = (identity(1), identity(2));
    let genuine = record(&alice, 1, &[]);
    let stolen = {
        let (mut content, _) = PeerRecord::open(&genuine, |_, _, _| true).expect("a record");
        content.sequence = 99;
        SigningKey::from_seed(mallory.secret.expose()).sign_object(context::PEER_RECORD, content.encode())
    };
    let elsewhere = {
        let (mut content, _) = PeerRecord::open(&genuine, |_, _, _| true).expect("a record");
        content.network = NetworkId::from_name("other");
        SigningKey::from_seed(alice.secret.expose()).sign_object(context::PEER_RECORD, content.encode())
    };
    let expired = {
        let (mut content, _) = PeerRecord::open(&genuine, |_, _, _| true).expect("a record");
        content.expires_at_ms = 1;
        SigningKey::from_seed(alice.secret.expose()).sign_object(context::PEER_RECORD, content.encode())
    };
    let mut unreadable = device(&alice, &genuine);
    unreadable["record"] = json!("no record at all");
    let lies = [
        device(&alice, &stolen),
        device(&alice, &elsewhere),
        device(&alice, &expired),
        device(&mallory, &genuine),
        // Genuine, but nobody asked for it.
        device(&mallory, &record(&mallory, 1, &[])),
        unreadable,
    ];
    let lying = client(liar(user(&lies)).await);
    assert!(records(&lying, DiscoveryKey::Records(alice.user)).await.expect("an answer").is_empty());
    for lie in &lies {
        let lying = client(liar(json_answer(&json!({"online": true, "device": lie}))).await);
        assert!(records(&lying, DiscoveryKey::Record(alice.device)).await.expect("an answer").is_empty(), "{lie}");
    }

    // Between lies the truth is found, once.
    let truth = device(&alice, &genuine);
    let mut mixed = lies.to_vec();
    mixed.extend([truth.clone(), truth]);
    let mixed = client(liar(user(&mixed)).await);
    assert_eq!(records(&mixed, DiscoveryKey::Records(alice.user)).await.expect("an answer"), [genuine]);
}

/// An answer with these items, each 3 s old.
fn items(items: &[DiscoveryItem]) -> Value {
    let item = |item: &DiscoveryItem| json!({"item": encode_item(item), "ageMs": 3000});
    json!({"items": items.iter().map(item).collect::<Vec<_>>()})
}

#[tokio::test]
async fn false_items_are_passed_over_between_true_ones() {
    let (alice, mallory) = (identity(1), identity(2));
    let package = alice.key_package(b"package");
    let (by_hash, kind) = (DiscoveryKey::KeyPackage(package.hash()), ServiceKind::MAILBOX);
    let service = alice.service(kind, 5);
    let list = DiscoveryItem::of_devices(&alice.devices());
    let resigned = |signed: &Signed, under: &[u8]| mallory.key().sign_object(under, signed.unverified_body().clone());
    let changed = |change: fn(&mut ServiceOffer)| {
        let mut offer = ServiceOffer::open(&service, |_, _, _| true).expect("an offer").0;
        change(&mut offer);
        DiscoveryItem::Service(alice.key().sign_object(context::SERVICE_OFFER, offer.encode()))
    };
    let expired = {
        let mut expired = PublishedKeyPackage::open(&package, |_, _, _| true).expect("a package");
        expired.expires_at_ms = 1;
        alice.key().sign_object(context::KEY_PACKAGE, expired.encode())
    };
    let cases = [
        (
            DiscoveryKey::DeviceList(alice.user),
            list.clone(),
            vec![DiscoveryItem::of_devices(&mallory.devices()), DiscoveryItem::Record(record(&alice, 1, &[]))],
        ),
        (
            by_hash,
            DiscoveryItem::KeyPackage(package.clone()),
            vec![
                DiscoveryItem::KeyPackage(alice.key_package(b"another")),
                DiscoveryItem::KeyPackage(resigned(&package, context::KEY_PACKAGE)),
                list.clone(),
            ],
        ),
        (
            DiscoveryKey::KeyPackage(expired.hash()),
            DiscoveryItem::KeyPackage(package.clone()),
            vec![DiscoveryItem::KeyPackage(expired.clone())],
        ),
        (
            DiscoveryKey::Service(kind),
            DiscoveryItem::Service(service.clone()),
            vec![
                DiscoveryItem::Service(resigned(&service, context::SERVICE_OFFER)),
                DiscoveryItem::Service(alice.service(ServiceKind::COORDINATOR, 5)),
                changed(|offer| offer.network = NetworkId::from_name("other")),
                changed(|offer| offer.expires_at_ms = 1),
            ],
        ),
    ];
    for (key, truth, lies) in cases {
        let lying = client(liar(json_answer(&items(&lies))).await);
        assert!(find(&lying, key).await.expect("an answer").is_empty(), "{key:?}");
        let mut mixed = lies.clone();
        mixed.extend([truth.clone(), truth.clone()]);
        let mut answer = items(&mixed);
        // Not even items: one of a later version, garbage, one that is too long.
        let odd = ["SgEH".to_owned(), "garbage!".into(), "A".repeat(60_000)];
        let odd = odd.map(|text| json!({"item": text, "ageMs": 0}));
        answer["items"].as_array_mut().expect("items").extend(odd);
        let mixed = client(liar(json_answer(&answer)).await);
        let found = find(&mixed, key).await.expect("an answer");
        // Nobody asked for the genuine one under the hash of the expired one.
        let meant = key != DiscoveryKey::KeyPackage(expired.hash());
        assert!(found.iter().all(|found| found.item == truth), "{key:?}");
        assert_eq!(!found.is_empty(), meant, "{key:?}");
        assert!(found.iter().all(|found| found.age >= Duration::from_secs(3) && found.source.contains("registry")));
    }
}

#[tokio::test]
async fn a_flood_of_records_is_bounded() {
    let alice = identity(1);
    // As many as fit, all of them genuine and the same.
    let many = vec![device(&alice, &record(&alice, 1, &[])); 300];
    let flooding = client(liar(user(&many)).await);
    assert_eq!(records(&flooding, DiscoveryKey::Records(alice.user)).await.expect("an answer").len(), 1);
}

#[tokio::test]
async fn babble_is_an_error_and_not_asked_for_again_at_once() {
    let alice = identity(1);
    let huge = [&b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n{\"x\":\""[..], &[b'x'; 400_000]].concat();
    let chunked = [
        &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..],
        &[&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat().repeat(6),
    ]
    .concat();
    let header = [&b"HTTP/1.1 200 OK\r\nx: "[..], &[b'x'; 400_000]].concat();
    for (babble, kind) in [
        (json_answer(&json!({})), ErrorKind::Malformed),
        (json_answer(&json!([1, 2, 3])), ErrorKind::Malformed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xfe\xfd\xfc".to_vec(), ErrorKind::Malformed),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot found".to_vec(), ErrorKind::Malformed),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
            ErrorKind::Malformed,
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), ErrorKind::Unreachable),
        (huge, ErrorKind::TooLarge),
        (chunked, ErrorKind::TooLarge),
        (header, ErrorKind::Unreachable),
    ] {
        let shown = String::from_utf8_lossy(&babble[..babble.len().min(60)]).into_owned();
        let babbling = client(liar(babble).await);
        let error = records(&babbling, DiscoveryKey::Records(alice.user)).await.expect_err(&shown);
        assert_eq!(error.kind(), kind, "{shown}: {error}");
        for _ in 0..50 {
            let _ = records(&babbling, DiscoveryKey::Records(alice.user)).await;
            let _ = records(&babbling, DiscoveryKey::Record(alice.device)).await;
        }
        assert_eq!(babbling.calls(), 1, "{shown}");
    }
}

#[tokio::test]
async fn silence_is_a_failure() {
    // It reads and says nothing.
    let at = liar(Vec::new()).await;
    let alice = identity(1);
    // An engine waits for 5 s.
    let silent = client(at);
    let answer =
        tokio::time::timeout(Duration::from_secs(5), records(&silent, DiscoveryKey::Records(alice.user))).await;
    assert_eq!(answer.expect("in time").map_err(|e| e.kind()), Err(ErrorKind::Timeout));
    assert!(records(&silent, DiscoveryKey::Records(alice.user)).await.expect("what is known").is_empty());
    // Somebody else may wait for less.
    let abandoned = client(at);
    let short =
        tokio::time::timeout(Duration::from_millis(100), records(&abandoned, DiscoveryKey::Records(alice.user))).await;
    assert!(short.is_err());
    for target in [DiscoveryKey::Records(alice.user), DiscoveryKey::Record(alice.device)] {
        let _ = tokio::time::timeout(Duration::from_millis(100), records(&abandoned, target)).await.expect("at once");
    }
    assert_eq!(abandoned.calls(), 1);
}

#[tokio::test]
async fn a_registry_that_wants_a_rest_gets_it() {
    let alice = identity(1);
    let said = r#"{"error":{"code":"overloaded","message":"later","retryAfterMs":600000}}"#;
    let len = said.len();
    let by_itself = format!("HTTP/1.1 503 Service Unavailable\r\ncontent-length: {len}\r\n\r\n{said}");
    let by_its_proxy = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 600\r\ncontent-length: 4\r\n\r\nlate".to_owned();
    for answer in [by_itself, by_its_proxy] {
        let at = liar(answer.clone().into_bytes()).await;
        // Without it a call would be made every few milliseconds.
        let cache = DurationText(Duration::from_millis(1));
        let config = RegistryConfig { url: format!("http://{at}"), cache, ..RegistryConfig::default() };
        let patient = RegistryDiscovery::new(config, NetworkId::from_name("conformance"), identity(9).signer());
        let patient = patient.expect("a client");
        for _ in 0..20 {
            assert!(records(&patient, DiscoveryKey::Records(alice.user)).await.is_err());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(patient.calls(), 1, "{answer}");
    }
}

#[tokio::test]
async fn what_opens_no_socket_holds_nobody_up() {
    let alice = identity(9);
    for babble in [json_answer(&json!({})), b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec(), vec![0; 100_000]] {
        let babbling = client(liar(babble).await);
        announce(&babbling, record(&alice, 1, &[])).await.expect("it is announced once that works");
        let sent = babbling.signaling().expect("signaling").send(identity(1).device, record(&alice, 1, &[])).await;
        assert_eq!(sent.map_err(|e| e.kind()), Err(ErrorKind::Unreachable));
        babbling.shutdown().await;
    }
}

/// Pings that nobody needs, without end: the client answers few, holds little, and ends the connection.
#[tokio::test]
async fn a_registry_that_pings_without_end_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let (ended, mut ends) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let ended = ended.clone();
            tokio::spawn(async move {
                // A client's calls over HTTP end here.
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                let ping = || tokio_tungstenite::tungstenite::Message::Ping(vec![7; 100].into());
                let mut sent = 0_usize;
                while sent < 1_000_000 && socket.feed(ping()).await.is_ok() {
                    sent += 1;
                }
                let _ = ended.send(sent).await;
            });
        }
    });
    let pinged = client(at);
    announce(&pinged, record(&identity(9), 1, &[])).await.expect("it is announced once that works");
    let sent = tokio::time::timeout(Duration::from_secs(60), ends.recv()).await.expect("an end").expect("a number");
    assert!(sent < 1_000_000, "{sent} pings were taken");
    pinged.shutdown().await;
}

//! The WebSocket: who gets in, and what is carried.

mod common;

use std::time::Duration;

use common::*;
use peerloom_conformance::identity::identity;
use peerloom_core::wire::NetworkId;
use peerloom_registry_protocol::limits;
use peerloom_registry_protocol::message::{ClientMessage, ServerMessage};
use peerloom_registry_protocol::proof::challenge_input;
use peerloom_registry_server::{Limits, RegistryConfig, Times};
use serde_json::json;
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn signals_are_carried_between_devices() {
    let registry = start(config()).await;
    let (at, alice, bob, carol) = (registry.local_addr(), identity(1), identity(2), identity(3));
    let mut first = Socket::greeted(at, &alice, &record(&alice, 1, |_| {})).await;
    let mut second = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    assert_eq!(get_in(at, &format!("peer/{}", alice.user)).await.json()["online"], true, "a hello announces");

    first.signal(&bob, "an offer \u{1f600}", Some(7)).await;
    assert_eq!(first.receive().await, Some(ServerMessage::Sent { to: bob.device, id: 7 }));
    let offer = ServerMessage::Signal { from: alice.device, payload: "an offer \u{1f600}".into() };
    assert_eq!(second.receive().await, Some(offer));

    first.signal(&carol, "to nobody", Some(8)).await;
    assert_eq!(first.receive().await, Some(ServerMessage::Absent { to: carol.device, id: Some(8) }));
    first.signal(&carol, "to nobody", None).await;
    assert_eq!(first.receive().await, Some(ServerMessage::Absent { to: carol.device, id: None }));

    // A longest payload, every character of which has to be escaped.
    let long = "\n".repeat(limits::PAYLOAD);
    second.signal(&alice, &long, None).await;
    assert_eq!(first.receive().await, Some(ServerMessage::Signal { from: bob.device, payload: long }));

    second.close().await;
    until("bob is offline", async || {
        let device = get_in(at, &format!("device/{}", bob.device)).await.json();
        assert!(device["device"]["lastSeen"].is_u64());
        first.signal(&bob, "still there?", Some(9)).await;
        let absent = first.receive().await == Some(ServerMessage::Absent { to: bob.device, id: Some(9) });
        absent && device["online"] == false
    })
    .await;
    let user = get_in(at, &format!("peer/{}", bob.user)).await.json();
    assert_eq!(user["online"], false, "what the hello announced doesn't outlive the socket");
    let active = get_in(at, "active-peers").await.json();
    assert_eq!(active["peers"].as_array().map(Vec::len), Some(1), "{active}");
    let figures = get(at, "/metrics").await.text;
    assert!(figures.contains("peerloom_registry_sockets 1"), "{figures}");
    assert!(figures.contains(r#"peerloom_registry_signals_total{outcome="sent"}"#), "{figures}");
    registry.shutdown().await;
    assert!(matches!(first.receive().await, Some(ServerMessage::Error(failure)) if failure.code == "overloaded"));
}

#[tokio::test]
async fn a_hello_proves_who_speaks() {
    let registry = start(config()).await;
    let (at, alice, mallory) = (registry.local_addr(), identity(1), identity(2));
    let signed = record(&alice, 1, |_| {});
    let open = async || Socket::open(at, &alice.device.to_string()).await;

    // Mallory has alice's record, which is public, and signs with its own key.
    let mut socket = open().await;
    let mut hello = socket.hello(&alice, &signed).await;
    hello.signature = sign(&mallory, b"anything");
    socket.send(&ClientMessage::Hello(Box::new(hello.clone()))).await;
    assert_eq!(socket.refusal().await, "badSignature");

    // A signature over another challenge.
    let mut socket = open().await;
    let earlier = open().await.hello(&alice, &signed).await;
    let _ = socket.hello(&alice, &signed).await;
    socket.send(&ClientMessage::Hello(Box::new(earlier))).await;
    assert_eq!(socket.refusal().await, "badSignature");

    // A signature that another registry got for this very challenge.
    let mut socket = open().await;
    let Some(ServerMessage::Challenge { nonce, registry: name, .. }) = socket.receive().await else {
        panic!("no challenge")
    };
    assert_eq!(name, at.to_string());
    hello.signature = sign(&alice, &challenge_input(&nonce, "evil.example", &network(), &alice.device));
    socket.send(&ClientMessage::Hello(Box::new(hello.clone()))).await;
    assert_eq!(socket.refusal().await, "badSignature");

    // Another device's path, another network, a signal before the hello, and no message at all.
    let mut socket = Socket::open(at, &mallory.device.to_string()).await;
    let hello = socket.hello(&alice, &signed).await;
    socket.send(&ClientMessage::Hello(Box::new(hello))).await;
    assert_eq!(socket.refusal().await, "badRecord");
    let mut socket = open().await;
    let mut hello = socket.hello(&alice, &signed).await;
    hello.network = NetworkId::from_name("other");
    socket.send(&ClientMessage::Hello(Box::new(hello))).await;
    assert_eq!(socket.refusal().await, "foreignNetwork");
    for (text, code) in [
        (json!({"type": "signal", "to": alice.device.to_string(), "payload": ""}).to_string(), "unexpected"),
        ("{}".to_owned(), "malformed"),
        ("[".to_owned(), "malformed"),
        (json!({"type": "ready"}).to_string(), "malformed"),
    ] {
        let mut socket = open().await;
        socket.receive().await;
        socket.send_text(text).await;
        assert_eq!(socket.refusal().await, code);
    }
    assert_eq!(get(at, "/healthz").await.json()["devices"], 0);
}

#[tokio::test]
async fn a_challenge_names_what_was_called() {
    let names = vec!["reg.example".into(), "Other.Example:8443".into()];
    let registry = start(RegistryConfig { names, ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    for (host, expected) in
        [("reg.example", "reg.example"), ("OTHER.example:8443", "other.example:8443"), ("evil.example", "reg.example")]
    {
        let stream = tokio::net::TcpStream::connect(at).await.expect("a connection");
        let url = format!("ws://{host}/signal/{}", alice.device);
        let (mut stream, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
        let message = futures_util::StreamExt::next(&mut stream).await.expect("a message").expect("a message");
        let challenge: serde_json::Value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
        assert_eq!(challenge["registry"], expected);
    }
}

#[tokio::test]
async fn a_newer_socket_replaces_the_older() {
    let registry = start(config()).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let signed = record(&alice, 1, |_| {});
    let mut older = Socket::greeted(at, &alice, &signed).await;
    let mut newer = Socket::greeted(at, &alice, &signed).await;
    assert_eq!(older.refusal().await, "replaced");
    let mut other = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    other.signal(&alice, "hello", None).await;
    assert_eq!(newer.receive().await, Some(ServerMessage::Signal { from: bob.device, payload: "hello".into() }));
}

#[tokio::test]
async fn a_socket_that_opened_earlier_replaces_none() {
    let registry = start(config()).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let signed = record(&alice, 1, |_| {});
    // Its hello is late: perhaps it was opened before the device moved.
    let mut older = Socket::open(at, &alice.device.to_string()).await;
    let hello = older.hello(&alice, &signed).await;
    let mut newer = Socket::greeted(at, &alice, &signed).await;
    older.send(&ClientMessage::Hello(Box::new(hello))).await;
    assert_eq!(older.refusal().await, "replaced");
    let mut other = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    other.signal(&alice, "hello", None).await;
    assert_eq!(newer.receive().await, Some(ServerMessage::Signal { from: bob.device, payload: "hello".into() }));
}

#[tokio::test]
async fn networks_are_apart() {
    let registry = start(config()).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let mut first = Socket::greeted(at, &alice, &record(&alice, 1, |_| {})).await;
    let elsewhere = NetworkId::from_name("other");
    let signed = record(&bob, 1, |record| record.network = elsewhere);
    let mut socket = Socket::open(at, &bob.device.to_string()).await;
    let Some(ServerMessage::Challenge { nonce, registry: name, .. }) = socket.receive().await else {
        panic!("no challenge")
    };
    let signature = base64url(&sign(&bob, &challenge_input(&nonce, &name, &elsewhere, &bob.device)));
    let record = base64url(&signed.encode());
    let hello = json!({"type": "hello", "network": elsewhere.to_string(), "record": record, "signature": signature});
    socket.send_text(hello.to_string()).await;
    assert_eq!(socket.receive().await, Some(ServerMessage::Ready {}));
    first.signal(&bob, "can you hear me?", Some(1)).await;
    assert_eq!(first.receive().await, Some(ServerMessage::Absent { to: bob.device, id: Some(1) }));
}

#[tokio::test]
async fn a_flood_is_bounded() {
    // Bob doesn't read; alice may send as fast as she likes.
    let limits = Limits { signals_per_second: 0, queue: 8, ..config().limits };
    let registry = start(RegistryConfig { limits, ..config() }).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let mut first = Socket::greeted(at, &alice, &record(&alice, 1, |_| {})).await;
    let _deaf = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    let payload = "x".repeat(16 * 1024);
    let mut busy = false;
    for id in 0..5000 {
        first.signal(&bob, &payload, Some(id)).await;
        match first.receive().await {
            Some(ServerMessage::Sent { .. }) => {}
            Some(ServerMessage::Busy { id: Some(of), retry_after_ms: None, .. }) if of == id => {
                busy = true;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(busy, "a device that doesn't read has a bounded queue");

    // Alice is too fast for the registry.
    let limits = Limits { signals_per_second: 1, signals_burst: 5, ..config().limits };
    let registry = start(RegistryConfig { limits, ..config() }).await;
    let at = registry.local_addr();
    let mut first = Socket::greeted(at, &alice, &record(&alice, 1, |_| {})).await;
    let _second = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    let too_fast = async |socket: &mut Socket, most| {
        for id in 0..most {
            socket.signal(&bob, "x", Some(id)).await;
            if matches!(socket.receive().await, Some(ServerMessage::Busy { retry_after_ms: Some(_), .. })) {
                return true;
            }
        }
        false
    };
    assert!(too_fast(&mut first, 50).await);
    // Another socket doesn't help: the budget is the device's.
    let mut again = Socket::greeted(at, &alice, &record(&alice, 1, |_| {})).await;
    assert!(too_fast(&mut again, 5).await);
}

#[tokio::test]
async fn a_flood_keeps_nobody_from_speaking() {
    let times = Times { ping: Duration::from_millis(200), silence: Duration::from_millis(1500), ..Times::default() };
    let limits = Limits { signals_per_second: 0, ..config().limits };
    let registry = start(RegistryConfig { limits, times, ..config() }).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let mut victim = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    let mut floods = tokio::task::JoinSet::new();
    for number in 3..6 {
        let flooder = identity(number);
        let mut socket = Socket::greeted(at, &flooder, &record(&flooder, 1, |_| {})).await;
        let bob = identity(2);
        floods.spawn(async move {
            for id in 0.. {
                socket.signal(&bob, "x", Some(id)).await;
                socket.receive().await;
            }
        });
    }
    // Through several silences' time it is heard, and its pongs are.
    let begun = tokio::time::Instant::now();
    let (mut id, mut answered) = (0, 0);
    while begun.elapsed() < Duration::from_secs(4) {
        id += 1;
        victim.signal(&alice, "who's there?", Some(id)).await;
        loop {
            match victim.receive().await {
                Some(ServerMessage::Signal { .. }) => {}
                Some(ServerMessage::Absent { id: Some(of), .. }) if of == id => break,
                other => panic!("{other:?}"),
            }
        }
        answered += 1;
    }
    assert!(answered > 0);
}

#[tokio::test]
async fn too_long_is_too_long() {
    let registry = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let signed = record(&alice, 1, |_| {});
    let mut socket = Socket::greeted(at, &alice, &signed).await;
    socket.signal(&alice, &"x".repeat(limits::PAYLOAD + 1), None).await;
    assert_eq!(socket.refusal().await, "tooLarge");
    // Longer than any message: it isn't even read.
    let mut socket = Socket::greeted(at, &alice, &signed).await;
    socket.send_text("x".repeat(limits::MESSAGE + 1)).await;
    assert_eq!(socket.receive().await, None);
}

/// What costs the registry work and is no message is little: before the hello it ends the socket, later it waits.
#[tokio::test]
async fn pings_are_few() {
    let registry = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let signed = record(&alice, 1, |_| {});
    let mut socket = Socket::open(at, &alice.device.to_string()).await;
    socket.receive().await;
    socket.ping(1000).await;
    assert_eq!(socket.refusal().await, "unexpected");
    let mut socket = Socket::greeted(at, &alice, &signed).await;
    socket.ping(40).await;
    socket.signal(&alice, "after some pings", Some(1)).await;
    let answers = [socket.receive().await, socket.receive().await];
    assert!(answers.contains(&Some(ServerMessage::Sent { to: alice.device, id: 1 })), "{answers:?}");
}

#[tokio::test]
async fn silent_sockets_are_dropped() {
    let times = Times {
        hello: Duration::from_millis(100),
        ping: Duration::from_millis(50),
        silence: Duration::from_millis(200),
        ..Times::default()
    };
    let registry = start(RegistryConfig { times, ..config() }).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let mut socket = Socket::open(at, &alice.device.to_string()).await;
    socket.receive().await;
    assert_eq!(socket.refusal().await, "timeout");

    // One that answers pings stays, one that doesn't read goes.
    let mut lively = Socket::greeted(at, &alice, &record(&alice, 1, |_| {})).await;
    let deaf = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    let gone = async {
        until("bob is dropped", async || {
            let figures = get(at, "/metrics").await.text;
            figures.contains("peerloom_registry_sockets 1\n")
        })
        .await;
    };
    tokio::select! {
        () = gone => {}
        message = lively.receive() => panic!("{message:?}"),
    }
    drop(deaf);
    lively.signal(&bob, "gone", Some(1)).await;
    assert_eq!(lively.receive().await, Some(ServerMessage::Absent { to: bob.device, id: Some(1) }));
}

#[tokio::test]
async fn a_private_network_and_work_hold_for_hellos_too() {
    let networks = [("test".to_owned(), "open-sesame".to_owned())].into();
    let registry = start(RegistryConfig { networks, work_bits: 6, ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let signed = record(&alice, 1, |_| {});
    for (token, work, expected) in [
        (None, true, Some("tokenRequired")),
        (Some("wrong"), true, Some("tokenRequired")),
        (Some("open-sesame"), false, Some("workRequired")),
        (Some("open-sesame"), true, None),
    ] {
        let mut socket = Socket::open(at, &alice.device.to_string()).await;
        let mut hello = socket.hello(&alice, &signed).await;
        hello.token = token.map(str::to_owned);
        hello.work = hello.work.filter(|_| work);
        socket.send(&ClientMessage::Hello(Box::new(hello))).await;
        match expected {
            Some(code) => assert_eq!(socket.refusal().await, code),
            None => assert_eq!(socket.receive().await, Some(ServerMessage::Ready {})),
        }
    }
}

#[tokio::test]
async fn a_stopped_registry_lets_nobody_wait() {
    let registry = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let mut idle = tokio::net::TcpStream::connect(at).await.expect("a connection");
    let mut socket = Socket::open(at, &alice.device.to_string()).await;
    socket.receive().await;
    registry.shutdown().await;
    assert_eq!(socket.refusal().await, "overloaded");
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("closed").ok();
    assert!(tokio::net::TcpStream::connect(at).await.is_err());
}

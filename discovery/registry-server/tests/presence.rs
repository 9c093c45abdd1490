//! Announcing, being found, being forgotten.

mod common;

use std::time::Duration;

use common::*;
use peerloom_conformance::identity::{Identity, identity};
use peerloom_core::wire::DeviceId;
use peerloom_registry_protocol::http::Heartbeat;
use peerloom_registry_protocol::message::{ClientMessage, Hello, ServerMessage};
use peerloom_registry_protocol::proof::heartbeat_input;
use peerloom_registry_protocol::text::encode_record;
use peerloom_registry_server::{RegistryConfig, Times};
use serde_json::{Value, json};

fn heartbeat(name: &str, identity: &Identity, capacity: u32, at_ms: u64) -> Value {
    let mut heartbeat = Heartbeat {
        network_id: network(),
        peer_id: identity.device,
        active_peers: 3,
        capacity,
        at_ms,
        signature: [0; 64],
    };
    heartbeat.signature = sign(identity, &heartbeat_input(name, &heartbeat));
    serde_json::to_value(heartbeat).expect("JSON")
}

#[tokio::test]
async fn an_announced_device_is_found() {
    let registry = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let signed = record(&alice, 1, |_| {});
    let unknown = get_in(at, &format!("peer/{}", alice.user)).await;
    assert_eq!(
        (unknown.status, unknown.json()),
        (200, json!({"online": false, "devices": [], "lastCoordinators": [], "coordinators": []}))
    );
    assert_eq!(get_in(at, &format!("device/{}", alice.device)).await.code(), "notFound");

    let mut body = announcement(&alice, &signed);
    body["signalAddress"] = json!("wss://192.0.2.9/signal");
    let answer = post(at, &format!("/network/{}/announce", network()), &body).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"changed": true})));

    let user = get_in(at, &format!("peer/{}", alice.user)).await.json();
    assert_eq!(user["online"], true);
    let device = &user["devices"][0];
    assert_eq!(device["peerId"], alice.device.to_string());
    assert_eq!(device["record"], encode_record(&signed), "byte for byte");
    assert_eq!(device["signalAddress"], "wss://192.0.2.9/signal");
    assert_eq!(user["coordinators"][0]["peerId"], alice.device.to_string(), "nobody else can help");
    let mut one = get_in(at, &format!("device/{}", alice.device)).await.json();
    assert!(one["device"]["ageMs"].as_u64().is_some_and(|age| age < 60_000), "{one}");
    one["device"]["ageMs"] = device["ageMs"].clone();
    assert_eq!(one, json!({"online": true, "device": device}));

    let active = get_in(at, "active-peers").await.json();
    assert_eq!(active["peers"][0]["userId"], alice.user.to_string());
    assert_eq!(active["peers"][0]["isCoordinator"], false);
    assert_eq!(active.get("next"), None);
    registry.shutdown().await;
}

#[tokio::test]
async fn pages_follow_each_other() {
    let registry = start(config()).await;
    let at = registry.local_addr();
    let mut expected = Vec::new();
    for number in 1..=7 {
        let device = identity(number);
        assert_eq!(announce(at, &device, &record(&device, 1, |_| {})).await.status, 200);
        expected.push(device.device);
    }
    expected.sort();
    let (mut found, mut query) = (Vec::new(), "active-peers?limit=3".to_owned());
    loop {
        let page = get_in(at, &query).await.json();
        let peers = page["peers"].as_array().expect("peers");
        assert!(peers.len() <= 3);
        found.extend(
            peers.iter().map(|peer| peer["peerId"].as_str().expect("an id").parse::<DeviceId>().expect("an id")),
        );
        let Some(next) = page["next"].as_str() else { break };
        query = format!("active-peers?limit=3&after={next}");
    }
    assert_eq!(found, expected);
    for query in ["limit=0", "limit=501", "limit=x", "after=x"] {
        assert_eq!(get_in(at, &format!("active-peers?{query}")).await.code(), "invalidId", "{query}");
    }
}

#[tokio::test]
async fn a_replayed_announcement_says_nothing_new() {
    let registry = start(config()).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let (first, second) = (record(&alice, 1, |_| {}), record(&alice, 2, |_| {}));
    assert_eq!(announce(at, &alice, &second).await.json()["changed"], true);
    let seen = || async { get_in(at, &format!("device/{}", alice.device)).await.json()["device"]["lastSeen"].clone() };
    let before = seen().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut replay = announcement(&alice, &second);
    replay["signalAddress"] = json!("wss://192.0.2.66/");
    let answer = post(at, &format!("/network/{}/announce", network()), &replay).await;
    assert_eq!(answer.json()["changed"], false);
    assert_eq!(seen().await, before);
    let device = get_in(at, &format!("device/{}", alice.device)).await.json();
    assert_eq!(device["device"]["signalAddress"], Value::Null, "a replay redirects nobody");

    let answer = announce(at, &alice, &first).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "outdated"));
    let same_sequence = record(&alice, 2, with_address("quic://192.0.2.2:1"));
    assert_eq!(announce(at, &alice, &same_sequence).await.status, 409);
    assert_eq!(announce(at, &alice, &record(&alice, 3, |_| {})).await.json()["changed"], true);
    assert_ne!(seen().await, before);
}

#[tokio::test]
async fn coordinators_report_themselves() {
    let registry = start(config()).await;
    let at = registry.local_addr();
    let heartbeat = |identity: &Identity, capacity, at_ms| heartbeat(&at.to_string(), identity, capacity, at_ms);
    let (alice, bob, carol) = (identity(1), identity(2), identity(3));
    assert_eq!(post(at, "/coordinator/heartbeat", &heartbeat(&alice, 5, now_ms())).await.status, 404);
    for (number, device) in [&alice, &bob, &carol].into_iter().enumerate() {
        let able = record(device, 1, |record| record.capabilities = number as u64);
        let mut body = announcement(device, &able);
        body["capabilities"] = json!(number);
        assert_eq!(post(at, &format!("/network/{}/announce", network()), &body).await.status, 200);
    }
    let helpers = || async {
        let user = get_in(at, &format!("peer/{}", alice.user)).await.json();
        let helpers = user["coordinators"].as_array().expect("coordinators").clone();
        helpers.iter().map(|helper| (helper["peerId"].clone(), helper["capacity"].clone())).collect::<Vec<_>>()
    };
    let id = |identity: &Identity| json!(identity.device.to_string());
    assert_eq!(
        helpers().await,
        [(id(&carol), Value::Null), (id(&bob), Value::Null), (id(&alice), Value::Null)],
        "the ablest first, where nobody reported"
    );

    let now = now_ms();
    assert_eq!(post(at, "/coordinator/heartbeat", &heartbeat(&alice, 5, now)).await.status, 200);
    assert_eq!(post(at, "/coordinator/heartbeat", &heartbeat(&bob, 50, now)).await.status, 200);
    assert_eq!(helpers().await, [(id(&bob), json!(50)), (id(&alice), json!(5))]);
    // Whoever looks for somebody unknown needs them most.
    let stranger = get_in(at, &format!("peer/{}", identity(9).user)).await.json();
    assert_eq!((&stranger["online"], &stranger["devices"]), (&json!(false), &json!([])));
    assert_eq!(stranger["coordinators"].as_array().map(Vec::len), Some(2));
    let active = get_in(at, "active-peers").await.json();
    let coordinators = active["peers"].as_array().expect("peers").iter().filter(|peer| peer["isCoordinator"] == true);
    assert_eq!(coordinators.count(), 2);

    // Those that saw a user are those that its devices name, and no others.
    let saw = async || {
        let user = get_in(at, &format!("peer/{}", carol.user)).await.json();
        let ids = |list: &Value| {
            list.as_array().expect("coordinators").iter().map(|helper| helper["peerId"].clone()).collect::<Vec<_>>()
        };
        (ids(&user["lastCoordinators"]), ids(&user["coordinators"]))
    };
    assert_eq!(saw().await, (vec![], vec![id(&bob), id(&alice)]));
    let naming = |sequence, coordinators: &[&Identity]| {
        let mut body = announcement(&carol, &record(&carol, sequence, |_| {}));
        body["coordinators"] = coordinators.iter().map(|identity| id(identity)).collect();
        body
    };
    let path = format!("/network/{}/announce", network());
    // Dave is unknown, and no coordinator.
    assert_eq!(post(at, &path, &naming(2, &[&alice, &identity(4)])).await.status, 200);
    assert_eq!(saw().await, (vec![id(&alice)], vec![id(&bob)]));
    // Anybody may replay the record: who announces it so names nobody.
    assert_eq!(post(at, &path, &naming(2, &[&bob])).await.json()["changed"], false);
    assert_eq!(saw().await, (vec![id(&alice)], vec![id(&bob)]));
    let mut socket = Socket::open(at, &carol.device.to_string()).await;
    let hello = socket.hello(&carol, &record(&carol, 2, |_| {})).await;
    socket.send(&ClientMessage::Hello(Box::new(Hello { coordinators: vec![bob.device], ..hello }))).await;
    assert_eq!(socket.receive().await, Some(ServerMessage::Ready {}));
    assert_eq!(saw().await, (vec![id(&bob), id(&alice)], vec![]), "a hello proves who names them, the last one first");
    assert_eq!(post(at, &path, &naming(3, &[&alice; 6])).await.code(), "malformed");

    // Replayed, of another time, and with values that the signature doesn't cover.
    assert_eq!(post(at, "/coordinator/heartbeat", &heartbeat(&bob, 50, now)).await.code(), "outdated");
    assert_eq!(post(at, "/coordinator/heartbeat", &heartbeat(&bob, 50, now - 200_000)).await.code(), "clockSkew");
    assert_eq!(post(at, "/coordinator/heartbeat", &heartbeat(&bob, 50, now + 200_000)).await.code(), "clockSkew");
    let mut inflated = heartbeat(&bob, 50, now + 1);
    inflated["capacity"] = json!(1_000_000);
    assert_eq!(post(at, "/coordinator/heartbeat", &inflated).await.code(), "badSignature");
    // One that another registry got.
    let elsewhere = self::heartbeat("reg.example", &bob, 50, now + 1);
    assert_eq!(post(at, "/coordinator/heartbeat", &elsewhere).await.code(), "badSignature");
}

#[tokio::test]
async fn what_is_not_seen_is_forgotten() {
    let (stale, clean) = (Duration::from_millis(300), Duration::from_millis(50));
    let times = Times { stale, clean, online: Duration::from_millis(200), ..Times::default() };
    let registry = start(RegistryConfig { times, ..config() }).await;
    let (at, alice, bob, carol) = (registry.local_addr(), identity(1), identity(2), identity(3));
    assert_eq!(announce(at, &alice, &record(&alice, 1, |_| {})).await.status, 200);
    let _socket = Socket::greeted(at, &bob, &record(&bob, 1, |_| {})).await;
    let soon = now_ms() + 400;
    let short = record(&carol, 1, |record| record.expires_at_ms = soon);
    let _expiring = Socket::greeted(at, &carol, &short).await;

    let status = |device: &Identity| {
        let path = format!("device/{}", device.device);
        async move { get_in(at, &path).await.status }
    };
    until("alice is forgotten", async || status(&alice).await == 404).await;
    until("carol's record expires", async || status(&carol).await == 404).await;
    let active = get_in(at, "active-peers").await.json();
    assert_eq!(active["peers"].as_array().map(Vec::len), Some(1), "{active}");
    assert_eq!(active["peers"][0]["peerId"], bob.device.to_string(), "who is connected stays");
    // In the store, too.
    until("one device is left", async || get(at, "/healthz").await.json()["devices"] == 1).await;
}

#[tokio::test]
async fn a_forgotten_device_is_not_brought_back_by_a_replay() {
    let (stale, clean) = (Duration::from_millis(100), Duration::from_millis(50));
    let registry = start(RegistryConfig { times: Times { stale, clean, ..Times::default() }, ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    let signed = record(&alice, 5, |_| {});
    let status = || async { get_in(at, &format!("device/{}", alice.device)).await.status };
    assert_eq!(announce(at, &alice, &signed).await.status, 200);
    until("alice is forgotten", async || status().await == 404).await;
    // Anybody may have the record.
    let mut replay = announcement(&alice, &signed);
    replay["signalAddress"] = json!("wss://192.0.2.66/");
    let answer = post(at, &format!("/network/{}/announce", network()), &replay).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"changed": false})));
    assert_eq!(announce(at, &alice, &record(&alice, 4, |_| {})).await.code(), "outdated");
    assert_eq!(status().await, 404);
    // Only alice can prove that she is there.
    let _socket = Socket::greeted(at, &alice, &signed).await;
    let device = get_in(at, &format!("device/{}", alice.device)).await.json();
    assert_eq!((&device["online"], &device["device"]["signalAddress"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn presence_outlives_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = RegistryConfig { store: folder.path().join("registry.sqlite"), ..config() };
    let (alice, registry) = (identity(1), start(config.clone()).await);
    assert_eq!(announce(registry.local_addr(), &alice, &record(&alice, 5, |_| {})).await.status, 200);
    registry.shutdown().await;
    let registry = start(config).await;
    let at = registry.local_addr();
    assert_eq!(get_in(at, &format!("peer/{}", alice.user)).await.json()["online"], true);
    assert_eq!(announce(at, &alice, &record(&alice, 4, |_| {})).await.status, 409, "sequences are remembered");
}

#[tokio::test]
async fn many_announce_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = start(RegistryConfig { store: folder.path().join("registry.sqlite"), ..config() }).await;
    let at = registry.local_addr();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..64u8 {
        tasks.spawn(async move {
            let device = identity(number);
            for sequence in 1..=3 {
                assert_eq!(announce(at, &device, &record(&device, sequence, |_| {})).await.status, 200);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("announced");
    }
    assert_eq!(get(at, "/healthz").await.json()["devices"], 64);
    let figures = get(at, "/metrics").await.text;
    assert!(figures.contains(r#"peerloom_registry_announces_total{outcome="stored"} 192"#), "{figures}");
    assert!(figures.contains("peerloom_registry_devices 64"), "{figures}");
}

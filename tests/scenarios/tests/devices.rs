//! Users with several devices: contacts learn of them by certificates and lists, and stop at revoked ones.

#[path = "common/engines.rs"]
mod engines;

use std::sync::Arc;

use bytes::Bytes;
use engines::{config, engine, eventually, meet, network, send, texts, transport, until};
use peerloom_conformance::identity::{device_of, identity};
use peerloom_core::ErrorKind;
use peerloom_core::memory::{MemoryCrypto, MemoryNetwork, MemoryStorage};
use peerloom_engine::{Cursor, Engine, Event, Layers};

/// The second device of the user of identity 2: number 22.
async fn second_device(links: &MemoryNetwork) -> Engine {
    let made = device_of(2, 22);
    let layers = Layers {
        transports: vec![Arc::new(transport(22, links))],
        discoveries: Vec::new(),
        storage: Arc::new(MemoryStorage::new()),
        cryptos: vec![Arc::new(MemoryCrypto::new(made.device))],
        identity: made.stored_without_user_key(22, network()),
    };
    let engine = Engine::open(layers, config()).await.expect("an engine");
    engine.start().await.expect("a network");
    engine
}

async fn device_count(engine: &Engine, of: &Engine) -> usize {
    engine.contacts().iter().filter(|c| c.user == of.user()).flat_map(|c| &c.devices).count()
}

/// A contact's new device is let in by what another device of the contact shows, and gets what is sent from then on. A
/// revoked one gets nothing more, and hears why.
#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_contact_come_and_go() {
    let links = MemoryNetwork::default();
    let alice = engine(1, &links, Arc::new(MemoryStorage::new()), false).await;
    let bob = engine(2, &links, Arc::new(MemoryStorage::new()), false).await;
    let contact = meet(&bob, &alice).await;
    send(&alice, &contact, "to one").await.expect("accepted");
    eventually("the first", &bob, &["to one"]).await;
    let mut events = alice.events(alice.now().await.expect("a place"));

    let tablet = second_device(&links).await;
    bob.add_device(device_of(2, 22).certificate).await.expect("added");
    until("alice to know both devices", async || device_count(&alice, &bob).await == 2).await;
    // The new device has the contact from its user, here by an invitation; nobody invited the device itself.
    let alice_there = meet(&alice, &tablet).await;
    send(&alice, &contact, "to both").await.expect("accepted");
    eventually("both at the first device", &bob, &["to one", "to both"]).await;
    eventually("the second at the new one", &tablet, &["to both"]).await;
    send(&tablet, &alice_there, "from the tablet").await.expect("accepted");
    eventually("an answer", &alice, &["from the tablet"]).await;

    assert_eq!(tablet.revoke_devices(vec![bob.device()]).await.map_err(|e| e.kind()), Err(ErrorKind::Refused));
    bob.revoke_devices(vec![tablet.device()]).await.expect("revoked");
    until("alice to know one device", async || device_count(&alice, &bob).await == 1).await;
    send(&alice, &contact, "to one again").await.expect("accepted");
    eventually("all at the first device", &bob, &["to one", "to both", "to one again"]).await;
    until("the tablet to hear why", async || {
        tablet.peers().iter().any(|peer| peer.reason.as_deref().is_some_and(|why| why.contains("revoked this device")))
    })
    .await;
    assert_eq!(texts(&tablet).await, ["to both"]);
    assert_eq!(alice.queue().await.expect("a queue"), []);
    let mut changes = Vec::new();
    while changes.len() < 2 {
        if let Some(Event::DevicesChanged { user, new, gone }) = events.next().await {
            changes.push((user, new, gone));
        }
    }
    let (user, tablet_id) = (bob.user(), tablet.device());
    assert_eq!(changes, [(user, vec![tablet_id], vec![]), (user, vec![], vec![tablet_id])]);
}

/// A revocation is for good: neither a restart nor an older list nor the device's own certificate brings it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_stays_revoked() {
    let links = MemoryNetwork::default();
    let store = Arc::new(MemoryStorage::new());
    let alice = engine(1, &links, store.clone(), false).await;
    let bob = engine(2, &links, Arc::new(MemoryStorage::new()), false).await;
    let contact = meet(&bob, &alice).await;
    bob.add_device(device_of(2, 22).certificate).await.expect("added");
    until("alice to know both devices", async || device_count(&alice, &bob).await == 2).await;
    bob.revoke_devices(vec![device_of(2, 22).device]).await.expect("revoked");
    until("alice to know one device", async || device_count(&alice, &bob).await == 1).await;
    assert_eq!(bob.devices().await.expect("devices").len(), 1);
    let again = bob.revoke_devices(vec![device_of(2, 22).device]).await;
    assert_eq!(again.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    // Its certificate is as good as ever, by itself.
    let added = bob.add_device(device_of(2, 22).certificate).await;
    assert_eq!(added.map_err(|e| e.kind()), Err(ErrorKind::Refused));
    alice.shutdown().await;

    let alice = engine(1, &links, store, false).await;
    let tablet = second_device(&links).await;
    meet(&alice, &tablet).await;
    until("the tablet to hear why", async || {
        tablet.peers().iter().any(|peer| peer.reason.as_deref().is_some_and(|why| why.contains("revoked this device")))
    })
    .await;
    // Nor does an invitation of the device itself.
    let invitation = tablet.invite(std::time::Duration::from_secs(60), 1).await.expect("an invitation");
    assert_eq!(alice.add_contact(invitation).await.map_err(|e| e.kind()), Err(ErrorKind::Refused));
    assert_eq!(device_count(&alice, &bob).await, 1);
    send(&alice, &contact, "to one").await.expect("accepted");
    eventually("the first device", &bob, &["to one"]).await;
}

/// As many devices as may be certified in time come and go: their revocations don't fill the list.
#[tokio::test(flavor = "multi_thread")]
async fn devices_are_revoked_one_by_one_for_long() {
    let links = MemoryNetwork::default();
    let alice = engine(1, &links, Arc::new(MemoryStorage::new()), false).await;
    let bob = engine(2, &links, Arc::new(MemoryStorage::new()), false).await;
    let contact = meet(&bob, &alice).await;
    for number in 100..140 {
        bob.add_device(device_of(2, number).certificate).await.expect("added");
        until("alice to know it", async || device_count(&alice, &bob).await == 2).await;
        bob.revoke_devices(vec![device_of(2, number).device]).await.expect("revoked");
        until("alice to know one device", async || device_count(&alice, &bob).await == 1).await;
    }
    // Seventeen at a time are one too many.
    for number in 1..=15 {
        bob.add_device(device_of(2, 140 + number).certificate).await.expect("added");
    }
    let seventeenth = bob.add_device(device_of(2, 160).certificate).await;
    assert_eq!(seventeenth.map_err(|e| e.kind()), Err(ErrorKind::Refused));
    until("alice to know sixteen", async || device_count(&alice, &bob).await == 16).await;
    send(&alice, &contact, "to the only one that is there").await.expect("accepted");
    eventually("the message", &bob, &["to the only one that is there"]).await;
}

/// An identity without its user's key works, and revokes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_the_users_key_works() {
    let links = MemoryNetwork::default();
    let alice = engine(1, &links, Arc::new(MemoryStorage::new()), false).await;
    let tablet = second_device(&links).await;
    let bob = meet(&tablet, &alice).await;
    assert_eq!(bob.user, identity(2).user);
    alice
        .send(alice.direct_with(&bob.user), String::new(), Bytes::from_static(b"hello"), None)
        .await
        .expect("accepted");
    eventually("the message", &tablet, &["hello"]).await;
    let revoked = tablet.revoke_devices(vec![identity(7).device]).await;
    assert_eq!(revoked.map_err(|e| e.kind()), Err(ErrorKind::Refused));
    assert_eq!(tablet.messages_after(Cursor::START, 10).await.expect("messages").len(), 1);
}

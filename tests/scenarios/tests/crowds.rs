//! Crowds at a node's door, over real sockets: known devices are never locked out by unknown ones, and a
//! contact that dials without end gets few links.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::stranger::{hello, network, prove};
use futures_util::{FutureExt, SinkExt};
use peerloom_conformance::identity::identity;
use peerloom_conformance::tcp::Tcp;
use peerloom_core::memory::{MemoryCrypto, MemoryStorage};
use peerloom_core::wire::{Address, Verdict};
use peerloom_core::{Channel, ChannelClass, Link, Transport};
use peerloom_engine::{Cursor, Engine, EngineConfig, Layers};
use peerloom_secured::Secured;
use peerloom_transport_quic::{QuicConfig, QuicTransport};
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Quic,
    Tcp,
}

/// The transport of an identity at an address of this machine.
fn transport(kind: Kind, number: u8, ip: IpAddr) -> Arc<dyn Transport> {
    let secret = identity(number).secret;
    match kind {
        Kind::Quic => {
            let config = QuicConfig { listen: format!("{ip}:0"), ..QuicConfig::default() };
            Arc::new(QuicTransport::new(config, &secret).expect("a transport"))
        }
        Kind::Tcp => Arc::new(Secured::new(Arc::new(Tcp(ip)), &secret).expect("a transport")),
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn node(kind: Kind, number: u8, storage: &MemoryStorage) -> Engine {
    let made = identity(number);
    let layers = Layers {
        transports: vec![transport(kind, number, HERE)],
        discoveries: Vec::new(),
        storage: Arc::new(storage.clone()),
        cryptos: vec![Arc::new(MemoryCrypto::new(made.device))],
        identity: made.stored(number, network()),
    };
    let engine = Engine::open(layers, EngineConfig::new(network())).await.expect("an engine");
    engine.start().await.expect("a network");
    engine
}

async fn address(engine: &Engine) -> Address {
    engine.addresses().await.first().cloned().expect("an address")
}

/// Waits for a message from `sender` at `receiver`.
async fn speaks(sender: &Engine, receiver: &Engine, text: &'static str) {
    let contact = sender.contacts().first().cloned().expect("a contact");
    sender
        .send(sender.direct_with(&contact.user), String::new(), Bytes::from_static(text.as_bytes()), None)
        .await
        .expect("accepted");
    let begin = Instant::now();
    loop {
        let messages = receiver.messages_after(Cursor::START, 100).await.expect("messages");
        if messages.iter().any(|m| m.text() == Some(text)) {
            return;
        }
        assert!(begin.elapsed() < common::PATIENCE, "`{text}` never arrived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Holds a link without a word, or after half a handshake; makes it again when it is lost.
async fn linger(dialer: Arc<dyn Transport>, number: u8, door: Address, slow: bool) {
    let who = identity(number);
    loop {
        if let Ok(link) = dialer.dial(&door, None, None).await {
            let _control = if slow {
                let mut control = link.open(ChannelClass::Control).await.ok();
                if let Some(control) = &mut control {
                    let _ = control.sender.send(hello(&who).encode()).await;
                }
                control
            } else {
                None
            };
            link.closed().await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// 90 from one address, and 48 from as many others.
async fn crowd(kind: Kind, door: &Address) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for number in 100..106 {
        let dialer = transport(kind, number, HERE);
        for place in 0..15 {
            crowd.spawn(linger(dialer.clone(), number, door.clone(), place % 3 == 0));
        }
    }
    for place in 0..48 {
        let ip = Ipv4Addr::new(127, 0, 1, place);
        let number = 110 + place % 8;
        crowd.spawn(linger(transport(kind, number, ip.into()), number, door.clone(), place % 3 == 0));
    }
    // Until the places are fought for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    crowd
}

async fn known_devices_get_past_a_crowd(kind: Kind) {
    let alice = node(kind, 1, &MemoryStorage::new()).await;
    let store = MemoryStorage::new();
    let friend = node(kind, 3, &store).await;
    friend.add_contact(alice.invite(Duration::from_secs(600), 1).await.expect("an invitation")).await.expect("added");
    speaks(&friend, &alice, "before the crowd").await;
    friend.shutdown().await;

    let invitation = alice.invite(Duration::from_secs(600), 1).await.expect("an invitation");
    let mut crowd = crowd(kind, &address(&alice).await).await;
    let friend = node(kind, 3, &store).await;
    speaks(&friend, &alice, "known").await;
    let invited = node(kind, 2, &MemoryStorage::new()).await;
    invited.add_contact(invitation).await.expect("a contact");
    speaks(&invited, &alice, "invited").await;
    assert!(crowd.try_join_next().is_none(), "the crowd was there all the time");
    assert_eq!(alice.contacts().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn known_devices_get_past_a_crowd_over_quic() {
    known_devices_get_past_a_crowd(Kind::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn known_devices_get_past_a_crowd_over_secured_tcp() {
    known_devices_get_past_a_crowd(Kind::Tcp).await;
}

/// A link to a node as a contact, and its control and chat channels; the node may close it at any moment.
async fn contact(
    dialer: &dyn Transport,
    door: &Address,
    token: Option<[u8; 16]>,
) -> Option<(Arc<dyn Link>, Channel, Channel)> {
    let who = identity(66);
    let link = dialer.dial(door, None, None).await.ok()?;
    let mut control = link.open(ChannelClass::Control).await.ok()?;
    if control.sender.send(hello(&who).encode()).await.is_err() {
        return None;
    }
    let verdict = prove(&link, &mut control, &who, &hello(&who), token).await?;
    assert_eq!(verdict, Verdict::Accepted);
    let chat = link.open(ChannelClass::Chat).await.ok()?;
    Some((link, control, chat))
}

/// A contact's link that is filled, and never closed.
async fn as_contact(dialer: &dyn Transport, door: &Address, token: Option<[u8; 16]>) -> Option<Arc<dyn Link>> {
    let (link, control, mut chat) = contact(dialer, door, token).await?;
    // More channels than anybody expects, and more on each than anybody reads.
    tokio::spawn({
        let link = link.clone();
        async move {
            let frame = Bytes::from(vec![0xff; 60 * 1024]);
            let mut floods = JoinSet::new();
            for _ in 0..8 {
                let (link, frame) = (link.clone(), frame.clone());
                floods.spawn(async move {
                    if let Ok(mut bulk) = link.open(ChannelClass::Bulk).await {
                        while bulk.sender.send(frame.clone()).await.is_ok() {}
                    }
                });
            }
            link.closed().await;
            let _ = chat.sender.close().await;
            drop(control);
        }
    });
    Some(link)
}

async fn a_contact_that_redials_keeps_few_links(kind: Kind) {
    let alice = node(kind, 1, &MemoryStorage::new()).await;
    let door = address(&alice).await;
    let token = alice.invite(Duration::from_secs(600), 1).await.expect("an invitation").token;
    let dialer = transport(kind, 66, HERE);
    let mut links = vec![as_contact(&*dialer, &door, Some(token)).await.expect("the first link")];
    let mut made = 1;
    for _ in 0..10 {
        let mut dials = JoinSet::new();
        for _ in 0..10 {
            let (dialer, door) = (dialer.clone(), door.clone());
            dials.spawn(async move { as_contact(&*dialer, &door, None).await });
        }
        while let Some(link) = dials.join_next().await {
            links.extend(link.expect("no panic"));
            made += 1;
        }
        // Never more than may be registered and in their handshakes, once the closing ones had their moment.
        let begin = Instant::now();
        loop {
            let mut open = 0;
            for link in &links {
                let closed = tokio::time::timeout(Duration::from_millis(1), link.closed()).await;
                open += usize::from(closed.is_err());
            }
            if open <= 3 {
                break;
            }
            assert!(begin.elapsed() < common::PATIENCE, "{open} of {made} links stay open");
        }
    }
    assert_eq!(alice.contacts().len(), 1);
    // Others are served meanwhile.
    let bob = node(kind, 2, &MemoryStorage::new()).await;
    bob.add_contact(alice.invite(Duration::from_secs(60), 1).await.expect("an invitation")).await.expect("a contact");
    speaks(&bob, &alice, "served").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_that_redials_keeps_few_links_over_quic() {
    a_contact_that_redials_keeps_few_links(Kind::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_that_redials_keeps_few_links_over_secured_tcp() {
    a_contact_that_redials_keeps_few_links(Kind::Tcp).await;
}

/// Nobody would read them: each is refused at once, and too many end the link.
async fn channels_that_nobody_expects_are_refused(kind: Kind) {
    let alice = node(kind, 1, &MemoryStorage::new()).await;
    let door = address(&alice).await;
    let token = alice.invite(Duration::from_secs(600), 1).await.expect("an invitation").token;
    let dialer = transport(kind, 66, HERE);
    let (link, _control, _chat) = contact(&*dialer, &door, Some(token)).await.expect("a link");
    let frame = Bytes::from(vec![0xff; 60 * 1024]);
    // As long as it takes to hear of the refusal.
    let refused = async |class| {
        let mut channel = link.open(class).await.ok()?;
        while channel.sender.send(frame.clone()).await.is_ok() {}
        Some(())
    };
    for class in [ChannelClass::Bulk, ChannelClass::Chat, ChannelClass::Control] {
        let end = tokio::time::timeout(common::PATIENCE, refused(class)).await;
        assert!(end.is_ok(), "a second {class:?} channel isn't refused");
        assert!(link.closed().now_or_never().is_none(), "one is no reason to end the link");
    }
    let many = async { while refused(ChannelClass::Bulk).await.is_some() {} };
    assert!(tokio::time::timeout(common::PATIENCE, many).await.is_ok(), "any number of channels may be opened");
    assert!(tokio::time::timeout(common::PATIENCE, link.closed()).await.is_ok());
    assert!(alice.refused() >= 16, "{} were counted", alice.refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_nobody_expects_are_refused_over_quic() {
    channels_that_nobody_expects_are_refused(Kind::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_nobody_expects_are_refused_over_secured_tcp() {
    channels_that_nobody_expects_are_refused(Kind::Tcp).await;
}

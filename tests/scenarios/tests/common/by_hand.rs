//! A node over a network in memory, and a contact of it that is played by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerloom_conformance::identity::{Identity, identity};
use peerloom_core::memory::{MemoryCrypto, MemoryNetwork, MemoryStorage, MemoryTransport};
use peerloom_core::wire::{
    Address, ConversationId, Envelope, Frame, Header, Held, KeyPackage, Stated, Statement, Verdict,
};
use peerloom_core::{Channel, ChannelClass, Link, Transport};
use peerloom_engine::{Cursor, Engine, EngineConfig, Layers};

use super::stranger::{greet, hear, hello, key, network, say};

pub async fn node(number: u8, links: &MemoryNetwork) -> Engine {
    node_on(MemoryStorage::new(), number, links).await
}

pub async fn node_on(storage: MemoryStorage, number: u8, links: &MemoryNetwork) -> Engine {
    let made = identity(number);
    let layers = Layers {
        transports: vec![Arc::new(MemoryTransport::new(links, address(number), made.key.clone()))],
        discoveries: Vec::new(),
        storage: Arc::new(storage),
        cryptos: vec![Arc::new(MemoryCrypto::new(made.device))],
        identity: made.stored(number, network()),
    };
    let engine = Engine::open(layers, EngineConfig::new(network())).await.expect("an engine");
    engine.start().await.expect("a network");
    engine
}

pub fn address(number: u8) -> Address {
    format!("memory://{number}").parse().expect("an address")
}

/// A link by hand from an identity to node 1, and its control channel.
pub async fn knock(links: &MemoryNetwork, who: &Identity) -> (Arc<dyn Link>, Channel) {
    let transport = MemoryTransport::new(links, address(200), who.key.clone());
    let link = transport.dial(&address(1), None, None).await.expect("a link");
    let control = link.open(ChannelClass::Control).await.expect("a channel");
    (link, control)
}

pub async fn refused_grows(engine: &Engine, before: u64) {
    let begin = Instant::now();
    while engine.refused() <= before {
        assert!(begin.elapsed() < Duration::from_secs(15), "nothing was counted as refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The token of an invitation of a node.
pub async fn open_invitation(engine: &Engine) -> [u8; 16] {
    engine.invite(Duration::from_secs(60), 1).await.expect("an invitation").token
}

/// A contact by invitation, played by hand.
pub async fn befriend(links: &MemoryNetwork, alice: &Engine, who: &Identity) -> (Arc<dyn Link>, Channel, Channel) {
    let token = open_invitation(alice).await;
    let (link, mut control) = knock(links, who).await;
    let verdict = greet(&link, &mut control, who, &hello(who), Some(token)).await;
    assert_eq!(verdict, Some(Verdict::Accepted));
    let chat = link.open(ChannelClass::Chat).await.expect("a channel");
    (link, control, chat)
}

/// Another link from a contact. The node closes one too many, so that takes some attempts.
pub async fn again(links: &MemoryNetwork, who: &Identity) -> (Arc<dyn Link>, Channel, Channel) {
    let begin = Instant::now();
    loop {
        let (link, mut control) = knock(links, who).await;
        let verdict = greet(&link, &mut control, who, &hello(who), None).await;
        if verdict == Some(Verdict::Accepted)
            && let Ok(chat) = link.open(ChannelClass::Chat).await
        {
            return (link, control, chat);
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "no further link: {verdict:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a device shows that holds nothing of our log.
pub fn nothing_held(conversation: ConversationId) -> Bytes {
    Frame::held(Held { conversation, header: None, time_ms: 0, ack: None, acknowledged: None }).encode()
}

/// Hears until an entry comes, or the link ends.
pub async fn an_entry_comes(chat: &mut Channel) -> bool {
    while let Some(frame) = hear(chat).await {
        if matches!(Frame::decode(frame), Ok(Some(Frame::Envelope(_)))) {
            return true;
        }
    }
    false
}

/// A contact, played by hand, to which the node sends an entry that is never acknowledged.
pub async fn await_entry(
    links: &MemoryNetwork,
    alice: &Engine,
    mallory: &Identity,
) -> (Arc<dyn Link>, Channel, Channel) {
    let conversation = ConversationId::direct(&network(), &mallory.user, &identity(1).user);
    let (link, mut control, mut chat) = befriend(links, alice, mallory).await;
    say(&mut control, nothing_held(conversation)).await;
    let package = Bytes::copy_from_slice(mallory.device.as_bytes());
    let package = KeyPackage { suite: MemoryCrypto::SUITE, conversation, package };
    say(&mut control, Frame::KeyPackage(package).encode()).await;
    assert!(an_entry_comes(&mut chat).await, "nothing is sent to a contact that shows what it holds");
    (link, control, chat)
}

pub fn signed<T: Statement>(by: &Identity, statement: T) -> Stated<T> {
    Stated::sign(statement, |message| key(by).sign(message))
}

pub fn forged<T: Statement>(statement: T) -> Stated<T> {
    Stated::sign(statement, |_| Bytes::from_static(&[7; 64]))
}

pub async fn still_works(links: &MemoryNetwork, alice: &Engine) {
    let bob = node(2, links).await;
    let invitation = alice.invite(Duration::from_secs(60), 1).await.expect("an invitation");
    let contact = bob.add_contact(invitation).await.expect("a contact");
    bob.send(bob.direct_with(&contact.user), String::new(), Bytes::from_static(b"still here"), None)
        .await
        .expect("accepted");
    let begin = Instant::now();
    loop {
        let messages = alice.messages_after(Cursor::START, 100).await.expect("messages");
        if messages.iter().any(|m| m.text() == Some("still here")) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "the node doesn't work any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An entry as its owner signs it: the part is the welcome of a device that joins, else the payload.
pub fn sealed(header: Header, part: Bytes, by: &Identity) -> Envelope {
    let (payload, welcome) = if header.joins.is_empty() { (part, Bytes::new()) } else { (Bytes::new(), part) };
    let header = header.sign_parts(&payload, &welcome, |message| key(by).sign(message));
    Envelope { header, payload, welcome, hops: 0 }
}

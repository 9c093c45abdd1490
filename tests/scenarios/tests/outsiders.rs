//! What those get who have no business with something: strangers without an invitation, contacts in others'
//! conversations, discoveries that speak of devices.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::stranger::{greet, hear, hello, key, network, say};
use peerloom_conformance::discovery::announce;
use peerloom_conformance::identity::{Identity, identity, record};
use peerloom_core::memory::{
    MemoryCrypto, MemoryDirectory, MemoryDiscovery, MemoryNetwork, MemoryStorage, MemoryTransport,
};
use peerloom_core::storage::scan_all;
use peerloom_core::wire::store::TABLES;
use peerloom_core::wire::{
    Address, ConversationId, Frame, KeyPackage, KeyPackageRequest, PeerRecord, Refusal, Verdict, context,
};
use peerloom_core::{Channel, ChannelClass, KeyRange, Link, Listener, Storage, Transport};
use peerloom_engine::{Engine, EngineConfig, Layers};

/// Node 1, and what it stands on.
struct Alice {
    engine: Engine,
    storage: MemoryStorage,
    links: MemoryNetwork,
    directory: MemoryDirectory,
}

impl Alice {
    async fn start() -> Self {
        let made = identity(1);
        let (storage, links, directory) = (MemoryStorage::new(), MemoryNetwork::default(), MemoryDirectory::default());
        let layers = Layers {
            transports: vec![Arc::new(MemoryTransport::new(&links, address("alice"), made.key.clone()))],
            discoveries: vec![Arc::new(MemoryDiscovery::new(&directory))],
            storage: Arc::new(storage.clone()),
            cryptos: vec![Arc::new(MemoryCrypto::new(made.device))],
            identity: made.stored(1, network()),
        };
        let engine = Engine::open(layers, EngineConfig::new(network())).await.expect("an engine");
        engine.start().await.expect("a network");
        Self { engine, storage, links, directory }
    }

    async fn token(&self, lifetime: Duration, uses: u32) -> [u8; 16] {
        self.engine.invite(lifetime, uses).await.expect("an invitation").token
    }

    /// A device knocks by hand, with a token.
    async fn knock(&self, who: &Identity, token: [u8; 16]) -> (Arc<dyn Link>, Channel, Option<Verdict>) {
        let transport = MemoryTransport::new(&self.links, address("somewhere"), who.key.clone());
        let link = transport.dial(&address("alice"), None, None).await.expect("a link");
        let mut control = link.open(ChannelClass::Control).await.expect("a channel");
        let verdict = greet(&link, &mut control, who, &hello(who), Some(token)).await;
        (link, control, verdict)
    }

    async fn verdict(&self, number: u8, token: [u8; 16]) -> Option<Verdict> {
        self.knock(&identity(number), token).await.2
    }
}

fn address(name: &str) -> Address {
    format!("memory://{name}").parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_lets_in_as_many_as_it_says_until_it_expires() {
    let refused = Some(Verdict::Refused(Refusal::NotAContact));
    let alice = Alice::start().await;
    let token = alice.token(Duration::from_secs(600), 2).await;
    for (number, expected) in [(50, Some(Verdict::Accepted)), (51, Some(Verdict::Accepted)), (52, refused.clone())] {
        assert_eq!(alice.verdict(number, token).await, expected, "{number}");
    }
    // Not for others, and not for longer.
    let mut other = alice.token(Duration::from_secs(600), 1).await;
    other[15] ^= 1;
    assert_eq!(alice.verdict(53, other).await, refused);
    let brief = alice.token(Duration::from_millis(1), 1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(alice.verdict(54, brief).await, refused);
    // A thief of the store has no token: their hashes alone are there.
    let kept = alice.token(Duration::from_secs(600), 1).await;
    let snapshot = alice.storage.snapshot().expect("a snapshot");
    let mut rows = 0;
    for table in TABLES {
        let each = |row: peerloom_core::Row| {
            rows += 1;
            let holds = |bytes: &[u8]| bytes.windows(16).any(|window| window == kept);
            assert!(!holds(&row.key) && !holds(&row.value), "a token stands in {}", table.name);
            Ok(())
        };
        scan_all(&*snapshot, table, KeyRange::all(), each).expect("rows");
    }
    assert!(rows > 3);
    assert_eq!(alice.verdict(55, kept).await, Some(Verdict::Accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_gets_nothing_of_others_conversations() {
    let alice = Alice::start().await;
    let (bob, mallory, own) = (identity(50), identity(66), identity(1));
    let token = alice.token(Duration::from_secs(600), 2).await;
    assert_eq!(alice.verdict(50, token).await, Some(Verdict::Accepted));
    let (link, mut control, verdict) = alice.knock(&mallory, token).await;
    assert_eq!(verdict, Some(Verdict::Accepted));
    let _chat = link.open(ChannelClass::Chat).await.expect("a channel");
    let theirs = ConversationId::direct(&network(), &bob.user, &own.user);
    let ours = ConversationId::direct(&network(), &mallory.user, &own.user);
    let suite = MemoryCrypto::SUITE;
    for conversation in [theirs, ConversationId::from_bytes([9; 32]), ours] {
        let package = KeyPackage { suite, conversation, package: Bytes::from_static(b"mine, in place of bob's") };
        say(&mut control, Frame::KeyPackage(package).encode()).await;
        say(&mut control, Frame::KeyPackageRequest(KeyPackageRequest { suite, conversation }).encode()).await;
    }
    // Answers come in the order of the questions: the first one is for her own conversation.
    let answered = loop {
        let frame = Frame::decode(hear(&mut control).await.expect("a frame")).expect("a good frame");
        if let Some(Frame::KeyPackage(package)) = frame {
            break package.conversation;
        }
    };
    assert_eq!(answered, ours);
}

/// A place where a dial would be seen.
async fn trap(links: &MemoryNetwork, name: &str, who: &Identity) -> (MemoryTransport, Box<dyn Listener>) {
    let transport = MemoryTransport::new(links, address(name), who.key.clone());
    let listener = transport.listen(None).await.expect("a listener");
    (transport, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_makes_a_node_dial_contacts_alone_and_where_they_say() {
    let alice = Alice::start().await;
    let (bob, mallory) = (identity(50), identity(66));
    let token = alice.token(Duration::from_secs(600), 1).await;
    assert_eq!(alice.verdict(50, token).await, Some(Verdict::Accepted));
    let (_first, mut foreign) = trap(&alice.links, "foreign", &mallory).await;
    let (_second, mut forged) = trap(&alice.links, "forged", &mallory).await;
    let (_third, mut true_one) = trap(&alice.links, "true", &bob).await;

    let lies = MemoryDiscovery::new(&alice.directory);
    announce(&lies, record(&mallory, 9, &[address("foreign")])).await.expect("an announcement");
    let in_bobs_name = PeerRecord {
        versions: (1, 1),
        network: network(),
        certificate: bob.certificate.clone(),
        addresses: vec![address("forged")],
        capabilities: 0,
        suites: Vec::new(),
        key_packages: Vec::new(),
        sequence: 9,
        expires_at_ms: u64::MAX,
    };
    let in_bobs_name = key(&mallory).sign_object(context::PEER_RECORD, in_bobs_name.encode());
    announce(&lies, in_bobs_name).await.expect("an announcement");
    announce(&lies, record(&bob, 3, &[address("true")])).await.expect("an announcement");
    let dialed = tokio::time::timeout(common::PATIENCE, true_one.accept()).await;
    assert!(dialed.expect("a dial").is_some(), "where bob says that he is");
    // What was said before came to nothing.
    for trap in [&mut foreign, &mut forged] {
        assert!(tokio::time::timeout(Duration::from_millis(300), trap.accept()).await.is_err());
    }
}

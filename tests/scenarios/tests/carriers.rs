//! What a carrier of a contact's entries and receipts may do with them: what it replays, reorders, swaps and forges changes
//! nothing in the store of the device that they are for.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::by_hand::{address, knock};
use common::stranger::{greet, hello, key, network};
use futures_util::SinkExt;
use peerloom_conformance::identity::{Identity, identity};
use peerloom_core::memory::{MemoryNetwork, MemoryStorage, MemoryTransport};
use peerloom_core::storage::scan_all;
use peerloom_core::wire::store::{CONTACTS, META, TABLES};
use peerloom_core::wire::{Address, Frame, Hello, PublicKey, Signed, SignedHeader, Stated, Verdict};
use peerloom_core::{
    Channel, ChannelClass, DeviceSecret, KeyRange, Link, LinkStats, Listener, Result, Signaling, Storage, Transport,
    TransportCaps,
};
use peerloom_crypto_mls::MlsCrypto;
use peerloom_engine::{Cursor, Engine, EngineConfig, Event, Layers};

const MESSAGES: usize = 6;

/// A transport that keeps what goes out over the links that it dials, and is dialed by nobody.
struct Tap {
    inner: MemoryTransport,
    frames: Frames,
}

type Frames = Arc<Mutex<Vec<(ChannelClass, Bytes)>>>;

#[async_trait]
impl Transport for Tap {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    fn caps(&self) -> TransportCaps {
        self.inner.caps()
    }

    async fn listen(&self, _signaling: Option<Arc<dyn Signaling>>) -> Result<Box<dyn Listener>> {
        Ok(Box::new(Deaf))
    }

    async fn dial(
        &self,
        address: &Address,
        expected: Option<&PublicKey>,
        signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>> {
        let inner = self.inner.dial(address, expected, signaling).await?;
        Ok(Arc::new(TappedLink { inner, frames: self.frames.clone() }))
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

struct Deaf;

#[async_trait]
impl Listener for Deaf {
    fn addresses(&self) -> Vec<Address> {
        Vec::new()
    }

    async fn accept(&mut self) -> Option<Arc<dyn Link>> {
        std::future::pending().await
    }
}

struct TappedLink {
    inner: Arc<dyn Link>,
    frames: Frames,
}

impl TappedLink {
    fn tap(&self, Channel { class, sender, receiver }: Channel) -> Channel {
        let frames = self.frames.clone();
        let keep = move |frame: Bytes| {
            frames.lock().expect("a lock").push((class, frame.clone()));
            std::future::ready(Ok(frame))
        };
        Channel { class, sender: Box::pin(sender.with(keep)), receiver }
    }
}

#[async_trait]
impl Link for TappedLink {
    fn remote_key(&self) -> Option<PublicKey> {
        self.inner.remote_key()
    }

    fn channel_binding(&self) -> Result<[u8; 32]> {
        self.inner.channel_binding()
    }

    fn admit(&self) {
        self.inner.admit();
    }

    async fn open(&self, class: ChannelClass) -> Result<Channel> {
        self.inner.open(class).await.map(|channel| self.tap(channel))
    }

    async fn accept(&self) -> Result<Channel> {
        self.inner.accept().await.map(|channel| self.tap(channel))
    }

    fn remote_address(&self) -> String {
        self.inner.remote_address()
    }

    fn stats(&self) -> LinkStats {
        self.inner.stats()
    }

    fn close(&self, reason: &str) {
        self.inner.close(reason);
    }

    async fn closed(&self) -> peerloom_core::Error {
        self.inner.closed().await
    }
}

async fn engine(number: u8, transport: Arc<dyn Transport>, storage: Arc<MemoryStorage>) -> Engine {
    let made = identity(number);
    let secret = DeviceSecret::new([number ^ 0x80; 32]);
    let layers = Layers {
        transports: vec![transport],
        discoveries: Vec::new(),
        storage,
        cryptos: vec![Arc::new(MlsCrypto::new(&secret, made.certificate.clone()).expect("a crypto"))],
        identity: made.stored(number, network()),
    };
    let engine = Engine::open(layers, EngineConfig::new(network())).await.expect("an engine");
    engine.start().await.expect("a network");
    engine
}

/// Every row but those that say when a device was last seen.
fn state(storage: &MemoryStorage) -> BTreeMap<(&'static str, Bytes), Bytes> {
    let snapshot = storage.snapshot().expect("a snapshot");
    let mut rows = BTreeMap::new();
    for table in TABLES.into_iter().filter(|table| *table != META && *table != CONTACTS) {
        let keep = |row: peerloom_core::Row| {
            rows.insert((table.name, row.key), row.value);
            Ok(())
        };
        scan_all(&*snapshot, table, KeyRange::all(), keep).expect("rows");
    }
    rows
}

/// A link of a device, as its carrier could make it if it had the device's key: it says nothing by itself.
async fn link(links: &MemoryNetwork, who: &Identity) -> (Arc<dyn Link>, Channel, Channel) {
    let hello = Hello { suites: vec![MlsCrypto::SUITE], ..hello(who) };
    loop {
        let (link, mut control) = knock(links, who).await;
        if greet(&link, &mut control, who, &hello, None).await == Some(Verdict::Accepted) {
            let chat = link.open(ChannelClass::Chat).await.expect("a channel");
            return (link, control, chat);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a carrier makes of entries that it saw.
fn made_of(entries: &[peerloom_core::wire::Envelope]) -> Vec<Bytes> {
    let mut made = Vec::new();
    let flipped = |bytes: &Bytes, at: usize| {
        let mut bytes = bytes.to_vec();
        let at = at % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << (at % 8);
        }
        Bytes::from(bytes)
    };
    for (number, entry) in entries.iter().enumerate() {
        // One entry's payload, or welcome, under the header of another.
        for other in entries {
            let mut swapped = entry.clone();
            swapped.payload = other.payload.clone();
            made.push(Frame::Envelope(swapped).encode());
            let mut swapped = entry.clone();
            swapped.welcome = other.welcome.clone();
            made.push(Frame::Envelope(swapped).encode());
        }
        let mut carried = entry.clone();
        carried.hops += 7;
        made.push(Frame::Envelope(carried).encode());
        for at in 0..24 {
            let mut damaged = entry.clone();
            damaged.payload = flipped(&damaged.payload, at * 37 + number);
            made.push(Frame::Envelope(damaged).encode());
            // A changed header, with the signature that it had.
            let signed = entry.header.signed();
            let body = flipped(signed.unverified_body(), at * 11 + number);
            let changed = Signed::sign(b"", body, |_| Bytes::from_static(&[7; 64]));
            if let Ok(header) = SignedHeader::decode(changed) {
                made.push(Frame::Envelope(peerloom_core::wire::Envelope { header, ..entry.clone() }).encode());
            }
        }
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_carrier_replays_swaps_and_forges_changes_no_state() {
    let links = MemoryNetwork::default();
    let (store, frames) = (Arc::new(MemoryStorage::new()), Frames::default());
    let (alice_is, mallory) = (identity(2), identity(66));
    let bob = {
        let transport = MemoryTransport::new(&links, address(1), identity(1).key);
        engine(1, Arc::new(transport), store.clone()).await
    };
    let tap = Tap { inner: MemoryTransport::new(&links, address(2), alice_is.key.clone()), frames: frames.clone() };
    let alice = engine(2, Arc::new(tap), Arc::new(MemoryStorage::new())).await;
    let contact = alice.add_contact(bob.invite(Duration::from_secs(60), 1).await.expect("an invitation")).await;
    let to_bob = alice.direct_with(&contact.expect("a contact").user);
    let shown = async || bob.messages_after(Cursor::START, 100).await.expect("messages").len();
    for number in 0..MESSAGES {
        alice.send(to_bob, String::new(), Bytes::from(format!("message {number}")), None).await.expect("accepted");
        // Each in an entry of its own.
        common::stranger::eventually_async(async || shown().await == number + 1).await;
    }
    common::stranger::eventually_async(async || {
        shown().await == MESSAGES && alice.queue().await.expect("a queue").is_empty()
    })
    .await;
    let mut events = bob.events(bob.now().await.expect("a place"));
    alice.shutdown().await;

    let kept = frames.lock().expect("a lock").clone();
    let decoded = |class| {
        let of_class = kept.iter().filter(move |(of, _)| *of == class);
        of_class.filter_map(|(_, frame)| Frame::decode(frame.clone()).ok().flatten()).collect::<Vec<_>>()
    };
    let entries: Vec<_> = decoded(ChannelClass::Chat)
        .into_iter()
        .filter_map(|frame| if let Frame::Envelope(entry) = frame { Some(entry) } else { None })
        .collect();
    assert!(entries.len() > 2, "entries to replay: {}", entries.len());
    let receipts: Vec<Frame> = decoded(ChannelClass::Control)
        .into_iter()
        .filter(|frame| {
            matches!(frame, Frame::Ack(_) | Frame::CannotOpen(_) | Frame::GapRequest(_) | Frame::Withdrawal(_))
        })
        .collect();
    // The link's end is the last thing that bob's store hears of alice.
    loop {
        if let Some(Event::PeerDown { .. }) = events.next().await {
            break;
        }
    }
    let before = state(&store);

    let genuine: Vec<Bytes> = entries.iter().map(|entry| Frame::Envelope(entry.clone()).encode()).collect();
    let mut attempts: Vec<(&str, Vec<Bytes>, bool)> = vec![
        ("replayed", genuine.clone(), true),
        ("in the other order", genuine.iter().rev().cloned().collect(), true),
        ("twice each", genuine.iter().flat_map(|frame| [frame.clone(), frame.clone()]).collect(), true),
        ("receipts again", receipts.iter().map(Frame::encode).collect(), false),
    ];
    // Each ends its link, so each has one of its own.
    attempts.extend(made_of(&entries).into_iter().map(|frame| ("made of genuine ones", vec![frame], true)));
    for receipt in &receipts {
        let forged = match receipt {
            Frame::Ack(ack) => Frame::Ack(forged(ack, &mallory)),
            Frame::CannotOpen(cannot) => Frame::CannotOpen(forged(cannot, &mallory)),
            Frame::GapRequest(request) => Frame::GapRequest(forged(request, &mallory)),
            Frame::Withdrawal(withdrawal) => Frame::Withdrawal(forged(withdrawal, &mallory)),
            _ => continue,
        };
        attempts.push(("signed by another device", vec![forged.encode()], false));
    }
    println!("{} attempts, of {} entries and {} receipts", attempts.len(), entries.len(), receipts.len());
    for (what, frames, on_chat) in attempts {
        let (link, mut control, mut chat) = link(&links, &alice_is).await;
        let channel = if on_chat { &mut chat } else { &mut control };
        for frame in frames {
            // Bob may have ended the link by now.
            let _ = channel.sender.send(frame).await;
        }
        quiet(&bob).await;
        link.close("done");
        drop((control, chat));
        assert_same(&before, &state(&store), what);
    }
    assert_eq!(shown().await, MESSAGES);
}

/// The same statement with another device's signature.
fn forged<T: peerloom_core::wire::Statement + Clone>(statement: &Stated<T>, by: &Identity) -> Stated<T> {
    Stated::sign((**statement).clone(), |message| key(by).sign(message))
}

/// Waits until bob has taken in what came: a call goes through the same thread, after it.
async fn quiet(bob: &Engine) {
    for _ in 0..3 {
        bob.queue().await.expect("a queue");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn assert_same(
    before: &BTreeMap<(&'static str, Bytes), Bytes>,
    after: &BTreeMap<(&'static str, Bytes), Bytes>,
    what: &str,
) {
    let changed = before.iter().filter(|(key, value)| after.get(*key) != Some(value)).map(|(key, _)| key.0);
    let new = after.keys().filter(|key| !before.contains_key(*key)).map(|key| key.0);
    let tables: Vec<&str> = changed.chain(new).collect();
    assert!(tables.is_empty(), "{what}: rows changed in {tables:?}");
}

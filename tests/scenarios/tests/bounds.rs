//! What one contact costs: never another one's messages, nor more than its share.

#[path = "common/engines.rs"]
mod engines;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use engines::{config, crypto, engine, eventually, meet, send, start, until};
use peerloom_core::memory::{MemoryNetwork, MemoryStorage};

use peerloom_core::wire::store::HISTORY;
use peerloom_core::wire::{CannotOpenReason, ConversationId, EntryClass, LogId, SuiteId};
use peerloom_core::{
    Batch, Crypto, CryptoCaps, ErrorKind, Member, Opened, Prepared, Result, Sealed, Sealing, Snapshot, StateTxn,
    Storage, StorageCaps,
};
use peerloom_engine::{Cursor, Event};
use rand::Rng;

/// A crypto that opens no messages while it is told so.
struct Blind {
    inner: Arc<dyn Crypto>,
    blind: Arc<AtomicBool>,
}

impl Crypto for Blind {
    fn suite(&self) -> SuiteId {
        self.inner.suite()
    }
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn caps(&self) -> CryptoCaps {
        self.inner.caps()
    }
    fn key_package(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng) -> Result<Bytes> {
        self.inner.key_package(txn, rng)
    }
    fn prepare(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        conversation: ConversationId,
        roster: &[Member],
    ) -> Result<Prepared> {
        self.inner.prepare(txn, rng, conversation, roster)
    }
    fn seal(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, sealing: Sealing<'_>) -> Result<Sealed> {
        self.inner.seal(txn, rng, sealing)
    }
    fn rebuild(&self, recipe: &[u8], plaintext: &[u8]) -> Result<Bytes> {
        self.inner.rebuild(recipe, plaintext)
    }
    fn open(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        log: LogId,
        class: EntryClass,
        associated_data: &[u8],
        payload: &[u8],
    ) -> Result<Opened> {
        match class {
            EntryClass::Application if self.blind.load(Ordering::Relaxed) => {
                Ok(Opened::CannotOpen(CannotOpenReason::KeyGone))
            }
            _ => self.inner.open(txn, rng, log, class, associated_data, payload),
        }
    }
    fn discard(&self, txn: &mut dyn StateTxn, log: LogId) -> Result<()> {
        self.inner.discard(txn, log)
    }
    fn forget(&self) {
        self.inner.forget();
    }
}

/// A device that opens nothing is added again three times; then nothing more leaves for it, its link stays as it is,
/// and both lists say why. When asked, it is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_opens_nothing_is_left_in_peace_and_shown() {
    let links = MemoryNetwork::default();
    let blind = Arc::new(AtomicBool::new(true));
    let eyes: Arc<dyn Crypto> = Arc::new(Blind { inner: crypto(2, true), blind: blind.clone() });
    let alice = engine(1, &links, Arc::new(MemoryStorage::new()), true).await;
    let bob = start(2, &links, Arc::new(MemoryStorage::new()), vec![eyes], config()).await;
    let to_alice = meet(&alice, &bob).await;
    until("bob", async || !alice.contacts().is_empty()).await;
    let to_bob = alice.contacts().remove(0);
    send(&alice, &to_bob, "hello").await.expect("accepted");
    until("the halt", async || {
        let queue = alice.queue().await.expect("a queue");
        queue.iter().any(|entry| entry.stalled && entry.reason.starts_with("halted"))
    })
    .await;
    let peer = alice.peers().remove(0);
    assert!(peer.link.is_some() && peer.reason.expect("a reason").starts_with("halted"), "in `peers`, too");

    // Long enough for several rounds of retries: the link isn't replaced, and the other direction works.
    let mut events = alice.events(Cursor::START);
    let quiet = async {
        loop {
            if let Some(Event::PeerDown { .. }) = events.next().await {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(4), quiet).await.is_err(), "the link was replaced");
    send(&bob, &to_alice, "I can't read you").await.expect("accepted");
    eventually("the other direction", &alice, &["I can't read you"]).await;

    blind.store(false, Ordering::Relaxed);
    assert_eq!(alice.retry(Some(to_bob.conversation)).await.expect("an answer"), 1);
    eventually("the message", &bob, &["hello"]).await;
    until("the acknowledgement", async || alice.queue().await.expect("a queue").is_empty()).await;
    assert_eq!(alice.peers().remove(0).reason, None);
}

/// A contact that never comes fills its own conversation: the error says whose, since when, and what helps.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_conversation_says_whose_since_when_and_what_helps() {
    let links = MemoryNetwork::default();
    let mut small = config();
    small.max_queued_messages = 10;
    let alice = start(1, &links, Arc::new(MemoryStorage::new()), vec![crypto(1, true)], small).await;
    let bob = engine(2, &links, Arc::new(MemoryStorage::new()), true).await;
    let carol = engine(3, &links, Arc::new(MemoryStorage::new()), true).await;
    meet(&alice, &bob).await;
    meet(&alice, &carol).await;
    let of = |name: &str| alice.find_contact(name).expect("a contact");
    until("both", async || alice.contacts().len() == 2).await;
    // Once with a session, once without.
    send(&alice, &of("node-2"), "before").await.expect("accepted");
    eventually("the first", &bob, &["before"]).await;
    until("the acknowledgement", async || alice.queue().await.expect("a queue").is_empty()).await;
    bob.shutdown().await;
    until("bob's end", async || alice.peers().iter().any(|peer| peer.link.is_none())).await;
    for _ in 0..10 {
        send(&alice, &of("node-2"), "anybody there?").await.expect("accepted");
    }
    let error = send(&alice, &of("node-2"), "one too many").await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    for part in ["10 messages for node-2", ", the oldest for ", "peerloom peers", "max_queued_messages"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    send(&alice, &of("node-3"), "you are not concerned").await.expect("accepted");
    eventually("the other contact's", &carol, &["you are not concerned"]).await;
}

/// Contacts that stay away fill this node's queue together. The error names what helps and the one for whom the most
/// waits; a contact for whom nothing waits is still sent to, one message at a time.
#[tokio::test(flavor = "multi_thread")]
async fn all_queues_together_are_bounded_and_one_message_for_a_contact_always_fits() {
    let links = MemoryNetwork::default();
    let mut small = config();
    small.max_queued_bytes_in_all = 1_000_000;
    let alice = start(1, &links, Arc::new(MemoryStorage::new()), vec![crypto(1, true)], small).await;
    let mut away = Vec::new();
    for number in 2..5 {
        let other = engine(number, &links, Arc::new(MemoryStorage::new()), true).await;
        meet(&alice, &other).await;
        let name = format!("node-{number}");
        until("the contact", async || alice.find_contact(&name).is_ok()).await;
        away.push((alice.find_contact(&name).expect("a contact"), other));
    }
    for (_, other) in &away {
        other.shutdown().await;
    }
    until("their end", async || alice.peers().iter().all(|peer| peer.link.is_none())).await;
    let text = "x".repeat(100_000);
    let [to_bob, to_carol, to_dave] = [0, 1, 2].map(|number| &away[number].0);
    for to in [to_bob, to_bob, to_bob, to_bob, to_bob, to_carol, to_carol, to_carol] {
        send(&alice, to, &text).await.expect("accepted");
    }
    let mut refused = None;
    for _ in 0..3 {
        refused = send(&alice, to_carol, &text).await.err().or(refused);
    }
    let error = refused.expect("all queues are full");
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    for part in ["all contacts together", "the most for node-2", "max_queued_bytes_in_all"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    send(&alice, to_dave, &text).await.expect("nothing waits for this contact");
    let error = send(&alice, to_dave, &text).await.expect_err("one waits now");
    assert_eq!(error.kind(), ErrorKind::Overloaded);
}

/// A store that notes how many bytes of messages each batch adds to the history.
struct Weighed {
    inner: MemoryStorage,
    batches: Arc<Mutex<Vec<usize>>>,
}

impl Storage for Weighed {
    fn caps(&self) -> StorageCaps {
        self.inner.caps()
    }
    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.inner.snapshot()
    }
    fn commit(&self, batch: &Batch) -> Result<()> {
        let history = batch.writes().iter().filter(|write| write.table == HISTORY);
        let bytes = history.filter_map(|write| write.value.as_ref()).map(Bytes::len).sum();
        self.batches.lock().expect("the weights").push(bytes);
        self.inner.commit(batch)
    }
}

/// What waited for a session is sealed a part in each turn, and arrives in its order.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_session_is_sealed_in_parts() {
    const BODY: usize = 500_000;
    let links = MemoryNetwork::default();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let store = Weighed { inner: MemoryStorage::new(), batches: batches.clone() };
    let alice = start(1, &links, Arc::new(store), vec![crypto(1, true)], config()).await;
    let of_bob = MemoryStorage::new();
    let bob = engine(2, &links, Arc::new(of_bob.clone()), true).await;
    let invitation = bob.invite(Duration::from_secs(600), 1).await.expect("an invitation");
    bob.shutdown().await;
    let to_bob = alice.add_contact(invitation).await.expect("a contact");
    let texts: Vec<String> = (0..30).map(|number| format!("{number} {}", "x".repeat(BODY))).collect();
    for text in &texts {
        send(&alice, &to_bob, text).await.expect("accepted");
    }
    assert_eq!(batches.lock().expect("the weights").iter().sum::<usize>(), 0, "nothing can be sealed yet");
    let bob = engine(2, &links, Arc::new(of_bob), true).await;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    eventually("all messages", &bob, &texts).await;
    let batches = batches.lock().expect("the weights").clone();
    assert!(batches.iter().sum::<usize>() > texts.len() * BODY);
    assert!(batches.iter().all(|bytes| *bytes < 4 * 1024 * 1024), "{batches:?}");
}

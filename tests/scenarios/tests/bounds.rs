//! What one contact costs: never another one's messages, nor more than its share.

#[path = "common/engines.rs"]
mod engines;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use engines::{config, crypto, engine, eventually, meet, send, start, until};
use futures_util::FutureExt;
use peerloom_core::memory::{MemoryNetwork, MemoryStorage};

use peerloom_core::wire::store::{HISTORY, OUT_SEALED, PENDING, PENDING_BODIES, Table};
use peerloom_core::wire::{CannotOpenReason, ConversationId, EntryClass, LogId, SuiteId};
use peerloom_core::{
    Batch, Crypto, CryptoCaps, Error, ErrorKind, KeyRange, Member, Opened, Order, Outgoing, Page, Prepared, Result,
    Row, Sealed, Sealing, Serves, Snapshot, StateTxn, Storage, StorageCaps,
};
use peerloom_engine::{Cursor, Event};
use rand::Rng;

/// A crypto that doesn't open the next so many messages.
struct Blind {
    inner: Arc<dyn Crypto>,
    blind: Arc<AtomicUsize>,
}

impl Crypto for Blind {
    fn suite(&self) -> SuiteId {
        self.inner.suite()
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn caps(&self) -> CryptoCaps {
        self.inner.caps()
    }
    fn key_package(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, serves: Serves) -> Result<Bytes> {
        self.inner.key_package(txn, rng, serves)
    }

    fn discard_key_package(&self, txn: &mut dyn StateTxn, package: &[u8]) -> Result<()> {
        self.inner.discard_key_package(txn, package)
    }

    fn refresh(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        conversation: ConversationId,
    ) -> Result<Option<Outgoing>> {
        self.inner.refresh(txn, rng, conversation)
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
            EntryClass::Application
                if self
                    .blind
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok() =>
            {
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
    let blind = Arc::new(AtomicUsize::new(usize::MAX));
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

    blind.store(0, Ordering::Relaxed);
    assert_eq!(alice.retry(Some(alice.direct_with(&to_bob.user))).await.expect("an answer"), 1);
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

type BeforeCommit = Box<dyn Fn(&Batch) -> Result<()> + Send + Sync>;

/// A store that is watched: each batch before it is committed, and which tables are read.
struct Watched {
    inner: MemoryStorage,
    before: BeforeCommit,
    read: Arc<Mutex<BTreeSet<Table>>>,
}

impl Watched {
    fn over(inner: &MemoryStorage, before: impl Fn(&Batch) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { inner: inner.clone(), before: Box::new(before), read: Arc::default() }
    }

    /// Notes how many bytes each batch adds to a table.
    fn weighed(inner: &MemoryStorage, table: Table, weights: &Arc<Mutex<Vec<usize>>>) -> Self {
        let weights = weights.clone();
        Self::over(inner, move |batch| {
            weights.lock().expect("the weights").push(weight(batch, table));
            Ok(())
        })
    }
}

/// The bytes that a batch adds to a table.
fn weight(batch: &Batch, table: Table) -> usize {
    let writes = batch.writes().iter().filter(|write| write.table == table);
    writes.filter_map(|write| write.value.as_ref()).map(Bytes::len).sum()
}

impl Storage for Watched {
    fn caps(&self) -> StorageCaps {
        self.inner.caps()
    }
    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(WatchedSnapshot { inner: self.inner.snapshot()?, read: self.read.clone() }))
    }
    fn commit(&self, batch: &Batch) -> Result<()> {
        (self.before)(batch)?;
        self.inner.commit(batch)
    }
}

struct WatchedSnapshot {
    inner: Box<dyn Snapshot>,
    read: Arc<Mutex<BTreeSet<Table>>>,
}

impl Snapshot for WatchedSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.read.lock().expect("the tables").insert(table);
        self.inner.get(table, key)
    }
    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        self.read.lock().expect("the tables").insert(table);
        self.inner.scan(table, range, order, page)
    }
}

/// What waited for a session is sealed a part in each turn, and arrives in its order.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_session_is_sealed_in_parts() {
    const BODY: usize = 500_000;
    let links = MemoryNetwork::default();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let store = Watched::weighed(&MemoryStorage::new(), HISTORY, &batches);
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

/// What a device lacks when it is added again is sealed for it a part in each turn, in its order; a store that fails in
/// between loses nothing and sends nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_again_is_sealed_in_parts_and_survives_a_crash() {
    const BODY: usize = 500_000;
    let links = MemoryNetwork::default();
    let (of_alice, of_bob) = (MemoryStorage::new(), MemoryStorage::new());
    let (weights, crashed) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let parts = Arc::new(AtomicUsize::new(usize::MAX));
    let store = Watched::over(&of_alice, {
        let (weights, crashed, parts): (Arc<Mutex<Vec<usize>>>, _, _) =
            (Arc::clone(&weights), crashed.clone(), parts.clone());
        move |batch| {
            let weight = weight(batch, OUT_SEALED);
            weights.lock().expect("the weights").push(weight);
            let part = weight > BODY;
            let may = |left: usize| if part { left.checked_sub(1) } else { Some(left) };
            if crashed.load(Ordering::Relaxed) || parts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, may).is_err()
            {
                crashed.store(true, Ordering::Relaxed);
                return Err(Error::new(ErrorKind::Storage, "test", "commit", "the store is gone"));
            }
            Ok(())
        }
    });
    let alice = start(1, &links, Arc::new(store), vec![crypto(1, true)], config()).await;
    let bob = engine(2, &links, Arc::new(of_bob.clone()), true).await;
    meet(&alice, &bob).await;
    until("the contact", async || !alice.contacts().is_empty()).await;
    let to_bob = alice.contacts().remove(0);
    send(&alice, &to_bob, "before").await.expect("accepted");
    eventually("the first", &bob, &["before"]).await;
    bob.shutdown().await;
    until("bob's end", async || alice.peers().iter().all(|peer| peer.link.is_none())).await;
    let mut texts = vec!["before".to_owned()];
    for number in 0..40 {
        texts.push(format!("{number} {}", "x".repeat(BODY)));
        send(&alice, &to_bob, &texts[number + 1]).await.expect("accepted");
    }
    weights.lock().expect("the weights").clear();
    parts.store(3, Ordering::Relaxed);
    let mut patient = config();
    // What comes after the entry that can't be opened waits for it.
    patient.delivery.gap_wait = Duration::from_secs(600);
    let eyes: Arc<dyn Crypto> = Arc::new(Blind { inner: crypto(2, true), blind: Arc::new(AtomicUsize::new(1)) });
    let bob = start(2, &links, Arc::new(of_bob), vec![eyes], patient).await;
    until("the crash", async || crashed.load(Ordering::Relaxed)).await;
    alice.shutdown().await;
    let store = Watched::weighed(&of_alice, OUT_SEALED, &weights);
    let alice = start(1, &links, Arc::new(store), vec![crypto(1, true)], config()).await;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    eventually("all messages, once", &bob, &texts).await;
    until("the acknowledgements", async || alice.queue().await.expect("a queue").is_empty()).await;
    let weights = weights.lock().expect("the weights").clone();
    assert!(weights.iter().sum::<usize>() > 40 * BODY, "they were sealed again");
    assert!(weights.iter().all(|bytes| *bytes < 8 * 1024 * 1024), "{weights:?}");
}

/// Holds up commits while it is closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    waits: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        let mut closed = self.closed.lock().expect("the gate");
        while *closed {
            self.waits.store(true, Ordering::Relaxed);
            closed = self.opened.wait(closed).expect("the gate");
        }
    }
    fn set(&self, closed: bool) {
        *self.closed.lock().expect("the gate") = closed;
        self.opened.notify_all();
    }
}

/// This node's own messages that wait for their turn are bounded by bytes: then the sender waits. What is accepted keeps
/// its order, and a call that is dropped meanwhile hands nothing over.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_waits_when_too_many_bytes_wait_for_their_turn() {
    const BODY: usize = 64 * 1024;
    let links = MemoryNetwork::default();
    let gate = Arc::new(Gate::default());
    let store = Watched::over(&MemoryStorage::new(), {
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Ok(())
        }
    });
    let alice = start(1, &links, Arc::new(store), vec![crypto(1, true)], config()).await;
    let bob = engine(2, &links, Arc::new(MemoryStorage::new()), true).await;
    meet(&alice, &bob).await;
    until("the contact", async || !alice.contacts().is_empty()).await;
    let to_bob = alice.contacts().remove(0);
    send(&alice, &to_bob, "before").await.expect("accepted");
    eventually("the first", &bob, &["before"]).await;

    gate.set(true);
    let submit =
        |text: &str| alice.submit(alice.direct_with(&to_bob.user), String::new(), Bytes::from(text.to_owned()), None);
    let (mut texts, mut accepted) = (vec!["before".to_owned()], Vec::new());
    texts.push("the disk stands still".into());
    accepted.push(submit(&texts[1]).await.expect("handed over"));
    until("the disk", async || gate.waits.load(Ordering::Relaxed)).await;
    loop {
        let text = format!("{} {}", texts.len(), "x".repeat(BODY));
        let call = pin!(tokio::task::unconstrained(submit(&text)));
        let Some(sending) = call.now_or_never() else { break };
        accepted.push(sending.expect("handed over"));
        texts.push(text);
        assert!(texts.len() * BODY < 32 * 1024 * 1024, "any number of bytes may wait");
    }
    assert!(texts.len() * BODY > 4 * 1024 * 1024, "only {} may wait", texts.len());
    gate.set(false);
    for sending in accepted {
        sending.await.expect("accepted");
    }
    texts.push("after".into());
    send(&alice, &to_bob, "after").await.expect("accepted");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    eventually("all that was handed over, in its order", &bob, &texts).await;
}

/// What waits for a session is read when it is sealed: a start, and the list of what waits, look at heads.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_wait_are_not_read_before_they_are_sealed() {
    let links = MemoryNetwork::default();
    let (of_alice, of_bob) = (MemoryStorage::new(), MemoryStorage::new());
    let bob = engine(2, &links, Arc::new(of_bob.clone()), true).await;
    let invitation = bob.invite(Duration::from_secs(600), 1).await.expect("an invitation");
    bob.shutdown().await;
    let alice = engine(1, &links, Arc::new(of_alice.clone()), true).await;
    let to_bob = alice.add_contact(invitation).await.expect("a contact");
    for text in ["one", "two"] {
        send(&alice, &to_bob, text).await.expect("accepted");
    }
    alice.shutdown().await;

    let store = Watched::over(&of_alice, |_| Ok(()));
    let read = store.read.clone();
    let alice = start(1, &links, Arc::new(store), vec![crypto(1, true)], config()).await;
    assert_eq!(alice.queue().await.expect("a queue").len(), 2);
    let tables = read.lock().expect("the tables").clone();
    assert!(tables.contains(&PENDING) && !tables.contains(&PENDING_BODIES), "{tables:?}");
    let bob = engine(2, &links, Arc::new(of_bob), true).await;
    eventually("what is left", &bob, &["one", "two"]).await;
}

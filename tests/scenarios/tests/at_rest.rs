//! What a thief of a whole store can do: with the history apart, nothing in it opens what was opened before.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerloom_conformance::identity::identity;
use peerloom_core::memory::{MemoryNetwork, MemoryStorage, MemoryTransport};
use peerloom_core::storage::scan_all;
use peerloom_core::wire::store::{
    self, CRYPTO, Contact, HISTORY, IN_PARKED, KEY_PACKAGES, OUT_SEALED, PENDING, PENDING_BODIES, QUARANTINE, TABLES,
};
use peerloom_core::wire::{ConversationId, EntryClass, LogId, NetworkId, SuiteId};
use peerloom_core::{
    Crypto, CryptoCaps, KeyRange, Member, Opened, Outgoing, Prepared, Result, Sealed, Sealing, Serves, StateTxn,
    Storage,
};
use peerloom_crypto_mls::MlsCrypto;
use peerloom_crypto_primitives::sha256;
use peerloom_engine::{Cursor, Engine, EngineConfig, Layers};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const PATIENCE: Duration = Duration::from_secs(60);

fn network() -> NetworkId {
    NetworkId::from_name("at-rest")
}

/// What a relay on the way could have kept of an entry.
#[derive(Clone)]
struct Seen {
    log: LogId,
    class: EntryClass,
    associated_data: Vec<u8>,
    payload: Bytes,
}

/// A crypto that keeps what it opens, as a thief on the way would, and the recipes of what it seals.
struct Tapped {
    inner: MlsCrypto,
    seen: Arc<Mutex<Vec<Seen>>>,
    recipes: Arc<Mutex<Vec<Bytes>>>,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Crypto for Tapped {
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
        self.calls.lock().expect("a lock").push("refresh");
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
        let sealed = self.inner.seal(txn, rng, sealing)?;
        self.calls.lock().expect("a lock").push("seal");
        self.recipes.lock().expect("a lock").extend(sealed.recipe.clone());
        Ok(sealed)
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
        let (associated, kept) = (associated_data.to_vec(), Bytes::copy_from_slice(payload));
        self.seen.lock().expect("a lock").push(Seen { log, class, associated_data: associated, payload: kept });
        self.inner.open(txn, rng, log, class, associated_data, payload)
    }

    fn discard(&self, txn: &mut dyn StateTxn, log: LogId) -> Result<()> {
        self.inner.discard(txn, log)
    }

    fn forget(&self) {
        self.inner.forget();
    }
}

struct Node {
    number: u8,
    engine: Engine,
    storage: MemoryStorage,
    seen: Arc<Mutex<Vec<Seen>>>,
    recipes: Arc<Mutex<Vec<Bytes>>>,
    /// Refreshes and seals, in their order.
    calls: Arc<Mutex<Vec<&'static str>>>,
}

fn mls(number: u8) -> MlsCrypto {
    let made = identity(number);
    MlsCrypto::new(&made.secret, made.certificate).expect("a crypto")
}

impl Node {
    async fn start(number: u8, links: &MemoryNetwork) -> Self {
        Self::over(number, links, MemoryStorage::new()).await
    }

    async fn over(number: u8, links: &MemoryNetwork, storage: MemoryStorage) -> Self {
        let made = identity(number);
        let (seen, recipes, calls) = (Arc::default(), Arc::default(), Arc::default());
        let (tapped, recipe, call) = (Arc::clone(&seen), Arc::clone(&recipes), Arc::clone(&calls));
        let crypto = Tapped { inner: mls(number), seen: tapped, recipes: recipe, calls: call };
        let address = format!("memory://{number}").parse().expect("an address");
        let layers = Layers {
            transports: vec![Arc::new(MemoryTransport::new(links, address, made.key.clone()))],
            discoveries: Vec::new(),
            storage: Arc::new(storage.clone()),
            cryptos: vec![Arc::new(crypto)],
            identity: made.stored(number, network()),
        };
        let engine = Engine::open(layers, EngineConfig::new(network())).await.expect("an engine");
        engine.start().await.expect("a network");
        Self { number, engine, storage, seen, recipes, calls }
    }

    async fn send(&self, to: &Contact, text: &str) {
        let body = Bytes::from(text.to_owned());
        self.engine.send(self.engine.direct_with(&to.user), String::new(), body, None).await.expect("accepted");
    }

    async fn has(&self, text: &str) {
        until(text, async || {
            let messages = self.engine.messages_after(Cursor::START, 10_000).await.expect("messages");
            messages.iter().any(|message| message.text() == Some(text))
        })
        .await;
    }

    /// Every row of the tables.
    fn rows(&self, tables: &[store::Table]) -> Vec<(Bytes, Bytes)> {
        let snapshot = self.storage.snapshot().expect("a snapshot");
        let mut rows = Vec::new();
        for table in tables {
            let add = |row: peerloom_core::Row| {
                rows.push((row.key, row.value));
                Ok(())
            };
            scan_all(&*snapshot, *table, KeyRange::all(), add).expect("rows");
        }
        rows
    }

    /// How many of the entries that this node was sent a thief of these rows of its crypto's state can open.
    fn stolen(&self, crypto_rows: &[(Bytes, Bytes)], seen: &[Seen]) -> usize {
        let crypto = mls(self.number);
        let mut state = Stolen { suite: crypto.suite(), rows: crypto_rows.to_vec() };
        let mut rng = StdRng::seed_from_u64(1);
        let opened = seen.iter().filter(|seen| {
            let Seen { log, class, associated_data, payload } = seen;
            let opened = crypto.open(&mut state, &mut rng, *log, *class, associated_data, payload);
            matches!(opened, Ok(Opened::Content(_)))
        });
        opened.count()
    }
}

/// The rows of a crypto's state as the engine stores them.
struct Stolen {
    suite: SuiteId,
    rows: Vec<(Bytes, Bytes)>,
}

impl Stolen {
    fn key(&self, key: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&sha256(&[&self.suite.0.to_be_bytes(), key]))
    }
}

impl StateTxn for Stolen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let key = self.key(key);
        Ok(self.rows.iter().find(|row| row.0 == key).map(|row| row.1.clone()))
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.delete(key);
        let key = self.key(key);
        self.rows.push((key, value));
    }

    fn delete(&mut self, key: &[u8]) {
        let key = self.key(key);
        self.rows.retain(|row| row.0 != key);
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_store_opens_nothing_that_was_opened_before() {
    let links = MemoryNetwork::default();
    let (alice, bob) = (Node::start(1, &links).await, Node::start(2, &links).await);
    let invitation = alice.engine.invite(Duration::from_secs(60), 1).await.expect("an invitation");
    let to_alice = bob.engine.add_contact(invitation).await.expect("a contact");
    bob.send(&to_alice, "the first").await;
    alice.has("the first").await;
    let to_bob = alice.engine.contacts().into_iter().next().expect("a contact");
    alice.send(&to_bob, "the first answer").await;
    bob.has("the first answer").await;
    let earlier = [&alice, &bob].map(|node| (node.rows(&[CRYPTO]), node.seen.lock().expect("a lock").len()));

    // Short ones, which MLS carries, and long ones, whose bodies have keys of their own.
    let texts: Vec<String> = (0..12).map(|n| format!("secret {n} {}", "x".repeat(700 * n))).collect();
    for text in &texts {
        bob.send(&to_alice, &format!("{text} of bob")).await;
        alice.send(&to_bob, &format!("{text} of alice")).await;
    }
    for text in &texts {
        alice.has(&format!("{text} of bob")).await;
        bob.has(&format!("{text} of alice")).await;
    }
    until("everything to be settled", async || {
        [&alice, &bob]
            .iter()
            .all(|node| node.rows(&[PENDING, PENDING_BODIES, OUT_SEALED, IN_PARKED, QUARANTINE]).is_empty())
    })
    .await;

    for node in [&alice, &bob] {
        assert!(node.rows(&[KEY_PACKAGES]).is_empty(), "a key package that was used is still there");
    }
    let all_but_history: Vec<_> = TABLES.into_iter().filter(|table| *table != HISTORY).collect();
    for (node, (before, count)) in [&alice, &bob].into_iter().zip(&earlier) {
        let seen = node.seen.lock().expect("a lock").clone();
        assert!(seen.len() > *count, "entries came");
        // Stolen before they came, the same state opens them: the thief knows how.
        assert!(node.stolen(before, &seen[*count..]) > 0);
        assert_eq!(node.stolen(&node.rows(&[CRYPTO]), &seen), 0, "keys of opened entries are there");
        let recipes = node.recipes.lock().expect("a lock").clone();
        assert!(!recipes.is_empty(), "long entries have recipes");
        let holds = |value: &[u8], part: &[u8]| value.windows(part.len()).any(|window| window == part);
        for (_, value) in node.rows(&all_but_history) {
            assert!(!holds(&value, b"secret "), "a text stands outside the history");
            assert!(!recipes.iter().any(|recipe| holds(&value, recipe)), "a recipe stayed");
        }
    }
}

/// Each opening of a store moves a conversation to fresh keys before it seals the first message, and only then: what an
/// earlier copy of the store has opens nothing of it, and seals nothing that the contact would take for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_after_each_opening_is_sealed_with_fresh_keys() {
    let links = MemoryNetwork::default();
    let (alice, mut bob) = (Node::start(1, &links).await, Node::start(2, &links).await);
    let invitation = alice.engine.invite(Duration::from_secs(60), 1).await.expect("an invitation");
    let to_alice = bob.engine.add_contact(invitation).await.expect("a contact");
    bob.send(&to_alice, "0.1").await;
    alice.has("0.1").await;
    bob.send(&to_alice, "0.2").await;
    alice.has("0.2").await;
    assert_eq!(*bob.calls.lock().expect("a lock"), ["seal"; 2], "a session made in this opening is fresh");
    for opening in 1..4 {
        bob.engine.shutdown().await;
        bob = Node::over(2, &links, bob.storage.clone()).await;
        // That it is opened, and links, costs nothing yet.
        let waiting = || alice.engine.peers().iter().all(|peer| peer.link.is_none());
        until("a link", async || !waiting()).await;
        assert!(bob.calls.lock().expect("a lock").is_empty());
        let texts = [format!("{opening}.1"), format!("{opening}.2")];
        for text in &texts {
            bob.send(&to_alice, text).await;
            alice.has(text).await;
        }
        assert_eq!(*bob.calls.lock().expect("a lock"), ["refresh", "seal", "seal"]);
    }
    until("everything to be settled", async || bob.rows(&[PENDING, OUT_SEALED]).is_empty()).await;
    assert!(alice.rows(&[QUARANTINE]).is_empty(), "all was opened at once");
}

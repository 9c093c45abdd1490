//! Nodes that don't start as a whole, and nodes of which a part ends: they don't go on by halves.

#[path = "common/engines.rs"]
mod engines;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use peerloom_core::memory::{MemoryDirectory, MemoryDiscovery, MemoryNetwork, MemoryStorage, MemoryTransport};
use peerloom_core::wire::store::{ConversationInfo, ConversationKind};
use peerloom_core::wire::{Address, ConversationId, DiscoveryItem, DiscoveryKey, PublicKey, Role, Roster};
use peerloom_core::{
    Batch, Discovery, DiscoveryCaps, Error, ErrorKind, Found, Link, Listener, Result, Signaling, Snapshot, Storage,
    StorageCaps, Transport, TransportCaps,
};
use peerloom_engine::{Cursor, Engine, EngineConfig, Event, MessageState};
use tokio::sync::Notify;

fn fault() -> Error {
    Error::new(ErrorKind::Storage, "test", "fail", "as the test wants")
}

/// What a test wants to happen while a node starts.
type Hook = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Listens when it is allowed to, and says that it was shut down.
struct Ears {
    inner: MemoryTransport,
    /// Happens once.
    on_listen: Mutex<Option<Hook>>,
    deaf: AtomicBool,
    shut_down: AtomicBool,
}

impl Ears {
    fn new(number: u8, deaf: bool) -> Arc<Self> {
        let inner = engines::transport(number, &MemoryNetwork::default());
        let (deaf, shut_down) = (AtomicBool::new(deaf), AtomicBool::new(false));
        Arc::new(Self { inner, on_listen: Mutex::default(), deaf, shut_down })
    }
}

#[async_trait]
impl Transport for Ears {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    fn caps(&self) -> TransportCaps {
        self.inner.caps()
    }

    async fn listen(&self, signaling: Option<Arc<dyn Signaling>>) -> Result<Box<dyn Listener>> {
        let hook = self.on_listen.lock().expect("a lock").take();
        if let Some(hook) = hook {
            hook().await;
        }
        if self.deaf.load(Ordering::Acquire) { Err(fault()) } else { self.inner.listen(signaling).await }
    }

    async fn dial(
        &self,
        address: &Address,
        expected: Option<&PublicKey>,
        signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>> {
        self.inner.dial(address, expected, signaling).await
    }

    async fn shutdown(&self) {
        self.shut_down.store(true, Ordering::Release);
        self.inner.shutdown().await;
    }
}

/// Works until a commit fails since it is broken; then nothing can be read, either.
struct Disk {
    inner: MemoryStorage,
    broken: AtomicBool,
    failed: AtomicBool,
}

impl Disk {
    fn new() -> Arc<Self> {
        let (broken, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { inner: MemoryStorage::new(), broken, failed })
    }
}

impl Storage for Disk {
    fn caps(&self) -> StorageCaps {
        self.inner.caps()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        if self.failed.load(Ordering::Acquire) { Err(fault()) } else { self.inner.snapshot() }
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        if self.broken.load(Ordering::Acquire) {
            self.failed.store(true, Ordering::Release);
            return Err(fault());
        }
        self.inner.commit(batch)
    }
}

/// Ends by a panic what watches it, when the test wants that.
struct Finder {
    inner: MemoryDiscovery,
    panics: Arc<Notify>,
}

impl Finder {
    fn new() -> Self {
        Self { inner: MemoryDiscovery::new(&MemoryDirectory::default()), panics: Arc::default() }
    }
}

#[async_trait]
impl Discovery for Finder {
    fn caps(&self) -> DiscoveryCaps {
        self.inner.caps()
    }

    async fn publish(&self, item: DiscoveryItem) -> Result<()> {
        self.inner.publish(item).await
    }

    fn find(&self, key: DiscoveryKey) -> BoxStream<'_, Result<Found>> {
        self.inner.find(key)
    }

    fn watch(&self) -> BoxStream<'static, Found> {
        let panics = self.panics.clone();
        stream::once(async move {
            panics.notified().await;
            panic!("as the test wants")
        })
        .boxed()
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

#[tokio::test]
async fn every_duration_that_an_engine_is_given_has_a_range() {
    let open = async |change: &dyn Fn(&mut EngineConfig, Duration), duration: Duration| {
        let mut config = engines::config();
        change(&mut config, duration);
        let transport = Arc::new(engines::transport(1, &MemoryNetwork::default()));
        let layers = engines::layers(1, vec![transport], vec![], Disk::new(), vec![engines::crypto(1, false)]);
        Engine::open(layers, config).await
    };
    let changes: [&dyn Fn(&mut EngineConfig, Duration); 5] = [
        &|config, ttl| config.ttl = ttl,
        &|config, wait| config.delivery.ack_timeout = wait,
        &|config, wait| config.delivery.retry_delays.push(wait),
        &|config, wait| config.delivery.gap_wait = wait,
        &|config, wait| config.delivery.rejoin_every = wait,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let refused = open(change, duration).await.err().expect("a refusal");
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{number}, {duration:?}: {refused}");
        }
        open(change, Duration::from_secs(60)).await.expect("a minute is good for all");
    }
}

#[tokio::test]
async fn a_node_that_could_not_start_lets_nothing_expire() {
    let alice = engines::engine(1, &MemoryNetwork::default(), Arc::new(MemoryStorage::new()), false).await;
    let ears = Ears::new(2, true);
    let layers = engines::layers(2, vec![ears.clone()], vec![], Disk::new(), vec![engines::crypto(2, false)]);
    let bob = Engine::open(layers, engines::config()).await.expect("an engine");
    let contact = engines::meet(&alice, &bob).await;
    assert!(bob.start().await.is_err(), "its transport can't listen");
    let lifetime = Duration::from_secs(1);
    bob.send(bob.direct_with(&contact.user), String::new(), Bytes::from_static(b"late"), Some(lifetime))
        .await
        .expect("accepted");
    // Nobody could hear that it failed.
    let begin = Instant::now();
    while begin.elapsed() < 2 * lifetime {
        assert_eq!(bob.queue().await.expect("a queue").len(), 1, "it waits until the node is started");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut events = bob.events(Cursor::START);
    ears.deaf.store(false, Ordering::Release);
    bob.start().await.expect("it starts now");
    let failed = async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Receipt { state: MessageState::Failed(_), .. }) {
                return;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(engines::PATIENCE, failed).await.expect("the failure is heard");
    assert!(!ears.shut_down.load(Ordering::Acquire));
}

#[tokio::test]
async fn a_node_whose_store_fails_while_it_starts_can_start_once_it_works() {
    let (ears, disk) = (Ears::new(1, false), Disk::new());
    let layers = engines::layers(1, vec![ears.clone()], Vec::new(), disk.clone(), vec![engines::crypto(1, false)]);
    let node = Arc::new(Engine::open(layers, engines::config()).await.expect("an engine"));
    let (engine, breaking) = (Arc::downgrade(&node), disk.clone());
    let hook = move || -> BoxFuture<'static, ()> {
        let (engine, breaking) = (engine.upgrade().expect("an engine"), breaking.clone());
        Box::pin(async move {
            breaking.broken.store(true, Ordering::Release);
            let (kind, roster) = (ConversationKind::Group, Roster::first([engine.user()], Role::Admin));
            let info = ConversationInfo { kind, roster, created_at_ms: 1, title: String::new() };
            let written = engine.put_conversation(ConversationId::from_bytes([1; 32]), info).await;
            assert!(written.is_err(), "what fails in the store is noticed");
        })
    };
    *ears.on_listen.lock().expect("a lock") = Some(Box::new(hook));
    assert!(node.start().await.is_err());
    assert!(node.addresses().await.is_empty(), "it isn't started");
    for fault in [&disk.broken, &disk.failed] {
        fault.store(false, Ordering::Release);
    }
    let begin = Instant::now();
    while let Err(error) = node.start().await {
        assert!(begin.elapsed() < engines::PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.addresses().await.len(), 1, "it listens where it wanted to");
}

#[tokio::test]
async fn a_panic_on_the_network_side_ends_the_node() {
    let finder = Finder::new();
    let panics = finder.panics.clone();
    let layers = engines::layers(
        1,
        vec![Ears::new(1, false)],
        vec![Arc::new(finder)],
        Disk::new(),
        vec![engines::crypto(1, false)],
    );
    let node = Engine::open(layers, engines::config()).await.expect("an engine");
    node.start().await.expect("it starts");
    let mut events = node.events(Cursor::START);
    assert!(node.failure().is_none());
    panics.notify_one();
    let last = Mutex::new(None);
    let ended = async {
        while let Some(event) = events.next().await {
            *last.lock().expect("a lock") = Some(event);
        }
    };
    tokio::time::timeout(engines::PATIENCE, ended).await.expect("the events end");
    let failure = node.failure().expect("it says why");
    assert!(failure.to_string().contains("network side"), "{failure}");
    let refused = node.invite(Duration::from_secs(60), 1).await.expect_err("every call fails");
    assert_eq!(refused.kind(), ErrorKind::Internal);
    tokio::time::timeout(engines::PATIENCE, node.shutdown()).await.expect("it can be shut down");
}

//! Nodes that don't start as a whole, and nodes of which a part ends: they don't go on by halves.

#[path = "common/engines.rs"]
mod engines;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use peerloom_core::memory::{MemoryDirectory, MemoryDiscovery, MemoryNetwork, MemoryStorage, MemoryTransport};
use peerloom_core::wire::{Address, DiscoveryItem, DiscoveryKey, PublicKey};
use peerloom_core::{
    Batch, Discovery, DiscoveryCaps, Error, ErrorKind, Found, Link, Listener, Result, Signaling, Snapshot, Storage,
    StorageCaps, Transport, TransportCaps,
};
use peerloom_engine::{Cursor, Engine, Event, MessageState};
use tokio::sync::Notify;

fn fault() -> Error {
    Error::new(ErrorKind::Storage, "test", "fail", "as the test wants")
}

/// Listens when it is allowed to, and says that it was shut down.
struct Ears {
    inner: MemoryTransport,
    deaf: AtomicBool,
    shut_down: AtomicBool,
}

impl Ears {
    fn new(number: u8, deaf: bool) -> Arc<Self> {
        let inner = engines::transport(number, &MemoryNetwork::default());
        Arc::new(Self { inner, deaf: AtomicBool::new(deaf), shut_down: AtomicBool::new(false) })
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

type OnAnnounce = Box<dyn Fn() -> futures_util::future::BoxFuture<'static, ()> + Send + Sync>;

/// Does what a test wants when it is used.
struct Finder {
    inner: MemoryDiscovery,
    on_announce: OnAnnounce,
    /// What is watched ends by a panic then.
    panics: Arc<Notify>,
}

impl Finder {
    fn new(on_announce: OnAnnounce) -> Self {
        let inner = MemoryDiscovery::new(&MemoryDirectory::default());
        Self { inner, on_announce, panics: Arc::default() }
    }
}

#[async_trait]
impl Discovery for Finder {
    fn caps(&self) -> DiscoveryCaps {
        self.inner.caps()
    }

    async fn publish(&self, item: DiscoveryItem) -> Result<()> {
        (self.on_announce)().await;
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
async fn a_node_whose_store_fails_while_it_starts_shuts_its_network_down() {
    let (ears, disk) = (Ears::new(1, false), Disk::new());
    let engine: Arc<OnceLock<Weak<Engine>>> = Arc::default();
    let (known, breaking) = (engine.clone(), disk.clone());
    let finder = Finder::new(Box::new(move || {
        let (engine, disk) = (known.get().and_then(Weak::upgrade).expect("an engine"), breaking.clone());
        Box::pin(async move {
            disk.broken.store(true, Ordering::Release);
            assert!(engine.invite(Duration::from_secs(60), 1).await.is_err(), "what fails in the store is noticed");
        })
    }));
    let layers = engines::layers(1, vec![ears.clone()], vec![Arc::new(finder)], disk, vec![engines::crypto(1, false)]);
    let node = Arc::new(Engine::open(layers, engines::config()).await.expect("an engine"));
    engine.set(Arc::downgrade(&node)).expect("once");
    assert!(node.start().await.is_err());
    assert!(ears.shut_down.load(Ordering::Acquire));
    assert!(node.addresses().await.is_empty(), "it isn't started");
}

#[tokio::test]
async fn a_panic_on_the_network_side_ends_the_node() {
    let finder = Finder::new(Box::new(|| Box::pin(async {})));
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

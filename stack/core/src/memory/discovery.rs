//! A directory that all nodes of a process share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use peerloom_wire::{DiscoveryItem, DiscoveryKey, ItemSlot, OpenItem};
use tokio::sync::broadcast;

use crate::sync::lock;
use crate::{CostTier, Discovery, DiscoveryCaps, Found, ItemKinds, Result};

/// Watchers that lag further than this lose the oldest items.
const WATCH_BUFFER: usize = 64;
/// Most device lists of one user, of those who don't know of each other's; of more, the oldest goes.
const LISTS: usize = 16;

/// Where all [`MemoryDiscovery`]s of a test meet.
#[derive(Clone)]
pub struct MemoryDirectory(Arc<Directory>);

struct Directory {
    items: Mutex<BTreeMap<ItemSlot, Vec<Kept>>>,
    news: broadcast::Sender<Found>,
    source: Arc<str>,
}

struct Kept {
    item: DiscoveryItem,
    open: OpenItem,
    since: Instant,
}

impl Default for MemoryDirectory {
    fn default() -> Self {
        let (news, _) = broadcast::channel(WATCH_BUFFER);
        Self(Arc::new(Directory { items: Mutex::default(), news, source: "memory".into() }))
    }
}

/// Publishes into, and finds in, a [`MemoryDirectory`].
pub struct MemoryDiscovery {
    directory: MemoryDirectory,
}

impl MemoryDiscovery {
    /// A node's access to the directory.
    pub fn new(directory: &MemoryDirectory) -> Self {
        Self { directory: directory.clone() }
    }
}

#[async_trait]
impl Discovery for MemoryDiscovery {
    fn caps(&self) -> DiscoveryCaps {
        DiscoveryCaps { cost: CostTier::Local, carries: ItemKinds::ALL }
    }

    async fn publish(&self, item: DiscoveryItem) -> Result<()> {
        // Nothing is verified: a discovery doesn't have to, the engine does.
        let open = item.open(|_, _, _| true)?;
        let directory = &self.directory.0;
        let found = Found { item: item.clone(), source: directory.source.clone(), age: Default::default() };
        {
            let mut items = lock(&directory.items);
            let kept = items.entry(open.slot()).or_default();
            match open.slot() {
                // Uniting them is for those who can verify.
                ItemSlot::DeviceList(_) => kept.retain(|known| known.item != item),
                _ => kept.clear(),
            }
            if kept.len() >= LISTS {
                kept.remove(0);
            }
            kept.push(Kept { item, open, since: Instant::now() });
        }
        // Fails only when nobody watches.
        let _ = directory.news.send(found);
        Ok(())
    }

    fn find(&self, key: DiscoveryKey) -> BoxStream<'_, Result<Found>> {
        let items = lock(&self.directory.0.items);
        let matching = items.values().flatten().filter(|kept| kept.open.answers(&key));
        let source = &self.directory.0.source;
        let found = matching
            .map(|kept| Ok(Found { item: kept.item.clone(), source: source.clone(), age: kept.since.elapsed() }));
        stream::iter(found.collect::<Vec<_>>()).boxed()
    }

    fn watch(&self) -> BoxStream<'static, Found> {
        crate::discovery::watch_stream(self.directory.0.news.subscribe())
    }

    async fn shutdown(&self) {}
}

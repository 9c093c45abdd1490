//! The records that were handed over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use peerloom_core::discovery::not_carried;
use peerloom_core::sync::lock;
use peerloom_core::wire::{DiscoveryItem, DiscoveryKey, ItemSlot, OpenItem, Signed};
use peerloom_core::{CostTier, Discovery, DiscoveryCaps, Error, ErrorKind, Found, ItemKinds, Result};
use tokio::sync::broadcast;

/// Most records kept. Whoever adds contacts keeps their records elsewhere for good; this is the way
/// there.
const MAX_RECORDS: usize = 4096;
/// Watchers that lag further than this lose the oldest records.
const WATCH_BUFFER: usize = 64;

/// Knows the records that were handed over since the node started.
pub struct InviteDiscovery {
    records: Mutex<HashMap<ItemSlot, Kept>>,
    /// Gone once shut down, which ends all watches.
    news: Mutex<Option<broadcast::Sender<Found>>>,
    source: Arc<str>,
}

struct Kept {
    item: DiscoveryItem,
    open: OpenItem,
    since: Instant,
}

impl Default for InviteDiscovery {
    fn default() -> Self {
        let news = Mutex::new(Some(broadcast::channel(WATCH_BUFFER).0));
        Self { records: Mutex::default(), news, source: "invite".into() }
    }
}

impl InviteDiscovery {
    /// Takes in a record, for instance one out of an invitation.
    pub fn hand_over(&self, record: Signed) -> Result<()> {
        let item = DiscoveryItem::Record(record);
        // The engine verifies records; only the ids are needed here.
        let open = item.open(|_, _, _| true)?;
        let mut records = lock(&self.records);
        if records.len() >= MAX_RECORDS && !records.contains_key(&open.slot()) {
            return Err(Error::new(ErrorKind::Overloaded, "invite", "hand over", "too many records; restart the node"));
        }
        records.insert(open.slot(), Kept { item: item.clone(), open, since: Instant::now() });
        if let Some(news) = &*lock(&self.news) {
            // Fails only when nobody watches.
            let _ = news.send(Found { item, source: self.source.clone(), age: Duration::ZERO });
        }
        Ok(())
    }
}

#[async_trait]
impl Discovery for InviteDiscovery {
    fn caps(&self) -> DiscoveryCaps {
        DiscoveryCaps { cost: CostTier::Local, carries: ItemKinds::RECORDS }
    }

    /// The own record is known like any other; it travels when a person hands over an invitation.
    async fn publish(&self, item: DiscoveryItem) -> Result<()> {
        match item {
            DiscoveryItem::Record(record) => self.hand_over(record),
            other => Err(not_carried("invite", &other)),
        }
    }

    fn find(&self, key: DiscoveryKey) -> BoxStream<'_, Result<Found>> {
        let records = lock(&self.records);
        let wanted = records.values().filter(|kept| kept.open.answers(&key));
        let found = wanted
            .map(|kept| Ok(Found { item: kept.item.clone(), source: self.source.clone(), age: kept.since.elapsed() }));
        stream::iter(found.collect::<Vec<_>>()).boxed()
    }

    fn watch(&self) -> BoxStream<'static, Found> {
        match &*lock(&self.news) {
            Some(news) => peerloom_core::discovery::watch_stream(news.subscribe()),
            None => stream::empty().boxed(),
        }
    }

    async fn shutdown(&self) {
        lock(&self.news).take();
    }
}

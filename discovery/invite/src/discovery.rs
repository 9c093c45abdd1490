//! The records that were handed over.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_core::wire::{DeviceId, PeerRecord, Signed, UserId};
use peerloom_core::{CostTier, Discovery, DiscoveryCaps, Error, ErrorKind, Result, Target};
use tokio::sync::broadcast;

/// Most records kept. Whoever adds contacts keeps their records elsewhere for good; this is the way
/// there.
const MAX_RECORDS: usize = 4096;
/// Watchers that lag further than this lose the oldest records.
const WATCH_BUFFER: usize = 64;

/// Knows the records that were handed over since the node started.
pub struct InviteDiscovery {
    records: Mutex<HashMap<DeviceId, (UserId, Signed)>>,
    /// Gone once shut down, which ends all watches.
    news: Mutex<Option<broadcast::Sender<Signed>>>,
}

impl Default for InviteDiscovery {
    fn default() -> Self {
        Self { records: Mutex::default(), news: Mutex::new(Some(broadcast::channel(WATCH_BUFFER).0)) }
    }
}

impl InviteDiscovery {
    /// Takes in a record, for instance one out of an invitation.
    pub fn hand_over(&self, record: Signed) -> Result<()> {
        // The engine verifies records; only the ids are needed here.
        let (_, certificate) = PeerRecord::open(&record, |_, _, _| true)?;
        let mut records = lock(&self.records);
        if records.len() >= MAX_RECORDS && !records.contains_key(&certificate.device) {
            return Err(Error::new(ErrorKind::Overloaded, "invite", "hand over", "too many records; restart the node"));
        }
        records.insert(certificate.device, (certificate.user, record.clone()));
        if let Some(news) = &*lock(&self.news) {
            // Fails only when nobody watches.
            let _ = news.send(record);
        }
        Ok(())
    }
}

#[async_trait]
impl Discovery for InviteDiscovery {
    fn caps(&self) -> DiscoveryCaps {
        DiscoveryCaps { cost: CostTier::Local }
    }

    /// The own record is known like any other; it travels when a person hands over an invitation.
    async fn announce(&self, record: Signed) -> Result<()> {
        self.hand_over(record)
    }

    async fn resolve(&self, target: Target) -> Result<Vec<Signed>> {
        let records = lock(&self.records);
        let wanted = |(device, (user, _)): &(&DeviceId, &(UserId, Signed))| match target {
            Target::User(target) => *user == target,
            Target::Device(target) => **device == target,
        };
        Ok(records.iter().filter(wanted).map(|(_, (_, record))| record.clone()).collect())
    }

    fn watch(&self) -> BoxStream<'static, Signed> {
        match &*lock(&self.news) {
            Some(news) => peerloom_core::discovery::watch_stream(news.subscribe()),
            None => futures_util::stream::empty().boxed(),
        }
    }

    async fn shutdown(&self) {
        lock(&self.news).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

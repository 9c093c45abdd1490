//! A directory that all nodes of a process share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use peerloom_wire::{DeviceCertificate, DeviceId, PeerRecord, Signed, UserId};
use tokio::sync::broadcast;

use super::storage::lock;
use crate::{CostTier, Discovery, DiscoveryCaps, Result, Target};

/// Watchers that lag further than this lose the oldest records.
const WATCH_BUFFER: usize = 64;

/// Where all [`MemoryDiscovery`]s of a test meet.
#[derive(Clone)]
pub struct MemoryDirectory(Arc<Directory>);

struct Directory {
    records: Mutex<BTreeMap<DeviceId, (UserId, Signed)>>,
    news: broadcast::Sender<Signed>,
}

impl Default for MemoryDirectory {
    fn default() -> Self {
        let (news, _) = broadcast::channel(WATCH_BUFFER);
        Self(Arc::new(Directory { records: Mutex::default(), news }))
    }
}

/// Announces into, and looks up in, a [`MemoryDirectory`].
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
        DiscoveryCaps { cost: CostTier::Local }
    }

    async fn announce(&self, record: Signed) -> Result<()> {
        let certificate = ids(&record)?;
        let directory = &self.directory.0;
        lock(&directory.records).insert(certificate.device, (certificate.user, record.clone()));
        // Fails only when nobody watches.
        let _ = directory.news.send(record);
        Ok(())
    }

    async fn resolve(&self, target: Target) -> Result<Vec<Signed>> {
        let records = lock(&self.directory.0.records);
        let matching = records.iter().filter(|(device, (user, _))| match target {
            Target::User(wanted) => *user == wanted,
            Target::Device(wanted) => **device == wanted,
        });
        Ok(matching.map(|(_, (_, record))| record.clone()).collect())
    }

    fn watch(&self) -> BoxStream<'static, Signed> {
        crate::discovery::watch_stream(self.directory.0.news.subscribe())
    }

    async fn shutdown(&self) {}
}

/// The ids in a record. Nothing is verified: a discovery doesn't have to, the engine does.
fn ids(record: &Signed) -> Result<DeviceCertificate> {
    Ok(PeerRecord::open(record, |_, _, _| true)?.1)
}

//! A store in a map.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use peerloom_wire::store::Table;

use crate::sync::lock;
use crate::{Batch, Error, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, Storage, StorageCaps};

type Tables = BTreeMap<Table, BTreeMap<Bytes, Bytes>>;

/// Keeps everything in memory. Clones share one store, so that a test can "restart" a node on it.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    tables: Arc<Mutex<Arc<Tables>>>,
    faults: Faults,
}

/// Makes a [`MemoryStorage`] fail on demand.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Option<Fault>>>);

struct Fault {
    /// Commits that still succeed.
    after: usize,
    kind: ErrorKind,
}

impl Faults {
    /// From now on every commit fails with `kind`; `None` ends it.
    pub fn fail_commits(&self, kind: Option<ErrorKind>) {
        *lock(&self.0) = kind.map(|kind| Fault { after: 0, kind });
    }

    /// So many commits succeed; then every one fails with `kind`, until [`fail_commits`](Self::fail_commits) ends it.
    pub fn fail_commits_after(&self, commits: usize, kind: ErrorKind) {
        *lock(&self.0) = Some(Fault { after: commits, kind });
    }
}

impl MemoryStorage {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The switch that makes commits fail.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl Storage for MemoryStorage {
    fn caps(&self) -> StorageCaps {
        StorageCaps { durable: false, ordered_ids: true, detects_damage: false }
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(MemorySnapshot(lock(&self.tables).clone())))
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        if let Some(fault) = lock(&self.faults.0).as_mut() {
            if fault.after == 0 {
                return Err(Error::new(fault.kind, "memory", "commit", "a test makes this store fail"));
            }
            fault.after -= 1;
        }
        let mut tables = lock(&self.tables);
        // Copies the tables when a snapshot still looks at them.
        let tables = Arc::make_mut(&mut tables);
        for write in batch.writes() {
            let table = tables.entry(write.table).or_default();
            match &write.value {
                Some(value) => table.insert(write.key.clone(), value.clone()),
                None => table.remove(&write.key),
            };
        }
        Ok(())
    }
}

struct MemorySnapshot(Arc<Tables>);

impl Snapshot for MemorySnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&table).and_then(|t| t.get(key)).cloned())
    }

    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        let (Some(table), Some(bounds)) = (self.0.get(&table), range.bounds()) else {
            return Ok(Vec::new());
        };
        let mut rows = table.range::<[u8], _>(bounds);
        let mut size = 0;
        let mut found = Vec::new();
        while found.len() < page.rows && size < page.bytes {
            let next = match order {
                Order::Ascending => rows.next(),
                Order::Descending => rows.next_back(),
            };
            let Some((key, value)) = next else { break };
            size += key.len() + value.len();
            found.push(Row { key: key.clone(), value: value.clone() });
        }
        Ok(found)
    }
}

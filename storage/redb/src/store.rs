//! The contract over redb.

use std::collections::HashMap;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use peerloom_core::wire::store::Table;
use peerloom_core::storage::Write;
use peerloom_core::{Batch, Error, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, Storage, StorageCaps};
use redb::{Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, TableError};

type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;
type OpenTable = Arc<ReadOnlyTable<&'static [u8], &'static [u8]>>;

/// A store in one redb file.
///
/// After an I/O error redb refuses everything until its file is opened again; this store then does
/// so at its next use, so that it works again as soon as the cause is gone.
pub struct RedbStorage {
    path: PathBuf,
    cache_bytes: usize,
    /// `None` after an I/O error.
    database: Mutex<Option<Arc<Database>>>,
}

impl RedbStorage {
    /// Opens the file, or makes it, with at most `cache_bytes` of cached pages.
    pub fn open(path: impl Into<PathBuf>, cache_bytes: usize) -> Result<Self> {
        let store = Self { path: path.into(), cache_bytes, database: Mutex::new(None) };
        store.database()?;
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>> {
        let mut slot = self.lock();
        if let Some(database) = &*slot {
            return Ok(database.clone());
        }
        let (path, cache) = (self.path.clone(), self.cache_bytes);
        // Damaged pages can make redb panic while it opens a file instead of returning an error.
        let opened = catch_unwind(move || Builder::new().set_cache_size(cache).create(path));
        let damaged = || error(ErrorKind::Malformed, "open", &self.path, "the file is damaged; restore it from a copy");
        let database = opened.map_err(|_| damaged())?.map_err(|e| self.explain("open", e.into()))?;
        let database = Arc::new(database);
        *slot = Some(database.clone());
        Ok(database)
    }

    fn write(&self, database: &Database, writes: &[&Write]) -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // A table can be open only once in a transaction.
        for group in writes.chunk_by(|a, b| a.table == b.table) {
            let Some(first) = group.first() else { continue };
            let mut table = transaction.open_table(Definition::new(first.table.name))?;
            for write in group {
                match &write.value {
                    Some(value) => table.insert(write.key.as_ref(), value.as_ref())?,
                    None => table.remove(write.key.as_ref())?,
                };
            }
        }
        Ok(transaction.commit()?)
    }

    fn explain(&self, operation: &'static str, cause: redb::Error) -> Error {
        explain(operation, &self.path, cause)
    }
}

impl Storage for RedbStorage {
    fn caps(&self) -> StorageCaps {
        StorageCaps { durable: true }
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let transaction = self.database()?.begin_read().map_err(|e| self.explain("read", e.into()))?;
        Ok(Box::new(RedbSnapshot { transaction, path: self.path.clone(), tables: Mutex::default() }))
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let database = self.database()?;
        let mut writes: Vec<&Write> = batch.writes().iter().collect();
        // Stable: the order within a table stays.
        writes.sort_by_key(|w| w.table);
        self.write(&database, &writes).map_err(|cause| {
            if matches!(cause, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed) {
                *self.lock() = None;
            }
            self.explain("commit", cause)
        })
    }
}

struct RedbSnapshot {
    transaction: ReadTransaction,
    path: PathBuf,
    tables: Mutex<HashMap<&'static str, Option<OpenTable>>>,
}

impl RedbSnapshot {
    fn table(&self, table: Table) -> Result<Option<OpenTable>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = tables.get(table.name) {
            return Ok(open.clone());
        }
        let open = match self.transaction.open_table(Definition::new(table.name)) {
            Ok(open) => Some(Arc::new(open)),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(cause) => return Err(explain("read", &self.path, cause.into())),
        };
        tables.insert(table.name, open.clone());
        Ok(open)
    }
}

impl Snapshot for RedbSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let Some(table) = self.table(table)? else { return Ok(None) };
        let value = table.get_owned(key).map_err(|e| explain("read", &self.path, e.into()))?;
        Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
    }

    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        let (Some(table), Some(bounds)) = (self.table(table)?, range.bounds()) else {
            return Ok(Vec::new());
        };
        let failed = |e: redb::StorageError| explain("read", &self.path, e.into());
        let mut rows = table.range_owned::<&[u8]>(bounds).map_err(failed)?;
        let mut found = Vec::new();
        let mut size = 0;
        while found.len() < page.rows && size < page.bytes {
            let next = match order {
                Order::Ascending => rows.next(),
                Order::Descending => rows.next_back(),
            };
            let Some((key, value)) = next.transpose().map_err(failed)? else { break };
            let row = Row {
                key: Bytes::copy_from_slice(key.value()),
                value: Bytes::copy_from_slice(value.value()),
            };
            size += row.key.len() + row.value.len();
            found.push(row);
        }
        Ok(found)
    }
}

fn error(kind: ErrorKind, operation: &'static str, path: &Path, advice: &str) -> Error {
    Error::new(kind, "redb", operation, format!("{}: {advice}", path.display()))
}

fn explain(operation: &'static str, path: &Path, cause: redb::Error) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, advice) = match &cause {
        redb::Error::DatabaseAlreadyOpen => {
            (ErrorKind::InUse, "another program has the store open; stop it, or use the node that runs on this folder")
        }
        redb::Error::UpgradeRequired(_) => {
            (ErrorKind::UnsupportedVersion, "the file has an older redb format; copy it with the release that wrote it")
        }
        redb::Error::Corrupted(m) if m.starts_with("Expected file format version") => {
            (ErrorKind::UnsupportedVersion, "the file was written by a newer redb; upgrade this program")
        }
        redb::Error::Corrupted(_) => (ErrorKind::Malformed, "the file is damaged; restore it from a copy"),
        redb::Error::Io(e) if e.kind() == Io::InvalidData => (
            ErrorKind::Malformed,
            "this is not a redb file; set storage.path to another file, or storage.kind to what wrote this one",
        ),
        redb::Error::Io(e) if matches!(e.kind(), Io::StorageFull | Io::QuotaExceeded) => {
            (ErrorKind::Full, "the disk is full; free some space and try again")
        }
        redb::Error::Io(e) if e.kind() == Io::PermissionDenied => {
            (ErrorKind::Storage, "no permission; check who owns the file and its folder")
        }
        redb::Error::Io(e) if e.kind() == Io::NotFound => {
            (ErrorKind::NotFound, "the folder does not exist; create it")
        }
        _ => (ErrorKind::Storage, "the store failed; see the cause, then try again"),
    };
    error(kind, operation, path, advice).source(cause)
}

//! The contract over redb.

use std::fs::{File, OpenOptions};
use std::ops::Bound;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use peerloom_core::storage::Write;
use peerloom_core::wire::store::Table;
use peerloom_core::{Batch, Error, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, Storage, StorageCaps};
use redb::{Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError};

type OpenTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// All tables are ranges of one redb table: a commit then writes one path of one tree where it would
/// write one for each table, which is most of what a small commit costs.
const ROWS: TableDefinition<'_, &'static [u8], &'static [u8]> = TableDefinition::new("rows");

/// A row's key in it: the table's name, a zero byte, the row's own key.
fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    [table.name.as_bytes(), &[0], key].concat()
}

/// A store in one redb file.
///
/// After an I/O error redb refuses everything until its file is opened again; this store then does
/// so at its next use, so that it works again as soon as the cause is gone.
pub struct RedbStorage {
    path: PathBuf,
    cache_bytes: usize,
    database: Slot,
}

/// The open database; `None` after an I/O error.
type Slot = Arc<Mutex<Option<Arc<Database>>>>;

impl RedbStorage {
    /// Opens the file, or makes it, with at most `cache_bytes` of cached pages.
    pub fn open(path: impl Into<PathBuf>, cache_bytes: usize) -> Result<Self> {
        let store = Self { path: path.into(), cache_bytes, database: Slot::default() };
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
        let (path, cache) = (&self.path, self.cache_bytes);
        // Damaged pages can make redb panic while it opens a file instead of returning an error.
        let file = private_file(path).map_err(|e| self.explain("open", redb::Error::Io(e)))?;
        let opened = catch_unwind(move || Builder::new().set_cache_size(cache).create_file(file));
        let damaged = || error(ErrorKind::Malformed, "open", &self.path, "the file is damaged; restore it from a copy");
        let database = opened.map_err(|_| damaged())?.map_err(|e| self.explain("open", e.into()))?;
        let database = Arc::new(database);
        *slot = Some(database.clone());
        Ok(database)
    }

    fn write(&self, database: &Database, writes: &[Write]) -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut rows = transaction.open_table(ROWS)?;
        for write in writes {
            let key = full_key(write.table, &write.key);
            match &write.value {
                Some(value) => rows.insert(key.as_slice(), value.as_ref())?,
                None => rows.remove(key.as_slice())?,
            };
        }
        drop(rows);
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
        let database = self.database()?;
        let failing =
            Failing { path: self.path.clone(), slot: self.database.clone(), database: Arc::downgrade(&database) };
        let transaction = database.begin_read().map_err(|e| failing.explain("read", e.into()))?;
        let rows = match transaction.open_table(ROWS) {
            Ok(rows) => Some(rows),
            // Nothing was written yet.
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(cause) => return Err(failing.explain("read", cause.into())),
        };
        Ok(Box::new(RedbSnapshot { rows, failing }))
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let database = self.database()?;
        let failing =
            Failing { path: self.path.clone(), slot: self.database.clone(), database: Arc::downgrade(&database) };
        self.write(&database, batch.writes()).map_err(|cause| failing.explain("commit", cause))
    }
}

struct RedbSnapshot {
    rows: Option<OpenTable>,
    failing: Failing,
}

/// What is to be done when an operation fails. It doesn't keep the database open.
struct Failing {
    path: PathBuf,
    slot: Slot,
    database: Weak<Database>,
}

impl Failing {
    /// After an I/O error the database is of no use any more: the next call opens it again.
    fn explain(&self, operation: &'static str, cause: redb::Error) -> Error {
        if matches!(cause, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed) {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            // Unless somebody has done so already.
            if slot.as_ref().is_some_and(|open| Weak::ptr_eq(&Arc::downgrade(open), &self.database)) {
                *slot = None;
            }
        }
        explain(operation, &self.path, cause)
    }
}

impl Snapshot for RedbSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let Some(rows) = &self.rows else {
            return Ok(None);
        };
        let value =
            rows.get_owned(full_key(table, key).as_slice()).map_err(|e| self.failing.explain("read", e.into()))?;
        Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
    }

    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        let Some(rows) = &self.rows else {
            return Ok(Vec::new());
        };
        let range = within(table, range);
        let Some(bounds) = range.bounds() else {
            return Ok(Vec::new());
        };
        let failed = |e: redb::StorageError| self.failing.explain("read", e.into());
        let mut rows = rows.range_owned::<&[u8]>(bounds).map_err(failed)?;
        let prefix = table.name.len() + 1;
        let mut found = Vec::new();
        let mut size = 0;
        while found.len() < page.rows && size < page.bytes {
            let next = match order {
                Order::Ascending => rows.next(),
                Order::Descending => rows.next_back(),
            };
            let Some((key, value)) = next.transpose().map_err(failed)? else {
                break;
            };
            let row = Row {
                key: Bytes::copy_from_slice(key.value().get(prefix..).unwrap_or_default()),
                value: Bytes::copy_from_slice(value.value()),
            };
            size += row.key.len() + row.value.len();
            found.push(row);
        }
        Ok(found)
    }
}

/// Opens the file, or makes it, for this user alone: keys and messages are in there.
fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A table's range as a range of all rows.
fn within(table: Table, range: &KeyRange) -> KeyRange {
    let whole = KeyRange::prefix(&full_key(table, &[]));
    let full = |bound: &Bound<Vec<u8>>, open: Bound<Vec<u8>>| match bound {
        Bound::Included(key) => Bound::Included(full_key(table, key)),
        Bound::Excluded(key) => Bound::Excluded(full_key(table, key)),
        Bound::Unbounded => open,
    };
    KeyRange { start: full(&range.start, whole.start), end: full(&range.end, whole.end) }
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
        redb::Error::Io(e) if e.kind() == Io::NotFound => (ErrorKind::NotFound, "the folder does not exist; create it"),
        _ => (ErrorKind::Storage, "the store failed; see the cause, then try again"),
    };
    error(kind, operation, path, advice).source(cause)
}

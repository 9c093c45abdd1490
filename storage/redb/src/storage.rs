//! The contract over redb.

use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::storage::DAMAGED_REMEDY;
use peerloom_core::sync::lock;
use peerloom_core::wire::store::Table;
use peerloom_core::{Batch, Error, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, Storage, StorageCaps};
use peerloom_core::{panics, private};
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
    WriteTransaction,
};

use crate::journal::Journal;
use crate::rows::{PARTS, ROWS, Writer, full_key, join};

/// The salt of the journal that belongs to the file.
const JOURNAL: TableDefinition<'_, (), u64> = TableDefinition::new("journal");
/// Batches of this size and more go to redb's file at once: writing them twice would cost more than
/// their scattered pages.
const LARGE: usize = 128 * 1024;
/// Once the journal has that much, the next batch goes to redb's file with all of it.
const JOURNAL_LIMIT: u64 = 2 * 1024 * 1024;

/// What is wrong, and what helps.
fn damaged() -> String {
    format!("the file is damaged; {DAMAGED_REMEDY}")
}

/// A store in one redb file, and a journal beside it.
///
/// After an I/O error redb refuses everything until its file is opened again; this store then does
/// so at its next use, so that it works again as soon as the cause is gone.
pub struct RedbStorage {
    path: PathBuf,
    cache_bytes: usize,
    slot: Slot,
}

/// What is open; `None` after an I/O error.
type Slot = Arc<Mutex<Option<Arc<Open>>>>;

struct Open {
    database: Database,
    /// What redb's file may lack. Held during a commit.
    journal: Mutex<Journal>,
    /// What not even redb's memory has: rows of the journal's last batch. Held for moments.
    rows: Mutex<Vec<FullRow>>,
}

/// A row with its full key; without a value it is deleted.
struct FullRow {
    key: Vec<u8>,
    value: Option<Bytes>,
}

impl RedbStorage {
    /// Opens the file, or makes it, with at most `cache_bytes` of cached pages.
    pub fn open(path: impl Into<PathBuf>, cache_bytes: usize) -> Result<Self> {
        let store = Self { path: path.into(), cache_bytes, slot: Slot::default() };
        store.opened()?;
        Ok(store)
    }

    fn opened(&self) -> Result<Arc<Open>> {
        let mut slot = lock(&self.slot);
        if let Some(open) = &*slot {
            return Ok(open.clone());
        }
        let mut tries = 0;
        let open = loop {
            let file = private::open(&self.path)?;
            let journal = private::open(&journal_path(&self.path))?;
            match guarded(|| Open::new(&self.path, file, journal, self.cache_bytes)) {
                // After an error another thread may still be about to let go of the file.
                Err(redb::Error::DatabaseAlreadyOpen) if tries < 10 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => break outcome.map_err(|e| explain("open", &self.path, e))?,
            }
        };
        Ok(slot.insert(Arc::new(open)).clone())
    }

    fn failing(&self, open: &Arc<Open>) -> Failing {
        Failing { path: self.path.clone(), slot: Arc::downgrade(&self.slot), open: Arc::downgrade(open) }
    }
}

impl Open {
    fn new(path: &Path, file: File, journal: File, cache_bytes: usize) -> Result<Self, redb::Error> {
        let database = Builder::new().set_cache_size(cache_bytes).create_file(file)?;
        let mut transaction = database.begin_write()?;
        let known = transaction.open_table(JOURNAL)?.get(())?.map(|salt| salt.value());
        // Written before there was a journal.
        if known.is_none() && transaction.list_tables()?.any(|table| table.name() == "rows") {
            return Err(redb::Error::UpgradeRequired(1));
        }
        let mut writer = Writer::open(&transaction)?;
        let mut journal = Journal::open(journal, known.unwrap_or_default(), |batch| {
            let mut writes = batch.iter();
            writes.try_for_each(|w| writer.write(&w.key, w.value.as_deref())).map_err(std::io::Error::other)
        })
        .map_err(journal_error)?;
        drop(writer);
        // What was read may not be on the disk yet, if the program was killed while it wrote it. From
        // here on it is.
        let salt = if known.is_none() || journal.size() > 0 { Some(renew_salt(&transaction)?) } else { None };
        make_durable(&mut transaction)?;
        transaction.commit()?;
        salt.into_iter().for_each(|salt| journal.begin(salt));
        // A crash of the machine must not take the files' names.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(Self { database, journal: Mutex::new(journal), rows: Mutex::default() })
    }

    fn commit(&self, batch: &Batch) -> Result<(), redb::Error> {
        let mut journal = lock(&self.journal);
        self.catch_up()?;
        let rows = batch.writes().iter().map(|w| FullRow { key: full_key(w.table, &w.key), value: w.value.clone() });
        let rows: Vec<_> = rows.collect();
        if batch.size() >= LARGE || journal.size() >= JOURNAL_LIMIT {
            return self.merge(&mut journal, &rows);
        }
        journal.append(rows.iter().map(|row| (row.key.as_slice(), row.value.as_deref())))?;
        *lock(&self.rows) = rows;
        Ok(())
    }

    /// Gives redb's memory what the journal has.
    fn catch_up(&self) -> Result<(), redb::Error> {
        let mut rows = lock(&self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        guarded(|| {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            write(&transaction, &rows)?;
            Ok(transaction.commit()?)
        })?;
        rows.clear();
        Ok(())
    }

    /// Gives redb's file everything; the journal is empty afterwards.
    fn merge(&self, journal: &mut Journal, rows: &[FullRow]) -> Result<(), redb::Error> {
        let salt = guarded(|| {
            let mut transaction = self.database.begin_write()?;
            make_durable(&mut transaction)?;
            write(&transaction, rows)?;
            let salt = renew_salt(&transaction)?;
            transaction.commit()?;
            Ok(salt)
        })?;
        journal.begin(salt);
        Ok(())
    }
}

/// In two phases: a commit that turns out damaged is then an error. In one, redb would go back to the
/// commit before, and take the journal after it for void.
fn make_durable(transaction: &mut WriteTransaction) -> Result<(), redb::Error> {
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    Ok(())
}

/// Damaged pages can make redb panic instead of returning an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let panicked = |_| Err(redb::Error::Corrupted("reading or writing a page panicked".into()));
    panics::expected(work).unwrap_or_else(panicked)
}

fn write(transaction: &WriteTransaction, rows: &[FullRow]) -> Result<(), redb::Error> {
    let mut writer = Writer::open(transaction)?;
    rows.iter().try_for_each(|row| writer.write(&row.key, row.value.as_deref()))
}

impl Drop for Open {
    /// Leaves all in one file, so that a copy of it is whole. Where that fails the journal still has it.
    fn drop(&mut self) {
        let mut journal = lock(&self.journal);
        if journal.is_abandoned() {
            return;
        }
        let empty = journal.size() == 0;
        if empty || self.catch_up().is_ok() && self.merge(&mut journal, &[]).is_ok() {
            // A copy of the file must not meet records that aren't its own.
            let _ = journal.clear();
        }
    }
}

/// What the journal's error means.
fn journal_error(error: std::io::Error) -> redb::Error {
    match error.kind() {
        std::io::ErrorKind::InvalidData => redb::Error::Corrupted(error.to_string()),
        std::io::ErrorKind::Other => match error.downcast::<redb::Error>() {
            Ok(inner) => inner,
            Err(error) => redb::Error::Io(error),
        },
        _ => redb::Error::Io(error),
    }
}

/// Makes all records of the journal void once the transaction is committed. Chance makes it unlikely
/// enough that an old record, or bytes that a peer sent, pass for a new one.
fn renew_salt(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let salt = getrandom::u64().map_err(|e| redb::Error::Io(e.into()))?;
    transaction.open_table(JOURNAL)?.insert((), salt)?;
    Ok(salt)
}

fn journal_path(path: &Path) -> PathBuf {
    private::beside(path, "-journal")
}

impl Storage for RedbStorage {
    fn caps(&self) -> StorageCaps {
        StorageCaps { durable: true, ordered_ids: true, detects_damage: false }
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let open = self.opened()?;
        let failing = self.failing(&open);
        open.catch_up().map_err(|cause| failing.explain("settle", cause))?;
        let transaction = open.database.begin_read().map_err(|e| failing.explain("read", e.into()))?;
        let table = |definition| transaction.open_table(definition);
        match (table(ROWS), table(PARTS)) {
            (Ok(rows), Ok(parts)) => Ok(Box::new(RedbSnapshot { rows, parts, failing })),
            (Err(cause), _) | (_, Err(cause)) => Err(failing.explain("read", cause.into())),
        }
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let open = self.opened()?;
        let failing = self.failing(&open);
        open.commit(batch).map_err(|cause| failing.explain("commit", cause))
    }

    fn verify(&self) -> Result<()> {
        self.opened()?;
        let mut slot = lock(&self.slot);
        let Some(open) = slot.take() else { return Ok(()) };
        // redb wants its file for itself.
        let mut open = match Arc::try_unwrap(open) {
            Ok(open) => open,
            Err(open) => {
                *slot = Some(open);
                return Err(error(ErrorKind::InUse, "verify", &self.path, "the store is being used; end that first"));
            }
        };
        match guarded(|| Ok(open.database.check_integrity()?)) {
            Ok(true) => {
                *slot = Some(Arc::new(open));
                Ok(())
            }
            outcome => {
                // What redb made of the damage must not become the truth: the journal stays as it is.
                lock(&open.journal).abandon();
                lock(&open.rows).clear();
                match outcome {
                    Err(cause) => Err(explain("verify", &self.path, cause)),
                    Ok(_) => Err(error(ErrorKind::Malformed, "verify", &self.path, &damaged())),
                }
            }
        }
    }

    fn settle(&self) -> Result<()> {
        let open = self.opened()?;
        open.catch_up().map_err(|cause| self.failing(&open).explain("settle", cause))
    }
}

struct RedbSnapshot {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    parts: ReadOnlyTable<&'static [u8], &'static [u8]>,
    failing: Failing,
}

/// What is to be done when an operation fails. It doesn't keep the database open.
struct Failing {
    path: PathBuf,
    slot: Weak<Mutex<Option<Arc<Open>>>>,
    open: Weak<Open>,
}

impl Failing {
    /// After most errors the database is of no use any more: the next call opens it again, and reads
    /// the journal. A damaged row is an error of its reader alone.
    fn explain(&self, operation: &'static str, cause: redb::Error) -> Error {
        let row_alone = operation == "read" && matches!(cause, redb::Error::Corrupted(_));
        if let Some(slot) = self.slot.upgrade().filter(|_| !row_alone) {
            let mut slot = lock(&slot);
            // Unless another call has done so already.
            if slot.as_ref().is_some_and(|open| Weak::ptr_eq(&Arc::downgrade(open), &self.open)) {
                *slot = None;
            }
        }
        explain(operation, &self.path, cause)
    }
}

impl RedbSnapshot {
    fn read<T>(&self, read: impl FnOnce() -> Result<T, redb::StorageError>) -> Result<T> {
        guarded(|| Ok(read()?)).map_err(|cause| self.failing.explain("read", cause))
    }
}

impl Snapshot for RedbSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let key = full_key(table, key);
        self.read(|| {
            let stored = self.rows.get(key.as_slice())?;
            stored.map(|stored| join(&self.parts, &key, &stored)).transpose()
        })
    }

    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        let range = within(table, range);
        let Some(bounds) = range.bounds() else {
            return Ok(Vec::new());
        };
        let prefix = table.name.len() + 1;
        self.read(|| {
            let mut rows = self.rows.range::<&[u8]>(bounds)?;
            let (mut found, mut size) = (Vec::new(), 0);
            while found.len() < page.rows && size < page.bytes {
                let next = match order {
                    Order::Ascending => rows.next(),
                    Order::Descending => rows.next_back(),
                };
                let Some((key, stored)) = next.transpose()? else { break };
                let value = join(&self.parts, key.value(), &stored)?;
                let row = Row { key: Bytes::copy_from_slice(key.value().get(prefix..).unwrap_or_default()), value };
                size += row.key.len() + row.value.len();
                found.push(row);
            }
            Ok(found)
        })
    }
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
    let damaged = damaged();
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
        redb::Error::Corrupted(_) => (ErrorKind::Malformed, &*damaged),
        // The file is shorter than it says.
        redb::Error::Io(e) if e.kind() == Io::UnexpectedEof => (ErrorKind::Malformed, &*damaged),
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
    error(kind, operation, path, advice).with_source(cause)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use peerloom_core::wire::store::META;

    use super::*;

    fn put(storage: &RedbStorage, number: u8, size: usize) {
        let mut batch = Batch::default();
        batch.put(META, vec![number], vec![number; size]);
        storage.commit(&batch).unwrap();
    }

    fn has(storage: &RedbStorage, number: u8) -> bool {
        storage.snapshot().unwrap().get(META, &[number]).unwrap().is_some()
    }

    /// As a crash leaves it: nothing of what happens when a store is let go.
    fn crashed_copy(from: &Path, to: &Path) {
        std::fs::copy(from, to).unwrap();
        std::fs::copy(journal_path(from), journal_path(to)).unwrap();
    }

    #[test]
    fn the_journal_survives_a_crash_and_a_closed_store_needs_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("a"), folder.path().join("b"));
        let storage = RedbStorage::open(&path, 1 << 20).unwrap();
        (1..20).for_each(|number| put(&storage, number, 100));
        crashed_copy(&path, &copy);
        let reopened = RedbStorage::open(&copy, 1 << 20).unwrap();
        assert!((1..20).all(|number| has(&reopened, number)));
        drop(reopened);
        std::fs::remove_file(journal_path(&copy)).unwrap();
        let alone = RedbStorage::open(&copy, 1 << 20).unwrap();
        assert!((1..20).all(|number| has(&alone, number)));
    }

    /// A damaged page of the last durable commit must not make the batches after it void.
    #[test]
    fn damage_before_the_journal_is_not_taken_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("a"), folder.path().join("b"));
        let storage = RedbStorage::open(&path, 1 << 20).unwrap();
        put(&storage, 1, 300_000);
        put(&storage, 2, 100);
        let size = std::fs::metadata(&path).unwrap().len();
        let mut noticed = 0;
        for page in 1..size / 4096 {
            crashed_copy(&path, &copy);
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&copy).unwrap();
            let mut bytes = [0; 64];
            file.read_exact_at(&mut bytes, page * 4096).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
            file.write_all_at(&bytes, page * 4096).unwrap();
            let opened = RedbStorage::open(&copy, 1 << 20);
            let read = opened.and_then(|s| s.verify().and_then(|()| s.snapshot()));
            match read {
                Ok(snapshot) => assert!([1, 2].iter().all(|n| snapshot.get(META, &[*n]).unwrap().is_some()), "{page}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
                    noticed += 1;
                }
            }
        }
        assert!(noticed > 0);
    }
}

//! The contract over SQLite.

use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::private;
use peerloom_core::storage::DAMAGED_REMEDY;
use peerloom_core::sync::lock;
use peerloom_core::wire::store::{TABLES, Table};
use peerloom_core::{Batch, Error, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, Storage, StorageCaps};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, ffi, params_from_iter};

/// "peer" in ASCII: `file` and SQLite's tools show whose database it is.
const APPLICATION_ID: i32 = 0x7065_6572;
/// Of the tables below.
const FORMAT: i32 = 1;
/// How long another program may hold the database before a call fails.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes in a page of a new database: with SQLite's 4,096 a bundle of messages is a chain of so many pages
/// that writing takes twice as long; with more than this a lone message writes much for nothing.
const PAGE: i64 = 16 * 1024;
/// From this size on the write-ahead log is emptied when nobody waits: readers that overlap keep SQLite
/// from beginning it again by itself.
const WAL_LIMIT: u64 = 32 * 1024 * 1024;
/// What SQLite adds to the database's name for its own files beside it.
const BESIDE: [&str; 3] = ["-journal", "-wal", "-shm"];
/// Reading connections kept for the next snapshot.
const SPARE: usize = 4;

/// A store in one SQLite database, each table a table of it.
pub struct SqliteStorage {
    path: PathBuf,
    cache_mib: u32,
    writer: Mutex<Connection>,
    readers: Readers,
    /// Locked as long as the store is open: two nodes must not share one.
    _owner: File,
}

/// Connections that no snapshot uses.
type Readers = Arc<Mutex<Vec<Connection>>>;

impl SqliteStorage {
    /// Opens the database, or makes it, with at most `cache_mib` of cached pages in each connection.
    pub fn open(path: impl Into<PathBuf>, cache_mib: u32) -> Result<Self> {
        let path = path.into();
        let owner = own(&path)?;
        let failed = |cause| explain("open", &path, cause);
        // Made here so that nobody else can read it at any moment. SQLite gives its mode to those beside it.
        private::open(&path)?;
        BESIDE.into_iter().try_for_each(|suffix| private::check(&private::beside(&path, suffix)))?;
        let writer = connect(&path, cache_mib).map_err(failed)?;
        check_format(&writer, &path)?;
        // Counts for a new database only.
        writer.pragma_update(None, "page_size", PAGE).map_err(failed)?;
        let mode = writer.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        if mode.map_err(failed)? != "wal" {
            let advice = "its file system can't hold a write-ahead log; set storage.path to a local one";
            return Err(error(ErrorKind::Storage, "open", &path, advice));
        }
        writer.pragma_update(None, "journal_size_limit", WAL_LIMIT as i64).map_err(failed)?;
        writer.pragma_update(None, "synchronous", "full").map_err(failed)?;
        let tables = TABLES.map(|table| {
            let name = table.name;
            format!("CREATE TABLE IF NOT EXISTS {name} (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;")
        });
        let version = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};");
        writer.execute_batch(&format!("BEGIN IMMEDIATE; {} {version} COMMIT;", tables.concat())).map_err(failed)?;
        Ok(Self { cache_mib, writer: Mutex::new(writer), readers: Readers::default(), _owner: owner, path })
    }
}

/// The lock that says that a node has this database open.
fn own(path: &Path) -> Result<File> {
    let file = private::open(&private::beside(path, "-lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(error(
            ErrorKind::InUse,
            "open",
            path,
            "another program has the store open; stop it, or use the node that runs on this folder",
        )),
        Err(std::fs::TryLockError::Error(e)) => Err(cannot_open(path, e)),
    }
}

fn connect(path: &Path, cache_mib: u32) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "cache_size", -(i64::from(cache_mib) * 1024))?;
    // A damaged page is an error, never a wrong row, as far as SQLite can tell.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Refuses databases of other programs and of later versions.
fn check_format(connection: &Connection, path: &Path) -> Result<()> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let read = || Ok((pragma("application_id")?, pragma("user_version")?, pragma("schema_version")?));
    match read().map_err(|cause| explain("open", path, cause))? {
        (APPLICATION_ID, ..=FORMAT, _) | (0, 0, 0) => Ok(()),
        (APPLICATION_ID, ..) => Err(error(
            ErrorKind::UnsupportedVersion,
            "open",
            path,
            "the database was written by a newer version; upgrade this program",
        )),
        _ => Err(error(
            ErrorKind::Malformed,
            "open",
            path,
            "the database belongs to another program; set storage.path to another file",
        )),
    }
}

impl Storage for SqliteStorage {
    fn caps(&self) -> StorageCaps {
        StorageCaps { durable: true, ordered_ids: true, detects_damage: false }
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let spare = lock(&self.readers).pop();
        let begin = || {
            let connection = match spare {
                Some(connection) => connection,
                None => {
                    let connection = connect(&self.path, self.cache_mib)?;
                    connection.pragma_update(None, "query_only", true)?;
                    connection
                }
            };
            // The first read fixes what the transaction sees.
            connection.execute_batch("BEGIN")?;
            connection.prepare_cached("SELECT 1 FROM meta LIMIT 1")?.query([])?.next()?;
            Ok(connection)
        };
        let connection = begin().map_err(|cause| explain("read", &self.path, cause))?;
        Ok(Box::new(SqliteSnapshot {
            path: self.path.clone(),
            readers: self.readers.clone(),
            connection: Some(connection),
        }))
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut writer = lock(&self.writer);
        let mut commit = || {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for write in batch.writes() {
                let table = write.table.name;
                match &write.value {
                    Some(value) => transaction
                        .prepare_cached(&format!("INSERT OR REPLACE INTO {table} VALUES (?, ?)"))?
                        .execute((&write.key[..], &value[..]))?,
                    None => transaction
                        .prepare_cached(&format!("DELETE FROM {table} WHERE key = ?"))?
                        .execute((&write.key[..],))?,
                };
            }
            transaction.commit()
        };
        commit().map_err(|cause| explain("commit", &self.path, cause))
    }

    fn settle(&self) -> Result<()> {
        let mut log = self.path.as_os_str().to_owned();
        log.push("-wal");
        if std::fs::metadata(log).is_ok_and(|log| log.len() > WAL_LIMIT) {
            let writer = lock(&self.writer);
            // A reader may be in the way; then it is done after a later commit.
            let emptied = writer
                .busy_timeout(Duration::ZERO)
                .and_then(|()| writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
                .and_then(|()| writer.busy_timeout(PATIENCE));
            emptied.map_err(|cause| explain("settle", &self.path, cause))?;
        }
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        let writer = lock(&self.writer);
        let found = writer.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        match found.map_err(|cause| explain("verify", &self.path, cause))?.as_str() {
            "ok" => Ok(()),
            found => {
                let message = format!("the database is damaged ({found}); {DAMAGED_REMEDY}");
                Err(error(ErrorKind::Malformed, "verify", &self.path, &message))
            }
        }
    }
}

struct SqliteSnapshot {
    path: PathBuf,
    readers: Readers,
    /// `None` only while it is dropped.
    connection: Option<Connection>,
}

impl SqliteSnapshot {
    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let closed = || Err(error(ErrorKind::Closed, "read", &self.path, "the snapshot is closed"));
        match &self.connection {
            Some(connection) => read(connection).map_err(|cause| explain("read", &self.path, cause)),
            None => closed(),
        }
    }
}

impl Snapshot for SqliteSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(|connection| {
            let mut query = connection.prepare_cached(&format!("SELECT value FROM {} WHERE key = ?", table.name))?;
            query.query_row((key,), |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))).optional()
        })
    }

    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        let Some((start, end)) = range.bounds() else {
            return Ok(Vec::new());
        };
        let mut conditions = Vec::new();
        let mut parameters = Vec::new();
        for (bound, included, excluded) in [(start, "key >= ?", "key > ?"), (end, "key <= ?", "key < ?")] {
            let (condition, key) = match bound {
                Bound::Included(key) => (included, key),
                Bound::Excluded(key) => (excluded, key),
                Bound::Unbounded => continue,
            };
            conditions.push(condition);
            parameters.push(Value::Blob(key.to_vec()));
        }
        let filter = if conditions.is_empty() { "1".into() } else { conditions.join(" AND ") };
        let direction = if order == Order::Ascending { "ASC" } else { "DESC" };
        let name = table.name;
        self.read(|connection| {
            let text = format!("SELECT key, value FROM {name} WHERE {filter} ORDER BY key {direction}");
            let mut query = connection.prepare_cached(&text)?;
            let mut rows = query.query(params_from_iter(parameters))?;
            let (mut found, mut size) = (Vec::new(), 0);
            while found.len() < page.rows && size < page.bytes {
                let Some(row) = rows.next()? else { break };
                let key = Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?);
                let value = Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?);
                size += key.len() + value.len();
                found.push(Row { key, value });
            }
            Ok(found)
        })
    }
}

impl Drop for SqliteSnapshot {
    /// Hands the connection to the next snapshot.
    fn drop(&mut self) {
        let mut readers = lock(&self.readers);
        if let Some(connection) = self.connection.take()
            && connection.execute_batch("ROLLBACK").is_ok()
            && readers.len() < SPARE
        {
            readers.push(connection);
        }
    }
}

fn error(kind: ErrorKind, operation: &'static str, path: &Path, advice: &str) -> Error {
    Error::new(kind, "sqlite", operation, format!("{}: {advice}", path.display()))
}

fn cannot_open(path: &Path, cause: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, advice) = match cause.kind() {
        Io::NotFound => (ErrorKind::NotFound, "the folder does not exist; create it"),
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Full, "the disk is full; free some space and try again"),
        _ => (ErrorKind::Storage, "the file can't be opened; check who owns it and its folder"),
    };
    error(kind, "open", path, advice).with_source(cause)
}

fn explain(operation: &'static str, path: &Path, cause: rusqlite::Error) -> Error {
    use ffi::ErrorCode as Code;
    let damaged = format!("the database is damaged; {DAMAGED_REMEDY}");
    let (kind, advice) = match cause.sqlite_error_code() {
        Some(Code::DiskFull) => (ErrorKind::Full, "the disk is full; free some space and try again"),
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
            (ErrorKind::InUse, "another program has the database locked; end what it does there, then try again")
        }
        Some(Code::DatabaseCorrupt) => (ErrorKind::Malformed, &*damaged),
        Some(Code::NotADatabase) => (
            ErrorKind::Malformed,
            "this is not an SQLite database; set storage.path to another file, or storage.kind to what wrote this one",
        ),
        Some(Code::PermissionDenied | Code::ReadOnly) => {
            (ErrorKind::Storage, "no permission; check who owns the file and its folder")
        }
        _ => (ErrorKind::Storage, "the store failed; see the cause, then try again"),
    };
    error(kind, operation, path, advice).with_source(cause)
}

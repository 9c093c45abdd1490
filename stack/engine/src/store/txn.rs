//! Read-your-writes over batches that are not durable yet.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use peerloom_core::storage::DAMAGED_REMEDY;
use peerloom_core::wire::store::{CRYPTO, Record, Table};
use peerloom_core::{Batch, Error, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, StateTxn, Storage};
use peerloom_crypto_primitives::sha256;
use peerloom_wire::SuiteId;
use tracing::error;

type Writes = BTreeMap<(Table, Bytes), Option<Bytes>>;

/// The store as it will be once everything submitted is committed. Belongs to one thread.
pub(crate) struct View {
    storage: Arc<dyn Storage>,
    /// Submitted batches that may not be committed yet, oldest first, with their sequence.
    submitted: VecDeque<(u64, Writes)>,
}

impl View {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, submitted: VecDeque::new() }
    }

    /// Forgets batches that are committed. Only at the beginning of a transaction: a snapshot taken
    /// later sees them.
    pub(crate) fn begin(&mut self, committed: u64) -> Txn<'_> {
        while self.submitted.front().is_some_and(|(sequence, _)| *sequence <= committed) {
            self.submitted.pop_front();
        }
        Txn { view: self, snapshot: OnceCell::new(), writes: Writes::new(), failure: RefCell::default() }
    }

    /// Notes what a transaction wrote, and makes a batch of it.
    pub(crate) fn submit(&mut self, sequence: u64, writes: Writes) -> Batch {
        let mut batch = Batch::default();
        for ((table, key), value) in &writes {
            match value {
                Some(value) => batch.put(*table, key.clone(), value.clone()),
                None => batch.delete(*table, key.clone()),
            }
        }
        self.submitted.push_back((sequence, writes));
        batch
    }

    /// Forgets everything submitted: it was not committed.
    pub(crate) fn reset(&mut self) {
        self.submitted.clear();
    }
}

/// One turn's reads and writes.
pub(crate) struct Txn<'a> {
    view: &'a mut View,
    snapshot: OnceCell<Box<dyn Snapshot>>,
    writes: Writes,
    /// That a read of a crypto's failed, but for damage: the crypto may tell it as something else.
    failure: RefCell<Option<Error>>,
}

impl Txn<'_> {
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let wanted = (table, Bytes::copy_from_slice(key));
        if let Some(value) = self.layers().find_map(|writes| writes.get(&wanted)) {
            return Ok(value.clone());
        }
        self.snapshot()?.get(table, key).map_err(own_fault)
    }

    /// The value of a key; a damaged one counts as missing.
    pub(crate) fn sound(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.get(table, key);
        self.or_missing(table, value)
    }

    /// The record of a key; a damaged one counts as missing.
    pub(crate) fn sound_record<R: Record>(&self, table: Table, key: &[u8]) -> Result<Option<R>> {
        let record = self.record(table, key);
        self.or_missing(table, record)
    }

    fn or_missing<T>(&self, table: Table, read: Result<Option<T>>) -> Result<Option<T>> {
        match read {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                error!(table = table.name, %error, "a damaged row counts as missing");
                Ok(None)
            }
            read => read,
        }
    }

    /// The records of a range, in order; damaged ones are left out.
    pub(crate) fn sound_records<R: Record>(&self, table: Table, range: &KeyRange) -> Result<Vec<(Bytes, R)>> {
        let rows = self.scan(table, range)?.into_iter();
        let records = rows.filter_map(|row| match stored(row.value) {
            Ok(record) => Some((row.key, record)),
            Err(error) => {
                error!(table = table.name, %error, "a damaged row is left out");
                None
            }
        });
        Ok(records.collect())
    }

    /// Whether scans met damaged rows of a table.
    pub(crate) fn has_damaged(&self, table: Table) -> Result<bool> {
        Ok(self.snapshot()?.damaged().iter().any(|(damaged, _)| *damaged == table))
    }

    /// The keys of the damaged rows of a table that scans met, as far as they begin so.
    pub(crate) fn damaged_keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Bytes>> {
        let damaged = self.snapshot()?.damaged().into_iter();
        Ok(damaged.filter(|(of, key)| *of == table && key.starts_with(prefix)).map(|(_, key)| key).collect())
    }

    /// Why the store failed under a crypto, if it did.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.take()
    }

    /// The record of a key. A damaged one is this node's failure, whichever peer caused the read.
    pub(crate) fn record<R: Record>(&self, table: Table, key: &[u8]) -> Result<Option<R>> {
        self.get(table, key)?.map(stored).transpose()
    }

    /// The highest key of a table from which nothing is deleted.
    pub(crate) fn last_key(&self, table: Table) -> Result<Option<Bytes>> {
        let page = self.snapshot()?.scan(table, &KeyRange::all(), Order::Descending, Page::ONE).map_err(own_fault)?;
        let written = self.layers().filter_map(|writes| {
            let until = (table, Bytes::from_static(&[u8::MAX; 16]));
            writes.range((table, Bytes::new())..until).next_back().map(|((_, key), _)| key.clone())
        });
        Ok(written.chain(page.into_iter().map(|row| row.key)).max())
    }

    /// All rows of a range, in order: for what is short by design.
    pub(crate) fn scan(&self, table: Table, range: &KeyRange) -> Result<Vec<Row>> {
        let (mut rows, mut rest) = (Vec::new(), Some(range.clone()));
        while let Some(range) = rest {
            let part;
            (part, rest) = self.part(table, &range)?;
            rows.extend(part);
        }
        Ok(rows)
    }

    /// The first page of a range, in order, and the rest of the range, if there is one.
    pub(crate) fn part(&self, table: Table, range: &KeyRange) -> Result<(Vec<Row>, Option<KeyRange>)> {
        let page = self.snapshot()?.scan(table, range, Order::Ascending, Page::DEFAULT).map_err(own_fault)?;
        let rest = page.last().map(|last| range.clone().after(&last.key));
        let until = page.last().map(|last| last.key.clone());
        let mut rows: BTreeMap<Bytes, Bytes> = page.into_iter().map(|row| (row.key, row.value)).collect();
        // Oldest layer first, so that the newest write wins.
        let layers: Vec<_> = self.layers().collect();
        for writes in layers.into_iter().rev() {
            let from = (table, Bytes::new());
            for ((_, key), value) in writes.range(from..).take_while(|((t, _), _)| *t == table) {
                if !range.contains(key) || until.as_ref().is_some_and(|until| key > until) {
                    continue;
                }
                match value {
                    Some(value) => rows.insert(key.clone(), value.clone()),
                    None => rows.remove(key),
                };
            }
        }
        Ok((rows.into_iter().map(|(key, value)| Row { key, value }).collect(), rest))
    }

    pub(crate) fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.insert((table, key.into()), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.writes.insert((table, key.into()), None);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn into_writes(self) -> Writes {
        self.writes
    }

    /// The part of the transaction that belongs to one crypto suite.
    pub(crate) fn crypto<'b>(&'b mut self, suite: SuiteId) -> CryptoState<'b>
    where
        Self: 'b,
    {
        CryptoState { suite, txn: self }
    }

    /// Newest first.
    fn layers(&self) -> impl Iterator<Item = &Writes> {
        std::iter::once(&self.writes).chain(self.view.submitted.iter().rev().map(|(_, w)| w))
    }

    /// The store as it was when this turn first looked.
    pub(crate) fn snapshot(&self) -> Result<&dyn Snapshot> {
        if self.snapshot.get().is_none() {
            // Only this thread sets it.
            let _ = self.snapshot.set(self.view.storage.snapshot()?);
        }
        match self.snapshot.get() {
            Some(snapshot) => Ok(&**snapshot),
            None => unreachable!("it was just taken"),
        }
    }
}

/// A record read from the store.
pub(crate) fn stored<R: Record>(value: Bytes) -> Result<R> {
    R::decode(value).map_err(|e| own_fault(e.into()))
}

/// Whatever the store can't read is this node's failure, never a peer's: of one row, or of all.
fn own_fault(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::Malformed | ErrorKind::UnsupportedVersion => {
            let message = "a row of the store is damaged; `peerloom db check` lists what is";
            Error::new(ErrorKind::Damaged, "store", "read", message).with_source(error)
        }
        _ => {
            let message = format!("the store can't be read; if this lasts, {DAMAGED_REMEDY}");
            Error::new(ErrorKind::Storage, "store", "read", message).with_source(error)
        }
    }
}

/// A crypto suite's state inside a transaction.
pub(crate) struct CryptoState<'a> {
    suite: SuiteId,
    txn: &'a mut dyn Rows,
}

/// Hides the transaction's lifetime.
trait Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    fn set(&mut self, key: Bytes, value: Option<Bytes>);
}

impl Rows for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = Txn::get(self, CRYPTO, key);
        if let Err(error) = value.as_ref()
            && error.kind() != ErrorKind::Damaged
        {
            self.failure.replace(Some(error.clone()));
        }
        value
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        self.writes.insert((CRYPTO, key), value);
    }
}

impl CryptoState<'_> {
    fn key(&self, key: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&sha256(&[&self.suite.0.to_be_bytes(), key]))
    }
}

impl StateTxn for CryptoState<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.txn.get(&self.key(key))
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        let key = self.key(key);
        self.txn.set(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        let key = self.key(key);
        self.txn.set(key, None);
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::memory::MemoryStorage;
    use peerloom_core::wire::store::{HISTORY, META};

    use super::*;

    #[test]
    fn submitted_writes_are_seen_until_they_are_committed() {
        let storage = MemoryStorage::new();
        let mut view = View::new(Arc::new(storage.clone()));
        let mut txn = view.begin(0);
        txn.put(META, &b"a"[..], &b"1"[..]);
        txn.put(META, &b"b"[..], &b"1"[..]);
        assert_eq!(txn.get(META, b"a").unwrap().as_deref(), Some(&b"1"[..]));
        let first = txn.into_writes();
        let first = view.submit(1, first);

        let mut txn = view.begin(0);
        assert_eq!(txn.get(META, b"a").unwrap().as_deref(), Some(&b"1"[..]));
        txn.delete(META, &b"a"[..]);
        txn.put(META, &b"c"[..], &b"2"[..]);
        txn.put(HISTORY, &b"z"[..], &b"other table"[..]);
        storage.commit(&first).unwrap();
        let rows = txn.scan(META, &KeyRange::all()).unwrap();
        let rows: Vec<_> = rows.iter().map(|r| (&r.key[..], &r.value[..])).collect();
        assert_eq!(rows, [(&b"b"[..], &b"1"[..]), (b"c", b"2")]);
        let second = txn.into_writes();
        let second = view.submit(2, second);
        storage.commit(&second).unwrap();

        let txn = view.begin(2);
        assert!(txn.view.submitted.is_empty());
        assert_eq!(txn.get(META, b"a").unwrap(), None);
        assert_eq!(txn.get(META, b"c").unwrap().as_deref(), Some(&b"2"[..]));
    }
}

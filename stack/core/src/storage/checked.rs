//! Checksums over rows, for stores that don't notice when a row was changed beneath them.

use std::sync::Arc;

use bytes::Bytes;
use peerloom_wire::store::Table;

use super::{Batch, DamagedRows, KeyRange, Order, Page, Row, Snapshot, Storage, StorageCaps, scan_sound};
use crate::Passphrase;
use crate::{Error, ErrorKind, Result};

/// Bytes of the checksum at the end of each value: CRC-32 (ISO 3309) over the table's name, a zero
/// byte, the key and the value.
const CHECKSUM: usize = 4;

/// A store whose rows are checked when they are read: a damaged one is an error, never a message.
///
/// It finds accidents, not attackers; those take an encrypting store.
pub struct Checked {
    inner: Arc<dyn Storage>,
}

impl Checked {
    /// Checks the rows of `inner`, unless it does so itself.
    pub fn over(inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        if inner.caps().detects_damage { inner } else { Arc::new(Self { inner }) }
    }
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    [table.name.as_bytes(), &[0], key, value].into_iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_be_bytes()
}

fn add(table: Table, key: &[u8], value: &[u8]) -> Bytes {
    [value, &checksum(table, key, value)].concat().into()
}

fn check(table: Table, key: &[u8], stored: &Bytes) -> Result<Bytes> {
    let value = stored.len().checked_sub(CHECKSUM).map(|end| stored.slice(..end));
    value.filter(|value| stored.ends_with(&checksum(table, key, value))).ok_or_else(|| {
        let message = format!("a row of table {} is damaged; what depends on it is lost", table.name);
        Error::new(ErrorKind::Damaged, "store", "read", message)
    })
}

impl Storage for Checked {
    fn caps(&self) -> StorageCaps {
        StorageCaps { detects_damage: true, ..self.inner.caps() }
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(CheckedSnapshot { inner: self.inner.snapshot()?, damaged: DamagedRows::default() }))
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut checked = Batch::default();
        for write in batch.writes() {
            match &write.value {
                Some(value) => checked.put(write.table, write.key.clone(), add(write.table, &write.key, value)),
                None => checked.delete(write.table, write.key.clone()),
            }
        }
        self.inner.commit(&checked)
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn verify(&self) -> Result<()> {
        self.inner.verify()
    }

    fn change_passphrase(&self, passphrase: &Passphrase) -> Result<()> {
        self.inner.change_passphrase(passphrase)
    }
}

struct CheckedSnapshot {
    inner: Box<dyn Snapshot>,
    damaged: DamagedRows,
}

impl Snapshot for CheckedSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(table, key)?.map(|stored| check(table, key, &stored)).transpose()
    }

    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        let open = |row: &Row| Ok(Row { value: check(table, &row.key, &row.value)?, key: row.key.clone() });
        let note = |row: &Row| self.damaged.note(table, &row.key);
        scan_sound(&*self.inner, table, range.clone(), order, page, open, note)
    }

    fn damaged(&self) -> Vec<(Table, Bytes)> {
        self.damaged.rows()
    }
}

#[cfg(test)]
mod tests {
    use peerloom_wire::store::{HISTORY, META, ordered_key};

    use super::*;
    use crate::memory::MemoryStorage;

    /// A damaged file's rows, as they come.
    struct Disordered(Vec<&'static [u8]>);

    impl Snapshot for Disordered {
        fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>> {
            Ok(None)
        }

        fn scan(&self, _: Table, _: &KeyRange, _: Order, _: Page) -> Result<Vec<Row>> {
            let row = |key: &&'static [u8]| Row { key: Bytes::from_static(key), value: Bytes::new() };
            Ok(self.0.iter().map(row).collect())
        }
    }

    #[test]
    fn rows_out_of_order_end_a_scan() {
        let range = KeyRange::prefix(b"p");
        let scan = |keys: &[&'static [u8]], order| {
            let rows = Disordered(keys.to_vec());
            scan_sound(&rows, HISTORY, range.clone(), order, Page::DEFAULT, |row| Ok(row.clone()), |_| {})
        };
        for keys in [[b"p2", b"p1"], [b"p1", b"p1"], [b"p1", b"q1"], [b"o9", b"p1"]] {
            let keys = keys.map(|key| key.as_slice());
            let error = scan(&keys, Order::Ascending).expect_err("out of order, or of another range");
            assert_eq!(error.kind(), ErrorKind::Malformed);
        }
        assert!(scan(&[b"p1", b"p2"], Order::Descending).is_err());
        assert_eq!(scan(&[b"p2", b"p1"], Order::Descending).expect("in order").len(), 2);
        assert_eq!(scan(&[b"p1", b"p2"], Order::Ascending).expect("in order").len(), 2);
    }

    /// However many there are in a row, and at either end.
    #[test]
    fn damaged_rows_hide_no_others() {
        let inner = MemoryStorage::new();
        let checked = Checked::over(Arc::new(inner.clone()));
        let mut batch = Batch::default();
        (0..1000u64).for_each(|n| batch.put(HISTORY, ordered_key(&[], n), n.to_be_bytes().to_vec()));
        checked.commit(&batch).unwrap();
        let mut batch = Batch::default();
        let damaged = |n: u64| n < 3 || (200..700).contains(&n) || n == 999;
        (0..1000).filter(|n| damaged(*n)).for_each(|n| batch.put(HISTORY, ordered_key(&[], n), vec![0; 12]));
        inner.commit(&batch).unwrap();
        let snapshot = checked.snapshot().unwrap();
        for order in [Order::Ascending, Order::Descending] {
            let (mut range, mut found) = (KeyRange::all(), Vec::new());
            loop {
                let rows = snapshot.scan(HISTORY, &range, order, Page { rows: 7, bytes: usize::MAX }).unwrap();
                let Some(last) = rows.last() else { break };
                range = if order == Order::Ascending { range.after(&last.key) } else { range.before(&last.key) };
                found.extend(rows.iter().map(|row| u64::from_be_bytes(row.value[..].try_into().unwrap())));
            }
            found.sort_unstable();
            assert_eq!(found, (0..1000).filter(|n| !damaged(*n)).collect::<Vec<_>>());
        }
        assert_eq!(snapshot.damaged().len(), 504, "each once");
    }

    #[test]
    fn a_changed_or_moved_row_is_an_error() {
        let inner = MemoryStorage::new();
        let checked = Checked::over(Arc::new(inner.clone()));
        let mut batch = Batch::default();
        batch.put(META, &b"key"[..], &b"value"[..]);
        checked.commit(&batch).unwrap();
        let stored = inner.snapshot().unwrap().get(META, b"key").unwrap().unwrap();
        let read = |table: Table, key: &'static [u8], stored: Vec<u8>| {
            let mut batch = Batch::default();
            batch.put(table, key, stored);
            inner.commit(&batch).unwrap();
            checked.snapshot().unwrap().get(table, key).map_err(|e| e.kind())
        };
        assert_eq!(read(META, b"key", stored.to_vec()).unwrap().as_deref(), Some(&b"value"[..]));
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(META, b"key", flipped), Err(ErrorKind::Damaged), "bit {bit}");
            assert_eq!(read(META, b"key", stored[..bit / 8].to_vec()), Err(ErrorKind::Damaged));
        }
        assert_eq!(read(META, b"other", stored.to_vec()), Err(ErrorKind::Damaged));
        assert_eq!(read(HISTORY, b"key", stored.to_vec()), Err(ErrorKind::Damaged));
    }
}

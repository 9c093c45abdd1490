//! The contract over another store.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use peerloom_core::Passphrase;
use peerloom_core::storage::{DamagedRows, scan_sound};
use peerloom_core::wire::store::Table;
use peerloom_core::{Batch, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, Storage, StorageCaps};
use peerloom_crypto_primitives::Prf;
use peerloom_crypto_primitives::aead::ManyTimesKey;
use zeroize::Zeroizing;

use crate::{error, header};

/// Ids are hidden in parts of this length, one after the other, so that a range of all keys that
/// begin with a part stays a range.
const PART: usize = 32;

/// A store that encrypts another one: values wholly, ids in keys, but not the order behind an id.
///
/// A reader of the files sees how many rows each table has, how long their values are, which rows
/// belong to one id, and which changed. A row can't be changed, moved to another key or taken for
/// another one; it can be put back to what it was, or left out.
pub struct VaultStorage {
    inner: Arc<dyn Storage>,
    data_key: Zeroizing<[u8; 32]>,
    keys: Arc<Keys>,
}

struct Keys {
    ids: Prf,
    values: ManyTimesKey,
}

impl VaultStorage {
    /// Opens the vault that `inner` holds, or makes one of an empty store. It takes about a fifth of
    /// a second and 64 MiB for that moment, so that guessing passphrases is dear.
    pub fn open(inner: Arc<dyn Storage>, passphrase: &str) -> Result<Self> {
        let data_key = header::open_or_create(&*inner, passphrase)?;
        let derive = Prf::new(&data_key);
        let ids = Zeroizing::new(derive.of(&[b"peerloom/vault-ids/1\0"]));
        let values = Zeroizing::new(derive.of(&[b"peerloom/vault-values/1\0"]));
        let keys = Keys { ids: Prf::new(&ids), values: ManyTimesKey::new(&values) };
        Ok(Self { inner, data_key, keys: Arc::new(keys) })
    }
}

impl Keys {
    /// A key as it is stored: each part of its id through the PRF, then the order.
    fn hide(&self, table: Table, key: &[u8]) -> Vec<u8> {
        let (id, order) = key.split_at(table.id_len.min(key.len()));
        let mut hidden = Vec::with_capacity(PART * 2 + order.len());
        for end in (PART..id.len() + PART).step_by(PART) {
            let so_far = id.get(..end.min(id.len())).unwrap_or_default();
            hidden.extend_from_slice(&self.ids.of(&[table.name.as_bytes(), &[0], so_far]));
        }
        hidden.extend_from_slice(order);
        hidden
    }

    /// A range as it is stored: the rows of the longest whole parts that it lies in.
    fn hide_range(&self, table: Table, range: &KeyRange) -> KeyRange {
        let start = match &range.start {
            Bound::Included(key) | Bound::Excluded(key) => key.as_slice(),
            Bound::Unbounded => &[],
        };
        let inside = |prefix: &[u8]| match (&range.end, KeyRange::prefix(prefix).end) {
            (_, Bound::Unbounded) => true,
            (Bound::Unbounded, _) => false,
            (Bound::Included(end), Bound::Excluded(limit) | Bound::Included(limit)) => *end < limit,
            (Bound::Excluded(end), Bound::Excluded(limit) | Bound::Included(limit)) => *end <= limit,
        };
        let id = start.get(..table.id_len.min(start.len())).unwrap_or_default();
        let whole = |length: usize| length.is_multiple_of(PART) || length == table.id_len;
        let prefix = (0..=id.len()).rev().filter(|n| whole(*n)).filter_map(|n| id.get(..n)).find(|p| inside(p));
        let prefix = prefix.unwrap_or_default();
        let limits = (KeyRange::prefix(prefix), KeyRange::prefix(&self.hide(table, prefix)));
        let map = |bound: &Bound<Vec<u8>>, limit: &Bound<Vec<u8>>, hidden: Bound<Vec<u8>>| match bound {
            bound if bound == limit => hidden,
            Bound::Included(key) => Bound::Included(self.hide(table, key)),
            Bound::Excluded(key) => Bound::Excluded(self.hide(table, key)),
            Bound::Unbounded => hidden,
        };
        KeyRange {
            start: map(&range.start, &limits.0.start, limits.1.start),
            end: map(&range.end, &limits.0.end, limits.1.end),
        }
    }

    /// Length of the id, id, value: a scan finds the row's own key there.
    fn seal(&self, table: Table, key: &[u8], hidden: &[u8], value: &[u8]) -> Result<Bytes> {
        let id = key.get(..table.id_len.min(key.len())).unwrap_or_default();
        let length =
            u8::try_from(id.len()).map_err(|_| error(ErrorKind::Internal, "commit", "a table's id is too long"))?;
        let sealed = self.values.seal(&associated_data(table, hidden), &[&[length], id, value]);
        let failed = |cause| error(ErrorKind::Storage, "commit", "the system gives no randomness").with_source(cause);
        Ok(sealed.map_err(failed)?.into())
    }

    fn open(&self, table: Table, row: &Row) -> Result<Row> {
        let damaged = || {
            let table = table.name;
            let message =
                format!("a row of table {table} is damaged, or not of this vault; what depends on it is lost");
            error(ErrorKind::Damaged, "read", message)
        };
        let opened = self.values.open(&associated_data(table, &row.key), &row.value).ok_or_else(damaged)?;
        let opened = Bytes::from(opened);
        let length = usize::from(*opened.first().ok_or_else(damaged)?);
        if opened.len() <= length {
            return Err(damaged());
        }
        let id = opened.slice(1..1 + length);
        let order = row.key.get(length.div_ceil(PART) * PART..).ok_or_else(damaged)?;
        Ok(Row { key: [&id[..], order].concat().into(), value: opened.slice(1 + length..) })
    }
}

fn associated_data(table: Table, hidden: &[u8]) -> Vec<u8> {
    [table.name.as_bytes(), &[0], hidden].concat()
}

impl Storage for VaultStorage {
    fn caps(&self) -> StorageCaps {
        StorageCaps { ordered_ids: false, detects_damage: true, ..self.inner.caps() }
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(VaultSnapshot {
            inner: self.inner.snapshot()?,
            keys: self.keys.clone(),
            damaged: DamagedRows::default(),
        }))
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut sealed = Batch::default();
        for write in batch.writes() {
            let hidden = self.keys.hide(write.table, &write.key);
            match &write.value {
                Some(value) => {
                    let value = self.keys.seal(write.table, &write.key, &hidden, value)?;
                    sealed.put(write.table, hidden, value);
                }
                None => sealed.delete(write.table, hidden),
            }
        }
        self.inner.commit(&sealed)
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn verify(&self) -> Result<()> {
        self.inner.verify()
    }

    /// One row is written; the data key stays.
    fn change_passphrase(&self, passphrase: &Passphrase) -> Result<()> {
        header::rewrap(&*self.inner, passphrase.expose(), &self.data_key)
    }
}

struct VaultSnapshot {
    inner: Box<dyn Snapshot>,
    keys: Arc<Keys>,
    damaged: DamagedRows,
}

impl Snapshot for VaultSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let hidden = Bytes::from(self.keys.hide(table, key));
        let Some(value) = self.inner.get(table, &hidden)? else {
            return Ok(None);
        };
        self.keys.open(table, &Row { key: hidden, value }).map(|row| Some(row.value))
    }

    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>> {
        if range.bounds().is_none() {
            return Ok(Vec::new());
        }
        let hidden = self.keys.hide_range(table, range);
        let note = |row: &Row| self.damaged.note(table, &row.key);
        scan_sound(&*self.inner, table, hidden, order, page, |row| self.keys.open(table, row), note)
    }

    fn damaged(&self) -> Vec<(Table, Bytes)> {
        self.damaged.rows()
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::memory::MemoryStorage;
    use peerloom_core::storage::scan_all;
    use peerloom_core::wire::store::{CONTACTS, IN_PARKED, META, Record, TABLES, VAULT, VaultHeader, ordered_key};

    use super::*;

    fn vault(inner: &MemoryStorage, passphrase: &str) -> Result<VaultStorage> {
        VaultStorage::open(Arc::new(inner.clone()), passphrase)
    }

    #[test]
    fn only_the_passphrase_opens_it_and_it_can_be_changed() {
        let inner = MemoryStorage::new();
        let mut batch = Batch::default();
        batch.put(META, &b"name"[..], &b"value"[..]);
        vault(&inner, "correct horse").unwrap().commit(&batch).unwrap();
        let stored = inner.snapshot().unwrap().get(VAULT, b"header").unwrap().unwrap();
        let stored = <VaultHeader as Record>::decode(stored).unwrap();
        assert_eq!((stored.memory_kib, stored.passes), (64 * 1024, 3), "the price of a guess");
        for wrong in ["", "correct hors", "correct horse "] {
            assert!(vault(&inner, wrong).is_err(), "{wrong:?}");
        }
        let open = vault(&inner, "correct horse").unwrap();
        open.change_passphrase(&Passphrase::new("battery staple")).unwrap();
        assert_eq!(vault(&inner, "correct horse").err().unwrap().kind(), ErrorKind::Unauthenticated);
        let value = vault(&inner, "battery staple").unwrap().snapshot().unwrap().get(META, b"name").unwrap();
        assert_eq!(value.as_deref(), Some(&b"value"[..]));
    }

    #[test]
    fn a_store_that_is_not_encrypted_stays_as_it_is() {
        let inner = MemoryStorage::new();
        let mut batch = Batch::default();
        batch.put(META, &b"name"[..], &b"value"[..]);
        inner.commit(&batch).unwrap();
        assert_eq!(vault(&inner, "p").err().unwrap().kind(), ErrorKind::Invalid);
        assert_eq!(inner.snapshot().unwrap().get(VAULT, b"header").unwrap(), None);
    }

    #[test]
    fn a_header_of_a_newer_version_or_with_absurd_costs_is_refused() {
        let inner = MemoryStorage::new();
        vault(&inner, "p").unwrap();
        let mut header = inner.snapshot().unwrap().get(VAULT, b"header").unwrap().unwrap().to_vec();
        header[0] += 1;
        let mut batch = Batch::default();
        batch.put(VAULT, &b"header"[..], header);
        inner.commit(&batch).unwrap();
        assert_eq!(vault(&inner, "p").err().unwrap().kind(), ErrorKind::UnsupportedVersion);

        let most = header::MOST;
        assert!(most.memory_kib <= 256 * 1024 && u64::from(most.memory_kib) * u64::from(most.passes) <= 4 << 20);
        let absurd = [
            header::Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 },
            header::Cost { memory_kib: most.memory_kib + 1, passes: 1, lanes: 1 },
            header::Cost { memory_kib: 1024, passes: most.passes + 1, lanes: 1 },
            header::Cost { memory_kib: 1024, passes: 1, lanes: most.lanes + 1 },
        ];
        for header::Cost { memory_kib, passes, lanes } in absurd {
            let (salt, wrapped_key) = (vec![0; 16].into(), vec![0; 72].into());
            let mut batch = Batch::default();
            batch.put(VAULT, &b"header"[..], VaultHeader { memory_kib, passes, lanes, salt, wrapped_key }.encode());
            inner.commit(&batch).unwrap();
            assert_eq!(vault(&inner, "p").err().unwrap().kind(), ErrorKind::Malformed);
        }
    }

    #[test]
    fn what_lies_beneath_shows_neither_ids_nor_values_and_can_not_be_moved() {
        let inner = MemoryStorage::new();
        let open = vault(&inner, "p").unwrap();
        let (first, second) = ([0x41; 32], [0x42; 32]);
        let mut batch = Batch::default();
        batch.put(CONTACTS, first.to_vec(), vec![0x43; 40]);
        batch.put(CONTACTS, second.to_vec(), vec![0x44; 40]);
        batch.put(IN_PARKED, ordered_key(&[&first, &second], 7), vec![0x43; 40]);
        open.commit(&batch).unwrap();
        let snapshot = inner.snapshot().unwrap();
        let mut rows = Vec::new();
        for table in TABLES.into_iter().filter(|t| *t != VAULT) {
            scan_all(&*snapshot, table, KeyRange::all(), |row| {
                rows.push((table, row));
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(rows.len(), 3);
        for (_, row) in &rows {
            for secret in [0x41u8, 0x42, 0x43, 0x44] {
                assert!(!row.key.windows(8).chain(row.value.windows(8)).any(|w| w == [secret; 8]));
            }
        }
        // Two rows change places; another byte is changed in each.
        let mut batch = Batch::default();
        batch.put(rows[0].0, rows[0].1.key.clone(), rows[1].1.value.clone());
        inner.commit(&batch).unwrap();
        let snapshot = open.snapshot().unwrap();
        let outcomes = [first, second].map(|id| snapshot.get(CONTACTS, &id).map_err(|e| e.kind()));
        assert!(outcomes.contains(&Err(ErrorKind::Damaged)), "{outcomes:?}");
    }

    #[test]
    fn ranges_of_whole_parts_stay_ranges() {
        let open = vault(&MemoryStorage::new(), "p").unwrap();
        let mut batch = Batch::default();
        for device in [1u8, 2] {
            for conversation in [3u8, 4] {
                for position in 0..5 {
                    let key = ordered_key(&[&[device; 32], &[conversation; 32]], position);
                    batch.put(IN_PARKED, key, vec![device, conversation, position as u8]);
                }
            }
        }
        open.commit(&batch).unwrap();
        let snapshot = open.snapshot().unwrap();
        let count = |range: &KeyRange| {
            let mut rows = Vec::new();
            // A page at a time, so that the ends of pages count too.
            let (mut range, one) = (range.clone(), Page { rows: 2, bytes: usize::MAX });
            loop {
                let page = snapshot.scan(IN_PARKED, &range, Order::Ascending, one).unwrap();
                let Some(last) = page.last() else { return rows };
                range = range.after(&last.key);
                rows.extend(page.into_iter().map(|row| row.value.to_vec()));
            }
        };
        assert_eq!(count(&KeyRange::all()).len(), 20);
        assert_eq!(count(&KeyRange::prefix(&[1; 32])).len(), 10);
        let log = [[2u8; 32], [4u8; 32]].concat();
        assert_eq!(count(&KeyRange::prefix(&log)), (0..5).map(|p| vec![2, 4, p]).collect::<Vec<_>>());
        assert_eq!(count(&KeyRange::prefix(&[9; 32])).len(), 0);
    }
}

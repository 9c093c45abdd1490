//! The storage contract: ordered tables of bytes.

mod checked;

use std::ops::Bound;

use bytes::Bytes;
use peerloom_wire::store::Table;

use crate::Passphrase;
use crate::{Error, ErrorKind, Result};

pub use checked::Checked;

/// Keeps ordered tables of bytes.
///
/// **The author's duties.** [`commit`](Storage::commit) is atomic: after it returns, or after a
/// crash at any moment, either all writes of the batch are there or none. When it returns `Ok` and
/// [`StorageCaps::durable`] is set, the batch survives a crash of the machine. When it returns an
/// error the batch may or may not be there, and the next call works again as soon as the cause is
/// gone: a store that its library poisons reopens itself. A full disk is [`ErrorKind::Full`],
/// anything else that fails is [`ErrorKind::Storage`]; a row that was changed beneath the store is
/// [`ErrorKind::Damaged`]. A snapshot sees exactly the batches
/// committed before it was taken, and never blocks a commit. A table that nothing was written to
/// is empty. Keys are up to 128 bytes, values up to 2 MiB.
///
/// **The caller's duties.** Calls are synchronous and may wait for a disk: they come from the
/// store's own threads, never from an async runtime's. Commits come one at a time. Snapshots are
/// brief. No method is async, so none is ever cancelled.
///
/// ```
/// # use peerloom_core::memory::MemoryStorage;
/// # use peerloom_core::wire::store::META;
/// # use peerloom_core::{Batch, KeyRange, Order, Page, Result, Storage};
/// # fn main() -> Result<()> {
/// let store = MemoryStorage::new();
/// let before = store.snapshot()?;
/// let mut batch = Batch::default();
/// batch.put(META, &b"color"[..], &b"blue"[..]);
/// store.commit(&batch)?;
/// // A snapshot sees what was committed before it was taken.
/// assert_eq!(before.get(META, b"color")?, None);
/// let rows = store.snapshot()?.scan(META, &KeyRange::all(), Order::Ascending, Page::DEFAULT)?;
/// assert_eq!((rows.len(), &rows[0].value[..]), (1, &b"blue"[..]));
/// # Ok(())
/// # }
/// ```
///
/// [`ErrorKind::Full`]: crate::ErrorKind::Full
/// [`ErrorKind::Storage`]: crate::ErrorKind::Storage
/// [`ErrorKind::Damaged`]: crate::ErrorKind::Damaged
pub trait Storage: Send + Sync {
    /// What this store promises.
    fn caps(&self) -> StorageCaps;

    /// A view of the store as it is now.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>>;

    /// Applies all writes of the batch, in their order, or none.
    fn commit(&self, batch: &Batch) -> Result<()>;

    /// Work that [`commit`](Storage::commit) put off, done once nobody waits for the batch any more.
    /// Callers call it after commits; an author who puts work off does it at the next snapshot or
    /// commit at the latest. An error is one of the store's, not of a batch.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Checks everything that the store can check of itself, such as the checksums of its pages. It
    /// may take as long as reading the whole store; no snapshot may be open. `Malformed` says what is
    /// damaged.
    fn verify(&self) -> Result<()> {
        Ok(())
    }

    /// Changes the passphrase that the store is encrypted under.
    fn change_passphrase(&self, _passphrase: &Passphrase) -> Result<()> {
        let message = "the store isn't encrypted; `peerloom db copy --to vault/…` makes one that is";
        Err(Error::new(ErrorKind::Invalid, "store", "change the passphrase", message))
    }
}

/// What a store promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageCaps {
    /// Whether a committed batch survives a crash of the machine.
    pub durable: bool,
    /// Whether rows of different ids (see [`Table::id_len`]) come in the order of their ids, and any
    /// two keys may bound a range. Otherwise a range is all rows, those of whole 32-byte parts of an
    /// id, or lies within one id, and rows are in order within an id.
    pub ordered_ids: bool,
    /// Whether reading a row that was changed beneath the store is an error. Other stores are put
    /// under [`Checked`].
    pub detects_damage: bool,
}

/// What helps where a store is damaged beyond what the node mends by itself. (A copy doesn't: contacts would recognise
/// it, and it would leave the network.)
pub const DAMAGED_REMEDY: &str =
    "go on with a new folder and new invitations; an older copy of this one must not be used again";

/// An unchanging view of a store.
pub trait Snapshot: Send {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>>;

    /// Rows of a range in order, at most one [`Page`]; an empty page means that the range is
    /// exhausted. A damaged row hides no other: it is left out, and counted in
    /// [`damaged`](Snapshot::damaged).
    fn scan(&self, table: Table, range: &KeyRange, order: Order, page: Page) -> Result<Vec<Row>>;

    /// Table and key of each damaged row that scans of this snapshot have left out so far.
    fn damaged(&self) -> Vec<(Table, Bytes)> {
        Vec::new()
    }
}

/// Scans `inner`, whose rows `open` turns into those of a wrapping store; those that it refuses as
/// damaged are left out and go to `damaged`.
pub fn scan_sound(
    inner: &dyn Snapshot,
    table: Table,
    mut range: KeyRange,
    order: Order,
    page: Page,
    open: impl Fn(&Row) -> Result<Row>,
    mut damaged: impl FnMut(&Row),
) -> Result<Vec<Row>> {
    loop {
        let rows = inner.scan(table, &range, order, page)?;
        if !in_order(&rows, &range, order) {
            let message = format!("the store's file is damaged: it gives rows out of order; {DAMAGED_REMEDY}");
            return Err(Error::new(ErrorKind::Malformed, "store", "read", message));
        }
        let Some(last) = rows.last() else {
            return Ok(Vec::new());
        };
        range = match order {
            Order::Ascending => range.after(&last.key),
            Order::Descending => range.before(&last.key),
        };
        let mut sound = Vec::with_capacity(rows.len());
        for row in &rows {
            match open(row) {
                Ok(opened) => sound.push(opened),
                Err(error) if error.kind() == ErrorKind::Damaged => damaged(row),
                Err(error) => return Err(error),
            }
        }
        // A page of damaged rows alone isn't the end.
        if !sound.is_empty() {
            return Ok(sound);
        }
    }
}

/// Whether rows are a range's, each beyond the one before it: otherwise reading on after the last would never end.
fn in_order(rows: &[Row], range: &KeyRange, order: Order) -> bool {
    let beyond = |pair: &[Row]| match (pair, order) {
        ([before, after], Order::Ascending) => before.key < after.key,
        ([before, after], Order::Descending) => before.key > after.key,
        _ => true,
    };
    rows.windows(2).all(beyond) && rows.iter().all(|row| range.contains(&row.key))
}

/// The damaged rows that a snapshot has met: each once, however often it is scanned.
#[derive(Debug, Default)]
pub struct DamagedRows(std::sync::Mutex<std::collections::BTreeSet<(Table, Bytes)>>);

impl DamagedRows {
    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<(Table, Bytes)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes a row.
    pub fn note(&self, table: Table, key: &Bytes) {
        self.lock().insert((table, key.clone()));
    }

    /// Table and key of each, in order.
    pub fn rows(&self) -> Vec<(Table, Bytes)> {
        self.lock().iter().cloned().collect()
    }
}

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// The direction of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Lowest key first.
    Ascending,
    /// Highest key first.
    Descending,
}

/// Bounds of one page: a scan stops at the first that is reached, but returns at least one row
/// where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Most rows.
    pub rows: usize,
    /// Most bytes of keys and values.
    pub bytes: usize,
}

impl Page {
    /// Up to 256 rows or 1 MiB.
    pub const DEFAULT: Self = Self { rows: 256, bytes: 1024 * 1024 };
    /// One row.
    pub const ONE: Self = Self { rows: 1, bytes: usize::MAX };
}

/// A range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Where it begins.
    pub start: Bound<Vec<u8>>,
    /// Where it ends.
    pub end: Bound<Vec<u8>>,
}

impl KeyRange {
    /// All keys.
    pub fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        // The next prefix of the same length: drop trailing 0xff, then add one.
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        let end = match end.last_mut() {
            Some(last) => {
                *last += 1;
                Bound::Excluded(end)
            }
            None => Bound::Unbounded,
        };
        Self { start: Bound::Included(prefix.to_vec()), end }
    }

    /// The same range, from just after `key`: the next page of an ascending scan.
    pub fn after(mut self, key: &[u8]) -> Self {
        self.start = Bound::Excluded(key.to_vec());
        self
    }

    /// The same range, up to just before `key`: the next page of a descending scan.
    pub fn before(mut self, key: &[u8]) -> Self {
        self.end = Bound::Excluded(key.to_vec());
        self
    }

    /// The bounds, borrowed; `None` when no key can lie between them.
    pub fn bounds(&self) -> Option<(Bound<&[u8]>, Bound<&[u8]>)> {
        let (start, end) = (self.start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice));
        // Ordered maps panic on such ranges, and an excluded start meets the end at a last page.
        let empty = match (start, end) {
            (Bound::Included(s), Bound::Included(e)) => s > e,
            (Bound::Included(s) | Bound::Excluded(s), Bound::Included(e) | Bound::Excluded(e)) => s >= e,
            _ => false,
        };
        (!empty).then_some((start, end))
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        use std::ops::RangeBounds;
        self.bounds().is_some_and(|bounds| RangeBounds::<[u8]>::contains(&bounds, key))
    }
}

/// Writes that are applied together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<Write>,
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The table.
    pub table: Table,
    /// The key.
    pub key: Bytes,
    /// The new value; `None` deletes the row.
    pub value: Option<Bytes>,
}

impl Batch {
    /// Sets a row.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write { table, key: key.into(), value: Some(value.into()) });
    }

    /// Deletes a row; does nothing where there is none.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.writes.push(Write { table, key: key.into(), value: None });
    }

    /// Adds another batch's writes after this one's.
    pub fn append(&mut self, other: Batch) {
        self.writes.extend(other.writes);
    }

    /// The writes, in their order.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn size(&self) -> usize {
        self.writes.iter().map(|w| w.key.len() + w.value.as_ref().map_or(0, Bytes::len)).sum()
    }
}

/// All rows of a range, page by page: for short tables and tools, not for message paths.
pub fn scan_all(
    snapshot: &dyn Snapshot,
    table: Table,
    mut range: KeyRange,
    mut each: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    loop {
        let rows = snapshot.scan(table, &range, Order::Ascending, Page::DEFAULT)?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        range = range.after(&last.key);
        rows.into_iter().try_for_each(&mut each)?;
    }
}

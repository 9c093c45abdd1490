//! How rows lie in redb.
//!
//! All tables are ranges of one redb table: a commit then writes one path of one tree where it would
//! write one for each table. redb gives a value a number of pages that is a power of two, so a long
//! value is cut into parts that just fill one, and what is left stands with the small ones.

use bytes::{Bytes, BytesMut};
use peerloom_core::wire::store::Table;
use redb::{AccessGuard, ReadOnlyTable, StorageError, Table as OpenTable, TableDefinition, WriteTransaction};

type Bytes8 = &'static [u8];

pub(crate) const ROWS: TableDefinition<'_, Bytes8, Bytes8> = TableDefinition::new("rows.2");
/// Parts of long values: the row's key and the part's number.
pub(crate) const PARTS: TableDefinition<'_, Bytes8, Bytes8> = TableDefinition::new("parts");

/// A page, less what redb and the key take of it.
const OVERHEAD: usize = 192;
const PAGE: usize = 4096;
const LARGEST_PART: usize = 256 * 1024;
/// Values from here on are cut.
const LONG: usize = 2 * PAGE;

/// A row's key: the table's name, a zero byte, the row's own key.
pub(crate) fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    [table.name.as_bytes(), &[0], key].concat()
}

/// The tables of a write transaction.
pub(crate) struct Writer<'t> {
    rows: OpenTable<'t, Bytes8, Bytes8>,
    parts: OpenTable<'t, Bytes8, Bytes8>,
    buffer: Vec<u8>,
}

impl<'t> Writer<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let (rows, parts) = (transaction.open_table(ROWS)?, transaction.open_table(PARTS)?);
        Ok(Self { rows, parts, buffer: Vec::new() })
    }

    /// Sets or deletes a row. Its value ends with the number of its parts.
    pub(crate) fn write(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), redb::Error> {
        let (mut rest, mut number) = (value.unwrap_or_default(), 0);
        while let Some((part, more)) = cut(rest) {
            self.parts.insert([key, &[number]].concat().as_slice(), part)?;
            (rest, number) = (more, number + 1);
        }
        let before = match value {
            Some(_) => {
                self.buffer.clear();
                self.buffer.extend_from_slice(rest);
                self.buffer.push(number);
                self.rows.insert(key, self.buffer.as_slice())?.map(|old| parts_of(old.value()))
            }
            None => self.rows.remove(key)?.map(|old| parts_of(old.value())),
        };
        for stale in number..before.unwrap_or(0) {
            self.parts.remove([key, &[stale]].concat().as_slice())?;
        }
        Ok(())
    }
}

/// The first part of a long value, and the rest.
fn cut(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let pages = (value.len() + OVERHEAD) / PAGE;
    // The largest power of two that it fills.
    let part = ((1 << pages.checked_ilog2()?) * PAGE).min(LARGEST_PART) - OVERHEAD;
    (value.len() >= LONG).then(|| value.split_at(part))
}

fn parts_of(stored: &[u8]) -> u8 {
    stored.last().copied().unwrap_or(0)
}

/// The value of a row as it was written.
pub(crate) fn join(
    parts: &ReadOnlyTable<Bytes8, Bytes8>,
    key: &[u8],
    stored: &AccessGuard<'_, Bytes8>,
) -> Result<Bytes, StorageError> {
    let Some((count, rest)) = stored.value().split_last() else {
        return Err(StorageError::Corrupted("a row has no length".into()));
    };
    if *count == 0 {
        return Ok(Bytes::copy_from_slice(rest));
    }
    let mut value = BytesMut::new();
    for number in 0..*count {
        let part = parts.get([key, &[number]].concat().as_slice())?;
        let part = part.ok_or_else(|| StorageError::Corrupted("a part of a row is gone".into()))?;
        value.extend_from_slice(part.value());
    }
    value.extend_from_slice(rest);
    Ok(value.freeze())
}

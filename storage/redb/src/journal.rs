//! Small batches, made durable by one sequential write until redb's file has them.
//!
//! A redb commit writes a page for every leaf it touches, scattered over the file; the journal
//! takes the same batch in one piece. What is in it is in redb's memory too, so that it is only
//! read when the store is opened again.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

use bytes::{Buf, BufMut, Bytes};

/// The file grows in such steps: appending inside it changes no metadata, which makes syncing cheap.
const STEP: u64 = 256 * 1024;
/// Length, checksum, salt, sequence.
const HEADER: usize = 4 + 4 + 8 + 4;
/// In place of a value's length: the row is deleted.
const DELETED: u32 = u32::MAX;

/// A row's write: its full key, and its value unless it is deleted.
pub(crate) struct RowWrite {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// The file. Its records are valid for one salt only, which redb's file names: a commit of redb
/// that changes the salt makes all records before it void at the same moment.
pub(crate) struct Journal {
    file: File,
    salt: u64,
    /// Where the next record goes.
    end: u64,
    sequence: u32,
    allocated: u64,
    buffer: Vec<u8>,
    abandoned: bool,
}

impl Journal {
    /// Opens the journal and gives the batches that redb's file may lack, oldest first.
    ///
    /// A record cut off at the end was never confirmed and is dropped. One that is damaged while
    /// later ones are whole is an error: confirmed batches would be lost.
    pub(crate) fn open(file: File, salt: u64, mut each: impl FnMut(Vec<RowWrite>) -> Result<()>) -> Result<Self> {
        let allocated = file.metadata()?.len();
        let mut journal = Self { file, salt, end: 0, sequence: 0, allocated, buffer: Vec::new(), abandoned: false };
        let mut all = vec![0; usize::try_from(allocated).map_err(|_| damaged())?];
        journal.file.read_exact_at(&mut all, 0)?;
        let all = Bytes::from(all);
        let mut rest = all.clone();
        while let Some(body) = record(&rest, salt, journal.sequence) {
            rest.advance(HEADER + body.len());
            each(decode(body).ok_or_else(damaged)?)?;
            journal.sequence += 1;
        }
        journal.end = (all.len() - rest.len()) as u64;
        if later_record(&rest, salt, journal.sequence) { Err(damaged()) } else { Ok(journal) }
    }

    /// Bytes of records in it.
    pub(crate) fn size(&self) -> u64 {
        self.end
    }

    /// Everything in it is in redb's file now, under this salt.
    pub(crate) fn begin(&mut self, salt: u64) {
        (self.salt, self.end, self.sequence) = (salt, 0, 0);
    }

    /// Leaves its records to the next opening, whatever becomes of this one.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Gives its space back; its records must be void already.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.allocated = 0;
        self.file.set_len(0)
    }

    /// Makes a batch durable. After an error the journal is to be opened again: it may or may not
    /// have the batch.
    pub(crate) fn append<'a>(&mut self, writes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Result<()> {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.resize(HEADER, 0);
        for (key, value) in writes {
            buffer.put_u16(u16::try_from(key.len()).map_err(|_| too_large())?);
            buffer.put_slice(key);
            buffer.put_u32(value.map_or(Ok(DELETED), |v| u32::try_from(v.len())).map_err(|_| too_large())?);
            buffer.put_slice(value.unwrap_or_default());
        }
        let length = u32::try_from(buffer.len() - HEADER).map_err(|_| too_large())?;
        let header = header(length, self.salt, self.sequence, buffer.get(HEADER..).unwrap_or_default());
        buffer.splice(..HEADER, header);
        let end = self.end + buffer.len() as u64;
        if end > self.allocated {
            self.allocated = end.next_multiple_of(STEP);
            let padded = self.allocated - self.end;
            buffer.resize(usize::try_from(padded).map_err(|_| too_large())?, 0);
        }
        self.file.write_all_at(buffer, self.end)?;
        self.file.sync_data()?;
        (self.end, self.sequence) = (end, self.sequence + 1);
        Ok(())
    }
}

fn header(length: u32, salt: u64, sequence: u32, body: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let (front, back) = header.split_at_mut(8);
    (&mut back[..]).put_u64(salt);
    (&mut back[8..]).put_u32(sequence);
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&length.to_be_bytes());
    checksum.update(back);
    checksum.update(body);
    (&mut front[..]).put_u32(length);
    (&mut front[4..]).put_u32(checksum.finalize());
    header
}

/// The body of the record that begins here, if it is whole.
fn record(bytes: &Bytes, salt: u64, sequence: u32) -> Option<Bytes> {
    let length = bytes.get(..4)?.try_into().ok().map(u32::from_be_bytes)?;
    let body = HEADER..HEADER.checked_add(length as usize)?;
    let body = (body.end <= bytes.len()).then(|| bytes.slice(body))?;
    (*bytes.get(..HEADER)? == header(length, salt, sequence, &body)).then_some(body)
}

/// Whether a record with a later sequence stands anywhere. Nobody else knows the salt, so that no
/// message can contain one.
fn later_record(bytes: &Bytes, salt: u64, sequence: u32) -> bool {
    let salt_bytes = salt.to_be_bytes();
    let found = |at: usize| {
        let sequence_at = bytes.get(at + 16..at + 20).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        sequence_at.is_some_and(|found| found > sequence && record(&bytes.slice(at..), salt, found).is_some())
    };
    bytes.windows(8).enumerate().any(|(at, window)| window == salt_bytes && at >= 8 && found(at - 8))
}

fn decode(mut body: Bytes) -> Option<Vec<RowWrite>> {
    let mut writes = Vec::new();
    while body.has_remaining() {
        let length = body.try_get_u16().ok()?.into();
        let key = (length <= body.len()).then(|| body.split_to(length))?;
        let value = match body.try_get_u32().ok()? {
            DELETED => None,
            length => Some((length as usize <= body.len()).then(|| body.split_to(length as usize))?),
        };
        writes.push(RowWrite { key, value });
    }
    Some(writes)
}

fn damaged() -> Error {
    Error::new(ErrorKind::InvalidData, "the journal is damaged")
}

fn too_large() -> Error {
    Error::new(ErrorKind::InvalidInput, "a batch is too large for the journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1122_3344_5566_7788;

    fn open(file: &File, salt: u64) -> Result<(Journal, Vec<Vec<RowWrite>>)> {
        let mut found = Vec::new();
        let journal = Journal::open(file.try_clone()?, salt, |batch| {
            found.push(batch);
            Ok(())
        })?;
        Ok((journal, found))
    }

    fn fill(count: u32) -> File {
        let file = tempfile::tempfile().unwrap();
        let (mut journal, found) = open(&file, SALT).unwrap();
        assert!(found.is_empty());
        for n in 0..count {
            let value = n.to_be_bytes();
            journal.append([(&b"set"[..], Some(&value[..])), (b"gone", None)].into_iter()).unwrap();
        }
        file
    }

    #[test]
    fn batches_come_back_in_order() {
        let file = fill(3);
        let (mut journal, found) = open(&file, SALT).unwrap();
        let values: Vec<_> = found.iter().map(|b| b[0].value.as_deref().unwrap().to_vec()).collect();
        assert_eq!(values, (0..3u32).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
        assert!(found.iter().all(|batch| batch.len() == 2 && batch[1].value.is_none()));
        journal.append([(&b"more"[..], None)].into_iter()).unwrap();
        assert_eq!(open(&file, SALT).unwrap().1.len(), 4);
    }

    #[test]
    fn another_salt_voids_all() {
        let file = fill(3);
        assert!(open(&file, SALT + 1).unwrap().1.is_empty());
        // A shorter history over a longer one.
        let (mut journal, _) = open(&file, SALT).unwrap();
        journal.begin(SALT + 2);
        journal.append([(&b"new"[..], None)].into_iter()).unwrap();
        assert_eq!(open(&file, SALT + 2).unwrap().1.len(), 1);
    }

    #[test]
    fn a_cut_off_end_is_dropped_and_a_hole_is_an_error() {
        let file = fill(3);
        let size = open(&file, SALT).unwrap().0.size();
        for at in 0..size {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            match open(&file, SALT) {
                Ok((_, found)) => assert!(found.len() == 2 && at >= size / 3 * 2, "a flip at {at} went unnoticed"),
                Err(error) => assert!(error.kind() == ErrorKind::InvalidData && at < size / 3 * 2, "{at}: {error}"),
            }
            file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(open(&file, SALT).unwrap().1.len(), 3);
    }
}

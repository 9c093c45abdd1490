//! A whole store at once: counting, checking, copying.

use std::collections::HashMap;

use bytes::Bytes;
use peerloom_core::storage::scan_all;
use peerloom_core::wire::store::{self as records, META, Record, TABLES, Table, VAULT, meta};
use peerloom_core::wire::{
    Bundle, DeviceCertificate, DeviceId, Envelope, PeerRecord, PublicKey, Restored, Signed, Stated, limits,
};
use peerloom_core::{Batch, Error, ErrorKind, KeyRange, Result, Storage};
use peerloom_crypto_primitives::{random, verify};

/// Bytes that one batch of a copy has.
const COPY_BATCH: usize = 4 * 1024 * 1024;

/// A table of a store, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSize {
    /// Its name.
    pub name: &'static str,
    /// How many rows it has.
    pub rows: u64,
    /// Bytes of their keys and values, without what the store adds.
    pub bytes: u64,
}

/// Reads every row of every table but the vault's own; `each` sees it.
fn walk(
    storage: &dyn Storage,
    mut each: impl FnMut(Table, &peerloom_core::Row) -> Result<()>,
    mut done: impl FnMut(TableSize, Result<()>) -> Result<()>,
) -> Result<()> {
    let snapshot = storage.snapshot()?;
    for table in TABLES.into_iter().filter(|table| *table != VAULT) {
        let mut size = TableSize { name: table.name, rows: 0, bytes: 0 };
        let outcome = scan_all(&*snapshot, table, KeyRange::all(), |row| {
            size.rows += 1;
            size.bytes += (row.key.len() + row.value.len()) as u64;
            each(table, &row)
        });
        let left_out = snapshot.damaged().iter().filter(|(damaged, _)| *damaged == table).count();
        let damaged = || {
            let message = format!("{left_out} rows are damaged; a node goes on without them");
            Error::new(ErrorKind::Malformed, "store", "read", message)
        };
        done(size, outcome.and_then(|()| if left_out == 0 { Ok(()) } else { Err(damaged()) }))?;
    }
    Ok(())
}

/// The tables with their sizes.
pub fn table_sizes(storage: &dyn Storage) -> Result<Vec<TableSize>> {
    let mut sizes = Vec::new();
    walk(storage, |_, _| Ok(()), |size, outcome| outcome.map(|()| sizes.push(size)))?;
    Ok(sizes)
}

/// Checks the store's own checksums, that every row can be read, that every record says what its
/// table keeps, and every signature that is stored: of certificates, peer records and entries' headers,
/// with the hashes of their payloads. Returns how many rows were
/// checked, and what is wrong; `progress` gets the rows so far.
pub fn check(storage: &dyn Storage, mut progress: impl FnMut(u64)) -> Result<(u64, Vec<String>)> {
    let mut problems = Vec::new();
    match storage.verify() {
        Err(error) if error.kind() == ErrorKind::Malformed => problems.push(error.to_string()),
        outcome => outcome?,
    }
    let mut keys = HashMap::new();
    // What is wrong with these rows is found below.
    let _ = walk(
        storage,
        |table, row| {
            note_keys(table, row, &mut keys);
            Ok(())
        },
        |_, _| Ok(()),
    );
    let (mut rows, mut found) = (0, Vec::new());
    let each = |table: Table, row: &peerloom_core::Row| {
        rows += 1;
        if rows % 1000 == 0 {
            progress(rows);
        }
        if let Err(error) = check_row(table, row, &keys) {
            found.push(format!("{}: a row can't be understood: {error}", table.name));
        }
        Ok(())
    };
    walk(storage, each, |size, outcome| {
        // The rest of such a table can't be read; the others can.
        problems.extend(outcome.err().map(|error| format!("{}, after {} rows: {error}", size.name, size.rows)));
        Ok(())
    })?;
    problems.extend(found);
    Ok((rows, problems))
}

/// The keys of this device and of the contacts' devices.
type Keys = HashMap<DeviceId, PublicKey>;

fn note_keys(table: Table, row: &peerloom_core::Row, keys: &mut Keys) {
    let certificates = match table {
        META if row.key[..] == meta::IDENTITY[..] => {
            records::Identity::decode(row.value.clone()).map(|identity| vec![identity.certificate])
        }
        records::CONTACTS => records::Contact::decode(row.value.clone())
            .map(|contact| contact.devices.into_iter().filter_map(|device| device.certificate).collect()),
        _ => return,
    };
    let opened = certificates.iter().flatten().filter_map(|signed| DeviceCertificate::open(signed, verify).ok());
    keys.extend(opened.map(|certificate| (certificate.device, certificate.device_key)));
}

fn check_envelope(encoded: Bytes, whole: bool, keys: &Keys) -> Result<()> {
    let envelope = Envelope::decode(encoded)?;
    let wrong = || Error::new(ErrorKind::Malformed, "store", "check", "the entry's signature is wrong");
    match keys.get(&envelope.header.log.device) {
        // An own entry whose payload is rebuilt from the history has none here.
        Some(key) if whole && !envelope.verify(|m, s| verify(key, m, s)) => Err(wrong()),
        Some(key) if !envelope.header.verify(|m, s| verify(key, m, s)) => Err(wrong()),
        _ => Ok(()),
    }
}

fn check_row(table: Table, row: &peerloom_core::Row, keys: &Keys) -> Result<()> {
    fn record<R: Record>(row: &peerloom_core::Row) -> Result<R> {
        Ok(R::decode(row.value.clone())?)
    }
    match table {
        META if row.key[..] == meta::IDENTITY[..] => {
            let identity = record::<records::Identity>(row)?;
            DeviceCertificate::open(&identity.certificate, verify)?;
        }
        META if row.key[..] == meta::RESTORED[..] => {
            Stated::<Restored>::decode(Signed::decode(row.value.clone(), limits::RECEIPT)?)?;
        }
        records::CONTACTS => {
            for device in record::<records::Contact>(row)?.devices {
                device.certificate.as_ref().map(|signed| DeviceCertificate::open(signed, verify)).transpose()?;
                device.record.as_ref().map(|signed: &Signed| PeerRecord::open(signed, verify)).transpose()?;
            }
        }
        records::CONVERSATIONS => drop(record::<records::ConversationInfo>(row)?),
        records::INVITATIONS => {
            record::<records::OutstandingInvitation>(row)?;
        }
        records::PENDING => {
            record::<records::PendingHead>(row)?;
        }
        records::PENDING_BODIES => drop(record::<records::Pending>(row)?),
        records::OUT_ENTRIES => drop(record::<records::OutEntry>(row)?),
        records::OUT_SEALED => {
            let sealed = record::<records::SealedEntry>(row)?;
            check_envelope(sealed.envelope, sealed.recipe.is_empty(), keys)?;
        }
        records::OUT_CURSORS => drop(record::<records::OutCursor>(row)?),
        records::IN_LOGS => {
            if let Some(newest) = record::<records::InLog>(row)?.newest {
                let key = keys.get(&newest.log.device);
                if key.is_some_and(|key| !newest.verify(|m, s| verify(key, m, s))) {
                    return Err(Error::new(
                        ErrorKind::Malformed,
                        "store",
                        "check",
                        "the newest header's signature is wrong",
                    ));
                }
            }
        }
        records::IN_PARKED => check_envelope(row.value.clone(), true, keys)?,
        records::QUARANTINE => {
            record::<records::Quarantined>(row)?;
        }
        records::HISTORY => drop(Bundle::decode(record::<records::History>(row)?.bundle)?),
        records::HISTORY_HEADS => drop(record::<records::HistoryHead>(row)?),
        records::KEY_PACKAGES => drop(record::<records::GivenKeyPackage>(row)?),
        // Numbers and the cryptos' own state.
        _ => {}
    }
    Ok(())
}

/// Copies all rows into an empty store and counts them there. The copy is another instance, so that
/// the first can't be taken for it later. `progress` gets the rows so far.
pub fn copy(from: &dyn Storage, to: &dyn Storage, mut progress: impl FnMut(u64)) -> Result<u64> {
    if to.snapshot()?.get(META, meta::SCHEMA)?.is_some() {
        let message = "the store to copy to is not empty; delete it, or choose another path";
        return Err(Error::new(ErrorKind::AlreadyExists, "store", "copy", message));
    }
    let no_random =
        |e| Error::new(ErrorKind::Storage, "store", "copy", "the system gives no randomness").with_source(e);
    let instance = Bytes::copy_from_slice(&random::<16>().map_err(no_random)?);
    let (mut batch, mut rows) = (Batch::default(), 0);
    // The layout's version comes last: a copy that was broken off is no store yet.
    let mut last = Batch::default();
    let each = |table: Table, row: &peerloom_core::Row| {
        rows += 1;
        if rows % 1000 == 0 {
            progress(rows);
        }
        let fact = |name: &[u8]| table == META && row.key[..] == *name;
        let value = if fact(meta::INSTANCE) { instance.clone() } else { row.value.clone() };
        let target = if fact(meta::SCHEMA) { &mut last } else { &mut batch };
        target.put(table, row.key.clone(), value);
        if batch.size() >= COPY_BATCH {
            to.commit(&std::mem::take(&mut batch))?;
            to.settle()?;
        }
        Ok(())
    };
    walk(from, each, |_, outcome| outcome)?;
    to.commit(&batch)?;
    if table_sizes(to)?.iter().map(|size| size.rows).sum::<u64>() + last.writes().len() as u64 != rows {
        let message = "the copy has another number of rows; delete it and try again";
        return Err(Error::new(ErrorKind::Storage, "store", "copy", message));
    }
    to.commit(&last)?;
    to.settle()?;
    Ok(rows)
}

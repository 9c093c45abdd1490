//! The layout's version, its migrations, and what a new store begins with.

use bytes::Bytes;
use peerloom_core::wire::store::{self, META, Record, meta};
use peerloom_core::{Batch, Error, ErrorKind, Result, Snapshot, Storage};
use tracing::info;

/// One step from a layout to the next, in pages: a long table is never in memory as a whole.
pub(crate) struct Migration {
    /// The version it starts from; it leads to the next one.
    pub(crate) from: u32,
    /// Adds the changes to one page of rows to the batch. `place`: what it returned for the page before, empty at first.
    /// `None`: this was the last page. A page and its place are committed together, so each is done once.
    pub(crate) apply: fn(&dyn Snapshot, place: &[u8], &mut Batch) -> Result<Option<Bytes>>,
}

/// In the stored version, beside the version that a step started from: the step has begun. Every program takes it for a
/// layout that is newer than all that it knows, but for one that can finish the step.
const BEGUN: u32 = 1 << 31;

/// The steps to [`store::SCHEMA_VERSION`], oldest first. Version 1 is the first.
pub(crate) const MIGRATIONS: &[Migration] = &[];

/// What a store says about itself.
pub(crate) struct Opened {
    /// Absent in a new store.
    pub(crate) identity: Option<store::Identity>,
    pub(crate) last_seen_ms: u64,
}

/// Brings a store to this layout and reads what it says about itself.
pub(crate) fn open(storage: &dyn Storage, migrations: &[Migration], target: u32) -> Result<Opened> {
    migrate(storage, migrations, target)?;
    let snapshot = storage.snapshot()?;
    let identity = snapshot.get(META, meta::IDENTITY)?.map(store::Identity::decode).transpose()?;
    Ok(Opened { identity, last_seen_ms: number(&*snapshot, meta::LAST_SEEN_TIME)? })
}

fn migrate(storage: &dyn Storage, migrations: &[Migration], target: u32) -> Result<()> {
    loop {
        let snapshot = storage.snapshot()?;
        let stored = snapshot.get(META, meta::SCHEMA)?;
        let mut batch = Batch::default();
        let next = match stored.as_deref().map(version) {
            None => target,
            Some(found) if found == target => return Ok(()),
            Some(found) => {
                let from = found & !BEGUN;
                let step = migrations.iter().find(|m| m.from == from && from < target);
                let step = step.ok_or_else(|| no_way(from, target))?;
                if found == from {
                    info!(from, to = from + 1, "upgrading the store");
                }
                let place = snapshot.get(META, meta::MIGRATION)?.filter(|_| found != from).unwrap_or_default();
                match (step.apply)(&*snapshot, &place, &mut batch)? {
                    Some(place) => {
                        batch.put(META, Bytes::from_static(meta::MIGRATION), place);
                        from | BEGUN
                    }
                    None => {
                        batch.delete(META, Bytes::from_static(meta::MIGRATION));
                        from + 1
                    }
                }
            }
        };
        batch.put(META, Bytes::from_static(meta::SCHEMA), next.to_be_bytes().to_vec());
        storage.commit(&batch)?;
        storage.settle()?;
    }
}

fn no_way(from: u32, target: u32) -> Error {
    let message = if from >= target {
        format!("the store has layout {from}, this program knows {target}; upgrade the program")
    } else {
        format!("no way leads from the store's layout {from}; use an older program to upgrade it first")
    };
    Error::new(ErrorKind::UnsupportedVersion, "store", "open", message)
}

/// A value that isn't 4 bytes long is of no layout we know: newer than all.
fn version(value: &[u8]) -> u32 {
    value.try_into().map_or(!BEGUN, u32::from_be_bytes)
}

fn number(snapshot: &dyn Snapshot, key: &[u8; 16]) -> Result<u64> {
    let value = match snapshot.get(META, key) {
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Malformed) => Some(Bytes::new()),
        value => value?,
    };
    // Damaged, it is a time long ago: the clock wants confirming, as it does after a long pause.
    let long_ago = u64::from(value.is_some());
    Ok(value.and_then(|v| v.as_ref().try_into().ok()).map_or(long_ago, u64::from_be_bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use peerloom_core::memory::MemoryStorage;
    use peerloom_core::storage::Checked;
    use peerloom_core::wire::store::HISTORY;
    use peerloom_core::{KeyRange, Order, Page};

    use super::*;
    use crate::clock::Clock;

    /// A fabricated change of layout: version 2 keeps histories behind another version byte.
    fn to_2(snapshot: &dyn Snapshot, place: &[u8], batch: &mut Batch) -> Result<Option<Bytes>> {
        let range = if place.is_empty() { KeyRange::all() } else { KeyRange::all().after(place) };
        let rows = snapshot.scan(HISTORY, &range, Order::Ascending, Page::DEFAULT)?;
        for row in &rows {
            assert_eq!(row.value[0], 1, "each row is changed once");
            batch.put(HISTORY, row.key.clone(), [&[2], &row.value[1..]].concat());
        }
        Ok(rows.last().map(|row| row.key.clone()))
    }

    fn to_3(_: &dyn Snapshot, _: &[u8], batch: &mut Batch) -> Result<Option<Bytes>> {
        batch.put(META, b"third-step\0\0\0\0\0\0".as_slice(), b"done".as_slice());
        Ok(None)
    }

    const STEPS: &[Migration] = &[Migration { from: 1, apply: to_2 }, Migration { from: 2, apply: to_3 }];

    fn older() -> MemoryStorage {
        let storage = MemoryStorage::new();
        let mut batch = Batch::default();
        batch.put(META, Bytes::from_static(meta::SCHEMA), 1u32.to_be_bytes().to_vec());
        for order in 0..600u64 {
            batch.put(HISTORY, store::ordered_key(&[], order), vec![1, 42]);
        }
        storage.commit(&batch).unwrap();
        storage
    }

    #[test]
    fn an_older_store_is_brought_up_step_by_step() {
        let storage = older();
        open(&storage, STEPS, 3).map(drop).unwrap();
        let snapshot = storage.snapshot().unwrap();
        assert_eq!(snapshot.get(META, meta::SCHEMA).unwrap().as_deref(), Some(&[0, 0, 0, 3][..]));
        assert_eq!(snapshot.get(HISTORY, &store::ordered_key(&[], 599)).unwrap().as_deref(), Some(&[2, 42][..]));
        // A second opening finds nothing to do.
        open(&storage, STEPS, 3).map(drop).unwrap();
    }

    /// What was committed of a step that was interrupted is done; meanwhile no program takes the store for a whole one.
    #[test]
    fn an_interrupted_step_goes_on_where_it_was() {
        // The rows are three pages; the fourth finds no more.
        for pages in 0..4 {
            let storage = older();
            storage.faults().fail_commits_after(pages, ErrorKind::Full);
            assert_eq!(open(&storage, STEPS, 3).map(drop).unwrap_err().kind(), ErrorKind::Full);
            storage.faults().fail_commits(None);
            let before = open(&storage, &[], 1).map(drop);
            assert_eq!(before.is_ok(), pages == 0, "after {pages} pages");
            open(&storage, STEPS, 3).map(drop).unwrap();
            let snapshot = storage.snapshot().unwrap();
            for order in 0..600 {
                assert_eq!(
                    snapshot.get(HISTORY, &store::ordered_key(&[], order)).unwrap().as_deref(),
                    Some(&[2, 42][..])
                );
            }
            assert_eq!(snapshot.get(META, meta::MIGRATION).unwrap(), None);
        }
    }

    #[test]
    fn a_damaged_time_is_long_ago_and_wants_confirming() {
        let raw = Arc::new(MemoryStorage::new());
        let storage = Checked::over(raw.clone());
        let last_seen_ms = || open(&*storage, &[], 1).map(|opened| opened.last_seen_ms).unwrap();
        assert_eq!(last_seen_ms(), 0, "the first run");
        assert!(Clock::new(0).now().wall_ms > 0);
        let put = |storage: &dyn Storage, value: &[u8]| {
            let mut batch = Batch::default();
            batch.put(META, Bytes::from_static(meta::LAST_SEEN_TIME), value.to_vec());
            storage.commit(&batch).unwrap();
        };
        put(&*storage, &1234u64.to_be_bytes());
        assert_eq!(last_seen_ms(), 1234);
        // Without its checksum, with a wrong one, and of a wrong length.
        for value in [&b""[..], &[1, 2, 3], &[7; 12]] {
            put(&*raw, value);
            let last_seen_ms = last_seen_ms();
            assert!(last_seen_ms > 0, "it is no first run: {value:?}");
            assert_eq!(Clock::new(last_seen_ms).now().wall_ms, 0, "nothing expires by this clock yet");
        }
        put(&*storage, &[1, 2, 3]);
        assert_eq!(Clock::new(last_seen_ms()).now().wall_ms, 0);
    }

    #[test]
    fn newer_and_unreachable_layouts_are_refused() {
        let storage = older();
        open(&storage, STEPS, 3).map(drop).unwrap();
        let newer = open(&storage, &[], 2).map(drop).unwrap_err();
        assert_eq!(newer.kind(), ErrorKind::UnsupportedVersion);
        assert!(newer.to_string().contains("upgrade the program"), "{newer}");
        let gap = open(&older(), &STEPS[1..], 3).map(drop).unwrap_err();
        assert_eq!(gap.kind(), ErrorKind::UnsupportedVersion);
    }
}

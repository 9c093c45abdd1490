//! The layout's version, its migrations, and what a new store begins with.

use bytes::Bytes;
use peerloom_core::wire::store::{self, META, Record, meta};
use peerloom_core::{Batch, Error, ErrorKind, Result, Snapshot, Storage};
use tracing::info;

/// One step from a layout to the next.
pub(crate) struct Migration {
    /// The version it starts from; it leads to the next one.
    pub(crate) from: u32,
    /// Adds the changes to the batch, which also sets the new version: a step is done or not begun.
    pub(crate) apply: fn(&dyn Snapshot, &mut Batch) -> Result<()>,
}

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
            Some(found) if found > target => {
                let message = format!("the store has layout {found}, this program knows {target}; upgrade the program");
                return Err(Error::new(ErrorKind::UnsupportedVersion, "store", "open", message));
            }
            Some(found) => {
                let step = migrations.iter().find(|m| m.from == found).ok_or_else(|| {
                    let message = format!(
                        "no way leads from the store's layout {found}; use an older program to upgrade it first"
                    );
                    Error::new(ErrorKind::UnsupportedVersion, "store", "open", message)
                })?;
                info!(from = found, to = found + 1, "upgrading the store");
                (step.apply)(&*snapshot, &mut batch)?;
                found + 1
            }
        };
        batch.put(META, Bytes::from_static(meta::SCHEMA), next.to_be_bytes().to_vec());
        storage.commit(&batch)?;
    }
}

/// A value that isn't 4 bytes long is of no layout we know: newer than all.
fn version(value: &[u8]) -> u32 {
    value.try_into().map_or(u32::MAX, u32::from_be_bytes)
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

    use peerloom_core::KeyRange;
    use peerloom_core::memory::MemoryStorage;
    use peerloom_core::storage::{Checked, scan_all};
    use peerloom_core::wire::store::HISTORY;

    use super::*;
    use crate::clock::Clock;

    /// A fabricated change of layout: version 2 keeps histories behind another version byte.
    fn to_2(snapshot: &dyn Snapshot, batch: &mut Batch) -> Result<()> {
        scan_all(snapshot, HISTORY, KeyRange::all(), |row| {
            let mut value = row.value.to_vec();
            value[0] = 2;
            batch.put(HISTORY, row.key, value);
            Ok(())
        })
    }

    fn to_3(_: &dyn Snapshot, batch: &mut Batch) -> Result<()> {
        batch.put(META, b"third-step\0\0\0\0\0\0".as_slice(), b"done".as_slice());
        Ok(())
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

    #[test]
    fn a_step_that_fails_leaves_the_store_as_it_was() {
        let storage = older();
        storage.faults().fail_commits(Some(ErrorKind::Full));
        assert_eq!(open(&storage, STEPS, 3).map(drop).unwrap_err().kind(), ErrorKind::Full);
        storage.faults().fail_commits(None);
        let snapshot = storage.snapshot().unwrap();
        assert_eq!(snapshot.get(META, meta::SCHEMA).unwrap().as_deref(), Some(&[0, 0, 0, 1][..]));
        open(&storage, STEPS, 3).map(drop).unwrap();
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

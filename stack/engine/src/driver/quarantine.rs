//! What is known of entries that couldn't be opened: their ids and why. Their bytes can't be opened later either, so
//! they aren't kept.

use std::collections::HashMap;

use peerloom_core::Result;
use peerloom_core::wire::store::{QUARANTINE, Quarantined, Record};
use peerloom_core::wire::{CannotOpenReason, Envelope, LogId, Position};

use super::Turn;
use super::state::entry_key;
use crate::clock::system_ms;

/// How many entries are in quarantine, by log.
#[derive(Default)]
pub(crate) struct Quarantine {
    logs: HashMap<LogId, usize>,
    all: usize,
}

impl Quarantine {
    /// Most entries of one log, and of all.
    const OF_A_LOG: usize = 512;
    const OF_ALL: usize = 16_384;

    pub(crate) fn has_room(&self, log: &LogId) -> bool {
        self.all < Self::OF_ALL && self.logs.get(log).is_none_or(|count| *count < Self::OF_A_LOG)
    }

    pub(crate) fn add(&mut self, log: LogId) {
        *self.logs.entry(log).or_default() += 1;
        self.all += 1;
    }

    fn remove(&mut self, log: &LogId) {
        if let Some(count) = self.logs.get_mut(log).filter(|count| **count > 0) {
            *count -= 1;
            self.all -= 1;
        }
    }
}

impl Turn<'_> {
    /// Notes an entry that can't be opened, while there is room.
    pub(super) fn quarantine(&mut self, envelope: &Envelope, reason: CannotOpenReason) -> Result<()> {
        let log = envelope.header.log;
        let key = entry_key(&log, envelope.header.position);
        if !self.state.quarantine.has_room(&log) || self.txn.sound(QUARANTINE, &key)?.is_some() {
            return Ok(());
        }
        let row = Quarantined { reason, since_ms: system_ms(), id: envelope.header.id() };
        self.txn.put(QUARANTINE, key, row.encode());
        self.state.quarantine.add(log);
        Ok(())
    }

    /// What couldn't be opened at a position is here now.
    pub(super) fn release_quarantine(&mut self, log: LogId, position: Position) -> Result<()> {
        let key = entry_key(&log, position);
        if self.txn.sound(QUARANTINE, &key)?.is_some() {
            self.txn.delete(QUARANTINE, key);
            self.state.quarantine.remove(&log);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::wire::{ConversationId, DeviceId};

    use super::super::testing::{early, in_a_turn};
    use super::*;

    /// Forty peers send what can't be opened, without end; the store keeps so many ids of it.
    #[test]
    fn the_store_keeps_no_more_ids_than_the_quarantine_of_all_logs_may_take() {
        in_a_turn(|turn| {
            for number in 1..=40 {
                for position in 1..=600 {
                    turn.quarantine(&early(number, position, 1), CannotOpenReason::KeyGone).unwrap();
                }
            }
            let rows = turn.txn.scan(QUARANTINE, &peerloom_core::KeyRange::all()).unwrap();
            assert_eq!(rows.len(), Quarantine::OF_ALL);
        });
    }

    #[test]
    fn the_quarantine_is_bounded_for_a_log_and_over_all() {
        let log = |number: u8| LogId {
            device: DeviceId::from_bytes([number; 32]),
            conversation: ConversationId::from_bytes([number; 32]),
        };
        let mut quarantine = Quarantine::default();
        let fill = |quarantine: &mut Quarantine, log: LogId| {
            (0..1000)
                .filter(|_| {
                    let room = quarantine.has_room(&log);
                    if room {
                        quarantine.add(log);
                    }
                    room
                })
                .count()
        };
        let counts: Vec<usize> = (0..40).map(|number| fill(&mut quarantine, log(number))).collect();
        assert!(counts.iter().all(|count| *count <= Quarantine::OF_A_LOG), "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), Quarantine::OF_ALL);
        quarantine.remove(&log(0));
        assert!(quarantine.has_room(&log(39)) && quarantine.has_room(&log(0)));
    }
}

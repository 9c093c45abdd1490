//! How much is parked in all logs, and what gives way.

use std::collections::{BTreeMap, HashMap};

use peerloom_core::Result;
use peerloom_core::wire::store::IN_PARKED;
use peerloom_core::wire::{Envelope, LogId, Position};

use super::Turn;
use super::state::entry_key;

/// The parked entries' sizes in bytes.
#[derive(Default)]
pub(crate) struct Parked {
    logs: HashMap<LogId, Log>,
    bytes: usize,
}

#[derive(Default)]
struct Log {
    sizes: BTreeMap<Position, usize>,
    bytes: usize,
}

impl Parked {
    /// Most bytes in all.
    const MAX: usize = 32 * 1024 * 1024;

    pub(crate) fn add(&mut self, log: LogId, position: Position, size: usize) {
        self.remove(&log, position);
        let of_log = self.logs.entry(log).or_default();
        of_log.sizes.insert(position, size);
        of_log.bytes += size;
        self.bytes += size;
    }

    pub(crate) fn remove(&mut self, log: &LogId, position: Position) {
        let Some(of_log) = self.logs.get_mut(log) else { return };
        if let Some(size) = of_log.sizes.remove(&position) {
            of_log.bytes -= size;
            self.bytes -= size;
        }
        if of_log.sizes.is_empty() {
            self.logs.remove(log);
        }
    }

    /// While there is too much: the last entry of the log that holds the most. Its turn is the furthest away.
    fn too_many(&self) -> Option<(LogId, Position)> {
        let fullest = self.logs.iter().filter(|_| self.bytes > Self::MAX).max_by_key(|(_, of_log)| of_log.bytes);
        fullest.and_then(|(log, of_log)| of_log.sizes.last_key_value().map(|(position, _)| (*log, *position)))
    }

    /// The positions of each log.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (LogId, Vec<Position>)> {
        self.logs.iter().map(|(log, of_log)| (*log, of_log.sizes.keys().copied().collect()))
    }
}

impl Turn<'_> {
    /// Keeps an early entry. Other bytes at its position are a conflict, the same ones nothing new.
    pub(super) fn park(&mut self, envelope: &Envelope) -> Result<()> {
        let (log, position) = (envelope.header.log, envelope.header.position);
        let key = entry_key(&log, position);
        // What can't be read, or understood, is parked again.
        match self.txn.sound(IN_PARKED, &key)?.and_then(|row| Envelope::decode(row).ok()) {
            None => {
                let encoded = envelope.encode();
                self.state.parked.add(log, position, encoded.len());
                self.txn.put(IN_PARKED, key, encoded);
                self.bound_parked();
            }
            Some(parked) if parked.header.id() == envelope.header.id() => {}
            Some(_) => self.conflict(log, position),
        }
        Ok(())
    }

    /// Takes a parked entry, whose turn has come.
    pub(super) fn take_parked(&mut self, log: LogId, position: Position) -> Result<Option<Envelope>> {
        let key = entry_key(&log, position);
        let parked = self.txn.sound(IN_PARKED, &key)?;
        self.forget_parked(log, position);
        self.inbox(log).unpark(position);
        // What can't be understood is missing; its owner sends it again.
        Ok(parked.and_then(|row| Envelope::decode(row).ok()))
    }

    /// Another entry was parked: what is too much is dropped unacknowledged, so its owner sends it again.
    fn bound_parked(&mut self) {
        while let Some((log, position)) = self.state.parked.too_many() {
            let now = self.now;
            self.forget_parked(log, position);
            self.inbox(log).on_refused(position, now);
        }
    }

    /// A parked entry goes from the store.
    pub(super) fn forget_parked(&mut self, log: LogId, position: Position) {
        self.txn.delete(IN_PARKED, entry_key(&log, position));
        self.state.parked.remove(&log, position);
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::KeyRange;
    use peerloom_core::wire::{ConversationId, DeviceId};

    use super::super::testing::{early, in_a_turn};
    use super::*;

    /// Three peers send as many early entries as each may; the store keeps what all logs may take.
    #[test]
    fn the_store_keeps_no_more_parked_bytes_than_all_logs_may_take() {
        in_a_turn(|turn| {
            for number in 1..=3 {
                for position in 2..=30 {
                    turn.park(&early(number, position, 1_000_000)).unwrap();
                }
            }
            let rows = turn.txn.scan(IN_PARKED, &KeyRange::all()).unwrap();
            let bytes: usize = rows.iter().map(|row| row.value.len()).sum();
            assert!(bytes <= Parked::MAX && bytes > Parked::MAX - 2_000_000, "{bytes} bytes in {} entries", rows.len());
        });
    }

    #[test]
    fn what_is_parked_is_bounded_over_all_logs_and_the_fullest_gives_way() {
        let log = |number: u8| LogId {
            device: DeviceId::from_bytes([number; 32]),
            conversation: ConversationId::from_bytes([number; 32]),
        };
        let mut parked = Parked::default();
        let add = |parked: &mut Parked, number, position, size| {
            parked.add(log(number), position, size);
            while let Some((log, position)) = parked.too_many() {
                parked.remove(&log, position);
            }
        };
        // A modest log, and then many that take what they can.
        (2..=5).for_each(|position| add(&mut parked, 0, position, 100_000));
        for number in 1..=20 {
            (2..=65).for_each(|position| add(&mut parked, number, position, 1_000_000));
        }
        let positions: HashMap<LogId, Vec<Position>> = parked.positions().collect();
        let bytes: usize = parked.logs.values().flat_map(|of_log| of_log.sizes.values()).sum();
        assert!(bytes == parked.bytes && bytes <= Parked::MAX && bytes > Parked::MAX - 1_000_000, "{bytes}");
        assert_eq!(positions[&log(0)], [2, 3, 4, 5], "the modest log keeps its entries");
        for number in 1..=20 {
            assert_eq!(positions[&log(number)].first(), Some(&2), "each log keeps what comes first");
        }
        for (log, positions) in positions {
            positions.into_iter().for_each(|position| parked.remove(&log, position));
        }
        assert!(parked.bytes == 0 && parked.logs.is_empty());
    }
}

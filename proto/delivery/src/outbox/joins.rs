//! Devices whose view of the log begins, for the first time or again, and what is sealed again for them.

use std::collections::BTreeSet;

use peerloom_wire::store::OutCursor;
use peerloom_wire::{DeviceId, EntryClass, Position, RangeSet, UserId, limits};

use super::{AckOutcome, Cursor, Entry, Outbox};
use crate::Now;

impl Outbox {
    /// A device's view of the log begins at a position, the newest one.
    pub(super) fn join(&mut self, device: DeviceId, user: UserId, position: Position) {
        let before = self.cursors.remove(&device);
        let rejoins = before.as_ref().map_or(0, |c| c.stored.rejoins);
        let owed = before.as_ref().map(|c| c.lacks_before(position)).unwrap_or_default();
        let acknowledged = before.as_ref().and_then(|c| c.stored.acknowledged.clone());
        let void = before.as_ref().map(|c| c.stored.void.clone()).unwrap_or_default();
        let (base, through, beyond) = (position, position - 1, RangeSet::default());
        let stored = OutCursor { user, base, through, beyond, rejoins, halted: false, owed, acknowledged, void };
        let new = Cursor::new(stored, &self.config);
        let cursor = match before {
            Some(before) => Cursor { stored: new.stored, dirty: true, next: position, gap_asked: None, ..before },
            None => new,
        };
        self.cursors.insert(device, cursor);
    }

    /// A device can't open what is sealed from now on, since it hasn't been let in yet: what lists it as a recipient is
    /// owed to it once it is.
    pub fn await_device(&mut self, device: DeviceId, user: UserId) {
        if self.cursors.contains_key(&device) {
            return;
        }
        let stored = OutCursor {
            user,
            base: 0,
            through: self.head,
            beyond: RangeSet::default(),
            rejoins: 0,
            halted: true,
            owed: RangeSet::default(),
            acknowledged: None,
            void: RangeSet::default(),
        };
        self.cursors.insert(device, Cursor { stalled: true, ..Cursor::new(stored, &self.config) });
    }

    /// What is to be sealed again for devices that were added again and can't open it: application entries that they
    /// lack and that have not expired.
    pub fn owed(&self, now: Now) -> BTreeSet<Position> {
        let mut owed = BTreeSet::new();
        for (device, cursor) in &self.cursors {
            for range in cursor.stored.owed.iter() {
                let entries = self.entries.range(range.first..=range.last);
                let open = entries.filter(|(p, e)| cursor.is_owed(device, **p, e) && !e.has_expired(now));
                owed.extend(open.map(|(position, _)| *position));
            }
        }
        owed
    }

    /// Whether anything is owed to any device.
    pub fn owes(&self) -> bool {
        self.cursors.values().any(|cursor| !cursor.stored.owed.is_empty())
    }

    /// Bytes of an entry that a device still needs.
    pub fn size(&self, position: Position) -> usize {
        self.entries.get(&position).map_or(0, |entry| entry.size)
    }

    /// When an entry expires, in milliseconds since the Unix epoch; 0 = never.
    pub fn expiry(&self, position: Position) -> u64 {
        self.entries.get(&position).map_or(0, |entry| entry.expires_at_ms)
    }

    /// Whether one device of each recipient user has shown what is at a position.
    pub fn was_delivered(&self, position: Position) -> bool {
        self.entries.get(&position).is_some_and(|entry| entry.delivered)
    }

    /// Another entry carries the messages of this one from now on, or they have ended: the end of this one says
    /// nothing of them.
    pub fn on_moved(&mut self, position: Position) {
        if let Some(entry) = self.entries.get_mut(&position) {
            self.messages -= std::mem::take(&mut entry.messages);
        }
    }

    /// What was at a position is sealed again at another one, or can't be: nobody is owed it any more. Who was has
    /// settled it without showing it.
    pub fn on_sealed_again(&mut self, position: Position) {
        self.on_moved(position);
        for cursor in self.cursors.values_mut().filter(|c| c.stored.owed.contains(position)) {
            cursor.stored.owed.remove(position);
            cursor.stored.owed.fill_lowest(limits::RANGES);
            cursor.stored.void.insert(position, position);
            cursor.stored.void.fill_lowest(limits::RANGES);
            cursor.dirty = true;
        }
    }

    /// Entries that became settled because devices joined again, or because nothing of them is owed any more; call after
    /// [`Outbox::append`] with joins and after [`Outbox::on_sealed_again`].
    pub fn settle_before_joins(&mut self) -> AckOutcome {
        for (device, cursor) in &mut self.cursors {
            let open = |range: peerloom_wire::Range| {
                self.entries.range(range.first..=range.last).any(|(p, entry)| cursor.is_owed(device, *p, entry))
            };
            if !cursor.stored.owed.is_empty() && !cursor.stored.owed.iter().any(open) {
                cursor.stored.owed = RangeSet::default();
                cursor.dirty = true;
            }
        }
        let mut outcome = AckOutcome::default();
        self.end(self.entries.keys().copied().filter(|p| *p < self.head).collect(), &mut outcome);
        outcome
    }
}

impl Cursor {
    /// What the device lacks of everything before a position; more than a cursor can hold becomes coarser.
    fn lacks_before(&self, position: Position) -> RangeSet {
        let mut lacks = self.stored.owed.clone();
        let gaps = self.stored.beyond.gaps(self.stored.through + 1, position - 1);
        gaps.into_iter().for_each(|gap| lacks.insert(gap.first, gap.last));
        lacks.fill_lowest(limits::RANGES);
        lacks
    }

    /// Whether an entry is to be sealed again for the device.
    pub(super) fn is_owed(&self, device: &DeviceId, position: Position, entry: &Entry) -> bool {
        let open = entry.class == EntryClass::Application && !entry.withdrawn && entry.recipients.contains(device);
        open && self.stored.owed.contains(position)
    }
}

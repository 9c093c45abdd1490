//! What receivers acknowledge, and what follows from it.

use std::collections::BTreeMap;

use peerloom_wire::{Ack, Chain, DeviceId, EntryClass, Position, RangeSet, Span, Stated, UserId, limits};

use super::{AckOutcome, Cursor, Entry, Expired, Outbox};
use crate::Now;

impl Outbox {
    /// The positions of a withdrawal, with the ids that bind them as far as they are known.
    pub fn bind(&self, positions: &RangeSet) -> Chain {
        let span =
            |r: peerloom_wire::Range| Span { first: r.first, last: r.last, previous: None, id: self.id_at(r.last) };
        positions.iter().map(span).collect()
    }

    /// A device acknowledged. The signature has been checked. What doesn't name our own entries' ids
    /// settles nothing, nor what comes before the device has shown what it holds: a store put back from
    /// a copy doesn't know what it withdrew since.
    pub fn on_ack(&mut self, device: &DeviceId, ack: &Ack, now: Now) -> AckOutcome {
        let mut outcome = AckOutcome::default();
        let cursor = self.cursors.get(device).filter(|_| self.up.contains(device));
        let Some(before) = cursor.map(|cursor| cursor.stored.through) else {
            return outcome;
        };
        // Below its base the device never had anything.
        let through = Span { first: before + 1, last: ack.through, previous: None, id: ack.through_id };
        let mut settled = RangeSet::default();
        for span in std::iter::once(&through).chain(ack.beyond.iter()).filter(|span| span.last > before) {
            match self.id_at(span.last) {
                Some(own) if span.id == Some(own) => settled.insert(span.first.max(before + 1), span.last),
                _ => outcome.conflict = true,
            }
        }
        let Some(cursor) = self.cursors.get_mut(device) else {
            return outcome;
        };
        let has = |p: &Position| cursor.stored.beyond.contains(*p);
        let known = settled.iter().flat_map(|r| self.entries.range(r.first..=r.last).map(|(p, _)| *p));
        let news: Vec<Position> = known.filter(|p| !has(p)).collect();
        if news.is_empty() {
            return outcome;
        }
        outcome.news = true;
        if news.iter().any(|p| *p > cursor.stored.base) {
            // It opens what follows its joining: what went wrong before is over.
            cursor.stored.rejoins = 0;
        }
        settled.iter().for_each(|r| cursor.stored.beyond.insert(r.first, r.last));
        let is_for = |p: &Position| self.entries.get(p).is_some_and(|entry| entry.recipients.contains(device));
        let void = news.iter().filter(|p| ack.withdrawn.contains(**p) && is_for(p));
        void.for_each(|p| cursor.stored.void.insert(*p, *p));
        cursor.stored.through = cursor.stored.beyond.absorb(before);
        // What is too much counts as not shown.
        cursor.stored.void.fill_lowest(limits::RANGES);
        cursor.dirty = true;
        cursor.attempts = 0;
        cursor.resets = 0;
        cursor.stalled = cursor.stored.halted;
        let through = cursor.stored.through;
        // Progress restarts the wait; with nothing left in flight there is none.
        let more = self.in_flight(device).1 > 0;
        if let Some(cursor) = self.cursors.get_mut(device) {
            cursor.deadline = more.then(|| now.mono + self.config.ack_timeout);
        }
        outcome.delivered = news.into_iter().filter(|position| self.note_delivered(*position)).collect();
        let done = self.entries.range(before + 1..through + 1).map(|(p, _)| *p).collect();
        self.end(done, &mut outcome);
        let first = self.entries.keys().next().copied().unwrap_or(Position::MAX);
        self.cursors.get_mut(device).into_iter().for_each(|c| c.stored.void.remove_through(first - 1));
        outcome
    }

    /// A device is in the conversation no more: it needs nothing, and its user doesn't count.
    pub fn remove_device(&mut self, device: &DeviceId) -> AckOutcome {
        let mut outcome = AckOutcome::default();
        self.up.remove(device);
        if self.cursors.remove(device).is_none() {
            return outcome;
        }
        let all: Vec<Position> = self.entries.keys().copied().collect();
        outcome.delivered = all.iter().copied().filter(|position| self.note_delivered(*position)).collect();
        self.end(all, &mut outcome);
        outcome
    }

    /// The devices whose view of the log has begun.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.cursors.keys().copied()
    }

    /// Forgets those of some entries that no device lacks.
    pub(super) fn end(&mut self, done: Vec<Position>, outcome: &mut AckOutcome) {
        for position in &done {
            if self.entries.get(position).is_some_and(|entry| entry.is_needed() && self.is_free(*position)) {
                // No device will show it any more: that is its end.
                let left = self.was_shown(*position);
                outcome.undelivered.push(Expired { position: *position, delivered: false, left, settled: true });
                self.forget(*position);
            }
        }
        outcome.settled = done.into_iter().filter(|p| self.entries.contains_key(p) && self.is_settled(*p)).collect();
        outcome.settled.iter().for_each(|position| self.forget(*position));
    }

    /// Keeps what a device signed, if it is its newest: [`Outbox::on_ack`] found news in it.
    pub fn keep_ack(&mut self, device: &DeviceId, ack: &Stated<Ack>) {
        let Some(cursor) = self.cursors.get_mut(device) else { return };
        let kept = cursor.stored.acknowledged.as_ref();
        // Of two copies of a device's store the one that is ahead counts.
        if kept.is_none_or(|kept| kept.through <= ack.through) {
            cursor.stored.acknowledged = Some(ack.clone());
            cursor.dirty = true;
        }
    }

    /// The newest acknowledgement that a device signed.
    pub fn acknowledged(&self, device: &DeviceId) -> Option<&Stated<Ack>> {
        self.cursors.get(device)?.stored.acknowledged.as_ref()
    }

    pub(super) fn note_delivered(&mut self, position: Position) -> bool {
        let delivered = self.is_delivered(position);
        match self.entries.get_mut(&position) {
            Some(entry) if delivered && !entry.delivered => {
                entry.delivered = true;
                entry.class == EntryClass::Application
            }
            _ => false,
        }
    }

    /// Whether one device of each recipient user has settled the entry by showing it.
    pub(super) fn is_delivered(&self, position: Position) -> bool {
        let Some(entry) = self.entries.get(&position) else {
            return true;
        };
        let mut users = BTreeMap::<UserId, bool>::new();
        for device in &entry.recipients {
            if let Some(cursor) = self.cursors.get(device) {
                *users.entry(cursor.stored.user).or_default() |= cursor.has(position)
                    && !cursor.stored.void.contains(position)
                    && !cursor.stored.owed.contains(position);
            }
        }
        !users.is_empty() && users.values().all(|reached| *reached)
    }

    /// Whether any device has shown the entry.
    fn was_shown(&self, position: Position) -> bool {
        let recipients = self.entries.get(&position).map(|entry| entry.recipients.as_slice()).unwrap_or_default();
        let cursors = recipients.iter().filter_map(|device| self.cursors.get(device));
        cursors.into_iter().any(|c| c.has(position) && !c.stored.void.contains(position))
    }

    /// Whether no device needs the entry any more, nor its id to be told by, and its messages have an end.
    pub(super) fn is_settled(&self, position: Position) -> bool {
        !self.entries.get(&position).is_some_and(Entry::is_needed) && self.is_free(position)
    }

    /// Whether no device lacks the entry, or what it is owed of it.
    fn is_free(&self, position: Position) -> bool {
        let entry = self.entries.get(&position);
        let recipient = |device: &DeviceId| entry.is_some_and(|entry| entry.recipients.contains(device));
        let owed = |device: &DeviceId, c: &Cursor| entry.is_some_and(|entry| c.is_owed(device, position, entry));
        let withdrawn = entry.is_some_and(|entry| entry.withdrawn);
        // A halted device is added again before anything else, and needs no word of what holds nothing for it.
        let free = |(device, c): (&DeviceId, &Cursor)| {
            let nothing = || c.stored.halted && (withdrawn || !recipient(device));
            !owed(device, c) && (position <= c.stored.through || nothing())
        };
        self.cursors.iter().all(free)
    }

    pub(super) fn is_settled_for(&self, device: &DeviceId, position: Position) -> bool {
        let entry = self.entries.get(&position);
        let owed = |c: &Cursor| entry.is_some_and(|entry| c.is_owed(device, position, entry));
        self.cursors.get(device).is_none_or(|c| position <= c.stored.through && !owed(c))
    }
}

//! One log of a peer device, as far as we have it.

use std::collections::BTreeSet;
use std::time::Duration;

use peerloom_wire::store::InLog;
use peerloom_wire::{Ack, Chain, DeviceId, EntryId, LogId, Position, RangeSet, SignedHeader, Span, limits};

use crate::{Config, Now};

/// Opens a log in order: what comes early is parked, what is missing is asked for, and past a
/// second wait the rest is opened ahead of the gap.
#[derive(Debug)]
pub struct Inbox {
    log: LogId,
    gap_wait: Duration,
    max_parked: usize,
    stored: InLog,
    dirty: bool,
    parked: BTreeSet<Position>,
    deadline: Option<Duration>,
    rounds: u32,
}

/// How far beyond the settled positions a withdrawal may reach.
const NEAR: u64 = 65_536;

/// What to do with an entry that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Open it now.
    Open,
    /// Store it unopened; it is not acknowledged.
    Park,
    /// It is settled: acknowledge again, and show what is held of the log. (Where the id of what was
    /// settled is no longer known, the owner knows by that whether it was this entry.)
    Duplicate,
    /// Other bytes at a known position, or after another predecessor than the one known: the owner's
    /// store was restored, or two copies of it run. Show what is held of the log; nothing else changes.
    Conflict,
    /// There is no room to park it; the sender will send it again.
    NoRoom,
}

/// What a gap calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GapAction {
    /// Ask the log's owner for these positions.
    Ask(RangeSet),
    /// Open these parked entries although earlier ones are missing, and ask once more.
    OpenAhead {
        /// The parked entries.
        positions: Vec<Position>,
        /// What is missing.
        missing: RangeSet,
    },
}

impl Inbox {
    /// The log as it was stored, with the positions that are parked.
    pub fn restore(
        log: LogId,
        config: &Config,
        stored: InLog,
        parked: impl IntoIterator<Item = Position>,
        now: Now,
    ) -> Self {
        let mut inbox = Self {
            log,
            gap_wait: config.gap_wait,
            max_parked: config.max_parked,
            stored,
            dirty: false,
            parked: parked.into_iter().collect(),
            deadline: None,
            rounds: 0,
        };
        inbox.watch_gap(now);
        inbox
    }

    /// An entry arrived; its signature has been checked. `joins`: it says that our view of the log
    /// begins with it.
    pub fn on_entry(&mut self, header: &SignedHeader, joins: bool, now: Now) -> Arrival {
        let position = header.position;
        if self.id_at(position).is_some_and(|known| known != header.id()) {
            return Arrival::Conflict;
        }
        // Its owner can't let us in at a position that it has taken back: what was acknowledged stays settled.
        let taken_back = position <= self.stored.through || self.stored.beyond.contains(position);
        if self.is_settled(position) || (joins && (position < self.stored.base || taken_back)) {
            return Arrival::Duplicate;
        }
        if !self.fits(header) {
            return Arrival::Conflict;
        }
        if self.stored.newest.as_ref().is_none_or(|newest| newest.position < position) {
            self.stored.newest = Some(header.clone());
            self.dirty = true;
        }
        if joins || position == self.stored.through + 1 && self.stored.base > 0 {
            return Arrival::Open;
        }
        if position < self.stored.base {
            return Arrival::Duplicate;
        }
        if self.parked.len() >= self.max_parked && !self.parked.contains(&position) {
            return Arrival::NoRoom;
        }
        self.parked.insert(position);
        self.watch_gap(now);
        Arrival::Park
    }

    /// Whether an entry that isn't settled agrees with those beside it. Check it again before a parked
    /// entry is opened: what came since may contradict it.
    pub fn fits(&self, header: &SignedHeader) -> bool {
        let span = span_of(header);
        let follows = header.position != self.stored.through + 1
            || self.stored.through_id.is_none()
            || self.stored.through_id == header.previous;
        follows && self.stored.beyond.fits(&span)
    }

    /// The id of the entry at a position, as far as it is still known.
    fn id_at(&self, position: Position) -> Option<EntryId> {
        let through = self.stored.through_id.filter(|_| position == self.stored.through);
        let newest = self.stored.newest.as_ref().filter(|newest| newest.position == position).map(SignedHeader::id);
        through.or(newest).or_else(|| self.stored.beyond.id_at(position))
    }

    /// The newest header of the log that was verified: what proves to its owner how long the log is.
    pub fn newest(&self) -> Option<&SignedHeader> {
        self.stored.newest.as_ref()
    }

    /// An entry that lets us in was opened: what came before it is void. Returns the parked
    /// positions to drop.
    pub fn on_joined(&mut self, header: &SignedHeader) -> Vec<Position> {
        let position = header.position;
        if self.stored.through > 0 {
            let first = self.stored.base.max(1);
            self.stored.before_join.insert(first, self.stored.through);
        }
        for settled in self.stored.beyond.iter() {
            self.stored.before_join.insert(settled.first, settled.last.min(position - 1));
        }
        // What its owner withdrew before we joined stays settled.
        self.stored.beyond.remove_through(position - 1);
        self.stored.before_join.keep_highest(limits::RANGES);
        self.stored.base = position;
        if position > self.stored.through {
            (self.stored.through, self.stored.through_id) = (position - 1, header.previous);
        }
        self.dirty = true;
        let later = self.parked.split_off(&position);
        std::mem::replace(&mut self.parked, later).into_iter().collect()
    }

    /// An entry was opened, and is settled. Returns the next parked position whose turn it is.
    pub fn on_settled(&mut self, header: &SignedHeader, now: Now) -> Option<Position> {
        self.parked.remove(&header.position);
        if self.stored.base == 0 {
            // Opened without having joined: the session is there, only what was known of the log is lost.
            self.stored.base = 1;
        }
        if header.position > self.stored.through {
            self.stored.beyond.insert(span_of(header));
            self.absorb();
        }
        self.after_progress(now)
    }

    fn absorb(&mut self) {
        (self.stored.through, self.stored.through_id) =
            self.stored.beyond.absorb(self.stored.through, self.stored.through_id);
        self.dirty = true;
    }

    fn after_progress(&mut self, now: Now) -> Option<Position> {
        self.deadline = None;
        self.rounds = 0;
        self.watch_gap(now);
        let next = self.stored.through + 1;
        (self.stored.base > 0 && self.parked.contains(&next)).then_some(next)
    }

    /// The log's owner takes positions back, or says that they hold nothing for this device: they are settled,
    /// as far as they are near and their ids don't contradict what is held. Returns the parked positions to drop, and the next one whose turn
    /// it is.
    pub fn on_withdrawn(&mut self, positions: &Chain, now: Now) -> (Vec<Position>, Option<Position>) {
        let near = self.stored.through.saturating_add(NEAR);
        for span in positions.iter() {
            let (first, last) = (span.first.max(self.stored.through + 1), span.last.min(near));
            let other = self.id_at(span.last).is_some_and(|known| span.id.is_some_and(|id| id != known));
            // One that follows at once leaves no range behind.
            let room = self.stored.beyond.len() < limits::RANGES || first == self.stored.through + 1;
            if !room || other {
                continue;
            }
            let missing = self.stored.beyond.positions().gaps(first, last);
            let id = span.id.filter(|_| last == span.last);
            if self.stored.beyond.insert(Span { first, last, previous: None, id }) {
                missing.iter().for_each(|r| self.stored.withdrawn.insert(r.first, r.last));
            }
        }
        // What is too much counts as not shown: rather twice than not at all.
        self.stored.withdrawn.fill_lowest(limits::RANGES);
        self.absorb();
        let settled = |p: &Position| *p <= self.stored.through || self.stored.beyond.contains(*p);
        let parked = std::mem::take(&mut self.parked);
        let (void, kept): (BTreeSet<Position>, BTreeSet<Position>) = parked.into_iter().partition(settled);
        self.parked = kept;
        (void.into_iter().collect(), self.after_progress(now))
    }

    /// A parked entry turned out to be of no use, or is about to be opened.
    pub fn unpark(&mut self, position: Position) {
        self.parked.remove(&position);
    }

    /// An entry could not be opened: it counts as missing until its owner sends it anew.
    pub fn on_refused(&mut self, position: Position, now: Now) {
        self.parked.remove(&position);
        self.watch_gap(now);
    }

    fn watch_gap(&mut self, now: Now) {
        if !self.parked.is_empty() {
            self.deadline.get_or_insert(now.mono + self.gap_wait);
        } else {
            self.deadline = None;
        }
    }

    /// What is due at `now`.
    pub fn on_timer(&mut self, now: Now) -> Option<GapAction> {
        if self.deadline.is_none_or(|d| d > now.mono) {
            return None;
        }
        let missing = self.missing();
        self.rounds += 1;
        // Asked, opened what can be opened; then ever more patiently.
        self.deadline = Some(now.mono + self.gap_wait * (1 << self.rounds.saturating_sub(1).min(5)));
        if self.rounds == 1 {
            return Some(GapAction::Ask(missing));
        }
        // Each opening ahead may leave one more range to remember.
        let room = limits::RANGES.saturating_sub(self.stored.beyond.len());
        Some(GapAction::OpenAhead { positions: self.parked.iter().copied().take(room).collect(), missing })
    }

    /// Positions below the highest known one that are neither settled nor parked.
    fn missing(&self) -> RangeSet {
        let mut missing = RangeSet::default();
        let mut next = self.stored.through + 1;
        for known in
            self.parked.iter().copied().chain(self.stored.beyond.iter().map(|r| r.first)).collect::<BTreeSet<_>>()
        {
            if known < next {
                continue;
            }
            missing.insert(next, known - 1);
            next = self.stored.beyond.iter().find(|r| r.first == known).map_or(known, |r| r.last) + 1;
        }
        missing
    }

    /// When [`Inbox::on_timer`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Whether a position is settled.
    pub fn is_settled(&self, position: Position) -> bool {
        self.stored.base > 0
            && (position >= self.stored.base && position <= self.stored.through
                || self.stored.beyond.contains(position))
    }

    /// Whether a message sealed again from `position` was shown there. What its owner withdrew is settled
    /// and wasn't shown.
    pub fn was_shown(&self, position: Position) -> bool {
        let settled = self.stored.before_join.contains(position) || self.is_settled(position);
        position > 0 && settled && !self.stored.withdrawn.contains(position)
    }

    /// What to acknowledge to the log's owner; `signer` is the device whose inbox this is.
    pub fn ack(&self, signer: DeviceId) -> Ack {
        Ack {
            log: self.log,
            signer,
            through: self.stored.through,
            through_id: self.stored.through_id,
            beyond: self.stored.beyond.without_previous(),
            withdrawn: self.stored.withdrawn.clone(),
        }
    }

    /// Whether this has settled all that an acknowledgement of this device's own says. If not, its store is older
    /// than the one that signed it.
    pub fn knows(&self, ack: &Ack) -> bool {
        self.lacks(ack).is_empty()
    }

    /// What an acknowledgement of this device's own says to be settled, and isn't.
    pub fn lacks(&self, ack: &Ack) -> RangeSet {
        let (settled, next) = (self.stored.beyond.positions(), self.stored.through + 1);
        let mut lacks = RangeSet::default();
        let acknowledged = ack.beyond.iter().map(|span| (span.first, span.last));
        for (first, last) in std::iter::once((next, ack.through)).chain(acknowledged) {
            settled.gaps(first.max(next), last).iter().for_each(|gap| lacks.insert(gap.first, gap.last));
        }
        lacks
    }

    /// Whether what another copy of this store acknowledged may still come to light: of so many copies that found out
    /// that they are, the log's owner has not compared this log with all.
    pub fn awaits_copy(&self, copies: u32) -> bool {
        self.stored.copies < copies
    }

    /// The log's owner has compared this log with all of them: from now on what it shows beyond this store proves that
    /// this one was put back.
    pub fn on_compared(&mut self, copies: u32) {
        if self.awaits_copy(copies) {
            self.stored.copies = copies;
            self.dirty = true;
        }
    }

    /// Takes over what this device's own acknowledgement says: the row of this log was damaged.
    pub fn recover(&mut self, ack: &Ack, now: Now) {
        self.stored.base = self.stored.base.max(1);
        if ack.through > self.stored.through {
            (self.stored.through, self.stored.through_id) = (ack.through, ack.through_id);
        }
        for span in ack.beyond.iter().filter(|span| span.last > self.stored.through) {
            self.stored.beyond.insert(span.clone());
        }
        ack.withdrawn.iter().for_each(|range| self.stored.withdrawn.insert(range.first, range.last));
        self.stored.withdrawn.fill_lowest(limits::RANGES);
        self.absorb();
        let settled = |p: &Position| *p <= self.stored.through || self.stored.beyond.contains(*p);
        let parked = std::mem::take(&mut self.parked);
        self.parked = parked.into_iter().filter(|p| !settled(p)).collect();
        self.watch_gap(now);
    }

    /// The state to be stored, if it changed since the last call.
    pub fn take_dirty(&mut self) -> Option<InLog> {
        std::mem::take(&mut self.dirty).then(|| self.stored.clone())
    }
}

fn span_of(header: &SignedHeader) -> Span {
    Span { first: header.position, last: header.position, previous: header.previous, id: Some(header.id()) }
}

#[cfg(test)]
mod tests;

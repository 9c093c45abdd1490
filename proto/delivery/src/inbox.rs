//! One log of a peer device, as far as we have it.

use std::collections::BTreeSet;
use std::time::Duration;

use peerloom_wire::store::InLog;
use peerloom_wire::{Ack, LogId, Position, RangeSet, limits};

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
    /// It is settled: acknowledge again.
    Duplicate,
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

    /// An entry arrived. `joins`: it says that our view of the log begins with it.
    pub fn on_entry(&mut self, position: Position, joins: bool, now: Now) -> Arrival {
        if self.is_settled(position) || (joins && position < self.stored.base) {
            return Arrival::Duplicate;
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

    /// An entry that lets us in was opened: what came before it is void. Returns the parked
    /// positions to drop.
    pub fn on_joined(&mut self, position: Position) -> Vec<Position> {
        if self.stored.through > 0 {
            let first = self.stored.base.max(1);
            self.stored.before_join.insert(first, self.stored.through);
        }
        for settled in std::mem::take(&mut self.stored.beyond).iter() {
            self.stored.before_join.insert(settled.first, settled.last.min(position - 1));
            // What its owner withdrew before we joined stays settled.
            self.stored.beyond.insert(settled.first.max(position), settled.last);
        }
        self.stored.before_join.keep_highest(limits::RANGES);
        self.stored.base = position;
        self.stored.through = position - 1;
        self.dirty = true;
        let later = self.parked.split_off(&position);
        std::mem::replace(&mut self.parked, later).into_iter().collect()
    }

    /// An entry is settled: opened, or withdrawn by its owner. Returns the next parked position
    /// whose turn it is.
    pub fn on_settled(&mut self, position: Position, now: Now) -> Option<Position> {
        self.parked.remove(&position);
        if self.stored.base == 0 {
            // Opened without having joined: the session is there, only what was known of the log is lost.
            self.stored.base = 1;
        }
        if position > self.stored.through {
            self.stored.beyond.insert(position, position);
            self.stored.through = self.stored.beyond.absorb(self.stored.through);
            self.dirty = true;
        }
        self.after_progress(now)
    }

    fn after_progress(&mut self, now: Now) -> Option<Position> {
        self.deadline = None;
        self.rounds = 0;
        self.watch_gap(now);
        let next = self.stored.through + 1;
        (self.stored.base > 0 && self.parked.contains(&next)).then_some(next)
    }

    /// The log's owner takes positions back: they are settled, as far as they are near. Returns the
    /// next parked position whose turn it is.
    pub fn on_withdrawn(&mut self, positions: &RangeSet, now: Now) -> Option<Position> {
        for range in positions.iter() {
            let near = self.stored.through.saturating_add(NEAR);
            if self.stored.beyond.len() < limits::RANGES {
                self.stored.beyond.insert(range.first.max(self.stored.through + 1), range.last.min(near));
            }
        }
        let through = self.stored.beyond.absorb(self.stored.through);
        self.parked.retain(|p| *p > through && !self.stored.beyond.contains(*p));
        self.stored.through = through;
        self.dirty = true;
        self.after_progress(now)
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

    /// Whether a message sealed again from `position` was shown before we joined anew.
    pub fn was_shown(&self, position: Position) -> bool {
        position > 0 && (self.stored.before_join.contains(position) || self.is_settled(position))
    }

    /// What to tell the log's owner.
    pub fn ack(&self) -> Ack {
        Ack { log: self.log, through: self.stored.through, beyond: self.stored.beyond.clone() }
    }

    /// The state to be stored, if it changed since the last call.
    pub fn take_dirty(&mut self) -> Option<InLog> {
        std::mem::take(&mut self.dirty).then(|| self.stored.clone())
    }
}

#[cfg(test)]
mod tests {
    use peerloom_wire::{ConversationId, DeviceId};

    use super::*;

    const NOW: Now = Now { mono: Duration::ZERO, wall_ms: 0 };

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), wall_ms: 0 }
    }

    fn inbox() -> Inbox {
        let log = LogId { device: DeviceId::from_bytes([1; 32]), conversation: ConversationId::from_bytes([2; 32]) };
        let config = Config { max_parked: 3, ..Config::default() };
        Inbox::restore(log, &config, InLog::default(), [], NOW)
    }

    fn joined() -> Inbox {
        let mut inbox = inbox();
        assert_eq!(inbox.on_entry(1, true, NOW), Arrival::Open);
        assert!(inbox.on_joined(1).is_empty());
        assert_eq!(inbox.on_settled(1, NOW), None);
        inbox
    }

    #[test]
    fn early_entries_wait_for_their_turn() {
        let mut inbox = joined();
        assert_eq!(inbox.on_entry(3, false, NOW), Arrival::Park);
        assert_eq!(inbox.on_entry(4, false, NOW), Arrival::Park);
        assert_eq!(inbox.on_entry(2, false, NOW), Arrival::Open);
        assert_eq!(inbox.on_settled(2, NOW), Some(3));
        assert_eq!(inbox.on_settled(3, NOW), Some(4));
        assert_eq!(inbox.on_settled(4, NOW), None);
        assert_eq!(inbox.ack().through, 4);
        assert_eq!(inbox.next_deadline(), None);
        assert_eq!(inbox.on_entry(4, false, NOW), Arrival::Duplicate);
    }

    #[test]
    fn a_gap_is_asked_for_and_then_passed_over() {
        let mut inbox = joined();
        inbox.on_entry(4, false, NOW);
        assert_eq!(inbox.on_timer(at(1)), None);
        let missing: RangeSet = [2, 3].into_iter().collect();
        assert_eq!(inbox.on_timer(at(2)), Some(GapAction::Ask(missing.clone())));
        assert_eq!(inbox.on_timer(at(4)), Some(GapAction::OpenAhead { positions: vec![4], missing }));
        assert_eq!(inbox.on_settled(4, at(4)), None);
        assert_eq!((inbox.ack().through, inbox.ack().beyond.contains(4)), (1, true));
        // The late ones still come in, each once.
        assert_eq!(inbox.on_entry(3, false, at(5)), Arrival::Park);
        assert_eq!(inbox.on_entry(2, false, at(5)), Arrival::Open);
        assert_eq!(inbox.on_settled(2, at(5)), Some(3));
        assert_eq!(inbox.on_settled(3, at(5)), None);
        assert_eq!(inbox.ack().through, 4);
    }

    #[test]
    fn parking_is_bounded() {
        let mut inbox = joined();
        assert!((3..6).all(|p| inbox.on_entry(p, false, NOW) == Arrival::Park));
        assert_eq!(inbox.on_entry(6, false, NOW), Arrival::NoRoom);
        assert_eq!(inbox.on_entry(5, false, NOW), Arrival::Park);
    }

    #[test]
    fn joining_anew_voids_what_came_before() {
        let mut inbox = joined();
        inbox.on_entry(3, false, NOW);
        assert_eq!(inbox.on_entry(9, true, NOW), Arrival::Open);
        assert_eq!(inbox.on_joined(9), [3]);
        assert_eq!(inbox.on_settled(9, NOW), None);
        assert_eq!(inbox.ack().through, 9);
        assert!(inbox.was_shown(1) && !inbox.was_shown(3) && !inbox.was_shown(0));
        // The old invitation into the log comes late: it changes nothing.
        assert_eq!(inbox.on_entry(1, true, NOW), Arrival::Duplicate);
        assert_eq!(inbox.on_entry(3, false, NOW), Arrival::Duplicate);
    }

    #[test]
    fn a_log_that_never_let_us_in_is_parked() {
        let mut inbox = inbox();
        assert_eq!(inbox.on_entry(1, false, NOW), Arrival::Park);
        assert_eq!(inbox.on_timer(at(2)), Some(GapAction::Ask(RangeSet::default())));
        assert!(matches!(inbox.on_timer(at(4)), Some(GapAction::OpenAhead { .. })));
    }
}

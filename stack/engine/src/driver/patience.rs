//! What a device may do wrong before it is paused, and before its link is closed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use peerloom_core::wire::{Allowance, CannotOpenReason, DeviceId, EntryId, LogId, Position, SignedHeader};
use peerloom_delivery::Now;
use tracing::warn;

use super::Turn;
use crate::net::Trouble;

/// Entries that can't be opened and frames that break a rule, at once, and the time in which one more is forgiven. A
/// device that lost its state can't open what is in flight to it, which are 64 entries for each log.
const FAULTS: u32 = 256;
const FORGIVEN: Duration = Duration::from_secs(1);
/// The first pause; each further one is twice as long, up to 64 times.
const PAUSE: Duration = Duration::from_secs(10);
const DOUBLINGS: u32 = 6;
/// With this many pauses the link is closed at each.
const CLOSED_AFTER: u32 = 3;
/// Refused entries of one log that are remembered.
const REMEMBERED: usize = 64;

/// What a device has done wrong.
pub(crate) struct Faults {
    left: Allowance,
    pauses: u32,
    paused_until: Duration,
    /// Whether the list of peers says that it is paused.
    shown: bool,
}

/// The newest entries of each log that were refused, so that copies of them cost no more than a hash.
#[derive(Default)]
pub(crate) struct Refused(HashMap<LogId, VecDeque<RefusedEntry>>);

struct RefusedEntry {
    position: Position,
    id: EntryId,
    /// For the log's owner.
    reason: Option<CannotOpenReason>,
    /// When its owner heard so last.
    answered: Duration,
}

/// Copies of a refused entry are answered this often at most.
const ANSWERED: Duration = Duration::from_secs(1);

impl Refused {
    /// Whether these very bytes were refused at this place before, and if so, what the log's owner is to hear now.
    pub(super) fn before(&mut self, header: &SignedHeader, now: Now) -> Option<Option<CannotOpenReason>> {
        let mut entries = self.0.get_mut(&header.log)?.iter_mut();
        let entry = entries.find(|entry| entry.position == header.position && entry.id == header.id())?;
        if now.mono < entry.answered + ANSWERED {
            return Some(None);
        }
        entry.answered = now.mono;
        Some(entry.reason)
    }

    pub(super) fn note(&mut self, header: &SignedHeader, reason: Option<CannotOpenReason>, now: Now) {
        let entries = self.0.entry(header.log).or_default();
        entries.retain(|entry| entry.position != header.position);
        let (position, id) = (header.position, header.id());
        entries.push_back(RefusedEntry { position, id, reason, answered: now.mono });
        if entries.len() > REMEMBERED {
            entries.pop_front();
        }
    }

    /// The log's session is another one: what couldn't be opened may be now.
    pub(super) fn forget(&mut self, log: &LogId) {
        self.0.remove(log);
    }
}

impl Faults {
    fn none() -> Self {
        Self { left: Allowance::full(FAULTS), pauses: 0, paused_until: Duration::ZERO, shown: false }
    }

    /// One more; `Some`: how many pauses there were with the one that begins.
    fn add(&mut self, now: Now) -> Option<u32> {
        if now.mono < self.paused_until {
            return None;
        }
        // Time in a pause forgives no pause: nothing was read meanwhile.
        if now.mono >= self.paused_until + FORGIVEN * FAULTS && self.left.is_full(now.mono, FORGIVEN) {
            self.pauses = 0;
        }
        if self.left.spend(now.mono, FORGIVEN) {
            return None;
        }
        self.shown = true;
        self.paused_until = now.mono + PAUSE * (1 << self.pauses.min(DOUBLINGS));
        self.pauses = self.pauses.saturating_add(1);
        Some(self.pauses)
    }
}

impl Turn<'_> {
    /// A device sent what is of no use.
    pub(super) fn on_fault(&mut self, device: DeviceId) {
        self.state.links.count_refused();
        let Some(pauses) = self.state.faults.entry(device).or_insert_with(Faults::none).add(self.now) else {
            return;
        };
        warn!(?device, pauses, "a device sends again and again what is of no use; nothing of it is read for a while");
        let trouble = "paused: it sends again and again what can't be opened; nothing of it is read for a while";
        self.state.links.set_trouble(device, Trouble::Paused, Some(trouble.into()));
        if pauses >= CLOSED_AFTER {
            self.effects.reset_link(device);
        }
    }

    /// Whether nothing of a device is read for now.
    pub(super) fn is_paused(&mut self, device: &DeviceId) -> bool {
        let Some(faults) = self.state.faults.get_mut(device).filter(|faults| faults.shown) else {
            return false;
        };
        let paused = self.now.mono < faults.paused_until;
        if !paused {
            faults.shown = false;
            self.state.links.set_trouble(*device, Trouble::Paused, None);
        }
        paused
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::wire::{ConversationId, EntryClass, Header, RosterId, SuiteId};

    use super::super::testing::NOW;
    use super::*;

    /// However often it errs, a device costs so many faults an hour and no more, and its pauses grow.
    #[test]
    fn faults_have_a_budget() {
        let mut faults = Faults::none();
        let (mut cost, mut pauses) = (0, Vec::new());
        for second in 0..3600 {
            let now = Now { mono: Duration::from_secs(second), wall_ms: 0 };
            for _ in 0..1000 {
                if now.mono >= faults.paused_until {
                    cost += 1;
                    pauses.extend(faults.add(now).map(|_| second));
                }
            }
        }
        assert!(cost <= 256 + 3600 + 10, "{cost}");
        let waits: Vec<u64> = pauses.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.len() < 20 && waits.is_sorted(), "{pauses:?}");
    }

    /// A device that errs seldom is never worse off for what it did long ago.
    #[test]
    fn pauses_are_forgotten_with_the_last_fault() {
        let mut faults = Faults::none();
        let mut burst = |second| {
            let now = Now { mono: Duration::from_secs(second), wall_ms: 0 };
            (0..1000).find_map(|_| faults.add(now))
        };
        assert_eq!([0, 20, 60].map(&mut burst), [Some(1), Some(2), Some(3)]);
        assert_eq!([1000, 1020, 2000].map(&mut burst), [Some(1), Some(2), Some(1)]);
    }

    #[test]
    fn the_oldest_refusal_is_forgotten_wherever_it_stands() {
        let header = |position: Position| {
            let device = DeviceId::from_bytes([1; 32]);
            let log = LogId { device, conversation: ConversationId::from_bytes([2; 32]) };
            let header = Header {
                log,
                position,
                class: EntryClass::Application,
                suite: SuiteId(1),
                expires_at_ms: 0,
                roster: RosterId::from_bytes([0; 32]),
                excluded: Vec::new(),
                joins: Vec::new(),
                previous: None,
            };
            header.sign(b"", |_| vec![7; 64].into())
        };
        let mut refused = Refused::default();
        let positions: Vec<Position> = (1..=200).rev().collect();
        for (number, position) in positions.iter().enumerate() {
            refused.note(&header(*position), None, NOW);
            let mut remembered = |p: &Position| refused.before(&header(*p), NOW).is_some();
            let known: Vec<Position> = positions[..=number].iter().copied().filter(|p| remembered(p)).collect();
            assert_eq!(known, positions[(number + 1).saturating_sub(REMEMBERED)..=number]);
        }
    }
}

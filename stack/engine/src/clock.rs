//! Time for retries and expiry, steady even when the system's clock is not.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peerloom_core::wire::UserId;
use peerloom_delivery::Now;
use tracing::{info, warn};

/// A difference to the system's clock that is a jump, not drift.
const JUMP: Duration = Duration::from_secs(60);
/// How long a jump must last before it is believed: long enough for a person to notice a wrong
/// clock, short against any message's lifetime.
const BELIEVE_AFTER: Duration = Duration::from_secs(600);
/// A start this long after the last run may be one with a wrong clock.
const LEAP: Duration = Duration::from_secs(3600);
/// Contacts that have to agree.
const CONFIRMING: usize = 2;
/// How far a peer's clock may be from the system's to confirm it.
pub(crate) const AGREEMENT: Duration = Duration::from_secs(300);

/// Runs with the monotonic clock from a wall-clock start. When the system's clock jumps, messages
/// don't expire at once: the new time is adopted only after it has lasted [`BELIEVE_AFTER`], or once a
/// peer's clock agrees with it. The same goes for a start long after the last run.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// Wall-clock time at `start`.
    base_ms: u64,
    /// Whether expiry may go by it.
    confirmed: bool,
    jumped_at: Option<Duration>,
    /// Contacts whose clocks agree with a system's time that isn't confirmed.
    agreeing: HashSet<UserId>,
}

impl Clock {
    /// Starts at the system's time, or at `last_seen_ms` if that is later: time doesn't go back
    /// between two runs. 0: this is the first run.
    pub(crate) fn new(last_seen_ms: u64) -> Self {
        Self::starting(last_seen_ms, system_ms())
    }

    fn starting(last_seen_ms: u64, system_ms: u64) -> Self {
        if system_ms + millis(JUMP) < last_seen_ms {
            let behind_ms = last_seen_ms - system_ms;
            warn!(behind_ms, "the system's clock went back since the last run; set it right");
        }
        let confirmed = last_seen_ms == 0 || system_ms <= last_seen_ms.saturating_add(millis(LEAP));
        if !confirmed {
            let hours = (system_ms - last_seen_ms) / 3_600_000;
            warn!(
                hours,
                "the system's clock is well after the last run; nothing expires by it before it lasted ten minutes or contacts' clocks agree"
            );
        }
        Self {
            start: Instant::now(),
            base_ms: system_ms.max(last_seen_ms),
            confirmed,
            jumped_at: None,
            agreeing: HashSet::new(),
        }
    }

    /// The time. Until the clock is confirmed no wall-clock time is known: nothing expires.
    pub(crate) fn now(&self) -> Now {
        let mono = self.start.elapsed();
        Now { mono, wall_ms: if self.confirmed { self.base_ms + millis(mono) } else { 0 } }
    }

    /// The time from which lifetimes count: the latest that this node knows of, confirmed or not, so that nothing that is
    /// accepted now ends early.
    pub(crate) fn latest_ms(&self) -> u64 {
        (self.base_ms + millis(self.start.elapsed())).max(system_ms())
    }

    /// What to tell peers of the time: nothing (0) while it isn't confirmed, or another one than the system's counts. A
    /// peer that hears it could confirm it by repeating it.
    pub(crate) fn told_ms(&self) -> u64 {
        let system_ms = system_ms();
        let steady = self.base_ms + millis(self.start.elapsed());
        if self.confirmed && steady.abs_diff(system_ms) < millis(JUMP) { system_ms } else { 0 }
    }

    /// Compares with the system's clock; call now and then. `true`: another time counts from now on.
    pub(crate) fn check(&mut self) -> bool {
        self.compare(self.start.elapsed(), system_ms())
    }

    fn compare(&mut self, mono: Duration, system_ms: u64) -> bool {
        let steady = self.base_ms + millis(mono);
        if steady.abs_diff(system_ms) < millis(JUMP) {
            self.jumped_at = None;
            if self.confirmed {
                self.agreeing.clear();
            }
            if self.confirmed || mono < BELIEVE_AFTER {
                return false;
            }
            info!("the system's time has lasted; expiry goes by it from now on");
            self.confirmed = true;
            return true;
        }
        let since = *self.jumped_at.get_or_insert_with(|| {
            warn!(steady, system_ms, "the system's clock jumped; expiry goes by the old time for now");
            mono
        });
        if mono.saturating_sub(since) < BELIEVE_AFTER {
            return false;
        }
        warn!(system_ms, "the system's new time lasts; adopted it");
        self.adopt(mono, system_ms);
        true
    }

    /// A contact's device says what time it is, over an authenticated link. Two contacts, or the only one there is, can
    /// confirm the system's time: what one alone says must not end what waits for others. None can set another time.
    /// `true`: another time counts from now on.
    pub(crate) fn hear(&mut self, contact: UserId, contacts: usize, peer_ms: u64) -> bool {
        self.compare_with_peer(self.start.elapsed(), system_ms(), (contact, peer_ms), contacts)
    }

    fn compare_with_peer(
        &mut self,
        mono: Duration,
        system_ms: u64,
        (contact, peer_ms): (UserId, u64),
        contacts: usize,
    ) -> bool {
        let jumped = (self.base_ms + millis(mono)).abs_diff(system_ms) >= millis(JUMP);
        if (self.confirmed && !jumped) || peer_ms.abs_diff(system_ms) > millis(AGREEMENT) {
            return false;
        }
        self.agreeing.insert(contact);
        if self.agreeing.len() < contacts.min(CONFIRMING) {
            return false;
        }
        info!("contacts' clocks agree with the system's; expiry goes by it from now on");
        self.adopt(mono, system_ms);
        true
    }

    fn adopt(&mut self, mono: Duration, system_ms: u64) {
        self.base_ms = system_ms.saturating_sub(millis(mono));
        self.confirmed = true;
        self.jumped_at = None;
        self.agreeing.clear();
    }
}

/// The system's time in milliseconds since the Unix epoch, for showing to people.
pub(crate) fn system_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock {
            start: Instant::now(),
            base_ms: 1_000_000_000,
            confirmed: true,
            jumped_at: None,
            agreeing: HashSet::new(),
        }
    }

    const BOB: UserId = UserId::from_bytes([2; 32]);
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;

    #[test]
    fn a_short_jump_changes_nothing() {
        let mut clock = clock();
        clock.compare(Duration::from_secs(10), clock.base_ms + YEAR_MS);
        clock.compare(Duration::from_secs(300), clock.base_ms + YEAR_MS);
        clock.compare(Duration::from_secs(301), clock.base_ms + 301_000);
        clock.compare(Duration::from_secs(700), clock.base_ms + YEAR_MS);
        assert_eq!(clock.base_ms, 1_000_000_000);
    }

    #[test]
    fn a_lasting_jump_is_adopted_in_either_direction() {
        for system in [1_000_000_000 + YEAR_MS, 1_000] {
            let mut clock = clock();
            clock.compare(Duration::from_secs(10), system);
            clock.compare(Duration::from_secs(611), system + 601_000);
            assert_eq!(clock.base_ms, (system + 601_000).saturating_sub(611_000));
        }
    }

    #[test]
    fn time_does_not_go_back_between_runs() {
        let later = system_ms() + YEAR_MS;
        assert!(Clock::new(later).now().wall_ms >= later);
    }

    const DAY_MS: u64 = 24 * 3_600_000;

    #[test]
    fn a_start_after_a_leap_knows_no_time_until_it_is_confirmed() {
        let start = || Clock::starting(1_000_000_000, 1_000_000_000 + 8 * DAY_MS);
        assert_eq!(start().now().wall_ms, 0);
        // It lasts.
        let (mut clock, system) = (start(), 1_000_000_000 + 8 * DAY_MS);
        assert!(!clock.compare(Duration::from_secs(60), system + 60_000));
        assert_eq!(clock.now().wall_ms, 0);
        assert!(clock.compare(Duration::from_secs(660), system + 660_000));
        assert!(clock.now().wall_ms >= system);
        // A contact agrees; one that doesn't changes nothing.
        let mut clock = start();
        assert!(!clock.compare_with_peer(Duration::from_secs(1), system, (BOB, 1_000_000_000), 1));
        assert!(!clock.compare_with_peer(Duration::from_secs(1), system, (BOB, 0), 1));
        assert_eq!(clock.now().wall_ms, 0);
        assert!(clock.compare_with_peer(Duration::from_secs(1), system, (BOB, system - 100_000), 1));
        assert!(clock.now().wall_ms >= system - 2_000);
        // The wrong clock is set right meanwhile.
        let mut clock = start();
        assert!(!clock.compare(Duration::from_secs(60), 1_000_060_000));
        assert!(!clock.compare(Duration::from_secs(120), 1_000_120_000));
        assert_eq!(clock.now().wall_ms, 0);
        assert!(clock.compare(Duration::from_secs(700), 1_000_700_000));
        assert!(clock.now().wall_ms < 1_001_000_000);
    }

    #[test]
    fn a_first_run_and_a_short_pause_are_trusted() {
        assert!(Clock::starting(0, 1_000_000_000).now().wall_ms >= 1_000_000_000);
        assert!(Clock::starting(1_000_000_000, 1_000_000_000 + 3_600_000).now().wall_ms > 1_003_000_000);
    }

    #[test]
    fn a_contact_confirms_a_jump_at_once_and_makes_none() {
        let mut clock = clock();
        assert!(!clock.compare_with_peer(Duration::from_secs(10), 1_000_010_000, (BOB, 1_000_010_000 + DAY_MS), 1));
        assert!(!clock.compare_with_peer(Duration::from_secs(10), 1_000_010_000, (BOB, 1_000_010_000), 1));
        assert!(clock.compare_with_peer(
            Duration::from_secs(10),
            1_000_010_000 + DAY_MS,
            (BOB, 1_000_010_000 + DAY_MS),
            1
        ));
        assert_eq!(clock.base_ms, 1_000_000_000 + DAY_MS);
    }

    /// What one contact says ends nothing that waits for others, however often it says it.
    #[test]
    fn a_leap_takes_two_contacts_where_there_are_two() {
        let (mallory, system) = (UserId::from_bytes([9; 32]), 1_000_010_000 + 8 * DAY_MS);
        let mut clock = clock();
        for _ in 0..10 {
            assert!(!clock.compare_with_peer(Duration::from_secs(10), system, (mallory, system), 3));
        }
        assert_eq!(clock.base_ms, 1_000_000_000);
        assert!(clock.compare_with_peer(Duration::from_secs(10), system, (BOB, system), 3));
        assert_eq!(clock.base_ms, 1_000_000_000 + 8 * DAY_MS);
    }

    /// Lifetimes count from the latest time that is known, and a time that isn't confirmed is sent to no peer.
    #[test]
    fn a_clock_that_leapt_lengthens_lifetimes_and_is_not_passed_on() {
        let behind = Clock::starting(system_ms() + 8 * DAY_MS, system_ms());
        assert!(behind.latest_ms() >= system_ms() + 8 * DAY_MS - 1000);
        assert_eq!(behind.told_ms(), 0);
        let ahead = Clock::starting(system_ms() - 8 * DAY_MS, system_ms());
        assert!(ahead.latest_ms() + 1000 >= system_ms());
        assert_eq!(ahead.told_ms(), 0);
        assert!(Clock::starting(0, system_ms()).told_ms() > 0);
    }
}

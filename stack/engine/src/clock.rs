//! Time for retries and expiry, steady even when the system's clock is not.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peerloom_delivery::Now;
use tracing::warn;

/// A difference to the system's clock that is a jump, not drift.
const JUMP: Duration = Duration::from_secs(60);
/// How long a jump must last before it is believed: long enough for a person to notice a wrong
/// clock, short against any message's lifetime.
const BELIEVE_AFTER: Duration = Duration::from_secs(600);

/// Runs with the monotonic clock from a wall-clock start. When the system's clock jumps, messages
/// don't expire at once: the new time is adopted only after it has lasted [`BELIEVE_AFTER`].
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// Wall-clock time at `start`.
    base_ms: u64,
    jumped_at: Option<Duration>,
}

impl Clock {
    /// Starts at the system's time, or at `last_seen_ms` if that is later: time doesn't go back
    /// between two runs.
    pub(crate) fn new(last_seen_ms: u64) -> Self {
        let system = system_ms();
        if system + millis(JUMP) < last_seen_ms {
            warn!(behind_ms = last_seen_ms - system, "the system's clock went back since the last run; set it right");
        }
        Self { start: Instant::now(), base_ms: system.max(last_seen_ms), jumped_at: None }
    }

    /// The time.
    pub(crate) fn now(&self) -> Now {
        let mono = self.start.elapsed();
        Now { mono, wall_ms: self.base_ms + millis(mono) }
    }

    /// Compares with the system's clock; call now and then.
    pub(crate) fn check(&mut self) {
        self.compare(self.start.elapsed(), system_ms());
    }

    fn compare(&mut self, mono: Duration, system_ms: u64) {
        let steady = self.base_ms + millis(mono);
        if steady.abs_diff(system_ms) < millis(JUMP) {
            self.jumped_at = None;
            return;
        }
        let since = *self.jumped_at.get_or_insert_with(|| {
            warn!(steady, system_ms, "the system's clock jumped; expiry goes by the old time for now");
            mono
        });
        if mono.saturating_sub(since) >= BELIEVE_AFTER {
            warn!(system_ms, "the system's new time lasts; adopted it");
            self.base_ms = system_ms.saturating_sub(millis(mono));
            self.jumped_at = None;
        }
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
        Clock { start: Instant::now(), base_ms: 1_000_000_000, jumped_at: None }
    }

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
}

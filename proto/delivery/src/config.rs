//! What the rules can be tuned with, and what time it is.

use std::time::Duration;

use rand_core::Rng;

/// The longest wait between two attempts: a hundred years. Longer ones could not be added to a time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The two clocks a machine reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary start; never goes back, never jumps. For retries.
    pub mono: Duration,
    /// Milliseconds since the Unix epoch, as the node believes. For expiry.
    pub wall_ms: u64,
}

impl Now {
    /// Whether something that expires at a time has expired; 0 = never. The only place where that is
    /// decided.
    pub fn is_past(&self, expires_at_ms: u64) -> bool {
        expires_at_ms > 0 && expires_at_ms <= self.wall_ms
    }
}

/// Numbers of the delivery rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How long an acknowledgement may take while the link is up, before entries are sent again.
    pub ack_timeout: Duration,
    /// Waits between attempts without a link; after the last the device is stalled.
    pub retry_delays: Vec<Duration>,
    /// Share of a wait by which it is shortened or lengthened at random, 0 to 1.
    pub jitter: f64,
    /// Most bytes of all logs sent to one device and not yet acknowledged. A larger entry goes alone.
    pub window_bytes: usize,
    /// Most entries of all logs sent to one device and not yet acknowledged.
    pub window_entries: usize,
    /// How long to wait for a missing entry before asking for it, and again before doing without.
    pub gap_wait: Duration,
    /// Most early entries kept of one log.
    pub max_parked: usize,
    /// How often a device that can't open entries is added again without opening one, before it is halted.
    pub max_rejoins: u32,
    /// How often it is added again within a short time at all, and the time until it may be once more.
    pub rejoins_at_once: u32,
    /// See [`Config::rejoins_at_once`].
    pub rejoin_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(5),
            retry_delays: [1, 5, 15, 60].map(Duration::from_secs).to_vec(),
            jitter: 0.2,
            window_bytes: 8 * 1024 * 1024,
            window_entries: 64,
            gap_wait: Duration::from_secs(2),
            max_parked: 64,
            max_rejoins: 3,
            rejoins_at_once: 8,
            rejoin_every: Duration::from_secs(600),
        }
    }
}

impl Config {
    /// `wait`, shortened or lengthened by up to the jitter.
    pub(crate) fn jittered(&self, wait: Duration, rng: &mut dyn Rng) -> Duration {
        let unit = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        wait.min(LONGEST).mul_f64((1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * unit - 1.0)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// The shortest and the longest of many waits.
    fn extremes(jitter: f64, wait: Duration) -> (Duration, Duration) {
        let config = Config { jitter, ..Config::default() };
        let mut rng = StdRng::seed_from_u64(5);
        let waits: Vec<Duration> = (0..10_000).map(|_| config.jittered(wait, &mut rng)).collect();
        (*waits.iter().min().expect("a wait"), *waits.iter().max().expect("a wait"))
    }

    #[test]
    fn a_wait_is_spread_evenly_around_itself() {
        let wait = Duration::from_secs(10);
        for (jitter, shortest, longest) in [(0.2, 8_000, 12_000), (0.0, 10_000, 10_000), (1.0, 0, 20_000)] {
            let (min, max) = extremes(jitter, wait);
            let (shortest, longest) = (Duration::from_millis(shortest), Duration::from_millis(longest));
            assert!(min >= shortest && max <= longest, "{jitter}: {min:?} to {max:?}");
            let close = Duration::from_millis(20);
            assert!(min <= shortest + close && max + close >= longest, "{jitter}: {min:?} to {max:?}");
        }
    }

    #[test]
    fn a_jitter_out_of_range_counts_as_the_nearest_in_it() {
        let wait = Duration::from_secs(10);
        assert_eq!(extremes(7.0, wait), extremes(1.0, wait));
        assert_eq!(extremes(-1.0, wait), (wait, wait));
    }

    #[test]
    fn the_longest_wait_is_a_hundred_years() {
        let years = Duration::from_secs(3_153_600_000);
        for wait in [years, years + Duration::from_secs(1), Duration::MAX] {
            assert_eq!(extremes(0.0, wait), (years, years));
        }
        assert_eq!(extremes(0.0, years / 2).1, years / 2);
    }

    #[test]
    fn what_expires_has_expired_from_that_moment_on() {
        let now = Now { mono: Duration::ZERO, wall_ms: 100 };
        assert!(now.is_past(99) && now.is_past(100) && !now.is_past(101));
        assert!(!now.is_past(0), "0 is never");
    }
}

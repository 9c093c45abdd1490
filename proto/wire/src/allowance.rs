//! A token bucket: how often something may be done.
//!
//! It stands in this crate, since the machines in `proto/delivery` and everything above `stack/core` use it.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A number of uses that come back one by one, up to what there was at first (a token bucket). `T` is a time: an
/// `Instant`, or how long after some beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance<T = Duration> {
    most: u32,
    left: u32,
    /// Since when the next use has been coming back; `None` as long as none was taken.
    since: Option<T>,
}

impl<T: Copy + Ord + Add<Duration, Output = T> + Sub<Output = Duration>> Allowance<T> {
    /// With all of `most` uses.
    pub const fn full(most: u32) -> Self {
        Self { most, left: most, since: None }
    }

    /// Takes one use, if there is one; one comes back in each `every`.
    pub fn spend(&mut self, now: T, every: Duration) -> bool {
        let may = self.wait(now, every).is_none();
        self.left -= u32::from(may);
        may
    }

    /// How long to wait for a use, if there is none; one comes back in each `every`.
    pub fn wait(&mut self, now: T, every: Duration) -> Option<Duration> {
        let since = self.refill(now, every);
        (self.left == 0).then(|| every.saturating_sub(passed(since, now)))
    }

    /// Whether all uses are there; one comes back in each `every`.
    pub fn is_full(&mut self, now: T, every: Duration) -> bool {
        self.refill(now, every);
        self.left == self.most
    }

    fn refill(&mut self, now: T, every: Duration) -> T {
        let since = self.since.unwrap_or(now);
        let back = passed(since, now).as_nanos() / every.as_nanos().max(1);
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(back).min(self.most);
        let since = if self.left == self.most { now } else { since + every.saturating_mul(back) };
        self.since = Some(since);
        since
    }
}

/// Times that don't rise are no error: a clock may be read before a lock is taken.
fn passed<T: Ord + Sub<Output = Duration>>(since: T, now: T) -> Duration {
    if now > since { now - since } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_come_back_one_by_one_and_are_never_more_than_at_first() {
        let every = Duration::from_secs(10);
        let mut allowance = Allowance::full(2);
        let mut spent = |seconds| (0..5).filter(|_| allowance.spend(Duration::from_secs(seconds), every)).count();
        assert_eq!([0, 9, 10, 19, 25, 31, 1000, 1009, 1010].map(&mut spent), [2, 0, 1, 0, 1, 1, 2, 0, 1]);
    }

    #[test]
    fn it_is_known_when_the_next_use_comes_and_when_all_are_there() {
        let (at, every) = (Duration::from_secs, Duration::from_secs(10));
        let mut allowance = Allowance::full(2);
        assert!(allowance.is_full(at(5), every) && allowance.wait(at(5), every).is_none());
        assert!(allowance.spend(at(5), every) && allowance.spend(at(7), every));
        assert_eq!(allowance.wait(at(9), every), Some(at(6)));
        assert_eq!(allowance.wait(at(8), every), Some(at(7)), "a time before the last one");
        assert!(allowance.wait(at(15), every).is_none() && !allowance.is_full(at(24), every));
        assert!(allowance.is_full(at(25), every));
    }

    #[test]
    fn a_full_allowance_begins_to_count_with_the_next_use() {
        let (at, every) = (Duration::from_secs, Duration::from_secs(10));
        let mut allowance = Allowance::full(3);
        assert!(allowance.spend(at(0), every));
        assert!(allowance.is_full(at(17), every), "back since 10");
        assert!((0..3).all(|_| allowance.spend(at(18), every)));
        assert_eq!(allowance.wait(at(18), every), Some(at(10)));
        // What has come back meanwhile leaves the rest of the time to the next one.
        assert!(allowance.spend(at(31), every) && !allowance.spend(at(37), every));
        assert_eq!(allowance.wait(at(37), every), Some(at(1)));
        assert!(allowance.spend(at(38), every));
    }

    #[test]
    fn any_times_are_taken() {
        let mut allowance = Allowance::full(u32::MAX);
        for now in [Duration::MAX, Duration::ZERO, Duration::MAX] {
            for every in [Duration::ZERO, Duration::from_nanos(1)] {
                assert!(allowance.spend(now, every));
            }
        }
    }
}

//! A token bucket: how often something may be done.

use std::time::Duration;

use crate::Now;

/// A number of uses that come back one by one, up to what there was at first (a token bucket).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    most: u32,
    left: u32,
    /// Since when the next use has been coming back.
    since: Duration,
}

impl Allowance {
    /// With all of `most` uses.
    pub const fn full(most: u32) -> Self {
        Self { most, left: most, since: Duration::ZERO }
    }

    /// Takes one use, if there is one; one comes back in each `every`.
    pub fn spend(&mut self, now: Now, every: Duration) -> bool {
        let may = self.left(now, every) > 0;
        self.left -= u32::from(may);
        may
    }

    /// Whether all uses are there; one comes back in each `every`.
    pub fn is_full(&mut self, now: Now, every: Duration) -> bool {
        self.left(now, every) == self.most
    }

    fn left(&mut self, now: Now, every: Duration) -> u32 {
        let passed = now.mono.saturating_sub(self.since).as_nanos() / every.as_nanos().max(1);
        let back = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(back).min(self.most);
        self.since = if self.left == self.most { now.mono } else { self.since + every.saturating_mul(back) };
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_come_back_one_by_one_and_are_never_more_than_at_first() {
        let at = |seconds| Now { mono: Duration::from_secs(seconds), wall_ms: 0 };
        let every = Duration::from_secs(10);
        let mut allowance = Allowance::full(2);
        let mut spent = |seconds| (0..5).filter(|_| allowance.spend(at(seconds), every)).count();
        assert_eq!([0, 9, 10, 19, 25, 31, 1000, 1009, 1010].map(&mut spent), [2, 0, 1, 0, 1, 1, 2, 0, 1]);
    }
}

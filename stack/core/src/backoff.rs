//! Waits that grow while something fails.

use std::time::Duration;

/// How long to wait before the next attempt: from the first wait on, each twice as long as the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// The last wait; `None` if nothing failed since it last worked.
    wait: Option<Duration>,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, wait: None }
    }

    /// An attempt failed; returns how long to wait before the next.
    pub fn failed(&mut self) -> Duration {
        let next = self.wait.map_or(self.first, |wait| wait.saturating_mul(2)).min(self.longest);
        self.wait = Some(next);
        next
    }

    /// An attempt worked, or something changed, by which the next one may; returns whether it failed before.
    pub const fn reset(&mut self) -> bool {
        self.wait.take().is_some()
    }

    /// How long to wait before the next attempt, if the last one failed.
    pub const fn wait(&self) -> Option<Duration> {
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(10), seconds(60));
        assert_eq!(backoff.wait(), None);
        for wait in [10, 20, 40, 60, 60] {
            assert_eq!(backoff.failed(), seconds(wait));
            assert_eq!(backoff.wait(), Some(seconds(wait)));
        }
        assert!(backoff.reset() && !backoff.reset());
        assert_eq!(backoff.failed(), seconds(10));
        assert_eq!(Backoff::new(seconds(9), seconds(3)).failed(), seconds(3), "never longer than the longest");
        let mut endless = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!([endless.failed(), endless.failed()], [Duration::MAX; 2]);
    }
}

//! Waits that grow while something fails.

use std::time::{Duration, Instant};

/// When to try again.
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    wait: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Waits from `first` on, each twice as long as the one before, to `most`.
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        let first = first.min(most);
        Self { first, most, wait: first, until: None }
    }

    /// An attempt failed: the next is to come after a wait, of at least `least`. What fails during a wait
    /// began before it, and says nothing new.
    pub(crate) fn failed(&mut self, least: Duration) {
        let now = Instant::now();
        if self.is_due() {
            self.until = Some(now + self.wait);
            self.wait = (self.wait * 2).min(self.most);
        }
        self.until = self.until.max(Some(now + least));
    }

    /// It works; or something changed, by which it may.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.first, self.most);
    }

    /// Whether it isn't to be waited any more.
    pub(crate) fn is_due(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded() {
        let (first, most) = (Duration::from_secs(10), Duration::from_secs(60));
        let mut backoff = Backoff::new(first, most);
        assert!(backoff.is_due());
        for seconds in [20, 40, 60, 60] {
            backoff.failed(Duration::ZERO);
            // Several calls that were under way fail together.
            backoff.failed(Duration::ZERO);
            assert!(!backoff.is_due());
            assert_eq!(backoff.wait, Duration::from_secs(seconds));
            backoff.until = None;
        }
        backoff.reset();
        assert_eq!(backoff.wait, first);
        backoff.failed(Duration::from_secs(100));
        let until = backoff.until.expect("a wait");
        assert!(until > Instant::now() + Duration::from_secs(90), "the registry wants it longer");
    }
}

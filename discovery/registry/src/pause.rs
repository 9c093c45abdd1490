//! When something that failed is tried again.

use std::time::{Duration, Instant};

use peerloom_core::backoff::Backoff;

/// No attempt is made until it is over.
pub(crate) struct Pause {
    backoff: Backoff,
    until: Option<Instant>,
}

impl Pause {
    /// As long as the backoff's waits.
    pub(crate) const fn new(backoff: Backoff) -> Self {
        Self { backoff, until: None }
    }

    /// An attempt failed: the next is to come after a wait, of at least `least`. What fails during a wait
    /// began before it, and says nothing new.
    pub(crate) fn failed(&mut self, least: Duration) {
        let now = Instant::now();
        if self.is_over() {
            self.until = Some(now + self.backoff.failed());
        }
        self.until = self.until.max(Some(now + least));
    }

    /// It works; or something changed, by which it may.
    pub(crate) fn reset(&mut self) {
        self.backoff.reset();
        self.until = None;
    }

    /// Whether it isn't to be waited any more.
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_fail_together_lengthen_it_once() {
        let (first, longest) = (Duration::from_secs(10), Duration::from_secs(60));
        let mut pause = Pause::new(Backoff::new(first, longest));
        assert!(pause.is_over());
        for seconds in [10, 20, 40, 60, 60] {
            // Several calls that were under way.
            (0..3).for_each(|_| pause.failed(Duration::ZERO));
            assert!(!pause.is_over());
            assert_eq!(pause.backoff.wait(), Some(Duration::from_secs(seconds)));
            pause.until = None;
        }
        pause.reset();
        pause.failed(Duration::from_secs(100));
        assert_eq!(pause.backoff.wait(), Some(first));
        let until = pause.until.expect("a wait");
        assert!(until > Instant::now() + Duration::from_secs(90), "the registry wants it longer");
    }
}

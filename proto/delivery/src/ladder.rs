//! Getting a link to one device, and getting it back.

use std::time::Duration;

use rand_core::Rng;

use crate::{Config, Now};

/// Where a device stands on the way to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// No link; the next attempt waits.
    Disconnected,
    /// Its address is being looked up.
    Discovering,
    /// An offer is on its way to it.
    Signaling,
    /// It is being dialed.
    Connecting,
    /// A link is up.
    Connected,
}

/// First and longest wait between attempts to reach a device.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A link that lived this long was a good one.
const STEADY: Duration = Duration::from_secs(10);

/// The way to one device: attempts with doubling waits, for as long as the device is a contact's.
#[derive(Debug)]
pub struct Ladder {
    rung: Rung,
    failures: u32,
    next: Duration,
    /// When the link came up.
    since: Duration,
    reason: Option<String>,
}

impl Ladder {
    /// A device to be reached at once.
    pub fn new(now: Now) -> Self {
        Self { rung: Rung::Disconnected, failures: 0, next: now.mono, since: now.mono, reason: None }
    }

    /// Where the device stands.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Why the last attempt failed.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether an attempt is due; if so it has begun.
    pub fn begin(&mut self, now: Now) -> bool {
        let due = self.rung == Rung::Disconnected && self.next <= now.mono;
        if due {
            self.rung = Rung::Discovering;
        }
        due
    }

    /// An address was found and is being dialed.
    pub fn on_dialing(&mut self) {
        if self.rung == Rung::Discovering {
            self.rung = Rung::Connecting;
        }
    }

    /// A link came up, whoever dialed.
    pub fn on_connected(&mut self, now: Now) {
        if self.rung != Rung::Connected {
            self.rung = Rung::Connected;
            self.since = now.mono;
            self.reason = None;
        }
    }

    /// The last link went down: the first attempt comes soon, unless links keep dying young.
    pub fn on_disconnected(&mut self, now: Now, config: &Config, rng: &mut dyn Rng) {
        if self.rung != Rung::Connected {
            return;
        }
        if now.mono.saturating_sub(self.since) >= STEADY {
            self.failures = 0;
        }
        self.rung = Rung::Disconnected;
        self.wait(FIRST_WAIT / 5, now, config, rng);
    }

    fn wait(&mut self, first: Duration, now: Now, config: &Config, rng: &mut dyn Rng) {
        let wait = first.saturating_mul(1 << self.failures.min(10)).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        self.next = now.mono + config.jittered(wait, rng);
    }

    /// The attempt failed.
    pub fn on_failed(&mut self, reason: String, now: Now, config: &Config, rng: &mut dyn Rng) {
        if self.rung == Rung::Connected {
            return;
        }
        self.rung = Rung::Disconnected;
        self.wait(FIRST_WAIT, now, config, rng);
        self.reason = Some(reason);
    }

    /// Somebody wants the device now.
    pub fn hurry(&mut self, now: Now) {
        if self.rung == Rung::Disconnected {
            self.next = now.mono;
        }
    }

    /// When the next attempt is due.
    pub fn next_deadline(&self) -> Option<Duration> {
        (self.rung == Rung::Disconnected).then_some(self.next)
    }
}

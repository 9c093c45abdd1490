//! When which machine wants to be asked.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Deadlines by key, the earliest at hand.
pub(crate) struct Timers<K> {
    due: BTreeSet<(Duration, K)>,
    by_key: HashMap<K, Duration>,
}

impl<K: Copy + Ord + Hash> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { due: BTreeSet::new(), by_key: HashMap::new() }
    }

    /// Sets or clears a key's deadline.
    pub(crate) fn set(&mut self, key: K, deadline: Option<Duration>) {
        let before = match deadline {
            Some(at) => self.by_key.insert(key, at),
            None => self.by_key.remove(&key),
        };
        if let Some(at) = before {
            self.due.remove(&(at, key));
        }
        self.due.extend(deadline.map(|at| (at, key)));
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Keys that are due, without their deadlines from now on.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<K> {
        let mut keys = Vec::new();
        while let Some((at, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, key));
            self.by_key.remove(&key);
            keys.push(key);
        }
        keys
    }
}

//! When a device is tried again: attempts without a link, and entries that nothing acknowledges.

use std::time::Duration;

use peerloom_wire::DeviceId;
use rand_core::Rng;

use super::{Cursor, Effect, Outbox};
use crate::{Config, Now};

/// How many times the wait for acknowledgements doubles, at most.
const DOUBLINGS: u32 = 7;

impl Outbox {
    /// The last link to a device went down.
    pub fn on_link_down(&mut self, device: &DeviceId, now: Now, rng: &mut dyn Rng) {
        let first = self.config.retry_delays.first().copied().unwrap_or(Duration::from_secs(1));
        let wait = self.config.jittered(first, rng);
        self.up.remove(device);
        if let Some(cursor) = self.cursors.get_mut(device).filter(|c| !c.stored.halted) {
            cursor.attempts = 0;
            cursor.deadline = Some(now.mono + wait);
        }
    }

    /// Entries were appended: devices without a link get a first attempt at once.
    pub fn wake(&mut self, now: Now) {
        for (device, cursor) in &mut self.cursors {
            if !self.up.contains(device) && !cursor.stalled {
                cursor.deadline.get_or_insert(now.mono);
            }
        }
    }

    /// The user asks to try stalled devices again. Halted ones take [`Outbox::resume`].
    pub fn retry(&mut self, now: Now) -> usize {
        let stalled = self.cursors.values_mut().filter(|c| c.stalled && !c.stored.halted);
        stalled
            .map(|cursor| {
                cursor.stalled = false;
                cursor.attempts = 0;
                cursor.deadline = Some(now.mono);
            })
            .count()
    }

    /// What is due at `now`.
    pub fn on_timer(&mut self, now: Now, rng: &mut dyn Rng) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.expire(now, &mut effects);
        let due: Vec<DeviceId> = self
            .cursors
            .iter()
            .filter(|(_, c)| c.deadline.is_some_and(|d| d <= now.mono))
            .map(|(device, _)| *device)
            .collect();
        for device in due {
            let waiting = self.waits_for(&device);
            let config = &self.config;
            let Some(cursor) = self.cursors.get_mut(&device) else {
                continue;
            };
            cursor.deadline = None;
            if !waiting {
                continue;
            }
            cursor.attempts += 1;
            let spent = cursor.attempts as usize > config.retry_delays.len();
            if self.up.contains(&device) {
                // The next transmission sets the next deadline.
                cursor.next = cursor.unsettled();
                if spent {
                    cursor.attempts = 0;
                    cursor.resets = cursor.resets.saturating_add(1);
                }
                effects.push(if spent { Effect::ResetLink(device) } else { Effect::Ready(device) });
                continue;
            }
            effects.push(Effect::Connect(device));
            match config.retry_delays.get(cursor.attempts as usize - 1) {
                Some(wait) => cursor.deadline = Some(now.mono + config.jittered(*wait, rng)),
                None => {
                    cursor.stalled = true;
                    effects.push(Effect::Stalled(device));
                }
            }
        }
        effects
    }

    /// Whether a device lacks anything that it can be sent, be it a withdrawal.
    fn waits_for(&self, device: &DeviceId) -> bool {
        let Some(cursor) = self.cursors.get(device).filter(|c| !c.stored.halted) else {
            return false;
        };
        self.entries.range(cursor.unsettled()..).any(|(p, _)| !cursor.stored.beyond.contains(*p))
    }

    /// When [`Outbox::on_timer`] has something to do next.
    pub fn next_deadline(&self, now: Now) -> Option<Duration> {
        let retry = self.cursors.values().filter_map(|c| c.deadline).min();
        let expiry =
            self.expiries.first().map(|(at, _)| now.mono + Duration::from_millis(at.saturating_sub(now.wall_ms)));
        [retry, expiry].into_iter().flatten().min()
    }
}

impl Cursor {
    /// How long to wait for an acknowledgement: twice as long after each link that brought none.
    pub(super) fn patience(&self, config: &Config) -> Duration {
        config.ack_timeout.saturating_mul(1 << self.resets.min(DOUBLINGS))
    }
}

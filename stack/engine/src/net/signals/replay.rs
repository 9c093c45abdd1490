//! Which signals came before, remembered for verified senders only.

use std::collections::HashMap;

use peerloom_core::wire::signal::SKEW_MS;
use peerloom_core::wire::{DeviceId, SessionId, SignedSignal};

/// Sessions of one sender that have signals in time: an attempt takes 10 s and more, and a signal is valid for minutes.
const SESSIONS: usize = 32;
/// Strangers that are remembered; of more, the one heard of longest ago is forgotten. Then its signals could be
/// repeated, at the price of the share that all strangers have.
const STRANGERS: usize = 64;

/// The senders of signals that are still in time.
#[derive(Default)]
pub(super) struct Senders {
    /// Devices of contacts; as many as there are.
    known: HashMap<DeviceId, Sender>,
    strangers: HashMap<DeviceId, Sender>,
}

#[derive(Default)]
struct Sender {
    sessions: Vec<Heard>,
}

/// Which serials of a session came: the highest, and which of the 64 below it (RFC 4303 §3.4.3).
struct Heard {
    session: SessionId,
    highest: u64,
    below: u64,
    /// After this all its signals are out of their time, in milliseconds since the Unix epoch.
    until_ms: u64,
}

impl Senders {
    /// Whether a signal didn't come before, as far as is remembered.
    pub(super) fn is_new(&self, from: &DeviceId, signal: &SignedSignal, now_ms: u64) -> bool {
        let sender = self.known.get(from).or_else(|| self.strangers.get(from));
        let heard = sender.and_then(|sender| sender.sessions.iter().find(|heard| heard.session == signal.session));
        heard.filter(|heard| heard.until_ms >= now_ms).is_none_or(|heard| heard.is_new(signal.serial))
    }

    /// Remembers a verified signal; an error says why it is refused all the same.
    pub(super) fn note(
        &mut self,
        from: DeviceId,
        known: bool,
        signal: &SignedSignal,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        let senders = if known { &mut self.known } else { &mut self.strangers };
        if !senders.contains_key(&from) {
            senders.retain(|_, sender| sender.sessions.iter().any(|heard| heard.until_ms >= now_ms));
            if !known && senders.len() >= STRANGERS {
                let latest = |sender: &Sender| sender.sessions.iter().map(|heard| heard.until_ms).max();
                let oldest = senders.iter().min_by_key(|(_, sender)| latest(sender)).map(|(device, _)| *device);
                oldest.map(|device| senders.remove(&device));
            }
        }
        let sessions = &mut senders.entry(from).or_default().sessions;
        sessions.retain(|heard| heard.until_ms >= now_ms);
        let until_ms = signal.expires_at_ms.saturating_add(SKEW_MS);
        if let Some(heard) = sessions.iter_mut().find(|heard| heard.session == signal.session) {
            heard.until_ms = until_ms.max(heard.until_ms);
            return if heard.note(signal.serial) { Ok(()) } else { Err("it came before") };
        }
        if sessions.len() >= SESSIONS {
            return Err("its sender has too many sessions");
        }
        sessions.push(Heard { session: signal.session, highest: signal.serial, below: 0, until_ms });
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.known.len() + self.strangers.len()
    }
}

impl Heard {
    fn is_new(&self, serial: u64) -> bool {
        match self.highest.checked_sub(serial) {
            None => true,
            Some(0) => false,
            Some(behind) => behind <= 64 && self.below & (1 << (behind - 1)) == 0,
        }
    }

    fn note(&mut self, serial: u64) -> bool {
        if !self.is_new(serial) {
            return false;
        }
        if let Some(behind) = self.highest.checked_sub(serial) {
            self.below |= 1 << (behind - 1);
        } else {
            let ahead = serial - self.highest;
            // The one that was the highest is one of those below.
            self.below = match ahead {
                1..64 => self.below << ahead | 1 << (ahead - 1),
                64 => 1 << 63,
                _ => 0,
            };
            self.highest = serial;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_come_once_in_any_order_within_the_window() {
        let mut heard = Heard { session: SessionId::from_bytes([1; 16]), highest: 100, below: 0, until_ms: 0 };
        for serial in [101, 99, 103, 102, 40, 166, 104, 230, 1000] {
            assert!(heard.note(serial), "{serial} is new");
            assert!(!heard.note(serial), "{serial} came before");
        }
        for old in [0, 100, 166, 935] {
            assert!(!heard.is_new(old), "{old} is too old to tell");
        }
        assert!(heard.note(936) && heard.note(999) && heard.note(u64::MAX));
        assert!(!heard.note(1000));
    }
}

//! Signals over contacts that have links to both devices: each carries them one step.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use peerloom_core::signaling::received;
use peerloom_core::wire::{Allowance, DeviceId, Frame, Signed, SignedSignal};
use peerloom_core::{Carried, Error, ErrorKind, Result, SignalCarrier};
use tokio::sync::mpsc;
use tracing::trace;

use super::WAITING;
use crate::net::Links;

/// Contacts that are asked to carry a signal.
const CARRIERS: usize = 32;
/// Signals that one device may have carried on at once, and after how long it may one more.
const CARRIED_ON: u32 = 64;
const CARRIED_EVERY: Duration = Duration::from_micros(62_500);
/// Signals that one device may bring at once, its own and others', and after how long one more.
const BROUGHT: u32 = 256;
const BROUGHT_EVERY: Duration = Duration::from_micros(15_625);
/// Devices whose allowances are remembered, before those that are full again are forgotten.
const DEVICES: usize = 1024;
/// After so long without a signal a device's allowances are full again.
const FULL_AGAIN: Duration = Duration::from_secs(10);

/// Carries signals in frames on links.
pub(crate) struct LinkCarrier {
    own: DeviceId,
    links: Links,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    receivers: Vec<mpsc::Sender<Carried>>,
    /// By the device at the other end of a link.
    used: HashMap<DeviceId, Used>,
}

/// What a device may still bring, and have carried on.
struct Used {
    brought: Allowance<Instant>,
    carried_on: Allowance<Instant>,
    /// When it last asked.
    at: Instant,
}

impl LinkCarrier {
    pub(crate) fn new(own: DeviceId, links: Links) -> Self {
        Self { own, links, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A signal that a contact's device sends or carries: taken in, or carried one step further.
    pub(crate) fn on_frame(&self, device: DeviceId, signed: Signed) {
        let Ok(signal) = SignedSignal::decode_unverified(&signed) else {
            return trace!(?device, "what is no signal is not carried on");
        };
        let for_us = signal.to == self.own;
        // One step only: the device that sends it to us must be its author.
        if !for_us && (signal.from() != device || !self.links.is_up(&signal.to)) {
            return trace!(?device, to = ?signal.to, "a signal is not carried on");
        }
        let mut book = self.book();
        if !book.may(device, for_us, Instant::now()) {
            return trace!(?device, "too many signals; one is dropped");
        }
        if for_us {
            let carried = Carried { from: None, signal: signed };
            // A full one drops this signal; only a closed one goes.
            let closed = |sent| matches!(sent, Err(mpsc::error::TrySendError::Closed(_)));
            book.receivers.retain(|receiver| !closed(receiver.try_send(carried.clone())));
        } else {
            self.links.send_control(&signal.to, Frame::Signal(signed).encode());
        }
    }

    /// The contacts that may have a link to a device: those whose ids are nearest, always in the same order, so that
    /// an offer's candidates go the way it went.
    fn carriers_to(&self, to: &DeviceId) -> Vec<DeviceId> {
        let mut up: Vec<DeviceId> = self.links.up().into_iter().filter(|device| device != to).collect();
        let distance = |device: &DeviceId| -> Vec<u8> {
            device.as_bytes().iter().zip(to.as_bytes()).map(|(a, b)| a ^ b).collect()
        };
        up.sort_by_cached_key(distance);
        up.truncate(CARRIERS);
        up
    }
}

impl Book {
    fn may(&mut self, device: DeviceId, bring: bool, now: Instant) -> bool {
        if self.used.len() >= DEVICES {
            self.used.retain(|_, used| now.saturating_duration_since(used.at) < FULL_AGAIN);
        }
        let full = || Used { brought: Allowance::full(BROUGHT), carried_on: Allowance::full(CARRIED_ON), at: now };
        let used = self.used.entry(device).or_insert_with(full);
        used.at = now;
        if bring { used.brought.spend(now, BROUGHT_EVERY) } else { used.carried_on.spend(now, CARRIED_EVERY) }
    }
}

#[async_trait]
impl SignalCarrier for LinkCarrier {
    async fn send(&self, to: DeviceId, signal: Signed) -> Result<()> {
        let carriers = self.carriers_to(&to);
        if carriers.is_empty() {
            let alone = "nothing carries signals to it: no registry is reachable, and no common contact has a link";
            return Err(Error::new(ErrorKind::Unreachable, "engine", "signal", alone));
        }
        let frame = Frame::Signal(signal).encode();
        carriers.iter().for_each(|device| self.links.send_control(device, frame.clone()));
        Ok(())
    }

    fn receive(&self) -> BoxStream<'static, Carried> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.book().receivers.push(sender);
        received(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_floods_uses_up_its_own_allowance() {
        let mut book = Book::default();
        let device = |number| DeviceId::from_bytes([number; 32]);
        let begin = Instant::now();
        for (bring, most) in [(true, BROUGHT), (false, CARRIED_ON)] {
            let mut flood = |time| (0..10_000).filter(|_| book.may(device(2), bring, time)).count();
            assert_eq!(flood(begin), most as usize);
            assert_eq!(flood(begin + FULL_AGAIN), most as usize, "it is full again");
            assert!(book.may(device(3), bring, begin), "another one's signals are not held up");
        }
        // Devices come and go: what is remembered of them is bounded.
        for number in 0..3 * DEVICES {
            let mut id = [9; 32];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            let later = begin + FULL_AGAIN * (number as u32 + 2);
            assert!(book.may(DeviceId::from_bytes(id), true, later));
            assert!(book.used.len() <= DEVICES);
        }
    }
}

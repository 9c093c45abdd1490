//! Signals over contacts that have links to both devices: each carries them one step.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use peerloom_core::wire::{DeviceId, Frame, Signed, SignedSignal};
use peerloom_core::{Carried, Error, ErrorKind, Result, SignalCarrier};
use tokio::sync::mpsc;
use tracing::trace;

use super::{Allowance, Bucket, WAITING};
use crate::net::Links;

/// Contacts that are asked to carry a signal.
const CARRIERS: usize = 32;
/// Signals that one device may have carried on.
const CARRIED_ON: Allowance = Allowance { burst: 64.0, rate: 16.0 };
/// Signals that one device may bring, its own and others'.
const BROUGHT: Allowance = Allowance { burst: 256.0, rate: 64.0 };
/// Devices whose allowances are remembered, before those that are full again are forgotten.
const DEVICES: usize = 1024;
/// After so long an allowance is full again.
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
    /// By the device at the other end of a link: what it brought, and what was carried on for it.
    used: HashMap<DeviceId, (Bucket, Bucket)>,
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
        if !book.may(device, for_us) {
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
    fn may(&mut self, device: DeviceId, bring: bool) -> bool {
        let now = Instant::now();
        if self.used.len() >= DEVICES {
            let recent = |bucket: &Bucket| bucket.at.is_some_and(|at| now.duration_since(at) < FULL_AGAIN);
            self.used.retain(|_, (brought, carried)| recent(brought) || recent(carried));
        }
        let (brought, carried_on) = self.used.entry(device).or_default();
        if bring { brought.take(BROUGHT, now) } else { carried_on.take(CARRIED_ON, now) }
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
        super::stream(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_floods_uses_up_its_own_allowance() {
        let mut book = Book::default();
        let device = |number| DeviceId::from_bytes([number; 32]);
        for (bring, allowance) in [(true, BROUGHT), (false, CARRIED_ON)] {
            let carried = (0..10_000).filter(|_| book.may(device(2), bring)).count();
            // Some more come back while the loop runs.
            assert!((allowance.burst as usize..2 * allowance.burst as usize).contains(&carried), "{carried}");
            assert!(book.may(device(3), bring), "another one's signals are not held up");
        }
        // Devices come and go: what is remembered of them is bounded.
        let earlier = Instant::now().checked_sub(2 * FULL_AGAIN).expect("a time before");
        for number in 0..3 * DEVICES {
            let mut id = [9; 32];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            assert!(book.may(DeviceId::from_bytes(id), true));
            book.used.values_mut().for_each(|(brought, carried_on)| {
                brought.at = Some(earlier);
                carried_on.at = Some(earlier);
            });
            assert!(book.used.len() <= DEVICES);
        }
    }
}

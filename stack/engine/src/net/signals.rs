//! Signals between devices that have no link yet: over what a discovery brings, or over contacts that
//! have links to both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_core::wire::{DeviceId, Frame, SignalFrame};
use peerloom_core::{Error, ErrorKind, IceServer, Result, Signal, Signaling};
use tokio::sync::mpsc;
use tracing::{debug, trace};

use super::Links;

/// Signals that wait for a transport to look; more are dropped.
const WAITING: usize = 256;
/// Contacts that are asked to carry a signal.
const CARRIERS: usize = 32;
/// Who carried a device's last signal carries its next, so that they keep their order; after this
/// time anybody may.
const STICKY: Duration = Duration::from_secs(10);
/// Senders whose carrier is remembered.
const SENDERS: usize = 1024;
/// Signals that one device may have forwarded at once, and in a second after that.
const BURST: f64 = 64.0;
const RATE: f64 = 16.0;

/// The one [`Signaling`] that transports see.
pub(crate) struct Switchboard {
    own: DeviceId,
    links: Links,
    carriers: Vec<Arc<dyn Signaling>>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    receivers: Vec<mpsc::Sender<Signal>>,
    /// By sender: which contact carried its last signal, and when.
    via: HashMap<DeviceId, (DeviceId, Instant)>,
    /// By device: how many signals it may still have forwarded.
    allowance: HashMap<DeviceId, (f64, Instant)>,
}

impl Switchboard {
    /// Over these carriers first, then over links.
    pub(crate) fn new(own: DeviceId, links: Links, carriers: Vec<Arc<dyn Signaling>>) -> Self {
        Self { own, links, carriers, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams of signals that [`Switchboard::deliver`] is to be fed with.
    pub(super) fn incoming(&self) -> Vec<BoxStream<'static, Signal>> {
        self.carriers.iter().map(|carrier| carrier.receive()).collect()
    }

    /// Hands a signal to the transports.
    pub(super) fn deliver(&self, signal: &Signal) {
        let mut book = self.book();
        book.receivers.retain(|receiver| !receiver.is_closed());
        for receiver in &book.receivers {
            if receiver.try_send(signal.clone()).is_err() {
                debug!(from = ?signal.from, "too many signals wait; one is dropped");
            }
        }
    }

    /// A signal that a contact's device carries or sends: taken in, or carried one step further.
    pub(super) fn on_frame(&self, device: DeviceId, frame: SignalFrame) {
        if frame.to == self.own {
            if frame.from != self.own && self.comes_from(frame.from, device) {
                self.deliver(&Signal { from: frame.from, payload: frame.payload });
            }
            return;
        }
        // One step only: whoever sends it to us must be its author.
        if frame.from != device || !self.links.is_up(&frame.to) || !self.may_forward(device) {
            trace!(?device, to = ?frame.to, "a signal is not carried on");
            return;
        }
        let to = frame.to;
        self.links.send_control(&to, Frame::Signal(frame).encode());
    }

    fn comes_from(&self, sender: DeviceId, via: DeviceId) -> bool {
        let now = Instant::now();
        let mut book = self.book();
        if let Some((before, at)) = book.via.get(&sender)
            && *before != via
            && now.duration_since(*at) < STICKY
        {
            return false;
        }
        if book.via.len() >= SENDERS && !book.via.contains_key(&sender) {
            book.via.retain(|_, (_, at)| now.duration_since(*at) < STICKY);
            if book.via.len() >= SENDERS {
                return false;
            }
        }
        book.via.insert(sender, (via, now));
        true
    }

    fn may_forward(&self, device: DeviceId) -> bool {
        let now = Instant::now();
        let mut book = self.book();
        let (left, at) = book.allowance.get(&device).copied().unwrap_or((BURST, now));
        let left = (left + now.duration_since(at).as_secs_f64() * RATE).min(BURST);
        if book.allowance.len() >= SENDERS {
            // Whoever was quiet this long has a full allowance anyway.
            book.allowance.retain(|_, (_, at)| now.duration_since(*at) < STICKY);
        }
        book.allowance.insert(device, ((left - 1.0).max(0.0), now));
        left >= 1.0
    }

    /// The contacts to ask for carrying a signal: the one that brought the device's last, or those whose
    /// ids are nearest, always in the same order, so that an offer's candidates go the way it went.
    fn carriers_to(&self, to: &DeviceId) -> Vec<DeviceId> {
        let mut up: Vec<DeviceId> = self.links.up().into_iter().filter(|device| device != to).collect();
        let via = self.book().via.get(to).filter(|(_, at)| at.elapsed() < STICKY).map(|(device, _)| *device);
        if let Some(via) = via.filter(|via| up.contains(via)) {
            return vec![via];
        }
        let distance = |device: &DeviceId| -> Vec<u8> {
            device.as_bytes().iter().zip(to.as_bytes()).map(|(a, b)| a ^ b).collect()
        };
        up.sort_by_cached_key(distance);
        up.truncate(CARRIERS);
        up
    }
}

#[async_trait]
impl Signaling for Switchboard {
    async fn send(&self, to: DeviceId, payload: Bytes) -> Result<()> {
        let mut last = None;
        for carrier in &self.carriers {
            match carrier.send(to, payload.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        let carriers = self.carriers_to(&to);
        if carriers.is_empty() {
            let alone = "nothing carries signals to it: no registry is reachable, and no common contact has a link";
            return Err(last.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, "engine", "signal", alone)));
        }
        let frame = Frame::Signal(SignalFrame { from: self.own, to, payload }).encode();
        carriers.iter().for_each(|device| self.links.send_control(device, frame.clone()));
        Ok(())
    }

    fn receive(&self) -> BoxStream<'static, Signal> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.book().receivers.push(sender);
        let next = |mut receiver: mpsc::Receiver<Signal>| async move {
            let signal = receiver.recv().await?;
            Some((signal, receiver))
        };
        futures_util::stream::unfold(receiver, next).boxed()
    }

    async fn ice_servers(&self) -> Vec<IceServer> {
        let mut servers = Vec::new();
        for carrier in &self.carriers {
            servers.extend(carrier.ice_servers().await);
        }
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> DeviceId {
        DeviceId::from_bytes([number; 32])
    }

    fn frame(from: u8, to: u8) -> SignalFrame {
        SignalFrame { from: device(from), to: device(to), payload: Bytes::from_static(b"offer") }
    }

    #[tokio::test]
    async fn a_senders_signals_come_by_one_way_at_a_time() {
        let board = Switchboard::new(device(1), Links::default(), Vec::new());
        let mut received = board.receive();
        board.on_frame(device(3), frame(2, 1));
        // The same over another common contact, and over the first again.
        board.on_frame(device(4), frame(2, 1));
        board.on_frame(device(3), frame(2, 1));
        for _ in 0..2 {
            assert_eq!(received.next().await.unwrap().from, device(2));
        }
        let third = tokio::time::timeout(Duration::from_millis(50), received.next()).await;
        assert!(third.is_err(), "a copy that came another way was taken in");
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_floods_are_not_forwarded() {
        let board = Switchboard::new(device(1), Links::default(), Vec::new());
        let mut received = board.receive();
        for _ in 0..10 * WAITING {
            board.on_frame(device(2), frame(2, 1));
        }
        let mut count = 0;
        while tokio::time::timeout(Duration::from_millis(20), received.next()).await.is_ok() {
            count += 1;
        }
        assert_eq!(count, WAITING);
        let forwarded = (0..1000).filter(|_| board.may_forward(device(2))).count();
        assert!((BURST as usize..200).contains(&forwarded), "{forwarded}");
        assert!(board.may_forward(device(5)), "others are not held up");
    }

    #[tokio::test]
    async fn without_anybody_to_carry_it_sending_fails_at_once() {
        let board = Switchboard::new(device(1), Links::default(), Vec::new());
        let error = board.send(device(2), Bytes::from_static(b"offer")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
}

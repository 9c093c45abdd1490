//! Who is connected, and what waits to be sent to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use peerloom_core::wire::{DeviceId, NetworkId};
use tokio::sync::mpsc;

/// Most bytes that wait for one device, beside the bound on their number.
const QUEUED_BYTES: usize = 256 * 1024;

/// The open sockets: one for each device in each network.
#[derive(Default)]
pub(crate) struct Hub {
    seats: Mutex<HashMap<(NetworkId, DeviceId), Seat>>,
    next: AtomicU64,
}

/// A socket. Its queue ends when the seat is taken away.
struct Seat {
    number: u64,
    queue: mpsc::Sender<Utf8Bytes>,
    bytes: Arc<AtomicUsize>,
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Sent,
    Absent,
    Busy,
}

/// What a socket holds while it has its seat.
pub(crate) struct Queue {
    number: u64,
    key: (NetworkId, DeviceId),
    waiting: mpsc::Receiver<Utf8Bytes>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    pub(crate) fn network(&self) -> &NetworkId {
        &self.key.0
    }

    pub(crate) fn device(&self) -> &DeviceId {
        &self.key.1
    }

    /// The next message; `None` once the seat is taken away.
    pub(crate) async fn next(&mut self) -> Option<Utf8Bytes> {
        self.waiting.recv().await.inspect(|text| self.took(text))
    }

    /// How many messages wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next message, if one waits.
    pub(crate) fn ready(&mut self) -> Option<Utf8Bytes> {
        self.waiting.try_recv().ok().inspect(|text| self.took(text))
    }

    fn took(&self, text: &Utf8Bytes) {
        self.bytes.fetch_sub(text.len(), Ordering::Relaxed);
    }
}

impl Hub {
    /// A number for a socket that opens now, higher than all before.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives the socket with this number its device's seat, with room for `room` messages, in place of an
    /// older one. `None` if a newer one has it.
    pub(crate) fn enter(&self, network: NetworkId, device: DeviceId, number: u64, room: usize) -> Option<Queue> {
        let (queue, waiting) = mpsc::channel(room);
        let bytes = Arc::new(AtomicUsize::new(0));
        let mut seats = self.lock();
        if seats.get(&(network, device)).is_some_and(|seat| seat.number > number) {
            return None;
        }
        seats.insert((network, device), Seat { number, queue, bytes: bytes.clone() });
        Some(Queue { number, key: (network, device), waiting, bytes })
    }

    /// Gives the seat back, unless it was taken away. Says whether the device has none from now on.
    pub(crate) fn leave(&self, queue: &Queue) -> bool {
        let mut seats = self.lock();
        let own = seats.get(&queue.key).is_some_and(|seat| seat.number == queue.number);
        own && seats.remove(&queue.key).is_some()
    }

    /// Puts a message into a device's queue.
    pub(crate) fn send(&self, network: NetworkId, to: DeviceId, text: Utf8Bytes) -> Delivery {
        let seats = self.lock();
        let Some(seat) = seats.get(&(network, to)) else { return Delivery::Absent };
        let len = text.len();
        if seat.bytes.fetch_add(len, Ordering::Relaxed) + len <= QUEUED_BYTES {
            match seat.queue.try_send(text) {
                Ok(()) => return Delivery::Sent,
                Err(mpsc::error::TrySendError::Closed(_)) => return Delivery::Absent,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        seat.bytes.fetch_sub(len, Ordering::Relaxed);
        Delivery::Busy
    }

    pub(crate) fn is_connected(&self, network: NetworkId, device: DeviceId) -> bool {
        self.lock().contains_key(&(network, device))
    }

    /// Everybody who is connected.
    pub(crate) fn all(&self) -> Vec<(NetworkId, DeviceId)> {
        self.lock().keys().copied().collect()
    }

    /// Takes all seats away.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(NetworkId, DeviceId), Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_bounded_by_number_and_by_bytes() {
        let hub = Hub::default();
        let (network, device) = (NetworkId::from_bytes([1; 32]), DeviceId::from_bytes([2; 32]));
        assert_eq!(hub.send(network, device, "x".into()), Delivery::Absent);
        let mut queue = hub.enter(network, device, hub.number(), 8).unwrap();
        let sent = (0..20).filter(|_| hub.send(network, device, "x".into()) == Delivery::Sent).count();
        assert_eq!(sent, 8);
        while queue.ready().is_some() {}
        let long = Utf8Bytes::from("x".repeat(QUEUED_BYTES / 2));
        let sent = (0..20).filter(|_| hub.send(network, device, long.clone()) == Delivery::Sent).count();
        assert_eq!(sent, 2);
        while queue.ready().is_some() {}
        assert_eq!(hub.send(network, device, "x".into()), Delivery::Sent);
    }

    #[tokio::test]
    async fn a_newer_socket_takes_the_seat() {
        let hub = Hub::default();
        let (network, device) = (NetworkId::from_bytes([1; 32]), DeviceId::from_bytes([2; 32]));
        let (first, second, third) = (hub.number(), hub.number(), hub.number());
        let mut old = hub.enter(network, device, second, 8).unwrap();
        let mut new = hub.enter(network, device, third, 8).unwrap();
        assert!(hub.enter(network, device, first, 8).is_none(), "it opened before, though it speaks later");
        assert!(old.next().await.is_none());
        assert!(!hub.leave(&old));
        assert_eq!(hub.send(network, device, "x".into()), Delivery::Sent);
        assert_eq!(new.next().await.as_deref(), Some("x"));
        assert!(hub.leave(&new));
        assert!(!hub.is_connected(network, device));
    }
}

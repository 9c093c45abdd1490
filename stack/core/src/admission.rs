//! Who may come in: what strangers may hold, and how known devices are kept apart from them.
//!
//! The law for every transport and for the engine: **known devices are never locked out by unknown
//! ones.** A device that proved its key is judged by [`Admission`]. Those who proved nothing yet share
//! [`Places`], in which the newest always finds room.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peerloom_wire::DeviceId;
use tokio_util::sync::CancellationToken;

/// What the node makes of devices that want a link. The engine implements it, and hands it to
/// transports before they listen ([`Transport::set_admission`](crate::Transport::set_admission)).
/// It answers from memory, at once, and never waits.
pub trait Admission: Send + Sync {
    /// How a device stands now. Ask only about a device that proved its key, or whose claim is
    /// worth nothing until it does: the answer tells who is a contact.
    fn standing(&self, device: &DeviceId) -> Standing;
}

/// How a device stands that wants a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// A contact's device with room for another link: it has places of its own.
    Known,
    /// No contact's device; an invitation is open, so it may be an invited one.
    Stranger,
    /// No link will come of it: no invitation is open for a stranger, or a contact's device has as
    /// many links as one device may have.
    Unwelcome,
}

/// Where an unknown peer comes from, coarse enough that one machine is one source: an IPv4 address,
/// the first 64 bits of an IPv6 address, or any other text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Ip(IpAddr),
    Device(DeviceId),
    Other(String),
}

impl Source {
    /// The source of an IP address.
    pub fn ip(ip: IpAddr) -> Self {
        Self(Kind::Ip(match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
            v4 => v4,
        }))
    }

    /// A device that is counted as a source.
    pub fn device(device: DeviceId) -> Self {
        Self(Kind::Device(device))
    }
}

/// From a remote address as people see it: an IP address with or without a port, or any other text.
impl From<&str> for Source {
    fn from(text: &str) -> Self {
        let ip = text.parse().map(|place: SocketAddr| place.ip()).or_else(|_| text.parse());
        ip.map_or_else(|_| Self(Kind::Other(text.into())), Self::ip)
    }
}

/// A bounded number of places, shared by source. A newcomer always gets one. If that is one too many
/// for its source, the source's oldest loses its place; if it is one too many in all, the oldest of
/// the source that holds the most does. Clones share the places.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    limit: usize,
    of_one: usize,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    next: u64,
    /// The oldest first.
    taken: BTreeMap<u64, (Source, CancellationToken)>,
    count: HashMap<Source, usize>,
}

impl Places {
    /// `limit` places, `of_one` of them for one source.
    pub fn new(limit: usize, of_one: usize) -> Self {
        Self(Arc::new(Shared { limit, of_one, book: Mutex::default() }))
    }

    /// Takes a place; another may be lost by it.
    pub fn take(&self, source: Source) -> Place {
        let mut book = self.0.book();
        let count = book.count.entry(source.clone()).or_default();
        *count += 1;
        if *count > self.0.of_one {
            book.evict(Some(&source));
        } else if book.taken.len() >= self.0.limit {
            book.evict(None);
        }
        let (number, lost) = (book.next, CancellationToken::new());
        book.next += 1;
        book.taken.insert(number, (source, lost.clone()));
        Place { shared: self.0.clone(), number: AtomicU64::new(number), lost }
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.0.book().taken.len()
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The oldest of a source, or of the source that holds the most, loses its place.
    fn evict(&mut self, only: Option<&Source>) {
        let most = self.count.values().copied().max().unwrap_or(0);
        let due = |source: &Source| match only {
            Some(only) => source == only,
            None => self.count.get(source) == Some(&most),
        };
        // Only the newcomer itself may hold the most; then the oldest of all goes.
        let oldest = self.taken.iter().find(|(_, (source, _))| due(source)).or(self.taken.iter().next());
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some((source, lost)) = self.taken.remove(&number) else { return };
        lost.cancel();
        if let Some(count) = self.count.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(&source);
            }
        }
    }
}

/// One of [`Places`]; dropping it gives it back.
pub struct Place {
    shared: Arc<Shared>,
    /// Changed only while the book is locked.
    number: AtomicU64,
    lost: CancellationToken,
}

impl Place {
    /// Completes when the place is lost to a newer one: its holder gives up.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// The holder's other side went on: silent ones lose their places first.
    pub fn renew(&self) {
        let mut book = self.shared.book();
        let next = book.next;
        if let Some(taken) = book.taken.remove(&self.number.load(Ordering::Relaxed)) {
            book.taken.insert(next, taken);
            book.next += 1;
            self.number.store(next, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.shared.book();
        book.remove(self.number.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> Source {
        Source::ip([10, 0, 0, number].into())
    }

    fn is_lost(place: &Place) -> bool {
        place.lost.is_cancelled()
    }

    #[test]
    fn a_newcomer_always_finds_a_place_and_never_at_the_cost_of_the_few() {
        let places = Places::new(4, 3);
        let lone = places.take(source(1));
        let mut crowd = Vec::new();
        for round in 0..20 {
            crowd.push(places.take(source(2)));
            assert!(!is_lost(&lone) && !is_lost(&crowd[round]), "round {round}");
            assert!(places.taken() <= 4);
        }
        assert_eq!(crowd.iter().filter(|place| !is_lost(place)).count(), 3);
        // Another address takes from the crowd; the lone one stays.
        let other = places.take(source(3));
        assert!(!is_lost(&lone) && !is_lost(&other) && is_lost(&crowd[17]));
        drop(crowd);
        assert_eq!(places.taken(), 2);
    }

    #[test]
    fn many_sources_lose_the_oldest_silent_one() {
        let places = Places::new(3, 3);
        let first = places.take(source(1));
        let second = places.take(source(2));
        let third = places.take(source(3));
        first.renew();
        let fourth = places.take(source(4));
        assert!(is_lost(&second) && !is_lost(&first) && !is_lost(&third) && !is_lost(&fourth));
        // Renewing a lost place doesn't bring it back.
        second.renew();
        assert!(is_lost(&second));
        assert_eq!(places.taken(), 3);
    }

    #[test]
    fn sources_are_machines_not_ports_or_spellings() {
        assert_eq!(Source::from("192.0.2.1:5"), Source::from("192.0.2.1:6"));
        assert_eq!(Source::from("[::ffff:192.0.2.1]:5"), Source::from("192.0.2.1"));
        assert_eq!(Source::from("[2001:db8::1]:5"), Source::from("2001:db8::ffff:1"));
        assert_ne!(Source::from("[2001:db8::1]:5"), Source::from("[2001:db8:0:1::1]:5"));
        assert_ne!(Source::from("pipe-1"), Source::from("pipe-2"));
    }
}

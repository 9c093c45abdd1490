//! Who may come in: what strangers may hold, and how known devices are kept apart from them.
//!
//! The law for every transport and for the engine: **known devices are never locked out by unknown
//! ones.** A device that proved its key is judged by [`Admission`]. Those who proved nothing yet share
//! [`Places`], in which the newest always finds room.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peerloom_wire::DeviceId;
use tokio_util::sync::CancellationToken;

use crate::networks::{Network, networks};

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

/// Where an unknown peer comes from: a device, any text, or an IP address, which counts for every network that
/// one client may have all of ([`networks`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source(Vec<(Group, u32)>);

/// What places are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Group {
    Network(Network),
    Device(DeviceId),
    Other(String),
}

impl Source {
    /// The source of an IP address.
    pub fn ip(ip: IpAddr) -> Self {
        Self(networks(ip).into_iter().map(|(network, times)| (Group::Network(network), times)).collect())
    }

    /// A device that is counted as a source.
    pub fn device(device: DeviceId) -> Self {
        Self(vec![(Group::Device(device), 1)])
    }
}

/// From a remote address as people see it: an IP address with or without a port, or any other text.
impl From<&str> for Source {
    fn from(text: &str) -> Self {
        let ip = text.parse().map(|place: SocketAddr| place.ip()).or_else(|_| text.parse());
        ip.map_or_else(|_| Self(vec![(Group::Other(text.into()), 1)]), Self::ip)
    }
}

/// Loads are counted in parts of a place, so that they can be compared.
const EXACT: usize = 16;

/// A bounded number of places, shared by source. A newcomer always gets one. If that is one too many
/// for its source, or for a network that the source is in, the oldest there loses its place; if it is one too many in
/// all, the oldest of the source that holds the most does. What a large network holds counts for less than what one
/// address does. Clones share the places.
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
    count: HashMap<Group, usize>,
}

impl Places {
    /// `limit` places, `of_one` of them for one source.
    pub fn new(limit: usize, of_one: usize) -> Self {
        Self(Arc::new(Shared { limit, of_one, book: Mutex::default() }))
    }

    /// Takes a place; another may be lost by it.
    pub fn take(&self, source: Source) -> Place {
        let mut book = self.0.book();
        for (group, _) in &source.0 {
            *book.count.entry(group.clone()).or_default() += 1;
        }
        let over = |(group, times): &&(Group, u32)| book.held(group) > self.0.of_one * *times as usize;
        if let Some((crowded, _)) = source.0.iter().find(over) {
            book.evict(|other| other.0.iter().any(|(group, _)| group == crowded));
        } else if book.taken.len() >= self.0.limit {
            book.evict(|_| true);
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
    fn held(&self, group: &Group) -> usize {
        self.count.get(group).copied().unwrap_or(0)
    }

    /// How much a source's networks hold, each by its share: the most first.
    fn load(&self, source: &Source) -> Vec<usize> {
        let load = |(group, times): &(Group, u32)| self.held(group) * EXACT / *times as usize;
        let mut loads: Vec<usize> = source.0.iter().map(load).collect();
        loads.sort_unstable_by(|a, b| b.cmp(a));
        loads
    }

    /// Of the sources that are `due`, the oldest of the one that holds the most loses its place.
    fn evict(&mut self, due: impl Fn(&Source) -> bool) {
        let due = self.taken.iter().filter(|(_, (source, _))| due(source));
        let most = due.max_by_key(|(number, (source, _))| (self.load(source), Reverse(**number)));
        if let Some(number) = most.map(|(number, _)| *number) {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some((source, lost)) = self.taken.remove(&number) else { return };
        lost.cancel();
        for (group, _) in source.0 {
            if let Entry::Occupied(mut count) = self.count.entry(group) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
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

    /// Every /64 is another address to a client that has all of a /48 or of a /56.
    #[test]
    fn a_client_with_a_whole_network_keeps_nobody_out() {
        for subnets in [1_u32 << 16, 1 << 8] {
            let places = Places::new(64, 32);
            let from = |subnet: u32| {
                let begin = 0x2001_0db8_0001_0000_u128 << 64;
                places.take(Source::ip(IpAddr::V6((begin + (u128::from(subnet) << 64)).into())))
            };
            // One in another network, and three at one IPv4 address, who are there first.
            let lone = places.take(Source::from("2001:db8:2::1"));
            let few: Vec<Place> = (0..3).map(|_| places.take(source(1))).collect();
            let crowd: Vec<Place> = (0..500).map(|number| from(number % subnets)).collect();
            assert!(!is_lost(&lone) && few.iter().all(|place| !is_lost(place)), "{subnets} subnets");
            assert_eq!(crowd.iter().filter(|place| !is_lost(place)).count(), 60, "the crowd shares what is left");
            assert!(crowd.last().is_some_and(|place| !is_lost(place)), "a newcomer finds a place");
        }
        // What one source may have, its networks may have so many times.
        let places = Places::new(1000, 2);
        let at = |subnet: u128| Source::ip(IpAddr::V6(((0x2001_0db8_0001_0000 + subnet) << 64).into()));
        let crowd: Vec<Place> = (0..2000).map(|number| places.take(at(number % 256))).collect();
        assert_eq!(crowd.iter().filter(|place| !is_lost(place)).count(), 8, "of a /56");
        let crowd: Vec<Place> = (0..2000).map(|number| places.take(at(256 + number))).collect();
        assert_eq!(places.taken(), 32, "of a /48");
        drop(crowd);
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

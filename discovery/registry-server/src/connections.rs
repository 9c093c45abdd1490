//! The connections that there are, how many in all and from one address, and who calls over each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peerloom_core::networks::{Network, networks};
use peerloom_core::pace::Pace;

/// Counts connections.
pub(crate) struct Connections {
    most: usize,
    most_per_address: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_network: HashMap<Network, usize>,
}

/// A connection's place; given back when dropped.
pub(crate) struct Place {
    address: IpAddr,
    connections: Arc<Connections>,
}

/// Where a request came from, the place that its connection takes, and how fast that is read.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) address: IpAddr,
    pub(crate) place: Arc<Place>,
    pub(crate) pace: Arc<Pace>,
}

impl Connections {
    pub(crate) fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_address, open: Mutex::default() })
    }

    /// A place for a connection from an address, if there is one.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.lock();
        if open.all >= self.most {
            return None;
        }
        let full = |(network, times): &(Network, u32)| {
            let most = self.most_per_address.saturating_mul(*times as usize);
            open.by_network.get(network).is_some_and(|count| *count >= most)
        };
        if networks(address).iter().any(full) || self.most_per_address == 0 {
            return None;
        }
        networks(address).into_iter().for_each(|(network, _)| *open.by_network.entry(network).or_default() += 1);
        open.all += 1;
        Some(Place { address, connections: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.all -= 1;
        for (network, _) in networks(self.address) {
            if let Some(count) = open.by_network.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    open.by_network.remove(&network);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let connections = Connections::new(3, 2);
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = connections.admit(a);
        let second = connections.admit(a);
        assert!(first.is_some() && second.is_some());
        assert!(connections.admit(a).is_none());
        let third = connections.admit(b);
        assert!(third.is_some());
        assert!(connections.admit(b).is_none(), "three in all");
        drop(first);
        assert!(connections.admit(a).is_some());
    }

    #[test]
    fn a_network_of_ipv6_has_a_share_however_many_addresses_it_has() {
        let connections = Connections::new(10_000, 2);
        let begin = 0x2001_0db8_0001_0000_u128 << 64;
        let from = |subnets: std::ops::Range<u128>| {
            let places = subnets.map(|subnet| connections.admit(IpAddr::V6((begin + (subnet << 64)).into())));
            places.flatten().collect::<Vec<_>>()
        };
        assert_eq!(from(0..256).len(), 8, "of one /56");
        let places = from(0..65_536);
        assert_eq!(places.len(), 32, "of one /48");
        assert_eq!(from(65_536..65_537).len(), 1, "of another one");
        drop(places);
        assert!(connections.lock().by_network.is_empty());
    }
}

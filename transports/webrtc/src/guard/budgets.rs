//! What unanswered checks may cost: of each device, of all strangers together, and at each network that they go to.
//!
//! A device costs its maker nothing, so what one device may have checked isn't limit enough: many of them can name the
//! same third party.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerloom_core::networks::{Network, networks};
use peerloom_core::sync::lock;
use peerloom_core::wire::{Allowance, DeviceId};

/// Unanswered checks that the sessions of one device may cost together, and after how long one more.
const OF_CONTACT: u32 = 300;
const OF_STRANGER: u32 = 120;
const OF_DEVICE_EVERY: Duration = Duration::from_millis(500);
/// The same of all strangers' devices: as the sessions of ten that try all of their candidates.
const OF_STRANGERS: u32 = 1200;
const OF_STRANGERS_EVERY: Duration = Duration::from_millis(100);
/// The same at one network that may be one client's ([`networks`]): several devices may be behind one NAT.
const AT_NETWORK_OF_CONTACTS: u32 = 600;
const AT_NETWORK_OF_STRANGERS: u32 = 150;
const AT_NETWORK_EVERY: Duration = Duration::from_millis(500);
/// For a session by hand, whose signals people carry: its pace is limit enough.
const BY_HAND_EVERY: Duration = Duration::from_millis(50);
/// Devices whose budgets are remembered, and networks: beyond, those that aren't known wait.
const DEVICES: usize = 1024;
const NETWORKS: usize = 4096;

/// What the sessions with one device may still cost.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    device: Arc<Mutex<Allowance<Instant>>>,
    shared: Arc<Mutex<Pool>>,
}

/// What devices share: all contacts', or all strangers'.
#[derive(Debug)]
struct Pool {
    /// Of all together; contacts are as many as their user wants.
    together: Option<Allowance<Instant>>,
    at_network: u32,
    networks: HashMap<Network, Allowance<Instant>>,
}

impl Budget {
    /// Takes one unanswered check of an address, if one is left in each of the budgets.
    pub(super) fn spend(&self, to: IpAddr, by_hand: bool, now: Instant) -> bool {
        let mut device = lock(&self.device);
        if by_hand {
            return device.spend(now, BY_HAND_EVERY);
        }
        let mut pool = lock(&self.shared);
        let free = device.wait(now, OF_DEVICE_EVERY).is_none()
            && pool.together.as_mut().is_none_or(|all| all.wait(now, OF_STRANGERS_EVERY).is_none());
        if !free || !pool.spend_at(to, now) {
            return false;
        }
        device.spend(now, OF_DEVICE_EVERY);
        if let Some(all) = &mut pool.together {
            all.spend(now, OF_STRANGERS_EVERY);
        }
        true
    }

    /// Whether no session holds it, and it is as good as new.
    fn is_idle(&self, now: Instant) -> bool {
        Arc::strong_count(&self.device) == 1 && lock(&self.device).is_full(now, OF_DEVICE_EVERY)
    }
}

impl Pool {
    fn spend_at(&mut self, to: IpAddr, now: Instant) -> bool {
        let to = networks(to);
        let known = |pool: &Self| to.iter().all(|(network, _)| pool.networks.contains_key(network));
        if self.networks.len() + to.len() > NETWORKS && !known(self) {
            self.networks.retain(|_, left| !left.is_full(now, AT_NETWORK_EVERY));
            if self.networks.len() + to.len() > NETWORKS {
                return false;
            }
        }
        for (network, times) in &to {
            let full = || Allowance::full(self.at_network.saturating_mul(*times));
            if self.networks.entry(*network).or_insert_with(full).wait(now, AT_NETWORK_EVERY).is_some() {
                return false;
            }
        }
        for (network, _) in &to {
            if let Some(left) = self.networks.get_mut(network) {
                left.spend(now, AT_NETWORK_EVERY);
            }
        }
        true
    }
}

/// The budgets of devices that are contacts', or of those that aren't: which of them a device is may change.
#[derive(Debug)]
pub(crate) struct Budgets {
    of_device: u32,
    shared: Arc<Mutex<Pool>>,
    /// With the time of its newest session.
    known: HashMap<DeviceId, (Budget, Instant)>,
}

impl Budgets {
    pub(crate) fn of_contacts() -> Self {
        Self::new(OF_CONTACT, None, AT_NETWORK_OF_CONTACTS)
    }

    pub(crate) fn of_strangers() -> Self {
        Self::new(OF_STRANGER, Some(Allowance::full(OF_STRANGERS)), AT_NETWORK_OF_STRANGERS)
    }

    fn new(of_device: u32, together: Option<Allowance<Instant>>, at_network: u32) -> Self {
        let shared = Arc::new(Mutex::new(Pool { together, at_network, networks: HashMap::new() }));
        Self { of_device, shared, known: HashMap::new() }
    }

    /// For a session that begins: what the device's sessions have left.
    pub(crate) fn take(&mut self, device: DeviceId, now: Instant) -> Budget {
        if self.known.len() >= DEVICES && !self.known.contains_key(&device) {
            self.known.retain(|_, (budget, _)| !budget.is_idle(now));
            if self.known.len() >= DEVICES {
                let oldest = self.known.iter().min_by_key(|(_, (_, at))| *at).map(|(device, _)| *device);
                oldest.map(|device| self.known.remove(&device));
            }
        }
        let (budget, at) = self.known.entry(device).or_insert_with(|| {
            let device = Arc::new(Mutex::new(Allowance::full(self.of_device)));
            (Budget { device, shared: self.shared.clone() }, now)
        });
        *at = now;
        budget.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: usize) -> DeviceId {
        let mut id = [7; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        DeviceId::from_bytes(id)
    }

    /// One of many places, no two of them in one network.
    fn place(number: u32) -> IpAddr {
        IpAddr::from((0x0b00_0000 + number).to_be_bytes())
    }

    /// How many of a thousand checks of places one after the other may go out.
    fn spend(budget: &Budget, now: Instant) -> usize {
        (0..1000).filter(|number| budget.spend(place(*number), false, now)).count()
    }

    #[test]
    fn what_devices_cost_is_remembered_in_bounded_memory() {
        let (mut budgets, begin) = (Budgets::of_contacts(), Instant::now());
        // All are used up, so that none is as good as new.
        for number in 0..3 * DEVICES {
            assert!(spend(&budgets.take(device(number), begin), begin) <= OF_CONTACT as usize);
            // This one has a session all the time.
            assert_eq!(spend(&budgets.take(device(0), begin + Duration::from_nanos(number as u64)), begin), 0);
            assert!(budgets.known.len() <= DEVICES);
        }
        let later = begin + Duration::from_secs(600);
        budgets.take(device(0), later);
        budgets.take(device(9 * DEVICES), later);
        assert_eq!(budgets.known.len(), 1, "those that are as good as new are forgotten first");
    }

    /// Devices that cost nothing to make don't add up: neither at one target nor at many.
    #[test]
    fn strangers_cost_a_bounded_number_of_checks_however_many_they_are() {
        let (mut budgets, begin) = (Budgets::of_strangers(), Instant::now());
        for (targets, most) in [(1, AT_NETWORK_OF_STRANGERS), (30_000, OF_STRANGERS)] {
            let begin = begin + Duration::from_secs(3600) * targets;
            let mut sent = 0;
            for number in 0..200 {
                let budget = budgets.take(device(number), begin);
                sent +=
                    (0..200).filter(|n| budget.spend(place((number as u32 * 200 + n) % targets), false, begin)).count();
            }
            assert_eq!(sent, most as usize, "{targets} targets");
        }
        // A third party with an IPv6 network is one, whatever addresses of it are named.
        let begin = begin + Duration::from_secs(99_999 * 3600);
        let of_site = |n: u32| IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(n)).to_be_bytes());
        let sent = (0..200).map(|number| budgets.take(device(number), begin));
        let sent: usize = sent.map(|budget| (0..200).filter(|n| budget.spend(of_site(*n), false, begin)).count()).sum();
        assert_eq!(sent, AT_NETWORK_OF_STRANGERS as usize);
    }

    #[test]
    fn networks_are_remembered_in_bounded_number_and_forgotten_when_full_again() {
        let (mut budgets, begin) = (Budgets::of_contacts(), Instant::now());
        let v6 = |number: u32| IpAddr::from(((0x2001_u128 << 112) | (u128::from(number) << 64)).to_be_bytes());
        for number in 0..40 {
            // Each device may cost some hundreds.
            let budget = budgets.take(device(number), begin);
            for target in 0..300 {
                let target = number as u32 * 300 + target;
                budget.spend(if number % 2 == 0 { place(target) } else { v6(target << 16) }, false, begin);
                assert!(lock(&budget.shared).networks.len() <= NETWORKS);
            }
        }
        let budget = budgets.take(device(1000), begin);
        assert!(!budget.spend(place(1 << 20), false, begin), "there is no room");
        assert!(budget.spend(place(1 << 20), false, begin + Duration::from_secs(3600)), "there is room again");
    }
}

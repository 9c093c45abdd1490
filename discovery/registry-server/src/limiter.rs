//! Rates by address and by device, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerloom_core::wire::Allowance;

/// Most keys remembered, at about 100 bytes each; beyond, keys that aren't known yet wait.
const KEYS: usize = 100_000;
/// How long they wait, and how often it is looked for keys to forget while there are too many.
const CROWDED: Duration = Duration::from_secs(1);

/// Limits rates by key: so much a second on average for each, and so much at once.
pub(crate) struct Keyed<K> {
    /// What one call costs; `None` for a rate of 0, which is no limit.
    cost: Option<Duration>,
    burst: u32,
    buckets: Mutex<Buckets<K>>,
}

struct Buckets<K> {
    /// A key is forgotten once its budget is whole again.
    known: HashMap<K, Bucket>,
    purged: Option<Instant>,
}

struct Bucket {
    left: Allowance<Instant>,
    /// After how long one more comes back.
    every: Duration,
}

impl<K> Buckets<K> {
    fn forget_whole(&mut self, now: Instant) {
        self.known.retain(|_, bucket| !bucket.left.is_full(now, bucket.every));
    }
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let cost = Duration::from_secs(1).checked_div(per_second);
        Self { cost, burst, buckets: Mutex::new(Buckets { known: HashMap::new(), purged: None }) }
    }

    /// Takes one from a key's budget, or returns how long to wait.
    pub(crate) fn check(&self, key: &K) -> Result<(), Duration> {
        self.check_all(&[(key.clone(), 1)])
    }

    /// Takes one from the budget of each of several keys, or none if one of them is used up. A key's number is
    /// how many times the ordinary budget it has; at least 1.
    pub(crate) fn check_all(&self, keys: &[(K, u32)]) -> Result<(), Duration> {
        let Some(cost) = self.cost else { return Ok(()) };
        let now = Instant::now();
        let mut buckets = self.lock();
        let known = &mut buckets.known;
        let waits = keys.iter().filter_map(|(key, _)| known.get_mut(key).and_then(|b| b.left.wait(now, b.every)));
        if let Some(longest) = waits.max() {
            return Err(longest);
        }
        let fresh = keys.iter().filter(|(key, _)| !buckets.known.contains_key(key)).count();
        if fresh > 0 && buckets.known.len() + fresh > KEYS {
            if buckets.purged.is_none_or(|purged| now - purged >= CROWDED) {
                buckets.purged = Some(now);
                buckets.forget_whole(now);
            }
            // A client that fills the memory keeps out those alone that aren't in it.
            if buckets.known.len() + fresh > KEYS {
                return Err(CROWDED);
            }
        }
        for (key, times) in keys {
            let new = || {
                let times = (*times).max(1);
                let most = self.burst.saturating_sub(1).saturating_mul(times).saturating_add(1);
                Bucket { left: Allowance::full(most), every: cost / times }
            };
            let bucket = buckets.known.entry(key.clone()).or_insert_with(new);
            bucket.left.spend(now, bucket.every);
        }
        Ok(())
    }

    /// Forgets the keys whose budget is whole again.
    pub(crate) fn purge(&self) {
        let now = Instant::now();
        let mut buckets = self.lock();
        buckets.forget_whole(now);
        buckets.known.shrink_to_fit();
    }

    fn lock(&self) -> MutexGuard<'_, Buckets<K>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use peerloom_core::networks::networks;

    use super::*;

    #[test]
    fn each_key_has_its_own_budget() {
        let limiter = Keyed::new(1, 3);
        for _ in 0..3 {
            assert!(limiter.check(&1).is_ok());
        }
        assert!(limiter.check(&1).is_err_and(|wait| wait <= Duration::from_secs(1)));
        assert!(limiter.check(&2).is_ok());
        assert!((0..1000).all(|_| Keyed::new(0, 0).check(&1).is_ok()));
    }

    #[test]
    fn memory_is_bounded_and_who_is_in_it_is_served() {
        // Slow enough that nothing is forgotten while the test runs.
        let limiter = Keyed { cost: Some(Duration::from_secs(3600)), ..Keyed::new(1, 10) };
        assert!(limiter.check(&0).is_ok());
        let taken = (1..KEYS + 10).filter(|key| limiter.check(key).is_ok()).count();
        assert_eq!(taken, KEYS - 1);
        assert!(limiter.check(&(KEYS + 20)).is_err());
        assert!(limiter.check(&0).is_ok(), "it was there before");
        limiter.purge();
        assert!(limiter.check(&(KEYS + 20)).is_err(), "nobody's budget is whole");
    }

    #[test]
    fn a_network_of_ipv6_has_a_budget_however_many_addresses_it_has() {
        // Slow enough that nothing comes back while the test runs.
        let limiter = Keyed { cost: Some(Duration::from_secs(3600)), ..Keyed::new(1, 10) };
        // As many as there are, each from another address.
        let taken = |addresses: &mut dyn Iterator<Item = u128>| {
            let all = addresses.map(|bits| networks(IpAddr::V6(bits.into())));
            all.filter(|networks| limiter.check_all(networks).is_ok()).count()
        };
        let begin = 0x2001_0db8_0001_0000_u128 << 64;
        assert_eq!(taken(&mut (begin..begin + 100)), 10, "of one /64");
        assert_eq!(taken(&mut (0..256).map(|subnet| begin + (subnet << 64))), 27, "of the rest of its /56");
        let rest = (0..65_536).map(|subnet| begin + (subnet << 64));
        // What was refused for a smaller network took nothing from the larger one.
        assert_eq!(taken(&mut rest.filter(|bits| bits >> 72 != begin >> 72)), 145 - 37, "of the rest of its /48");
        assert_eq!(taken(&mut std::iter::once(begin + (1 << 80))), 1, "another /48");
    }
}

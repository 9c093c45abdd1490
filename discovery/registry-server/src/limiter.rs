//! Rates by address and by device, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most keys remembered, at about 100 bytes each; beyond, keys that aren't known yet wait.
const KEYS: usize = 100_000;
/// How long they wait, and how often it is looked for keys to forget while there are too many.
const CROWDED: Duration = Duration::from_secs(1);

/// Limits rates by key: so much a second on average for each, and so much at once (GCRA).
pub(crate) struct Keyed<K> {
    /// What one call costs; `None` for a rate of 0, which is no limit.
    cost: Option<Duration>,
    /// How much a key may be ahead.
    ahead: Duration,
    buckets: Mutex<Buckets<K>>,
}

struct Buckets<K> {
    /// When a key's budget is whole again; it is forgotten then.
    whole: HashMap<K, Instant>,
    purged: Option<Instant>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let cost = Duration::from_secs(1).checked_div(per_second);
        Self {
            cost,
            ahead: cost.unwrap_or_default() * burst.saturating_sub(1),
            buckets: Mutex::new(Buckets { whole: HashMap::new(), purged: None }),
        }
    }

    /// Takes one from a key's budget, or says how long to wait.
    pub(crate) fn check(&self, key: &K) -> Result<(), Duration> {
        let Some(cost) = self.cost else { return Ok(()) };
        let now = Instant::now();
        let mut buckets = self.lock();
        if let Some(whole) = buckets.whole.get_mut(key) {
            let ahead = whole.saturating_duration_since(now);
            if ahead > self.ahead {
                return Err(ahead - self.ahead);
            }
            *whole = now + ahead + cost;
            return Ok(());
        }
        if buckets.whole.len() >= KEYS {
            if buckets.purged.is_none_or(|purged| now - purged >= CROWDED) {
                buckets.purged = Some(now);
                buckets.whole.retain(|_, whole| *whole > now);
            }
            // Whoever fills the memory keeps out those alone that aren't in it.
            if buckets.whole.len() >= KEYS {
                return Err(CROWDED);
            }
        }
        buckets.whole.insert(key.clone(), now + cost);
        Ok(())
    }

    /// Forgets the keys whose budget is whole again.
    pub(crate) fn purge(&self) {
        let now = Instant::now();
        let mut buckets = self.lock();
        buckets.whole.retain(|_, whole| *whole > now);
        buckets.whole.shrink_to_fit();
    }

    fn lock(&self) -> MutexGuard<'_, Buckets<K>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address: a whole /64 of IPv6, since whoever has one has all of it.
pub(crate) fn address_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
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
        let limiter = Keyed { cost: Some(Duration::from_secs(3600)), ..Keyed::new(1, 1) };
        let limiter = Keyed { ahead: Duration::from_secs(3600 * 9), ..limiter };
        assert!(limiter.check(&0).is_ok());
        let taken = (1..KEYS + 10).filter(|key| limiter.check(key).is_ok()).count();
        assert_eq!(taken, KEYS - 1);
        assert!(limiter.check(&(KEYS + 20)).is_err());
        assert!(limiter.check(&0).is_ok(), "it was there before");
        limiter.purge();
        assert!(limiter.check(&(KEYS + 20)).is_err(), "nobody's budget is whole");
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}

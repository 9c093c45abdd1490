//! Rates by address and by device, in bounded memory.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::now_ms;

/// Most keys remembered, at about 100 bytes each; beyond, keys that aren't known yet wait.
const KEYS: usize = 100_000;
/// How long they wait, and how often it is looked for keys to forget while there are too many.
const CROWDED: Duration = Duration::from_secs(1);

/// So much a second on average for each key, and so much at once; `None` for a rate of 0, which is no limit.
fn quota(per_second: u32, burst: u32) -> Option<Quota> {
    let quota = Quota::per_second(NonZeroU32::new(per_second)?);
    Some(quota.allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN)))
}

/// Limits rates by key.
pub(crate) struct Keyed<K: Hash + Eq + Clone> {
    buckets: Option<DefaultKeyedRateLimiter<K>>,
    purged_ms: AtomicU64,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self { buckets: quota(per_second, burst).map(RateLimiter::keyed), purged_ms: AtomicU64::new(0) }
    }

    /// Takes one from a key's budget, or says how long to wait.
    pub(crate) fn check(&self, key: &K) -> Result<(), Duration> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        if buckets.len() >= KEYS {
            let now = now_ms();
            let before = self.purged_ms.load(Ordering::Relaxed);
            if now.saturating_sub(before) >= CROWDED.as_millis() as u64
                && self.purged_ms.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                buckets.retain_recent();
            }
            if buckets.len() >= KEYS {
                return Err(CROWDED);
            }
        }
        buckets.check_key(key).map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets the keys whose budget is whole again.
    pub(crate) fn purge(&self) {
        if let Some(buckets) = &self.buckets {
            buckets.retain_recent();
            buckets.shrink_to_fit();
        }
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
        assert!(limiter.check(&1).is_err());
        assert!(limiter.check(&2).is_ok());
        assert!((0..1000).all(|_| Keyed::new(0, 0).check(&1).is_ok()));
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Keyed::new(1, 1);
        let taken = (0..KEYS + 10).filter(|key| limiter.check(key).is_ok()).count();
        assert!(taken <= KEYS);
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}

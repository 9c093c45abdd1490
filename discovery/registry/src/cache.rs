//! What the registry answered, for a while.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use peerloom_core::wire::{DeviceId, DiscoveryItem, DiscoveryKey, ItemSlot, UserId};

/// Most keys remembered; of more, the longest unused goes.
const KEYS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// Most bytes of items remembered; of more, those of the longest unused keys go.
const BYTES: usize = 8 * 1024 * 1024;
/// A key that isn't found is asked for again after this part of an answer's lifetime, 4 s by default, since the device may
/// just be starting; then after twice the time, each time.
const FIRST_PATIENCE: u32 = 15;
/// At most so many lifetimes: a quarter of an hour by default, so that a hundred contacts that are gone cost seven calls a
/// minute and not a hundred.
const MOST_PATIENCE: u32 = 15;

/// An item that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) item: DiscoveryItem,
    pub(crate) slot: ItemSlot,
    /// The user, of a record.
    pub(crate) user: Option<UserId>,
    pub(crate) sequence: u64,
    pub(crate) expires_at_ms: u64,
    /// How old it was when the registry gave it.
    pub(crate) age: Duration,
    /// When that was.
    pub(crate) at: Instant,
}

/// An item, and how old it is.
pub(crate) type Aged = (DiscoveryItem, Duration);

/// Answers by key.
pub(crate) struct Cache {
    answers: LruCache<DiscoveryKey, Answer>,
    lifetime: Duration,
    bytes: usize,
}

struct Answer {
    items: Vec<Verified>,
    asked: Instant,
    /// How many times in a row nothing was found.
    misses: u32,
    /// The last time the registry didn't answer.
    failed: bool,
}

impl Answer {
    fn bytes(&self) -> usize {
        self.items.iter().map(|item| item.item.encode().len()).sum()
    }
}

/// What to do about a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// This is fresh.
    Known(Vec<Aged>),
    /// Ask for this key.
    Ask(DiscoveryKey),
}

impl Cache {
    /// Answers count for `lifetime`.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { answers: LruCache::new(KEYS), lifetime, bytes: 0 }
    }

    /// What to do about a key. A device whose user is known is asked for with the user's others, so that
    /// a user costs one call, however many devices it has.
    pub(crate) fn look(&mut self, key: DiscoveryKey, now_ms: u64) -> Lookup {
        let Some(answer) = self.answers.get(&key) else { return Lookup::Ask(key) };
        let patience = match answer.misses {
            0 => self.lifetime,
            misses => {
                let doublings = 1u32.checked_shl(misses - 1).unwrap_or(u32::MAX);
                (self.lifetime / FIRST_PATIENCE).saturating_mul(doublings).min(self.lifetime * MOST_PATIENCE)
            }
        };
        if answer.asked.elapsed() < patience {
            return Lookup::Known(valid(&answer.items, now_ms));
        }
        match (key, answer.items.first().and_then(|record| record.user)) {
            (DiscoveryKey::Record(_), Some(user)) => Lookup::Ask(DiscoveryKey::Records(user)),
            _ => Lookup::Ask(key),
        }
    }

    /// What is known of a key, however old.
    pub(crate) fn known(&self, key: DiscoveryKey, now_ms: u64) -> Vec<Aged> {
        self.answers.peek(&key).map(|answer| valid(&answer.items, now_ms)).unwrap_or_default()
    }

    /// Takes in the answer about a key: verified items that match it. Says which are news.
    pub(crate) fn answered(
        &mut self,
        asked: DiscoveryKey,
        for_key: DiscoveryKey,
        items: Vec<Verified>,
    ) -> Vec<DiscoveryItem> {
        let items: Vec<Verified> = items.into_iter().map(|item| self.newest(asked, item)).collect();
        let news = items.iter().filter(|item| {
            let before = self.answers.peek(&place(asked, item));
            before.is_none_or(|before| before.items.iter().all(|known| known.item != item.item))
        });
        let news = news.map(|item| item.item.clone()).collect();
        for item in &items {
            let place = place(asked, item);
            if place != asked {
                self.put(place, vec![item.clone()]);
            }
            if let Some(user) = item.user {
                self.forget_miss(DiscoveryKey::Records(user));
            }
        }
        if let DiscoveryKey::Record(device) = for_key
            && items.iter().all(|item| item.slot != ItemSlot::Record(device))
        {
            self.put(for_key, Vec::new());
        }
        if !matches!(asked, DiscoveryKey::Record(_)) || !items.is_empty() {
            self.put(asked, items);
        }
        news
    }

    /// No answer came: what is known stays, and counts until it is time to ask again.
    pub(crate) fn failed(&mut self, key: DiscoveryKey) {
        if !self.answers.contains(&key) {
            self.insert(key, Answer { items: Vec::new(), asked: Instant::now(), misses: 0, failed: true });
        }
        if let Some(answer) = self.answers.get_mut(&key) {
            answer.asked = Instant::now();
            answer.failed = true;
        }
    }

    /// The registry is back: what it didn't answer may be asked for again.
    pub(crate) fn recovered(&mut self) {
        let failed: Vec<DiscoveryKey> = self.answers.iter().filter(|(_, a)| a.failed).map(|(key, _)| *key).collect();
        for key in failed {
            let long_ago = Instant::now().checked_sub(self.lifetime);
            match (self.answers.peek_mut(&key), long_ago) {
                (Some(answer), Some(long_ago)) if !answer.items.is_empty() => answer.asked = long_ago,
                _ => self.remove(&key),
            }
        }
    }

    /// A device gave a sign of life: if it wasn't found, it may be now.
    pub(crate) fn heard(&mut self, device: DeviceId) {
        self.forget_miss(DiscoveryKey::Record(device));
    }

    /// Everything that wasn't found may be asked for again.
    pub(crate) fn forget_misses(&mut self) {
        let missed: Vec<DiscoveryKey> =
            self.answers.iter().filter(|(_, a)| a.misses > 0).map(|(key, _)| *key).collect();
        missed.iter().for_each(|key| self.remove(key));
    }

    fn forget_miss(&mut self, key: DiscoveryKey) {
        if self.answers.peek(&key).is_some_and(|answer| answer.misses > 0) {
            self.remove(&key);
        }
    }

    fn put(&mut self, key: DiscoveryKey, items: Vec<Verified>) {
        let misses = match self.answers.peek(&key) {
            Some(before) if items.is_empty() => before.misses.saturating_add(1),
            None if items.is_empty() => 1,
            _ => 0,
        };
        self.insert(key, Answer { items, asked: Instant::now(), misses, failed: false });
    }

    fn insert(&mut self, key: DiscoveryKey, answer: Answer) {
        self.bytes += answer.bytes();
        if let Some((_, before)) = self.answers.push(key, answer) {
            self.bytes = self.bytes.saturating_sub(before.bytes());
        }
        while self.bytes > BYTES
            && let Some((_, oldest)) = self.answers.pop_lru()
        {
            self.bytes = self.bytes.saturating_sub(oldest.bytes());
        }
    }

    fn remove(&mut self, key: &DiscoveryKey) {
        if let Some(answer) = self.answers.pop(key) {
            self.bytes = self.bytes.saturating_sub(answer.bytes());
        }
    }

    /// A registry may give an older item than one seen before; that one counts.
    fn newest(&self, asked: DiscoveryKey, item: Verified) -> Verified {
        let answer = self.answers.peek(&place(asked, &item));
        let known = answer.and_then(|answer| answer.items.iter().find(|known| known.slot == item.slot));
        known.filter(|known| known.sequence > item.sequence).cloned().unwrap_or(item)
    }
}

/// Where an item is remembered: each record by its device, whatever was asked for.
fn place(asked: DiscoveryKey, item: &Verified) -> DiscoveryKey {
    match item.slot {
        ItemSlot::Record(device) => DiscoveryKey::Record(device),
        _ => asked,
    }
}

fn valid(items: &[Verified], now_ms: u64) -> Vec<Aged> {
    let valid = items.iter().filter(|item| item.expires_at_ms > now_ms);
    valid.map(|item| (item.item.clone(), item.age + item.at.elapsed())).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use peerloom_core::wire::{ServiceKind, Signed};

    use super::*;

    fn record(device: u8, sequence: u64) -> Verified {
        let body = Bytes::from(vec![device, sequence as u8]);
        Verified {
            item: DiscoveryItem::Record(Signed::sign(b"", body, |_| Bytes::new())),
            slot: ItemSlot::Record(DeviceId::from_bytes([device; 32])),
            user: Some(UserId::from_bytes([9; 32])),
            sequence,
            expires_at_ms: 100,
            age: Duration::from_secs(5),
            at: Instant::now(),
        }
    }

    /// What is known, without its age.
    fn known(items: &[Verified]) -> Lookup {
        Lookup::Known(items.iter().map(|item| (item.item.clone(), Duration::ZERO)).collect())
    }

    impl Cache {
        fn looked(&mut self, key: DiscoveryKey, now_ms: u64) -> Lookup {
            match self.look(key, now_ms) {
                Lookup::Known(items) => {
                    assert!(items.iter().all(|(_, age)| *age >= Duration::from_secs(5)), "{items:?}");
                    Lookup::Known(items.into_iter().map(|(item, _)| (item, Duration::ZERO)).collect())
                }
                ask => ask,
            }
        }
    }

    fn device(number: u8) -> DiscoveryKey {
        DiscoveryKey::Record(DeviceId::from_bytes([number; 32]))
    }

    const USER: DiscoveryKey = DiscoveryKey::Records(UserId::from_bytes([9; 32]));

    #[test]
    fn an_answer_counts_for_a_while_and_a_miss_for_longer_each_time() {
        let mut cache = Cache::new(Duration::from_secs(60));
        assert_eq!(cache.looked(device(1), 0), Lookup::Ask(device(1)));
        assert_eq!(cache.answered(device(1), device(1), vec![record(1, 1)]), [record(1, 1).item]);
        assert_eq!(cache.looked(device(1), 0), known(&[record(1, 1)]));
        assert_eq!(cache.looked(device(1), 100), known(&[]), "expired");

        let waits = |cache: &mut Cache, age: u64| {
            let answer = cache.answers.peek_mut(&device(2)).unwrap();
            answer.asked = Instant::now().checked_sub(Duration::from_secs(age)).unwrap();
            cache.looked(device(2), 0) == known(&[])
        };
        for seconds in [4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            cache.answered(device(2), device(2), vec![]);
            assert!(waits(&mut cache, seconds - 1) && !waits(&mut cache, seconds + 1), "{seconds}");
        }
    }

    #[test]
    fn a_user_is_asked_for_once() {
        let mut cache = Cache::new(Duration::ZERO);
        cache.answered(device(1), device(1), vec![record(1, 1)]);
        assert_eq!(cache.looked(device(1), 0), Lookup::Ask(USER));
        cache.lifetime = Duration::from_secs(60);
        cache.answered(USER, device(1), vec![record(1, 1), record(2, 1)]);
        assert_eq!(cache.looked(device(2), 0), known(&[record(2, 1)]));
        assert_eq!(cache.looked(USER, 0), known(&[record(1, 1), record(2, 1)]));
        // The device has left the registry, its user hasn't.
        cache.answered(USER, device(1), vec![record(2, 1)]);
        assert_eq!(cache.looked(device(1), 0), known(&[]));
    }

    #[test]
    fn an_older_record_doesn_t_replace_a_newer_one() {
        let mut cache = Cache::new(Duration::from_secs(60));
        cache.answered(device(1), device(1), vec![record(1, 5)]);
        assert!(cache.answered(device(1), device(1), vec![record(1, 4)]).is_empty());
        assert_eq!(cache.looked(device(1), 0), known(&[record(1, 5)]));
        assert_eq!(cache.answered(device(1), device(1), vec![record(1, 6)]), [record(1, 6).item]);
    }

    #[test]
    fn a_registry_that_is_back_is_asked_again() {
        let mut cache = Cache::new(Duration::from_secs(60));
        cache.answered(device(1), device(1), vec![record(1, 1)]);
        for number in [1, 2] {
            cache.failed(device(number));
            assert!(matches!(cache.looked(device(number), 0), Lookup::Known(_)));
        }
        cache.recovered();
        assert_eq!(cache.known(device(1), 0).len(), 1, "what was known still is");
        assert_eq!(cache.looked(device(1), 0), Lookup::Ask(USER));
        assert_eq!(cache.looked(device(2), 0), Lookup::Ask(device(2)));
    }

    #[test]
    fn a_sign_of_life_ends_the_patience() {
        let mut cache = Cache::new(Duration::from_secs(60));
        let miss = |cache: &mut Cache| {
            for target in [device(1), device(2), USER] {
                cache.answered(target, target, vec![]);
                assert_eq!(cache.looked(target, 0), known(&[]));
            }
        };
        miss(&mut cache);
        cache.heard(DeviceId::from_bytes([1; 32]));
        assert_eq!(cache.looked(device(1), 0), Lookup::Ask(device(1)));
        assert_eq!(cache.looked(device(2), 0), known(&[]));
        // A record of another of the user's devices: the user is there, too.
        cache.answered(device(3), device(3), vec![record(3, 1)]);
        cache.heard(DeviceId::from_bytes([3; 32]));
        assert_eq!(cache.looked(device(3), 0), known(&[record(3, 1)]), "what is known stays");
        assert_eq!(cache.looked(USER, 0), Lookup::Ask(USER));
        miss(&mut cache);
        cache.forget_misses();
        assert_eq!(cache.looked(device(2), 0), Lookup::Ask(device(2)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut cache = Cache::new(Duration::from_secs(60));
        for number in 0..3000u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            cache.failed(DiscoveryKey::Record(DeviceId::from_bytes(id)));
        }
        assert_eq!(cache.answers.len(), KEYS.get());
        for number in 0..600u32 {
            let body = Bytes::from(vec![number as u8; 20_000]);
            let item = DiscoveryItem::Service(Signed::sign(b"", body, |_| Bytes::new()));
            let key = DiscoveryKey::Service(ServiceKind(number));
            let slot = ItemSlot::Service(ServiceKind(number), DeviceId::from_bytes([1; 32]));
            cache.answered(key, key, vec![Verified { item, slot, user: None, ..record(1, 1) }]);
        }
        let held: usize = cache.answers.iter().map(|(_, answer)| answer.bytes()).sum();
        assert!(held <= BYTES && held == cache.bytes && held > BYTES / 2, "{held}");
    }
}

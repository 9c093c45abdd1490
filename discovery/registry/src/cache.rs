//! What the registry answered, for a while.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use peerloom_core::Target;
use peerloom_core::wire::{DeviceId, Signed, UserId};

/// Most targets remembered; of more, the longest unused goes.
const TARGETS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// A target that isn't found is asked for at most so many times less often than one that is: every quarter of
/// an hour by default, so that a hundred contacts that are gone cost seven calls a minute and not a hundred.
const MOST_PATIENCE: u32 = 15;

/// A record that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) signed: Signed,
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) sequence: u64,
    pub(crate) expires_at_ms: u64,
}

/// Answers by target.
pub(crate) struct Cache {
    answers: LruCache<Target, Answer>,
    lifetime: Duration,
}

struct Answer {
    records: Vec<Verified>,
    asked: Instant,
    /// How many times in a row nothing was found.
    misses: u32,
    /// The last time the registry didn't answer.
    failed: bool,
}

/// What to do about a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// This is fresh.
    Known(Vec<Signed>),
    /// Ask for this target.
    Ask(Target),
}

impl Cache {
    /// Answers count for `lifetime`.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { answers: LruCache::new(TARGETS), lifetime }
    }

    /// What to do about a target. A device whose user is known is asked for with the user's others, so that
    /// a user costs one call, however many devices it has.
    pub(crate) fn look(&mut self, target: Target, now_ms: u64) -> Lookup {
        let Some(answer) = self.answers.get(&target) else { return Lookup::Ask(target) };
        let patience = match answer.misses {
            0 => 1,
            misses => 1u32.checked_shl(misses - 1).map_or(MOST_PATIENCE, |times| times.clamp(1, MOST_PATIENCE)),
        };
        if answer.asked.elapsed() < self.lifetime * patience {
            return Lookup::Known(valid(&answer.records, now_ms));
        }
        match (target, answer.records.first()) {
            (Target::Device(_), Some(record)) => Lookup::Ask(Target::User(record.user)),
            _ => Lookup::Ask(target),
        }
    }

    /// What is known of a target, however old.
    pub(crate) fn known(&self, target: Target, now_ms: u64) -> Vec<Signed> {
        self.answers.peek(&target).map(|answer| valid(&answer.records, now_ms)).unwrap_or_default()
    }

    /// Takes in the answer about a target: verified records that match it. Says which are news.
    pub(crate) fn answered(&mut self, asked: Target, for_target: Target, records: Vec<Verified>) -> Vec<Signed> {
        let records: Vec<Verified> = records.into_iter().map(|record| self.newest(record)).collect();
        let news = records.iter().filter(|record| {
            let before = self.answers.peek(&Target::Device(record.device));
            before.is_none_or(|before| before.records.iter().all(|known| known.signed != record.signed))
        });
        let news = news.map(|record| record.signed.clone()).collect();
        for record in &records {
            self.put(Target::Device(record.device), vec![record.clone()]);
            self.forget_miss(Target::User(record.user));
        }
        if let Target::Device(device) = for_target
            && records.iter().all(|record| record.device != device)
        {
            self.put(for_target, Vec::new());
        }
        if let Target::User(_) = asked {
            self.put(asked, records);
        }
        news
    }

    /// No answer came: what is known stays, and counts until it is time to ask again.
    pub(crate) fn failed(&mut self, target: Target) {
        let answer = self.answers.get_or_insert_mut(target, || Answer {
            records: Vec::new(),
            asked: Instant::now(),
            misses: 0,
            failed: true,
        });
        answer.asked = Instant::now();
        answer.failed = true;
    }

    /// The registry is back: what it didn't answer may be asked for again.
    pub(crate) fn recovered(&mut self) {
        let failed: Vec<Target> = self.answers.iter().filter(|(_, a)| a.failed).map(|(target, _)| *target).collect();
        for target in failed {
            let long_ago = Instant::now().checked_sub(self.lifetime);
            match (self.answers.peek_mut(&target), long_ago) {
                (Some(answer), Some(long_ago)) if !answer.records.is_empty() => answer.asked = long_ago,
                _ => drop(self.answers.pop(&target)),
            }
        }
    }

    /// A device gave a sign of life: if it wasn't found, it may be now.
    pub(crate) fn heard(&mut self, device: DeviceId) {
        self.forget_miss(Target::Device(device));
    }

    /// Everything that wasn't found may be asked for again.
    pub(crate) fn forget_misses(&mut self) {
        let missed: Vec<Target> =
            self.answers.iter().filter(|(_, a)| a.misses > 0).map(|(target, _)| *target).collect();
        for target in missed {
            self.answers.pop(&target);
        }
    }

    fn forget_miss(&mut self, target: Target) {
        if self.answers.peek(&target).is_some_and(|answer| answer.misses > 0) {
            self.answers.pop(&target);
        }
    }

    fn put(&mut self, target: Target, records: Vec<Verified>) {
        let misses = match self.answers.peek(&target) {
            Some(before) if records.is_empty() => before.misses.saturating_add(1),
            None if records.is_empty() => 1,
            _ => 0,
        };
        self.answers.put(target, Answer { records, asked: Instant::now(), misses, failed: false });
    }

    /// A registry may give an older record than one seen before; that one counts.
    fn newest(&self, record: Verified) -> Verified {
        let known = self.answers.peek(&Target::Device(record.device)).and_then(|answer| answer.records.first());
        known.filter(|known| known.sequence > record.sequence).cloned().unwrap_or(record)
    }
}

fn valid(records: &[Verified], now_ms: u64) -> Vec<Signed> {
    records.iter().filter(|record| record.expires_at_ms > now_ms).map(|record| record.signed.clone()).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(device: u8, sequence: u64) -> Verified {
        let body = Bytes::from(vec![device, sequence as u8]);
        Verified {
            signed: Signed::sign(b"", body, |_| Bytes::new()),
            user: UserId::from_bytes([9; 32]),
            device: DeviceId::from_bytes([device; 32]),
            sequence,
            expires_at_ms: 100,
        }
    }

    fn device(number: u8) -> Target {
        Target::Device(DeviceId::from_bytes([number; 32]))
    }

    const USER: Target = Target::User(UserId::from_bytes([9; 32]));

    #[test]
    fn an_answer_counts_for_a_while_and_a_miss_for_longer_each_time() {
        let mut cache = Cache::new(Duration::from_secs(60));
        assert_eq!(cache.look(device(1), 0), Lookup::Ask(device(1)));
        assert_eq!(cache.answered(device(1), device(1), vec![record(1, 1)]), [record(1, 1).signed]);
        assert_eq!(cache.look(device(1), 0), Lookup::Known(vec![record(1, 1).signed]));
        assert_eq!(cache.look(device(1), 100), Lookup::Known(vec![]), "expired");

        let waits = |cache: &mut Cache, age: u64| {
            let answer = cache.answers.peek_mut(&device(2)).unwrap();
            answer.asked = Instant::now().checked_sub(Duration::from_secs(age)).unwrap();
            cache.look(device(2), 0) == Lookup::Known(vec![])
        };
        for seconds in [60, 120, 240, 480, 900, 900, 900] {
            cache.answered(device(2), device(2), vec![]);
            assert!(waits(&mut cache, seconds - 1) && !waits(&mut cache, seconds + 1), "{seconds}");
        }
    }

    #[test]
    fn a_user_is_asked_for_once() {
        let mut cache = Cache::new(Duration::ZERO);
        cache.answered(device(1), device(1), vec![record(1, 1)]);
        assert_eq!(cache.look(device(1), 0), Lookup::Ask(USER));
        cache.lifetime = Duration::from_secs(60);
        cache.answered(USER, device(1), vec![record(1, 1), record(2, 1)]);
        assert_eq!(cache.look(device(2), 0), Lookup::Known(vec![record(2, 1).signed]));
        assert_eq!(cache.look(USER, 0), Lookup::Known(vec![record(1, 1).signed, record(2, 1).signed]));
        // The device has left the registry, its user hasn't.
        cache.answered(USER, device(1), vec![record(2, 1)]);
        assert_eq!(cache.look(device(1), 0), Lookup::Known(vec![]));
    }

    #[test]
    fn an_older_record_doesn_t_replace_a_newer_one() {
        let mut cache = Cache::new(Duration::from_secs(60));
        cache.answered(device(1), device(1), vec![record(1, 5)]);
        assert!(cache.answered(device(1), device(1), vec![record(1, 4)]).is_empty());
        assert_eq!(cache.look(device(1), 0), Lookup::Known(vec![record(1, 5).signed]));
        assert_eq!(cache.answered(device(1), device(1), vec![record(1, 6)]), [record(1, 6).signed]);
    }

    #[test]
    fn a_registry_that_is_back_is_asked_again() {
        let mut cache = Cache::new(Duration::from_secs(60));
        cache.answered(device(1), device(1), vec![record(1, 1)]);
        for number in [1, 2] {
            cache.failed(device(number));
            assert!(matches!(cache.look(device(number), 0), Lookup::Known(_)));
        }
        cache.recovered();
        assert_eq!(cache.known(device(1), 0), [record(1, 1).signed], "what was known still is");
        assert_eq!(cache.look(device(1), 0), Lookup::Ask(USER));
        assert_eq!(cache.look(device(2), 0), Lookup::Ask(device(2)));
    }

    #[test]
    fn a_sign_of_life_ends_the_patience() {
        let mut cache = Cache::new(Duration::from_secs(60));
        let miss = |cache: &mut Cache| {
            for target in [device(1), device(2), USER] {
                cache.answered(target, target, vec![]);
                assert_eq!(cache.look(target, 0), Lookup::Known(vec![]));
            }
        };
        miss(&mut cache);
        cache.heard(DeviceId::from_bytes([1; 32]));
        assert_eq!(cache.look(device(1), 0), Lookup::Ask(device(1)));
        assert_eq!(cache.look(device(2), 0), Lookup::Known(vec![]));
        // A record of another of the user's devices: the user is there, too.
        cache.answered(device(3), device(3), vec![record(3, 1)]);
        cache.heard(DeviceId::from_bytes([3; 32]));
        assert_eq!(cache.look(device(3), 0), Lookup::Known(vec![record(3, 1).signed]), "what is known stays");
        assert_eq!(cache.look(USER, 0), Lookup::Ask(USER));
        miss(&mut cache);
        cache.forget_misses();
        assert_eq!(cache.look(device(2), 0), Lookup::Ask(device(2)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut cache = Cache::new(Duration::from_secs(60));
        for number in 0..3000u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            cache.failed(Target::Device(DeviceId::from_bytes(id)));
        }
        assert_eq!(cache.answers.len(), TARGETS.get());
    }
}

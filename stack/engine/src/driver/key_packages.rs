//! Key packages of ours that others hold: a pool by hash.
//!
//! A device that asks for one gets its own, which serves once. Where it holds many, or all together do, it gets the last
//! resort: one for each suite, which serves any number of devices and is replaced by age. What wasn't used in time goes,
//! and its keys with it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::wire::store::{GivenKeyPackage, KEY_PACKAGES, Record};
use peerloom_core::wire::{ConversationId, DeviceId, Frame, KeyPackage, KeyPackageRequest, LogId, SuiteId};
use peerloom_core::{Crypto, KeyRange, Result, Serves};
use peerloom_crypto_primitives::sha256;
use tracing::debug;

use super::Turn;
use super::state::TimerKey;
use crate::clock::system_ms;
use crate::store::Txn;

/// Most packages that serve once and are held by one device, and by all.
const OF_A_DEVICE: usize = 16;
const OF_ALL: usize = 1024;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a package serves after it was given out.
const LIFETIME_MS: u64 = 30 * DAY_MS;
/// How long one last resort is given out.
const ROTATION_MS: u64 = 7 * DAY_MS;

/// Who holds a package, and of which suite.
type Holder = (DeviceId, ConversationId, SuiteId);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    hash: [u8; 32],
    expires_at_ms: u64,
}

/// What is given to a device that asks.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// What was given before: to the same holder, or the last resort.
    Again([u8; 32]),
    /// A new one for this holder alone.
    Once,
    /// A new last resort.
    LastResort,
}

/// The packages that are out.
#[derive(Debug, Default)]
pub(crate) struct KeyPackages {
    once: BTreeMap<Holder, Given>,
    last_resorts: Vec<(SuiteId, Given)>,
}

impl KeyPackages {
    /// Reads what was given out.
    pub(crate) fn load(txn: &Txn<'_>) -> Result<Self> {
        let mut all = Self::default();
        for (_, row) in txn.sound_records::<GivenKeyPackage>(KEY_PACKAGES, &KeyRange::all())? {
            all.note(&row);
        }
        Ok(all)
    }

    fn note(&mut self, row: &GivenKeyPackage) -> [u8; 32] {
        let given = Given { hash: sha256(&[&row.package]), expires_at_ms: row.expires_at_ms };
        self.forget(&given.hash);
        match row.holder {
            Some((device, conversation)) => drop(self.once.insert((device, conversation, row.suite), given)),
            None => self.last_resorts.push((row.suite, given)),
        }
        given.hash
    }

    fn forget(&mut self, hash: &[u8; 32]) {
        self.once.retain(|_, given| given.hash != *hash);
        self.last_resorts.retain(|(_, given)| given.hash != *hash);
    }

    fn is_last_resort(&self, hash: &[u8; 32]) -> bool {
        self.last_resorts.iter().any(|(_, given)| given.hash == *hash)
    }

    fn choose(&self, holder: &Holder, single_use: bool, now_ms: u64) -> Choice {
        let (device, _, suite) = holder;
        if let Some(given) = self.once.get(holder).filter(|given| given.expires_at_ms > now_ms.saturating_add(DAY_MS)) {
            return Choice::Again(given.hash);
        }
        let held = self.once.keys().filter(|held| held.0 == *device && *held != holder).count();
        if single_use && held < OF_A_DEVICE && self.once.len() < OF_ALL {
            return Choice::Once;
        }
        // One that a clock dated too far ahead is replaced, too.
        let due = now_ms.saturating_add(LIFETIME_MS);
        let current = due.saturating_add(1)..=due.saturating_add(ROTATION_MS);
        let newest =
            self.last_resorts.iter().rev().find(|(of, given)| of == suite && current.contains(&given.expires_at_ms));
        newest.map_or(Choice::LastResort, |(_, given)| Choice::Again(given.hash))
    }

    /// When the first of them expires.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        let last_resorts = self.last_resorts.iter().map(|(_, given)| given);
        self.once.values().chain(last_resorts).map(|given| given.expires_at_ms).min()
    }
}

impl Turn<'_> {
    /// A device asks for a key package of ours. Asked again before it was used, it gets the same.
    pub(super) fn on_key_package_request(&mut self, device: DeviceId, request: KeyPackageRequest) -> Result<()> {
        let KeyPackageRequest { suite, conversation } = request;
        let Some(crypto) = self.state.cryptos.iter().find(|c| c.suite() == suite).cloned() else {
            return Ok(());
        };
        if !self.state.shares(&device, &conversation) {
            return Ok(());
        }
        let package = self.key_package_for((device, conversation, suite), &*crypto)?;
        self.effects.control(device, &Frame::KeyPackage(KeyPackage { suite, conversation, package }));
        Ok(())
    }

    fn key_package_for(&mut self, holder: Holder, crypto: &dyn Crypto) -> Result<Bytes> {
        self.expire_key_packages()?;
        let (device, conversation, suite) = holder;
        // An unconfirmed clock is better than none: a package has to last until the next start at least.
        let now_ms = if self.now.wall_ms > 0 { self.now.wall_ms } else { system_ms() };
        let mut choice = self.state.given.choose(&holder, crypto.caps().single_use, now_ms);
        if let Choice::Again(hash) = choice {
            if let Some(row) = self.txn.sound_record::<GivenKeyPackage>(KEY_PACKAGES, &hash)? {
                return Ok(row.package);
            }
            // Its row is damaged.
            self.state.given.forget(&hash);
            choice = self.state.given.choose(&holder, crypto.caps().single_use, now_ms);
        }
        let (serves, holder, lifetime_ms) = match choice {
            Choice::Once => {
                self.discard_held(holder)?;
                (Serves::Once, Some((device, conversation)), LIFETIME_MS)
            }
            _ => (Serves::Always, None, LIFETIME_MS + ROTATION_MS),
        };
        let mut state = self.txn.crypto(suite);
        let package = crypto.key_package(&mut state, &mut self.state.rng, serves)?;
        let expires_at_ms = now_ms.saturating_add(lifetime_ms);
        let row = GivenKeyPackage { suite, package: package.clone(), expires_at_ms, holder };
        let hash = self.state.given.note(&row);
        self.txn.put(KEY_PACKAGES, hash.to_vec(), row.encode());
        self.time_key_packages();
        Ok(package)
    }

    /// We joined a device's session: a key package that serves once is spent, its keys went with the join.
    pub(super) fn spend_key_package(&mut self, hash: [u8; 32]) {
        if !self.state.given.is_last_resort(&hash) {
            self.state.given.forget(&hash);
            self.txn.delete(KEY_PACKAGES, hash.to_vec());
        }
    }

    /// A session couldn't be used, and its key package may be what is damaged: the device gets another one. Others that
    /// hold the last resort lose it only where this device has no package of its own.
    pub(super) fn lose_key_package(&mut self, log: LogId, suite: SuiteId) -> Result<()> {
        let holder = (log.device, log.conversation, suite);
        if self.state.given.once.contains_key(&holder) {
            return self.discard_held(holder);
        }
        let last_resorts = self.state.given.last_resorts.iter().filter(|(of, _)| *of == suite);
        let hashes: Vec<[u8; 32]> = last_resorts.map(|(_, given)| given.hash).collect();
        hashes.into_iter().try_for_each(|hash| self.discard_key_package(hash))
    }

    fn discard_held(&mut self, holder: Holder) -> Result<()> {
        let held = self.state.given.once.get(&holder).map(|given| given.hash);
        held.map_or(Ok(()), |hash| self.discard_key_package(hash))
    }

    /// Nothing can be joined with it any more.
    fn discard_key_package(&mut self, hash: [u8; 32]) -> Result<()> {
        self.state.given.forget(&hash);
        let row = self.txn.sound_record::<GivenKeyPackage>(KEY_PACKAGES, &hash)?;
        self.txn.delete(KEY_PACKAGES, hash.to_vec());
        let Some(row) = row else { return Ok(()) };
        if let Some(crypto) = self.state.cryptos.iter().find(|c| c.suite() == row.suite).cloned() {
            let discarded = crypto.discard_key_package(&mut self.txn.crypto(row.suite), &row.package);
            if let Err(error) = discarded {
                if let Some(failure) = self.txn.take_failure() {
                    return Err(failure);
                }
                debug!(%error, "a key package's keys can't be found");
            }
        }
        Ok(())
    }

    /// Discards what wasn't used in time.
    pub(super) fn expire_key_packages(&mut self) -> Result<()> {
        if self.state.given.next_expiry_ms().is_some_and(|at| self.now.is_past(at)) {
            let given = &self.state.given;
            let all = given.once.values().chain(given.last_resorts.iter().map(|(_, given)| given));
            let past: Vec<[u8; 32]> = all.filter(|g| self.now.is_past(g.expires_at_ms)).map(|g| g.hash).collect();
            past.into_iter().try_for_each(|hash| self.discard_key_package(hash))?;
        }
        self.time_key_packages();
        Ok(())
    }

    fn time_key_packages(&mut self) {
        // A day at most: the clock may be set meanwhile.
        let wait = |at: u64| Duration::from_millis(at.saturating_sub(self.now.wall_ms).min(DAY_MS));
        let due = self.state.given.next_expiry_ms().map(|at| self.now.mono.saturating_add(wait(at)));
        self.state.timers.set(TimerKey::KeyPackages, due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: SuiteId = SuiteId(3);
    const NOW_MS: u64 = 1_800_000_000_000;

    fn holder(device: u8, conversation: u16) -> Holder {
        let [high, low] = conversation.to_be_bytes();
        let id = std::array::from_fn(|at| [high, low][at % 2]);
        (DeviceId::from_bytes([device; 32]), ConversationId::from_bytes(id), SUITE)
    }

    fn give(all: &mut KeyPackages, holder: Option<Holder>, number: u32, expires_at_ms: u64) -> [u8; 32] {
        let package = Bytes::copy_from_slice(&number.to_be_bytes());
        all.note(&GivenKeyPackage { suite: SUITE, package, expires_at_ms, holder: holder.map(|(d, c, _)| (d, c)) })
    }

    #[test]
    fn each_holder_has_its_own_until_it_holds_many() {
        let mut all = KeyPackages::default();
        for number in 0..OF_A_DEVICE {
            let holder = holder(1, number as u16);
            assert_eq!(all.choose(&holder, true, NOW_MS), Choice::Once);
            let hash = give(&mut all, Some(holder), number as u32, NOW_MS + LIFETIME_MS);
            assert_eq!(all.choose(&holder, true, NOW_MS), Choice::Again(hash), "asked again");
        }
        assert_eq!(all.choose(&holder(1, 900), true, NOW_MS), Choice::LastResort);
        assert_eq!(all.choose(&holder(1, 0), true, NOW_MS + LIFETIME_MS), Choice::Once, "another in its place");
        assert_eq!(all.choose(&holder(2, 900), true, NOW_MS), Choice::Once, "others don't suffer");
        let spent = all.once[&holder(1, 0)].hash;
        all.forget(&spent);
        assert_eq!(all.choose(&holder(1, 900), true, NOW_MS), Choice::Once, "one was used");
    }

    #[test]
    fn a_full_pool_and_a_suite_without_single_ones_give_the_last_resort_which_rotates() {
        let mut all = KeyPackages::default();
        for number in 0..OF_ALL {
            let holder = holder((number / OF_A_DEVICE) as u8, number as u16);
            give(&mut all, Some(holder), number as u32, NOW_MS + LIFETIME_MS);
        }
        let asks = holder(200, 7);
        assert_eq!(all.choose(&asks, true, NOW_MS), Choice::LastResort);
        let first = give(&mut all, None, 5000, NOW_MS + LIFETIME_MS + ROTATION_MS);
        assert_eq!(all.choose(&asks, true, NOW_MS), Choice::Again(first));
        assert_eq!(all.choose(&asks, true, NOW_MS + ROTATION_MS - 1), Choice::Again(first));
        assert_eq!(all.choose(&asks, true, NOW_MS + ROTATION_MS), Choice::LastResort, "a week is over");
        assert_eq!(all.choose(&asks, true, NOW_MS - DAY_MS), Choice::LastResort, "it is dated too far ahead");
        let later = NOW_MS + ROTATION_MS;
        let second = give(&mut all, None, 5001, later + LIFETIME_MS + ROTATION_MS);
        assert_eq!(all.choose(&asks, false, later), Choice::Again(second));
        assert!(all.is_last_resort(&first), "it serves on for those who hold it");
        let other = (asks.0, asks.1, SuiteId(9));
        assert_eq!(all.choose(&other, false, later), Choice::LastResort, "each suite has its own");
        assert_eq!(all.next_expiry_ms(), Some(NOW_MS + LIFETIME_MS));
    }
}

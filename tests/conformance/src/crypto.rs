//! What every crypto must do.

mod keys;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use peerloom_core::wire::{CannotOpenReason, ConversationId, DeviceId, EntryClass, LogId};
use peerloom_core::{Crypto, ErrorKind, Member, Opened, Outgoing, Prepared, Result, Sealing, Serves, StateTxn};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::identity::{Identity, identity};

/// Makes the crypto of an identity.
pub type Make<'a> = &'a dyn Fn(&Identity) -> Arc<dyn Crypto>;

/// Runs the suite.
pub fn run(make: Make<'_>) {
    content_comes_through(make);
    forged_and_damaged_entries_are_not_content(make);
    a_failed_transaction_leaves_no_trace(make);
    the_seed_decides_every_byte(make);
    key_packages_are_checked(make);
    strangers_open_nothing(make);
    a_device_that_lost_its_state_is_added_anew(make);
    a_session_that_is_replaced_goes_whole(make);
    a_discarded_session_leaves_nothing(make);
    keys::a_refreshed_session_goes_on(make);
    keys::key_packages_serve_as_often_as_they_say(make);
    keys::a_roster_beyond_the_limit_is_refused_before_anything_is_written(make);
    damaged_state_is_contained(make);
    garbage_is_harmless(make);
    if make(&identity(1)).caps().ratchet {
        an_entry_opens_once(make);
        late_entries_open_within_the_window(make);
        a_stolen_state_opens_nothing_that_was_opened(make);
        keys::copies_of_a_state_that_are_refreshed_share_no_key(make);
    }
    if make(&identity(1)).caps().removal {
        a_removed_device_opens_nothing_more(make);
    }
}

/// A device with its state; a transaction is kept or dropped as a whole.
struct Device {
    crypto: Arc<dyn Crypto>,
    id: DeviceId,
    state: BTreeMap<Vec<u8>, Bytes>,
    rng: StdRng,
}

struct Txn<'a> {
    state: &'a BTreeMap<Vec<u8>, Bytes>,
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl StateTxn for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let written = self.writes.get(key).cloned();
        Ok(written.unwrap_or_else(|| self.state.get(key).cloned()))
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.writes.insert(key.to_vec(), Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.writes.insert(key.to_vec(), None);
    }
}

const CONVERSATION: ConversationId = ConversationId::from_bytes([5; 32]);

impl Device {
    fn new(make: Make<'_>, number: u8) -> Self {
        Self::of(make, &identity(number), number.into())
    }

    fn of(make: Make<'_>, identity: &Identity, seed: u64) -> Self {
        Self { crypto: make(identity), id: identity.device, state: BTreeMap::new(), rng: StdRng::seed_from_u64(seed) }
    }

    /// Another copy of a device's folder, with randomness of its own.
    fn copy(&self, make: Make<'_>, number: u8, seed: u64) -> Self {
        Self { state: self.state.clone(), ..Self::of(make, &identity(number), seed) }
    }

    fn log(&self) -> LogId {
        LogId { device: self.id, conversation: CONVERSATION }
    }

    /// Runs a transaction; `keep` says whether it is committed.
    fn transact<T>(&mut self, keep: bool, work: impl FnOnce(&dyn Crypto, &mut Txn<'_>, &mut StdRng) -> T) -> T {
        let mut txn = Txn { state: &self.state, writes: BTreeMap::new() };
        let value = work(&*self.crypto, &mut txn, &mut self.rng);
        let writes = txn.writes;
        if keep {
            for (key, value) in writes {
                match value {
                    Some(value) => self.state.insert(key, value),
                    None => self.state.remove(&key),
                };
            }
        } else {
            self.crypto.forget();
        }
        value
    }

    fn key_package(&mut self) -> Bytes {
        self.key_package_that(Serves::Once)
    }

    fn key_package_that(&mut self, serves: Serves) -> Bytes {
        self.transact(true, |crypto, txn, rng| crypto.key_package(txn, rng, serves)).expect("a key package")
    }

    fn discard_key_package(&mut self, package: &[u8]) {
        self.transact(true, |crypto, txn, _| crypto.discard_key_package(txn, package)).expect("a discarded package");
    }

    fn refresh(&mut self) -> Option<Outgoing> {
        self.transact(true, |crypto, txn, rng| crypto.refresh(txn, rng, CONVERSATION)).expect("a refreshed session")
    }

    fn prepare(&mut self, roster: &[Member]) -> Prepared {
        self.transact(true, |crypto, txn, rng| crypto.prepare(txn, rng, CONVERSATION, roster)).expect("a session")
    }

    fn seal(&mut self, plaintext: &[u8]) -> Bytes {
        self.seal_and(true, plaintext)
    }

    fn seal_and(&mut self, keep: bool, plaintext: &[u8]) -> Bytes {
        let sealing = Sealing { conversation: CONVERSATION, associated_data: b"header", plaintext };
        let sealed = self.transact(keep, |crypto, txn, rng| crypto.seal(txn, rng, sealing)).expect("a sealed entry");
        if let Some(recipe) = sealed.recipe {
            assert!(recipe.len() < 1024, "a recipe is short, not {} bytes", recipe.len());
            assert_eq!(self.crypto.rebuild(&recipe, plaintext).expect("the payload"), sealed.payload);
        }
        sealed.payload
    }

    fn open(&mut self, log: LogId, class: EntryClass, payload: &[u8]) -> Opened {
        self.open_with(log, class, b"header", payload)
    }

    fn open_with(&mut self, log: LogId, class: EntryClass, header: &[u8], payload: &[u8]) -> Opened {
        self.transact(true, |crypto, txn, rng| crypto.open(txn, rng, log, class, header, payload)).expect("an answer")
    }

    fn content(&mut self, log: LogId, payload: &[u8]) -> Bytes {
        match self.open(log, EntryClass::Application, payload) {
            Opened::Content(content) => content,
            other => panic!("expected content, got {other:?}"),
        }
    }
}

fn member(device: &mut Device) -> Member {
    let package = device.key_package();
    with(device, &package)
}

fn with(device: &Device, package: &Bytes) -> Member {
    Member { device: device.id, key_package: Some(package.clone()), rejoin: false }
}

fn known(device: &Device) -> Member {
    Member { device: device.id, key_package: None, rejoin: false }
}

/// Gives every handshake entry to the devices that need it.
fn deliver(prepared: &Prepared, log: LogId, receivers: &mut [&mut Device]) {
    for outgoing in &prepared.outgoing {
        for receiver in receivers.iter_mut().filter(|r| outgoing.devices.contains(&r.id)) {
            let expected = outgoing.joins.contains(&receiver.id);
            let part = if expected { &outgoing.welcome } else { &outgoing.payload };
            let opened = receiver.open(log, EntryClass::Handshake, part);
            assert!(if expected { joined(&opened).is_some() } else { opened == Opened::Applied }, "{opened:?}");
        }
    }
}

/// The key package by which a device was let in.
fn joined(opened: &Opened) -> Option<[u8; 32]> {
    match opened {
        Opened::Joined(package) => Some(*package),
        _ => None,
    }
}

/// Alice can send to Bob.
fn pair(make: Make<'_>) -> (Device, Device) {
    let (mut alice, mut bob) = (Device::new(make, 1), Device::new(make, 2));
    let missing = alice.prepare(&[known(&bob)]);
    assert_eq!((missing.missing.as_slice(), missing.members.len()), (&[bob.id][..], 0));
    let prepared = alice.prepare(&[member(&mut bob)]);
    assert_eq!(prepared.members, [bob.id]);
    deliver(&prepared, alice.log(), &mut [&mut bob]);
    assert!(alice.prepare(&[known(&bob)]).outgoing.is_empty(), "a session that fits is left alone");
    (alice, bob)
}

fn content_comes_through(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    for length in [0, 1, 100, 2047, 2048, 70_000, 1024 * 1024] {
        let plaintext = vec![3; length];
        let sealed = alice.seal(&plaintext);
        assert!(sealed.len() >= length && sealed.len() < length + 4096, "{length} bytes became {}", sealed.len());
        assert_eq!(bob.content(alice.log(), &sealed), plaintext);
    }
    // Three devices: one entry for both others, and the older member follows the change.
    let mut carol = Device::new(make, 3);
    let roster = [known(&bob), member(&mut carol)];
    let prepared = alice.prepare(&roster);
    deliver(&prepared, alice.log(), &mut [&mut bob, &mut carol]);
    let sealed = alice.seal(b"to both");
    assert_eq!(bob.content(alice.log(), &sealed), b"to both"[..]);
    assert_eq!(carol.content(alice.log(), &sealed), b"to both"[..]);
}

fn forged_and_damaged_entries_are_not_content(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    for plaintext in [&b"short"[..], &[7; 5000]] {
        let sealed = alice.seal(plaintext);
        for at in (0..sealed.len()).step_by(sealed.len() / 40 + 1) {
            let mut damaged = sealed.to_vec();
            damaged[at] ^= 1;
            let opened = bob.open(alice.log(), EntryClass::Application, &damaged);
            assert!(!matches!(opened, Opened::Content(_)), "byte {at} doesn't matter");
        }
        for cut in [0, 1, sealed.len() / 2, sealed.len() - 1] {
            let opened = bob.open(alice.log(), EntryClass::Application, &sealed[..cut]);
            assert!(!matches!(opened, Opened::Content(_)));
        }
        let opened = bob.open_with(alice.log(), EntryClass::Application, b"another header", &sealed);
        assert!(!matches!(opened, Opened::Content(_)), "the associated data is authenticated");
        let mallory = LogId { device: identity(9).device, conversation: CONVERSATION };
        assert!(
            !matches!(bob.open(mallory, EntryClass::Application, &sealed), Opened::Content(_)),
            "the sender is authenticated"
        );
        let elsewhere = LogId { device: alice.id, conversation: ConversationId::from_bytes([6; 32]) };
        assert!(!matches!(bob.open(elsewhere, EntryClass::Application, &sealed), Opened::Content(_)));
        // None of these attempts spoiled the good one.
        assert_eq!(bob.content(alice.log(), &sealed), plaintext);
    }
}

fn a_failed_transaction_leaves_no_trace(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    let lost = alice.seal_and(false, b"never committed");
    let sealed = alice.seal(b"committed");
    assert_ne!(lost, sealed);
    let log = alice.log();
    bob.transact(false, |crypto, txn, rng| crypto.open(txn, rng, log, EntryClass::Application, b"header", &sealed))
        .expect("an answer");
    assert_eq!(bob.content(log, &sealed), b"committed"[..], "the store failed once, and then it worked");
    let next = alice.seal(b"next");
    assert_eq!(bob.content(log, &next), b"next"[..]);
}

/// Two runs with one seed: payloads, key packages and all rows of the state, through joins, messages in and out of
/// order, removals and rejoins of several devices at once. Nothing of it is the system's randomness or the clock's.
fn the_seed_decides_every_byte(make: Make<'_>) {
    let transcript = || {
        let [mut alice, mut bob, mut carol, mut dora, mut erin] = [1, 2, 3, 4, 5].map(|n| Device::new(make, n));
        let log = alice.log();
        let mut bytes = Vec::new();
        let roster = [&mut bob, &mut carol, &mut dora, &mut erin].map(member);
        bytes.extend(roster.iter().filter_map(|m| m.key_package.clone()));
        let prepared = alice.prepare(&roster);
        deliver(&prepared, log, &mut [&mut bob, &mut carol, &mut dora, &mut erin]);
        bytes.extend(prepared.outgoing.into_iter().flat_map(|o| [o.payload, o.welcome]));
        let sealed = [&b"hello"[..], &[7; 10_000], b"bye"].map(|plaintext| alice.seal(plaintext));
        [2, 0, 1].iter().for_each(|at| drop(bob.content(log, &sealed[*at])));
        bytes.extend(sealed);
        // Two are removed, and two added again.
        let roster = [&mut bob, &mut carol].map(|device| Member { rejoin: true, ..member(device) });
        let prepared = alice.prepare(&roster);
        deliver(&prepared, log, &mut [&mut bob, &mut carol]);
        bytes.extend(prepared.outgoing.iter().flat_map(|o| [o.payload.clone(), o.welcome.clone()]));
        let refreshed = alice.refresh().into_iter().collect();
        deliver(&Prepared { outgoing: refreshed, ..prepared.clone() }, log, &mut [&mut bob, &mut carol]);
        let sealed = alice.seal(b"again");
        bob.content(log, &sealed);
        bytes.push(sealed);
        bytes.push(dora.key_package_that(Serves::Always));
        (bytes, [alice, bob, carol, dora, erin].map(|device| device.state))
    };
    let first = transcript();
    for _ in 0..3 {
        let again = transcript();
        assert!(first.0 == again.0, "two runs with one seed give other payloads");
        assert!(first.1 == again.1, "two runs with one seed leave another state");
    }
}

fn key_packages_are_checked(make: Make<'_>) {
    let (mut alice, mut bob) = (Device::new(make, 1), Device::new(make, 2));
    let package = bob.key_package();
    let mut changed = package.to_vec();
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    for (device, package) in [
        (identity(3).device, package.clone()),
        (bob.id, changed.into()),
        (bob.id, Bytes::new()),
        (bob.id, Bytes::from_static(&[0xff; 300])),
    ] {
        let roster = [Member { device, key_package: Some(package), rejoin: false }];
        let refused = alice.transact(false, |crypto, txn, rng| crypto.prepare(txn, rng, CONVERSATION, &roster));
        assert_eq!(refused.map(drop).map_err(|e| e.kind()), Err(ErrorKind::Unauthenticated));
    }
    let roster = [Member { device: bob.id, key_package: Some(package), rejoin: false }];
    assert_eq!(alice.prepare(&roster).members, [bob.id], "the good one still works");
}

fn strangers_open_nothing(make: Make<'_>) {
    let (mut alice, _) = pair(make);
    let mut eve = Device::new(make, 4);
    let sealed = alice.seal(b"not for eve");
    let opened = eve.open(alice.log(), EntryClass::Application, &sealed);
    assert_eq!(opened, Opened::CannotOpen(CannotOpenReason::NoSession));
}

fn a_device_that_lost_its_state_is_added_anew(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    bob.state.clear();
    bob.crypto.forget();
    let sealed = alice.seal(b"lost on bob");
    let opened = bob.open(alice.log(), EntryClass::Application, &sealed);
    assert_eq!(opened, Opened::CannotOpen(CannotOpenReason::NoSession));
    let waiting = alice.prepare(&[Member { device: bob.id, key_package: None, rejoin: true }]);
    assert_eq!(waiting.missing, [bob.id]);
    assert_eq!(waiting.members, [bob.id], "what is sealed meanwhile is for him, too");
    let rejoin = Member { rejoin: true, ..member(&mut bob) };
    let prepared = alice.prepare(&[rejoin]);
    deliver(&prepared, alice.log(), &mut [&mut bob]);
    let again = alice.seal(b"again");
    assert_eq!(bob.content(alice.log(), &again), b"again"[..]);
}

/// Fifty rejoins, of a device that lost its state and of one that didn't, with another member beside it: no
/// key of an earlier session stays with anybody.
fn a_session_that_is_replaced_goes_whole(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    let mut carol = Device::new(make, 3);
    deliver(&alice.prepare(&[known(&bob), member(&mut carol)]), alice.log(), &mut [&mut bob, &mut carol]);
    let (mut counts, mut sizes) = (Vec::new(), Vec::new());
    for round in 0..50u8 {
        if round % 5 == 3 {
            bob.crypto.forget();
            let log = alice.log();
            bob.transact(true, |crypto, txn, _| crypto.discard(txn, log)).expect("a discarded session");
        }
        let rejoin = Member { rejoin: true, ..member(&mut bob) };
        let prepared = alice.prepare(&[rejoin, known(&carol)]);
        deliver(&prepared, alice.log(), &mut [&mut bob, &mut carol]);
        let sealed = alice.seal(&[round]);
        assert_eq!(bob.content(alice.log(), &sealed).as_ref(), [round]);
        assert_eq!(carol.content(alice.log(), &sealed).as_ref(), [round]);
        counts.push([&alice, &bob, &carol].map(|device| device.state.len()));
        sizes.push([&alice, &bob, &carol].map(|device| device.state.values().map(Bytes::len).sum::<usize>()));
    }
    assert_eq!(counts[49], counts[0], "rows of alice, bob and carol after 50 rejoins and after one");
    let grown = |(first, last): (&usize, &usize)| *last > first + 256;
    assert!(
        !sizes[0].iter().zip(&sizes[49]).any(grown),
        "their bytes after one and after 50: {:?} {:?}",
        sizes[0],
        sizes[49]
    );
}

fn a_discarded_session_leaves_nothing(make: Make<'_>) {
    let (mut alice, mut bob) = (Device::new(make, 1), Device::new(make, 2));
    let join = member(&mut bob);
    let before = [alice.state.len(), bob.state.len()];
    deliver(&alice.prepare(&[join]), alice.log(), &mut [&mut bob]);
    let sealed = alice.seal(b"before");
    bob.content(alice.log(), &sealed);
    let log = alice.log();
    for device in [&mut alice, &mut bob] {
        device.transact(true, |crypto, txn, _| crypto.discard(txn, log)).expect("a discarded session");
        // Nor does it harm where there is none.
        device.transact(true, |crypto, txn, _| crypto.discard(txn, log)).expect("a discarded session");
    }
    assert!(alice.state.len() <= before[0] && bob.state.len() <= before[1], "rows stayed");
    let sealed = bob.open(alice.log(), EntryClass::Application, &sealed);
    assert_eq!(sealed, Opened::CannotOpen(CannotOpenReason::NoSession));
    let waiting = alice.prepare(&[known(&bob)]);
    assert_eq!((waiting.members.len(), waiting.missing.as_slice()), (0, &[bob.id][..]));
    deliver(&alice.prepare(&[member(&mut bob)]), alice.log(), &mut [&mut bob]);
    let sealed = alice.seal(b"after");
    assert_eq!(bob.content(alice.log(), &sealed), b"after"[..]);
}

/// Each row of the state in turn: what can't be understood is an error or an entry that can't be opened, never a
/// panic or other content, and a new session takes its place.
fn damaged_state_is_contained(make: Make<'_>) {
    let (alice, bob) = pair(make);
    let rows = |device: &Device| device.state.keys().cloned().collect::<Vec<_>>();
    for (number, key) in rows(&alice).into_iter().chain(rows(&bob)).enumerate() {
        for damage in [&b""[..], &[0xff; 3], &[0; 200]] {
            let (mut alice, mut bob) = pair(make);
            let damaged = if number < alice.state.len() { &mut alice } else { &mut bob };
            damaged.crypto.forget();
            damaged.state.insert(key.clone(), Bytes::copy_from_slice(damage));
            let sealing = Sealing { conversation: CONVERSATION, associated_data: b"header", plaintext: b"text" };
            let sealed = alice.transact(true, |crypto, txn, rng| crypto.seal(txn, rng, sealing));
            let log = alice.log();
            if let Ok(sealed) = &sealed {
                let opened = bob.transact(true, |crypto, txn, rng| {
                    crypto.open(txn, rng, log, EntryClass::Application, b"header", &sealed.payload)
                });
                if let Ok(Opened::Content(content)) = opened {
                    assert_eq!(content, b"text"[..]);
                }
            }
            for device in [&mut alice, &mut bob] {
                device.transact(true, |crypto, txn, _| crypto.discard(txn, log)).expect("a discarded session");
            }
            deliver(&alice.prepare(&[member(&mut bob)]), log, &mut [&mut bob]);
            let again = alice.seal(b"again");
            assert_eq!(bob.content(log, &again), b"again"[..], "after damage to row {number}");
        }
    }
}

fn garbage_is_harmless(make: Make<'_>) {
    let (alice, mut bob) = pair(make);
    for length in [0, 1, 3, 4, 5, 64, 1000, 200_000] {
        for byte in [0, 1, 0x7f, 0xff] {
            for class in [EntryClass::Handshake, EntryClass::Application] {
                let opened = bob.open(alice.log(), class, &vec![byte; length]);
                assert!(
                    matches!(opened, Opened::CannotOpen(_) | Opened::Rejected(_)),
                    "{class:?} {length}: {opened:?}"
                );
            }
        }
    }
}

fn an_entry_opens_once(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    let sealed = alice.seal(b"once");
    assert_eq!(bob.content(alice.log(), &sealed), b"once"[..]);
    assert_eq!(bob.open(alice.log(), EntryClass::Application, &sealed), Opened::Duplicate);
}

fn late_entries_open_within_the_window(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    let sealed: Vec<Bytes> = (0..40u8).map(|n| alice.seal(&[n])).collect();
    for number in [39, 0, 20, 1] {
        assert_eq!(bob.content(alice.log(), &sealed[number]).as_ref(), [number as u8]);
    }
}

/// Forward secrecy: short and long entries, in and out of order, before and after a change of members.
fn a_stolen_state_opens_nothing_that_was_opened(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    let log = alice.log();
    let thief = |state: &BTreeMap<Vec<u8>, Bytes>| Device { state: state.clone(), ..Device::new(make, 2) };
    let mut opened = Vec::new();
    for round in 0..3u8 {
        if round == 2 {
            let mut carol = Device::new(make, 3);
            let prepared = alice.prepare(&[known(&bob), member(&mut carol)]);
            deliver(&prepared, log, &mut [&mut bob, &mut carol]);
        }
        let before = bob.state.clone();
        let sealed: Vec<Bytes> = (0..6u16).map(|n| alice.seal(&vec![round; 1 + usize::from(n) * 1000])).collect();
        for number in [1, 0, 5, 2, 4, 3] {
            bob.content(log, &sealed[number]);
        }
        assert!(sealed.iter().all(|sealed| thief(&before).content(log, sealed)[0] == round), "stolen before");
        opened.extend(sealed);
        for sealed in &opened {
            let stolen = thief(&bob.state).open(log, EntryClass::Application, sealed);
            assert!(!matches!(stolen, Opened::Content(_)), "the key of an opened entry is still there");
        }
    }
}

fn a_removed_device_opens_nothing_more(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    let mut carol = Device::new(make, 3);
    let roster = [known(&bob), member(&mut carol)];
    deliver(&alice.prepare(&roster), alice.log(), &mut [&mut bob, &mut carol]);
    let prepared = alice.prepare(&[known(&carol)]);
    assert_eq!(prepared.members, [carol.id]);
    deliver(&prepared, alice.log(), &mut [&mut carol]);
    let sealed = alice.seal(b"without bob");
    assert_eq!(carol.content(alice.log(), &sealed), b"without bob"[..]);
    assert!(!matches!(bob.open(alice.log(), EntryClass::Application, &sealed), Opened::Content(_)));
}

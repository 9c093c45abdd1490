//! New keys for a session, key packages, and how many members a session takes.

use bytes::Bytes;
use peerloom_core::wire::{EntryClass, limits};
use peerloom_core::{ErrorKind, Member, Opened, Prepared, Serves};
use peerloom_crypto_primitives::sha256;

use super::{CONVERSATION, Device, Make, deliver, joined, known, member, pair, with};
use crate::identity::{identity, one_of_many};

pub(super) fn a_refreshed_session_goes_on(make: Make<'_>) {
    let mut alone = Device::new(make, 1);
    assert_eq!(alone.refresh(), None, "without a session there is nothing to refresh");
    let (mut alice, mut bob) = pair(make);
    let mut carol = Device::new(make, 3);
    let log = alice.log();
    deliver(&alice.prepare(&[known(&bob), member(&mut carol)]), log, &mut [&mut bob, &mut carol]);
    let mut rows = Vec::new();
    for round in 0..5u8 {
        let refreshed = alice.refresh();
        assert!(refreshed.is_some() || !alice.crypto.caps().ratchet, "a ratchet begins again");
        if let Some(outgoing) = refreshed {
            let mut devices = outgoing.devices.clone();
            devices.sort();
            let mut expected = vec![bob.id, carol.id];
            expected.sort();
            assert_eq!((devices, outgoing.joins.as_slice()), (expected, &[][..]));
            assert!(outgoing.payload.len().max(outgoing.welcome.len()) <= limits::HANDSHAKE_PAYLOAD);
            deliver(&Prepared { outgoing: vec![outgoing], ..Prepared::default() }, log, &mut [&mut bob, &mut carol]);
        }
        let sealed = alice.seal(&[round]);
        for device in [&mut bob, &mut carol] {
            assert_eq!(device.content(log, &sealed).as_ref(), [round]);
        }
        rows.push([&alice, &bob, &carol].map(|device| device.state.len()));
    }
    assert!(rows.iter().all(|counts| *counts == rows[0]), "rows of alice, bob and carol: {rows:?}");
    assert!(alice.prepare(&[known(&bob), known(&carol)]).outgoing.is_empty(), "the members are the same");
}

/// A store that is put back, or copied, has the keys of what the newer one seals. After a refresh none is used by both.
pub(super) fn copies_of_a_state_that_are_refreshed_share_no_key(make: Make<'_>) {
    let (mut alice, mut bob) = pair(make);
    let log = alice.log();
    bob.content(log, &alice.seal(b"before"));
    let mut put_back = alice.copy(make, 1, 100);
    let mut again = alice.copy(make, 1, 101);
    // Without one, what either seals next is sealed by the same generation: who opened one takes the other for it.
    let (mut plain, mut receiver) = (alice.copy(make, 1, 102), bob.copy(make, 2, 103));
    let (one, other) = (plain.seal(b"one"), put_back.copy(make, 1, 104).seal(b"other"));
    assert_eq!(receiver.content(log, &one), b"one"[..]);
    assert_eq!(receiver.open(log, EntryClass::Application, &other), Opened::Duplicate);

    let copies = [&mut alice, &mut put_back, &mut again];
    let made = copies.map(|copy| (copy.refresh().expect("a handshake entry"), copy.seal(b"after")));
    for (number, (handshake, sealed)) in made.iter().enumerate() {
        let mut receiver = bob.copy(make, 2, 105);
        assert_eq!(receiver.open(log, EntryClass::Handshake, &handshake.payload), Opened::Applied);
        for (other, _) in made.iter().enumerate().filter(|(other, _)| *other != number) {
            let opened = receiver.open(log, EntryClass::Application, &made[other].1);
            assert!(matches!(opened, Opened::CannotOpen(_)), "{opened:?} by a key of the other copy");
        }
        assert_eq!(receiver.content(log, sealed), b"after"[..]);
        // A copy that seals on with what it had reaches nobody who followed.
        let opened = receiver.open(log, EntryClass::Application, &other);
        assert!(matches!(opened, Opened::CannotOpen(_)), "{opened:?}");
    }
}

/// One that serves once is gone with its keys once it was used; the last resort serves until it is discarded.
pub(super) fn key_packages_serve_as_often_as_they_say(make: Make<'_>) {
    let single_use = make(&identity(1)).caps().single_use;
    for serves in [Serves::Once, Serves::Always] {
        let [mut alice, mut bob, mut carol] = [1, 2, 3].map(|n| Device::new(make, n));
        let rows = bob.state.len();
        let package = bob.key_package_that(serves);
        assert_eq!(bob.key_package_that(serves) == package, !single_use, "each has keys of its own, or all are one");
        let spare = bob.key_package_that(serves);
        let join = |sender: &mut Device, bob: &mut Device, rejoin: bool, package: &Bytes| {
            let prepared = sender.prepare(&[Member { rejoin, ..with(bob, package) }]);
            assert_eq!(prepared.outgoing.len(), 1);
            bob.open(sender.log(), EntryClass::Handshake, &prepared.outgoing[0].welcome)
        };
        assert_eq!(joined(&join(&mut alice, &mut bob, false, &package)), Some(sha256(&[&package])));
        let again = joined(&join(&mut carol, &mut bob, false, &package));
        assert_eq!(again.is_some(), serves == Serves::Always || !single_use, "used a second time");
        if serves == Serves::Always {
            // Removed and added with the same one.
            assert_eq!(joined(&join(&mut alice, &mut bob, true, &package)), Some(sha256(&[&package])));
            let sealed = alice.seal(b"again");
            assert_eq!(bob.content(alice.log(), &sealed), b"again"[..]);
        }
        for package in [&package, &spare, &spare] {
            bob.discard_key_package(package);
        }
        let mut dora = Device::new(make, 4);
        let opened = join(&mut dora, &mut bob, false, &spare);
        assert_eq!(joined(&opened).is_some(), !single_use, "discarded, then used: {opened:?}");
        if single_use {
            for log in [alice.log(), carol.log()] {
                bob.transact(true, |crypto, txn, _| crypto.discard(txn, log)).expect("a discarded session");
            }
            // The one that was made in between is all that stays.
            assert_eq!(bob.state.len(), rows + 1);
        }
    }
}

/// As many as a session takes can be added at once, within the limits of an entry; one more is refused with the number
/// that fits.
pub(super) fn a_roster_beyond_the_limit_is_refused_before_anything_is_written(make: Make<'_>) {
    let mut alice = Device::new(make, 1);
    let members = alice.crypto.caps().members;
    assert!(members <= limits::RECIPIENTS);
    let mut others: Vec<Device> =
        (0..=members as u16).map(|n| Device::of(make, &one_of_many(n), 1000 + u64::from(n))).collect();
    let roster: Vec<Member> = others.iter_mut().map(member).collect();
    let refused = alice.transact(true, |crypto, txn, rng| crypto.prepare(txn, rng, CONVERSATION, &roster));
    let error = refused.expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.message().contains(&members.to_string()), "{error} doesn't say how many fit");
    assert!(alice.state.is_empty(), "nothing was made");
    let prepared = alice.prepare(&roster[..members]);
    assert_eq!(prepared.members.len(), members);
    for outgoing in &prepared.outgoing {
        assert!(outgoing.payload.len() <= limits::HANDSHAKE_PAYLOAD, "{} bytes", outgoing.payload.len());
        assert!(roster.iter().all(|m| m.key_package.as_ref().is_some_and(|p| p.len() <= limits::KEY_PACKAGE)));
    }
    let log = alice.log();
    let mut some: Vec<&mut Device> = others[..members].iter_mut().step_by(members - 1).collect();
    deliver(&prepared, log, &mut some);
    let sealed = alice.seal(b"to all");
    assert_eq!(others[members - 1].content(log, &sealed), b"to all"[..]);
    let more = alice.transact(true, |crypto, txn, rng| crypto.prepare(txn, rng, CONVERSATION, &roster));
    assert_eq!(more.map(drop).map_err(|e| e.kind()), Err(ErrorKind::TooLarge));
    let sealed = alice.seal(b"still to all");
    assert_eq!(others[0].content(log, &sealed), b"still to all"[..], "the session is as it was");
}

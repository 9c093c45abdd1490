//! The laws of device lists: what order statements arrive in doesn't matter, a revocation wins, and
//! nothing counts that the right key didn't sign.

mod common;

use std::collections::BTreeSet;

use common::{certificate, device, key, keys, sign, verify};
use peerloom_wire::certificate::{ObjectHash, kept_hash};
use peerloom_wire::{
    DeviceCertificate, DeviceId, DeviceList, EncodedDeviceList, PublicKey, Revocation, Roles, Signed, Succession,
    UserKeys, context, limits,
};
use proptest::prelude::*;

fn revocation(devices: &[u8], signer: &PublicKey) -> Signed {
    let devices = devices.iter().map(|n| device(*n)).collect();
    let revocation = Revocation { user: keys().id(), devices, issued_at_ms: 1 };
    Signed::sign(context::REVOCATION, revocation.encode(), |m| sign(signer, m))
}

fn succession(sequence: u64, to: &PublicKey, kept: &BTreeSet<ObjectHash>) -> Signed {
    let succession = Succession { user: keys().id(), user_key: to.clone(), sequence, kept: kept_hash(kept) };
    Signed::sign(context::SUCCESSION, succession.encode(), |m| sign(&keys().recovery, m))
}

fn devices(list: &DeviceList) -> Vec<DeviceId> {
    list.devices().iter().map(|c| c.device).collect()
}

#[derive(Debug, Clone)]
enum Statement {
    Certify(u8),
    CertifyBySuccessor(u8),
    Revoke(Vec<u8>),
    RevokeByRecovery(Vec<u8>),
    RevokeBySuccessor(Vec<u8>),
    Succeed(u64),
}

fn kept() -> BTreeSet<ObjectHash> {
    [certificate(1, &keys().user, None).hash()].into()
}

fn apply(list: &mut DeviceList, statement: &Statement) {
    let successor = key(210);
    let outcome = match statement {
        Statement::Certify(n) => list.add_certificate(&certificate(*n, &keys().user, None), verify),
        Statement::CertifyBySuccessor(n) => {
            list.add_certificate(&certificate(*n, &successor, Some(succession(1, &successor, &kept()))), verify)
        }
        Statement::Revoke(ns) => list.add_revocation(&revocation(ns, &keys().user), verify),
        Statement::RevokeByRecovery(ns) => list.add_revocation(&revocation(ns, &keys().recovery), verify),
        Statement::RevokeBySuccessor(ns) => list.add_revocation(&revocation(ns, &successor), verify),
        Statement::Succeed(sequence) => list.succeed(&succession(*sequence, &successor, &kept()), kept(), verify),
    };
    // One of a key that isn't in force yet, or no longer, is refused.
    drop(outcome);
}

fn statements() -> impl Strategy<Value = Vec<Statement>> {
    let some = || prop::collection::vec(1u8..6, 1..3);
    let one = prop_oneof![
        (1u8..6).prop_map(Statement::Certify),
        (1u8..6).prop_map(Statement::CertifyBySuccessor),
        some().prop_map(Statement::Revoke),
        some().prop_map(Statement::RevokeByRecovery),
        some().prop_map(Statement::RevokeBySuccessor),
        (1u64..3).prop_map(Statement::Succeed),
    ];
    prop::collection::vec(one, 0..12)
}

/// What a list comes to when others repeat what they know until nothing changes.
fn settled(list: &DeviceList, heard: &[Statement]) -> DeviceList {
    let mut list = list.clone();
    for _ in 0..3 {
        heard.iter().for_each(|statement| apply(&mut list, statement));
    }
    list
}

/// Takes in what another list has, as it would arrive.
fn hear(list: &mut DeviceList, other: &DeviceList) {
    let received = EncodedDeviceList::decode(other.to_encoded().encode()).unwrap();
    list.unite(&received, verify).unwrap();
    other.certificates().for_each(|c| drop(list.add_certificate(c, verify)));
}

proptest! {
    #[test]
    fn order_does_not_matter(statements in statements(), seed in any::<u64>()) {
        let mut shuffled = statements.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let empty = DeviceList::new(keys());
        let (a, b) = (settled(&empty, &statements), settled(&empty, &shuffled));
        prop_assert_eq!(devices(&a), devices(&b));
        prop_assert_eq!(a.revoked(), b.revoked());
        prop_assert_eq!(a.user_key(), b.user_key());
    }

    #[test]
    fn two_that_unite_agree(left in statements(), right in statements()) {
        let (mut a, mut b) = (DeviceList::new(keys()), DeviceList::new(keys()));
        left.iter().for_each(|s| apply(&mut a, s));
        right.iter().for_each(|s| apply(&mut b, s));
        for _ in 0..2 {
            let (from_a, from_b) = (a.clone(), b.clone());
            hear(&mut a, &from_b);
            hear(&mut b, &from_a);
        }
        prop_assert_eq!(devices(&a), devices(&b));
        prop_assert_eq!(a.revoked(), b.revoked());
        // Uniting once more changes nothing.
        prop_assert!(!a.unite(&b.to_encoded(), verify).unwrap());
    }

    #[test]
    fn a_revoked_device_never_counts_again(statements in statements(), number in 1u8..6) {
        let mut list = DeviceList::new(keys());
        list.add_revocation(&revocation(&[number], &keys().recovery), verify).unwrap();
        statements.iter().for_each(|s| apply(&mut list, s));
        prop_assert!(list.is_revoked(&device(number)));
        prop_assert!(!devices(&list).contains(&device(number)));
    }
}

#[test]
fn a_certificate_needs_the_user_and_the_device() {
    let mut list = DeviceList::new(keys());
    let good = DeviceCertificate::new(keys(), key(1), Roles::MESSAGES, 1);
    let by_stranger = good.sign(|m| sign(&key(9), m), |m| sign(&key(1), m));
    let not_accepted = good.sign(|m| sign(&keys().user, m), |m| sign(&key(9), m));
    for wrong in [&by_stranger, &not_accepted] {
        assert!(list.add_certificate(wrong, verify).is_err());
    }
    assert!(devices(&list).is_empty());
    let of_another = DeviceCertificate::new(UserKeys { user: key(200), recovery: key(7) }, key(1), Roles::ALL, 1);
    let of_another = of_another.sign(|m| sign(&key(200), m), |m| sign(&key(1), m));
    assert!(list.add_certificate(&of_another, verify).is_err(), "another recovery key makes another user");
}

#[test]
fn after_a_succession_the_earlier_key_says_nothing() {
    let mut list = DeviceList::new(keys());
    let (first, second) = (certificate(1, &keys().user, None), certificate(2, &keys().user, None));
    for certificate in [&first, &second] {
        assert!(list.add_certificate(certificate, verify).unwrap());
    }
    // The thief of device 2 has the user key; the owner's phrase takes it out of force and keeps device 1.
    let successor = key(210);
    assert!(list.succeed(&succession(1, &successor, &kept()), kept(), verify).unwrap());
    assert_eq!(devices(&list), [device(1)]);
    let added = list.add_certificate(&certificate(3, &keys().user, None), verify);
    assert!(added.is_ok() && !devices(&list).contains(&device(3)));
    assert!(list.add_revocation(&revocation(&[1], &keys().user), verify).is_err());
    assert_eq!(list.user_key(), &successor);
    // Nor does a succession that the user key signed itself count.
    let forged = Succession { user: keys().id(), user_key: key(66), sequence: 9, kept: kept_hash(&kept()) };
    let forged = Signed::sign(context::SUCCESSION, forged.encode(), |m| sign(&keys().user, m));
    assert!(list.succeed(&forged, kept(), verify).is_err());
}

/// A list with hashes of certificates that nobody has.
fn forged(seeds: &[u8]) -> EncodedDeviceList {
    let mut other = DeviceList::new(keys());
    seeds
        .iter()
        .take(limits::LISTED)
        .for_each(|n| drop(other.add_certificate(&certificate(*n, &key(200), None), verify)));
    other.to_encoded()
}

proptest! {
    /// A forger that carries lists, before and after each honest one, keeps none of its certificates out.
    #[test]
    fn made_up_hashes_keep_no_certificate_out(
        forgeries in prop::collection::vec(prop::collection::vec(100u8..200, 0..80), 0..8),
        honest in prop::collection::btree_set(0u8..60, 1..16),
    ) {
        let mut owner = DeviceList::new(keys());
        honest.iter().for_each(|n| drop(owner.add_certificate(&certificate(*n, &keys().user, None), verify)));
        let named = owner.to_encoded();
        let mut list = DeviceList::new(keys());
        for forgery in forgeries {
            list.unite(&forged(&forgery), verify).unwrap();
            list.unite(&named, verify).unwrap();
            list.unite(&forged(&forgery), verify).unwrap();
        }
        let missing: BTreeSet<ObjectHash> = list.missing(&named).copied().collect();
        for signed in owner.certificates() {
            prop_assert!(missing.contains(&signed.hash()), "it is asked for");
            prop_assert!(list.add_certificate(signed, verify).unwrap(), "and taken in");
        }
        prop_assert_eq!(list.missing(&named).count(), 0);
        prop_assert_eq!(devices(&list), devices(&owner));
    }
}

#[test]
fn certificates_of_a_key_out_of_force_leave_room() {
    let mut list = DeviceList::new(keys());
    let successor = key(210);
    // The thief of the earlier key certified as many devices as a list takes.
    (0..64).for_each(|n| drop(list.add_certificate(&certificate(n, &keys().user, None), verify)));
    let succession = succession(1, &successor, &kept());
    list.succeed(&succession, kept(), verify).unwrap();
    let latest = certificate(100, &successor, Some(succession));
    assert!(list.add_certificate(&latest, verify).unwrap());
    assert_eq!(devices(&list), [device(1), device(100)]);
}

#[test]
fn counts_are_bounded() {
    let mut list = DeviceList::new(keys());
    for number in 0..40 {
        list.add_certificate(&certificate(number, &keys().user, None), verify).unwrap();
    }
    assert_eq!(devices(&list).len(), limits::DEVICES);
    assert_eq!(devices(&list)[0], device(0), "the earliest issued first");
    // Places of revoked devices go to the next.
    list.add_revocation(&revocation(&(0..16).collect::<Vec<_>>(), &keys().user), verify).unwrap();
    assert_eq!(devices(&list)[0], device(16));
    let numbers: Vec<Signed> = (40..140).map(|n| certificate(n, &keys().user, None)).collect();
    assert!(numbers.iter().any(|c| list.add_certificate(c, verify).is_err()), "a list that names a hundred more");
}

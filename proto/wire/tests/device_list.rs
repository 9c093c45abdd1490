//! The laws of device lists: what order statements arrive in doesn't matter, a revocation wins, and
//! nothing counts that the right key didn't sign.

mod common;

use std::collections::BTreeSet;

use common::{certificate, device, key, keys, sign, verify};
use peerloom_wire::ObjectHash;
use peerloom_wire::certificate::kept_hash;
use peerloom_wire::{
    DeviceCertificate, DeviceId, DeviceList, EncodedDeviceList, PublicKey, Revocation, Roles, Signed, Succession,
    UserDevices, UserKeys, context, limits,
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

#[test]
fn only_what_is_new_is_news() {
    let mut list = DeviceList::new(keys());
    assert_eq!(list.user(), keys().id());
    let first = certificate(1, &keys().user, None);
    assert!(list.add_certificate(&first, verify).unwrap() && !list.add_certificate(&first, verify).unwrap());
    let [small, both, recovery] =
        [revocation(&[4], &keys().user), revocation(&[4, 5], &keys().user), revocation(&[4, 5], &keys().recovery)];
    assert!(list.add_revocation(&both, verify).unwrap());
    assert!(!list.add_revocation(&small, verify).unwrap(), "it says less");
    assert!(!list.add_revocation(&recovery, verify).unwrap(), "no further device");
    assert_eq!(list.revoked(), [device(4), device(5)].into());
    let mut other = DeviceList::new(keys());
    assert!(other.unite(&list.to_encoded(), verify).unwrap() && !other.unite(&list.to_encoded(), verify).unwrap());
    // The recovery key's word outlives the user key, so it was kept beside.
    let successor = key(210);
    let succession = succession(1, &successor, &kept());
    assert!(list.succeed(&succession, BTreeSet::new(), verify).unwrap());
    assert!(list.is_revoked(&device(4)) && list.is_revoked(&device(5)) && devices(&list).is_empty());
    assert!(list.succeed(&succession, kept(), verify).unwrap(), "what it keeps has come");
    assert!(!list.succeed(&succession, kept(), verify).unwrap());
    assert!(!list.succeed(&succession, BTreeSet::new(), verify).unwrap());
    assert_eq!(devices(&list), [device(1)]);
    assert!(list.to_encoded().names(&first.hash()) && !list.to_encoded().names(&[0; 32]));
}

#[test]
fn of_two_successions_the_later_one_counts() {
    let (first, second) = (key(210), key(211));
    let mut list = DeviceList::new(keys());
    assert!(list.succeed(&succession(2, &second, &kept()), kept(), verify).unwrap());
    assert!(!list.succeed(&succession(1, &first, &kept()), kept(), verify).unwrap());
    assert_eq!(list.user_key(), &second);
    assert!(list.succeed(&succession(3, &first, &kept()), kept(), verify).unwrap());
    assert_eq!(list.user_key(), &first);
    // One that names other certificates than it commits to keeps none of them.
    let mut misled = DeviceList::new(keys());
    misled.add_certificate(&certificate(1, &keys().user, None), verify).unwrap();
    assert!(misled.succeed(&succession(1, &first, &BTreeSet::new()), kept(), verify).unwrap());
    assert!(devices(&misled).is_empty());
    // And another user's is none.
    let other = Succession { user: other_user(), user_key: first, sequence: 9, kept: kept_hash(&kept()) };
    let other = Signed::sign(context::SUCCESSION, other.encode(), |m| sign(&keys().recovery, m));
    assert!(list.succeed(&other, kept(), verify).is_err());
}

/// A user with another recovery key.
fn other_user() -> peerloom_wire::UserId {
    UserKeys { user: key(200), recovery: key(7) }.id()
}

#[test]
fn a_revocation_is_of_its_user_and_they_are_bounded() {
    let mut list = DeviceList::new(keys());
    let other = Revocation { user: other_user(), devices: vec![device(1)], issued_at_ms: 1 };
    let other = Signed::sign(context::REVOCATION, other.encode(), |m| sign(&keys().user, m));
    assert!(list.add_revocation(&other, verify).is_err() && list.revoked().is_empty());
    assert!(list.unite(&DeviceList::new(UserKeys { user: key(200), recovery: key(7) }).to_encoded(), verify).is_err());
    for number in 0..limits::REVOCATIONS as u8 {
        assert!(list.add_revocation(&revocation(&[number], &keys().user), verify).unwrap());
    }
    assert!(list.add_revocation(&revocation(&[99], &keys().user), verify).is_err(), "one more");
    let all: Vec<u8> = (0..100).collect();
    assert!(list.add_revocation(&revocation(&all, &keys().user), verify).unwrap(), "it takes the place of the others");
    assert!(list.add_revocation(&revocation(&[150], &keys().user), verify).unwrap());
    let most: Vec<u8> = (0..=255).collect();
    assert_eq!(limits::REVOKED, most.len());
    assert!(list.add_revocation(&revocation(&most, &keys().recovery), verify).unwrap());
    let encoded = list.to_encoded();
    assert_eq!(EncodedDeviceList::decode(encoded.encode()), Ok(encoded));
}

#[test]
fn a_list_takes_so_many_certificates() {
    let mut list = DeviceList::new(keys());
    for number in 0..limits::LISTED as u8 {
        assert!(list.add_certificate(&certificate(number, &keys().user, None), verify).unwrap());
    }
    assert!(list.add_certificate(&certificate(100, &keys().user, None), verify).is_err());
    assert!(list.add_revocation(&revocation(&[3], &keys().user), verify).unwrap());
    assert!(list.add_certificate(&certificate(100, &keys().user, None), verify).unwrap(), "a revoked one gives room");
    assert!(list.add_certificate(&certificate(101, &keys().user, None), verify).is_err());
    assert_eq!(list.certificates().count(), limits::LISTED);
}

#[test]
fn a_device_that_was_certified_twice_counts_once_by_the_later_one() {
    let mut list = DeviceList::new(keys());
    for (roles, issued) in [(Roles::MESSAGES, 9), (Roles::ALL, 5)] {
        let certificate = DeviceCertificate::new(keys(), key(1), roles, issued);
        let signed = certificate.sign(|m| sign(&keys().user, m), |m| sign(&key(1), m));
        assert!(list.add_certificate(&signed, verify).unwrap());
    }
    list.add_certificate(&certificate(7, &keys().user, None), verify).unwrap();
    let counting: Vec<(DeviceId, u64)> = list.devices().iter().map(|c| (c.device, c.issued_at_ms)).collect();
    assert_eq!(counting, [(device(1), 9), (device(7), 7)], "in the place of its first one");
    assert_eq!(list.devices()[0].roles, Roles::MESSAGES);
}

/// What a device shows is all that another needs, and each certificate of it is looked at once.
#[test]
fn what_is_shown_is_taken_in_as_a_whole() {
    let mut list = DeviceList::new(keys());
    for number in [1, 2, 3] {
        list.add_certificate(&certificate(number, &keys().user, None), verify).unwrap();
    }
    list.add_revocation(&revocation(&[3], &keys().user), verify).unwrap();
    let shown = UserDevices::decode(list.show().encode()).unwrap();
    assert_eq!(shown, list.show());
    assert_eq!(shown.certificates.len(), 2, "those of devices that count");
    let mut reader = DeviceList::new(keys());
    assert!(reader.take_in(&shown, verify).unwrap());
    assert_eq!(devices(&reader), [device(1), device(2)]);
    assert!(reader.is_revoked(&device(3)));
    assert_eq!(reader.certificate(&device(1)), Some(&certificate(1, &keys().user, None)));
    assert_eq!(reader.certificate(&device(3)), None);
    let looked = std::cell::Cell::new(0);
    let counting = |key: &PublicKey, message: &[u8], signature: &[u8]| {
        looked.set(looked.get() + 1);
        verify(key, message, signature)
    };
    assert!(!reader.take_in(&shown, counting).unwrap(), "nothing of it is new");
    assert!(looked.get() <= 2, "the revocation alone is verified again: {} signatures", looked.get());
    // What doesn't verify is passed over, and keeps nothing else out.
    let mut mixed = shown.clone();
    mixed.certificates.insert(0, certificate(9, &key(66), None));
    mixed.certificates.push(certificate(4, &keys().user, None));
    assert!(reader.take_in(&mixed, verify).unwrap());
    assert_eq!(devices(&reader), [device(1), device(2), device(4)]);
    let other = UserKeys { user: key(222), recovery: key(223) };
    assert!(DeviceList::new(other).take_in(&shown, verify).is_err(), "another user's");
}

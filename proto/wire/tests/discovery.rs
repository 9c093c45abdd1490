//! The laws of a discovery's items: each verifies from its own bytes, and answers what it is and nothing else.

mod common;

use bytes::Bytes;
use common::{certificate, device, key, keys, sign, verify};
use peerloom_wire::{
    DecodeError, DeviceList, DiscoveryItem, DiscoveryKey, ItemKind, ItemSlot, NetworkId, OpenItem, PeerRecord,
    PublishedKeyPackage, Revocation, ServiceKind, ServiceOffer, Signed, SuiteId, context, limits,
};
use proptest::prelude::*;

const EXPIRES: u64 = 1_000;

fn network() -> NetworkId {
    NetworkId::from_name("test")
}

fn record(number: u8) -> PeerRecord {
    PeerRecord {
        versions: (1, 1),
        network: network(),
        certificate: certificate(number, &keys().user, None),
        addresses: vec!["quic://192.0.2.1:1".parse().unwrap()],
        capabilities: 0,
        suites: vec![SuiteId(3)],
        key_packages: Vec::new(),
        sequence: 5,
        expires_at_ms: EXPIRES,
    }
}

fn signed(under: &[u8], body: Bytes, number: u8) -> Signed {
    Signed::sign(under, body, |m| sign(&key(number), m))
}

fn list() -> DeviceList {
    let mut list = DeviceList::new(keys());
    for number in 1..=3 {
        list.add_certificate(&certificate(number, &keys().user, None), verify).unwrap();
    }
    let revocation = Revocation { user: keys().id(), devices: vec![device(3)], issued_at_ms: 1 };
    let revocation = Signed::sign(context::REVOCATION, revocation.encode(), |m| sign(&keys().user, m));
    list.add_revocation(&revocation, verify).unwrap();
    list
}

fn package() -> PublishedKeyPackage {
    PublishedKeyPackage {
        network: network(),
        key: key(1),
        suite: SuiteId(3),
        package: Bytes::from_static(b"package"),
        expires_at_ms: EXPIRES,
    }
}

fn offer() -> ServiceOffer {
    ServiceOffer {
        network: network(),
        certificate: certificate(1, &keys().user, None),
        kind: ServiceKind::MAILBOX,
        addresses: vec!["quic://192.0.2.1:1".parse().unwrap()],
        capacity: 7,
        sequence: 5,
        expires_at_ms: EXPIRES,
    }
}

/// One item of each kind, with what it answers.
fn items() -> Vec<(DiscoveryItem, Vec<DiscoveryKey>)> {
    let (user, service) = (keys().id(), ServiceKind::MAILBOX);
    let package = signed(context::KEY_PACKAGE, package().encode(), 1);
    let hash = package.hash();
    vec![
        (
            DiscoveryItem::Record(signed(context::PEER_RECORD, record(1).encode(), 1)),
            vec![DiscoveryKey::Record(device(1)), DiscoveryKey::Records(user)],
        ),
        (DiscoveryItem::of_devices(&list()), vec![DiscoveryKey::DeviceList(user)]),
        (DiscoveryItem::KeyPackage(package), vec![DiscoveryKey::KeyPackage(hash)]),
        (
            DiscoveryItem::Service(signed(context::SERVICE_OFFER, offer().encode(), 1)),
            vec![DiscoveryKey::Service(service)],
        ),
    ]
}

#[test]
fn an_item_answers_what_it_is_and_nothing_else() {
    let items = items();
    let kinds: Vec<ItemKind> = items.iter().map(|(item, _)| item.kind()).collect();
    assert_eq!(kinds, ItemKind::ALL);
    let other = [
        DiscoveryKey::Record(device(2)),
        DiscoveryKey::Records(peerloom_wire::UserId::from_bytes([1; 32])),
        DiscoveryKey::DeviceList(peerloom_wire::UserId::from_bytes([1; 32])),
        DiscoveryKey::KeyPackage([1; 32]),
        DiscoveryKey::Service(ServiceKind::COORDINATOR),
    ];
    let keys: Vec<DiscoveryKey> = items.iter().flat_map(|(_, keys)| keys.clone()).chain(other).collect();
    for (item, answered) in &items {
        assert_eq!(DiscoveryItem::decode(item.encode()), Ok(Some(item.clone())));
        let open = item.open(verify).unwrap();
        for key in &keys {
            let meant = answered.contains(key);
            assert_eq!(open.check(Some(key), &network(), 0).is_ok(), meant, "{key:?}");
            assert!(!meant || key.kind() == item.kind());
        }
        assert!(open.check(None, &network(), EXPIRES - 1).is_ok());
        let lasts = item.kind() == ItemKind::DeviceList;
        assert_eq!(open.check(None, &network(), EXPIRES).is_ok(), lasts, "expired");
        assert_eq!(open.check(None, &NetworkId::from_name("other"), 0).is_ok(), lasts, "another network's");
    }
}

#[test]
fn an_item_has_its_place_and_its_order_there() {
    let items = items();
    let opened: Vec<OpenItem> = items.iter().map(|(item, _)| item.open(verify).unwrap()).collect();
    let OpenItem::KeyPackage(package, hash) = &opened[2] else { panic!("no key package") };
    assert_eq!(package.device(), device(1));
    let slots = [
        ItemSlot::Record(device(1)),
        ItemSlot::DeviceList(keys().id()),
        ItemSlot::KeyPackage(*hash),
        ItemSlot::Service(ServiceKind::MAILBOX, device(1)),
    ];
    assert_eq!(opened.iter().map(OpenItem::slot).collect::<Vec<_>>(), slots);
    assert_eq!(opened.iter().map(OpenItem::sequence).collect::<Vec<_>>(), [5, 0, 0, 5]);
    let expiries: Vec<Option<u64>> = opened.iter().map(OpenItem::expires_at_ms).collect();
    assert_eq!(expiries, [Some(EXPIRES), None, Some(EXPIRES), Some(EXPIRES)]);
    let names: std::collections::BTreeSet<String> = ItemKind::ALL.iter().map(ItemKind::to_string).collect();
    assert!(names.len() == 4 && names.iter().all(|name| !name.is_empty()), "{names:?}");
}

#[test]
fn every_signature_counts() {
    for (item, _) in items() {
        // Each key that has to sign, and one alone that others sign for.
        for liar in [key(1), keys().user] {
            let opened = item.open(|key, m, s| *key != liar && verify(key, m, s));
            let needless = matches!(item, DiscoveryItem::KeyPackage(_)) && liar == keys().user;
            assert_eq!(opened.is_ok(), needless, "{:?} without {liar:?}", item.kind());
        }
    }
    // Signed by another device, or under another context.
    for wrong in [signed(context::KEY_PACKAGE, package().encode(), 2), signed(context::ACK, package().encode(), 1)] {
        assert!(DiscoveryItem::KeyPackage(wrong).open(verify).is_err());
    }
    for wrong in [signed(context::SERVICE_OFFER, offer().encode(), 2), signed(context::ACK, offer().encode(), 1)] {
        assert!(DiscoveryItem::Service(wrong).open(verify).is_err());
    }
}

#[test]
fn a_list_travels_with_the_certificates_that_it_names() {
    let DiscoveryItem::DeviceList(mut devices) = DiscoveryItem::of_devices(&list()) else { panic!("no list") };
    assert_eq!(devices.certificates.len(), 2, "a revoked device's certificate is of no use");
    let OpenItem::DeviceList(opened) = DiscoveryItem::DeviceList(devices.clone()).open(verify).unwrap() else {
        panic!("no list")
    };
    assert_eq!(opened.devices(), list().devices());
    assert_eq!(opened.revoked(), list().revoked());
    devices.certificates.push(certificate(9, &keys().user, None));
    assert!(DiscoveryItem::DeviceList(devices.clone()).open(verify).is_err(), "genuine, but the list lacks it");
    devices.certificates.clear();
    let OpenItem::DeviceList(opened) = DiscoveryItem::DeviceList(devices.clone()).open(verify).unwrap() else {
        panic!("no list")
    };
    assert_eq!(opened.missing(&devices.list).count(), 2, "they are to be had elsewhere");
}

#[test]
fn a_list_without_room_for_certificates_goes_without_and_lengths_are_bounded() {
    let mut list = list();
    for number in 0..16u8 {
        let devices = (0..40u8).map(|n| device(n ^ number.wrapping_mul(13)));
        // Different ones each time, so that none takes another's place.
        let devices = devices.chain([peerloom_wire::DeviceId::from_bytes([number; 32])]).collect();
        let revocation = Revocation { user: keys().id(), devices, issued_at_ms: number.into() };
        let revocation = Signed::sign(context::REVOCATION, revocation.encode(), |m| sign(&keys().user, m));
        drop(list.add_revocation(&revocation, verify));
    }
    let item = DiscoveryItem::of_devices(&list);
    assert!(item.encode().len() <= limits::DISCOVERY_ITEM, "{} bytes", item.encode().len());
    assert!(item.open(verify).is_ok());

    let long = PublishedKeyPackage { package: Bytes::from(vec![1; limits::KEY_PACKAGE]), ..package() };
    assert!(DiscoveryItem::KeyPackage(signed(context::KEY_PACKAGE, long.encode(), 1)).open(verify).is_ok());
    let longer = PublishedKeyPackage { package: Bytes::from(vec![1; limits::KEY_PACKAGE + 1]), ..package() };
    assert!(DiscoveryItem::KeyPackage(signed(context::KEY_PACKAGE, longer.encode(), 1)).open(verify).is_err());
    let huge = DiscoveryItem::Service(signed(context::SERVICE_OFFER, Bytes::from(vec![0; 40_000]), 1)).encode();
    assert!(matches!(DiscoveryItem::decode(huge), Err(DecodeError::TooLong { .. })));
}

#[test]
fn an_offer_is_bounded_with_its_signature() {
    let mut lengths = std::collections::BTreeSet::new();
    for extra in 0..120 {
        let address = |length: usize| format!("quic://{}", "x".repeat(length)).parse().unwrap();
        let addresses = [100, 100, 100, 100, 100, 1 + extra].map(address).to_vec();
        let offer = signed(context::SERVICE_OFFER, ServiceOffer { addresses, ..offer() }.encode(), 1);
        let len = offer.encode().len();
        let opened = DiscoveryItem::Service(offer).open(verify);
        assert_eq!(opened.is_ok(), len <= limits::SERVICE_OFFER, "{len} bytes");
        lengths.insert(len);
    }
    assert!([0, 1, 2].iter().all(|more| lengths.contains(&(limits::SERVICE_OFFER + more))), "{lengths:?}");
}

#[test]
fn an_unknown_kind_is_no_item_and_two_at_once_are_none() {
    // Field 9, of a later version.
    assert_eq!(DiscoveryItem::decode(Bytes::from_static(&[0x4a, 1, 7])), Ok(None));
    assert_eq!(DiscoveryItem::decode(Bytes::new()), Ok(None));
    let both = [items()[2].0.encode(), items()[3].0.encode()].concat();
    assert!(DiscoveryItem::decode(both.into()).is_err());
}

proptest! {
    #[test]
    fn damage_never_changes_what_verifies(which in 0usize..4, at in any::<usize>(), bit in 0u8..8) {
        let (item, _) = items().swap_remove(which);
        let mut bytes = item.encode().to_vec();
        let length = bytes.len();
        bytes[at % length] ^= 1 << bit;
        if let Ok(Some(damaged)) = DiscoveryItem::decode(bytes.into())
            && let Ok(open) = damaged.open(verify)
        {
            // Of a list what doesn't verify is passed over; nothing comes to it.
            match (open, item.open(verify).unwrap()) {
                (OpenItem::DeviceList(damaged), OpenItem::DeviceList(whole)) => {
                    prop_assert!(damaged.devices().iter().all(|d| whole.certificates().count() >= 2
                        && [device(1), device(2)].contains(&d.device)));
                    prop_assert!(damaged.revoked().is_subset(&whole.revoked()));
                }
                (OpenItem::KeyPackage(damaged, _), OpenItem::KeyPackage(whole, _)) => prop_assert_eq!(damaged, whole),
                (damaged, whole) => prop_assert_eq!(damaged, whole),
            }
        }
    }
}

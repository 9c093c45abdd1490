//! What two sides of a link agree on, and what their signatures cover.

mod common;

use bytes::Bytes;
use common::{certificate, device, key, keys, sign, verify};
use peerloom_wire::handshake::{Role, auth_input, negotiate};
use peerloom_wire::{
    Hello, Negotiated, NetworkId, Restored, Roles, SessionId, Signed, SignedSignal, Stated, Statement, context, signal,
};

fn hello(version_min: u32, version_max: u32, policy: u32, features: u64) -> Hello {
    Hello {
        nonce: [7; 32],
        version_min,
        version_max,
        network: NetworkId::from_name("test"),
        certificate: certificate(1, &keys().user, None),
        suites: Vec::new(),
        policy,
        features,
    }
}

#[test]
fn two_sides_speak_the_newest_version_of_both() {
    for (a, b, version) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 3), (2, 5), Some(3)),
        ((1, 4), (2, 3), Some(3)),
        ((1, 2), (2, 4), Some(2)),
        ((1, 2), (3, 4), None),
    ] {
        let (a, b) = (hello(a.0, a.1, 0, 0), hello(b.0, b.1, 0, 0));
        for agreed in [negotiate(&a, &b), negotiate(&b, &a)] {
            assert_eq!(agreed.map(|agreed| agreed.version), version);
        }
    }
}

#[test]
fn features_are_those_of_both_and_the_policy_is_that_of_either() {
    let agreed = negotiate(&hello(1, 1, 0b0011, 0b0011), &hello(1, 1, 0b0101, 0b0101));
    assert_eq!(agreed, Some(Negotiated { version: 1, features: 0b0001, policy: 0b0111 }));
}

#[test]
fn a_signature_fits_one_role_and_one_link() {
    let input = auth_input(Role::Initiator, b"ab", b"c", b"binding");
    let expected = [context::HANDSHAKE, b"\x01\0\0\0\x02ab\0\0\0\x01c\0\0\0\x07binding"].concat();
    assert_eq!(input, expected);
    for other in [
        auth_input(Role::Responder, b"ab", b"c", b"binding"),
        auth_input(Role::Initiator, b"a", b"bc", b"binding"),
        auth_input(Role::Initiator, b"ab", b"c", b"other"),
    ] {
        assert_ne!(input, other);
    }
}

#[test]
fn a_signal_is_its_senders_alone() {
    let signal = SignedSignal {
        network: NetworkId::from_name("test"),
        key: key(1),
        to: device(2),
        session: SessionId::from_bytes([0xab; 16]),
        serial: 3,
        expires_at_ms: 4,
        body: Bytes::from_static(b"offer"),
    };
    let by = |number: u8| Signed::sign(context::SIGNAL, signal.encode(), |m| sign(&key(number), m));
    assert_eq!(SignedSignal::decode_unverified(&by(1)), Ok(signal.clone()));
    assert!(signal.is_signed(&by(1), verify) && !signal.is_signed(&by(2), verify));
    let elsewhere = Signed::sign(context::ACK, signal.encode(), |m| sign(&key(1), m));
    assert!(!signal.is_signed(&elsewhere, verify));
    assert_eq!(signal.from(), device(1));
    assert_eq!((signal.session.to_string(), format!("{:?}", signal.session)), ("ab".repeat(16), "ab".repeat(16)));
    assert_eq!(signal.session.as_bytes(), &[0xab; 16]);
    assert_eq!([signal::LIFETIME_MS, signal::MANUAL_LIFETIME_MS, signal::SKEW_MS], [60_000, 600_000, 120_000]);
}

#[test]
fn a_statement_is_its_devices_alone() {
    let notice = Restored { device: device(1), since_ms: 5 };
    let stated = Stated::sign(notice.clone(), |m| sign(&key(1), m));
    let by = |stated: &Stated<Restored>, number: u8| stated.verify(|m, s| verify(&key(number), m, s));
    assert!(by(&stated, 1) && !by(&stated, 2));
    assert_eq!(Stated::decode(stated.signed().clone()), Ok(stated.clone()));
    assert_eq!((&*stated, stated.signer()), (&notice, device(1)));
    // What was signed as something else says nothing here.
    let elsewhere = Signed::sign(context::ACK, stated.signed().unverified_body().clone(), |m| sign(&key(1), m));
    assert!(!by(&Stated::decode(elsewhere).expect("a notice"), 1));
}

#[test]
fn roles_are_a_set() {
    let both = Roles::ADMIN.and(Roles::CONTACTS);
    assert_eq!((both.bits(), both.and(Roles::ADMIN).bits()), (5, 5));
    assert!(both.contains(Roles::ADMIN) && both.contains(both) && Roles::ALL.contains(both));
    assert!(!both.contains(Roles::MESSAGES) && !both.contains(Roles::ALL) && !Roles::ADMIN.contains(both));
}

//! What is just as large as the limits allow is read back; what is larger is refused.

use bytes::Bytes;
use peerloom_wire::{
    Ack, Address, Bundle, Chain, ConversationId, DecodeError, DeviceId, EntryClass, EntryId, Frame, Header, Held,
    Hello, Item, KeyPackage, LogId, MessageId, NetworkId, RangeSet, Role, Roster, RosterId, Signed, Span, Stated,
    SuiteId, UserId, limits,
};

fn log() -> LogId {
    LogId { device: DeviceId::from_bytes([1; 32]), conversation: ConversationId::from_bytes([2; 32]) }
}

/// A signature as long as they are.
fn sign(_: &[u8]) -> Bytes {
    Bytes::from_static(&[9; 64])
}

fn item(body: usize, content_type: usize, resealed: usize) -> Item {
    Item {
        id: MessageId::from_bytes([1; 16]),
        sent_at_ms: u64::MAX,
        content_type: "x".repeat(content_type),
        body: vec![7; body].into(),
        resealed_from: vec![u64::MAX; resealed],
    }
}

#[test]
fn the_largest_message_fits_a_bundle() {
    let most = item(limits::MESSAGE_BODY, limits::CONTENT_TYPE, limits::RESEALED_FROM);
    let bundle = Bundle { items: vec![most.clone()] };
    assert_eq!(Bundle::decode(bundle.encode()), Ok(bundle));
    for over in [
        item(limits::MESSAGE_BODY + 1, 0, 0),
        item(0, limits::CONTENT_TYPE + 1, 0),
        item(0, 0, limits::RESEALED_FROM + 1),
    ] {
        assert!(Bundle::decode(Bundle { items: vec![over] }.encode()).is_err());
    }
    // Also where each position is small, and the bytes would fit.
    let many = Item { resealed_from: vec![1; limits::RESEALED_FROM + 1], ..item(0, 0, 0) };
    let refused = Bundle::decode(Bundle { items: vec![many] }.encode());
    assert!(matches!(refused, Err(DecodeError::TooMany { .. })), "{refused:?}");
    assert!(Bundle::decode(Bundle { items: Vec::new() }.encode()).is_err(), "one without a message is none");
}

#[test]
fn a_message_takes_no_more_than_its_bound() {
    for (body, content_type, resealed) in
        [(0, 0, 0), (1, 0, 0), (300, 0, 8), (300, 127, 8), (70_000, 127, 1), (0, 127, 3)]
    {
        let item = item(body, content_type, resealed);
        let bound = item.encoded_size();
        let taken = Bundle { items: vec![item] }.encode().len();
        assert!(taken <= bound && bound <= taken + 64, "{taken} of {bound} for {body} {content_type} {resealed}");
    }
}

#[test]
fn the_largest_roster_fits() {
    let user = |n: usize| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        UserId::from_bytes(bytes)
    };
    let roster = |users| Roster { version: u64::MAX, ..Roster::first((0..users).map(user), Role::Other(u32::MAX)) };
    let most = roster(limits::MEMBERS);
    assert_eq!(Roster::decode(&most.encode()), Ok(most));
    assert!(Roster::decode(&roster(limits::MEMBERS + 1).encode()).is_err());
}

#[test]
fn the_longest_acknowledgements_fit_beside_a_header() {
    let id = |n: u64| EntryId::from_bytes([n as u8 + 1; 32]);
    let far = u64::MAX - 1000;
    let positions = |n: u64| far + 3 * n;
    let spans = (0..limits::RANGES as u64).map(|n| Span {
        first: positions(n),
        last: positions(n) + 1,
        previous: None,
        id: Some(id(n)),
    });
    let ack = Ack {
        log: log(),
        signer: DeviceId::from_bytes([3; 32]),
        through: far - 10,
        through_id: Some(id(99)),
        beyond: spans.collect::<Chain>(),
        withdrawn: (0..limits::RANGES as u64).map(positions).collect::<RangeSet>(),
    };
    let ack = Stated::sign(ack, sign);
    let header = Header {
        log: log(),
        position: far,
        class: EntryClass::Handshake,
        suite: SuiteId(1),
        expires_at_ms: 0,
        roster: RosterId::from_bytes([4; 32]),
        excluded: (0..=255).map(|n| DeviceId::from_bytes([n; 32])).collect(),
        joins: (0..=255).map(|n| DeviceId::from_bytes([n; 32])).collect(),
        previous: Some(id(7)),
    };
    let header = header.sign_parts(b"", b"welcome", sign);
    let held = Held {
        conversation: log().conversation,
        header: Some(header),
        time_ms: u64::MAX,
        ack: Some(ack.clone()),
        acknowledged: Some(ack),
    };
    let frame = Frame::held(held);
    assert_eq!(Frame::decode(frame.encode()), Ok(Some(frame)));
}

#[test]
fn a_key_package_in_a_frame_is_bounded() {
    let frame = |length| {
        let package = vec![1; length].into();
        Frame::KeyPackage(KeyPackage { suite: SuiteId(1), conversation: log().conversation, package })
    };
    let most = frame(limits::KEY_PACKAGE);
    assert_eq!(Frame::decode(most.encode()), Ok(Some(most)));
    assert!(Frame::decode(frame(limits::KEY_PACKAGE + 1).encode()).is_err());
}

fn hello(suites: usize) -> Hello {
    Hello {
        nonce: [7; 32],
        version_min: 1,
        version_max: 1,
        network: NetworkId::from_name("limits"),
        certificate: Signed::sign(b"", Bytes::from_static(b"body"), sign),
        suites: vec![SuiteId(u16::MAX); suites],
        policy: 0,
        features: 0,
    }
}

#[test]
fn a_hello_names_so_many_suites_and_no_more() {
    assert_eq!(Hello::decode(hello(limits::SUITES).encode()), Ok(hello(limits::SUITES)));
    assert!(Hello::decode(hello(limits::SUITES + 1).encode()).is_err());
    let short = Hello { suites: vec![SuiteId(1); limits::SUITES + 1], ..hello(0) };
    assert!(matches!(Hello::decode(short.encode()), Err(DecodeError::TooMany { .. })), "however short they are");
}

#[test]
fn addresses_are_short_and_have_a_scheme_of_small_letters_digits_and_dashes() {
    let long = |length: usize| format!("q://{}", "x".repeat(length - 4)).parse::<Address>();
    assert!(long(limits::ADDRESS).is_ok());
    let (len, max) = (limits::ADDRESS + 1, limits::ADDRESS);
    assert_eq!(long(len), Err(DecodeError::TooLong { what: "address", len, max }));
    let address: Address = "web-rtc2://host/path://more".parse().expect("an address");
    assert_eq!((address.scheme(), address.rest()), ("web-rtc2", "host/path://more"));
    assert_eq!((address.as_str(), address.to_string()), ("web-rtc2://host/path://more", address.as_str().to_owned()));
    for wrong in ["qu_ic://x", "QUIC://x", "quic:/x", "qu.ic://x", "://", "quic://é"] {
        assert!(wrong.parse::<Address>().is_err(), "{wrong}");
    }
}

#[test]
fn a_signed_object_is_no_longer_than_its_reader_allows() {
    let signed = Signed::sign(b"context", Bytes::from_static(b"body"), sign);
    let bytes = signed.encode();
    assert_eq!(Signed::decode(bytes.clone(), bytes.len()), Ok(signed.clone()));
    assert_eq!(Signed::decode(bytes.clone(), bytes.len() + 1), Ok(signed.clone()));
    let (len, max) = (bytes.len(), bytes.len() - 1);
    assert_eq!(Signed::decode(bytes, max), Err(DecodeError::TooLong { what: "signed object", len, max }));
    let unsigned = Signed::sign(b"context", Bytes::from_static(b"body"), |_| Bytes::new());
    assert!(Signed::decode(unsigned.encode(), 1000).is_err());
    let input = |message: &[u8], signature: &[u8]| message == b"contextbody" && signature == [9; 64];
    assert_eq!(signed.verify(b"context", input), Some(&Bytes::from_static(b"body")));
    assert_eq!(signed.verify(b"other", input), None);
    assert_ne!(signed.hash(), unsigned.hash());
}

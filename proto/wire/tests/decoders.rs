//! Every decoder that bytes from outside reach: round trips, damage, and pure noise. The fuzz targets
//! under `fuzz/` call the same list.

use bytes::Bytes;
use peerloom_wire::decoders::ALL;
use peerloom_wire::{
    Ack, Auth, Bundle, CannotOpen, CannotOpenReason, Chain, ConversationId, DecodeError, DeviceId, DeviceList,
    DiscoveryItem, EntryClass, EntryId, Envelope, Frame, GapRequest, Header, Held, Hello, Invitation, Item, KeyPackage,
    KeyPackageRequest, LogId, MessageId, NetworkId, NotForYou, PublicKey, PublishedKeyPackage, RangeSet, Refusal,
    Restored, Role, Roster, RosterId, SessionId, Signed, SignedHeader, SignedSignal, Span, Stated, Statement, SuiteId,
    UserDevices, UserId, UserKeys, Verdict, Withdrawal,
};
use proptest::prelude::*;

fn log() -> LogId {
    LogId { device: DeviceId::from_bytes([1; 32]), conversation: ConversationId::from_bytes([2; 32]) }
}

fn envelope() -> Envelope {
    let (payload, welcome) = (Bytes::from_static(b"sealed"), Bytes::from_static(b"come in"));
    let header = header().sign_parts(&payload, &welcome, |_| Bytes::from_static(&[9; 64]));
    Envelope { header, payload, welcome, hops: 2 }
}

const JOINS: DeviceId = DeviceId::from_bytes([4; 32]);

fn header() -> Header {
    Header {
        log: log(),
        position: 7,
        class: EntryClass::Application,
        suite: SuiteId(3),
        expires_at_ms: 1_800_000_000_000,
        roster: RosterId::from_bytes([8; 32]),
        excluded: vec![DeviceId::from_bytes([3; 32])],
        joins: vec![JOINS],
        previous: Some(EntryId::from_bytes([6; 32])),
    }
}

fn roster() -> Roster {
    let users = [2, 1].map(|number| UserId::from_bytes([number; 32]));
    Roster { version: 3, ..Roster::first(users, Role::Member) }
}

fn bundle() -> Bundle {
    let item = |n: u8| Item {
        id: MessageId::from_bytes([n; 16]),
        sent_at_ms: 1_790_000_000_000,
        content_type: if n == 1 { String::new() } else { "image/png".into() },
        body: Bytes::from(vec![n; usize::from(n) * 100]),
        resealed_from: vec![4, 5],
    };
    Bundle { items: vec![item(1), item(2)] }
}

fn signed(body: Bytes) -> Signed {
    Signed::sign(b"context", body, |_| Bytes::from_static(&[9; 64]))
}

fn stated<T: Statement>(statement: T) -> Stated<T> {
    Stated::sign(statement, |_| Bytes::from_static(&[9; 64]))
}

fn signal() -> SignedSignal {
    SignedSignal {
        network: NetworkId::from_name("test"),
        key: PublicKey::ed25519([4; 32]),
        to: DeviceId::from_bytes([3; 32]),
        session: SessionId::from_bytes([5; 16]),
        serial: 2,
        expires_at_ms: 1_800_000_000_000,
        body: Bytes::from_static(b"offer"),
    }
}

fn discovery_item() -> DiscoveryItem {
    let package = PublishedKeyPackage {
        network: NetworkId::from_name("test"),
        key: PublicKey::ed25519([4; 32]),
        suite: SuiteId(3),
        package: Bytes::from_static(b"package"),
        expires_at_ms: 1_800_000_000_000,
    };
    DiscoveryItem::KeyPackage(signed(package.encode()))
}

fn invitation() -> Invitation {
    let bare = Invitation {
        user: UserId::from_bytes([1; 32]),
        key: [4; 32],
        token: [5; 16],
        expires_at_s: 1_800_000_000,
        network: Invitation::network_of(&NetworkId::from_name("test")),
        addresses: Vec::new(),
        name: "alice".into(),
    };
    // One of each form.
    let own = format!("webrtc://{}", bare.device());
    let addresses =
        ["quic://192.0.2.1:4433", "quic://[2001:db8::1]:4433", &own, "quic://host.example:1", "tcp://[::1]:2"];
    Invitation { addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(), ..bare }
}

fn positions() -> RangeSet {
    [3, 4, 9].into_iter().collect()
}

fn spans() -> Chain {
    let span = |first, last| Span { first, last, previous: None, id: Some(EntryId::from_bytes([last as u8; 32])) };
    [span(3, 4), span(9, 9)].into_iter().collect()
}

fn ack() -> Ack {
    Ack {
        log: log(),
        signer: DeviceId::from_bytes([3; 32]),
        through: 1,
        through_id: Some(EntryId::from_bytes([1; 32])),
        beyond: spans(),
        withdrawn: positions(),
    }
}

fn hello() -> Hello {
    Hello {
        nonce: [1; 32],
        version_min: 1,
        version_max: 1,
        network: NetworkId::from_name("test"),
        certificate: signed(Bytes::from_static(b"certificate")),
        suites: vec![SuiteId(3), SuiteId(0xffff)],
        policy: 0,
        features: 0,
    }
}

/// One good encoding of everything.
fn examples() -> Vec<Bytes> {
    let ack = ack();
    let restored = Restored { device: log().device, since_ms: 1_790_000_000_000 };
    let signer = DeviceId::from_bytes([3; 32]);
    let (id, reason) = (EntryId::from_bytes([8; 32]), CannotOpenReason::KeyGone);
    let cannot = CannotOpen { log: log(), signer, position: 8, id, reason };
    let gap = GapRequest { log: log(), signer, positions: positions() };
    let withdrawal = Withdrawal { log: log(), positions: spans() };
    let not_for_you = NotForYou { log: log(), to: signer, positions: spans() };
    let frames = [
        Frame::Envelope(envelope()),
        Frame::Ack(stated(ack.clone())),
        Frame::CannotOpen(stated(cannot.clone())),
        Frame::Withdrawal(stated(withdrawal.clone())),
        Frame::GapRequest(stated(gap.clone())),
        Frame::KeyPackageRequest(KeyPackageRequest { suite: SuiteId(3), conversation: log().conversation }),
        Frame::KeyPackage(KeyPackage {
            suite: SuiteId(3),
            conversation: log().conversation,
            package: Bytes::from_static(b"package"),
        }),
        Frame::Record(signed(Bytes::from_static(b"record"))),
        Frame::Signal(signed(signal().encode())),
        Frame::held(Held {
            conversation: log().conversation,
            header: Some(envelope().header),
            time_ms: 7,
            ack: Some(stated(ack.clone())),
            acknowledged: Some(stated(ack.clone())),
        }),
        Frame::held(Held { conversation: log().conversation, header: None, time_ms: 0, ack: None, acknowledged: None }),
        Frame::Restored(stated(restored.clone())),
        Frame::NotForYou(stated(not_for_you.clone())),
        Frame::Devices(Box::new(UserDevices {
            list: DeviceList::new(UserKeys {
                user: PublicKey::ed25519([1; 32]),
                recovery: PublicKey::ed25519([2; 32]),
            })
            .to_encoded(),
            certificates: vec![signed(Bytes::from_static(b"certificate"))],
        })),
    ];
    for frame in &frames {
        assert_eq!(Frame::decode(frame.encode()).as_ref(), Ok(&Some(frame.clone())), "{}", frame.kind().name);
    }
    assert_eq!(Invitation::decode(&invitation().encode()), Ok(invitation()));
    assert_eq!(Frame::wrap_envelope(&envelope().encode()), frames[0].encode());
    assert_eq!(Frame::unwrap_envelope(&frames[0].encode()), Some(envelope().encode()));
    for length in [1, 127, 128, 20_000] {
        let longer = Envelope { payload: vec![1; length].into(), ..envelope() };
        assert_eq!(Frame::unwrap_envelope(&Frame::wrap_envelope(&longer.encode())), Some(longer.encode()));
    }
    for other in [&frames[1].encode()[..], &[], &[0x0a], &[0x0a, 0x80]] {
        assert_eq!(Frame::unwrap_envelope(&Bytes::copy_from_slice(other)), None);
    }
    assert_eq!(Envelope::decode(envelope().encode()), Ok(envelope()));
    assert_eq!(Bundle::decode(bundle().encode()), Ok(bundle()));
    assert_eq!(SignedSignal::decode_unverified(&signed(signal().encode())), Ok(signal()));
    assert_eq!(SignedHeader::decode(envelope().header.signed().clone()), Ok(envelope().header));
    assert_eq!(Hello::decode(hello().encode()), Ok(hello()));
    let auth = Auth { signature: Bytes::from_static(&[7; 64]), token: Some([5; 16]), name: "bob".into() };
    assert_eq!(Auth::decode(auth.encode()), Ok(auth.clone()));
    let verdict = Verdict::Restored(stated(restored.clone()));
    for verdict in [Verdict::Accepted, Verdict::Refused(Refusal::NotAContact), verdict.clone()] {
        assert_eq!(Verdict::decode(verdict.encode()), Ok(verdict));
    }
    let mut all: Vec<Bytes> = frames.iter().map(Frame::encode).collect();
    all.extend([envelope().encode(), bundle().encode(), hello().encode(), auth.encode(), verdict.encode()]);
    all.push(discovery_item().encode());
    all.push(invitation().encode());
    all.extend([stated(ack).signed().encode(), stated(cannot).signed().encode(), stated(gap).signed().encode()]);
    all.extend([stated(withdrawal).signed().encode(), stated(not_for_you).signed().encode()]);
    all
}

fn feed(bytes: &[u8]) {
    for (_, decode) in ALL {
        decode(bytes);
    }
}

#[test]
fn every_bit_flip_and_truncation_is_harmless() {
    for example in examples() {
        for at in 0..example.len() {
            feed(&example[..at]);
            for bit in 0..8 {
                let mut damaged = example.to_vec();
                damaged[at] ^= 1 << bit;
                feed(&damaged);
            }
        }
    }
}

#[test]
fn promises_of_huge_lengths_are_refused() {
    // Field 1, length-delimited, and then every length that a varint can say.
    for shift in 0..64 {
        let mut bytes = vec![0x0a];
        let mut value = 1u64 << shift;
        while value >= 0x80 {
            bytes.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        feed(&bytes);
        bytes.extend([0; 64]);
        feed(&bytes);
    }
    // An entry with no message in it would be settled without having shown anything.
    for nothing in [&b""[..], &Bundle::default().encode(), &[0x9a, 0x06, 3, b'n', b'e', b'w']] {
        assert!(Bundle::decode(Bytes::copy_from_slice(nothing)).is_err(), "{nothing:?}");
    }
    // As many empty elements as fit a frame: two bytes each must not become a hundred.
    assert!(Bundle::decode(Bytes::from([0x0a, 0].repeat(500_000))).is_err());
}

#[test]
fn a_header_speaks_of_one_entry_at_one_position() {
    let good = |_: &[u8], signature: &[u8]| signature == [9; 64];
    assert!(envelope().verify(good));
    assert!(!Envelope { payload: Bytes::from_static(b"another"), ..envelope() }.verify(good));
    assert!(!Envelope { welcome: Bytes::from_static(b"another"), ..envelope() }.verify(good));
    // Each part goes to those that it is for, and verifies by itself.
    let other = DeviceId::from_bytes([5; 32]);
    for (device, part) in [(JOINS, &b"come in"[..]), (other, b"sealed")] {
        let sent = envelope().only_for(&device);
        assert!(sent.verify(good) && sent.header.id() == envelope().header.id());
        assert_eq!(sent.part_for(&device).map(|part| &part[..]), Some(part));
        assert_eq!(sent.payload.len() + sent.welcome.len(), part.len());
    }
    assert_eq!(envelope().only_for(&JOINS).part_for(&other), None);
    assert!(!envelope().verify(|_, _| false));
    // The id follows from every field; the hops are outside.
    let payload = b"sealed";
    let id = |header: Header| header.sign_parts(payload, b"come in", |_| Bytes::new()).id();
    assert_eq!(id(header()), envelope().header.id());
    for other in [
        Header { position: 8, ..header() },
        Header { expires_at_ms: 0, ..header() },
        Header { previous: Some(EntryId::from_bytes([7; 32])), ..header() },
        Header { class: EntryClass::Handshake, ..header() },
        Header { roster: RosterId::from_bytes([9; 32]), ..header() },
        Header { excluded: Vec::new(), ..header() },
        Header { joins: vec![other], ..header() },
    ] {
        assert_ne!(id(other.clone()), id(header()));
        assert_ne!(other.associated_data(), header().associated_data());
    }
    assert_ne!(header().sign_parts(b"another", b"come in", |_| Bytes::new()).id(), id(header()));
    assert_ne!(header().sign_parts(payload, b"another", |_| Bytes::new()).id(), id(header()));
    // Without a welcome none can join.
    let without = header().sign(payload, |_| Bytes::new());
    assert!(SignedHeader::decode(without.signed().clone()).is_err());
    // Only the first entry has no predecessor.
    for (position, previous) in [(1, Some(EntryId::from_bytes([1; 32]))), (2, None)] {
        let odd = Header { position, previous, ..header() }.sign_parts(payload, b"come in", |_| Bytes::new());
        assert!(SignedHeader::decode(odd.signed().clone()).is_err());
    }
}

#[test]
fn a_frame_is_known_by_the_number_of_its_field() {
    let frames: Vec<Frame> = examples().into_iter().filter_map(|bytes| Frame::decode(bytes).ok().flatten()).collect();
    let numbers: std::collections::BTreeSet<u32> = frames.iter().map(|frame| frame.kind().number).collect();
    assert!(numbers.len() >= 10, "{numbers:?}");
    for frame in frames {
        let (kind, bytes) = (frame.kind(), frame.encode());
        assert_eq!(u32::from(bytes[0]), kind.number << 3 | 2, "{}", kind.name);
        let twice = [&bytes[..], &bytes[..]].concat();
        assert!(matches!(Frame::decode(twice.into()), Err(DecodeError::TooMany { .. })), "{} twice", kind.name);
    }
}

#[test]
fn the_largest_header_fits() {
    let devices: Vec<DeviceId> = (0..256u16).map(|n| DeviceId::from_bytes([n as u8; 32])).collect();
    let header = Header { excluded: devices.clone(), joins: devices, ..header() };
    let header = header.sign_parts(b"", b"come in", |_| Bytes::from_static(&[9; 64]));
    let held = Frame::held(Held {
        conversation: log().conversation,
        header: Some(header),
        time_ms: u64::MAX,
        ack: None,
        acknowledged: None,
    });
    assert_eq!(Frame::decode(held.encode()), Ok(Some(held)));
}

#[test]
fn vectors_stay_as_they_are() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let expected = include_str!("../../../tests/vectors/wire.txt");
    let named = [
        ("network_id test", hex(NetworkId::from_name("test").as_bytes())),
        ("envelope", hex(&envelope().encode())),
        ("envelope_associated_data", hex(&header().associated_data())),
        ("entry_id", hex(envelope().header.id().as_bytes())),
        (
            "held",
            hex(&Frame::held(Held {
                conversation: log().conversation,
                header: None,
                time_ms: 7,
                ack: None,
                acknowledged: None,
            })
            .encode()),
        ),
        ("bundle", hex(&bundle().encode())),
        ("hello", hex(&hello().encode())),
        ("ack", hex(&ack().encode())),
        ("frame", hex(&Frame::Envelope(envelope()).encode())),
        ("signal", hex(&signal().encode())),
        ("discovery_item", hex(&discovery_item().encode())),
        ("invitation", hex(&invitation().encode())),
        ("roster", hex(&roster().encode())),
        ("roster_id", hex(roster().id().as_bytes())),
    ];
    let actual: String = named.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    if std::env::var_os("PEERLOOM_WRITE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/wire.txt");
        std::fs::write(path, actual).expect("the vectors are written");
        return;
    }
    assert_eq!(actual, expected, "the format has changed; before 0.1.0 PEERLOOM_WRITE=1 writes the vectors again");
}

proptest! {
    #[test]
    fn noise_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        feed(&bytes);
    }

    #[test]
    fn damage_is_harmless(which in 0usize..22, changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..12)) {
        let examples = examples();
        let mut bytes = examples[which % examples.len()].to_vec();
        for (at, value) in changes {
            let length = bytes.len();
            bytes[usize::from(at) % length] = value;
        }
        feed(&bytes);
    }
}

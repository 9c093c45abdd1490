//! What the store holds is read back as it was written, with every field; what is damaged isn't read.

use std::fmt::Debug;

use bytes::Bytes;
use peerloom_wire::store::{
    Contact, ContactDevice, ConversationInfo, ConversationKind, GivenKeyPackage, History, HistoryHead, Identity, InLog,
    Invited, OutCursor, OutEntry, OutstandingInvitation, OwnState, Pending, PendingHead, Quarantined, Record,
    SealedEntry, VaultHeader, key_order, ordered_key,
};
use peerloom_wire::{
    Ack, CannotOpenReason, Chain, ConversationId, DecodeError, DeviceId, DeviceList, EntryClass, EntryId, Header, Item,
    LogId, MessageId, NetworkId, PublicKey, RangeSet, Role, Roster, RosterId, Signed, SignedHeader, Span, Stated,
    SuiteId, UserId, UserKeys,
};

const DEVICE: DeviceId = DeviceId::from_bytes([1; 32]);
const CONVERSATION: ConversationId = ConversationId::from_bytes([2; 32]);
const USER: UserId = UserId::from_bytes([3; 32]);
const ID: EntryId = EntryId::from_bytes([4; 32]);

fn signed(body: &'static [u8]) -> Signed {
    Signed::sign(b"", Bytes::from_static(body), |_| Bytes::from_static(b"signature"))
}

fn messages() -> Vec<MessageId> {
    vec![MessageId::from_bytes([5; 16]), MessageId::from_bytes([6; 16])]
}

fn positions(of: &[u64]) -> RangeSet {
    of.iter().copied().collect()
}

fn spans(first: u64, last: u64) -> Chain {
    [Span { first, last, previous: Some(ID), id: Some(ID) }].into_iter().collect()
}

fn ack() -> Stated<Ack> {
    let ack = Ack {
        log: LogId { device: DEVICE, conversation: CONVERSATION },
        signer: DEVICE,
        through: 3,
        through_id: Some(ID),
        beyond: Chain::default(),
        withdrawn: RangeSet::default(),
    };
    Stated::sign(ack, |_| Bytes::from_static(b"signature"))
}

fn header() -> SignedHeader {
    let header = Header {
        log: LogId { device: DEVICE, conversation: CONVERSATION },
        position: 9,
        class: EntryClass::Application,
        suite: SuiteId(1),
        expires_at_ms: 0,
        roster: RosterId::from_bytes([7; 32]),
        excluded: Vec::new(),
        joins: Vec::new(),
        previous: Some(ID),
    };
    header.sign(b"payload", |_| Bytes::from_static(b"signature"))
}

/// Writes a record, reads it back, and gives its bytes.
fn written<T: Record + PartialEq + Debug>(record: &T) -> Bytes {
    let bytes = record.encode();
    assert_eq!(T::decode(bytes.clone()).as_ref(), Ok(record));
    // No record, of a version to come, or cut off.
    assert!(matches!(T::decode(Bytes::new()), Err(DecodeError::Malformed { .. })));
    let newer = [&[2], &bytes[1..]].concat();
    assert_eq!(T::decode(newer.into()), Err(DecodeError::UnsupportedVersion { what: T::NAME, found: 2 }));
    bytes
}

#[test]
fn entries_and_their_delivery_are_read_back() {
    let entry = OutEntry {
        class: EntryClass::Application,
        size: 1000,
        expires_at_ms: 50_000,
        messages: messages(),
        recipients: vec![DEVICE, DeviceId::from_bytes([8; 32])],
        history: 7,
        copies: vec![3, 4],
        id: ID,
        left: true,
        expired: false,
        delivered: true,
        discard: false,
    };
    written(&entry);
    written(&OutEntry { left: false, expired: true, delivered: false, discard: true, ..entry });
    let (envelope, recipe) = (Bytes::from_static(b"envelope"), Bytes::from_static(b"recipe"));
    written(&SealedEntry { envelope, recipe, history: 4 });
    let cursor = OutCursor {
        user: USER,
        base: 2,
        through: 5,
        beyond: positions(&[7, 8]),
        rejoins: 3,
        halted: true,
        owed: positions(&[1]),
        acknowledged: Some(ack()),
        void: positions(&[4]),
    };
    written(&cursor);
    let log = InLog {
        base: 2,
        through: 5,
        through_id: Some(ID),
        beyond: spans(7, 8),
        before_join: positions(&[1]),
        newest: Some(header()),
        withdrawn: positions(&[4]),
        copies: 6,
    };
    written(&log);
    written(&InLog::default());
    let behind = InLog { beyond: spans(5, 8), ..log };
    assert!(InLog::decode(behind.encode()).is_err(), "what is settled beyond lies beyond");
    for reason in (1..=6).map(CannotOpenReason::from_code) {
        written(&Quarantined { reason, since_ms: 8, id: ID });
    }
}

#[test]
fn messages_are_read_back() {
    let item = Item {
        id: MessageId::from_bytes([5; 16]),
        sent_at_ms: 11,
        content_type: "image/png".into(),
        body: Bytes::from_static(b"picture"),
        resealed_from: vec![2],
    };
    let pending = Pending { item, expires_at_ms: 12 };
    let bytes = written(&pending);
    let head = pending.head(bytes.len());
    written(&head);
    let (message, size) = (pending.item.id, bytes.len() as u32);
    assert_eq!(head, PendingHead { message, sent_at_ms: 11, expires_at_ms: 12, size });
    let history = History {
        conversation: CONVERSATION,
        user: USER,
        device: DEVICE,
        position: 4,
        stored_at_ms: 5,
        bundle: Bytes::from_static(b"bundle"),
        hidden: vec![0, 300],
    };
    written(&history);
    use OwnState::{Delivered, Failed, Queued, Sent, Unknown};
    for state in [None, Some(Queued), Some(Sent), Some(Delivered), Some(Failed("it expired".into())), Some(Unknown)] {
        let (size, state_at_ms) = (7, 8);
        written(&HistoryHead {
            device: DEVICE,
            position: 4,
            stored_at_ms: 5,
            size,
            messages: messages(),
            state,
            state_at_ms,
        });
    }
    // A device, and a state that no version has.
    let head = [&[1, 0x0a, 32][..], &[1; 32], &[0x30, 6]].concat();
    assert!(HistoryHead::decode(head.into()).is_err());
}

#[test]
fn conversations_contacts_and_invitations_are_read_back() {
    let other = UserId::from_bytes([9; 32]);
    for kind in [ConversationKind::Direct, ConversationKind::Group, ConversationKind::Own] {
        let roster = Roster { version: 2, ..Roster::first([USER, other], Role::Member) };
        let info = ConversationInfo { kind, roster, created_at_ms: 3, title: "title".into() };
        written(&info);
        assert_eq!(info.others(&USER).collect::<Vec<_>>(), [other]);
    }
    // A kind that no version has.
    assert!(ConversationInfo::decode(Bytes::from_static(&[1, 0x08, 9])).is_err());
    let device = |invited| ContactDevice {
        device: DEVICE,
        certificate: Some(signed(b"certificate")),
        invited,
        record: Some(signed(b"record")),
        last_seen_ms: 6,
        restored: Some(signed(b"notice")),
    };
    let addresses = vec!["quic://192.0.2.1:1".parse().expect("an address")];
    let invited = Invited { key: PublicKey::ed25519([1; 32]), addresses };
    let devices = vec![device(Some(invited)), device(None)];
    let contact =
        Contact { user: USER, alias: "bob".into(), devices, added_at_ms: 7, token: Some([8; 16]), list: None };
    written(&contact);
    let keys = UserKeys { user: PublicKey::ed25519([1; 32]), recovery: PublicKey::ed25519([2; 32]) };
    let list = Some(DeviceList::new(keys).to_encoded());
    written(&Contact { list, ..contact.clone() });
    written(&Contact { token: None, ..contact });
    written(&OutstandingInvitation { expires_at_ms: 1, uses_left: 2 });
    let package = GivenKeyPackage {
        suite: SuiteId(3),
        package: Bytes::from_static(b"package"),
        expires_at_ms: 4,
        holder: Some((DEVICE, CONVERSATION)),
    };
    written(&package);
    written(&GivenKeyPackage { holder: None, ..package });
    // Half a holder is none: field 4 is the device.
    let half = [&[1, 0x22, 32][..], &[1; 32]].concat();
    assert!(GivenKeyPackage::decode(half.into()).is_err());
}

#[test]
fn who_the_node_is_and_how_its_store_is_locked_are_read_back() {
    let vault = VaultHeader {
        memory_kib: 1,
        passes: 2,
        lanes: 3,
        salt: Bytes::from_static(b"salt"),
        wrapped_key: Bytes::from_static(b"key"),
    };
    written(&vault);
    for (user_seed, recovery_seed) in [(Some([1; 32]), None), (None, Some([2; 32]))] {
        let identity = Identity {
            user_seed,
            recovery_seed,
            device_seed: [3; 32],
            certificate: signed(b"certificate"),
            network: NetworkId::from_name("test"),
            name: "alice".into(),
        };
        let read = Identity::decode(identity.encode()).expect("an identity");
        // It is never printed, so it is no `Debug`.
        assert!(read == identity);
    }
}

#[test]
fn keys_keep_the_order_of_their_numbers() {
    let key = |order| ordered_key(&[b"ab", b"c"], order);
    assert_eq!(key(258), Bytes::from_static(b"abc\0\0\0\0\0\0\x01\x02"));
    assert!(key(255) < key(256) && key(256) < key(u64::MAX));
    for order in [0, 1, 7, 255, 256, u64::MAX] {
        assert_eq!(key_order(&key(order)), Ok(order));
    }
    assert!(key_order(b"short").is_err());
}

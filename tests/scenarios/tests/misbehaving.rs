//! What contacts may try against a node: it harms their own log at most, and the node goes on.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::by_hand::{
    again, an_entry_comes, await_entry, befriend, forged, node, node_on, nothing_held, refused_grows, sealed, signed,
    still_works,
};
use common::stranger::{hear, key, network, say};
use peerloom_conformance::identity::{Identity, identity, record};
use peerloom_core::ErrorKind;
use peerloom_core::memory::{MemoryCrypto, MemoryNetwork, MemoryStorage};
use peerloom_core::wire::{
    Ack, CannotOpen, CannotOpenReason, Chain, ConversationId, EntryClass, EntryId, Envelope, Frame, GapRequest, Header,
    Held, KeyPackage, LogId, NotForYou, RangeSet, Restored, RosterId, Signed, Span, SuiteId, Withdrawal,
};
use peerloom_engine::{Cursor, Engine, Event, StoreStanding};

#[tokio::test(flavor = "multi_thread")]
async fn a_malicious_contact_harms_only_itself() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (mallory, own) = (identity(66), identity(1));
    let (_link, mut control, mut chat) = befriend(&links, &alice, &mallory).await;
    let conversation = ConversationId::direct(&network(), &mallory.user, &own.user);
    let log = LogId { device: mallory.device, conversation };
    let header = |position, class, joins: bool| Header {
        log,
        position,
        class,
        suite: MemoryCrypto::SUITE,
        expires_at_ms: 0,
        roster: RosterId::from_bytes([0; 32]),
        excluded: Vec::new(),
        joins: if joins { vec![own.device] } else { Vec::new() },
        previous: (position > 1).then(|| EntryId::from_bytes([position as u8; 32])),
    };
    let seal = |header: Header, part: Bytes| sealed(header, part, &mallory);
    let entry = |position, class, joins: bool, payload: Bytes| seal(header(position, class, joins), payload);
    let huge: RangeSet = {
        let mut set = RangeSet::default();
        (0..60).for_each(|n| set.insert(2 + n * 1_000_000_000, 500_000_000 + n * 1_000_000_000));
        set
    };
    let spans: Chain = huge
        .iter()
        .map(|r| Span { first: r.first, last: r.last, previous: None, id: Some(EntryId::from_bytes([7; 32])) })
        .collect();
    let before = alice.refused();
    // A handshake nobody signed, early: it must not come back from its parking place for ever.
    say(&mut chat, Frame::Envelope(entry(9, EntryClass::Handshake, true, Bytes::from_static(b"x"))).encode()).await;
    say(&mut chat, Frame::Envelope(entry(7, EntryClass::Handshake, false, Bytes::from_static(b"x"))).encode()).await;
    for position in 2..300 {
        // Applications that say they join, in unknown suites: opened in order, or not at all.
        let suite = SuiteId(u16::try_from(position).expect("small"));
        let odd = seal(Header { suite, ..header(position, EntryClass::Application, true) }, Bytes::from(vec![1; 2000]));
        say(&mut chat, Frame::Envelope(odd).encode()).await;
    }
    // The log of another device, and positions at the far end.
    let log_of = |device| LogId { device, conversation };
    let other = Header { log: log_of(identity(5).device), ..header(1, EntryClass::Application, false) };
    let other = seal(other, Bytes::new());
    // A payload under another entry's header, and a header that nobody signed.
    let swapped =
        Envelope { payload: Bytes::from_static(b"another"), ..entry(1, EntryClass::Application, false, Bytes::new()) };
    let unsigned = header(1, EntryClass::Handshake, true).sign_parts(b"", b"x", |_| Bytes::from_static(&[7; 64]));
    let unsigned = Envelope { header: unsigned, payload: Bytes::new(), welcome: Bytes::from_static(b"x"), hops: 0 };
    // Claims that alice's store is older than what mallory holds, and that a copy of it runs.
    let feigned = Header { log: log_of(own.device), ..header(1000, EntryClass::Application, false) };
    let feigned = feigned.sign(b"", |message| key(&mallory).sign(message));
    let held = Held { conversation, header: Some(feigned), time_ms: 1, ack: None, acknowledged: None };
    let claimed = Ack {
        log: log_of(mallory.device),
        signer: own.device,
        through: 1000,
        through_id: None,
        beyond: Default::default(),
        withdrawn: Default::default(),
    };
    let acknowledged = Some(signed(&mallory, claimed));
    let claimed = Held { conversation, header: None, time_ms: 1, ack: None, acknowledged };
    let notice = signed(&mallory, Restored { device: own.device, since_ms: 1 });
    say(
        &mut control,
        Frame::held(Held { conversation, header: None, time_ms: u64::MAX, ack: None, acknowledged: None }).encode(),
    )
    .await;
    say(&mut chat, Frame::Envelope(entry(u64::MAX - 1, EntryClass::Application, false, Bytes::new())).encode()).await;
    let (ours, signer) = (log_of(own.device), mallory.device);
    let ack = Ack {
        log: ours,
        signer,
        through: u64::MAX - 1,
        through_id: Some(EntryId::from_bytes([7; 32])),
        beyond: Chain::default(),
        withdrawn: huge.clone(),
    };
    say(&mut control, Frame::Ack(signed(&mallory, ack.clone())).encode()).await;
    let withdrawal = Withdrawal { log: log_of(mallory.device), positions: spans.clone() };
    let not_for_you = NotForYou { log: log_of(mallory.device), to: own.device, positions: spans.clone() };
    let gap = GapRequest { log: ours, signer, positions: huge };
    for _ in 0..50 {
        say(&mut control, Frame::Withdrawal(signed(&mallory, withdrawal.clone())).encode()).await;
        say(&mut control, Frame::GapRequest(signed(&mallory, gap.clone())).encode()).await;
    }
    // For another device: it settles nothing here.
    let elsewhere = NotForYou { to: mallory.device, ..not_for_you.clone() };
    say(&mut control, Frame::NotForYou(signed(&mallory, elsewhere)).encode()).await;
    say(&mut control, Frame::Record(record(&identity(5), 9, &[])).encode()).await;
    let package = KeyPackage { suite: MemoryCrypto::SUITE, conversation, package: Bytes::from_static(b"nonsense") };
    say(&mut control, Frame::KeyPackage(package).encode()).await;
    refused_grows(&alice, before).await;
    // What isn't signed by the device that must have signed it ends the link, whatever it is.
    let forgeries = [
        Frame::Envelope(swapped),
        Frame::Envelope(unsigned),
        Frame::Envelope(other),
        Frame::held(held),
        Frame::held(claimed),
        Frame::Restored(notice),
        Frame::Ack(forged(ack.clone())),
        // Signed, by another device than it names.
        Frame::Ack(signed(&mallory, Ack { signer: own.device, ..ack.clone() })),
        // What is beyond its end lies before it.
        Frame::Ack(signed(&mallory, Ack { beyond: spans.clone(), ..ack })),
        Frame::CannotOpen(forged(CannotOpen {
            log: ours,
            signer,
            position: 1,
            id: EntryId::from_bytes([7; 32]),
            reason: CannotOpenReason::Damaged,
        })),
        Frame::GapRequest(forged(gap)),
        Frame::Withdrawal(forged(withdrawal)),
        Frame::NotForYou(forged(not_for_you)),
    ];
    for frame in forgeries {
        let before = alice.refused();
        let (link, mut control, _chat) = again(&links, &mallory).await;
        say(&mut control, frame.encode()).await;
        let ended = tokio::time::timeout(Duration::from_secs(20), link.closed()).await;
        assert!(ended.is_ok() && alice.refused() > before, "a link lives on after {frame:?}");
    }
    let (_link, mut control, mut chat) = again(&links, &mallory).await;
    assert_eq!(alice.standing().await.expect("a standing"), StoreStanding::Newest, "no contact can feign it");
    // Longer than the gap waits, so that timers have had their turn with what was parked.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(
        alice.messages_after(Cursor::START, 100).await.expect("messages").is_empty(),
        "nothing of this is a message"
    );
    still_works(&links, &alice).await;
    // A malformed frame closes the link.
    say(&mut control, Bytes::from_static(&[0xff; 40])).await;
    let end = async { while hear(&mut chat).await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the link ends");
}

/// The header of a log's first entry, which lets node 1 in.
fn first(owner: &Identity, conversation: ConversationId) -> Header {
    Header {
        log: LogId { device: owner.device, conversation },
        position: 1,
        class: EntryClass::Handshake,
        suite: MemoryCrypto::SUITE,
        expires_at_ms: 0,
        roster: RosterId::from_bytes([0; 32]),
        excluded: Vec::new(),
        joins: vec![identity(1).device],
        previous: None,
    }
}

/// That first entry.
fn joining(owner: &Identity, conversation: ConversationId) -> Envelope {
    let part = [owner.device.as_bytes().as_slice(), identity(1).device.as_bytes()].concat();
    sealed(first(owner, conversation), part.into(), owner)
}

/// Waits until a device is paused.
async fn pause(alice: &Engine) {
    let paused = || alice.peers().iter().any(|peer| peer.reason.as_ref().is_some_and(|r| r.starts_with("paused")));
    let begin = Instant::now();
    while !paused() {
        assert!(begin.elapsed() < Duration::from_secs(15), "the device was never paused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_shows_no_message_is_not_acknowledged() {
    // None at all, a field that nobody knows yet, and none that can be read.
    for (number, nothing) in (1..).zip([&b""[..], &[0x9a, 0x06, 3, b'n', b'e', b'w'], &[0x0a, 0], &[0xff; 9]]) {
        let links = MemoryNetwork::default();
        let alice = node(1, &links).await;
        let mallory = identity(66);
        let (_link, mut control, mut chat) = befriend(&links, &alice, &mallory).await;
        let conversation = ConversationId::direct(&network(), &mallory.user, &identity(1).user);
        let joining = joining(&mallory, conversation);
        let previous = Some(joining.header.id());
        let (class, joins) = (EntryClass::Application, Vec::new());
        let header = Header { position: 2, class, joins, previous, ..first(&mallory, conversation) };
        let payload = MemoryCrypto::payload(&mallory.device, &header.associated_data(), nothing);
        say(&mut chat, Frame::Envelope(joining).encode()).await;
        say(&mut chat, Frame::Envelope(sealed(header, payload, &mallory)).encode()).await;
        let mut refused = false;
        let heard = async {
            while let Some(frame) = hear(&mut control).await {
                match Frame::decode(frame) {
                    Ok(Some(Frame::Ack(ack))) => assert!(ack.through < 2, "case {number} is acknowledged"),
                    Ok(Some(Frame::CannotOpen(answer))) => {
                        assert_eq!((answer.position, answer.reason), (2, CannotOpenReason::Damaged), "case {number}");
                        refused = true;
                    }
                    _ => {}
                }
            }
        };
        // Longer than an acknowledgement waits for others.
        let _ = tokio::time::timeout(Duration::from_secs(2), heard).await;
        assert!(refused, "case {number} is not refused");
        assert!(alice.messages_after(Cursor::START, 10).await.expect("messages").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_sends_is_passed_over() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (mallory, own) = (identity(66), identity(1));
    let (_link, mut control, mut chat) = befriend(&links, &alice, &mallory).await;
    let conversation = ConversationId::direct(&network(), &mallory.user, &own.user);
    let log = LogId { device: mallory.device, conversation };
    // A kind of frame, and a version of a header, that nobody knows yet: fields 99 and 1.
    say(&mut control, Bytes::from_static(&[0x9a, 0x06, 3, b'n', b'e', b'w'])).await;
    let header = Signed::sign(b"", Bytes::from_static(&[0x08, 2]), |_| Bytes::from_static(&[7; 64])).encode();
    let envelope = [&[0x0a, u8::try_from(header.len()).expect("short")], &header[..]].concat();
    say(&mut chat, Frame::wrap_envelope(&envelope.into())).await;
    // An entry of an unknown class takes its place in the log.
    let mut previous = None;
    for (class, payload) in [
        (EntryClass::Handshake, [mallory.device.as_bytes().as_slice(), own.device.as_bytes()].concat()),
        (EntryClass::Other(77), b"what it holds".to_vec()),
    ] {
        let joins = if class == EntryClass::Handshake { vec![own.device] } else { Vec::new() };
        let (suite, position) = (MemoryCrypto::SUITE, if previous.is_none() { 1 } else { 2 });
        let (roster, excluded) = (RosterId::from_bytes([0; 32]), Vec::new());
        let header = Header { log, position, class, suite, expires_at_ms: 0, roster, excluded, joins, previous };
        let envelope = sealed(header, payload.into(), &mallory);
        previous = Some(envelope.header.id());
        say(&mut chat, Frame::Envelope(envelope).encode()).await;
    }
    let settled = async {
        while let Some(frame) = hear(&mut control).await {
            if matches!(Frame::decode(frame), Ok(Some(Frame::Ack(ack))) if ack.through == 2) {
                return;
            }
        }
        panic!("the link ended");
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("the entry is settled");
    assert_eq!(alice.skipped(), 2);
    assert!(alice.messages_after(Cursor::START, 10).await.expect("messages").is_empty());
    still_works(&links, &alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_faults_pause_be_they_copies_or_not() {
    for copies in [true, false] {
        faults_pause(copies).await;
    }
}

async fn faults_pause(copies: bool) {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (mallory, own) = (identity(66), identity(1));
    let (_link, _control, mut chat) = befriend(&links, &alice, &mallory).await;
    let conversation = ConversationId::direct(&network(), &mallory.user, &own.user);
    let junk = |number: u32| {
        let header = first(&mallory, conversation);
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        Frame::Envelope(sealed(header, payload, &mallory)).encode()
    };
    let before = alice.refused();
    // One and the same, or others each time: after so many nothing is read any more, and the list of peers says so.
    for number in 0..1000 {
        say(&mut chat, junk(if copies { 0 } else { number })).await;
    }
    pause(&alice).await;
    assert!(alice.refused() < before + 500, "{} frames were looked at", alice.refused() - before);
    still_works(&links, &alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_device_gets_what_waits_for_it_on_its_next_link() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (mallory, own) = (identity(66), identity(1));
    let (link, _control, mut chat) = await_entry(&links, &alice, &mallory).await;
    let conversation = ConversationId::direct(&network(), &mallory.user, &own.user);
    for number in 0..1000u32 {
        let header = first(&mallory, conversation);
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        say(&mut chat, Frame::Envelope(sealed(header, payload, &mallory)).encode()).await;
    }
    pause(&alice).await;
    let mut events = alice.events(Cursor::START);
    link.close("another one comes");
    // No link takes over from that one.
    while !matches!(events.next().await, Some(Event::PeerDown { .. })) {}
    let (_link, mut control, mut chat) = again(&links, &mallory).await;
    say(&mut control, nothing_held(conversation)).await;
    assert!(an_entry_comes(&mut chat).await, "what a paused device shows is dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_unshown_after_the_store_failed() {
    let links = MemoryNetwork::default();
    let storage = MemoryStorage::new();
    let faults = storage.faults();
    let alice = node_on(storage, 1, &links).await;
    let mallory = identity(66);
    let (first, _control, _chat) = await_entry(&links, &alice, &mallory).await;
    let mut events = alice.events(Cursor::START);
    faults.fail_commits(Some(ErrorKind::Full));
    first.close("another one comes");
    // What comes up while the store fails shows nothing.
    let (second, _control, mut chat) = again(&links, &mallory).await;
    let conversation = ConversationId::direct(&network(), &mallory.user, &identity(1).user);
    let send = || alice.send(conversation, String::new(), Bytes::from_static(b"hello"), None);
    assert!(send().await.is_err(), "the store works");
    faults.fail_commits(None);
    let begin = Instant::now();
    while send().await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the store never recovers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!an_entry_comes(&mut chat).await, "an entry is sent before the other side showed what it holds");
    tokio::time::timeout(Duration::from_secs(60), second.closed()).await.expect("such a link ends");
    // Where it does, everything comes.
    let (third, mut control, mut chat) = again(&links, &mallory).await;
    say(&mut control, nothing_held(conversation)).await;
    assert!(an_entry_comes(&mut chat).await, "nothing is sent any more");
    third.close("enough");
    // Each link that went down had come up before.
    let (mut up, mut ups) = (true, 0);
    while ups < 1 || up {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await.expect("an event in time");
        match event.expect("an event") {
            Event::PeerUp { .. } => (up, ups) = (true, ups + 1),
            Event::PeerDown { .. } => assert!(std::mem::take(&mut up), "a device went down that wasn't up"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_on_which_nothing_is_shown_ends() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (link, _control, _chat) = befriend(&links, &alice, &identity(66)).await;
    tokio::time::timeout(Duration::from_secs(60), link.closed()).await.expect("the link ends");
}

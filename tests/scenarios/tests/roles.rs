//! What a link is for: a contact's, another device's of the same user, a service's. Each carries what its role allows.

mod common;
#[path = "common/engines.rs"]
mod engines;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::by_hand::{address, again, befriend, knock, node, open_invitation, sealed, signed, still_works};
use common::stranger::{greet, hello, network, say};
use engines::{config, until};
use peerloom_conformance::identity::{Identity, device_of, identity, record};
use peerloom_core::memory::{
    MemoryCrypto, MemoryDirectory, MemoryDiscovery, MemoryNetwork, MemoryStorage, MemoryTransport,
};
use peerloom_core::wire::{
    Ack, ConversationId, DeviceId, EntryClass, Frame, Header, Held, KeyPackageRequest, LogId, Restored, RosterId,
    ServiceKind, SuiteId, Verdict,
};
use peerloom_core::{Channel, ChannelClass, ErrorKind, Link};
use peerloom_engine::{Engine, Layers, LinkRole};

/// The role of a device's link, if it has one.
fn role(engine: &Engine, device: &DeviceId) -> Option<LinkRole> {
    engine.links().into_iter().find(|(of, _)| of == device).map(|(_, link)| link.role)
}

/// A link by hand from a device that needs no invitation.
async fn dial(links: &MemoryNetwork, who: &Identity) -> (Arc<dyn Link>, Channel, Channel) {
    let (link, mut control) = knock(links, who).await;
    let verdict = greet(&link, &mut control, who, &hello(who), None).await;
    assert_eq!(verdict, Some(Verdict::Accepted));
    let chat = link.open(ChannelClass::Chat).await.expect("a channel");
    (link, control, chat)
}

async fn ends(link: &dyn Link) {
    tokio::time::timeout(Duration::from_secs(20), link.closed()).await.expect("the link ends");
}

/// Frames of a conversation between two users, as a contact would send them.
fn of_a_conversation(from: &Identity, to: &Identity) -> Vec<Frame> {
    let conversation = ConversationId::direct(&network(), &from.user, &to.user);
    let header = Header {
        log: LogId { device: from.device, conversation },
        position: 1,
        class: EntryClass::Handshake,
        suite: MemoryCrypto::SUITE,
        expires_at_ms: 0,
        roster: RosterId::from_bytes([0; 32]),
        excluded: Vec::new(),
        joins: vec![to.device],
        previous: None,
    };
    let ack = Ack {
        log: LogId { device: to.device, conversation },
        signer: from.device,
        through: 0,
        through_id: None,
        beyond: Default::default(),
        withdrawn: Default::default(),
    };
    vec![
        Frame::Envelope(sealed(header, Bytes::from_static(b"welcome"), from)),
        Frame::Ack(signed(from, ack)),
        Frame::KeyPackageRequest(KeyPackageRequest { suite: SuiteId(1), conversation }),
        Frame::held(Held { conversation, header: None, time_ms: 1, ack: None, acknowledged: None }),
    ]
}

/// Sends frames that the link's role doesn't allow: each is counted, none ends the link.
async fn are_dropped(engine: &Engine, link: &dyn Link, control: &mut Channel, frames: &[Frame]) {
    let before = engine.refused();
    for frame in frames {
        say(control, frame.encode()).await;
    }
    let most = before + frames.len() as u64;
    until("all to be counted", async || engine.refused() >= most).await;
    assert_eq!(engine.refused(), most);
    tokio::select! {
        _ = link.closed() => panic!("the link ended"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_sends_nothing_of_conversations_and_devices() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (mallory, own) = (identity(66), identity(1));
    let offer = mallory.service_in(network(), ServiceKind::COORDINATOR, 1);
    assert_eq!(alice.use_service(&offer).expect("in use"), mallory.device);
    let (link, mut control, mut chat) = dial(&links, &mallory).await;
    until("a link", async || role(&alice, &mallory.device) == Some(LinkRole::Service)).await;
    let mut frames = of_a_conversation(&mallory, &own);
    frames.push(Frame::Devices(Box::new(mallory.devices().show())));
    frames.push(Frame::Restored(signed(&mallory, Restored { device: mallory.device, since_ms: 1 })));
    are_dropped(&alice, &*link, &mut control, &frames).await;
    are_dropped(&alice, &*link, &mut chat, &frames).await;
    // Its record is taken; another's is read, too, and refused by the delivery thread.
    say(&mut control, Frame::Record(record(&mallory, 9, &[])).encode()).await;
    are_dropped(&alice, &*link, &mut control, &[Frame::Record(record(&identity(5), 9, &[]))]).await;
    assert!(alice.contacts().is_empty() && alice.peers().is_empty(), "a service is no contact");

    // With an invitation it becomes one: the service's link ends, and the contact's is one.
    let token = open_invitation(&alice).await;
    let (second, mut control) = knock(&links, &mallory).await;
    let verdict = greet(&second, &mut control, &mallory, &hello(&mallory), Some(token)).await;
    assert_eq!(verdict, Some(Verdict::Accepted));
    let _chat = second.open(ChannelClass::Chat).await.expect("a channel");
    ends(&*link).await;
    until("a contact's link", async || role(&alice, &mallory.device) == Some(LinkRole::Contact)).await;
    assert_eq!(alice.use_service(&offer).map_err(|e| e.kind()), Err(ErrorKind::AlreadyExists));
    still_works(&links, &alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_left_has_no_link() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let mallory = identity(66);
    alice.use_service(&mallory.service_in(network(), ServiceKind::MAILBOX, 1)).expect("in use");
    let (link, _control, _chat) = dial(&links, &mallory).await;
    until("a link", async || role(&alice, &mallory.device).is_some()).await;
    assert!(alice.leave_service(&mallory.device) && !alice.leave_service(&mallory.device));
    ends(&*link).await;
    let (link, mut control) = knock(&links, &mallory).await;
    let verdict = greet(&link, &mut control, &mallory, &hello(&mallory), None).await;
    assert!(matches!(verdict, Some(Verdict::Refused(_))), "{verdict:?}");
    // One's own device and one of another network are no services.
    let own = identity(1).service_in(network(), ServiceKind::MAILBOX, 1);
    assert_eq!(alice.use_service(&own).map_err(|e| e.kind()), Err(ErrorKind::AlreadyExists));
    let other = mallory.service_in(engines::network(), ServiceKind::MAILBOX, 1);
    assert!(alice.use_service(&other).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_device_shares_the_list_and_no_conversation() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let tablet = device_of(1, 50);
    // Its certificate is enough, as a contact's would be.
    let (link, mut control, mut chat) = dial(&links, &tablet).await;
    until("a link", async || role(&alice, &tablet.device) == Some(LinkRole::Own)).await;
    assert_eq!(alice.devices().await.expect("devices").len(), 2);
    let frames = of_a_conversation(&tablet, &identity(1));
    are_dropped(&alice, &*link, &mut control, &frames).await;
    are_dropped(&alice, &*link, &mut chat, &frames).await;
    // What it knows of the user's devices is taken in.
    let mut list = tablet.devices();
    let third = device_of(1, 51);
    list.add_certificate(&third.certificate, peerloom_crypto_primitives::verify).expect("added");
    say(&mut control, Frame::Devices(Box::new(list.show())).encode()).await;
    until("the third device", async || alice.devices().await.expect("devices").len() == 3).await;
    // A contact that shows the same changes nothing, and has no such link.
    let mallory = identity(66);
    let (_mallorys, mut mallorys, _chat) = befriend(&links, &alice, &mallory).await;
    list.add_certificate(&device_of(1, 52).certificate, peerloom_crypto_primitives::verify).expect("added");
    let before = alice.refused();
    say(&mut mallorys, Frame::Devices(Box::new(list.show())).encode()).await;
    until("it to be refused", async || alice.refused() > before).await;
    assert_eq!(alice.devices().await.expect("devices").len(), 3);
    // Revoked, it has no link, and gets none.
    alice.revoke_devices(vec![tablet.device]).await.expect("revoked");
    ends(&*link).await;
    let (link, mut control) = knock(&links, &tablet).await;
    let verdict = greet(&link, &mut control, &tablet, &hello(&tablet), None).await;
    assert_eq!(verdict, Some(Verdict::Refused(peerloom_core::wire::Refusal::Revoked)));
    let _ = again(&links, &mallory).await;
    still_works(&links, &alice).await;
}

/// Two devices of a user find each other, and what one knows of the user's devices the other knows, too.
#[tokio::test(flavor = "multi_thread")]
async fn own_devices_find_each_other_and_unite_their_lists() {
    let (links, directory) = (MemoryNetwork::default(), MemoryDirectory::default());
    let start = async |number: u8, made: Identity, identity| {
        let layers = Layers {
            transports: vec![Arc::new(MemoryTransport::new(&links, address(number), made.key))],
            discoveries: vec![Arc::new(MemoryDiscovery::new(&directory))],
            storage: Arc::new(MemoryStorage::new()),
            cryptos: vec![Arc::new(MemoryCrypto::new(made.device))],
            identity,
        };
        let engine = Engine::open(layers, config()).await.expect("an engine");
        engine.start().await.expect("a network");
        engine
    };
    let phone = start(2, identity(2), identity(2).stored(2, engines::network())).await;
    let made = device_of(2, 22);
    let stored = made.stored_without_user_key(22, engines::network());
    let tablet = start(22, made, stored).await;
    phone.add_device(device_of(2, 22).certificate).await.expect("added");
    for (one, other) in [(&phone, &tablet), (&tablet, &phone)] {
        until("a link", async || role(one, &other.device()) == Some(LinkRole::Own)).await;
    }
    let known = async |engine: &Engine| engine.devices().await.expect("devices").len();
    until("both to know both", async || known(&phone).await == 2 && known(&tablet).await == 2).await;
    phone.add_device(device_of(2, 23).certificate).await.expect("added");
    until("the tablet to know the third", async || known(&tablet).await == 3).await;
    phone.revoke_devices(vec![device_of(2, 23).device]).await.expect("revoked");
    until("the tablet to know of its end", async || known(&tablet).await == 2).await;
    assert!(phone.peers().is_empty() && phone.conversations().is_empty(), "no contact, and no conversation");
}

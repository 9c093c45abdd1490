//! A device that is revoked while it has a link, or is about to have one.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::by_hand::{again, befriend, knock, node, node_on};
use common::stranger::{eventually, greet, hello, key, say};
use peerloom_conformance::identity::{Identity, device_of, identity};
use peerloom_core::memory::{MemoryNetwork, MemoryStorage};
use peerloom_core::wire::{DeviceList, Frame, Refusal, Revocation, Verdict, context};
use peerloom_core::{ChannelClass, ErrorKind};
use peerloom_crypto_primitives::{SigningKey, verify};
use peerloom_engine::{Engine, Event};

/// The devices of identity 2's user, of which those are revoked.
fn shown(devices: &[&Identity], revoked: &[&Identity]) -> Bytes {
    let mut list = identity(2).devices();
    for device in devices {
        list.add_certificate(&device.certificate, verify).expect("a certificate");
    }
    if !revoked.is_empty() {
        let devices = revoked.iter().map(|device| device.device).collect();
        let revocation = Revocation { user: list.user(), devices, issued_at_ms: 1 };
        let signed = SigningKey::from_seed(&[2; 32]).sign_object(context::REVOCATION, revocation.encode());
        list.add_revocation(&signed, verify).expect("a revocation");
    }
    frame(&list)
}

fn frame(list: &DeviceList) -> Bytes {
    Frame::Devices(Box::new(list.show())).encode()
}

fn count(alice: &Engine) -> usize {
    alice.contacts().iter().map(|contact| contact.devices.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_comes_up_after_the_revocation_is_closed() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (bob, stolen) = (identity(2), device_of(2, 22));
    let (_link, mut control, _chat) = befriend(&links, &alice, &bob).await;
    say(&mut control, shown(&[&stolen], &[])).await;
    eventually(|| count(&alice) == 2).await;

    // One link that is up, and one whose chat channel is still to come.
    let mut stolen_links = Vec::new();
    for open in [true, false] {
        let (link, mut control) = knock(&links, &stolen).await;
        assert_eq!(greet(&link, &mut control, &stolen, &hello(&stolen), None).await, Some(Verdict::Accepted));
        let chat = if open { Some(link.open(ChannelClass::Chat).await.expect("a channel")) } else { None };
        stolen_links.push((link, control, chat));
    }
    eventually(|| alice.peers().iter().any(|peer| peer.device == stolen.device && peer.link.is_some())).await;
    let mut events = alice.events(alice.now().await.expect("a place"));
    say(&mut control, shown(&[&stolen], &[&stolen])).await;
    eventually(|| count(&alice) == 1).await;
    let reason = loop {
        if let Some(Event::PeerDown { device, reason, .. }) = events.next().await
            && device == stolen.device
        {
            break reason;
        }
    };
    assert_eq!(reason, "the device was revoked");
    if let Some((link, _, chat)) = stolen_links.last_mut() {
        *chat = link.open(ChannelClass::Chat).await.ok();
        if let Some(chat) = chat {
            let _ = futures_util::SinkExt::send(&mut chat.sender, Bytes::from_static(b"")).await;
        }
    }
    for (link, ..) in &stolen_links {
        tokio::time::timeout(Duration::from_secs(30), link.closed()).await.expect("the link is closed");
    }
    let (link, mut control) = knock(&links, &stolen).await;
    let verdict = greet(&link, &mut control, &stolen, &hello(&stolen), None).await;
    assert!(matches!(verdict, None | Some(Verdict::Refused(Refusal::Revoked))), "{verdict:?}");
}

/// A list that another user's device shows, or that is signed by no key of the user, changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_user_revokes_a_device() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let (bob, mallory) = (identity(2), identity(66));
    let (_bobs, mut bobs_control, _bobs_chat) = befriend(&links, &alice, &bob).await;
    let (_mallorys, mut control, _chat) = befriend(&links, &alice, &mallory).await;
    say(&mut control, shown(&[], &[&bob])).await;
    let forged = {
        let revocation = Revocation { user: bob.user, devices: vec![bob.device], issued_at_ms: 1 };
        let signed = key(&mallory).sign_object(context::REVOCATION, revocation.encode());
        let mut list = bob.devices();
        assert!(list.add_revocation(&signed, verify).is_err());
        list
    };
    say(&mut bobs_control, frame(&forged)).await;
    say(&mut control, frame(&mallory.devices())).await;
    // Both are linked all the same.
    let linked = |who: &Identity| alice.peers().iter().any(|peer| peer.device == who.device && peer.link.is_some());
    eventually(|| linked(&bob) && linked(&mallory) && count(&alice) == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(linked(&bob) && count(&alice) == 2);
}

/// What came while the store failed was not taken in: each link is made again, on which it is shown once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_came_while_the_store_failed_comes_again() {
    let links = MemoryNetwork::default();
    let storage = MemoryStorage::new();
    let faults = storage.faults();
    let alice = node_on(storage, 1, &links).await;
    let (bob, stolen) = (identity(2), device_of(2, 22));
    let (link, mut control, _chat) = befriend(&links, &alice, &bob).await;
    say(&mut control, shown(&[&stolen], &[])).await;
    eventually(|| count(&alice) == 2).await;
    faults.fail_commits(Some(ErrorKind::Full));
    say(&mut control, shown(&[&stolen], &[&stolen])).await;
    // The thread that writes has met the failure.
    let failed = alice.invite(Duration::from_secs(60), 1).await;
    assert!(failed.is_err(), "{failed:?}");
    faults.fail_commits(None);
    tokio::time::timeout(Duration::from_secs(30), link.closed()).await.expect("the link is made again");
    eventually(|| count(&alice) == 2).await;
    let (_link, mut control, _chat) = again(&links, &bob).await;
    say(&mut control, shown(&[&stolen], &[&stolen])).await;
    eventually(|| count(&alice) == 1).await;
}

//! What others can make a node's process hold in memory, over QUIC: a contact that dials without end and fills every
//! link, and strangers who fill theirs before any handshake.
#![cfg(target_os = "linux")]

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::stranger::{hello, prove};
use common::{Running, init, ok, ok_lines, peak};
use futures_util::SinkExt;
use peerloom_conformance::identity::{Identity, identity};
use peerloom_core::wire::{Address, Hello, NetworkId, Verdict};
use peerloom_core::{Channel, ChannelClass, Link, Transport};
use peerloom_crypto_mls::MlsCrypto;
use peerloom_transport_quic::{QuicConfig, QuicTransport};
use tokio::task::JoinSet;

/// What a device's links may hold: 3 that are up, 2 in their handshakes, 12 MiB each and 8 MiB of frames for all; and
/// as much again for those that are being closed, and for what the allocator keeps.
const OF_A_CONTACT: usize = 160;
/// 64 strangers, 64 KiB and some 100 KiB of TLS and buffers each; and what the allocator keeps.
const OF_STRANGERS: usize = 64;

fn transport(who: &Identity, ip: Ipv4Addr) -> Arc<dyn Transport> {
    let config = QuicConfig { listen: format!("{ip}:0"), ..QuicConfig::default() };
    Arc::new(QuicTransport::new(config, &who.secret).expect("a transport"))
}

/// A node in a process of its own, its address, and a token of an invitation that is open.
fn node(folder: &std::path::Path) -> (Running, Address, [u8; 16]) {
    let folder = init(folder, "alice");
    let running = Running::start(&folder);
    let invitation = common::invitation(&folder);
    (running, invitation.addresses[0].clone(), invitation.token)
}

/// Sends on a channel until it ends.
async fn flood(mut channel: Channel) {
    let frame = Bytes::from(vec![0xff; 60 * 1024]);
    while channel.sender.send(frame.clone()).await.is_ok() {}
}

/// Opens so many channels of a class, and fills each.
fn fill(link: &Arc<dyn Link>, class: ChannelClass, channels: usize, floods: &mut JoinSet<()>) {
    for _ in 0..channels {
        let link = link.clone();
        floods.spawn(async move {
            if let Ok(channel) = link.open(class).await {
                flood(channel).await;
            }
        });
    }
}

/// One link as the contact's device, which is filled and never closed; `false`: there was none.
async fn fill_one(dialer: &dyn Transport, door: &Address, who: &Identity, token: Option<[u8; 16]>, chat: bool) -> bool {
    let hello = Hello { network: NetworkId::from_name("test"), suites: vec![MlsCrypto::SUITE], ..hello(who) };
    let Ok(link) = dialer.dial(door, None, None).await else { return false };
    let Ok(mut control) = link.open(ChannelClass::Control).await else { return false };
    if control.sender.send(hello.encode()).await.is_err() {
        return false;
    }
    let Some(Verdict::Accepted) = prove(&link, &mut control, who, &hello, token).await else { return false };
    tokio::spawn(async move {
        let mut floods = JoinSet::new();
        // Held open, and not a word on it: the link lives.
        let _chat = if chat { link.open(ChannelClass::Chat).await.ok() } else { None };
        fill(&link, ChannelClass::Bulk, 12, &mut floods);
        link.closed().await;
        drop(control);
    });
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_that_redials_and_fills_its_links_takes_little_memory() {
    const DIALERS: usize = 16;
    /// Several times as long as a young link keeps its place.
    const ATTACK: Duration = Duration::from_secs(15);
    let base = tempfile::tempdir().expect("a folder");
    let (alice, door, token) = node(base.path());
    let mallory = Arc::new(identity(66));
    let dialer = transport(&mallory, Ipv4Addr::LOCALHOST);
    assert!(fill_one(&*dialer, &door, &mallory, Some(token), true).await, "a contact");
    let before = peak(alice.pid());
    let (tried, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let begin = Instant::now();
    let mut dials = JoinSet::new();
    for _ in 0..DIALERS {
        let (dialer, door, mallory) = (dialer.clone(), door.clone(), mallory.clone());
        let (tried, made) = (tried.clone(), made.clone());
        dials.spawn(async move {
            while begin.elapsed() < ATTACK {
                let number = tried.fetch_add(1, Ordering::Relaxed);
                let filled = fill_one(&*dialer, &door, &mallory, None, number % 2 == 0).await;
                made.fetch_add(usize::from(filled), Ordering::Relaxed);
            }
        });
    }
    while let Some(dialed) = dials.join_next().await {
        dialed.expect("no panic");
    }
    let (after, tried, made) = (peak(alice.pid()), tried.load(Ordering::Relaxed), made.load(Ordering::Relaxed));
    println!("{tried} dials, {made} links: from {before} to {after} MiB");
    assert!(made > 3, "only {made} links came of {tried} dials");
    assert!(after - before < OF_A_CONTACT, "a contact's links took {} MiB", after - before);
    assert_eq!(ok_lines(&alice.folder, &["contacts"]).len(), 1, "it serves its owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_fill_links_before_a_handshake_take_little_memory() {
    let base = tempfile::tempdir().expect("a folder");
    // An invitation is open: strangers may come in.
    let (alice, door, _token) = node(base.path());
    let before = peak(alice.pid());
    let mut strangers = JoinSet::new();
    for number in 0..128_u8 {
        let door = door.clone();
        strangers.spawn(async move {
            let dialer = transport(&identity(100 + number % 64), Ipv4Addr::new(127, 0, 1, 1 + number));
            let mut floods = JoinSet::new();
            let link = dialer.dial(&door, None, None).await.ok()?;
            // The node waits for the handshake's first frame on it.
            let control = link.open(ChannelClass::Control).await.ok()?;
            fill(&link, ChannelClass::Bulk, 15, &mut floods);
            Some((dialer, link, control, floods))
        });
    }
    let mut links = Vec::new();
    while let Some(link) = strangers.join_next().await {
        links.extend(link.expect("no panic"));
    }
    // As long as a handshake may take.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = peak(alice.pid());
    println!("{} links of strangers: from {before} to {after} MiB", links.len());
    assert!(links.len() >= 64, "only {} links came about", links.len());
    assert!(after - before < OF_STRANGERS, "{} strangers' links took {} MiB", links.len(), after - before);
    assert!(ok(&alice.folder, &["invite"]).contains("peerloom"), "it serves its owner");
}

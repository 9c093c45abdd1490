//! What every transport must do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::wire::{Address, PublicKey, limits};
use peerloom_core::{Channel, ChannelClass, ErrorKind, Link, Listener, Signaling, Transport};

/// A transport with the key of its device.
pub struct Side {
    /// The transport, not listening yet.
    pub transport: Arc<dyn Transport>,
    /// The device's key.
    pub key: PublicKey,
    /// For transports that need one.
    pub signaling: Option<Arc<dyn Signaling>>,
}

/// Runs the suite over two transports that can reach each other. `unadmitted` is the transport's claim: how many unread
/// bytes a link takes in before it is admitted, over all channels.
pub async fn run(dialer: Side, listener: Side, unadmitted: u64) {
    assert!(unadmitted <= UNADMITTED, "the contract allows {UNADMITTED} bytes, and the transport claims {unadmitted}");
    let most = unadmitted + OVERSHOOT;
    let mut accepting = listener.transport.listen(listener.signaling.clone()).await.expect("it listens");
    let address = accepting.addresses().first().cloned().expect("an address");
    assert_eq!(address.scheme(), listener.transport.scheme());
    assert!(listener.transport.caps().max_frame >= limits::CHAT_FRAME);
    // A dialer that doesn't listen would miss the restarts and offers of others, and needn't.
    let _dialer_listens = match &dialer.signaling {
        Some(signaling) => Some(dialer.transport.listen(Some(signaling.clone())).await.expect("it listens")),
        None => None,
    };

    wrong_keys_and_places_are_refused(&dialer, &address).await;
    // A refused dial may still have reached the other side.
    let (near, far) = connect(&dialer, &listener, &address, &mut *accepting).await;
    if listener.transport.caps().authenticates {
        assert_eq!(near.remote_key().as_ref(), Some(&listener.key), "the dialed side's key is authenticated");
        assert_eq!(far.remote_key().as_ref(), Some(&dialer.key), "and the dialer's");
    }
    assert_eq!(near.channel_binding().expect("a binding"), far.channel_binding().expect("a binding"));
    frames_arrive_whole_and_in_order(&near, &far).await;
    a_slow_reader_holds_up_its_own_channel_only(&near, &far).await;
    too_long_frames_are_refused(&near, &far).await;
    channels_end(&near, &far).await;

    let (near, far, channel, unread) = reach(&dialer, &listener, &address, &mut *accepting).await;
    a_link_takes_in_little_until_it_is_admitted(near, far, channel, unread, most).await;
    let (near, far, ..) = reach(&dialer, &listener, &address, &mut *accepting).await;
    nor_do_many_channels_change_that(near, far, most).await;

    let (near, far) = connect(&dialer, &listener, &address, &mut *accepting).await;
    let (second, other) = connect(&dialer, &listener, &address, &mut *accepting).await;
    let (a, b) = (near.channel_binding().expect("a binding"), second.channel_binding().expect("a binding"));
    assert_ne!(a, b, "each link has a binding of its own");
    closing_ends_everything(second, other).await;

    dialer.transport.shutdown().await;
    let gone = within("the far link to end", far.closed()).await;
    assert_eq!(gone.kind(), ErrorKind::Closed);
    listener.transport.shutdown().await;
    // Whatever had been accepted before may still come; then it ends.
    within("accepting to end", async { while accepting.accept().await.is_some() {} }).await;
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), work).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// A link that both sides have admitted.
pub async fn connect(
    dialer: &Side,
    listener: &Side,
    address: &Address,
    accepting: &mut dyn Listener,
) -> (Arc<dyn Link>, Arc<dyn Link>) {
    let (near, far, ..) = reach(dialer, listener, address, accepting).await;
    near.admit();
    far.admit();
    (near, far)
}

/// A link that nobody has admitted yet, and its first channel.
async fn reach(
    dialer: &Side,
    listener: &Side,
    address: &Address,
    accepting: &mut dyn Listener,
) -> (Arc<dyn Link>, Arc<dyn Link>, Channel, Channel) {
    let dial =
        async { dialer.transport.dial(address, Some(&listener.key), dialer.signaling.clone()).await.expect("a link") };
    let near = within("a dial", dial).await;
    let mut ping = within("a channel", near.open(ChannelClass::Control)).await.expect("a channel");
    ping.sender.send(Bytes::from_static(b"ping")).await.expect("a frame");
    loop {
        let far = within("an accept", accepting.accept()).await.expect("a link");
        // Links of refused dials are dead by now; the live one answers.
        let pong = tokio::time::timeout(Duration::from_secs(2), far.accept()).await;
        if let Ok(Ok(mut channel)) = pong {
            assert_eq!(channel.receiver.next().await.expect("a frame").expect("a frame").as_ref(), b"ping");
            return (near, far, ping, channel);
        }
    }
}

async fn wrong_keys_and_places_are_refused(dialer: &Side, address: &Address) {
    let wrong = PublicKey::ed25519([9; 32]);
    let refused = within("a refusal", dialer.transport.dial(address, Some(&wrong), dialer.signaling.clone())).await;
    match refused {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}"),
        Ok(_) => assert!(!dialer.transport.caps().authenticates, "another device's key was accepted"),
    }
    let nonsense: Address = format!("{}://nowhere-at-all", address.scheme()).parse().expect("an address");
    assert!(within("a refusal", dialer.transport.dial(&nonsense, None, dialer.signaling.clone())).await.is_err());
}

async fn open(near: &Arc<dyn Link>, far: &Arc<dyn Link>, class: ChannelClass) -> (Channel, Channel) {
    let mut here = near.open(class).await.expect("a channel");
    here.sender.send(Bytes::from_static(b"first")).await.expect("a frame");
    let mut there = within("a channel", far.accept()).await.expect("a channel");
    assert_eq!(there.class, class, "the class comes across");
    assert_eq!(receive(&mut there).await.as_ref(), b"first");
    (here, there)
}

async fn receive(channel: &mut Channel) -> Bytes {
    within("a frame", channel.receiver.next()).await.expect("a frame").expect("a frame")
}

async fn frames_arrive_whole_and_in_order(near: &Arc<dyn Link>, far: &Arc<dyn Link>) {
    for class in [ChannelClass::Control, ChannelClass::Chat, ChannelClass::Bulk] {
        let (mut here, mut there) = open(near, far, class).await;
        let sizes = [0, 1, 1000, 16_384, class.max_frame()];
        let send = async {
            for (number, size) in sizes.iter().enumerate() {
                here.sender.send(Bytes::from(vec![number as u8; *size])).await.expect("a frame");
            }
        };
        let take = async {
            for (number, size) in sizes.iter().enumerate() {
                let frame = receive(&mut there).await;
                assert_eq!(frame.len(), *size);
                assert!(frame.iter().all(|b| *b == number as u8));
            }
        };
        tokio::join!(send, take);
        there.sender.send(Bytes::from_static(b"back")).await.expect("a frame");
        assert_eq!(receive(&mut here).await.as_ref(), b"back", "channels carry both ways");
    }
}

async fn a_slow_reader_holds_up_its_own_channel_only(near: &Arc<dyn Link>, far: &Arc<dyn Link>) {
    let (mut bulk, _unread) = open(near, far, ChannelClass::Bulk).await;
    let (mut chat, mut read) = open(near, far, ChannelClass::Chat).await;
    let frame = Bytes::from(vec![7; 1024 * 1024]);
    let mut accepted = 0;
    let flood = async {
        loop {
            bulk.sender.send(frame.clone()).await.expect("a frame");
            accepted += 1;
        }
    };
    let stuck = tokio::time::timeout(Duration::from_secs(2), flood).await;
    assert!(stuck.is_err() && accepted < 64, "nobody reads, and {accepted} MiB were accepted");
    for number in 0..20u8 {
        chat.sender.send(Bytes::from(vec![number])).await.expect("a frame");
        assert_eq!(receive(&mut read).await.as_ref(), [number], "chat goes on beside a stuck bulk channel");
    }
}

/// Most unread bytes of a link before it is admitted, as the contract of `Link` has it.
const UNADMITTED: u64 = 256 * 1024;
/// What statistics may count beyond unread bytes: the handshake, headers of packets and frames, packets sent again.
const OVERSHOOT: u64 = 64 * 1024;
/// What is read once the link is admitted: much more than any claim.
const ADMITTED: u64 = 4 * 1024 * 1024;

async fn flood(channel: &mut Channel) {
    let frame = Bytes::from(vec![7; 16 * 1024]);
    while channel.sender.send(frame.clone()).await.is_ok() {}
}

async fn a_link_takes_in_little_until_it_is_admitted(
    near: Arc<dyn Link>,
    far: Arc<dyn Link>,
    mut channel: Channel,
    mut unread: Channel,
    most: u64,
) {
    let flooding = tokio::spawn(async move { flood(&mut channel).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = far.stats().bytes_received;
    assert!(taken <= most, "a stranger made the link take in {taken} bytes");
    // Admitted, it carries all of it.
    near.admit();
    far.admit();
    let mut read = 0;
    while read < ADMITTED {
        read += receive(&mut unread).await.len() as u64;
    }
    flooding.abort();
}

async fn nor_do_many_channels_change_that(near: Arc<dyn Link>, far: Arc<dyn Link>, most: u64) {
    let mut floods = tokio::task::JoinSet::new();
    for number in 0..40 {
        let (near, class) = (near.clone(), [ChannelClass::Chat, ChannelClass::Bulk][number % 2]);
        floods.spawn(async move {
            // Refused, waiting for ever, or the link's end: all of that is in order.
            if let Ok(mut channel) = near.open(class).await {
                flood(&mut channel).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let taken = far.stats().bytes_received;
    assert!(taken <= most, "a stranger made the link take in {taken} bytes on many channels");
    floods.shutdown().await;
    near.close("done");
}

async fn too_long_frames_are_refused(near: &Arc<dyn Link>, far: &Arc<dyn Link>) {
    let (mut here, _there) = open(near, far, ChannelClass::Control).await;
    let long = Bytes::from(vec![0; ChannelClass::Control.max_frame() + 1]);
    let refused = within("a refusal", here.sender.send(long)).await;
    assert_eq!(refused.map_err(|e| e.kind()), Err(ErrorKind::TooLarge));
}

async fn channels_end(near: &Arc<dyn Link>, far: &Arc<dyn Link>) {
    let (mut here, mut there) = open(near, far, ChannelClass::Chat).await;
    here.sender.send(Bytes::from_static(b"last")).await.expect("a frame");
    here.sender.close().await.expect("a clean end");
    assert_eq!(receive(&mut there).await.as_ref(), b"last");
    drop(here);
    let end = within("the channel's end", there.receiver.next()).await;
    assert!(end.is_none_or(|frame| frame.is_err()), "after the end nothing comes");
}

async fn closing_ends_everything(near: Arc<dyn Link>, far: Arc<dyn Link>) {
    let (_here, mut there) = open(&near, &far, ChannelClass::Chat).await;
    near.close("done");
    assert_eq!(within("the link's end", far.closed()).await.kind(), ErrorKind::Closed);
    let frame = within("the channel's end", there.receiver.next()).await;
    assert!(frame.is_none_or(|f| f.is_err()));
    assert!(within("a refusal", far.open(ChannelClass::Chat)).await.is_err());
    assert!(within("a refusal", far.accept()).await.is_err());
}

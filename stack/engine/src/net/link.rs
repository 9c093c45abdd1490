//! One link, from the handshake to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::wire::{DeviceId, Frame, PublicKey, Statement};
use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, FrameReceiver, FrameSender, Link, Place, Result};
use peerloom_crypto_primitives::verify;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, info, trace, warn};

use super::Shared;
use super::handshake::{LINGER, Ready};
use super::links::Budget;
use crate::driver::Input;
use crate::roles::LinkRole;

/// Times the bytes of a frame that its decoded parts take in memory at most: ranges, spans and short fields.
const DECODED: usize = 6;
/// How long a redundant link lives on, so that what is on its way arrives.
const GRACE: Duration = Duration::from_millis(500);
/// How long the dialing side may take to open the chat channel.
const CHAT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take until the delivery thread took in what the other side holds of our log. Nothing is sent
/// before that, so a link on which that frame was lost, here or there, carries nothing for good.
const HELD_TIMEOUT: Duration = Duration::from_secs(30);
/// Channels beside control and chat that the other side may try to open: each is refused.
const UNEXPECTED: usize = 16;

/// Carries frames both ways until the link ends.
/// `place` is held until it is registered.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<dyn Link>, ready: Ready, place: Option<Place>) {
    let span = debug_span!("link", device = %ready.device, address = link.remote_address());
    run_inside(shared, link, ready, place).instrument(span).await;
}

async fn run_inside(shared: Arc<Shared>, link: Arc<dyn Link>, ready: Ready, place: Option<Place>) {
    let Ready { device, initiator, negotiated, control } = ready;
    let lost = async {
        match &place {
            Some(place) => place.lost().await,
            None => std::future::pending().await,
        }
    };
    let newer = || Error::new(ErrorKind::Overloaded, "engine", "accept", "the device makes newer links meanwhile");
    let chat = tokio::select! {
        chat = open_chat(&link, initiator) => chat,
        () = lost => Err(newer()),
    };
    let chat = match chat {
        Ok(chat) => chat,
        Err(error) => {
            debug!(?device, %error, "a link ended before its chat channel was open");
            shared.links.changed(device);
            link.close("no chat channel");
            return;
        }
    };
    drop(place);
    let Some(role) = shared.contacts.role(&device) else {
        debug!(?device, "the device was revoked between its handshake and now");
        shared.links.changed(device);
        return link.close("this device has no links any more");
    };
    let registered = shared.links.register(&shared.own.device, device, (initiator, role), negotiated, &link);
    let Some(registered) = registered else {
        shared.links.count_refused();
        shared.links.changed(device);
        debug!(?device, "the device has links enough; closing one more");
        return link.close("this device has links enough");
    };
    if !registered.redundant.is_empty() {
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            registered.redundant.iter().for_each(|link| link.close("redundant"));
        });
    }
    info!(?device, %role, address = link.remote_address(), path = %link.path(), version = negotiated.version, "a link is up");
    let up = shared.driver.input(Input::LinkUp(device)).await;
    let end = match up {
        Ok(()) => {
            let from = From { device, role, link: registered.id, budget: registered.budget };
            let queues = [registered.control, registered.chat];
            pump(&shared, &link, &from, [control, chat], queues, &registered.shown).await
        }
        Err(error) => error,
    };
    link.close("ended");
    info!(?device, %end, "a link ended");
    let taken_over = shared.links.unregister(&device, registered.id);
    shared.links.changed(device);
    let news = if taken_over { Input::LinkUp(device) } else { Input::LinkDown(device, end.message().into()) };
    // Fails only when the node is shut down.
    let _ = shared.driver.input(news).await;
}

async fn open_chat(link: &Arc<dyn Link>, initiator: bool) -> Result<Channel> {
    if initiator {
        return link.open(ChannelClass::Chat).await;
    }
    let late = |_| Error::new(ErrorKind::Timeout, "engine", "accept", "the dialing side opened no chat channel");
    let channel = tokio::time::timeout(CHAT_TIMEOUT, link.accept()).await.map_err(late)??;
    match channel.class {
        ChannelClass::Chat => Ok(channel),
        _ => Err(Error::new(ErrorKind::Malformed, "engine", "accept", "the second channel is not a chat channel")),
    }
}

/// Where frames come from.
struct From {
    device: DeviceId,
    role: LinkRole,
    link: u64,
    budget: Budget,
}

/// Runs the four directions together; the first that ends ends the link.
async fn pump(
    shared: &Shared,
    link: &Arc<dyn Link>,
    from: &From,
    [control, chat]: [Channel; 2],
    [control_queue, chat_queue]: [mpsc::Receiver<Bytes>; 2],
    shown: &CancellationToken,
) -> Error {
    let outcome = tokio::select! {
        end = write(control.sender, control_queue) => end,
        end = write(chat.sender, chat_queue) => end,
        end = read(shared, from, control.receiver) => end,
        end = read(shared, from, chat.receiver) => end,
        error = shows_nothing(shown) => Err(error),
        error = leaves(shared) => Err(error),
        error = refuse_channels(shared, link) => Err(error),
        error = link.closed() => Err(error),
    };
    outcome.err().unwrap_or_else(|| Error::new(ErrorKind::Closed, "engine", "link", "the other side ended it"))
}

/// Ends if the other side doesn't show in time what it holds.
async fn shows_nothing(shown: &CancellationToken) -> Error {
    if tokio::time::timeout(HELD_TIMEOUT, shown.cancelled()).await.is_ok() {
        return std::future::pending().await;
    }
    Error::new(ErrorKind::Timeout, "engine", "link", "the other side doesn't show what it holds of this node's log")
}

/// Ends once this node leaves the network, and its notice had time to arrive.
async fn leaves(shared: &Shared) -> Error {
    shared.links.left().await;
    tokio::time::sleep(LINGER).await;
    Error::new(ErrorKind::Closed, "engine", "link", "this folder isn't its device's newest, and has no links")
}

/// Refuses further channels, so that nothing piles up on one without a reader; ends with too many.
async fn refuse_channels(shared: &Shared, link: &Arc<dyn Link>) -> Error {
    for _ in 0..UNEXPECTED {
        match link.accept().await {
            Err(error) if error.kind() == ErrorKind::Closed => return error,
            // Dropping it resets it.
            refused => drop(refused),
        }
        shared.links.count_refused();
    }
    Error::new(ErrorKind::Malformed, "engine", "link", "the other side opens channels that nobody expects")
}

async fn write(mut channel: FrameSender, mut queue: mpsc::Receiver<Bytes>) -> Result<()> {
    while let Some(frame) = queue.recv().await {
        trace!(bytes = frame.len(), "frame out");
        channel.feed(frame).await?;
        // Whatever else waits goes out with it.
        while let Ok(frame) = queue.try_recv() {
            channel.feed(frame).await?;
        }
        channel.flush().await?;
    }
    Ok(())
}

async fn read(shared: &Shared, from: &From, mut channel: FrameReceiver) -> Result<()> {
    let From { device, role, link, ref budget } = *from;
    while let Some(frame) = channel.next().await {
        let bytes = frame?;
        trace!(bytes = bytes.len(), "frame in");
        let size = bytes.len();
        let frame = match Frame::decode(bytes) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                // A newer version's.
                shared.links.count_skipped();
                continue;
            }
            Err(error) => {
                shared.links.count_refused();
                warn!(?device, %error, "a malformed frame; closing the link");
                return Err(error.into());
            }
        };
        let Some((_, key)) = shared.contacts.proved(&device).filter(|(now, _)| *now == role) else {
            let message = "the device isn't any more what it was when the link came up";
            return Err(Error::new(ErrorKind::Refused, "engine", "link", message));
        };
        if !budget.pass(role, frame.kind()).await {
            shared.links.count_refused();
            debug!(?device, %role, kind = frame.kind().name, "a frame that the device's role may not send");
            continue;
        }
        if !is_genuine(shared, &device, &key, &frame) {
            shared.links.count_refused();
            warn!(?device, kind = frame.kind().name, "a frame whose signature is wrong; closing the link");
            let message = "a frame isn't signed by the device that sends it";
            return Err(Error::new(ErrorKind::Unauthenticated, "engine", "link", message));
        }
        // Not the delivery thread's business: nothing of it is stored.
        if let Frame::Signal(signal) = frame {
            shared.carrier.on_frame(device, signal);
            continue;
        }
        let _held = budget.hold(weight(&frame, size)).await?;
        shared.driver.input(Input::Frame { device, link, frame: Box::new(frame), _held }).await?;
    }
    Ok(())
}

/// What a frame of so many bytes holds in memory: an envelope is its bytes, what others list is decoded.
fn weight(frame: &Frame, size: usize) -> usize {
    match frame {
        Frame::Envelope(_) => size,
        _ => size.saturating_mul(DECODED),
    }
}

/// Whether what a frame says is signed by the device that says it. The delivery thread takes in nothing
/// that isn't, and needn't look again.
fn is_genuine(shared: &Shared, device: &DeviceId, theirs: &PublicKey, frame: &Frame) -> bool {
    let ours = shared.own.key.public();
    let by_them = |message: &[u8], signature: &[u8]| verify(theirs, message, signature);
    let by_us = |message: &[u8], signature: &[u8]| verify(ours, message, signature);
    match frame {
        Frame::Envelope(envelope) => envelope.header.log.device == *device && envelope.verify(by_them),
        Frame::Ack(ack) => ack.signer() == *device && ack.verify(by_them),
        Frame::CannotOpen(cannot_open) => cannot_open.signer() == *device && cannot_open.verify(by_them),
        Frame::GapRequest(request) => request.signer() == *device && request.verify(by_them),
        Frame::Withdrawal(withdrawal) => withdrawal.signer() == *device && withdrawal.verify(by_them),
        Frame::NotForYou(statement) => statement.signer() == *device && statement.verify(by_them),
        Frame::Held(held) => {
            held.header.as_ref().is_none_or(|header| header.verify(by_us))
                && held.ack.as_ref().is_none_or(|ack| ack.signer() == *device && ack.verify(by_them))
                && held.acknowledged.as_ref().is_none_or(|ack| ack.signer() == shared.own.device && ack.verify(by_us))
        }
        Frame::Restored(notice) if notice.device == shared.own.device => notice.verify(by_us),
        Frame::Restored(notice) => notice.signer() == *device && notice.verify(by_them),
        // Verified where they are taken in, or not signed.
        Frame::KeyPackageRequest(_)
        | Frame::KeyPackage(_)
        | Frame::Record(_)
        | Frame::Signal(_)
        | Frame::Devices(_) => true,
    }
}

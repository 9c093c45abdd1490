//! One data channel, which carries one channel after another.
//!
//! SCTP's back-pressure is the whole connection's, so each channel has a window of its own: the sender
//! spends it, the receiver gives it back as frames are taken. The reader of a data channel therefore
//! never waits, and a channel that isn't looked at holds up no other.
//!
//! A lane isn't closed with its channel: the crate would use a stream's number again before the other
//! side has let go of it. It becomes free instead, and the side that opened it opens the next channel on it.

mod write;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, FrameReceiver, FrameSender, Result};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::PollSender;
use webrtc::data_channel::{DataChannel, DataChannelEvent};

use crate::message::{INITIAL_WINDOW, Message, OVERHEAD, window};
use crate::traffic::Traffic;

/// Frames that wait to be written to a channel.
const FRAMES: usize = 4;
/// Channels that wait to be accepted.
const WAITING: usize = 16;
/// Channels that the other side may open until the link is admitted: for control and chat.
const CHANNELS_FIRST: usize = 2;

/// What the lanes of one link share. It ends with the link; a lane that runs on holds it weakly.
pub(crate) struct LaneGroup {
    pub(crate) traffic: Traffic,
    /// Until then the other side may be a stranger. And how many channels it opened.
    admitted: AtomicBool,
    theirs: AtomicUsize,
    channels: mpsc::Sender<Waiting>,
}

/// A channel that the other side opened, and where it is.
pub(crate) struct Waiting {
    channel: Channel,
    lane: Arc<Lane>,
    number: u64,
}

impl LaneGroup {
    /// With the channels that the other side opens.
    pub(crate) fn new(traffic: Traffic) -> (Arc<Self>, mpsc::Receiver<Waiting>) {
        let (channels, waiting) = mpsc::channel(WAITING);
        let group = Self { traffic, admitted: AtomicBool::new(false), theirs: AtomicUsize::new(0), channels };
        (Arc::new(group), waiting)
    }

    /// The link was admitted; [`Lane::admitted`] follows for each lane.
    pub(crate) fn admit(&self) {
        self.admitted.store(true, Ordering::Release);
    }

    fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Acquire)
    }

    /// A channel that the other side opened.
    fn on_channel(&self, channel: Channel, lane: Arc<Lane>, number: u64) -> Result<()> {
        let full = || Error::new(ErrorKind::Overloaded, "webrtc", "accept a channel", "too many channels wait");
        let opened = self.theirs.fetch_add(1, Ordering::AcqRel);
        if !self.is_admitted() && opened >= CHANNELS_FIRST {
            return Err(full());
        }
        self.channels.try_send(Waiting { channel, lane, number }).map_err(|_| full())
    }

    /// Takes a channel into use.
    pub(crate) fn accept(&self, waiting: Waiting) -> Channel {
        let Waiting { channel, lane, number } = waiting;
        lane.accepted(number, self);
        channel
    }
}

/// A data channel, as long as its connection lives.
pub(crate) struct Lane {
    channel: Arc<dyn DataChannel>,
    /// We opened it, so we may use it again.
    ours: bool,
    /// Whether the data channel can carry yet.
    opened: watch::Sender<bool>,
    /// What the current channel may still send.
    credit: AtomicUsize,
    /// What was taken from the current channel and not yet given back as credit.
    taken: AtomicUsize,
    /// Small messages for the writer, and its alarm.
    urgent: Mutex<Urgent>,
    wake: Notify,
    /// The crate's buffer has emptied.
    drained: Notify,
    used: Mutex<Use>,
}

/// What must not wait for frames. Of questions and answers the newest counts: no peer fills memory
/// with them.
#[derive(Default)]
struct Urgent {
    ping: Option<u64>,
    pong: Option<u64>,
    bye: bool,
}

/// The channel that a lane carries.
#[derive(Default)]
struct Use {
    /// Counts the lane's channels.
    number: u64,
    class: Option<ChannelClass>,
    /// The other side doesn't know of it yet: nothing about it may be sent before its opening.
    unopened: bool,
    /// For the writer to take.
    outgoing: Option<mpsc::Receiver<Bytes>>,
    incoming: Option<mpsc::UnboundedSender<(Bytes, usize)>>,
    /// The frame that is being put together, its length, and what it has cost.
    partial: BytesMut,
    expected: usize,
    cost: usize,
    /// What the other side may still send.
    window: usize,
    /// The channel was opened here, or taken from those that wait.
    accepted: bool,
    /// The other side was given the whole window.
    granted: bool,
    /// Its reader is gone here; and the other side knows.
    unread: bool,
    stopped: bool,
    they_stopped: bool,
    our_end: bool,
    their_end: bool,
    our_done: bool,
    their_done: bool,
}

impl Use {
    fn is_over(&self) -> bool {
        self.class.is_none() || self.our_done && self.their_done
    }

    /// Counts a message against what the other side may send.
    fn spend(&mut self, length: usize) -> Result<()> {
        let cost = length + OVERHEAD;
        self.window = self.window.checked_sub(cost).ok_or_else(|| malformed("more than the window allows"))?;
        self.cost += cost;
        Ok(())
    }
}

impl Lane {
    pub(crate) fn new(channel: Arc<dyn DataChannel>, ours: bool) -> Arc<Self> {
        Arc::new(Self {
            channel,
            ours,
            opened: watch::Sender::new(false),
            credit: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            urgent: Mutex::default(),
            wake: Notify::new(),
            drained: Notify::new(),
            used: Mutex::default(),
        })
    }

    fn used(&self) -> MutexGuard<'_, Use> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries both ways until the data channel ends, and says why it did.
    pub(crate) async fn run(self: Arc<Self>, group: Weak<LaneGroup>) -> Error {
        let end = tokio::select! {
            error = self.clone().read(group.clone()) => error,
            error = self.clone().write(group) => error,
        };
        // Readers and writers see it.
        let mut used = self.used();
        (used.incoming, used.outgoing) = (None, None);
        end
    }

    /// Completes once the data channel can carry.
    pub(crate) async fn opened(&self) {
        // The sender is in `self`: it can't be gone.
        let _ = self.opened.subscribe().wait_for(|opened| *opened).await;
    }

    /// Whether the data channel can carry something.
    pub(crate) fn is_open(&self) -> bool {
        *self.opened.borrow()
    }

    /// Whether this is the data channel that we opened.
    pub(crate) fn is_our(&self, channel: &dyn DataChannel) -> bool {
        self.ours && self.channel.id() == channel.id()
    }

    /// Whether we opened it.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours
    }

    fn urgent(&self) -> MutexGuard<'_, Urgent> {
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the other side whether it is there.
    pub(crate) fn ping(&self, number: u64) {
        self.urgent().ping = Some(number);
        self.wake.notify_one();
    }

    /// Says that the link is over.
    pub(crate) fn bye(&self) {
        self.urgent().bye = true;
        self.wake.notify_one();
    }

    /// Begins a channel of ours on it, if it is free.
    pub(crate) fn open(self: &Arc<Self>, class: ChannelClass, group: &LaneGroup) -> Option<Channel> {
        let mut used = self.used();
        if !self.ours || !used.is_over() || !self.is_open() {
            return None;
        }
        let channel = self.begin(&mut used, class);
        used.unopened = true;
        used.accepted = true;
        self.grant(&mut used, group);
        Some(channel)
    }

    /// The channel is in use here, on a link that was admitted: the other side may send all that its class allows.
    fn grant(&self, used: &mut Use, group: &LaneGroup) {
        let due = group.is_admitted() && used.accepted && !used.granted;
        if let Some(class) = used.class.filter(|_| due) {
            used.granted = true;
            self.taken.fetch_add(window(class) - INITIAL_WINDOW.min(window(class)), Ordering::AcqRel);
            self.wake.notify_one();
        }
    }

    /// The channel with this number was taken from those that wait.
    fn accepted(&self, number: u64, group: &LaneGroup) {
        let mut used = self.used();
        if used.number == number {
            used.accepted = true;
            self.grant(&mut used, group);
        }
    }

    /// The link was admitted.
    pub(crate) fn admitted(&self, group: &LaneGroup) {
        self.grant(&mut self.used(), group);
    }

    fn begin(self: &Arc<Self>, used: &mut Use, class: ChannelClass) -> Channel {
        let (outgoing, frames) = mpsc::channel(FRAMES);
        let (incoming, received) = mpsc::unbounded_channel();
        let number = used.number + 1;
        *used = Use {
            number,
            class: Some(class),
            outgoing: Some(frames),
            incoming: Some(incoming),
            window: INITIAL_WINDOW,
            ..Use::default()
        };
        self.credit.store(INITIAL_WINDOW, Ordering::Release);
        self.taken.store(0, Ordering::Release);
        self.wake.notify_one();
        let reading = Reading { lane: self.clone(), number, frames: received };
        Channel { class, sender: sender(outgoing, class), receiver: receiver(reading) }
    }

    async fn read(self: Arc<Self>, group: Weak<LaneGroup>) -> Error {
        loop {
            let message = match self.channel.poll().await {
                Some(DataChannelEvent::OnMessage(message)) => message,
                Some(DataChannelEvent::OnOpen) => {
                    self.opened.send_replace(true);
                    continue;
                }
                Some(DataChannelEvent::OnBufferedAmountLow) => {
                    self.drained.notify_one();
                    continue;
                }
                Some(DataChannelEvent::OnClose) => return closed("the other side closed the link"),
                None => return closed("the connection ended"),
                Some(_) => continue,
            };
            let Some(group) = group.upgrade() else {
                return closed("the link was dropped");
            };
            self.opened.send_if_modified(|opened| !std::mem::replace(opened, true));
            group.traffic.heard(message.data.len());
            if message.is_string {
                return malformed("a text message; only binary ones are spoken here");
            }
            let taken = match Message::decode(message.data.freeze()) {
                Ok(Some(message)) => self.take(&group, message),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                return error;
            }
        }
    }

    fn take(self: &Arc<Self>, group: &LaneGroup, message: Message) -> Result<()> {
        match message {
            Message::Open(class) => {
                let mut used = self.used();
                if self.ours || !used.is_over() {
                    return Err(malformed("a channel was opened where another one is"));
                }
                let channel = self.begin(&mut used, class);
                let number = used.number;
                drop(used);
                return group.on_channel(channel, self.clone(), number);
            }
            Message::Frame { total, part } => return self.on_frame(total, &part),
            Message::More(part) => return self.on_more(&part),
            Message::Credit(bytes) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                let most = self.used().class.map_or(0, window);
                let more = |credit: usize| Some(credit.saturating_add(bytes).min(most));
                // The closure never says no.
                let _ = self.credit.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
            }
            Message::End => {
                let mut used = self.used();
                used.their_end = true;
                // What was received can still be read.
                used.incoming = None;
            }
            Message::Stop => self.used().they_stopped = true,
            Message::Done => self.used().their_done = true,
            Message::Ping(number) => self.urgent().pong = Some(number),
            Message::Pong(number) => group.traffic.on_pong(number),
            Message::Bye => return Err(closed("the other side closed the link")),
        }
        self.wake.notify_one();
        Ok(())
    }

    fn on_frame(&self, total: u32, part: &[u8]) -> Result<()> {
        let mut used = self.used();
        let class = used.class.ok_or_else(|| malformed("a frame before its channel"))?;
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        if total > class.max_frame() {
            let message = "the peer announced a frame longer than its channel allows";
            return Err(Error::new(ErrorKind::TooLarge, "webrtc", "receive", message));
        }
        if used.their_end || used.expected > 0 || part.len() > total {
            return Err(malformed("a frame where none may begin"));
        }
        used.cost = 0;
        used.spend(part.len())?;
        if part.len() == total {
            self.deliver(&mut used, Bytes::copy_from_slice(part));
        } else {
            // Grown as it comes: what was only announced isn't allocated for.
            used.partial = BytesMut::from(part);
            used.expected = total;
        }
        Ok(())
    }

    fn on_more(&self, part: &[u8]) -> Result<()> {
        let mut used = self.used();
        if used.expected == 0 || part.is_empty() || used.partial.len() + part.len() > used.expected {
            return Err(malformed("more of a frame than was announced"));
        }
        used.spend(part.len())?;
        used.partial.extend_from_slice(part);
        if used.partial.len() == used.expected {
            used.expected = 0;
            let frame = std::mem::take(&mut used.partial).freeze();
            self.deliver(&mut used, frame);
        }
        Ok(())
    }

    /// Hands a frame to the reader; without one it is gone.
    fn deliver(&self, used: &mut Use, frame: Bytes) {
        let cost = used.cost;
        if used.incoming.as_ref().is_none_or(|incoming| incoming.send((frame, cost)).is_err()) {
            self.give_back(cost);
        }
    }

    /// So much was taken: the other side may send as much more.
    fn give_back(&self, cost: usize) {
        let taken = self.taken.fetch_add(cost, Ordering::AcqRel) + cost;
        if taken >= DUE {
            self.wake.notify_one();
        }
    }
}

/// How much is taken before credit is given: half of what a channel begins with.
const DUE: usize = INITIAL_WINDOW / 2;

/// The reading end of a channel.
struct Reading {
    lane: Arc<Lane>,
    number: u64,
    frames: mpsc::UnboundedReceiver<(Bytes, usize)>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut used = self.lane.used();
        // The lane may carry another channel by now.
        if used.number == self.number {
            used.unread = true;
            self.lane.wake.notify_one();
        }
    }
}

fn receiver(reading: Reading) -> FrameReceiver {
    let next = |state: Option<Reading>| async move {
        let mut reading = state?;
        match reading.frames.recv().await {
            Some((frame, cost)) => {
                let used = reading.lane.used();
                let current = used.number == reading.number;
                drop(used);
                if current {
                    reading.lane.give_back(cost);
                }
                Some((Ok(frame), Some(reading)))
            }
            None => {
                let used = reading.lane.used();
                let clean = used.number != reading.number || used.their_end;
                drop(used);
                (!clean).then(|| (Err(closed("the link is closed; it is made again by itself")), None))
            }
        }
    };
    futures_util::stream::unfold(Some(reading), next).boxed()
}

fn sender(outgoing: mpsc::Sender<Bytes>, class: ChannelClass) -> FrameSender {
    let sink = PollSender::new(outgoing).sink_map_err(|_| closed("the link is closed; it is made again by itself"));
    Box::pin(sink.with(move |frame: Bytes| async move {
        if frame.len() > class.max_frame() {
            let message = "the frame is longer than its channel allows";
            return Err(Error::new(ErrorKind::TooLarge, "webrtc", "send", message));
        }
        Ok(frame)
    }))
}

pub(crate) fn closed(message: &str) -> Error {
    Error::new(ErrorKind::Closed, "webrtc", "link", message)
}

fn malformed(message: &str) -> Error {
    Error::new(ErrorKind::Malformed, "webrtc", "receive", format!("{message}; the link is closed"))
}

//! The writing side of a lane.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use peerloom_core::{ChannelClass, Error};
use tokio::sync::mpsc;
use webrtc::data_channel::RTCDataChannelState;

use super::{DUE, Lane, LaneGroup, Urgent, closed};
use crate::message::{Message, OVERHEAD};

/// Unsent bytes above which a lane waits until half of them are out. A bulk channel keeps few: SCTP
/// sends in the order of its queue, so they delay all others.
const AHEAD: usize = 1024 * 1024;
const BULK_AHEAD: usize = 128 * 1024;
/// The crate says when its buffer empties. It counts otherwise than [`DataChannel::outstanding_bytes`] at
/// times, and then says nothing: so it is looked at this often, too.
///
/// [`DataChannel::outstanding_bytes`]: webrtc::data_channel::DataChannel::outstanding_bytes
const LOOK: Duration = Duration::from_millis(50);

/// What the writer keeps between messages.
struct Writing {
    group: Weak<LaneGroup>,
    /// The frames of the current channel.
    outgoing: Option<mpsc::Receiver<Bytes>>,
    class: ChannelClass,
    /// Which of the lane's channels that is.
    number: u64,
    /// Bytes given to the crate since its buffer was last looked at, and what was in it then.
    unsent: usize,
}

impl Lane {
    pub(super) async fn write(self: Arc<Self>, group: Weak<LaneGroup>) -> Error {
        if !matches!(self.channel.ready_state().await, Ok(RTCDataChannelState::Open)) {
            self.opened().await;
        }
        self.opened.send_replace(true);
        let mut writing = Writing { group, outgoing: None, class: ChannelClass::Control, number: 0, unsent: 0 };
        match self.write_all(&mut writing).await {
            Ok(()) => closed("the link was closed"),
            Err(error) => error,
        }
    }

    async fn write_all(&self, writing: &mut Writing) -> Result<(), Error> {
        loop {
            self.send_urgent(writing).await?;
            let frame = tokio::select! {
                biased;
                frame = next(&mut writing.outgoing) => frame,
                () = self.wake.notified() => continue,
            };
            match frame {
                Some(frame) => {
                    // What came in the meantime goes first.
                    self.send_urgent(writing).await?;
                    self.write_frame(writing, frame).await?;
                }
                // The channel's sender was closed or dropped.
                None => {
                    writing.outgoing = None;
                    let sent = std::mem::replace(&mut self.used().our_end, true);
                    if !sent {
                        self.send(writing, Message::End.encode()).await?;
                    }
                }
            }
        }
    }

    /// Everything that must not wait for frames: openings, pings, credit, ends.
    async fn send_urgent(&self, writing: &mut Writing) -> Result<(), Error> {
        let Urgent { ping, pong, bye } = std::mem::take(&mut *self.urgent());
        let urgent = [pong.map(Message::Pong), ping.map(Message::Ping), bye.then_some(Message::Bye)];
        for message in urgent.into_iter().flatten() {
            self.send(writing, message.encode()).await?;
        }
        let (open, stop, credit, end) = {
            let mut used = self.used();
            let open = used.class.filter(|_| std::mem::take(&mut used.unopened));
            if let Some(fresh) = used.outgoing.take() {
                writing.outgoing = Some(fresh);
                writing.class = used.class.unwrap_or(ChannelClass::Control);
                writing.number = used.number;
            }
            let stop = used.unread && !used.stopped && !used.their_end;
            used.stopped |= stop;
            // The other side's reader is gone: ours ends.
            let end = used.they_stopped && !used.our_end && used.class.is_some();
            used.our_end |= end;
            let due = used.class.is_some() && !used.their_end && self.taken.load(Ordering::Acquire) >= DUE;
            let credit = if due { self.taken.swap(0, Ordering::AcqRel) } else { 0 };
            used.window += credit;
            (open, stop, credit, end)
        };
        if let Some(class) = open {
            self.send(writing, Message::Open(class).encode()).await?;
        }
        if stop {
            self.send(writing, Message::Stop.encode()).await?;
        }
        if credit > 0 {
            let credit = u32::try_from(credit).unwrap_or(u32::MAX);
            self.send(writing, Message::Credit(credit).encode()).await?;
        }
        if end {
            writing.outgoing = None;
            self.send(writing, Message::End.encode()).await?;
        }
        let done = {
            let mut used = self.used();
            let done = used.our_end && used.their_end && !used.our_done;
            used.our_done |= done;
            done
        };
        if done {
            self.send(writing, Message::Done.encode()).await?;
        }
        Ok(())
    }

    async fn write_frame(&self, writing: &mut Writing, frame: Bytes) -> Result<(), Error> {
        let longest = writing.group.upgrade().ok_or_else(|| closed("the link was dropped"))?.traffic.longest_message();
        let total = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let mut rest = frame;
        let (number, mut first) = (writing.number, true);
        loop {
            let part = rest.split_to(rest.len().min(longest.saturating_sub(8)));
            if !self.spend(writing, number, part.len() + OVERHEAD).await? {
                return Ok(());
            }
            let message = if first { Message::Frame { total, part } } else { Message::More(part) };
            self.make_room(writing).await?;
            self.send(writing, message.encode()).await?;
            first = false;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whether nothing more can be sent in this channel of the lane.
    fn is_past(&self, number: u64) -> bool {
        let used = self.used();
        used.our_end || used.number != number
    }

    /// Waits for the other side's credit; `false`: it wants no more of this channel.
    async fn spend(&self, writing: &mut Writing, number: u64, cost: usize) -> Result<bool, Error> {
        loop {
            // The other side stopped, and knows that this is the end; the lane may carry another by now.
            if self.is_past(number) {
                return Ok(false);
            }
            let spent =
                self.credit.fetch_update(Ordering::AcqRel, Ordering::Acquire, |credit| credit.checked_sub(cost));
            if spent.is_ok() {
                return Ok(true);
            }
            if self.used().they_stopped {
                return Ok(false);
            }
            self.wake.notified().await;
            self.send_urgent(writing).await?;
        }
    }

    /// Waits until the crate's buffer has room.
    async fn make_room(&self, writing: &mut Writing) -> Result<(), Error> {
        let ahead = if writing.class == ChannelClass::Bulk { BULK_AHEAD } else { AHEAD };
        if writing.unsent <= ahead {
            return Ok(());
        }
        let low = u32::try_from(ahead / 2).unwrap_or(u32::MAX);
        self.channel.set_buffered_amount_low_threshold(low).await.map_err(gone)?;
        loop {
            writing.unsent = self.channel.outstanding_bytes().await.map_err(gone)?;
            if writing.unsent <= ahead {
                return Ok(());
            }
            // Only the wait for the signal is bounded, not the wait for room.
            let _ = tokio::time::timeout(LOOK, self.drained.notified()).await;
        }
    }

    async fn send(&self, writing: &mut Writing, message: BytesMut) -> Result<(), Error> {
        let group = writing.group.upgrade().ok_or_else(|| closed("the link was dropped"))?;
        writing.unsent += message.len();
        group.traffic.sending(message.len());
        self.channel.send(message).await.map_err(gone)
    }
}

async fn next(outgoing: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match outgoing {
        Some(frames) => frames.recv().await,
        None => std::future::pending().await,
    }
}

fn gone(error: webrtc::error::Error) -> Error {
    closed("the connection is gone").with_source(error)
}

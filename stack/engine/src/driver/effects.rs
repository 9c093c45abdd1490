//! What a turn makes true, let go once it is durable.

use bytes::Bytes;
use peerloom_core::wire::{DeviceId, Frame, MessageId, Restored, Stated};
use peerloom_core::{Error, Result};
use tokio::sync::oneshot;

use crate::event::{Event, EventSource, Notice};
use crate::message::MessageState;
use crate::metrics::TurnFigures;
use crate::net::Links;
use crate::store::AfterCommit;

type Reply = Box<dyn FnOnce(Result<()>) + Send>;

/// Replies, frames and events of one turn.
#[derive(Default)]
pub(crate) struct Effects {
    sends: Vec<(oneshot::Sender<Result<MessageId>>, MessageId)>,
    replies: Vec<Reply>,
    control: Vec<(DeviceId, Bytes)>,
    everywhere: Vec<(DeviceId, Bytes)>,
    chat: Vec<(DeviceId, Bytes)>,
    notices: Vec<Notice>,
    /// Events that are true whatever becomes of the turn.
    of_links: Vec<Event>,
    resets: Vec<DeviceId>,
    wanted: Vec<DeviceId>,
    leaves: Option<Stated<Restored>>,
    targets: Option<(Links, EventSource)>,
    figures: TurnFigures,
}

impl Effects {
    pub(crate) fn sent(&mut self, reply: oneshot::Sender<Result<MessageId>>, id: MessageId) {
        self.sends.push((reply, id));
        self.figures.accepted += 1;
    }

    pub(crate) fn reply(&mut self, reply: impl FnOnce(Result<()>) + Send + 'static) {
        self.replies.push(Box::new(reply));
    }

    /// A small frame, on the control channel.
    pub(crate) fn control(&mut self, device: DeviceId, frame: &Frame) {
        self.control.push((device, frame.encode()));
    }

    /// A small frame, on the control channels of all links: two nodes may run as the same device.
    pub(crate) fn everywhere(&mut self, device: DeviceId, frame: &Frame) {
        self.everywhere.push((device, frame.encode()));
    }

    /// An encoded frame with an envelope, on the chat channel.
    pub(crate) fn chat(&mut self, device: DeviceId, frame: Bytes) {
        self.figures.entries_sent += 1;
        self.figures.entry_bytes_sent += frame.len();
        self.chat.push((device, frame));
    }

    pub(crate) fn event(&mut self, event: Event) {
        match &event {
            Event::Receipt { messages, state: MessageState::Delivered, .. } => self.figures.delivered += messages.len(),
            Event::Receipt { messages, state: MessageState::Failed(_), .. } => self.figures.failed += messages.len(),
            _ => {}
        }
        self.notices.push(Notice::Other(event));
    }

    /// A link came up or went down, which no store undoes: reported even if the turn fails.
    pub(crate) fn event_of_link(&mut self, event: Event) {
        self.of_links.push(event);
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        if let Notice::Messages(messages) = &notice {
            self.figures.received += messages.len();
        }
        self.notices.push(notice);
    }

    /// Closes the links to a device, so that a new one is made.
    pub(crate) fn reset_link(&mut self, device: DeviceId) {
        self.resets.push(device);
    }

    /// Asks for a link to a device now.
    pub(crate) fn want_link(&mut self, device: DeviceId) {
        self.wanted.push(device);
    }

    /// Leaves the network, with a last notice to those who are linked.
    pub(crate) fn leave(&mut self, notice: Stated<Restored>) {
        self.leaves = Some(notice);
    }

    pub(crate) fn attach(&mut self, links: &Links, events: &EventSource) {
        self.targets = Some((links.clone(), events.clone()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sends.is_empty()
            && self.replies.is_empty()
            && self.control.is_empty()
            && self.everywhere.is_empty()
            && self.chat.is_empty()
            && self.notices.is_empty()
            && self.of_links.is_empty()
            && self.resets.is_empty()
            && self.wanted.is_empty()
            && self.leaves.is_none()
    }

    /// The states of messages that are reported, in order.
    #[cfg(test)]
    pub(crate) fn take_receipts(&mut self) -> Vec<(Vec<MessageId>, MessageState)> {
        let receipt = |notice| match notice {
            Notice::Other(Event::Receipt { messages, state, .. }) => Some((messages.to_vec(), state)),
            _ => None,
        };
        std::mem::take(&mut self.notices).into_iter().filter_map(receipt).collect()
    }

    /// The frames for control channels, in order.
    #[cfg(test)]
    pub(crate) fn take_control(&mut self) -> Vec<Frame> {
        let frames = std::mem::take(&mut self.control).into_iter();
        frames.filter_map(|(_, frame)| Frame::decode(frame).ok().flatten()).collect()
    }

    /// The gaps that are reported: whose log, and the first and last position.
    #[cfg(test)]
    pub(crate) fn take_gaps(&mut self) -> Vec<(DeviceId, u64, u64)> {
        let gap = |notice| match notice {
            Notice::Other(Event::Gap { device, first, last, .. }) => Some((device, first, last)),
            _ => None,
        };
        std::mem::take(&mut self.notices).into_iter().filter_map(gap).collect()
    }

    /// Nothing of the turn happened.
    pub(crate) fn abandon(self, error: &Error) {
        self.failed(error);
    }
}

impl AfterCommit for Effects {
    fn committed(self) {
        let Some((links, events)) = self.targets else {
            return;
        };
        self.figures.count();
        // Acknowledgements first: they are small, and a sender waits for each.
        self.control.into_iter().for_each(|(device, frame)| links.send_control(&device, frame));
        self.everywhere.into_iter().for_each(|(device, frame)| links.send_everywhere(&device, &frame));
        self.chat.into_iter().for_each(|(device, frame)| links.send_chat(&device, frame));
        // The caller may be gone.
        self.sends.into_iter().for_each(|(reply, id)| drop(reply.send(Ok(id))));
        self.replies.into_iter().for_each(|reply| reply(Ok(())));
        let of_links = self.of_links.into_iter().map(Notice::Other);
        of_links.chain(self.notices).for_each(|notice| events.send(notice));
        self.resets.iter().for_each(|device| links.reset(device));
        self.wanted.iter().for_each(|device| links.want(*device));
        self.leaves.into_iter().for_each(|notice| links.leave(notice));
    }

    fn failed(self, error: &Error) {
        if let Some((_, events)) = self.targets {
            self.of_links.into_iter().for_each(|event| events.send(Notice::Other(event)));
        }
        self.sends.into_iter().for_each(|(reply, _)| drop(reply.send(Err(error.clone()))));
        self.replies.into_iter().for_each(|reply| reply(Err(error.clone())));
    }
}

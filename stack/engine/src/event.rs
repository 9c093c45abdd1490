//! What a node tells its user.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peerloom_core::ErrorKind;
use peerloom_core::wire::{ConversationId, DeviceId, MessageId, Position, UserId};
use tokio::sync::broadcast;

use crate::history::Reader;
use crate::message::{Cursor, Message, MessageState};

/// Events that may wait for a slow subscriber; then messages are read from the store again, and
/// other events are lost with a notice.
const BUFFER: usize = 512;

/// Bytes of messages that may wait for the slowest subscriber; further ones are read from the store again.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Messages that are known as reported.
const REMEMBERED: usize = 1024;

/// Messages read at once when a subscriber catches up, and the wait when they can't be read.
const PAGE: usize = 1024;
const RETRY: Duration = Duration::from_secs(1);

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message arrived, durably.
    Message(Message),
    /// Own messages changed their state.
    Receipt {
        /// The conversation.
        conversation: ConversationId,
        /// The messages.
        messages: Arc<[MessageId]>,
        /// Their state now.
        state: MessageState,
    },
    /// A link to a device of a contact is up.
    PeerUp {
        /// The user.
        user: UserId,
        /// The device.
        device: DeviceId,
    },
    /// The last link to a device of a contact went down.
    PeerDown {
        /// The user.
        user: UserId,
        /// The device.
        device: DeviceId,
        /// Why.
        reason: String,
    },
    /// The first link to a contact came up: this node is online.
    Online,
    /// The last link to a contact went down: this node is offline.
    Offline,
    /// Scheduled attempts to deliver to a device are used up; its messages wait until it appears.
    Stalled {
        /// The conversation.
        conversation: ConversationId,
        /// The device.
        device: DeviceId,
    },
    /// A user accepted an invitation of ours and is a contact now.
    ContactAdded {
        /// The user.
        user: UserId,
        /// What this node calls the user.
        alias: String,
    },
    /// Entries of a peer's log are missing; what follows them is shown without them.
    Gap {
        /// The conversation.
        conversation: ConversationId,
        /// Whose log.
        device: DeviceId,
        /// First missing position.
        first: Position,
        /// Last missing position.
        last: Position,
    },
    /// This node's store is older than what a contact has, or another copy of it got ahead: this node
    /// sends nothing any more. Go on with the newest copy, or make a new folder.
    StoreRestored,
    /// Another copy of this node's store was used, and found out that it is one. This one goes on.
    StoreCopied,
    /// A contact's device says that its store was restored or copied: what it sends may not come.
    PeerRestored {
        /// The user.
        user: UserId,
        /// The device.
        device: DeviceId,
    },
    /// A device of a contact refuses a link for a reason that no waiting mends. It is tried again all the same.
    PeerRefused {
        /// The user.
        user: UserId,
        /// The device.
        device: DeviceId,
        /// Why, and what to do.
        reason: String,
    },
    /// A contact has other devices than before.
    DevicesChanged {
        /// The user.
        user: UserId,
        /// Devices that speak for the user from now on.
        new: Vec<DeviceId>,
        /// Devices that don't any more: nothing is sent to them.
        gone: Vec<DeviceId>,
    },
    /// The subscriber was too slow: events other than messages were lost. Messages never are.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// What the engine has to say: the messages of an entry together.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    Messages(Arc<[Message]>),
    Other(Event),
    /// The node is shut down.
    End,
}

/// What goes through the channel.
#[derive(Debug, Clone)]
enum Passed {
    Messages(Arc<Waiting>),
    /// Messages that are in the store alone.
    Stored,
    Other(Event),
    End,
}

/// Messages that wait for subscribers, and count while they do.
#[derive(Debug)]
struct Waiting {
    messages: Arc<[Message]>,
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where events come from.
#[derive(Debug, Clone)]
pub(crate) struct EventSource {
    sender: broadcast::Sender<Passed>,
    /// Bytes of the messages in the channel.
    waiting: Arc<AtomicUsize>,
    /// Events that must not be missed and came while there was no subscriber; the first one gets them.
    unheard: Arc<Mutex<VecDeque<Event>>>,
    /// The newest messages that were reported as delivered. While a store fails, what was settled may be lost again and
    /// again, and its acknowledgement come again.
    delivered: Arc<Mutex<VecDeque<MessageId>>>,
}

impl EventSource {
    pub(crate) fn new() -> Self {
        let sender = broadcast::channel(BUFFER).0;
        Self { sender, waiting: Arc::default(), unheard: Arc::default(), delivered: Arc::default() }
    }

    pub(crate) fn send(&self, notice: Notice) {
        if self.is_known(&notice) {
            return;
        }
        let passed = match notice {
            Notice::Messages(messages) => {
                let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
                let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
                let waiting = Waiting { messages, bytes, all: self.waiting.clone() };
                if before > 0 && before + bytes > BUFFER_BYTES {
                    Passed::Stored
                } else {
                    Passed::Messages(Arc::new(waiting))
                }
            }
            Notice::Other(event) => Passed::Other(event),
            Notice::End => Passed::End,
        };
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(broadcast::error::SendError(Passed::Other(event))) = self.sender.send(passed)
            && event.is_said_once()
        {
            unheard.push_back(event);
            let excess = unheard.len().saturating_sub(BUFFER);
            unheard.drain(..excess);
        }
    }

    /// Whether a delivery was reported a short while ago.
    fn is_known(&self, notice: &Notice) -> bool {
        let Notice::Other(Event::Receipt { messages, state: MessageState::Delivered, .. }) = notice else {
            return false;
        };
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.iter().all(|message| delivered.contains(message)) {
            return true;
        }
        delivered.extend(messages.iter());
        let excess = delivered.len().saturating_sub(REMEMBERED);
        delivered.drain(..excess);
        false
    }

    pub(crate) fn subscribe(&self, reader: Reader, after: Cursor) -> EventStream {
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        let (receiver, ready) = (self.sender.subscribe(), std::mem::take(&mut *unheard));
        EventStream { receiver, reader, after, behind: true, ended: false, ready }
    }
}

impl Event {
    /// Whether it is sent once, and can't be read anywhere later.
    fn is_said_once(&self) -> bool {
        matches!(
            self,
            Self::Receipt { state: MessageState::Failed(_), .. }
                | Self::StoreRestored
                | Self::StoreCopied
                | Self::PeerRestored { .. }
        )
    }
}

/// A subscription. Messages come exactly once and in order, however slow the subscriber.
pub struct EventStream {
    receiver: broadcast::Receiver<Passed>,
    reader: Reader,
    /// Messages up to this one have been handed out.
    after: Cursor,
    /// Whether messages after that must be read from the store before the channel is listened to.
    behind: bool,
    ended: bool,
    ready: VecDeque<Event>,
}

impl EventStream {
    /// The next event; `None` once the node is shut down.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if self.behind {
                self.catch_up().await;
                continue;
            }
            match self.receiver.recv().await {
                Ok(Passed::Other(event)) => return Some(event),
                Ok(Passed::End) => self.ended = true,
                Ok(Passed::Messages(waiting)) => self.take(waiting.messages.iter().cloned()),
                Ok(Passed::Stored) => self.behind = true,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    self.ready.push_back(Event::Lagged { missed });
                    self.behind = true;
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn take(&mut self, messages: impl Iterator<Item = Message>) {
        for message in messages {
            // What was read from the store may still come through the channel.
            if message.cursor > self.after {
                self.after = message.cursor;
                self.ready.push_back(Event::Message(message));
            }
        }
    }

    /// Reads a page of what was missed; an empty one means that the channel has the rest.
    async fn catch_up(&mut self) {
        match self.reader.page(self.after, PAGE, None).await {
            Ok(messages) => {
                self.behind = !messages.is_empty();
                self.take(messages.into_iter());
            }
            Err(error) if error.kind() == ErrorKind::Closed => {
                self.behind = false;
                self.ended = true;
            }
            Err(error) => {
                tracing::error!(%error, "missed messages can't be read yet; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While a store fails, the same acknowledgement may come every 100 ms.
    #[test]
    fn a_delivery_is_reported_once() {
        let source = EventSource::new();
        let delivered = |numbers: &[u16]| {
            let id = |number: &u16| {
                let [high, low] = number.to_be_bytes();
                MessageId::from_bytes(std::array::from_fn(|at| [high, low][at % 2]))
            };
            let (conversation, messages) = (ConversationId::from_bytes([1; 32]), numbers.iter().map(id).collect());
            Notice::Other(Event::Receipt { conversation, messages, state: MessageState::Delivered })
        };
        assert!(!source.is_known(&delivered(&[1, 2])));
        assert!((0..10).all(|_| source.is_known(&delivered(&[1, 2])) && source.is_known(&delivered(&[2]))));
        assert!(!source.is_known(&delivered(&[2, 3])), "one of them is new");
        // What is remembered is bounded.
        (100..5000).for_each(|number| assert!(!source.is_known(&delivered(&[number]))));
        assert_eq!(source.delivered.lock().unwrap().len(), REMEMBERED);
    }
}

//! Messages, what becomes of them, and places among them.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use peerloom_core::wire::store::OwnState;
use peerloom_core::wire::{ConversationId, DeviceId, MessageId, UserId};
use peerloom_core::{Error, ErrorKind, Result};

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name, chosen by the author.
    pub id: MessageId,
    /// The conversation.
    pub conversation: ConversationId,
    /// The author.
    pub user: UserId,
    /// The author's device.
    pub device: DeviceId,
    /// When it was sent, by the author's clock, in milliseconds since the Unix epoch.
    pub sent_at_ms: u64,
    /// When it was stored here, in milliseconds since the Unix epoch.
    pub received_at_ms: u64,
    /// A media type; empty for plain text in UTF-8.
    pub content_type: String,
    /// The content.
    pub body: Bytes,
    /// Where it stands among all received messages of this node.
    pub cursor: Cursor,
}

impl Message {
    /// The body as text, if it is plain text in UTF-8.
    pub fn text(&self) -> Option<&str> {
        if !self.content_type.is_empty() && !self.content_type.starts_with("text/plain") {
            return None;
        }
        std::str::from_utf8(&self.body).ok()
    }
}

/// The state of an own message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageState {
    /// It waits: no device has been sent it.
    Queued,
    /// It was put on a link to a device.
    Sent,
    /// One device of each recipient has acknowledged it.
    Delivered,
    /// It will not be delivered.
    Failed(String),
    /// Nothing is known of it: the row of the store that had it is damaged.
    Unknown,
}

impl From<OwnState> for MessageState {
    fn from(state: OwnState) -> Self {
        match state {
            OwnState::Queued => Self::Queued,
            OwnState::Sent => Self::Sent,
            OwnState::Delivered => Self::Delivered,
            OwnState::Failed(reason) => Self::Failed(reason),
            OwnState::Unknown => Self::Unknown,
        }
    }
}

/// A message of a conversation, this node's own or another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryMessage {
    /// The message.
    pub message: Message,
    /// What became of it, if it is this node's own.
    pub state: Option<MessageState>,
    /// Since when, in milliseconds since the Unix epoch; 0 = unknown, or another's message.
    pub state_at_ms: u64,
}

/// A place among all messages that this node has stored: the entry's sequence, and the message in it. A message keeps its
/// place, but for an own one that waits for a first session with the contact: it gets its place when it is sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    pub(crate) sequence: u64,
    pub(crate) index: u16,
}

impl Cursor {
    /// Before the first message.
    pub const START: Self = Self { sequence: 0, index: 0 };
    /// After the last one.
    pub const END: Self = Self { sequence: u64::MAX, index: u16::MAX };

    /// A place after every earlier message and before this one.
    pub(crate) fn before(self) -> Self {
        match self.index.checked_sub(1) {
            Some(index) => Self { index, ..self },
            None => Self::end_of(self.sequence.saturating_sub(1)),
        }
    }

    /// After every message of an entry.
    pub(crate) fn end_of(sequence: u64) -> Self {
        Self { sequence, index: u16::MAX }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.sequence, self.index)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(
                ErrorKind::Invalid,
                "history",
                "read a cursor",
                format!("`{text}` is not a cursor such as 12.3; take one from `inbox --json` or `history --json`"),
            )
        };
        let (sequence, index) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { sequence: sequence.parse().map_err(|_| wrong())?, index: index.parse().map_err(|_| wrong())? })
    }
}

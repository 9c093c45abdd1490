//! What the history holds: the content of entries, and their heads.

use bytes::Bytes;

use super::Record;
use super::records::{join_message_ids, split_message_ids};
use crate::{ConversationId, DecodeError, DeviceId, MessageId, Position, UserId, pb};

/// The messages of one entry in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The conversation.
    pub conversation: ConversationId,
    /// Who wrote them.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// The entry's position in the device's log; 0 for own messages that aren't sealed yet.
    pub position: Position,
    /// When this node stored them, in milliseconds since the Unix epoch.
    pub stored_at_ms: u64,
    /// The plaintext [`crate::Bundle`], as it was sealed.
    pub bundle: Bytes,
    /// Indices of items that aren't shown: shown before they were sealed again, or deleted.
    pub hidden: Vec<u16>,
}

impl Record for History {
    const NAME: &'static str = "history";
    type Pb = pb::StoredMessages;

    fn to_pb(&self) -> Self::Pb {
        pb::StoredMessages {
            conversation: self.conversation.encode(),
            user: self.user.encode(),
            device: self.device.encode(),
            position: self.position,
            stored_at_ms: self.stored_at_ms,
            bundle: self.bundle.clone(),
            hidden: self.hidden.iter().flat_map(|i| i.to_be_bytes()).collect::<Vec<_>>().into(),
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        Ok(Self {
            conversation: ConversationId::decode(&pb.conversation)?,
            user: UserId::decode(&pb.user)?,
            device: DeviceId::decode(&pb.device)?,
            position: pb.position,
            stored_at_ms: pb.stored_at_ms,
            bundle: pb.bundle,
            hidden: pb.hidden.as_chunks().0.iter().map(|i| u16::from_be_bytes(*i)).collect(),
        })
    }
}

/// What is known of an entry in the history without its content, and what became of its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryHead {
    /// Whose device wrote the messages.
    pub device: DeviceId,
    /// The entry's position in the device's log when it was stored; 0 = never sealed.
    pub position: Position,
    /// When this node stored them, in milliseconds since the Unix epoch.
    pub stored_at_ms: u64,
    /// Size of the bundle, in bytes.
    pub size: u32,
    /// The messages, in the order of the bundle's items.
    pub messages: Vec<MessageId>,
    /// What became of own messages; `None` for those of others.
    pub state: Option<OwnState>,
    /// Since when, in milliseconds since the Unix epoch; 0 = unknown.
    pub state_at_ms: u64,
}

/// What became of own messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnState {
    /// No device has been sent them.
    Queued,
    /// They were put on a link to a device.
    Sent,
    /// One device of each recipient user showed them.
    Delivered,
    /// They will not be delivered; why, for a person.
    Failed(String),
    /// They left, or were given up; the row that said so was damaged.
    Unknown,
}

impl OwnState {
    fn code(&self) -> u32 {
        match self {
            Self::Queued => 1,
            Self::Sent => 2,
            Self::Delivered => 3,
            Self::Failed(_) => 4,
            Self::Unknown => 5,
        }
    }
}

impl Record for HistoryHead {
    const NAME: &'static str = "history head";
    type Pb = pb::StoredHistoryHead;

    fn to_pb(&self) -> Self::Pb {
        pb::StoredHistoryHead {
            device: self.device.encode(),
            position: self.position,
            stored_at_ms: self.stored_at_ms,
            size: self.size,
            message_ids: join_message_ids(&self.messages),
            state: self.state.as_ref().map_or(0, OwnState::code),
            state_at_ms: self.state_at_ms,
            reason: match &self.state {
                Some(OwnState::Failed(reason)) => reason.clone(),
                _ => String::new(),
            },
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let state = match pb.state {
            0 => None,
            1 => Some(OwnState::Queued),
            2 => Some(OwnState::Sent),
            3 => Some(OwnState::Delivered),
            4 => Some(OwnState::Failed(pb.reason)),
            5 => Some(OwnState::Unknown),
            _ => return Err(DecodeError::invalid(Self::NAME, "an unknown state")),
        };
        Ok(Self {
            device: DeviceId::decode(&pb.device)?,
            position: pb.position,
            stored_at_ms: pb.stored_at_ms,
            size: pb.size,
            messages: split_message_ids(&pb.message_ids),
            state,
            state_at_ms: pb.state_at_ms,
        })
    }
}

//! Accepted messages that aren't sealed yet: a head of each, and the message itself, in tables of their own.

use bytes::Bytes;

use super::Record;
use crate::entry::Item;
use crate::{DecodeError, MessageId, pb};

/// What is looked at while a message waits, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingHead {
    /// The message.
    pub message: MessageId,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub sent_at_ms: u64,
    /// When it expires, in milliseconds since the Unix epoch; 0 = never.
    pub expires_at_ms: u64,
    /// Bytes of its [`Pending`] record.
    pub size: u32,
}

impl Record for PendingHead {
    const NAME: &'static str = "pending message's head";
    type Pb = pb::PendingHead;

    fn to_pb(&self) -> Self::Pb {
        pb::PendingHead {
            message_id: Bytes::copy_from_slice(self.message.as_bytes()),
            sent_at_ms: self.sent_at_ms,
            expires_at_ms: self.expires_at_ms,
            size: self.size,
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let pb::PendingHead { message_id, sent_at_ms, expires_at_ms, size } = pb;
        let id =
            message_id.as_ref().try_into().map_err(|_| DecodeError::invalid(Self::NAME, "its id isn't 16 bytes"))?;
        Ok(Self { message: MessageId::from_bytes(id), sent_at_ms, expires_at_ms, size })
    }
}

/// An accepted message that isn't sealed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The message.
    pub item: Item,
    /// When it expires, in milliseconds since the Unix epoch; 0 = never.
    pub expires_at_ms: u64,
}

impl Pending {
    /// Its head, given how many bytes its record has.
    pub fn head(&self, size: usize) -> PendingHead {
        PendingHead {
            message: self.item.id,
            sent_at_ms: self.item.sent_at_ms,
            expires_at_ms: self.expires_at_ms,
            size: u32::try_from(size).unwrap_or(u32::MAX),
        }
    }
}

impl Record for Pending {
    const NAME: &'static str = "pending message";
    type Pb = pb::PendingMessage;

    fn to_pb(&self) -> Self::Pb {
        pb::PendingMessage { item: Some(self.item.to_pb()), expires_at_ms: self.expires_at_ms }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let item = pb.item.ok_or(DecodeError::invalid(Self::NAME, "lacks its message"))?;
        Ok(Self { item: Item::from_pb(item)?, expires_at_ms: pb.expires_at_ms })
    }
}

//! What a receiving device signs about a log, and what the log's owner takes back.

use bytes::Bytes;
use prost::Message;

use crate::entry::LogId;
use crate::range::RangeSet;
use crate::shape::{Field, Shape};
use crate::{ConversationId, DecodeError, DeviceId, Position, Signed, limits, pb};

/// "Everything up to `through`, and `beyond`, is settled here": cumulative, so the newest says it all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The log.
    pub log: LogId,
    /// Every position up to and with this one is settled.
    pub through: Position,
    /// Settled positions beyond it.
    pub beyond: RangeSet,
}

/// Why an entry can't be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotOpenReason {
    /// This device has no session for the log: it joined later, or lost its state.
    NoSession,
    /// The keys for this position are gone.
    KeyGone,
    /// The bytes are not what the sender sealed.
    Damaged,
    /// The suite is unknown here.
    UnknownSuite,
}

impl CannotOpenReason {
    /// Its number on the wire and on disk.
    pub fn code(self) -> u32 {
        match self {
            Self::NoSession => 1,
            Self::KeyGone => 2,
            Self::Damaged => 3,
            Self::UnknownSuite => 4,
        }
    }

    /// The reason with this number.
    pub fn from_code(code: u32) -> Result<Self, DecodeError> {
        match code {
            1 => Ok(Self::NoSession),
            2 => Ok(Self::KeyGone),
            3 => Ok(Self::Damaged),
            4 => Ok(Self::UnknownSuite),
            found => Err(DecodeError::UnsupportedVersion { what: "cannot-open reason", found }),
        }
    }
}

/// "I have this entry and can't decrypt it": the sender adds the device again and seals anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotOpen {
    /// The log.
    pub log: LogId,
    /// The entry's position.
    pub position: Position,
    /// Why.
    pub reason: CannotOpenReason,
}

/// "These positions will never come": they expired, or their content stands at a new position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// The conversation; the log is the signer's.
    pub conversation: ConversationId,
    /// The positions.
    pub positions: RangeSet,
}

pub(crate) static RANGE: Shape = Shape { what: "range", max_len: 24, fields: &[Field::one(1, 0), Field::one(2, 0)] };

static ACK: Shape = Shape {
    what: "acknowledgement",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::one(2, 32), Field::one(3, 0), Field::nested(4, limits::RANGES, &RANGE)],
};

static CANNOT_OPEN: Shape = Shape {
    what: "cannot-open",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::one(2, 32), Field::one(3, 0), Field::one(4, 0)],
};

static WITHDRAWAL: Shape = Shape {
    what: "withdrawal",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::nested(2, limits::RANGES, &RANGE)],
};

impl Ack {
    /// The bytes to sign under [`crate::context::ACK`]. Ranges past [`limits::RANGES`] are left
    /// for a later acknowledgement.
    pub fn encode(&self) -> Bytes {
        let ack = pb::Ack {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            through: self.through,
            beyond: self.beyond.to_pb(),
        };
        ack.encode_to_vec().into()
    }

    /// Decodes a signed acknowledgement's body; verify the signature with the sender's key as well.
    pub fn decode(signed: &Signed) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        ACK.check(body)?;
        let pb = pb::Ack::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: ACK.what })?;
        Ok(Self {
            log: log_id(&pb.log_device, &pb.conversation)?,
            through: pb.through,
            beyond: RangeSet::from_pb(&pb.beyond, pb.through, ACK.what)?,
        })
    }
}

impl CannotOpen {
    /// The bytes to sign under [`crate::context::CANNOT_OPEN`].
    pub fn encode(&self) -> Bytes {
        let cannot_open = pb::CannotOpen {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            position: self.position,
            reason: self.reason.code(),
        };
        cannot_open.encode_to_vec().into()
    }

    /// Decodes a signed object's body; verify the signature with the sender's key as well.
    pub fn decode(signed: &Signed) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        CANNOT_OPEN.check(body)?;
        let pb = pb::CannotOpen::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: CANNOT_OPEN.what })?;
        Ok(Self {
            log: log_id(&pb.log_device, &pb.conversation)?,
            position: pb.position,
            reason: CannotOpenReason::from_code(pb.reason)?,
        })
    }
}

impl Withdrawal {
    /// The bytes to sign under [`crate::context::WITHDRAWAL`].
    pub fn encode(&self) -> Bytes {
        let withdrawal = pb::Withdrawal { conversation: self.conversation.encode(), ranges: self.positions.to_pb() };
        withdrawal.encode_to_vec().into()
    }

    /// Decodes a signed object's body; verify the signature with the log owner's key as well.
    pub fn decode(signed: &Signed) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        WITHDRAWAL.check(body)?;
        let pb = pb::Withdrawal::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: WITHDRAWAL.what })?;
        Ok(Self {
            conversation: ConversationId::decode(&pb.conversation)?,
            positions: RangeSet::from_pb(&pb.ranges, 0, WITHDRAWAL.what)?,
        })
    }
}

fn log_id(device: &[u8], conversation: &[u8]) -> Result<LogId, DecodeError> {
    Ok(LogId { device: DeviceId::decode(device)?, conversation: ConversationId::decode(conversation)? })
}

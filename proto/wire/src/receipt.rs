//! What a receiving device signs about a log, and what the log's owner takes back.

use bytes::Bytes;
use prost::Message;

use crate::chain::{Chain, SPAN};
use crate::entry::LogId;
use crate::entry::encode_optional;
use crate::range::RangeSet;
use crate::shape::{Field, Shape};
use crate::{ConversationId, DecodeError, DeviceId, EntryId, Position, Signed, limits, pb};

/// "Everything up to `through`, and `beyond`, is settled here": cumulative, so the newest says it all.
/// The ids bind it to what was settled: a log with another entry there is another log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The log.
    pub log: LogId,
    /// Every position up to and with this one is settled.
    pub through: Position,
    /// The id of the entry at `through`, if it is known.
    pub through_id: Option<EntryId>,
    /// Settled positions beyond it.
    pub beyond: Chain,
    /// Those of the settled positions that were withdrawn before they could be shown; the highest
    /// ranges, as many as fit.
    pub withdrawn: RangeSet,
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
    /// It had expired when it came, by the clock here: it is not shown.
    Expired,
}

impl CannotOpenReason {
    /// Its number on the wire and on disk.
    pub fn code(self) -> u32 {
        match self {
            Self::NoSession => 1,
            Self::KeyGone => 2,
            Self::Damaged => 3,
            Self::UnknownSuite => 4,
            Self::Expired => 5,
        }
    }

    /// The reason with this number.
    pub fn from_code(code: u32) -> Result<Self, DecodeError> {
        match code {
            1 => Ok(Self::NoSession),
            2 => Ok(Self::KeyGone),
            3 => Ok(Self::Damaged),
            4 => Ok(Self::UnknownSuite),
            5 => Ok(Self::Expired),
            found => Err(DecodeError::UnsupportedVersion { what: "cannot-open reason", found }),
        }
    }
}

/// "I have this entry and can't decrypt it": the sender adds the device again and seals again. Or, with
/// [`CannotOpenReason::Expired`], "I don't show it": the sender withdraws it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotOpen {
    /// The log.
    pub log: LogId,
    /// The entry's position.
    pub position: Position,
    /// The entry's id.
    pub id: EntryId,
    /// Why.
    pub reason: CannotOpenReason,
}

/// "These positions will never come": they expired, or their content stands at a new position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// The conversation; the log is the signer's.
    pub conversation: ConversationId,
    /// The positions, with the ids of what they had.
    pub positions: Chain,
}

/// "My store is older than the log that you hold, or it is one of two copies: I send nothing any more."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The device that signs.
    pub device: DeviceId,
    /// When it noticed, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

pub(crate) static RANGE: Shape = Shape { what: "range", max_len: 24, fields: &[Field::one(1, 0), Field::one(2, 0)] };

static ACK: Shape = Shape {
    what: "acknowledgement",
    max_len: limits::RECEIPT,
    fields: &[
        Field::one(1, 32),
        Field::one(2, 32),
        Field::one(3, 0),
        Field::nested(4, limits::RANGES, &SPAN),
        Field::one(5, 32),
        Field::nested(6, limits::RANGES, &RANGE),
    ],
};

static CANNOT_OPEN: Shape = Shape {
    what: "cannot-open",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::one(2, 32), Field::one(3, 0), Field::one(4, 0), Field::one(5, 32)],
};

static WITHDRAWAL: Shape = Shape {
    what: "withdrawal",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::nested(2, limits::RANGES, &SPAN)],
};

static RESTORED: Shape = Shape { what: "restored notice", max_len: 64, fields: &[Field::one(1, 32), Field::one(2, 0)] };

impl Ack {
    /// The bytes to sign under [`crate::context::ACK`]. Ranges past [`limits::RANGES`] are left
    /// for a later acknowledgement.
    pub fn encode(&self) -> Bytes {
        let ack = pb::Ack {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            through: self.through,
            beyond: self.beyond.to_pb(),
            through_id: encode_optional(self.through_id.as_ref()),
            withdrawn: self.withdrawn.to_pb(),
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
            through_id: EntryId::decode_optional(&pb.through_id)?,
            beyond: Chain::from_pb(&pb.beyond, pb.through, ACK.what)?,
            withdrawn: RangeSet::from_pb(&pb.withdrawn, 0, ACK.what)?,
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
            id: self.id.encode(),
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
            id: EntryId::decode(&pb.id)?,
            reason: CannotOpenReason::from_code(pb.reason)?,
        })
    }
}

impl Withdrawal {
    /// The bytes to sign under [`crate::context::WITHDRAWAL`].
    pub fn encode(&self) -> Bytes {
        let withdrawal = pb::Withdrawal { conversation: self.conversation.encode(), spans: self.positions.to_pb() };
        withdrawal.encode_to_vec().into()
    }

    /// Decodes a signed object's body; verify the signature with the log owner's key as well.
    pub fn decode(signed: &Signed) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        WITHDRAWAL.check(body)?;
        let pb = pb::Withdrawal::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: WITHDRAWAL.what })?;
        Ok(Self {
            conversation: ConversationId::decode(&pb.conversation)?,
            positions: Chain::from_pb(&pb.spans, 0, WITHDRAWAL.what)?,
        })
    }
}

impl Restored {
    /// The bytes to sign under [`crate::context::RESTORED`].
    pub fn encode(&self) -> Bytes {
        pb::Restored { device: self.device.encode(), since_ms: self.since_ms }.encode_to_vec().into()
    }

    /// Decodes a signed object's body; verify the signature with the device's key as well.
    pub fn decode(signed: &Signed) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        RESTORED.check(body)?;
        let pb = pb::Restored::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: RESTORED.what })?;
        Ok(Self { device: DeviceId::decode(&pb.device)?, since_ms: pb.since_ms })
    }
}

fn log_id(device: &[u8], conversation: &[u8]) -> Result<LogId, DecodeError> {
    Ok(LogId { device: DeviceId::decode(device)?, conversation: ConversationId::decode(conversation)? })
}

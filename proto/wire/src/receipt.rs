//! What a receiving device signs about a log, and what the log's owner takes back.

use bytes::Bytes;
use prost::Message;

use crate::chain::{Chain, SPAN};
use crate::entry::LogId;
use crate::entry::encode_optional;
use crate::range::RangeSet;
use crate::shape::{Field, Shape};
use crate::statement::Statement;
use crate::{ConversationId, DecodeError, DeviceId, EntryId, Position, context, limits, pb};

/// "Everything up to `through`, and `beyond`, is settled here": cumulative, so the newest says it all.
/// The ids bind it to what was settled: a log with another entry there is another log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The log.
    pub log: LogId,
    /// The receiving device, which signs.
    pub signer: DeviceId,
    /// Every position up to and with this one is settled.
    pub through: Position,
    /// The id of the entry at `through`, if it is known.
    pub through_id: Option<EntryId>,
    /// Settled positions beyond it. Encoded are at most [`limits::RANGES`] spans; the rest waits for a later
    /// acknowledgement.
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
    /// A reason that a newer version added.
    Other(u32),
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
            Self::Other(code) => code,
        }
    }

    /// The reason with this number.
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::NoSession,
            2 => Self::KeyGone,
            3 => Self::Damaged,
            4 => Self::UnknownSuite,
            5 => Self::Expired,
            other => Self::Other(other),
        }
    }
}

/// "I have this entry and can't decrypt it": the sender adds the device again and seals again. Or, with
/// [`CannotOpenReason::Expired`], "I don't show it": the sender withdraws it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotOpen {
    /// The log.
    pub log: LogId,
    /// The receiving device, which signs.
    pub signer: DeviceId,
    /// The entry's position.
    pub position: Position,
    /// The entry's id.
    pub id: EntryId,
    /// Why.
    pub reason: CannotOpenReason,
}

/// "Send me these positions again."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRequest {
    /// The log.
    pub log: LogId,
    /// The receiving device, which signs.
    pub signer: DeviceId,
    /// The positions.
    pub positions: RangeSet,
}

/// "These positions will never come, to any device": they expired. The log's device signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// The log.
    pub log: LogId,
    /// The positions, with the ids of what they had.
    pub positions: Chain,
}

/// "These positions hold nothing for you." The log's device signs; the statement names the device that it is
/// for, so that it settles nothing at another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotForYou {
    /// The log.
    pub log: LogId,
    /// The device that the positions hold nothing for.
    pub to: DeviceId,
    /// The positions, with the ids of what they have.
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
        Field::one(3, 32),
        Field::one(4, 0),
        Field::one(5, 32),
        Field::nested(6, limits::RANGES, &SPAN),
        Field::nested(7, limits::RANGES, &RANGE),
    ],
};

static CANNOT_OPEN: Shape = Shape {
    what: "cannot-open",
    max_len: limits::RECEIPT,
    fields: &[
        Field::one(1, 32),
        Field::one(2, 32),
        Field::one(3, 32),
        Field::one(4, 0),
        Field::one(5, 32),
        Field::one(6, 0),
    ],
};

static GAP_REQUEST: Shape = Shape {
    what: "gap request",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::one(2, 32), Field::one(3, 32), Field::nested(4, limits::RANGES, &RANGE)],
};

static WITHDRAWAL: Shape = Shape {
    what: "withdrawal",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::one(2, 32), Field::nested(3, limits::RANGES, &SPAN)],
};

static NOT_FOR_YOU: Shape = Shape {
    what: "not-for-you",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::one(2, 32), Field::one(3, 32), Field::nested(4, limits::RANGES, &SPAN)],
};

static RESTORED: Shape = Shape { what: "restored notice", max_len: 64, fields: &[Field::one(1, 32), Field::one(2, 0)] };

impl Statement for Ack {
    const CONTEXT: &'static [u8] = context::ACK;

    fn shape() -> &'static Shape {
        &ACK
    }

    fn signer(&self) -> DeviceId {
        self.signer
    }

    fn encode(&self) -> Bytes {
        let ack = pb::Ack {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            signer: self.signer.encode(),
            through: self.through,
            through_id: encode_optional(self.through_id.as_ref()),
            beyond: self.beyond.to_pb(),
            withdrawn: self.withdrawn.to_pb(),
        };
        ack.encode_to_vec().into()
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let pb = pb::Ack::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: ACK.what })?;
        Ok(Self {
            log: log_id(&pb.log_device, &pb.conversation)?,
            signer: DeviceId::decode(&pb.signer)?,
            through: pb.through,
            through_id: EntryId::decode_optional(&pb.through_id)?,
            beyond: Chain::from_pb(&pb.beyond, pb.through, ACK.what)?,
            withdrawn: RangeSet::from_pb(&pb.withdrawn, 0, ACK.what)?,
        })
    }
}

impl Statement for CannotOpen {
    const CONTEXT: &'static [u8] = context::CANNOT_OPEN;

    fn shape() -> &'static Shape {
        &CANNOT_OPEN
    }

    fn signer(&self) -> DeviceId {
        self.signer
    }

    fn encode(&self) -> Bytes {
        let cannot_open = pb::CannotOpen {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            signer: self.signer.encode(),
            position: self.position,
            id: self.id.encode(),
            reason: self.reason.code(),
        };
        cannot_open.encode_to_vec().into()
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let pb = pb::CannotOpen::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: CANNOT_OPEN.what })?;
        Ok(Self {
            log: log_id(&pb.log_device, &pb.conversation)?,
            signer: DeviceId::decode(&pb.signer)?,
            position: pb.position,
            id: EntryId::decode(&pb.id)?,
            reason: CannotOpenReason::from_code(pb.reason),
        })
    }
}

impl Statement for GapRequest {
    const CONTEXT: &'static [u8] = context::GAP_REQUEST;

    fn shape() -> &'static Shape {
        &GAP_REQUEST
    }

    fn signer(&self) -> DeviceId {
        self.signer
    }

    fn encode(&self) -> Bytes {
        let request = pb::GapRequest {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            signer: self.signer.encode(),
            ranges: self.positions.to_pb(),
        };
        request.encode_to_vec().into()
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let pb = pb::GapRequest::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: GAP_REQUEST.what })?;
        Ok(Self {
            log: log_id(&pb.log_device, &pb.conversation)?,
            signer: DeviceId::decode(&pb.signer)?,
            positions: RangeSet::from_pb(&pb.ranges, 0, GAP_REQUEST.what)?,
        })
    }
}

impl Statement for Withdrawal {
    const CONTEXT: &'static [u8] = context::WITHDRAWAL;

    fn shape() -> &'static Shape {
        &WITHDRAWAL
    }

    fn signer(&self) -> DeviceId {
        self.log.device
    }

    fn encode(&self) -> Bytes {
        let withdrawal = pb::Withdrawal {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            spans: self.positions.to_pb(),
        };
        withdrawal.encode_to_vec().into()
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let pb = pb::Withdrawal::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: WITHDRAWAL.what })?;
        Ok(Self {
            log: log_id(&pb.log_device, &pb.conversation)?,
            positions: Chain::from_pb(&pb.spans, 0, WITHDRAWAL.what)?,
        })
    }
}

impl Statement for NotForYou {
    const CONTEXT: &'static [u8] = context::NOT_FOR_YOU;

    fn shape() -> &'static Shape {
        &NOT_FOR_YOU
    }

    fn signer(&self) -> DeviceId {
        self.log.device
    }

    fn encode(&self) -> Bytes {
        let statement = pb::NotForYou {
            log_device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            to: self.to.encode(),
            spans: self.positions.to_pb(),
        };
        statement.encode_to_vec().into()
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let pb = pb::NotForYou::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: NOT_FOR_YOU.what })?;
        Ok(Self {
            log: log_id(&pb.log_device, &pb.conversation)?,
            to: DeviceId::decode(&pb.to)?,
            positions: Chain::from_pb(&pb.spans, 0, NOT_FOR_YOU.what)?,
        })
    }
}

impl Statement for Restored {
    const CONTEXT: &'static [u8] = context::RESTORED;

    fn shape() -> &'static Shape {
        &RESTORED
    }

    fn signer(&self) -> DeviceId {
        self.device
    }

    fn encode(&self) -> Bytes {
        pb::Restored { device: self.device.encode(), since_ms: self.since_ms }.encode_to_vec().into()
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let pb = pb::Restored::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: RESTORED.what })?;
        Ok(Self { device: DeviceId::decode(&pb.device)?, since_ms: pb.since_ms })
    }
}

fn log_id(device: &[u8], conversation: &[u8]) -> Result<LogId, DecodeError> {
    Ok(LogId { device: DeviceId::decode(device)?, conversation: ConversationId::decode(conversation)? })
}

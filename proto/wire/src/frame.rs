//! What is said on a link once the handshake is done.

use bytes::Bytes;
use prost::Message;

use crate::entry::{ENVELOPE, SIGNED_HEADER};
use crate::receipt::RANGE;
use crate::shape::{Field, Shape};
use crate::{ConversationId, DecodeError, Envelope, RangeSet, Signed, SignedHeader, SuiteId, limits, pb, signed};

/// One frame of a control or chat channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A log entry.
    Envelope(Envelope),
    /// A signed [`crate::Ack`].
    Ack(Signed),
    /// A signed [`crate::CannotOpen`].
    CannotOpen(Signed),
    /// A signed [`crate::Withdrawal`].
    Withdrawal(Signed),
    /// A request to send positions again.
    GapRequest(GapRequest),
    /// A request for a key package.
    KeyPackageRequest(KeyPackageRequest),
    /// A key package.
    KeyPackage(KeyPackage),
    /// The sender's signed [`crate::PeerRecord`].
    Record(Signed),
    /// A signed [`crate::SignedSignal`] on its way, over one device that has links to both ends.
    Signal(Signed),
    /// What a receiver holds of the log of the device it speaks to.
    Held(Held),
    /// A signed [`crate::Restored`].
    Restored(Signed),
}

/// "This is the newest header of your log that I hold": the log's owner sends nothing before it has
/// seen it, and knows by its own signature whether its store is older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The conversation; the log is that of the device spoken to.
    pub conversation: ConversationId,
    /// The header; `None` when nothing of the log is here.
    pub header: Option<SignedHeader>,
    /// The sender's time in milliseconds since the Unix epoch; 0 when it doesn't trust its clock.
    pub time_ms: u64,
    /// How far the log is settled: a signed [`crate::Ack`].
    pub ack: Option<Signed>,
    /// The newest [`crate::Ack`] of the sender's own log that the device spoken to signed: it proves to a
    /// receiver whose store was restored that it had more.
    pub acknowledged: Option<Signed>,
}

/// "Send me these positions of your log again."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRequest {
    /// The conversation; the log is that of the device asked.
    pub conversation: ConversationId,
    /// The positions.
    pub positions: RangeSet,
}

/// "Give me a key package of yours, so that I can add you to my log of this conversation."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPackageRequest {
    /// The suite it shall be of.
    pub suite: SuiteId,
    /// The conversation.
    pub conversation: ConversationId,
}

/// The answer to a [`KeyPackageRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackage {
    /// The suite.
    pub suite: SuiteId,
    /// The conversation it was asked for.
    pub conversation: ConversationId,
    /// The package, as the suite encodes it.
    pub package: Bytes,
}

static RECEIPT: Shape = Shape { what: "receipt", max_len: limits::RECEIPT, fields: signed::SHAPE.fields };
static RECORD: Shape = Shape { what: "peer record", max_len: limits::RECORD, fields: signed::SHAPE.fields };
static GAP_REQUEST: Shape = Shape {
    what: "gap request",
    max_len: limits::RECEIPT,
    fields: &[Field::one(1, 32), Field::nested(2, limits::RANGES, &RANGE)],
};
static KEY_PACKAGE_REQUEST: Shape =
    Shape { what: "key package request", max_len: 64, fields: &[Field::one(1, 0), Field::one(2, 32)] };
static KEY_PACKAGE: Shape = Shape {
    what: "key package",
    max_len: limits::CONTROL_FRAME,
    fields: &[Field::one(1, 0), Field::one(2, 32), Field::one(3, limits::KEY_PACKAGE)],
};
static SIGNAL: Shape = Shape { what: "signal", max_len: limits::SIGNED_SIGNAL, fields: signed::SHAPE.fields };
static HELD: Shape = Shape {
    what: "held header",
    max_len: limits::HEADER + 2 * limits::RECEIPT + 128,
    fields: &[
        Field::one(1, 32),
        Field::nested(2, 1, &SIGNED_HEADER),
        Field::one(3, 0),
        Field::nested(4, 1, &RECEIPT),
        Field::nested(5, 1, &RECEIPT),
    ],
};
static FRAME: Shape = Shape {
    what: "frame",
    max_len: limits::CHAT_FRAME,
    fields: &[
        Field::nested(1, 1, &ENVELOPE),
        Field::nested(2, 1, &RECEIPT),
        Field::nested(3, 1, &RECEIPT),
        Field::nested(4, 1, &RECEIPT),
        Field::nested(5, 1, &GAP_REQUEST),
        Field::nested(6, 1, &KEY_PACKAGE_REQUEST),
        Field::nested(7, 1, &KEY_PACKAGE),
        Field::nested(8, 1, &RECORD),
        Field::nested(9, 1, &SIGNAL),
        Field::nested(10, 1, &HELD),
        Field::nested(11, 1, &RECEIPT),
    ],
};

impl Frame {
    /// Its bytes on the wire.
    pub fn encode(&self) -> Bytes {
        use pb::frame::Kind;
        let kind = match self {
            Self::Envelope(envelope) => Kind::Envelope(envelope.to_pb()),
            Self::Ack(signed) => Kind::Ack(signed.to_pb()),
            Self::CannotOpen(signed) => Kind::CannotOpen(signed.to_pb()),
            Self::Withdrawal(signed) => Kind::Withdrawal(signed.to_pb()),
            Self::GapRequest(request) => Kind::GapRequest(pb::GapRequest {
                conversation: request.conversation.encode(),
                ranges: request.positions.to_pb(),
            }),
            Self::KeyPackageRequest(request) => Kind::KeyPackageRequest(pb::KeyPackageRequest {
                suite: request.suite.0.into(),
                conversation: request.conversation.encode(),
            }),
            Self::KeyPackage(answer) => Kind::KeyPackage(pb::KeyPackage {
                suite: answer.suite.0.into(),
                conversation: answer.conversation.encode(),
                package: answer.package.clone(),
            }),
            Self::Record(signed) => Kind::Record(signed.to_pb()),
            Self::Signal(signed) => Kind::Signal(signed.to_pb()),
            Self::Held(held) => Kind::Held(pb::Held {
                conversation: held.conversation.encode(),
                header: held.header.as_ref().map(|header| header.signed().to_pb()),
                time_ms: held.time_ms,
                ack: held.ack.as_ref().map(Signed::to_pb),
                acknowledged: held.acknowledged.as_ref().map(Signed::to_pb),
            }),
            Self::Restored(signed) => Kind::Restored(signed.to_pb()),
        };
        pb::Frame { kind: Some(kind) }.encode_to_vec().into()
    }

    /// The frame of an envelope that is encoded already, as [`Frame::encode`] would write it.
    pub fn wrap_envelope(envelope: &Bytes) -> Bytes {
        // Field 1, length-delimited.
        let mut frame = Vec::with_capacity(envelope.len() + 6);
        frame.push(0x0a);
        prost::encoding::encode_varint(envelope.len() as u64, &mut frame);
        frame.extend_from_slice(envelope);
        frame.into()
    }

    /// Decodes a frame; nothing in it is verified yet. `None`: a kind that a newer version added.
    pub fn decode(bytes: Bytes) -> Result<Option<Self>, DecodeError> {
        use pb::frame::Kind;
        FRAME.check(&bytes)?;
        let frame = pb::Frame::decode(bytes).map_err(|_| DecodeError::Malformed { what: FRAME.what })?;
        let Some(kind) = frame.kind else {
            return Ok(None);
        };
        Ok(Some(match kind {
            Kind::Envelope(pb) => Self::Envelope(Envelope::from_pb(pb)?),
            Kind::Ack(pb) => Self::Ack(Signed::from_pb(pb)),
            Kind::CannotOpen(pb) => Self::CannotOpen(Signed::from_pb(pb)),
            Kind::Withdrawal(pb) => Self::Withdrawal(Signed::from_pb(pb)),
            Kind::GapRequest(pb) => Self::GapRequest(GapRequest {
                conversation: ConversationId::decode(&pb.conversation)?,
                positions: RangeSet::from_pb(&pb.ranges, 0, GAP_REQUEST.what)?,
            }),
            Kind::KeyPackageRequest(pb) => Self::KeyPackageRequest(KeyPackageRequest {
                suite: SuiteId::decode(pb.suite)?,
                conversation: ConversationId::decode(&pb.conversation)?,
            }),
            Kind::KeyPackage(pb) => Self::KeyPackage(KeyPackage {
                suite: SuiteId::decode(pb.suite)?,
                conversation: ConversationId::decode(&pb.conversation)?,
                package: pb.package,
            }),
            Kind::Record(pb) => Self::Record(Signed::from_pb(pb)),
            Kind::Signal(pb) => Self::Signal(Signed::from_pb(pb)),
            Kind::Held(pb) => Self::Held(Held {
                conversation: ConversationId::decode(&pb.conversation)?,
                header: pb.header.map(|header| SignedHeader::decode(Signed::from_pb(header))).transpose()?,
                time_ms: pb.time_ms,
                ack: pb.ack.map(Signed::from_pb),
                acknowledged: pb.acknowledged.map(Signed::from_pb),
            }),
            Kind::Restored(pb) => Self::Restored(Signed::from_pb(pb)),
        }))
    }
}

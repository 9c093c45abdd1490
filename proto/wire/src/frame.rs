//! What is said on a link once the handshake is done.

use bytes::Bytes;
use prost::Message;

use crate::device_list::{USER_DEVICES, UserDevices};
use crate::entry::{ENVELOPE, SIGNED_HEADER};
use crate::shape::{Field, Shape};
use crate::{
    Ack, CannotOpen, ConversationId, DecodeError, Envelope, GapRequest, NotForYou, Restored, Signed, SignedHeader,
    Stated, SuiteId, Withdrawal, limits, pb, signed,
};

/// One frame of a control or chat channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A log entry.
    Envelope(Envelope),
    /// How far a log is settled.
    Ack(Stated<Ack>),
    /// An entry can't be decrypted.
    CannotOpen(Stated<CannotOpen>),
    /// Positions that will never come.
    Withdrawal(Stated<Withdrawal>),
    /// A request to send positions again.
    GapRequest(Stated<GapRequest>),
    /// A request for a key package.
    KeyPackageRequest(KeyPackageRequest),
    /// A key package.
    KeyPackage(KeyPackage),
    /// The sender's signed [`crate::PeerRecord`].
    Record(Signed),
    /// A signed [`crate::SignedSignal`] on its way, over one device that has links to both ends.
    Signal(Signed),
    /// What a receiver holds of the log of the device it speaks to.
    Held(Box<Held>),
    /// A store that was restored or copied.
    Restored(Stated<Restored>),
    /// Positions that hold nothing for the receiver.
    NotForYou(Stated<NotForYou>),
    /// The devices of the sender's user.
    Devices(Box<UserDevices>),
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
    /// How far the log is settled.
    pub ack: Option<Stated<Ack>>,
    /// The newest acknowledgement of the sender's own log that the device spoken to signed: it proves to a
    /// receiver whose store was restored that it had more.
    pub acknowledged: Option<Stated<Ack>>,
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

/// One kind of frame.
#[derive(Debug)]
pub struct FrameKind {
    /// Its field in `Frame`.
    pub number: u32,
    /// Its name, for logs and counters.
    pub name: &'static str,
    shape: &'static Shape,
}

impl FrameKind {
    const fn new(number: u32, name: &'static str, shape: &'static Shape) -> Self {
        Self { number, name, shape }
    }
}

/// All kinds of frames. A kind that isn't here is a newer version's: it is skipped.
pub static KINDS: [FrameKind; 13] = [
    FrameKind::new(1, "envelope", &ENVELOPE),
    FrameKind::new(2, "ack", &RECEIPT),
    FrameKind::new(3, "cannot-open", &RECEIPT),
    FrameKind::new(4, "withdrawal", &RECEIPT),
    FrameKind::new(5, "gap-request", &RECEIPT),
    FrameKind::new(6, "key-package-request", &KEY_PACKAGE_REQUEST),
    FrameKind::new(7, "key-package", &KEY_PACKAGE),
    FrameKind::new(8, "record", &RECORD),
    FrameKind::new(9, "signal", &SIGNAL),
    FrameKind::new(10, "held", &HELD),
    FrameKind::new(11, "restored", &RECEIPT),
    FrameKind::new(12, "not-for-you", &RECEIPT),
    FrameKind::new(13, "devices", &USER_DEVICES),
];

static FIELDS: [Field; KINDS.len()] = {
    let mut fields = [const { Field::one(0, 0) }; KINDS.len()];
    let mut at = 0;
    while at < KINDS.len() {
        fields[at] = Field::nested(KINDS[at].number, 1, KINDS[at].shape);
        at += 1;
    }
    fields
};
static FRAME: Shape = Shape { what: "frame", max_len: limits::CHAT_FRAME, fields: &FIELDS };

impl Frame {
    /// Its kind.
    pub fn kind(&self) -> &'static FrameKind {
        let number = match self {
            Self::Envelope(_) => 1,
            Self::Ack(_) => 2,
            Self::CannotOpen(_) => 3,
            Self::Withdrawal(_) => 4,
            Self::GapRequest(_) => 5,
            Self::KeyPackageRequest(_) => 6,
            Self::KeyPackage(_) => 7,
            Self::Record(_) => 8,
            Self::Signal(_) => 9,
            Self::Held(_) => 10,
            Self::Restored(_) => 11,
            Self::NotForYou(_) => 12,
            Self::Devices(_) => 13,
        };
        &KINDS[number - 1]
    }

    /// What a receiver holds, as a frame.
    pub fn held(held: Held) -> Self {
        Self::Held(Box::new(held))
    }

    /// Its bytes on the wire.
    pub fn encode(&self) -> Bytes {
        use pb::frame::Kind;
        let kind = match self {
            Self::Envelope(envelope) => Kind::Envelope(envelope.to_pb()),
            Self::Ack(ack) => Kind::Ack(ack.signed().to_pb()),
            Self::CannotOpen(cannot_open) => Kind::CannotOpen(cannot_open.signed().to_pb()),
            Self::Withdrawal(withdrawal) => Kind::Withdrawal(withdrawal.signed().to_pb()),
            Self::GapRequest(request) => Kind::GapRequest(request.signed().to_pb()),
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
                ack: held.ack.as_ref().map(|ack| ack.signed().to_pb()),
                acknowledged: held.acknowledged.as_ref().map(|ack| ack.signed().to_pb()),
            }),
            Self::Restored(notice) => Kind::Restored(notice.signed().to_pb()),
            Self::NotForYou(statement) => Kind::NotForYou(statement.signed().to_pb()),
            Self::Devices(devices) => Kind::Devices(devices.to_pb()),
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

    /// The encoded envelope in its frame, sharing the bytes; `None` for other frames.
    pub fn unwrap_envelope(frame: &Bytes) -> Option<Bytes> {
        let length = frame.strip_prefix(&[0x0a])?.iter().position(|byte| byte & 0x80 == 0)?;
        Some(frame.slice(length + 2..))
    }

    /// Decodes a frame; nothing in it is verified yet. `None`: a kind that a newer version added, or a known
    /// kind in a newer version; the link goes on without it.
    pub fn decode(bytes: Bytes) -> Result<Option<Self>, DecodeError> {
        FRAME.check(&bytes)?;
        let frame = pb::Frame::decode(bytes).map_err(|_| DecodeError::Malformed { what: FRAME.what })?;
        match frame.kind.map(Self::from_pb).transpose() {
            Err(DecodeError::UnsupportedVersion { .. }) => Ok(None),
            decoded => decoded,
        }
    }

    fn from_pb(kind: pb::frame::Kind) -> Result<Self, DecodeError> {
        use pb::frame::Kind;
        Ok(match kind {
            Kind::Envelope(pb) => Self::Envelope(Envelope::from_pb(pb)?),
            Kind::Ack(pb) => Self::Ack(Stated::decode(Signed::from_pb(pb))?),
            Kind::CannotOpen(pb) => Self::CannotOpen(Stated::decode(Signed::from_pb(pb))?),
            Kind::Withdrawal(pb) => Self::Withdrawal(Stated::decode(Signed::from_pb(pb))?),
            Kind::GapRequest(pb) => Self::GapRequest(Stated::decode(Signed::from_pb(pb))?),
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
            Kind::Held(pb) => Self::held(Held {
                conversation: ConversationId::decode(&pb.conversation)?,
                header: pb.header.map(|header| SignedHeader::decode(Signed::from_pb(header))).transpose()?,
                time_ms: pb.time_ms,
                ack: pb.ack.map(|ack| Stated::decode(Signed::from_pb(ack))).transpose()?,
                acknowledged: pb.acknowledged.map(|ack| Stated::decode(Signed::from_pb(ack))).transpose()?,
            }),
            Kind::Restored(pb) => Self::Restored(Stated::decode(Signed::from_pb(pb))?),
            Kind::NotForYou(pb) => Self::NotForYou(Stated::decode(Signed::from_pb(pb))?),
            Kind::Devices(pb) => Self::Devices(Box::new(UserDevices::from_pb(pb)?)),
        })
    }
}

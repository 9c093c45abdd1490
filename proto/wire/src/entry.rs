//! Log entries: the envelope that travels and the bundle of messages sealed inside.

use std::ops::Deref;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::shape::{Field, Shape};
use crate::{
    ConversationId, DecodeError, DeviceId, EntryId, MessageId, RosterId, Signed, SuiteId, WIRE_VERSION, context,
    limits, pb, signed,
};

/// A position in a log. The first is 1; 0 stands for "none yet".
pub type Position = u64;

/// A log: what one device says in one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The device that writes it.
    pub device: DeviceId,
    /// The conversation.
    pub conversation: ConversationId,
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryClass {
    /// Key agreement: it never expires, since what follows can't be opened without it.
    Handshake,
    /// Messages.
    Application,
    /// A class that a newer version added: settled unopened.
    Other(u32),
}

impl EntryClass {
    /// Its number on the wire and on disk.
    pub fn code(self) -> u32 {
        match self {
            Self::Handshake => 1,
            Self::Application => 2,
            Self::Other(code) => code,
        }
    }

    /// The class with this number.
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Handshake,
            2 => Self::Application,
            other => Self::Other(other),
        }
    }
}

/// What stands in a log at one position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The log it belongs to.
    pub log: LogId,
    /// Its position there.
    pub position: Position,
    /// What it is for.
    pub class: EntryClass,
    /// The suite that sealed it.
    pub suite: SuiteId,
    /// When it stops being worth carrying, in milliseconds since the Unix epoch; 0 = never.
    pub expires_at_ms: u64,
    /// The roster of the conversation as the log's device knew it: the entry is for the devices of its users,
    pub roster: RosterId,
    /// but for these.
    pub excluded: Vec<DeviceId>,
    /// Devices whose view of the log begins here: they get the welcome in place of the payload.
    pub joins: Vec<DeviceId>,
    /// The id of the entry before it; `None` at position 1.
    pub previous: Option<EntryId>,
}

/// A header as its log's device signed it, with the hashes of the entry's parts. Nothing in it can be
/// changed; [`SignedHeader::verify`] says whether the signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeader {
    header: Header,
    payload_hash: [u8; 32],
    welcome_hash: Option<[u8; 32]>,
    signed: Signed,
    id: EntryId,
}

/// One log entry on its way, whichever way it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What stands where.
    pub header: SignedHeader,
    /// What the suite made for all devices but those that join. Empty towards those.
    pub payload: Bytes,
    /// What it made for those that join. Empty towards others.
    pub welcome: Bytes,
    /// How many nodes carried it so far; not authenticated.
    pub hops: u32,
}

static HEADER: Shape = Shape {
    what: "entry header",
    max_len: limits::HEADER,
    fields: &[
        Field::one(1, 0),
        Field::one(2, 32),
        Field::one(3, 32),
        Field::one(4, 0),
        Field::one(5, 0),
        Field::one(6, 0),
        Field::one(7, 0),
        Field::one(8, 32),
        Field::many(9, limits::RECIPIENTS, 32),
        Field::one(10, 32),
        Field::one(11, 32),
        Field::many(12, limits::RECIPIENTS, 32),
        Field::one(13, 32),
    ],
};

pub(crate) static SIGNED_HEADER: Shape =
    Shape { what: "signed entry header", max_len: limits::HEADER, fields: signed::SHAPE.fields };

pub(crate) static ENVELOPE: Shape = Shape {
    what: "envelope",
    max_len: limits::CHAT_FRAME,
    fields: &[
        Field::nested(1, 1, &SIGNED_HEADER),
        Field::one(2, limits::PAYLOAD),
        Field::one(3, 0),
        Field::one(4, limits::HANDSHAKE_PAYLOAD),
    ],
};

impl Header {
    /// What the suite authenticates beside an application entry's plaintext: all of the header. (The
    /// payload's hash isn't known yet; the signature covers it.)
    pub fn associated_data(&self) -> Vec<u8> {
        [context::ENTRY_HEADER, &self.to_pb(&[], None).encode_to_vec()].concat()
    }

    /// Signs the header of an entry with this payload.
    pub fn sign(self, payload: &[u8], sign: impl FnOnce(&[u8]) -> Bytes) -> SignedHeader {
        self.sign_parts(payload, b"", sign)
    }

    /// Signs the header of an entry with this payload and, if it isn't empty, this welcome.
    pub fn sign_parts(self, payload: &[u8], welcome: &[u8], sign: impl FnOnce(&[u8]) -> Bytes) -> SignedHeader {
        let payload_hash = part_hash(context::ENTRY_PAYLOAD, payload);
        let welcome_hash = (!welcome.is_empty()).then(|| part_hash(context::ENTRY_WELCOME, welcome));
        let body = Bytes::from(self.to_pb(&payload_hash, welcome_hash.as_ref()).encode_to_vec());
        let id = EntryId::of_header(&body);
        let signed = Signed::sign(context::ENTRY, body, sign);
        SignedHeader { header: self, payload_hash, welcome_hash, signed, id }
    }

    fn to_pb(&self, payload_hash: &[u8], welcome_hash: Option<&[u8; 32]>) -> pb::EntryHeader {
        pb::EntryHeader {
            version: WIRE_VERSION,
            device: self.log.device.encode(),
            conversation: self.log.conversation.encode(),
            position: self.position,
            class: self.class.code(),
            suite: self.suite.0.into(),
            expires_at_ms: self.expires_at_ms,
            roster: self.roster.encode(),
            excluded: self.excluded.iter().map(DeviceId::encode).collect(),
            joins: self.joins.iter().map(DeviceId::encode).collect(),
            previous: encode_optional(self.previous.as_ref()),
            payload_hash: Bytes::copy_from_slice(payload_hash),
            welcome_hash: welcome_hash.map(|hash| Bytes::copy_from_slice(hash)).unwrap_or_default(),
        }
    }
}

fn part_hash(context: &[u8], part: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(context).chain_update(part).finalize().into()
}

/// An id that may be absent, as no bytes.
pub(crate) fn encode_optional(id: Option<&EntryId>) -> Bytes {
    id.map(EntryId::encode).unwrap_or_default()
}

impl Deref for SignedHeader {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

impl SignedHeader {
    /// The entry's id: the hash of its header.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// The header's bytes and the signature over them.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// Whether `verify(message, signature)`, with the key of the log's device, finds the signature good.
    pub fn verify(&self, verify: impl FnOnce(&[u8], &[u8]) -> bool) -> bool {
        self.signed.verify(context::ENTRY, verify).is_some()
    }

    /// Decodes a signed header; its signature is not verified yet.
    pub fn decode(signed: Signed) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        HEADER.check(body)?;
        let pb = pb::EntryHeader::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: HEADER.what })?;
        if pb.version != WIRE_VERSION {
            return Err(DecodeError::UnsupportedVersion { what: HEADER.what, found: pb.version });
        }
        if pb.position == 0 || pb.position == u64::MAX {
            return Err(DecodeError::invalid(HEADER.what, "its position is out of range"));
        }
        let hash = |bytes: &Bytes| {
            let hash: Result<[u8; 32], _> = bytes.as_ref().try_into();
            hash.map_err(|_| DecodeError::invalid(HEADER.what, "its hash is not 32 bytes long"))
        };
        let devices = |ids: &[Bytes]| ids.iter().map(|d| DeviceId::decode(d)).collect::<Result<_, _>>();
        let header = Header {
            log: LogId {
                device: DeviceId::decode(&pb.device)?,
                conversation: ConversationId::decode(&pb.conversation)?,
            },
            position: pb.position,
            class: EntryClass::from_code(pb.class),
            suite: SuiteId::decode(pb.suite)?,
            expires_at_ms: pb.expires_at_ms,
            roster: RosterId::decode(&pb.roster)?,
            excluded: devices(&pb.excluded)?,
            joins: devices(&pb.joins)?,
            previous: EntryId::decode_optional(&pb.previous)?,
        };
        if header.previous.is_none() != (header.position == 1) {
            return Err(DecodeError::invalid(HEADER.what, "only the first entry has no predecessor"));
        }
        let payload_hash = hash(&pb.payload_hash)?;
        let welcome_hash = (!pb.welcome_hash.is_empty()).then(|| hash(&pb.welcome_hash)).transpose()?;
        if welcome_hash.is_none() && !header.joins.is_empty() {
            return Err(DecodeError::invalid(HEADER.what, "it lets devices in without a welcome"));
        }
        let id = EntryId::of_header(body);
        Ok(Self { header, payload_hash, welcome_hash, signed, id })
    }
}

impl Envelope {
    /// Whether the header is signed by the log's device, and speaks of the parts that are here.
    pub fn verify(&self, verify: impl FnOnce(&[u8], &[u8]) -> bool) -> bool {
        let payload = || part_hash(context::ENTRY_PAYLOAD, &self.payload) == self.header.payload_hash;
        let welcome = || Some(part_hash(context::ENTRY_WELCOME, &self.welcome)) == self.header.welcome_hash;
        // One that is left out has nothing to be verified.
        let parts = || (self.payload.is_empty() || payload()) && (self.welcome.is_empty() || welcome());
        self.header.verify(verify) && parts()
    }

    /// What is in it for a device; `None`: that part was left out.
    pub fn part_for(&self, device: &DeviceId) -> Option<&Bytes> {
        let part = if self.header.joins.contains(device) { &self.welcome } else { &self.payload };
        Some(part).filter(|part| !part.is_empty())
    }

    /// The envelope as it goes to a device, without the part that isn't for it.
    pub fn only_for(self, device: &DeviceId) -> Self {
        match self.header.joins.contains(device) {
            true => Self { payload: Bytes::new(), ..self },
            false => Self { welcome: Bytes::new(), ..self },
        }
    }

    /// Its bytes on the wire and on disk.
    pub fn encode(&self) -> Bytes {
        self.to_pb().encode_to_vec().into()
    }

    /// Decodes an envelope; nothing in it is verified yet.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        ENVELOPE.check(&bytes)?;
        let pb = pb::Envelope::decode(bytes).map_err(|_| DecodeError::Malformed { what: ENVELOPE.what })?;
        Self::from_pb(pb)
    }

    pub(crate) fn to_pb(&self) -> pb::Envelope {
        pb::Envelope {
            header: Some(self.header.signed.to_pb()),
            payload: self.payload.clone(),
            hops: self.hops,
            welcome: self.welcome.clone(),
        }
    }

    pub(crate) fn from_pb(pb: pb::Envelope) -> Result<Self, DecodeError> {
        let header = SignedHeader::decode(Signed::required(pb.header, ENVELOPE.what)?)?;
        Ok(Self { header, payload: pb.payload, welcome: pb.welcome, hops: pb.hops })
    }
}

/// The plaintext of an application entry: messages in the order they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The messages.
    pub items: Vec<Item>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name, chosen by the author.
    pub id: MessageId,
    /// When the author sent it, in milliseconds since the Unix epoch, by the author's clock.
    pub sent_at_ms: u64,
    /// A media type (RFC 6838); empty for `text/plain; charset=utf-8`.
    pub content_type: String,
    /// The content.
    pub body: Bytes,
    /// Where in this log it stood before it was sealed again, oldest first.
    pub resealed_from: Vec<Position>,
}

static ITEM: Shape = Shape {
    what: "message",
    max_len: limits::MESSAGE_BODY + 1024,
    fields: &[
        Field::one(1, 16),
        Field::one(2, 0),
        Field::one(3, limits::CONTENT_TYPE),
        Field::one(4, limits::MESSAGE_BODY),
        // Packed: at most ten bytes each.
        Field::many(5, limits::RESEALED_FROM, 10 * limits::RESEALED_FROM),
    ],
};

static BUNDLE: Shape =
    Shape { what: "bundle", max_len: limits::BUNDLE, fields: &[Field::nested(1, limits::BUNDLE_ITEMS, &ITEM)] };

impl Item {
    /// Upper bound of what the item takes in a bundle, in bytes.
    pub fn encoded_size(&self) -> usize {
        self.body.len() + self.content_type.len() + 64 + 10 * self.resealed_from.len()
    }

    pub(crate) fn to_pb(&self) -> pb::Item {
        pb::Item {
            message_id: Bytes::copy_from_slice(self.id.as_bytes()),
            sent_at_ms: self.sent_at_ms,
            content_type: self.content_type.clone(),
            body: self.body.clone(),
            resealed_from: self.resealed_from.clone(),
        }
    }

    pub(crate) fn from_pb(pb: pb::Item) -> Result<Self, DecodeError> {
        let id = pb.message_id.as_ref().try_into();
        if pb.resealed_from.len() > limits::RESEALED_FROM {
            return Err(DecodeError::TooMany { what: ITEM.what, max: limits::RESEALED_FROM });
        }
        Ok(Self {
            id: MessageId::from_bytes(id.map_err(|_| DecodeError::invalid(ITEM.what, "its id is not 16 bytes long"))?),
            sent_at_ms: pb.sent_at_ms,
            content_type: pb.content_type,
            body: pb.body,
            resealed_from: pb.resealed_from,
        })
    }
}

impl Bundle {
    /// Its bytes, as they are sealed and stored.
    pub fn encode(&self) -> Bytes {
        pb::Bundle { items: self.items.iter().map(Item::to_pb).collect() }.encode_to_vec().into()
    }

    /// Decodes a bundle, which has at least one message; the bodies are slices of `bytes`, not copies.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        BUNDLE.check(&bytes)?;
        let pb = pb::Bundle::decode(bytes).map_err(|_| DecodeError::Malformed { what: BUNDLE.what })?;
        if pb.items.is_empty() {
            return Err(DecodeError::invalid(BUNDLE.what, "it has no message"));
        }
        Ok(Self { items: pb.items.into_iter().map(Item::from_pb).collect::<Result<_, _>>()? })
    }
}

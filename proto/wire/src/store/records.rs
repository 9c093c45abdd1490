//! The records in the store, and their protobuf forms.

use bytes::Bytes;

use super::Record;
use crate::chain::Chain;
use crate::entry::EntryClass;
use crate::entry::{SignedHeader, encode_optional};
use crate::range::RangeSet;
use crate::{
    Ack, CannotOpenReason, DecodeError, DeviceId, EntryId, MessageId, NetworkId, Position, Signed, Stated, UserId, pb,
};

/// How the key of an encrypted store is wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultHeader {
    /// Argon2id's memory, in KiB (RFC 9106).
    pub memory_kib: u32,
    /// Argon2id's passes.
    pub passes: u32,
    /// Argon2id's lanes.
    pub lanes: u32,
    /// Argon2id's salt.
    pub salt: Bytes,
    /// The data key, sealed under what Argon2id makes of the passphrase.
    pub wrapped_key: Bytes,
}

impl Record for VaultHeader {
    const NAME: &'static str = "vault header";
    type Pb = pb::VaultHeader;

    fn to_pb(&self) -> Self::Pb {
        pb::VaultHeader {
            memory_kib: self.memory_kib,
            passes: self.passes,
            lanes: self.lanes,
            salt: self.salt.clone(),
            wrapped_key: self.wrapped_key.clone(),
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let pb::VaultHeader { memory_kib, passes, lanes, salt, wrapped_key } = pb;
        Ok(Self { memory_kib, passes, lanes, salt, wrapped_key })
    }
}

/// Who this node is.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Secret seed of the user key in force; on devices with the role *admin* only.
    pub user_seed: Option<[u8; 32]>,
    /// Secret seed of the recovery key, until the user has written down its phrase.
    pub recovery_seed: Option<[u8; 32]>,
    /// Secret seed of the device key.
    pub device_seed: [u8; 32],
    /// The device's certificate, verbatim.
    pub certificate: Signed,
    /// The network the identity was made for.
    pub network: NetworkId,
    /// What the user is called.
    pub name: String,
}

impl Record for Identity {
    const NAME: &'static str = "identity";
    type Pb = pb::StoredIdentity;

    fn to_pb(&self) -> Self::Pb {
        let optional = |seed: Option<[u8; 32]>| seed.map(|s| Bytes::copy_from_slice(&s)).unwrap_or_default();
        pb::StoredIdentity {
            user_seed: optional(self.user_seed),
            recovery_seed: optional(self.recovery_seed),
            device_seed: Bytes::copy_from_slice(&self.device_seed),
            certificate: Some(self.certificate.to_pb()),
            network: self.network.encode(),
            name: self.name.clone(),
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let seed = |bytes: &Bytes| {
            bytes.as_ref().try_into().map_err(|_| DecodeError::invalid(Self::NAME, "a seed is not 32 bytes long"))
        };
        let some = |bytes: &Bytes| (!bytes.is_empty()).then(|| seed(bytes)).transpose();
        Ok(Self {
            user_seed: some(&pb.user_seed)?,
            recovery_seed: some(&pb.recovery_seed)?,
            device_seed: seed(&pb.device_seed)?,
            certificate: Signed::required(pb.certificate, Self::NAME)?,
            network: NetworkId::decode(&pb.network)?,
            name: pb.name,
        })
    }
}

/// An invitation of ours that may still be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutstandingInvitation {
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// How many more contacts it lets in.
    pub uses_left: u32,
}

impl Record for OutstandingInvitation {
    const NAME: &'static str = "outstanding invitation";
    type Pb = pb::StoredInvitation;

    fn to_pb(&self) -> Self::Pb {
        pb::StoredInvitation { expires_at_ms: self.expires_at_ms, uses_left: self.uses_left }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        Ok(Self { expires_at_ms: pb.expires_at_ms, uses_left: pb.uses_left })
    }
}

/// What the outbox must know of an entry of our own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutEntry {
    /// What the entry is for.
    pub class: EntryClass,
    /// Size of its sealed envelope, in bytes.
    pub size: u32,
    /// When it expires, in milliseconds since the Unix epoch; 0 = never.
    pub expires_at_ms: u64,
    /// The messages that it carries: what becomes of it decides what becomes of them. None where a copy sealed since
    /// carries them, or where they had been delivered before this one was sealed.
    pub messages: Vec<MessageId>,
    /// The devices it is for: sealed for, or to be sealed again for once they are let in.
    pub recipients: Vec<DeviceId>,
    /// Where its plaintext stands in [`HISTORY`](super::HISTORY); 0 = nowhere.
    pub history: u64,
    /// Other positions of the log that hold the same messages, sealed before or since; at most
    /// [`limits::RESEALED_FROM`](crate::limits::RESEALED_FROM).
    pub copies: Vec<Position>,
    /// The entry's id.
    pub id: EntryId,
    /// Whether it was put on a link to a device: then it may have arrived.
    pub left: bool,
    /// Whether it expired: devices that lack it get a withdrawal.
    pub expired: bool,
    /// Whether one device of each recipient user showed it, while others still lack it.
    pub delivered: bool,
    /// Whether the user deleted messages of it: their plaintext goes once no device needs the entry.
    pub discard: bool,
}

impl Record for OutEntry {
    const NAME: &'static str = "own entry";
    type Pb = pb::OutEntry;

    fn to_pb(&self) -> Self::Pb {
        pb::OutEntry {
            class: self.class.code(),
            size: self.size,
            expires_at_ms: self.expires_at_ms,
            message_ids: join_message_ids(&self.messages),
            recipients: self.recipients.iter().map(DeviceId::encode).collect(),
            history: self.history,
            copies: self.copies.clone(),
            id: self.id.encode(),
            left: self.left,
            expired: self.expired,
            delivered: self.delivered,
            discard: self.discard,
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        Ok(Self {
            class: EntryClass::from_code(pb.class),
            size: pb.size,
            expires_at_ms: pb.expires_at_ms,
            messages: split_message_ids(&pb.message_ids),
            recipients: pb.recipients.iter().map(|d| DeviceId::decode(d)).collect::<Result<_, _>>()?,
            history: pb.history,
            copies: pb.copies,
            id: EntryId::decode(&pb.id)?,
            left: pb.left,
            expired: pb.expired,
            delivered: pb.delivered,
            discard: pb.discard,
        })
    }
}

/// An own entry as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedEntry {
    /// The envelope; with a recipe, without its payload.
    pub envelope: Bytes,
    /// What rebuilds the payload from the plaintext in the history; empty when the envelope is whole.
    pub recipe: Bytes,
    /// Where the plaintext stands in [`HISTORY`](super::HISTORY); 0 = nowhere.
    pub history: u64,
}

impl Record for SealedEntry {
    const NAME: &'static str = "sealed entry";
    type Pb = pb::SealedEntry;

    fn to_pb(&self) -> Self::Pb {
        pb::SealedEntry { envelope: self.envelope.clone(), recipe: self.recipe.clone(), history: self.history }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        Ok(Self { envelope: pb.envelope, recipe: pb.recipe, history: pb.history })
    }
}

/// Delivery of one of our logs to one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutCursor {
    /// The device's user.
    pub user: UserId,
    /// Where the device's view of the log begins; 0 = it hasn't been let in yet.
    pub base: Position,
    /// It has settled every position up to and with this one.
    pub through: Position,
    /// And these.
    pub beyond: RangeSet,
    /// How often it has been added again after it couldn't open an entry.
    pub rejoins: u32,
    /// Nothing is sent to it before it was added again.
    pub halted: bool,
    /// Positions before the base that it lacked when it was added again: what is there is still to be sealed again.
    pub owed: RangeSet,
    /// Its newest signed [`crate::Ack`], verbatim: shown to it, whose store may be an older one by then.
    pub acknowledged: Option<Stated<Ack>>,
    /// Positions of kept entries that it settled without showing them.
    pub void: RangeSet,
}

impl Record for OutCursor {
    const NAME: &'static str = "delivery cursor";
    type Pb = pb::OutCursor;

    fn to_pb(&self) -> Self::Pb {
        pb::OutCursor {
            user: self.user.encode(),
            base: self.base,
            through: self.through,
            beyond: self.beyond.to_pb(),
            rejoins: self.rejoins,
            halted: self.halted,
            owed: self.owed.to_pb(),
            acknowledged: self.acknowledged.as_ref().map(|ack| ack.signed().to_pb()),
            void: self.void.to_pb(),
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        Ok(Self {
            user: UserId::decode(&pb.user)?,
            base: pb.base,
            through: pb.through,
            beyond: RangeSet::from_pb(&pb.beyond, pb.through, Self::NAME)?,
            rejoins: pb.rejoins,
            halted: pb.halted,
            owed: RangeSet::from_pb(&pb.owed, 0, Self::NAME)?,
            acknowledged: pb.acknowledged.map(|ack| Stated::decode(Signed::from_pb(ack))).transpose()?,
            void: RangeSet::from_pb(&pb.void, 0, Self::NAME)?,
        })
    }
}

/// A peer's log as far as this node has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InLog {
    /// Where our view of the log begins; 0 = no entry has let us in yet.
    pub base: Position,
    /// Every position up to and with this one is settled.
    pub through: Position,
    /// The id of the entry there, if it is known.
    pub through_id: Option<EntryId>,
    /// And these.
    pub beyond: Chain,
    /// Positions settled before the last join: messages sealed again from there were shown already.
    pub before_join: RangeSet,
    /// The newest header of the log that was verified: it proves to an owner whose store was restored
    /// that the log is longer.
    pub newest: Option<SignedHeader>,
    /// Positions that were settled by a withdrawal, and not shown.
    pub withdrawn: RangeSet,
    /// Of how many copies of this store the log's owner has shown what they acknowledged of this log, as far as it knew
    /// of any.
    pub copies: u32,
}

impl Record for InLog {
    const NAME: &'static str = "incoming log";
    type Pb = pb::InLog;

    fn to_pb(&self) -> Self::Pb {
        pb::InLog {
            base: self.base,
            through: self.through,
            beyond: self.beyond.to_pb(),
            before_join: self.before_join.to_pb(),
            through_id: encode_optional(self.through_id.as_ref()),
            newest: self.newest.as_ref().map(|header| header.signed().to_pb()),
            withdrawn: self.withdrawn.to_pb(),
            copies: self.copies,
        }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        Ok(Self {
            base: pb.base,
            through: pb.through,
            through_id: EntryId::decode_optional(&pb.through_id)?,
            beyond: Chain::from_pb(&pb.beyond, pb.through, Self::NAME)?,
            before_join: RangeSet::from_pb(&pb.before_join, 0, Self::NAME)?,
            newest: pb.newest.map(|signed| SignedHeader::decode(Signed::from_pb(signed))).transpose()?,
            withdrawn: RangeSet::from_pb(&pb.withdrawn, 0, Self::NAME)?,
            copies: pb.copies,
        })
    }
}

/// An entry that can't be decrypted, kept with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Why.
    pub reason: CannotOpenReason,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The entry.
    pub id: EntryId,
}

impl Record for Quarantined {
    const NAME: &'static str = "quarantined entry";
    type Pb = pb::Quarantined;

    fn to_pb(&self) -> Self::Pb {
        pb::Quarantined { reason: self.reason.code(), since_ms: self.since_ms, id: self.id.encode() }
    }

    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError> {
        let reason = CannotOpenReason::from_code(pb.reason);
        Ok(Self { reason, since_ms: pb.since_ms, id: EntryId::decode(&pb.id)? })
    }
}

pub(super) fn join_message_ids(ids: &[MessageId]) -> Bytes {
    ids.iter().flat_map(|id| *id.as_bytes()).collect::<Vec<_>>().into()
}

pub(super) fn split_message_ids(bytes: &[u8]) -> Vec<MessageId> {
    bytes.as_chunks().0.iter().map(|id| MessageId::from_bytes(*id)).collect()
}

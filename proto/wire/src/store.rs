//! What the store holds: its tables, their keys, and the records in them.
//!
//! Every value is one version byte followed by a protobuf message; every key is an opaque id of
//! fixed length followed by an optional big-endian order, so that an encrypting store can hide the
//! id and keep the order.

mod contact;
mod conversation;
mod given;
mod history;
mod pending;
mod records;

use bytes::Bytes;
use prost::Message;

use crate::DecodeError;

pub use contact::{Contact, ContactDevice, Invited};
pub use conversation::{ConversationInfo, ConversationKind};
pub use given::GivenKeyPackage;
pub use history::{History, HistoryHead, OwnState};
pub use pending::{Pending, PendingHead};
pub use records::{Identity, InLog, OutCursor, OutEntry, OutstandingInvitation, Quarantined, SealedEntry, VaultHeader};

/// Version of the store's layout: tables, keys and record versions together.
pub const SCHEMA_VERSION: u32 = 1;

/// Version byte of every record of schema version 1.
const RECORD_VERSION: u8 = 1;

/// One ordered table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// Its name in the store.
    pub name: &'static str,
    /// Length of the opaque id that its keys begin with, in bytes; the rest is a big-endian order.
    pub id_len: usize,
}

/// Facts about the store itself, by a 16-byte name (see [`meta`]).
pub const META: Table = Table { name: "meta", id_len: 16 };
/// [`Contact`] by user.
pub const CONTACTS: Table = Table { name: "contacts", id_len: 32 };
/// [`ConversationInfo`] by its id.
pub const CONVERSATIONS: Table = Table { name: "conversations", id_len: 32 };
/// [`OutstandingInvitation`] by the SHA-256 of its token.
pub const INVITATIONS: Table = Table { name: "invitations", id_len: 32 };
/// [`PendingHead`] by conversation and sequence.
pub const PENDING: Table = Table { name: "pending", id_len: 32 };
/// [`Pending`] by conversation and sequence; written and deleted with its head.
pub const PENDING_BODIES: Table = Table { name: "pending_bodies", id_len: 32 };
/// [`OutEntry`] by conversation and position: our own logs.
pub const OUT_ENTRIES: Table = Table { name: "out_entries", id_len: 32 };
/// [`SealedEntry`] by conversation and position; gone once all devices have it.
pub const OUT_SEALED: Table = Table { name: "out_sealed", id_len: 32 };
/// [`OutCursor`] by conversation and device.
pub const OUT_CURSORS: Table = Table { name: "out_cursors", id_len: 64 };
/// [`InLog`] by device and conversation.
pub const IN_LOGS: Table = Table { name: "in_logs", id_len: 64 };
/// Envelopes that came too early, by device, conversation and position.
pub const IN_PARKED: Table = Table { name: "in_parked", id_len: 64 };
/// [`Quarantined`] by device, conversation and position.
pub const QUARANTINE: Table = Table { name: "quarantine", id_len: 64 };
/// [`History`] by sequence: what was said, ours and theirs.
pub const HISTORY: Table = Table { name: "history", id_len: 0 };
/// [`HistoryHead`] by conversation and sequence; written and deleted with its row in [`HISTORY`].
pub const HISTORY_HEADS: Table = Table { name: "history_heads", id_len: 32 };
/// [`GivenKeyPackage`] by the SHA-256 of the package: those that others hold and may use.
pub const KEY_PACKAGES: Table = Table { name: "key_packages", id_len: 32 };
/// The crypto implementations' state, by the SHA-256 of suite and the implementation's own key.
pub const CRYPTO: Table = Table { name: "crypto", id_len: 32 };

/// [`VaultHeader`] of an encrypted store, under [`VAULT_HEADER`]; the only row that isn't encrypted.
pub const VAULT: Table = Table { name: "vault", id_len: 0 };
/// The one key of [`VAULT`].
pub const VAULT_HEADER: &[u8] = b"header";

/// All tables, in the order in which a copy writes them.
pub const TABLES: [Table; 17] = [
    VAULT,
    META,
    CONTACTS,
    CONVERSATIONS,
    INVITATIONS,
    PENDING,
    PENDING_BODIES,
    OUT_ENTRIES,
    OUT_SEALED,
    OUT_CURSORS,
    IN_LOGS,
    IN_PARKED,
    QUARANTINE,
    HISTORY,
    HISTORY_HEADS,
    KEY_PACKAGES,
    CRYPTO,
];

/// Keys of the [`META`] table.
pub mod meta {
    /// Layout version, 4 bytes big-endian.
    pub const SCHEMA: &[u8; 16] = b"schema-version\0\0";
    /// Where a change of layout that has begun goes on.
    pub const MIGRATION: &[u8; 16] = b"migration-place\0";
    /// The node's [`super::Identity`].
    pub const IDENTITY: &[u8; 16] = b"identity\0\0\0\0\0\0\0\0";
    /// 16 random bytes, also kept beside the store: a restored copy shows itself by the difference.
    pub const INSTANCE: &[u8; 16] = b"instance-id\0\0\0\0\0";
    /// Sequence of the last own peer record, 8 bytes big-endian.
    pub const RECORD_SEQUENCE: &[u8; 16] = b"record-sequence\0";
    /// The highest wall-clock time seen, milliseconds since the Unix epoch, 8 bytes big-endian.
    pub const LAST_SEEN_TIME: &[u8; 16] = b"last-seen-time\0\0";
    /// This device's signed [`crate::Restored`]: the store is older than what a peer has, and sends
    /// nothing any more.
    pub const RESTORED: &[u8; 16] = b"store-restored\0\0";
    /// Copies of this store were used: [`crate::Restored::since_ms`] of the notice of each, 8 bytes big-endian, in the
    /// order in which they came.
    pub const COPIED: &[u8; 16] = b"store-copied\0\0\0\0";
    /// The highest sequence that the history had when its newest row was deleted, 8 bytes big-endian.
    pub const HISTORY_END: &[u8; 16] = b"history-end\0\0\0\0\0";
    /// The devices of this node's user, as far as they are known here: [`crate::UserDevices`].
    pub const DEVICES: &[u8; 16] = b"user-devices\0\0\0\0";
}

/// A key: ids, then a big-endian order.
pub fn ordered_key(ids: &[&[u8]], order: u64) -> Bytes {
    let mut key = ids.concat();
    key.extend_from_slice(&order.to_be_bytes());
    key.into()
}

/// The order at a key's end.
pub fn key_order(key: &[u8]) -> Result<u64, DecodeError> {
    let (_, order) = key.split_last_chunk().ok_or(DecodeError::invalid("key", "has no order"))?;
    Ok(u64::from_be_bytes(*order))
}

/// A record of the store.
pub trait Record: Sized {
    /// The record's name, for errors.
    const NAME: &'static str;
    /// Its protobuf message.
    type Pb: Message + Default;

    /// As its protobuf message.
    fn to_pb(&self) -> Self::Pb;
    /// From its protobuf message.
    fn from_pb(pb: Self::Pb) -> Result<Self, DecodeError>;

    /// The value to store.
    fn encode(&self) -> Bytes {
        let pb = self.to_pb();
        let mut value = Vec::with_capacity(1 + pb.encoded_len());
        value.push(RECORD_VERSION);
        // A Vec grows as needed, so encoding can't fail.
        let _ = pb.encode(&mut value);
        value.into()
    }

    /// The record that a value holds.
    fn decode(value: Bytes) -> Result<Self, DecodeError> {
        match value.first() {
            Some(&RECORD_VERSION) => {
                let pb = Self::Pb::decode(value.slice(1..));
                Self::from_pb(pb.map_err(|_| DecodeError::Malformed { what: Self::NAME })?)
            }
            Some(&found) => Err(DecodeError::UnsupportedVersion { what: Self::NAME, found: found.into() }),
            None => Err(DecodeError::Malformed { what: Self::NAME }),
        }
    }
}

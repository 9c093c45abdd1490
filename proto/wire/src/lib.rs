//! What Peerloom says and stores: ids, signed objects, wire and disk messages.
//!
//! `docs/formats.md` is the prose of this crate. Everything here is pure: no I/O, no clock, no
//! cryptography beyond the hash that makes an id. Bytes from outside pass three gates, in this
//! order: the length limit of their type, the [`shape`] check (counts and nesting, before anything
//! is allocated), and the validation that turns a protobuf message into a Rust type.

pub mod allowance;
pub mod certificate;
pub mod chain;
pub mod context;
pub mod decoders;
pub mod device_list;
pub mod discovery;
pub mod entry;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod id;
pub mod identity;
pub mod invitation;
pub mod key;
pub mod limits;
pub mod name;
pub mod pasted;
pub mod range;
pub mod receipt;
pub mod roster;
pub mod shape;
pub mod signal;
pub mod signed;
pub mod statement;
pub mod store;

/// The protobuf messages, as `prost` generates them. Use the validated types around them instead
/// wherever bytes come from outside.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/peerloom.v1.rs"));
}

pub use allowance::Allowance;
pub use certificate::{DeviceCertificate, Revocation, Roles, Succession, UserKeys};
pub use chain::{Chain, Span};
pub use device_list::{DeviceList, EncodedDeviceList, UserDevices};
pub use discovery::{
    DiscoveryItem, DiscoveryKey, ItemKind, ItemSlot, OpenItem, PublishedKeyPackage, ServiceKind, ServiceOffer,
};
pub use entry::{Bundle, EntryClass, Envelope, Header, Item, LogId, Position, SignedHeader};
pub use error::DecodeError;
pub use frame::{Frame, FrameKind, Held, KeyPackage, KeyPackageRequest};
pub use handshake::{Auth, Hello, Negotiated, Refusal, Verdict};
pub use id::{ConversationId, DeviceId, EntryId, MessageId, NetworkId, RosterId, UserId};
pub use identity::{Address, PeerRecord, SuiteId};
pub use invitation::Invitation;
pub use key::PublicKey;
pub use range::{Range, RangeSet};
pub use receipt::{Ack, CannotOpen, CannotOpenReason, GapRequest, NotForYou, Restored, Withdrawal};
pub use roster::{Role, Roster};
pub use signal::{SessionId, SignedSignal};
pub use signed::{ObjectHash, Signed};
pub use statement::{Stated, Statement};

/// The wire format's version that this crate speaks.
pub const WIRE_VERSION: u32 = 1;
/// The oldest wire format's version that this crate still understands.
pub const WIRE_VERSION_MIN: u32 = 1;
/// ALPN protocol name (RFC 7301) of transports that negotiate one.
pub const ALPN: &[u8] = b"peerloom/1";

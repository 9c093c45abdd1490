//! The async shell of Peerloom: drives the delivery machines over the four layers.
//!
//! Two sides meet in a bounded queue. The *network side* ([`net`](self)) is async: it listens,
//! dials, does the handshake and moves frames. The *delivery thread* is not: it alone writes the
//! store and calls the crypto, a turn at a time, and says nothing before it is durable. The engine
//! names no implementation; it gets them as [`Layers`].

mod clock;
mod config;
mod contacts;
mod directory;
mod driver;
mod engine;
mod event;
mod history;
mod identity;
mod message;
mod metrics;
mod net;
mod roles;
mod store;

pub use config::{DELIVERY_WAIT, EngineConfig, INVITATION_LIFETIME, Layers, TTL};
pub use contacts::{ID_MARK, ID_PREFIX, contact_word};
pub use driver::{QueuedEntry, StoreStanding};
pub use engine::{Engine, Sending};
pub use event::{Event, EventStream};
pub use history::HistoryPage;
pub use identity::{create_identity, device_signer, open_store};
pub use message::{Cursor, HistoryMessage, Message, MessageState};
pub use metrics::describe_metrics;
pub use net::{LinkInfo, PeerStatus, SignalingRouter};
pub use peerloom_delivery::ConnectionState;
pub use roles::LinkRole;
pub use store::tools::{TableSize, check as check_store, copy as copy_store, table_sizes};

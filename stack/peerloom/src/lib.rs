//! Assemble a messenger that needs no server.
//!
//! One file chooses the layers, three lines use them:
//!
//! ```no_run
//! # async fn example(invite: &str) -> peerloom::Result<()> {
//! let node = peerloom::Node::from_file("peerloom.toml").await?;
//! let bob = node.add_contact(invite).await?;
//! node.conversation(bob).send("hello").await?; // durable once this returns
//! # Ok(())
//! # }
//! ```
//!
//! What happens afterwards comes as [`Event`]s from [`Node::events`].

pub mod builtin;
pub mod config;
mod folder;
mod manual;
mod node;
mod recovery;
mod store;

pub use config::{Config, Override};
pub use folder::SOCKET;
pub use node::{Contact, Conversation, Manual, Node};
pub use peerloom_core as core;
pub use peerloom_core::wire::{Address, ConversationId, DeviceId, MessageId, UserId};
pub use peerloom_core::{
    Diagnostic, DiagnosticStatus, Error, ErrorKind, IceServer, Kinds, Layer, LinkPath, Result, Retry,
};
pub use peerloom_engine::{
    ConnectionState, Cursor, Event, EventStream, HistoryMessage, HistoryPage, ID_MARK, ID_PREFIX, INVITATION_LIFETIME,
    LinkInfo, Message, MessageState, PeerStatus, QueuedEntry, Sending, StoreStanding, TTL, TableSize, contact_word,
    describe_metrics,
};
pub use store::Store;

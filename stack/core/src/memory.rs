//! In-memory implementations of every contract: for tests, and to show how little one needs.
//!
//! They keep their contracts like any other implementation, except that nothing survives the
//! process and [`MemoryCrypto`] protects nothing.

mod crypto;
mod discovery;
mod signaling;
mod storage;
mod stream;
mod transport;

pub use crypto::MemoryCrypto;
pub use discovery::{MemoryDirectory, MemoryDiscovery};
pub use signaling::{MemoryCarrier, MemorySignaling, SignalingHub};
pub use storage::{Faults, MemoryStorage};
pub use stream::MemoryStreams;
pub use transport::{MemoryNetwork, MemoryTransport};

//! Discovery and signaling over a registry server (see `peerloom-registry-protocol`).
//!
//! One WebSocket, open from the first announcement on, announces this device and carries signals.
//! Look-ups and other items than records are HTTP calls; answers are kept for a while. The registry isn't trusted: every record
//! is verified here, and what it sends is bounded in length and in time. Without the registry the node
//! goes on with what it knows.

mod cache;
mod config;
mod connect;
mod diagnosis;
mod discovery;
mod endpoint;
mod health;
mod http;
mod ice;
mod items;
mod pause;
mod publishing;
mod reconnect;
mod session;
mod shared;
mod signaling;

use std::sync::Arc;

use peerloom_core::{Kinds, Result};

pub use config::RegistryConfig;
pub use discovery::RegistryDiscovery;

/// Registers the `registry` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "finds devices over a registry server, and carries signals to them";
    kinds.discoveries.add("registry", summary, |config: RegistryConfig, context| {
        Ok(Arc::new(RegistryDiscovery::new(config, context.network, context.signer.clone())?))
    })
}

/// This machine's clock, in milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

//! Peerloom's registry: a server that keeps the signed records of devices for a while, and carries
//! signals between devices that are connected to it. It stores no messages.
//!
//! One process over one SQLite file. What it says and takes is in [`peerloom_registry_protocol`]. It
//! is a store of presence behind HTTP and WebSockets; clients check what they get from it,
//! so it can hide a device but never forge one.
//!
//! ```no_run
//! # async fn run() -> peerloom_core::Result<()> {
//! use peerloom_registry_server::{Registry, RegistryConfig};
//!
//! let config = RegistryConfig { listen: "127.0.0.1:7400".into(), ..RegistryConfig::default() };
//! let registry = Registry::start(config).await?;
//! println!("listens on {}", registry.local_addr());
//! registry.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod access;
mod address_policy;
mod announce;
mod api;
mod config;
mod connections;
mod error;
mod housekeeping;
mod hub;
mod ice;
mod limiter;
mod metrics;
mod sequences;
mod server;
mod socket;
mod state;
mod store;
mod verifier;

pub use config::{IceConfig, Limits, RegistryConfig, Times, TlsFiles};
pub use server::Registry;

/// The registry's clock, in milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

//! Discovery on the local network: multicast DNS (RFC 6762) and DNS-SD (RFC 6763), service
//! `_peerloom._udp`, with the device's signed record in the TXT record.

mod discovery;
mod txt;

use std::sync::Arc;

use peerloom_core::Kinds;
use peerloom_core::kinds::KindConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use discovery::MdnsDiscovery;
pub use txt::SERVICE;

/// Settings of the `mdns` kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MdnsConfig {
    /// Names of the network interfaces to use, such as "eth0"; empty for all of them.
    pub interfaces: Vec<String>,
    /// UDP port. Every other program uses 5353; another one makes a network of its own.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
}

impl Default for MdnsConfig {
    fn default() -> Self {
        Self { interfaces: Vec::new(), port: 5353 }
    }
}

impl KindConfig for MdnsConfig {}

/// Registers the `mdns` kind.
pub fn register(kinds: &mut Kinds) {
    let summary = "finds devices on the local network, by multicast DNS";
    kinds
        .discoveries
        .add("mdns", summary, |config: MdnsConfig, context| Ok(Arc::new(MdnsDiscovery::new(config, context.network))));
}

//! Discovery on the local network: multicast DNS (RFC 6762) and DNS-SD (RFC 6763), service
//! `_peerloom._udp`, with the device's signed record in the TXT record.

mod config;
mod discovery;
mod txt;

use std::sync::Arc;

use peerloom_core::{Kinds, Result};

pub use config::MdnsConfig;
pub use discovery::MdnsDiscovery;
pub use txt::SERVICE;

/// Registers the `mdns` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "finds devices on the local network, by multicast DNS";
    kinds
        .discoveries
        .add("mdns", summary, |config: MdnsConfig, context| Ok(Arc::new(MdnsDiscovery::new(config, context.network))))
}

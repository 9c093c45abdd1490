//! The discovery suite over the `mdns` kind.

use std::sync::Arc;

use peerloom_conformance::discovery;
use peerloom_core::wire::NetworkId;
use peerloom_discovery_mdns::{MdnsConfig, MdnsDiscovery};

/// Two responders on loopback, on a port of their own.
#[tokio::test]
async fn discovery_mdns() {
    let config = MdnsConfig { interfaces: vec!["lo".into()], port: 25353 };
    let make = || Arc::new(MdnsDiscovery::new(config.clone(), NetworkId::from_name("conformance")));
    discovery::run(make(), make()).await;
}

//! What all calls share.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use peerloom_core::Result;
use peerloom_core::networks::Network;
use peerloom_core::wire::{DeviceId, NetworkId};
use peerloom_registry_protocol::name::registry_name;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::RegistryConfig;
use crate::access::Access;
use crate::address_policy::AddressPolicy;
use crate::connections::Connections;
use crate::hub::Hub;
use crate::limiter::Keyed;
use crate::metrics::Metrics;
use crate::sequences::Sequences;
use crate::store::{Known, SqliteStore, Store};
use crate::verifier::Verifier;

/// A running registry.
pub(crate) struct State {
    pub(crate) config: RegistryConfig,
    /// By which it is called; lower case, never empty.
    names: Vec<String>,
    pub(crate) store: Box<dyn Store>,
    pub(crate) hub: Hub,
    pub(crate) access: Access,
    pub(crate) address_policy: AddressPolicy,
    pub(crate) verifier: Verifier,
    pub(crate) sequences: Sequences,
    pub(crate) by_address: Keyed<Network>,
    pub(crate) by_device: Keyed<DeviceId>,
    /// Devices that weren't known, by the address that announces them.
    pub(crate) newcomers: Keyed<Network>,
    /// WebSockets.
    pub(crate) sockets: Arc<Connections>,
    /// Signals, by who sends them, over however many sockets.
    pub(crate) by_sender: Keyed<DeviceId>,
    pub(crate) metrics: Metrics,
    /// The OpenAPI document.
    pub(crate) document: OnceLock<String>,
    /// Cancelled when the registry is to stop.
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl State {
    /// Opens the store. `listens` is the address that was bound.
    pub(crate) fn open(config: RegistryConfig, listens: SocketAddr) -> Result<Self> {
        let limits = &config.limits;
        // On loopback with a name or a proxy, its clients are elsewhere.
        let loopback = listens.ip().to_canonical().is_loopback();
        let for_this_machine = loopback && config.names.is_empty() && !config.trust_forwarded;
        Ok(Self {
            names: names(&config, listens),
            store: Box::new(SqliteStore::open(&config.store, limits.devices, limits.item_bytes)?),
            hub: Hub::default(),
            access: Access::new(&config.networks, config.only_listed),
            address_policy: AddressPolicy::new(config.allow_local.unwrap_or(for_this_machine)),
            verifier: Verifier::new(),
            sequences: Sequences::new(),
            by_address: Keyed::new(limits.address_per_second, limits.address_burst),
            by_device: Keyed::new(limits.device_per_second, limits.device_burst),
            newcomers: Keyed::new(limits.new_devices_per_second, limits.new_devices_burst),
            sockets: Connections::new(limits.connections, limits.connections_per_address),
            by_sender: Keyed::new(limits.signals_per_second, limits.signals_burst),
            metrics: Metrics::new(),
            document: OnceLock::new(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The name for a challenge to a client that asked for `host`. Of several names it is the one that was
    /// asked for; a name that isn't this registry's is never sent.
    pub(crate) fn name_for(&self, host: Option<&str>) -> &str {
        let asked = host.map(str::to_ascii_lowercase);
        let known = self.names.iter().find(|name| Some(*name) == asked.as_ref());
        known.or(self.names.first()).map_or("", String::as_str)
    }

    /// Whether a device counts as online.
    pub(crate) fn is_online(&self, network: NetworkId, known: &Known, now_ms: u64) -> bool {
        let lately = now_ms.saturating_sub(known.announced_ms) < ms(self.config.times.online);
        lately || self.hub.is_connected(network, known.device)
    }
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn names(config: &RegistryConfig, listens: SocketAddr) -> Vec<String> {
    let name = |host: &str| registry_name(host, Some(listens.port()), config.tls.is_some());
    let ip = listens.ip();
    if !config.names.is_empty() {
        config.names.iter().map(|name| name.to_ascii_lowercase()).collect()
    } else if ip.to_canonical().is_loopback() {
        vec![name(&host(ip)), name("localhost")]
    } else {
        vec![name(&host(ip))]
    }
}

/// An address as it stands in a URL.
fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

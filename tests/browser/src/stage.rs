//! Our side: a registry, and a transport that signals over it.

use std::sync::Arc;

use peerloom_conformance::discovery::announce;
use peerloom_conformance::identity::{AllKnown, identity, record};
use peerloom_core::kinds::KindConfig;
use peerloom_core::wire::NetworkId;
use peerloom_core::{Discovery, Link, Listener, Signaling, Transport};
use peerloom_crypto_primitives::SigningKey;
use peerloom_discovery_registry::RegistryDiscovery;
use peerloom_engine::SignalingRouter;
use peerloom_registry_server::{Registry, RegistryConfig};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};

use crate::guest::{Guest, Task};

/// The numbers of the two identities.
pub(crate) const HOST: u8 = 1;
pub(crate) const GUEST: u8 = 2;

/// The network of the records that identities are given.
pub(crate) fn network() -> NetworkId {
    NetworkId::from_name("conformance")
}

/// A registry, and a transport on loopback that listens for offers over it.
pub struct Stage {
    registry: Registry,
    discovery: RegistryDiscovery,
    signaling: Arc<dyn Signaling>,
    transport: WebRtcTransport,
    listener: Box<dyn Listener>,
}

impl Stage {
    /// Starts everything, and announces the transport's device.
    pub async fn new() -> Self {
        let server =
            RegistryConfig { listen: "127.0.0.1:0".into(), store: ":memory:".into(), ..RegistryConfig::default() };
        let registry = Registry::start(server).await.expect("a registry");
        let host = identity(HOST);
        let settings = peerloom_discovery_registry::RegistryConfig {
            url: format!("http://{}", registry.local_addr()),
            ..Default::default()
        };
        let discovery = RegistryDiscovery::new(settings, network(), host.signer()).expect("a discovery");
        let config = WebRtcConfig { listen: "127.0.0.1".into(), ..WebRtcConfig::default() };
        config.validate().expect("good settings");
        let transport = WebRtcTransport::new(config, host.device).expect("a transport");
        let carrier = discovery.signaling().expect("a registry carries signals");
        let key = SigningKey::from_seed(host.secret.expose());
        let board = Arc::new(SignalingRouter::new(key, network(), Arc::new(AllKnown), vec![carrier]));
        tokio::spawn(board.clone().run());
        let signaling: Arc<dyn Signaling> = board;
        let listener = transport.listen(Some(signaling.clone())).await.expect("it listens");
        announce(&discovery, record(&host, 1, &listener.addresses())).await.expect("an announcement");
        Self { registry, discovery, signaling, transport, listener }
    }

    /// Serves a guest with this task.
    pub async fn guest(&self, task: &Task) -> Guest {
        Guest::serve(Task { registry: self.registry.local_addr().to_string(), ..task.clone() }).await
    }

    /// A link that the guest offers.
    pub async fn accept(&mut self) -> Arc<dyn Link> {
        self.listener.accept().await.map(admitted).expect("it listens")
    }

    /// A link to the guest, once that has its socket at the registry.
    pub async fn dial(&self) -> Arc<dyn Link> {
        let guest = identity(GUEST);
        let address = format!("webrtc://{}", guest.device).parse().expect("an address");
        self.transport
            .dial(&address, Some(&guest.key), Some(self.signaling.clone()))
            .await
            .map(admitted)
            .expect("a link")
    }

    /// Ends everything.
    pub async fn close(self) {
        self.transport.shutdown().await;
        self.discovery.shutdown().await;
        self.registry.shutdown().await;
    }
}

/// As the engine says after its handshake.
fn admitted(link: Arc<dyn Link>) -> Arc<dyn Link> {
    link.admit();
    link
}

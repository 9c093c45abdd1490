//! The discovery and signaling suites over the `registry` kind.

use std::sync::Arc;

use peerloom_conformance::identity::{AllKnown, identity, record};
use peerloom_conformance::{discovery, signaling};
use peerloom_core::kinds::DurationText;
use peerloom_core::wire::NetworkId;
use peerloom_core::{Discovery, SignalCarrier, Signaling};
use peerloom_crypto_primitives::SigningKey;
use peerloom_discovery_registry::{RegistryConfig, RegistryDiscovery};
use peerloom_engine::SignalingRouter;
use peerloom_registry_server::Registry;

/// A registry of this process's own, and clients of it for identities by number. They ask again at once, so
/// that the suites needn't wait.
async fn registry() -> (Registry, impl Fn(u8) -> Arc<RegistryDiscovery>) {
    let config = peerloom_registry_server::RegistryConfig {
        listen: "127.0.0.1:0".into(),
        store: ":memory:".into(),
        ..peerloom_registry_server::RegistryConfig::default()
    };
    let registry = Registry::start(config).await.expect("a registry");
    let url = format!("http://{}", registry.local_addr());
    let client = move |number| {
        let cache = DurationText(std::time::Duration::from_millis(10));
        let config = RegistryConfig { url: url.clone(), cache, ..RegistryConfig::default() };
        let network = NetworkId::from_name("conformance");
        Arc::new(RegistryDiscovery::new(config, network, identity(number).signer()).expect("a client"))
    };
    (registry, client)
}

#[tokio::test]
async fn discovery_registry() {
    let (registry, client) = registry().await;
    discovery::run(client(1), client(2)).await;
    registry.shutdown().await;
}

/// The signaling of two devices over a registry: its carriers, or what the engine makes of them.
async fn signaling_over_a_registry(signed: bool) {
    let (registry, client) = registry().await;
    let (first, second) = (client(1), client(2));
    for (number, client) in [(1, &first), (2, &second)] {
        discovery::announce(&**client, record(&identity(number), 1, &[])).await.expect("an announcement");
    }
    let carrier = |client: &RegistryDiscovery| client.signaling().expect("signaling");
    let (a, b) = (identity(1).device, identity(2).device);
    if signed {
        signaling::run((a, router(1, carrier(&first))), (b, router(2, carrier(&second)))).await;
    } else {
        signaling::carrier((a, carrier(&first)), (b, carrier(&second))).await;
    }
    registry.shutdown().await;
}

#[tokio::test]
async fn signaling_registry() {
    signaling_over_a_registry(false).await;
}

#[tokio::test]
async fn signaling_registry_signed() {
    signaling_over_a_registry(true).await;
}

/// What the engine makes of a carrier, for a device that all know.
fn router(number: u8, carrier: Arc<dyn SignalCarrier>) -> Arc<dyn Signaling> {
    let key = SigningKey::from_seed(identity(number).secret.expose());
    let network = NetworkId::from_name("conformance");
    let router = Arc::new(SignalingRouter::new(key, network, Arc::new(AllKnown), vec![carrier]));
    tokio::spawn(router.clone().run());
    router
}

//! The suites over what `peerloom-core` brings, and over streams that the stack secures. Each other implementation runs
//! them in a test of its own crate.

use std::sync::Arc;

use peerloom_conformance::identity::{AllKnown, identity};
use peerloom_conformance::tcp::Tcp;
use peerloom_conformance::transport::Side;
use peerloom_conformance::{crypto, discovery, signaling, storage, stream, transport};
use peerloom_core::memory::{
    MemoryCarrier, MemoryCrypto, MemoryDirectory, MemoryDiscovery, MemoryNetwork, MemorySignaling, MemoryStorage,
    MemoryStreams, MemoryTransport, SignalingHub,
};
use peerloom_core::storage::Checked;
use peerloom_core::wire::NetworkId;
use peerloom_core::{SignalCarrier, Signaling};
use peerloom_crypto_primitives::SigningKey;
use peerloom_engine::SignalingRouter;

#[test]
fn storage_memory() {
    let shared = MemoryStorage::new();
    storage::run(|| Arc::new(shared.clone()));
}

#[test]
fn storage_checked() {
    let shared = MemoryStorage::new();
    storage::run(|| Checked::over(Arc::new(shared.clone())));
}

#[test]
fn crypto_memory() {
    crypto::run(&|identity| Arc::new(MemoryCrypto::new(identity.device)));
}

#[tokio::test]
async fn discovery_memory() {
    let directory = MemoryDirectory::default();
    let (first, second) = (MemoryDiscovery::new(&directory), MemoryDiscovery::new(&directory));
    discovery::run(Arc::new(first), Arc::new(second)).await;
}

/// What the engine makes of a carrier, for a device that all know.
fn router(number: u8, carrier: Arc<dyn SignalCarrier>) -> Arc<dyn Signaling> {
    let key = SigningKey::from_seed(identity(number).secret.expose());
    let network = NetworkId::from_name("conformance");
    let router = Arc::new(SignalingRouter::new(key, network, Arc::new(AllKnown), vec![carrier]));
    tokio::spawn(router.clone().run());
    router
}

#[tokio::test]
async fn signaling_memory() {
    let (hub, a, b) = (SignalingHub::default(), identity(1).device, identity(2).device);
    let first = Arc::new(MemoryCarrier::new(a, &hub));
    let second = Arc::new(MemoryCarrier::new(b, &hub));
    signaling::carrier((a, first.clone()), (b, second.clone())).await;
    signaling::run((a, router(1, first)), (b, router(2, second))).await;
    let hub = SignalingHub::default();
    let first = Arc::new(MemorySignaling::new(a, &hub));
    let second = Arc::new(MemorySignaling::new(b, &hub));
    signaling::run((a, first), (b, second)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_memory() {
    let network = MemoryNetwork::default();
    let side = |number: u8| {
        let identity = identity(number);
        let address = format!("memory://{number}").parse().expect("an address");
        Side {
            transport: Arc::new(MemoryTransport::new(&network, address, identity.key.clone())),
            key: identity.key,
            signaling: None,
        }
    };
    transport::run(side(1), side(2), 64 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_secured_streams() {
    let streams = MemoryStreams::default();
    stream::run(|| Arc::new(streams.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_secured_tcp() {
    stream::run(|| Arc::new(Tcp(std::net::Ipv4Addr::LOCALHOST.into()))).await;
}

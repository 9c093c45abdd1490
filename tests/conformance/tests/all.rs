//! The suites over every implementation of this repository.

use std::sync::Arc;

use peerloom_conformance::identity::{AllKnown, Identity, identity, record};
use peerloom_conformance::tcp::Tcp;
use peerloom_conformance::transport::Side;
use peerloom_conformance::{crypto, discovery, signaling, storage, stream, transport};
use peerloom_core::kinds::DurationText;
use peerloom_core::memory::{
    MemoryCarrier, MemoryCrypto, MemoryDirectory, MemoryDiscovery, MemoryNetwork, MemorySignaling, MemoryStorage,
    MemoryStreams, MemoryTransport, SignalingHub,
};
use peerloom_core::storage::Checked;
use peerloom_core::wire::NetworkId;
use peerloom_core::{Crypto, Discovery, SignalCarrier, Signaling, Storage};
use peerloom_crypto_mls::MlsCrypto;
use peerloom_crypto_primitives::SigningKey;
use peerloom_crypto_sealed::SealedCrypto;
use peerloom_discovery_invite::InviteDiscovery;
use peerloom_discovery_mdns::{MdnsConfig, MdnsDiscovery};
use peerloom_discovery_registry::{RegistryConfig, RegistryDiscovery};
use peerloom_engine::SignalingRouter;
use peerloom_registry_server::Registry;
use peerloom_storage_redb::RedbStorage;
use peerloom_storage_sqlite::SqliteStorage;
use peerloom_storage_vault::VaultStorage;
use peerloom_transport_quic::{QuicConfig, QuicTransport};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};

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
fn storage_redb() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    storage::run(|| Arc::new(RedbStorage::open(&path, 4 << 20).expect("a store")));
}

#[test]
fn storage_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    storage::run(|| Arc::new(SqliteStorage::open(&path, 4).expect("a store")));
}

#[test]
fn storage_vault_over_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let memory = MemoryStorage::new();
    let vault = |inner: Arc<dyn Storage>| -> Arc<dyn Storage> {
        Arc::new(VaultStorage::open(inner, "correct horse battery staple").expect("a vault"))
    };
    storage::run(|| vault(Arc::new(memory.clone())));
    let path = folder.path().join("store.redb");
    storage::run(|| vault(Arc::new(RedbStorage::open(&path, 4 << 20).expect("a store"))));
    let path = folder.path().join("store.sqlite");
    storage::run(|| vault(Arc::new(SqliteStorage::open(&path, 4).expect("a store"))));
}

#[test]
fn crypto_memory() {
    crypto::run(&|identity| Arc::new(MemoryCrypto::new(identity.device)));
}

#[test]
fn crypto_mls_classical() {
    let make = |identity: &Identity| -> Arc<dyn Crypto> {
        Arc::new(MlsCrypto::new(&identity.secret, identity.certificate.clone()).expect("a crypto"))
    };
    crypto::run(&make);
}

#[test]
fn crypto_sealed_classical() {
    let make = |identity: &Identity| -> Arc<dyn Crypto> {
        Arc::new(SealedCrypto::new(&identity.secret, identity.certificate.clone()).expect("a crypto"))
    };
    crypto::run(&make);
}

#[tokio::test]
async fn discovery_memory() {
    let directory = MemoryDirectory::default();
    let (first, second) = (MemoryDiscovery::new(&directory), MemoryDiscovery::new(&directory));
    discovery::run(Arc::new(first), Arc::new(second)).await;
}

#[tokio::test]
async fn discovery_invite() {
    let both: Arc<dyn Discovery> = Arc::new(InviteDiscovery::default());
    discovery::run(both.clone(), both).await;
}

/// Two responders on loopback, on a port of their own.
#[tokio::test]
async fn discovery_mdns() {
    let config = MdnsConfig { interfaces: vec!["lo".into()], port: 25353 };
    let make = || Arc::new(MdnsDiscovery::new(config.clone(), NetworkId::from_name("conformance")));
    discovery::run(make(), make()).await;
}

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
        Arc::new(RegistryDiscovery::new(config, network, &identity(number).secret).expect("a client"))
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
        client.announce(record(&identity(number), 1, &[])).await.expect("an announcement");
    }
    let carrier = |client: &RegistryDiscovery| client.signaling().expect("signaling");
    let (a, b) = (identity(1).device, identity(2).device);
    if signed {
        signaling::run((a, board(1, carrier(&first))), (b, board(2, carrier(&second)))).await;
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
fn board(number: u8, carrier: Arc<dyn SignalCarrier>) -> Arc<dyn Signaling> {
    let key = SigningKey::from_seed(identity(number).secret.expose());
    let network = NetworkId::from_name("conformance");
    let board = Arc::new(SignalingRouter::new(key, network, Arc::new(AllKnown), vec![carrier]));
    tokio::spawn(board.clone().run());
    board
}

#[tokio::test]
async fn signaling_memory() {
    let (hub, a, b) = (SignalingHub::default(), identity(1).device, identity(2).device);
    let first = Arc::new(MemoryCarrier::new(a, &hub));
    let second = Arc::new(MemoryCarrier::new(b, &hub));
    signaling::carrier((a, first.clone()), (b, second.clone())).await;
    signaling::run((a, board(1, first)), (b, board(2, second))).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn transport_quic() {
    for require_post_quantum in [false, true] {
        let side = |number: u8| {
            let identity = identity(number);
            let config = QuicConfig { listen: "127.0.0.1:0".into(), require_post_quantum, ..QuicConfig::default() };
            let transport = QuicTransport::new(config, &identity.secret).expect("a transport");
            Side { transport: Arc::new(transport), key: identity.key, signaling: None }
        };
        transport::run(side(1), side(2), 64 * 1024).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_webrtc() {
    let hub = SignalingHub::default();
    let side = |number: u8| {
        let identity = identity(number);
        let config = WebRtcConfig { listen: "127.0.0.1".into(), ..WebRtcConfig::default() };
        let transport = WebRtcTransport::new(config, identity.device).expect("a transport");
        let signaling: Arc<dyn Signaling> = Arc::new(MemorySignaling::new(identity.device, &hub));
        Side { transport: Arc::new(transport), key: identity.key, signaling: Some(signaling) }
    };
    // 128 KiB for each of two channels.
    transport::run(side(1), side(2), 2 * 128 * 1024).await;
}

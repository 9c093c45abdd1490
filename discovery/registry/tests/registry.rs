//! The client against a real registry in the same process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use peerloom_conformance::discovery::{announce, find, records};
use peerloom_conformance::identity::{Identity, identity, record};
use peerloom_core::kinds::DurationText;
use peerloom_core::wire::{DiscoveryItem, DiscoveryKey, NetworkId, ServiceKind, Signed, limits};
use peerloom_core::{DiagnosticStatus, Discovery, ErrorKind};
use peerloom_discovery_registry::{RegistryConfig, RegistryDiscovery};
use peerloom_registry_server::{IceConfig, Registry, TlsFiles};

/// Long enough for anything that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn server() -> peerloom_registry_server::RegistryConfig {
    peerloom_registry_server::RegistryConfig {
        listen: "127.0.0.1:0".into(),
        store: ":memory:".into(),
        ..peerloom_registry_server::RegistryConfig::default()
    }
}

async fn start(config: peerloom_registry_server::RegistryConfig) -> Registry {
    Registry::start(config).await.expect("a registry")
}

fn settings(at: SocketAddr) -> RegistryConfig {
    RegistryConfig { url: format!("http://{at}"), ..RegistryConfig::default() }
}

fn client(config: RegistryConfig, identity: &Identity) -> RegistryDiscovery {
    RegistryDiscovery::new(config, NetworkId::from_name("conformance"), identity.signer()).expect("a client")
}

fn signed(identity: &Identity, sequence: u64) -> Signed {
    record(identity, sequence, &["quic://192.0.2.1:4433".parse().expect("an address")])
}

/// What a registry carries, whatever is in it.
fn signal(body: &'static [u8]) -> Signed {
    Signed::sign(b"", Bytes::from_static(body), |_| Bytes::from_static(&[7; 64]))
}

/// Asks until it is so.
async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let begin = tokio::time::Instant::now();
    while !ask().await {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn devices_find_and_signal_each_other() {
    let registry = start(server()).await;
    let (alice, bob) = (identity(1), identity(2));
    let first = client(settings(registry.local_addr()), &alice);
    let second = client(settings(registry.local_addr()), &bob);
    let mut watch = second.watch();
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    announce(&second, signed(&bob, 1)).await.expect("an announcement");
    assert_eq!(records(&second, DiscoveryKey::Records(alice.user)).await.expect("a look-up"), [signed(&alice, 1)]);
    assert_eq!(records(&second, DiscoveryKey::Record(alice.device)).await.expect("a look-up"), [signed(&alice, 1)]);
    assert_eq!(watch.next().await.map(|found| found.item), Some(DiscoveryItem::Record(signed(&alice, 1))));

    let (to_bob, from_alice) = (first.signaling().expect("signaling"), second.signaling().expect("signaling"));
    let mut inbox = from_alice.receive();
    let longest = signal(&[0xff; limits::SIGNED_SIGNAL - 80]);
    to_bob.send(bob.device, longest.clone()).await.expect("a signal");
    let carried = tokio::time::timeout(PATIENCE, inbox.next()).await.expect("in time").expect("a signal");
    assert_eq!((carried.from, carried.signal), (Some(alice.device), longest));
    let too_long = to_bob.send(bob.device, signal(&[0; 20_000])).await;
    assert_eq!(too_long.map_err(|e| e.kind()), Err(ErrorKind::TooLarge));

    // Nobody waits for a device that has gone.
    second.shutdown().await;
    assert!(inbox.next().await.is_none(), "the inbox ends");
    until("bob is gone", async || {
        let sent = to_bob.send(bob.device, signal(b"there?")).await;
        matches!(sent, Err(error) if error.kind() == ErrorKind::Unreachable)
    })
    .await;
    assert_eq!(announce(&second, signed(&bob, 2)).await.map_err(|e| e.kind()), Err(ErrorKind::Closed));
    assert_eq!(records(&second, DiscoveryKey::Records(alice.user)).await.map_err(|e| e.kind()), Err(ErrorKind::Closed));
    assert!(watch.next().await.is_none(), "watches end");
    first.shutdown().await;
}

#[tokio::test]
async fn answers_are_kept_for_a_while() {
    let registry = start(server()).await;
    let (alice, bob) = (identity(1), identity(2));
    let first = client(settings(registry.local_addr()), &alice);
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    let second = client(settings(registry.local_addr()), &bob);
    for _ in 0..100 {
        assert_eq!(records(&second, DiscoveryKey::Records(alice.user)).await.expect("a look-up").len(), 1);
        assert_eq!(records(&second, DiscoveryKey::Record(alice.device)).await.expect("a look-up").len(), 1);
        assert!(records(&second, DiscoveryKey::Records(bob.user)).await.expect("a look-up").is_empty());
    }
    assert_eq!(second.calls(), 2, "one about each user");
    // All at once, too.
    let third = Arc::new(client(settings(registry.local_addr()), &bob));
    let all = (0..50).map(|_| records(&*third, DiscoveryKey::Records(alice.user)));
    assert!(futures_util::future::join_all(all).await.into_iter().all(|found| found.expect("a look-up").len() == 1));
    assert_eq!(third.calls(), 1);
}

#[tokio::test]
async fn a_newer_record_takes_the_place() {
    let registry = start(server()).await;
    let (alice, bob) = (identity(1), identity(2));
    let first = client(settings(registry.local_addr()), &alice);
    let cache = DurationText(Duration::from_millis(20));
    let second = client(RegistryConfig { cache, ..settings(registry.local_addr()) }, &bob);
    for sequence in 1..=5 {
        announce(&first, signed(&alice, sequence)).await.expect("an announcement");
        until("it is found", async || {
            records(&second, DiscoveryKey::Record(alice.device)).await.expect("a look-up") == [signed(&alice, sequence)]
        })
        .await;
    }
    let other = announce(&first, signed(&bob, 1)).await;
    assert_eq!(other.map_err(|e| e.kind()), Err(ErrorKind::Invalid), "a client speaks for its own device");
}

#[tokio::test]
async fn without_its_registry_a_node_goes_on() {
    let registry = start(server()).await;
    let at = registry.local_addr();
    let (alice, bob, carol) = (identity(1), identity(2), identity(3));
    let first = client(settings(at), &alice);
    let cache = DurationText(Duration::from_millis(50));
    let second = client(RegistryConfig { cache, ..settings(at) }, &bob);
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    announce(&second, signed(&bob, 1)).await.expect("an announcement");
    assert_eq!(records(&second, DiscoveryKey::Records(alice.user)).await.expect("a look-up").len(), 1);
    registry.shutdown().await;

    tokio::time::sleep(Duration::from_millis(100)).await;
    let known = records(&second, DiscoveryKey::Records(alice.user)).await;
    assert_eq!(known.expect("what is known"), [signed(&alice, 1)], "an old answer is better than none");
    assert!(records(&second, DiscoveryKey::Records(carol.user)).await.is_err());
    let signaling = second.signaling().expect("signaling");
    until("the socket is lost", async || {
        let sent = signaling.send(alice.device, signal(b"there?")).await;
        matches!(sent, Err(error) if error.kind() == ErrorKind::Unreachable && error.message().contains("no connection"))
    })
    .await;
    announce(&second, signed(&bob, 2)).await.expect("it is announced later");

    // It comes back empty, and both come back to it by themselves.
    let registry = start(peerloom_registry_server::RegistryConfig { listen: at.to_string(), ..server() }).await;
    let mut inbox = first.signaling().expect("signaling").receive();
    until("both are connected", async || signaling.send(alice.device, signal(b"again")).await.is_ok()).await;
    assert_eq!(inbox.next().await.expect("a signal").from, Some(bob.device));
    let third = client(RegistryConfig { cache, ..settings(at) }, &carol);
    assert_eq!(records(&third, DiscoveryKey::Records(bob.user)).await.expect("a look-up"), [signed(&bob, 2)]);
    registry.shutdown().await;
}

#[tokio::test]
async fn a_registry_that_is_gone_is_not_pestered() {
    let registry = start(server()).await;
    let at = registry.local_addr();
    registry.shutdown().await;
    let (alice, bob) = (identity(1), identity(2));
    let first = client(settings(at), &alice);
    announce(&first, signed(&alice, 1)).await.expect("nobody waits for it");
    for _ in 0..100 {
        let _ = records(&first, DiscoveryKey::Records(bob.user)).await;
        let _ = records(&first, DiscoveryKey::Record(bob.device)).await;
        assert!(first.signaling().expect("signaling").ice_servers().await.is_empty());
    }
    assert!(first.calls() <= 2, "{} calls", first.calls());
    first.shutdown().await;
}

#[tokio::test]
async fn a_challenge_for_another_name_is_not_answered() {
    let config = peerloom_registry_server::RegistryConfig { names: vec!["true.example".into()], ..server() };
    let registry = start(config).await;
    let alice = identity(1);
    let first = client(settings(registry.local_addr()), &alice);
    let refused = announce(&first, signed(&alice, 1)).await.expect_err("no hello for another registry");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.message().contains("true.example"), "{refused}");
    let second = client(settings(registry.local_addr()), &identity(2));
    assert!(records(&second, DiscoveryKey::Record(alice.device)).await.expect("a look-up").is_empty());
}

#[tokio::test]
async fn a_private_network_takes_a_token() {
    let networks = [("conformance".to_owned(), "open-sesame".to_owned())].into();
    let config = peerloom_registry_server::RegistryConfig { networks, only_listed: true, ..server() };
    let registry = start(config).await;
    let alice = identity(1);
    let without = client(settings(registry.local_addr()), &alice);
    let refused = announce(&without, signed(&alice, 1)).await.expect_err("a token is wanted");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.message().contains("token"), "{refused}");
    assert_eq!(
        records(&without, DiscoveryKey::Records(alice.user)).await.map_err(|e| e.kind()),
        Err(ErrorKind::Refused)
    );
    let with = RegistryConfig { token: Some("open-sesame".into()), ..settings(registry.local_addr()) };
    let with = client(with, &alice);
    announce(&with, signed(&alice, 1)).await.expect("an announcement");
    announce(&with, signed(&alice, 2)).await.expect("an announcement over HTTP");
    assert_eq!(records(&with, DiscoveryKey::Records(alice.user)).await.expect("a look-up"), [signed(&alice, 2)]);
}

#[tokio::test]
async fn work_is_done() {
    let registry = start(peerloom_registry_server::RegistryConfig { work_bits: 8, ..server() }).await;
    let alice = identity(1);
    let first = client(settings(registry.local_addr()), &alice);
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    announce(&first, signed(&alice, 2)).await.expect("an announcement over HTTP");
    until("it is found", async || {
        let second = client(settings(registry.local_addr()), &identity(2));
        records(&second, DiscoveryKey::Record(alice.device)).await.expect("a look-up") == [signed(&alice, 2)]
    })
    .await;
}

#[tokio::test]
async fn ice_servers_are_asked_for_once() {
    let ice = IceConfig {
        stun: vec!["stun:stun.example".into(), "http://no.example/".into()],
        turn: vec!["turn:turn.example".into()],
        turn_secret: Some("north".into()),
        ..IceConfig::default()
    };
    let registry = start(peerloom_registry_server::RegistryConfig { ice, ..server() }).await;
    let first = client(settings(registry.local_addr()), &identity(1));
    let signaling = first.signaling().expect("signaling");
    for _ in 0..10 {
        let servers = signaling.ice_servers().await;
        assert_eq!(servers.len(), 2);
        assert_eq!(servers[0].urls, ["stun:stun.example"], "what is no STUN server is passed over");
        assert!(servers[1].username.is_some() && servers[1].credential.is_some());
    }
    assert_eq!(first.calls(), 1);
}

#[tokio::test]
async fn it_says_what_is_wrong() {
    let registry = start(server()).await;
    let alice = identity(1);
    let first = client(settings(registry.local_addr()), &alice);
    let status = |diagnostics: &[peerloom_core::Diagnostic], check: &str| {
        diagnostics.iter().find(|diagnostic| diagnostic.check == check).map(|diagnostic| diagnostic.status)
    };
    let before = first.diagnose().await;
    assert_eq!(status(&before, "registry"), Some(DiagnosticStatus::Good), "{before:?}");
    assert_eq!(status(&before, "clock"), Some(DiagnosticStatus::Good), "{before:?}");
    assert_eq!(status(&before, "registry socket"), Some(DiagnosticStatus::Note), "{before:?}");
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    let connected = first.diagnose().await;
    assert_eq!(status(&connected, "registry socket"), Some(DiagnosticStatus::Good), "{connected:?}");
    registry.shutdown().await;
    let after = first.diagnose().await;
    assert_eq!(status(&after, "registry"), Some(DiagnosticStatus::Bad));
    assert!(!after[0].remedy.is_empty());
}

#[tokio::test]
async fn a_changed_network_is_connected_from_anew() {
    let registry = start(server()).await;
    let (alice, bob) = (identity(1), identity(2));
    let (first, second) =
        (client(settings(registry.local_addr()), &alice), client(settings(registry.local_addr()), &bob));
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    announce(&second, signed(&bob, 1)).await.expect("an announcement");
    let mut inbox = first.signaling().expect("signaling").receive();
    first.network_changed();
    let signaling = second.signaling().expect("signaling");
    until("it is reachable again", async || {
        let _ = signaling.send(alice.device, signal(b"there?")).await;
        tokio::time::timeout(Duration::from_millis(50), inbox.next()).await.is_ok()
    })
    .await;
    assert_eq!(records(&second, DiscoveryKey::Record(alice.device)).await.expect("a look-up").len(), 1);
}

#[tokio::test]
async fn a_refused_record_is_not_announced_again() {
    let registry = start(peerloom_registry_server::RegistryConfig { allow_local: Some(false), ..server() }).await;
    let alice = identity(1);
    let first = client(settings(registry.local_addr()), &alice);
    // A name, since any address may be in a network of the machine that runs this.
    let outward = |sequence| record(&alice, sequence, &["quic://node.example:4433".parse().expect("an address")]);
    announce(&first, outward(1)).await.expect("an announcement");
    let inward = record(&alice, 2, &["quic://127.0.0.1:4433".parse().expect("an address")]);
    for _ in 0..5 {
        let refused = announce(&first, inward.clone()).await.expect_err("nobody could use it");
        assert_eq!(refused.kind(), ErrorKind::Refused);
    }
    assert_eq!(first.calls(), 1);
    let diagnostics = first.diagnose().await;
    let diagnostic = diagnostics.iter().find(|diagnostic| diagnostic.check == "registry record").expect("a diagnostic");
    assert!(diagnostic.status == DiagnosticStatus::Bad && diagnostic.detail.contains("127.0.0.1"), "{diagnostic:?}");
    announce(&first, outward(3)).await.expect("another one is taken");
    assert!(first.diagnose().await.iter().all(|diagnostic| diagnostic.check != "registry record"));
}

#[tokio::test]
async fn a_network_that_changes_while_it_connects_is_connected_from_anew() {
    // It accepts and says nothing, as a path that is gone does.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let alice = identity(1);
    let first = client(settings(silent.local_addr().expect("an address")), &alice);
    let begun = tokio::time::Instant::now();
    announce(&first, signed(&alice, 1)).await.expect("nobody waits for it");
    let mut held = vec![silent.accept().await.expect("the first connection")];
    first.network_changed();
    let next = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("in time");
    held.push(next.expect("another connection"));
    // Without the change it would have gone on for ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    first.shutdown().await;
}

#[tokio::test]
async fn it_trusts_a_certificate_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).expect("a file");
    peerloom_core::private::create(&files.key, made.signing_key.serialize_pem().as_bytes()).expect("a file");
    let registry = start(peerloom_registry_server::RegistryConfig { tls: Some(files.clone()), ..server() }).await;
    let url = format!("https://localhost:{}", registry.local_addr().port());
    let alice = identity(1);
    let trusting = RegistryConfig { url: url.clone(), ca: Some(files.certificate), ..RegistryConfig::default() };
    let first = client(trusting, &alice);
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    assert_eq!(records(&first, DiscoveryKey::Record(alice.device)).await.expect("a look-up"), [signed(&alice, 1)]);

    let wary = client(RegistryConfig { url, ..RegistryConfig::default() }, &alice);
    let refused = records(&wary, DiscoveryKey::Record(alice.device)).await.expect_err("an unknown certificate");
    assert!(refused.message().contains("`ca`"), "{refused}");
    let missing = RegistryConfig { ca: Some(files.key), url: "https://localhost".into(), ..RegistryConfig::default() };
    let network = NetworkId::from_name("conformance");
    assert!(RegistryDiscovery::new(missing, network, alice.signer()).is_err(), "a file without certificates");
}

#[tokio::test]
async fn items_are_published_once_the_registry_is_there_and_again_when_it_has_lost_them() {
    let registry = start(server()).await;
    let at = registry.local_addr();
    registry.shutdown().await;
    let (alice, bob) = (identity(1), identity(2));
    let (first, second) = (client(settings(at), &alice), client(settings(at), &bob));
    let list = DiscoveryItem::of_devices(&alice.devices());
    let service = DiscoveryItem::Service(alice.service(ServiceKind::COORDINATOR, 1));
    // In any order, and nobody waits for it.
    first.publish(list.clone()).await.expect("it is published later");
    announce(&first, signed(&alice, 1)).await.expect("it is announced later");
    first.publish(service.clone()).await.expect("it is published later");
    for _ in 0..2 {
        let registry = start(peerloom_registry_server::RegistryConfig { listen: at.to_string(), ..server() }).await;
        for (key, item) in
            [(DiscoveryKey::DeviceList(alice.user), &list), (DiscoveryKey::Service(ServiceKind::COORDINATOR), &service)]
        {
            until("it is found", async || {
                // What is remembered from before is no proof.
                let fresh = client(settings(at), &bob);
                let found = find(&fresh, key).await.unwrap_or_default();
                found.len() == 1 && found[0].item == *item && found[0].source.contains(&at.to_string())
            })
            .await;
        }
        registry.shutdown().await;
    }
    let of_another = DiscoveryItem::Service(bob.service(ServiceKind::COORDINATOR, 1));
    assert_eq!(first.publish(of_another).await.map_err(|e| e.kind()), Err(ErrorKind::Invalid));
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test]
async fn a_refused_item_is_not_published_again() {
    let registry = start(server()).await;
    let (alice, bob) = (identity(1), identity(2));
    let first = client(settings(registry.local_addr()), &alice);
    announce(&first, signed(&alice, 1)).await.expect("an announcement");
    // Of another user: only the registry says no.
    let stolen = DiscoveryItem::of_devices(&bob.devices());
    for _ in 0..5 {
        let refused = first.publish(stolen.clone()).await.expect_err("it isn't alice's");
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    }
    assert_eq!(first.calls(), 1);
    first.publish(DiscoveryItem::of_devices(&alice.devices())).await.expect("her own is taken");
    assert_eq!(first.calls(), 2);
}

//! Whatever others say on the local network, only devices of this network with genuine records appear.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use futures_util::StreamExt;
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use peerloom_conformance::discovery::{announce, records};
use peerloom_conformance::identity::{identity, record};
use peerloom_core::Discovery;
use peerloom_core::wire::{DiscoveryItem, DiscoveryKey, NetworkId};
use peerloom_discovery_mdns::{MdnsConfig, MdnsDiscovery, SERVICE};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A port of this test's own, on loopback.
const PORT: u16 = 25355;

fn discovery() -> MdnsDiscovery {
    let config = MdnsConfig { interfaces: vec!["lo".into()], port: PORT };
    MdnsDiscovery::new(config, NetworkId::from_name("conformance"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Pair((String, Vec<u8>));

impl From<&Pair> for mdns_sd::TxtProperty {
    fn from(Pair((key, value)): &Pair) -> Self {
        Self::from((key, value))
    }
}

/// Announces TXT records that a Peerloom node would never make.
fn liar(texts: &[Vec<(String, Vec<u8>)>], name: impl Fn(usize) -> String) -> ServiceDaemon {
    let daemon = ServiceDaemon::new_with_port(PORT).expect("a daemon");
    daemon.disable_interface(IfKind::All).expect("no interface");
    daemon.enable_interface(vec![IfKind::Name("lo".into())]).expect("loopback");
    for (number, pairs) in texts.iter().enumerate() {
        let properties: Vec<Pair> = pairs.iter().cloned().map(Pair).collect();
        let host = format!("liar-{number}.local.");
        let info = ServiceInfo::new(SERVICE, &name(number), &host, "", 9, properties.as_slice()).expect("a service");
        daemon.register(info.enable_addr_auto()).expect("an announcement");
    }
    daemon
}

/// Packets that are no DNS messages, and some that lead in circles.
fn noise() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let mut rng = StdRng::seed_from_u64(1);
    for length in [0, 1, 11, 12, 13, 64, 512, 1472, 9000] {
        let mut packet = vec![0; length];
        rng.fill_bytes(&mut packet);
        let _ = socket.send_to(&packet, (Ipv4Addr::LOCALHOST, PORT));
    }
    // A response with one answer whose name is a pointer to itself (RFC 1035, section 4.1.4).
    let header = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    for name in [&[0xc0, 12][..], &[1, b'a', 0xc0, 12], &[0xc0, 14, 0xc0, 12], &[0xff, 0xff]] {
        let packet = [&header[..], name, &[0, 16, 0, 1, 0, 0, 0, 120, 0xff, 0xff, 1, 2, 3]].concat();
        let _ = socket.send_to(&packet, (Ipv4Addr::LOCALHOST, PORT));
    }
    // It promises 65,535 answers and has none.
    let _ = socket.send_to(&[0, 0, 0x84, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], (Ipv4Addr::LOCALHOST, PORT));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_huge_and_foreign_answers_are_passed_over() {
    let (alice, bob) = (identity(1), identity(2));
    let genuine = record(&alice, 1, &["quic://127.0.0.1:1".parse().expect("an address")]);
    let watching = discovery();
    let mut watch = watching.watch();
    noise();

    let text = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    let announced = |network: &str, encoded: &[u8]| {
        let network = hex(&NetworkId::from_name(network).as_bytes()[..8]);
        let mut pairs = vec![text("v", "1"), text("id", &hex(alice.device.as_bytes())), text("n", &network)];
        let pieces = encoded.chunks(240).enumerate();
        pairs.extend(pieces.map(|(number, piece)| (format!("r{number}"), piece.to_vec())));
        pairs
    };
    let good = record(&bob, 9, &[]).encode().to_vec();
    let mut forged = good.clone();
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    let lies = [
        announced("conformance", &forged),
        announced("conformance", &good[..good.len() - 1]),
        announced("conformance", &[7; 4000]),
        announced("another network", &good),
        announced("conformance", b""),
        vec![text("v", "2")],
        vec![],
    ];
    // The first takes the very name that alice's device announces itself by.
    let taken = hex(&alice.device.as_bytes()[..16]);
    let liar = liar(&lies, |number| if number == 0 { taken.clone() } else { format!("liar-{number}") });
    tokio::time::sleep(Duration::from_secs(2)).await;

    let honest = discovery();
    announce(&honest, genuine.clone()).await.expect("an announcement");
    let first = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("news in time");
    assert_eq!(
        first.map(|found| found.item),
        Some(DiscoveryItem::Record(genuine.clone())),
        "the first that is heard of is the genuine record"
    );
    assert_eq!(records(&watching, DiscoveryKey::Record(alice.device)).await.expect("a look-up"), [genuine]);
    assert!(records(&watching, DiscoveryKey::Record(bob.device)).await.expect("a look-up").is_empty());
    let more = tokio::time::timeout(Duration::from_secs(1), watch.next()).await;
    assert!(more.is_err(), "nothing else came of it: {more:?}");
    let _ = liar.shutdown();
    honest.shutdown().await;
    watching.shutdown().await;
}

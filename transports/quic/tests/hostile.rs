//! What those may hold who never finish their TLS handshake: nothing that another needs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use peerloom_core::wire::Address;
use peerloom_core::{DeviceSecret, ErrorKind, Transport};
use peerloom_transport_quic::{QuicConfig, QuicTransport};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

fn transport(seed: u8, ip: IpAddr) -> Arc<QuicTransport> {
    let config = QuicConfig { listen: format!("{ip}:0"), ..QuicConfig::default() };
    Arc::new(QuicTransport::new(config, &DeviceSecret::new([seed; 32])).expect("a transport"))
}

/// Carries what comes to the victim, and back nothing but Retry packets (RFC 9000 §17.2.5): those who dial
/// here show that their address is theirs, begin a handshake, and never end it.
async fn half_deaf(ip: IpAddr, victim: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket"));
    let far = Arc::new(UdpSocket::bind((ip, 0)).await.expect("a socket"));
    let place = near.local_addr().expect("an address");
    let (seen, dialer) = watch::channel(None);
    let mut tasks = JoinSet::new();
    let (from, to) = (near.clone(), far.clone());
    tasks.spawn(async move {
        let mut packet = [0; 2048];
        while let Ok((length, source)) = from.recv_from(&mut packet).await {
            seen.send_replace(Some(source));
            let _ = to.send_to(&packet[..length], victim).await;
        }
    });
    tasks.spawn(async move {
        let mut packet = [0; 2048];
        while let Ok((length, _)) = far.recv_from(&mut packet).await {
            let dialer = *dialer.borrow();
            if packet[0] & 0xf0 == 0xf0
                && let Some(dialer) = dialer
            {
                let _ = near.send_to(&packet[..length], dialer).await;
            }
        }
    });
    (place, tasks)
}

async fn newcomers_get_past_half_handshakes(sources: &[IpAddr]) {
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let victim = transport(1, here);
    let mut accepting = victim.listen(None).await.expect("it listens");
    let address = accepting.addresses().first().cloned().expect("an address");
    let place: SocketAddr = address.rest().parse().expect("a place");
    let mut crowd = JoinSet::new();
    let mut relays = Vec::new();
    for (number, ip) in (10..).zip(sources) {
        let (relay, tasks) = half_deaf(*ip, place).await;
        relays.push(tasks);
        let door: Address = format!("quic://{relay}").parse().expect("an address");
        let dialer = transport(number, here);
        for _ in 0..120 / sources.len() {
            let (dialer, door) = (dialer.clone(), door.clone());
            crowd.spawn(async move {
                loop {
                    // It fails after five seconds; until then it holds what it got.
                    let _ = dialer.dial(&door, None, None).await;
                }
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for seed in 200..205 {
        let honest = transport(seed, here);
        // While the crowd rushes in, a newcomer of the same address may be displaced, too, and tries again as nodes do.
        let dialed = async {
            while let Err(error) = honest.dial(&address, None, None).await {
                assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            accepting.accept().await.expect("a link");
        };
        tokio::time::timeout(Duration::from_secs(30), dialed).await.expect("a link in spite of the crowd");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomers_get_past_half_handshakes_from_one_address() {
    newcomers_get_past_half_handshakes(&[Ipv4Addr::LOCALHOST.into()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomers_get_past_half_handshakes_from_many_addresses() {
    let sources: Vec<IpAddr> = (1..=40).map(|n| Ipv4Addr::new(127, 0, 2, n).into()).collect();
    newcomers_get_past_half_handshakes(&sources).await;
}

/// In virtual time, which passes only while everybody waits.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_nobody_answers_holds_up_no_shutdown() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let address = format!("quic://{}", silent.local_addr().expect("a place")).parse().expect("an address");
    let dialer = transport(1, Ipv4Addr::LOCALHOST.into());
    let dialing = tokio::spawn({
        let dialer = dialer.clone();
        async move { dialer.dial(&address, None, None).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    dialing.abort();
    let begin = tokio::time::Instant::now();
    dialer.shutdown().await;
    assert!(begin.elapsed() < Duration::from_millis(100), "it waited {:?} for nobody", begin.elapsed());
}

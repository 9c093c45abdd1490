//! The timers of a link's life, shortened, on a path that loses packets when a test says so: those of ICE (consent,
//! RFC 7675), of the DTLS handshake and of SCTP's retransmissions. DTLS 1.2 of the crate has one epoch for a link's
//! whole life, and its SCTP sends no heartbeats: there is nothing to renew.

mod common;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::kinds::DurationText;
use peerloom_core::wire::{DeviceId, SessionId};
use peerloom_core::{ChannelClass, Link, Result, Signal, Signaling};
use peerloom_transport_webrtc::WebRtcConfig;
use tokio::net::UdpSocket;

use common::Pair;

const KEEP_ALIVE: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_millis(500);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(idle_timeout: Duration) -> WebRtcConfig {
    let (keep_alive, idle_timeout) = (DurationText(KEEP_ALIVE), DurationText(idle_timeout));
    WebRtcConfig { keep_alive, idle_timeout, ..WebRtcConfig::default() }
}

/// The path between two sides: candidates lead to sockets here, which pass packets on, or lose them.
#[derive(Clone, Default)]
struct Path(Arc<State>);

#[derive(Default)]
struct State {
    /// By a side's own port: the socket that stands for it.
    faces: Mutex<HashMap<u16, Arc<UdpSocket>>>,
    cut: AtomicBool,
    /// Packets of DTLS handshakes that are still lost.
    lost_handshakes: AtomicU32,
    /// Packets that keep ICE's consent, since the path was made.
    consents: AtomicU32,
}

impl Path {
    async fn pair(&self, idle_timeout: Duration) -> Pair {
        Pair::with(config(idle_timeout), |inner| Arc::new(Detour { inner, path: self.clone() })).await
    }

    fn cut(&self, cut: bool) {
        self.0.cut.store(cut, Ordering::Release);
    }

    /// The port that stands for a side's.
    fn face(&self, own: u16) -> u16 {
        let mut faces = self.0.faces.lock().expect("a lock");
        let face = faces.entry(own).or_insert_with(|| {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            socket.set_nonblocking(true).expect("a mode");
            let face = Arc::new(UdpSocket::from_std(socket).expect("a socket"));
            tokio::spawn(self.clone().carry(own, face.clone()));
            face
        });
        face.local_addr().expect("an address").port()
    }

    /// What comes to a side's face goes to the side, from the face of the side that sent it.
    async fn carry(self, to: u16, face: Arc<UdpSocket>) {
        let mut packet = [0; 4096];
        while let Ok((length, from)) = face.recv_from(&mut packet).await {
            let packet = &packet[..length];
            let source = self.0.faces.lock().expect("a lock").get(&from.port()).cloned();
            if let Some(source) = source.filter(|_| self.passes(packet)) {
                let _ = source.send_to(packet, SocketAddr::from((Ipv4Addr::LOCALHOST, to))).await;
            }
        }
    }

    fn passes(&self, packet: &[u8]) -> bool {
        // RFC 7983: 0 to 3 is STUN, 20 to 63 is DTLS; of those 22 is a handshake's.
        match packet.first() {
            Some(0..=3) => drop(self.0.consents.fetch_add(1, Ordering::AcqRel)),
            Some(22) => {
                let less = |left: u32| left.checked_sub(1);
                if self.0.lost_handshakes.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok() {
                    return false;
                }
            }
            _ => {}
        }
        !self.0.cut.load(Ordering::Acquire)
    }
}

/// Signals whose candidates lead over the path.
struct Detour {
    inner: Arc<dyn Signaling>,
    path: Path,
}

#[async_trait]
impl Signaling for Detour {
    async fn send(&self, to: DeviceId, session: SessionId, payload: Bytes) -> Result<()> {
        const HOST: &str = " 127.0.0.1 ";
        let text = String::from_utf8(payload.to_vec()).expect("JSON");
        let mut parts = text.split(HOST);
        let mut led = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (port, rest) = part.split_once(' ').expect("a candidate");
            led.push_str(&format!("{HOST}{} {rest}", self.path.face(port.parse().expect("a port"))));
        }
        self.inner.send(to, session, led.into()).await
    }

    fn receive(&self) -> BoxStream<'static, Signal> {
        self.inner.receive()
    }
}

async fn closed(link: &Arc<dyn Link>) {
    tokio::time::timeout(PATIENCE, link.closed()).await.expect("the link ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_link_is_kept_and_a_dead_one_is_given_up() {
    let path = Path::default();
    let mut pair = path.pair(IDLE).await;
    let (near, far) = pair.link().await;
    let before = path.0.consents.load(Ordering::Acquire);
    tokio::select! {
        error = near.closed() => panic!("{error}"),
        error = far.closed() => panic!("{error}"),
        () = tokio::time::sleep(4 * IDLE) => {}
    }
    let consents = path.0.consents.load(Ordering::Acquire) - before;
    assert!(consents > 4, "ICE asks for consent all the time: {consents} packets");
    path.cut(true);
    tokio::join!(closed(&near), closed(&far));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shorter_than_the_timeout_loses_nothing() {
    let path = Path::default();
    // SCTP sends again after a second at the earliest (RFC 9260 §16), and then ever less often.
    let mut pair = path.pair(20 * OUTAGE).await;
    let (near, far) = pair.link().await;
    let mut sending = near.open(ChannelClass::Chat).await.expect("a channel");
    sending.sender.send(Bytes::from_static(b"first")).await.expect("sent");
    let mut receiving = far.accept().await.expect("a channel");
    assert_eq!(receiving.receiver.next().await.expect("a frame").expect("a frame"), "first");
    for round in 0..4u8 {
        path.cut(true);
        // More than one packet, so that some are in flight and others wait.
        for part in 0..8u8 {
            sending.sender.send(Bytes::from(vec![round * 8 + part; 20_000])).await.expect("sent");
        }
        tokio::time::sleep(OUTAGE).await;
        path.cut(false);
        for part in 0..8u8 {
            let frame = tokio::time::timeout(PATIENCE, receiving.receiver.next()).await.expect("in time");
            assert_eq!(frame.expect("a frame").expect("a frame"), vec![round * 8 + part; 20_000]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_packets_of_the_dtls_handshake_are_sent_again() {
    for lost in [1, 2, 5] {
        let path = Path::default();
        path.0.lost_handshakes.store(lost, Ordering::Release);
        let mut pair = path.pair(IDLE).await;
        let (near, far) = tokio::time::timeout(PATIENCE, pair.link()).await.expect("in time");
        assert_eq!(path.0.lost_handshakes.load(Ordering::Acquire), 0, "they went this way");
        assert_eq!(near.channel_binding().expect("a binding"), far.channel_binding().expect("a binding"));
    }
}

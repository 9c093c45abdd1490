//! What carriers of signals, and peers, may try against the transport.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_core::memory::{MemorySignaling, SignalingHub};
use peerloom_core::wire::{Address, DeviceId, SessionId};
use peerloom_core::{Admission, ErrorKind, Link, Listener, Result, Signal, Signaling, Standing, Transport};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState, RTCSessionDescription,
};

fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 32])
}

fn address(number: u8) -> Address {
    format!("webrtc://{}", device(number)).parse().expect("an address")
}

fn transport(number: u8) -> WebRtcTransport {
    let config = WebRtcConfig { listen: "127.0.0.1".into(), ..WebRtcConfig::default() };
    WebRtcTransport::new(config, device(number)).expect("a transport")
}

async fn listening(number: u8, hub: &SignalingHub) -> (WebRtcTransport, Box<dyn Listener>) {
    let transport = transport(number);
    let signaling = Arc::new(MemorySignaling::new(device(number), hub));
    let listener = transport.listen(Some(signaling)).await.expect("it listens");
    (transport, listener)
}

/// Carries signals, and changes what it likes.
struct Tampering {
    inner: MemorySignaling,
    change: fn(&str) -> String,
}

#[async_trait]
impl Signaling for Tampering {
    async fn send(&self, to: DeviceId, session: SessionId, payload: Bytes) -> Result<()> {
        let text = String::from_utf8(payload.to_vec()).expect("JSON");
        self.inner.send(to, session, (self.change)(&text).into()).await
    }

    fn receive(&self) -> BoxStream<'static, Signal> {
        let change = self.change;
        let tamper = move |signal: Signal| {
            let text = String::from_utf8(signal.payload.to_vec()).expect("JSON");
            Signal { payload: change(&text).into(), ..signal }
        };
        self.inner.receive().map(tamper).boxed()
    }
}

/// Another certificate's fingerprint in place of the true one.
fn other_fingerprint(text: &str) -> String {
    let Some(at) = text.find("a=fingerprint:sha-256 ") else {
        return text.to_owned();
    };
    let digits = at + "a=fingerprint:sha-256 ".len();
    let forged = if text[digits..].starts_with("00") { "11" } else { "00" };
    format!("{}{forged}{}", &text[..digits], &text[digits + 2..])
}

#[tokio::test(flavor = "multi_thread")]
async fn another_fingerprint_gets_no_link_and_no_byte() {
    let hub = SignalingHub::default();
    let (_victim, mut accepting) = listening(1, &hub).await;
    let dialer = transport(2);
    // Both descriptions are forged, so each side sees a certificate that it doesn't expect.
    let carrier = Tampering { inner: MemorySignaling::new(device(2), &hub), change: other_fingerprint };
    let victim = address(1);
    let dialed = dialer.dial(&victim, None, Some(Arc::new(carrier)));
    let (dialed, accepted) = tokio::join!(dialed, tokio::time::timeout(Duration::from_secs(18), accepting.accept()));
    let error = dialed.map(drop).expect_err("a link over another certificate");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    // Without a link there is no channel, and without a channel no byte.
    assert!(accepted.is_err(), "the dialed side took a link");
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_and_floods_cost_little_and_links_are_still_made() {
    let hub = SignalingHub::default();
    let (_victim, mut accepting) = listening(1, &hub).await;
    let attacker = MemorySignaling::new(device(66), &hub);
    let media = json!({"type": "offer", "sdp": "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"});
    for number in 0..2000 {
        let session = SessionId::from_bytes([(number % 251) as u8; 16]);
        let noise: Vec<u8> = match number % 5 {
            0 => b"\xff\xfe not JSON".to_vec(),
            1 => json!({"type": "offer", "sdp": "v=0"}).to_string().into(),
            2 => json!({"type": "answer", "sdp": "v=0"}).to_string().into(),
            3 => json!({"type": "candidate", "candidate": "x".repeat(500)}).to_string().into(),
            _ => media.to_string().into(),
        };
        attacker.send(device(1), session, noise.into()).await.expect("sent");
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let dialer = transport(2);
    let signaling = Arc::new(MemorySignaling::new(device(2), &hub));
    // Offers may have been lost in the flood; whoever dials tries again.
    let mut link = None;
    for _ in 0..5 {
        match dialer.dial(&address(1), None, Some(signaling.clone())).await {
            Ok(made) => {
                link = Some(made);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    assert!(link.is_some(), "no link can be made after the flood");
    let accepted = tokio::time::timeout(Duration::from_secs(10), accepting.accept()).await;
    assert!(accepted.expect("in time").is_some());
}

/// A peer of the `webrtc` crate alone, which says what it wants in its data channel.
struct Raw {
    connection: Arc<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
}

struct Gathered(mpsc::UnboundedSender<()>);

#[async_trait]
impl PeerConnectionEventHandler for Gathered {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.0.send(());
        }
    }
}

/// Connects to the transport of `victim`, and returns what it accepted.
async fn raw(
    number: u8,
    victim: u8,
    label: &str,
    hub: &SignalingHub,
    accepting: &mut dyn Listener,
) -> (Raw, Arc<dyn Link>) {
    let signaling = MemorySignaling::new(device(number), hub);
    let mut signals = signaling.receive();
    let (events, mut gathered) = mpsc::unbounded_channel();
    let builder = PeerConnectionBuilder::new()
        .with_handler(Arc::new(Gathered(events)))
        .with_udp_addrs(vec!["127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address")]);
    let connection = Box::pin(builder.build()).await.expect("a connection");
    let connection: Arc<dyn PeerConnection> = Arc::new(connection);
    let channel = connection.create_data_channel(label, None).await.expect("a channel");
    let offer = connection.create_offer(None).await.expect("an offer");
    connection.set_local_description(offer).await.expect("a description");
    gathered.recv().await.expect("candidates");
    let sdp = connection.local_description().await.expect("a description").sdp;
    let offer = json!({"type": "offer", "sdp": sdp, "complete": true});
    signaling.send(device(victim), SessionId::from_bytes([7; 16]), offer.to_string().into()).await.expect("sent");
    let answer = loop {
        let signal = signals.next().await.expect("a signal");
        let message: Value = serde_json::from_slice(&signal.payload).expect("JSON");
        if message["type"] == "answer" {
            break message["sdp"].as_str().expect("a description").to_owned();
        }
    };
    let answer = RTCSessionDescription::answer(answer).expect("a description");
    connection.set_remote_description(answer).await.expect("it fits");
    while !matches!(channel.poll().await, Some(DataChannelEvent::OnOpen)) {}
    let raw = Raw { connection, channel };
    let link = tokio::time::timeout(Duration::from_secs(20), accepting.accept()).await.expect("in time");
    (raw, link.expect("a link"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_the_rules_loses_its_link() {
    let hub = SignalingHub::default();
    let (_victim, mut accepting) = listening(1, &hub).await;
    let open = [1u8, 1].as_slice();
    let many: Vec<Vec<u8>> = std::iter::repeat_n([&[2u8, 0, 0, 0x40, 0][..], &[0; 0x4000]].concat(), 40).collect();
    let attempts: [(&str, Vec<Vec<u8>>, ErrorKind); 6] = [
        ("a frame before a channel", vec![vec![2, 0, 0, 0, 1, 7]], ErrorKind::Malformed),
        ("a frame of 4 GiB", vec![open.to_vec(), vec![2, 0xff, 0xff, 0xff, 0xff, 7]], ErrorKind::TooLarge),
        ("more than announced", vec![open.to_vec(), vec![2, 0, 0, 0, 9, 7], vec![3; 20]], ErrorKind::Malformed),
        ("two channels in one", vec![open.to_vec(), open.to_vec()], ErrorKind::Malformed),
        ("a class that isn't", vec![vec![1, 9]], ErrorKind::Malformed),
        ("more than the window", [vec![open.to_vec()], many].concat(), ErrorKind::Malformed),
    ];
    for (number, (what, messages, kind)) in attempts.into_iter().enumerate() {
        let (raw, link) = raw(10 + number as u8, 1, "peerloom", &hub, &mut *accepting).await;
        for message in messages {
            // It may be closed on us already.
            let _ = raw.channel.send(BytesMut::from(message.as_slice())).await;
        }
        let end = tokio::time::timeout(Duration::from_secs(10), link.closed()).await;
        assert_eq!(end.unwrap_or_else(|_| panic!("{what} was tolerated")).kind(), kind, "{what}");
        let _ = raw.connection.close().await;
    }
    // Text where only bytes are spoken.
    let (raw, link) = raw(30, 1, "peerloom", &hub, &mut *accepting).await;
    raw.channel.send_text("hello").await.expect("sent");
    let end = tokio::time::timeout(Duration::from_secs(10), link.closed()).await.expect("text was tolerated");
    assert_eq!(end.kind(), ErrorKind::Malformed);
    let _ = raw.connection.close().await;
}

/// A description that nobody stands behind, with these candidates.
fn made_up(ufrag: &str, candidates: &[String]) -> String {
    let lines: String = candidates.iter().map(|candidate| format!("a={candidate}\r\n")).collect();
    let print = vec!["AB"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=setup:actpass\r\na=mid:0\r\n\
         a=sendrecv\r\na=sctp-port:5000\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{ufrag}0123456789abcdefghijkl\r\n\
         a=fingerprint:sha-256 {print}\r\n{lines}"
    )
}

/// What one offer can have sent to those who know nothing of it: it was 7,500 packets.
#[tokio::test(flavor = "multi_thread")]
async fn an_offer_makes_few_packets_for_third_parties() {
    let hub = SignalingHub::default();
    let (_victim, _accepting) = listening(1, &hub).await;
    let mut parties = Vec::new();
    for _ in 0..32 {
        parties.push(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
    }
    let candidate = |(number, party): (usize, &UdpSocket)| {
        let port = party.local_addr().expect("an address").port();
        format!("candidate:{number} 1 udp 2130706431 127.0.0.1 {port} typ host")
    };
    let candidates: Vec<String> = parties.iter().enumerate().map(candidate).collect();
    let attacker = MemorySignaling::new(device(66), &hub);
    let mut answers = attacker.receive();
    for number in 0..10u8 {
        let sdp = made_up("x9x9x9x9", &candidates);
        let offer = json!({"type": "offer", "sdp": sdp}).to_string();
        attacker.send(device(1), SessionId::from_bytes([number; 16]), offer.into()).await.expect("sent");
    }
    let answer =
        tokio::time::timeout(Duration::from_secs(10), answers.next()).await.expect("in time").expect("a signal");
    assert!(String::from_utf8_lossy(&answer.payload).contains("answer"), "{answer:?}");
    // As long as a session lasts.
    tokio::time::sleep(Duration::from_secs(14)).await;
    let mut received = Vec::new();
    for party in &parties {
        let (mut count, mut buffer) = (0, [0; 2000]);
        while let Ok(length) = party.try_recv(&mut buffer) {
            assert!(length < 200, "a check of {length} bytes");
            count += 1;
        }
        received.push(count);
    }
    let all: usize = received.iter().sum();
    assert!(all <= 350, "{all} packets of ten offers: {received:?}");
    assert!(all > 32, "the checks didn't come at all");

    // What would stand in front of each packet is bounded, too.
    let sdp = made_up(&"GET / HTTP/1.1 ".repeat(20), &candidates);
    let offer = json!({"type": "offer", "sdp": sdp}).to_string();
    attacker.send(device(1), SessionId::from_bytes([99; 16]), offer.into()).await.expect("sent");
    let refused = loop {
        let answer = tokio::time::timeout(Duration::from_secs(10), answers.next()).await;
        let answer = answer.expect("in time").expect("a signal");
        if answer.session == SessionId::from_bytes([99; 16]) {
            break String::from_utf8_lossy(&answer.payload).into_owned();
        }
    };
    assert!(refused.contains("refused"), "{refused}");
}

/// Devices with these numbers are contacts'; others are strangers while an invitation is open.
struct Gate {
    contacts: Vec<u8>,
    invitation: bool,
}

impl Admission for Gate {
    fn standing(&self, device: &DeviceId) -> Standing {
        match (self.contacts.contains(&device.as_bytes()[0]), self.invitation) {
            (true, _) => Standing::Known,
            (false, true) => Standing::Stranger,
            (false, false) => Standing::Unwelcome,
        }
    }
}

async fn guarded(number: u8, gate: Gate, hub: &SignalingHub) -> (WebRtcTransport, Box<dyn Listener>) {
    let transport = transport(number);
    transport.set_admission(Arc::new(gate));
    let signaling = Arc::new(MemorySignaling::new(device(number), hub));
    let listener = transport.listen(Some(signaling)).await.expect("it listens");
    (transport, listener)
}

/// 24 strange devices kept an invited contact out, and others with it.
#[tokio::test(flavor = "multi_thread")]
async fn strange_devices_keep_neither_contacts_nor_the_invited_one_out() {
    let hub = SignalingHub::default();
    let (_victim, mut accepting) = guarded(1, Gate { contacts: vec![2], invitation: true }, &hub).await;
    let nowhere = ["candidate:1 1 udp 2130706431 127.0.0.1 9 typ host".to_owned()];
    let offer = json!({"type": "offer", "sdp": made_up("abcd", &nowhere)}).to_string();
    for number in 100..180u8 {
        let stranger = MemorySignaling::new(device(number), &hub);
        for session in 0..4u8 {
            stranger.send(device(1), SessionId::from_bytes([session; 16]), offer.clone().into()).await.expect("sent");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // A contact, and one that nobody knows yet.
    for number in [2, 3u8] {
        let dialer = transport(number);
        let signaling = Arc::new(MemorySignaling::new(device(number), &hub));
        let link = dialer.dial(&address(1), None, Some(signaling)).await.expect("a link");
        let accepted = tokio::time::timeout(Duration::from_secs(10), accepting.accept()).await;
        assert!(accepted.expect("in time").is_some());
        drop(link);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_invitation_strangers_get_nothing() {
    let hub = SignalingHub::default();
    let (_victim, mut accepting) = guarded(1, Gate { contacts: vec![2], invitation: false }, &hub).await;
    let dial = |number: u8| {
        let (dialer, hub) = (transport(number), hub.clone());
        async move {
            let signaling = Arc::new(MemorySignaling::new(device(number), &hub));
            dialer.dial(&address(1), None, Some(signaling)).await
        }
    };
    assert_eq!(dial(3).await.map(drop).expect_err("a link").kind(), ErrorKind::Refused);
    let link = dial(2).await.expect("a link");
    assert!(tokio::time::timeout(Duration::from_secs(10), accepting.accept()).await.expect("in time").is_some());
    drop(link);
}

//! What is begun and given up leaves nothing open. By itself, since it counts the process's sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerloom_core::memory::{MemorySignaling, SignalingHub};
use peerloom_core::wire::{DeviceId, SessionId};
use peerloom_core::{Admission, Signaling, Standing, Transport};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};
use serde_json::json;

fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 32])
}

/// Every device is a stranger, and an invitation is open.
struct Open;

impl Admission for Open {
    fn standing(&self, _device: &DeviceId) -> Standing {
        Standing::Stranger
    }
}

fn sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("the process's files").flatten();
    let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

fn offer() -> String {
    let fingerprint = vec!["AB"; 32].join(":");
    let sdp = format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=setup:actpass\r\na=mid:0\r\n\
         a=sendrecv\r\na=sctp-port:5000\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=candidate:1 1 udp 2130706431 127.0.0.1 9 typ host\r\n"
    );
    json!({"type": "offer", "sdp": sdp}).to_string()
}

/// Offers that give way to newer ones while they are being answered, and dials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_leaves_no_socket() {
    let hub = SignalingHub::default();
    let config = WebRtcConfig { listen: "127.0.0.1".into(), ..WebRtcConfig::default() };
    let transport = WebRtcTransport::new(config, device(1)).expect("a transport");
    transport.set_admission(Arc::new(Open));
    let signaling = Arc::new(MemorySignaling::new(device(1), &hub));
    let _listener = transport.listen(Some(signaling)).await.expect("it listens");
    let before = sockets();
    let mut most = 0;
    for round in 0..400u16 {
        let stranger = MemorySignaling::new(device(10 + (round % 200) as u8), &hub);
        let session = SessionId::from_bytes([(round % 251) as u8; 16]);
        stranger.send(device(1), session, offer().into()).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(10)).await;
        most = most.max(sockets());
    }
    assert!(most > before, "no offer was answered");
    // Dials that are given up at any moment.
    let config = WebRtcConfig { listen: "127.0.0.1".into(), ..WebRtcConfig::default() };
    let dialer = WebRtcTransport::new(config, device(3)).expect("a transport");
    let signaling = Arc::new(MemorySignaling::new(device(3), &hub));
    let _silent = MemorySignaling::new(device(2), &hub);
    let address = format!("webrtc://{}", device(2)).parse().expect("an address");
    for round in 0..300 {
        let dial = dialer.dial(&address, None, Some(signaling.clone()));
        let dialed = tokio::time::timeout(Duration::from_micros(round * 53), dial).await;
        assert!(!matches!(dialed, Ok(Ok(_))), "nothing answers");
    }
    dialer.shutdown().await;
    transport.shutdown().await;
    let begin = Instant::now();
    while sockets() > before {
        assert!(begin.elapsed() < Duration::from_secs(60), "{} sockets stay, of at most {most}", sockets() - before);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

//! The transport suites over the `webrtc` kind: links, and what becomes of them when the machine's addresses change.

use std::sync::Arc;

use peerloom_conformance::identity::identity;
use peerloom_conformance::moves::{self, Machine};
use peerloom_conformance::transport::{self, Side};
use peerloom_core::Signaling;
use peerloom_core::memory::{MemorySignaling, SignalingHub};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};

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

#[tokio::test(flavor = "multi_thread")]
async fn webrtc_moves() {
    let Some(mut machine) = Machine::enter("webrtc_moves") else { return };
    let hub = SignalingHub::default();
    let side = |number: u8| {
        let identity = identity(number);
        let transport = WebRtcTransport::new(WebRtcConfig::default(), identity.device).expect("a transport");
        let signaling: Arc<dyn Signaling> = Arc::new(MemorySignaling::new(identity.device, &hub));
        Side { transport: Arc::new(transport), key: identity.key, signaling: Some(signaling) }
    };
    moves::run(side(1), side(2), || machine.move_on()).await;
}

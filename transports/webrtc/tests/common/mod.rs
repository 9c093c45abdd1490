//! Two transports on loopback.
#![allow(dead_code)]

use std::sync::Arc;

use peerloom_core::memory::{MemorySignaling, SignalingHub};
use peerloom_core::wire::DeviceId;
use peerloom_core::{Link, Listener, Signaling, Transport};
use peerloom_transport_webrtc::{WebRtcConfig, WebRtcTransport};

/// Two connected transports, and the listener of the second.
pub(crate) struct Pair {
    dialer: WebRtcTransport,
    signals: Arc<dyn Signaling>,
    _listener: WebRtcTransport,
    accepting: Box<dyn Listener>,
    to: DeviceId,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        Self::with(WebRtcConfig::default(), |signaling| signaling).await
    }

    /// With these settings, and with what is around the signaling of each side.
    pub(crate) async fn with(config: WebRtcConfig, around: impl Fn(Arc<dyn Signaling>) -> Arc<dyn Signaling>) -> Self {
        let hub = SignalingHub::default();
        let side = |number: u8| {
            let device = DeviceId::from_bytes([number; 32]);
            let config = WebRtcConfig { listen: "127.0.0.1".into(), ..config.clone() };
            let signaling = around(Arc::new(MemorySignaling::new(device, &hub)));
            (WebRtcTransport::new(config, device).expect("a transport"), signaling, device)
        };
        let ((dialer, signals, _), (listener, theirs, to)) = (side(1), side(2));
        let accepting = listener.listen(Some(theirs)).await.expect("it listens");
        Self { dialer, signals, _listener: listener, accepting, to }
    }

    pub(crate) async fn link(&mut self) -> (Arc<dyn Link>, Arc<dyn Link>) {
        let address = format!("webrtc://{}", self.to).parse().expect("an address");
        let near = self.dialer.dial(&address, None, Some(self.signals.clone())).await.expect("a link");
        let far = self.accepting.accept().await.expect("a link");
        near.admit();
        far.admit();
        (near, far)
    }
}

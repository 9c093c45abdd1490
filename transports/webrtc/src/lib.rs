//! Peerloom over WebRTC data channels (RFC 8831): ICE finds a way through NATs (RFC 8445), DTLS
//! encrypts, SCTP carries. Offers and answers come over a [`Signaling`](peerloom_core::Signaling).
//!
//! Built on the `webrtc` crate. What it doesn't bring stands here: flow control for each channel
//! ([`lane`](crate)), relays that live as long as a link, order among TURN servers, a watch over dead links.

mod config;
mod diagnose;
mod guard;
mod ice;
mod lane;
mod link;
mod message;
mod peer;
mod runtime;
mod sdp;
mod session;
mod signal;
mod stun;
mod traffic;
mod transport;
mod turn;

use peerloom_core::kinds::AnyTransport;
use peerloom_core::{Kinds, Result};

pub use config::WebRtcConfig;
pub use transport::WebRtcTransport;

/// Registers the `webrtc` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "WebRTC data channels: through NATs, with STUN and TURN; needs a discovery that carries signals";
    kinds.transports.add("webrtc", summary, |config: WebRtcConfig, context| {
        Ok(AnyTransport::links(WebRtcTransport::new(config, context.device)?))
    })
}

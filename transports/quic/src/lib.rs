//! Peerloom over QUIC (RFC 9000): one UDP socket for dialing and listening, TLS 1.3 with the device
//! keys as raw public keys (RFC 7250), one QUIC stream for each channel.

mod channel;
mod config;
mod link;
mod sockets;
mod tls;
mod transport;

use peerloom_core::kinds::AnyTransport;
use peerloom_core::{Kinds, Result};

pub use config::QuicConfig;
pub use transport::QuicTransport;

/// Registers the `quic` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "QUIC over UDP, keys exchanged with X25519MLKEM768 where both sides can";
    kinds.transports.add("quic", summary, |config: QuicConfig, context| {
        Ok(AnyTransport::links(QuicTransport::new(config, &context.secret)?))
    })
}

//! Peerloom over QUIC (RFC 9000): one UDP socket for dialing and listening, TLS 1.3 with the device
//! keys as raw public keys (RFC 7250), one QUIC stream for each channel.

mod channel;
mod link;
mod tls;
mod transport;
mod windows;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerloom_core::Kinds;
use peerloom_core::kinds::{DurationText, KindConfig, SettingsError, check_liveness};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use transport::QuicTransport;

/// Settings of the `quic` kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QuicConfig {
    /// IP address and UDP port to listen on. `0.0.0.0` is every IPv4 address of this machine, port
    /// 0 any free port.
    pub listen: String,
    /// Addresses to tell others instead of the machine's own, such as a forwarded port of a router.
    pub advertise: Vec<String>,
    /// How often an idle link is kept alive.
    pub keep_alive: DurationText,
    /// How long a link may be silent before it counts as lost.
    pub idle_timeout: DurationText,
    /// Refuse links whose key exchange isn't safe against quantum computers.
    pub require_post_quantum: bool,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:0".into(),
            advertise: Vec::new(),
            keep_alive: DurationText(Duration::from_secs(10)),
            idle_timeout: DurationText(Duration::from_secs(30)),
            require_post_quantum: false,
        }
    }
}

impl QuicConfig {
    fn listen_address(&self) -> Result<SocketAddr, SettingsError> {
        parse_address("listen", &self.listen)
    }

    fn advertised(&self) -> Result<Vec<SocketAddr>, SettingsError> {
        self.advertise.iter().map(|a| parse_address("advertise", a)).collect()
    }
}

fn parse_address(key: &str, text: &str) -> Result<SocketAddr, SettingsError> {
    let example = "expected an IP address and a port, such as \"0.0.0.0:4433\" or \"[::]:4433\"";
    text.parse().map_err(|_| SettingsError::new(key, format!("`{text}` is not an address; {example}")))
}

impl KindConfig for QuicConfig {
    fn validate(&self) -> Result<(), SettingsError> {
        self.listen_address()?;
        self.advertised()?;
        check_liveness(self.keep_alive.0, self.idle_timeout.0)
    }
}

/// Registers the `quic` kind.
pub fn register(kinds: &mut Kinds) {
    let summary = "QUIC over UDP, keys exchanged with X25519MLKEM768 where both sides can";
    kinds
        .transports
        .add("quic", summary, |config: QuicConfig, context| Ok(Arc::new(QuicTransport::new(config, &context.secret)?)));
}

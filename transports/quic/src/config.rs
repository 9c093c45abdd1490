//! Settings of the `quic` kind.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use peerloom_core::interfaces::{Scope, scope};
use peerloom_core::kinds::{DurationText, KindConfig, SettingsError, check_liveness};
use peerloom_core::names::HostPort;
use peerloom_core::wire::{Address, DecodeError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the `quic` kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QuicConfig {
    /// IP address and UDP port to listen on. `0.0.0.0` is every IPv4 address of this machine, `[::]` every
    /// IPv6 and IPv4 address. Port 0 is a free port, the same one at each start if it is still free.
    pub listen: String,
    /// Addresses to announce instead of the machine's own, such as a forwarded port of a router: an IP address
    /// or a name, and a port. Who dials looks a name up.
    pub advertise: Vec<String>,
    /// How often an idle link is kept alive.
    #[schemars(extend("minDuration" = "100ms", "maxDuration" = "5m"))]
    pub keep_alive: DurationText,
    /// How long a link may be silent before it counts as lost.
    #[schemars(extend("minDuration" = "1s", "maxDuration" = "10m"))]
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
    pub(crate) fn listen_address(&self) -> Result<SocketAddr, SettingsError> {
        let example = "expected an IP address and a port, such as \"0.0.0.0:4433\" or \"[::]:4433\"";
        let wrong = |_| SettingsError::new("listen", format!("`{}` is not an address; {example}", self.listen));
        let place: SocketAddr = self.listen.parse().map_err(wrong)?;
        if place.ip().is_multicast() || place.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(SettingsError::new("listen", format!("`{}` is no device's address; {example}", self.listen)));
        }
        Ok(place)
    }

    pub(crate) fn advertised(&self) -> Result<Vec<HostPort>, SettingsError> {
        let read = |text: &String| match text.parse::<HostPort>() {
            Ok(HostPort::Ip(place)) if scope(place.ip()) == Scope::Nowhere => {
                Err(SettingsError::new("advertise", format!("`{text}` leads to no device")))
            }
            Ok(place) => address(&place).map(|_| place).map_err(|e| SettingsError::new("advertise", e.to_string())),
            Err(message) => Err(SettingsError::new("advertise", message)),
        };
        self.advertise.iter().map(read).collect()
    }
}

/// A place as others dial it.
pub(crate) fn address(place: &HostPort) -> Result<Address, DecodeError> {
    format!("quic://{place}").parse()
}

impl KindConfig for QuicConfig {
    fn validate(&self) -> Result<(), SettingsError> {
        self.listen_address()?;
        self.advertised()?;
        check_liveness(self.keep_alive.0, self.idle_timeout.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_device_has_is_not_listened_at() {
        for (listen, good) in [
            ("0.0.0.0:0", true),
            ("[::1]:4433", true),
            ("224.0.0.1:5000", false),
            ("255.255.255.255:0", false),
            ("[ff02::1]:1", false),
            ("localhost:1", false),
        ] {
            let config = QuicConfig { listen: listen.into(), ..QuicConfig::default() };
            assert_eq!(config.validate().is_ok(), good, "{listen}");
        }
    }
}

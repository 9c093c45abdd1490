//! Settings of the `webrtc` kind.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use peerloom_core::kinds::{DurationText, KindConfig, SettingsError, check_liveness};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ice;

/// Settings of the `webrtc` kind.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WebRtcConfig {
    /// IP address to use, of those of this machine; `0.0.0.0` is every IPv4 address. A port may follow,
    /// as for other transports, and is ignored: each link has a UDP port of its own.
    pub listen: String,
    /// Range of UDP ports to take, such as "50000-50999"; empty for any free port.
    pub ports: String,
    /// STUN and TURN servers: "stun:HOST:PORT", "turn:USER:PASSWORD@HOST:PORT",
    /// "turn:USER:PASSWORD@HOST:PORT?transport=tcp". A registry may name more. `:`, `@` and `%` in names
    /// and passwords are percent-encoded. Of the TURN servers, the two that answer first are used.
    pub ice_servers: Vec<String>,
    /// Go through TURN servers only, so that contacts don't learn this machine's addresses.
    pub relay_only: bool,
    /// How often an idle link is kept alive.
    #[schemars(extend("minDuration" = "100ms", "maxDuration" = "5m"))]
    pub keep_alive: DurationText,
    /// How long a link may be silent before it counts as lost.
    #[schemars(extend("minDuration" = "1s", "maxDuration" = "10m"))]
    pub idle_timeout: DurationText,
}

impl Default for WebRtcConfig {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0".into(),
            ports: String::new(),
            ice_servers: Vec::new(),
            relay_only: false,
            keep_alive: DurationText(Duration::from_secs(2)),
            idle_timeout: DurationText(Duration::from_secs(7)),
        }
    }
}

impl fmt::Debug for WebRtcConfig {
    /// Without the servers: passwords stand in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRtcConfig").field("listen", &self.listen).field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl WebRtcConfig {
    pub(crate) fn ip(&self) -> Result<IpAddr, SettingsError> {
        let with_port = self.listen.parse::<SocketAddr>().map(|address| address.ip());
        with_port.or_else(|_| self.listen.parse::<IpAddr>()).map_err(|_| {
            let message = format!("`{}` is not an IP address such as \"0.0.0.0\" or \"192.168.1.2\"", self.listen);
            SettingsError::new("listen", message)
        })
    }

    pub(crate) fn port_range(&self) -> Result<Option<(u16, u16)>, SettingsError> {
        if self.ports.is_empty() {
            return Ok(None);
        }
        let range = self
            .ports
            .split_once('-')
            .and_then(|(first, last)| Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?)));
        match range {
            Some((first, last)) if first > 0 && first <= last => Ok(Some((first, last))),
            _ => Err(SettingsError::new("ports", format!("`{}` is not a range such as \"50000-50999\"", self.ports))),
        }
    }
}

impl KindConfig for WebRtcConfig {
    fn validate(&self) -> Result<(), SettingsError> {
        self.ip()?;
        self.port_range()?;
        for (number, text) in self.ice_servers.iter().enumerate() {
            ice::parse(text).map_err(|message| SettingsError::new(format!("ice_servers.{number}"), message))?;
        }
        let turn = |text: &String| text.starts_with("turn:");
        if self.relay_only && !self.ice_servers.iter().any(turn) {
            return Err(SettingsError::new("relay_only", "it needs a TURN server; add one to ice_servers"));
        }
        check_liveness(self.keep_alive.0, self.idle_timeout.0)
    }

    /// Of a TURN server.
    fn holds_secret(&self) -> bool {
        self.ice_servers.iter().any(|text| text.contains('@'))
    }
}

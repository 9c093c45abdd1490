//! Settings of the `mdns` kind.

use peerloom_core::kinds::KindConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the `mdns` kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MdnsConfig {
    /// Names of the network interfaces to use, such as "eth0"; empty for all of them.
    pub interfaces: Vec<String>,
    /// UDP port. Every other program uses 5353; another one makes a network of its own.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
}

impl Default for MdnsConfig {
    fn default() -> Self {
        Self { interfaces: Vec::new(), port: 5353 }
    }
}

impl KindConfig for MdnsConfig {}

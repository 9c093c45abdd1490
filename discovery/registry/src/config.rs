//! Settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use peerloom_core::kinds::{DurationText, KindConfig, SettingsError};
use peerloom_core::wire::Address;
use peerloom_registry_protocol::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

/// Settings of the `registry` kind.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RegistryConfig {
    /// The registry, such as `https://registry.example`. Required.
    pub url: String,
    /// The token of a private network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Where others can send signals to this device, if not over this registry: "scheme://place".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_address: Option<String>,
    /// A file of certificates in PEM to trust beside the system's, for a registry with a private one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How long an answer counts before the registry is asked again. Where nothing was found, longer
    /// each time, up to 15 times as long.
    #[schemars(extend("minDuration" = "1s", "maxDuration" = "1h"))]
    pub cache: DurationText,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            token: None,
            signal_address: None,
            ca: None,
            cache: DurationText(Duration::from_secs(60)),
        }
    }
}

impl KindConfig for RegistryConfig {
    fn validate(&self) -> Result<(), SettingsError> {
        self.url.parse::<Endpoint>().map_err(|message| SettingsError::new("url", message))?;
        if self.token.as_ref().is_some_and(|token| {
            token.is_empty() || token.len() > limits::TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic())
        }) {
            let message = format!("a token takes from 1 to {} characters of ASCII without spaces", limits::TOKEN);
            return Err(SettingsError::new("token", message));
        }
        if let Some(Err(error)) = self.signal_address.as_ref().map(|text| text.parse::<Address>()) {
            return Err(SettingsError::new("signal_address", error.to_string()));
        }
        Ok(())
    }

    fn holds_secret(&self) -> bool {
        self.token.is_some()
    }
}

// The token stays out of logs.
impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("url", &self.url)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("signal_address", &self.signal_address)
            .field("ca", &self.ca)
            .field("cache", &self.cache)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_the_token_is_hidden() {
        let good =
            RegistryConfig { url: "https://reg.example".into(), token: Some("hush".into()), ..Default::default() };
        assert_eq!(good.validate(), Ok(()));
        assert!(!format!("{good:?}").contains("hush"));
        let path = |config: RegistryConfig| config.validate().unwrap_err().path;
        assert_eq!(path(RegistryConfig::default()), "url");
        assert_eq!(path(RegistryConfig { token: Some("a b".into()), ..good.clone() }), "token");
        assert_eq!(path(RegistryConfig { signal_address: Some("x".into()), ..good }), "signal_address");
    }
}

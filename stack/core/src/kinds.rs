//! Kinds: implementations by name, with their configuration types.
//!
//! An implementation crate exports `register(&mut Kinds)`. A kind is a name, a configuration type
//! and a constructor. From the type come the checks, the defaults and the documentation: a field's
//! doc comment is what the operator reads. A kind that comes at run time, from a [`KindSource`], brings the same
//! as data: a [`Schema`]. Constructing follows three phases: *validate* (no I/O),
//! *build* (opens files, binds nothing), *start* (binds and spawns, by the traits' own methods).

mod duration;
mod range;
mod registry;
mod schema;
mod words;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use peerloom_wire::{Address, DeviceId, NetworkId, Signed};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use duration::DurationText;
pub use range::{Range, check as check_ranges};
pub use registry::{AnyTransport, Description, KindInfo, KindSource, Kinds, Registry};
pub use schema::{Schema, SettingKey, Takes};

use crate::{DeviceSecret, DeviceSigner, Error, Passphrase, Result};

/// The table of a wrapping kind's settings that says what it wraps: a `kind` and its keys.
pub const INNER: &str = "inner";

/// A layer of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Links between devices.
    Transport,
    /// Finding devices.
    Discovery,
    /// Keeping what was accepted.
    Storage,
    /// Sealing entries.
    Crypto,
}

impl Layer {
    /// All layers, in the order of the file.
    pub const ALL: [Self; 4] = [Self::Transport, Self::Discovery, Self::Storage, Self::Crypto];
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transport => "transport",
            Self::Discovery => "discovery",
            Self::Storage => "storage",
            Self::Crypto => "crypto",
        })
    }
}

/// A kind's table of the configuration file, without `kind` itself.
pub type Settings = Map<String, Value>;

/// Settings that a kind can't use: which key, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The key's path in the table; empty for the table itself.
    pub path: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl SettingsError {
    /// An error about the value of `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl From<Error> for SettingsError {
    /// For what a source couldn't register or read.
    fn from(error: Error) -> Self {
        Self::new("", error.message())
    }
}

/// Checks the settings `keep_alive` and `idle_timeout` that transports have.
pub fn check_liveness(keep_alive: Duration, idle_timeout: Duration) -> Result<(), SettingsError> {
    if keep_alive > idle_timeout / 2 {
        return Err(SettingsError::new("keep_alive", "it must be at most half of idle_timeout"));
    }
    Ok(())
}

/// A kind's configuration type.
///
/// Its fields' doc comments and its `Default` are the documentation that `peerloom kinds` prints;
/// give the struct `#[serde(default)]`. Its fields are plain values and lists of them: no tables. Each number
/// and each duration has a [`Range`], which is checked before [`validate`](KindConfig::validate).
pub trait KindConfig: DeserializeOwned + Serialize + JsonSchema + Default + 'static {
    /// Checks what types can't say. No I/O.
    fn validate(&self) -> Result<(), SettingsError> {
        Ok(())
    }

    /// Whether a token or password stands in it: others must not be able to read the file then.
    fn holds_secret(&self) -> bool {
        false
    }
}

/// For kinds without settings.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NoSettings {}

impl KindConfig for NoSettings {}

/// What a transport is built with.
#[derive(Debug, Clone)]
pub struct TransportContext {
    /// This device's key.
    pub secret: DeviceSecret,
    /// This device.
    pub device: DeviceId,
    /// The network, for transports that can keep others out early.
    pub network: NetworkId,
}

/// What a discovery is built with.
#[derive(Debug, Clone)]
pub struct DiscoveryContext {
    /// Signs for this device, for those who prove who publishes; the secret stays with the engine.
    pub signer: DeviceSigner,
    /// The network to find devices of.
    pub network: NetworkId,
    /// The node's folder. What a discovery keeps lies in a folder of its own in it, called after its kind; relative
    /// paths of its settings begin here.
    pub folder: PathBuf,
    /// Addresses to offer to those who ask, beside the record's.
    pub addresses: Vec<Address>,
}

/// What a store is built with.
#[derive(Debug, Clone, Default)]
pub struct StorageContext {
    /// The node's folder: relative paths begin here.
    pub folder: PathBuf,
    /// For stores that are encrypted, where their settings don't say where it is.
    pub passphrase: Option<Passphrase>,
}

/// What a crypto is built with.
#[derive(Debug, Clone)]
pub struct CryptoContext {
    /// This device's key.
    pub secret: DeviceSecret,
    /// This device's certificate, the credential it shows to others.
    pub certificate: Signed,
}

/// Settings as their type, checked: ranges first, then what the type and its author say.
pub fn parse<S: KindConfig>(settings: &Settings) -> Result<S, SettingsError> {
    let schema = schemars::schema_for!(S).to_value();
    check_ranges(&schema, settings)?;
    let config: S = serde_path_to_error::deserialize(Value::Object(settings.clone()))
        .map_err(|error| words::explain(error, &schema))?;
    config.validate()?;
    Ok(config)
}

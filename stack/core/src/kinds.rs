//! Kinds: implementations by name, with their configuration types.
//!
//! An implementation crate exports `register(&mut Kinds)`. A kind is a name, a configuration type
//! and a constructor. From the type come the checks, the defaults and the documentation: a field's
//! doc comment is what the operator reads. Constructing follows three phases: *validate* (no I/O),
//! *build* (opens files, binds nothing), *start* (binds and spawns, by the traits' own methods).

mod range;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerloom_wire::{Address, DeviceId, NetworkId, Signed};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub use range::{Range, check as check_ranges};

use crate::{Crypto, DeviceSecret, Discovery, Result, Storage, StreamTransport, Transport};

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
    /// Sealing what is said.
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
    /// This device's key, for those who prove who announces.
    pub secret: DeviceSecret,
    /// The network to find devices of.
    pub network: NetworkId,
    /// Addresses to offer to those who ask, beside the record's.
    pub addresses: Vec<Address>,
}

/// What a store is encrypted under. It is wiped when dropped and doesn't show itself in logs.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The one line of a secret file or of standard input, whole, without its line break.
    ///
    /// An error says why the text isn't one: a second line would be ignored in silence.
    pub fn from_line(text: &str) -> Result<Self, &'static str> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        match line {
            "" => Err("a secret is one line, and this is empty"),
            _ if line.contains(['\n', '\r', '\0']) => Err("a secret is one line, and here are several"),
            _ => Ok(Self::new(line)),
        }
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
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

type Build<T, C> = Box<dyn Fn(&Settings, Option<Arc<T>>, &C) -> Result<Arc<T>> + Send + Sync>;

/// The table of a wrapping kind's settings that says what it wraps: a `kind` and its keys.
pub const INNER: &str = "inner";

/// One kind of a layer whose trait is `T`, built with `C`.
pub struct Kind<T: ?Sized, C> {
    summary: &'static str,
    schema: Value,
    wraps: bool,
    check: fn(&Settings) -> Result<(), SettingsError>,
    holds_secret: fn(&Settings) -> bool,
    build: Build<T, C>,
}

/// The kinds of one layer.
pub struct Registry<T: ?Sized, C> {
    layer: Layer,
    kinds: BTreeMap<&'static str, Kind<T, C>>,
}

impl<T: ?Sized + 'static, C: 'static> Registry<T, C> {
    fn new(layer: Layer) -> Self {
        Self { layer, kinds: BTreeMap::new() }
    }

    /// Registers a kind; of two with one name the later wins.
    pub fn add<S: KindConfig>(
        &mut self,
        name: &'static str,
        summary: &'static str,
        build: impl Fn(S, &C) -> Result<Arc<T>> + Send + Sync + 'static,
    ) {
        self.insert::<S>(name, summary, false, move |config, _, context| build(config, context));
    }

    /// Registers a kind that wraps another one of its layer, which its [`INNER`] table chooses.
    pub fn add_wrapper<S: KindConfig>(
        &mut self,
        name: &'static str,
        summary: &'static str,
        build: impl Fn(S, Arc<T>, &C) -> Result<Arc<T>> + Send + Sync + 'static,
    ) {
        let lacks = move || {
            let message = format!("add a table `{INNER}` with a `kind`: what {name} wraps");
            crate::Error::new(crate::ErrorKind::Invalid, name, "configure", message)
        };
        self.insert::<S>(name, summary, true, move |config, inner, context| {
            build(config, inner.ok_or_else(lacks)?, context)
        });
    }

    fn insert<S: KindConfig>(
        &mut self,
        name: &'static str,
        summary: &'static str,
        wraps: bool,
        build: impl Fn(S, Option<Arc<T>>, &C) -> Result<Arc<T>> + Send + Sync + 'static,
    ) {
        let layer = self.layer;
        let build = move |settings: &Settings, inner: Option<Arc<T>>, context: &C| {
            let config = parse::<S>(settings).map_err(|e| {
                let place = format!("{layer}.{}", e.path);
                crate::Error::new(crate::ErrorKind::Invalid, name, "configure", format!("{place}: {}", e.message))
            })?;
            build(config, inner, context)
        };
        let kind = Kind {
            summary,
            schema: schemars::schema_for!(S).to_value(),
            wraps,
            check: |settings| parse::<S>(settings).map(drop),
            holds_secret: |settings| parse::<S>(settings).is_ok_and(|config| config.holds_secret()),
            build: Box::new(build),
        };
        self.kinds.insert(name, kind);
    }

    /// Builds a kind, and what it wraps before it: opens files, binds nothing.
    pub fn build(&self, name: &str, settings: &Settings, context: &C) -> Result<Arc<T>> {
        let unknown = || {
            let message = format!("the {} kind `{name}` is not registered", self.layer);
            crate::Error::new(crate::ErrorKind::Invalid, "kinds", "build", message)
        };
        let kind = self.kinds.get(name).ok_or_else(unknown)?;
        let mut settings = settings.clone();
        let inner = match settings.remove(INNER) {
            Some(Value::Object(mut inner)) if kind.wraps => {
                let name = inner.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
                Some(self.build(&name, &inner, context)?)
            }
            _ => None,
        };
        (kind.build)(&settings, inner, context)
    }

    /// The names of all kinds.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }

    fn describe(&self) -> impl Iterator<Item = KindInfo<'_>> {
        self.kinds.iter().map(|(name, kind)| KindInfo {
            layer: self.layer,
            name,
            summary: kind.summary,
            schema: &kind.schema,
            wraps: kind.wraps,
            check: kind.check,
            holds_secret: kind.holds_secret,
        })
    }
}

/// What can be said of a kind without building it.
#[derive(Clone, Copy)]
pub struct KindInfo<'a> {
    /// Its layer.
    pub layer: Layer,
    /// Its name.
    pub name: &'a str,
    /// What it is, in a line.
    pub summary: &'a str,
    /// JSON Schema of its settings, with defaults and descriptions.
    pub schema: &'a Value,
    /// Whether it wraps another kind of its layer, chosen by its [`INNER`] table.
    pub wraps: bool,
    check: fn(&Settings) -> Result<(), SettingsError>,
    holds_secret: fn(&Settings) -> bool,
}

impl KindInfo<'_> {
    /// Whether a token or password stands in settings.
    pub fn holds_secret(&self, settings: &Settings) -> bool {
        (self.holds_secret)(settings)
    }

    /// Checks settings without building anything.
    pub fn validate(&self, settings: &Settings) -> Result<(), SettingsError> {
        (self.check)(settings)
    }
}

/// All kinds a program knows.
pub struct Kinds {
    /// Transports by kind.
    pub transports: Registry<dyn Transport, TransportContext>,
    /// Transports that give plain byte streams, which the stack secures.
    pub streams: Registry<dyn StreamTransport, TransportContext>,
    /// Discoveries by kind.
    pub discoveries: Registry<dyn Discovery, DiscoveryContext>,
    /// Stores by kind.
    pub stores: Registry<dyn Storage, StorageContext>,
    /// Cryptos by kind.
    pub cryptos: Registry<dyn Crypto, CryptoContext>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self::new()
    }
}

impl Kinds {
    /// No kinds.
    pub fn new() -> Self {
        Self {
            transports: Registry::new(Layer::Transport),
            streams: Registry::new(Layer::Transport),
            discoveries: Registry::new(Layer::Discovery),
            stores: Registry::new(Layer::Storage),
            cryptos: Registry::new(Layer::Crypto),
        }
    }

    /// Every kind, by layer and name.
    pub fn describe(&self) -> Vec<KindInfo<'_>> {
        let mut all: Vec<_> = self.transports.describe().collect();
        all.extend(self.streams.describe());
        all.extend(self.discoveries.describe());
        all.extend(self.stores.describe());
        all.extend(self.cryptos.describe());
        all
    }

    /// The kind of a layer with this name.
    pub fn find(&self, layer: Layer, name: &str) -> Option<KindInfo<'_>> {
        self.describe().into_iter().find(|k| k.layer == layer && k.name == name)
    }
}

/// Settings as their type, checked: ranges first, then what the type and its author say.
pub fn parse<S: KindConfig>(settings: &Settings) -> Result<S, SettingsError> {
    check_ranges(&schemars::schema_for!(S).to_value(), settings)?;
    let config: S = serde_path_to_error::deserialize(Value::Object(settings.clone())).map_err(SettingsError::from)?;
    config.validate()?;
    Ok(config)
}

/// A duration in a configuration file: `"500ms"`, `"5s"`, `"90m"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl DurationText {
    /// A hundred years; longer texts mean this. It can be added to any time without an overflow.
    pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        match units.into_iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl std::str::FromStr for DurationText {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = |_| format!("`{text}` is not a duration such as \"500ms\", \"5s\", \"90m\" or \"7d\"");
        humantime::parse_duration(text).map(|duration| Self(duration.min(Self::LONGEST))).map_err(wrong)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for DurationText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "duration" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_whole_or_not_at_all() {
        let long = "x".repeat(1 << 20);
        for (text, secret) in
            [("one", "one"), ("one\n", "one"), ("one\r\n", "one"), (" one \n", " one "), (&long, &long)]
        {
            assert_eq!(Passphrase::from_line(text).expect("a secret").expose(), secret);
        }
        for wrong in ["", "\n", "\r\n", "one\ntwo", "one\n\n", "one\rtwo\n", "a\0b"] {
            assert!(Passphrase::from_line(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_survive_their_text_form() {
        for text in ["500ms", "5s", "90m", "7d", "1500ms", "1h"] {
            let parsed: DurationText = text.parse().unwrap();
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        assert!("5".parse::<DurationText>().is_err());
        assert!("7 parsecs".parse::<DurationText>().is_err());
    }
}

//! The configuration file: one table for each layer, each with a `kind`.

mod edit;
mod overrides;
mod own_files;
mod problems;
mod reader;
mod schema;
mod tree;

use std::path::{Path, PathBuf};

use peerloom_core::Passphrase;
use peerloom_core::kinds::{DurationText, INNER, KindConfig, Settings, SettingsError};
use peerloom_core::wire::name::check_name;
use peerloom_core::{Error, ErrorKind, Kinds, Layer, Result, private};
use peerloom_engine::EngineConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::folder::FILE_NAME;
pub use edit::edit;
pub(crate) use edit::replace_storage;
pub use overrides::{Override, overrides_from};
use problems::Problems;
use reader::Reader;
pub use schema::{Key, file_schema, keys, nearest};
use tree::Tree;

/// The environment variable with the passphrase of an encrypted store.
const PASSPHRASE: &str = "PEERLOOM_PASSPHRASE";
/// The tables of a file, beside its general keys.
const TABLES: [&str; 5] = ["transport", "discovery", "storage", "crypto", "delivery"];

/// A validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's folder: relative paths begin here.
    pub folder: PathBuf,
    /// The file's general keys.
    pub general: General,
    /// How messages are delivered.
    pub delivery: Delivery,
    /// The layers' implementations, in the file's order.
    pub layers: Vec<Choice>,
    /// For an encrypted store whose settings don't say where its passphrase is; from the environment
    /// variable `PEERLOOM_PASSPHRASE`.
    pub passphrase: Option<Passphrase>,
    kinds: Kinds,
    /// Whether a token or password stands in the file.
    holds_secret: bool,
}

/// An implementation that the file chose.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The layer.
    pub layer: Layer,
    /// The kind's name.
    pub kind: String,
    /// The kind's settings; what it wraps is in the table [`INNER`].
    pub settings: Settings,
}

impl Choice {
    /// The kind with those that it wraps: `vault/redb`.
    pub fn full_kind(&self) -> String {
        let mut full = self.kind.clone();
        let mut inner = self.settings.get(INNER);
        while let Some(found) = inner {
            full = format!("{full}/{}", found.get("kind").and_then(Value::as_str).unwrap_or_default());
            inner = found.get(INNER);
        }
        full
    }

    /// Whether a token or password stands in the settings, or in those of what it wraps.
    fn holds_secret(&self, kinds: &Kinds) -> bool {
        let (mut kind, mut settings) = (self.kind.clone(), self.settings.clone());
        loop {
            let inner = settings.remove(INNER);
            if kinds.find(self.layer, &kind).is_some_and(|info| info.holds_secret(&settings)) {
                return true;
            }
            let Some(Value::Object(mut inner)) = inner else { return false };
            kind = inner.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
            settings = inner;
        }
    }
}

/// General keys, at the top of the file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct General {
    /// Name of the network. Nodes of different networks don't talk to each other. It can't be
    /// changed once the folder has an identity.
    pub network: String,
    /// What this node's user is called. Contacts see it; taken when the identity is made.
    pub name: String,
}

impl Default for General {
    fn default() -> Self {
        Self { network: "peerloom".into(), name: String::new() }
    }
}

impl KindConfig for General {
    fn validate(&self) -> Result<(), SettingsError> {
        let network = check_name(&self.network).map_err(|e| SettingsError::new("network", e.to_string()))?;
        if network != self.network {
            let message = format!("nodes compare this name byte by byte; write it in its normal form, `{network}`");
            return Err(SettingsError::new("network", message));
        }
        match check_name(&self.name) {
            Err(error) if !self.name.is_empty() => Err(SettingsError::new("name", error.to_string())),
            _ => Ok(()),
        }
    }
}

/// The `[delivery]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Delivery {
    /// How long a message may wait to be delivered before it fails.
    #[schemars(extend("minDuration" = "1s", "maxDuration" = "365d"))]
    pub ttl: DurationText,
    /// How long an acknowledgement may take while a link is up, before messages are sent again.
    #[schemars(extend("minDuration" = "100ms", "maxDuration" = "1h"))]
    pub ack_timeout: DurationText,
    /// Waits between attempts without a link; after the last the contact counts as stalled, and its
    /// messages go out when it appears.
    #[schemars(length(min = 1, max = 32), extend("minDuration" = "10ms", "maxDuration" = "7d"))]
    pub retry_delays: Vec<DurationText>,
    /// Most messages of one conversation that wait to be acknowledged.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_queued_messages: usize,
    /// Most bytes of one conversation that wait to be acknowledged.
    #[schemars(range(min = 1_048_576, max = 68_719_476_736_u64))]
    pub max_queued_bytes: usize,
    /// Most bytes of all conversations that wait to be acknowledged; beyond them a conversation takes a message only
    /// while nothing waits in it.
    #[schemars(range(min = 1_048_576, max = 68_719_476_736_u64))]
    pub max_queued_bytes_in_all: usize,
    /// Most links to other devices.
    #[schemars(range(min = 1, max = 65_536))]
    pub max_links: usize,
}

impl Default for Delivery {
    fn default() -> Self {
        let rules = EngineConfig::new(peerloom_core::wire::NetworkId::from_name(""));
        Self {
            ttl: DurationText(rules.ttl),
            ack_timeout: DurationText(rules.delivery.ack_timeout),
            retry_delays: rules.delivery.retry_delays.into_iter().map(DurationText).collect(),
            max_queued_messages: rules.max_queued_messages,
            max_queued_bytes: rules.max_queued_bytes,
            max_queued_bytes_in_all: rules.max_queued_bytes_in_all,
            max_links: rules.max_links,
        }
    }
}

impl KindConfig for Delivery {
    fn validate(&self) -> Result<(), SettingsError> {
        if self.retry_delays.is_empty() || self.retry_delays.len() > 32 {
            return Err(SettingsError::new("retry_delays", "list from 1 to 32 waits, such as [\"1s\", \"5s\"]"));
        }
        Ok(())
    }
}

impl Config {
    /// Reads and validates a file. No I/O beyond reading it.
    pub fn load(path: &Path, overrides: &[Override], kinds: &Kinds) -> Result<Self> {
        let shown = path.display().to_string();
        let file = private::read_shared(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                let message = format!("{shown}: no such file; make one with `peerloom init`");
                Error::new(ErrorKind::NotFound, "config", "read", message)
            }
            _ => e,
        })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let config = Self::parse(&file.text, &shown, folder, overrides, kinds)?;
        match file.exposed {
            Some(exposed) if Self::holds_secret(&file.text, folder, overrides, kinds) => Err(exposed),
            _ => Ok(config),
        }
    }

    /// Whether a token or password stands in a file's text. One that isn't good by itself is judged with its
    /// overrides.
    fn holds_secret(text: &str, folder: &Path, overrides: &[Override], kinds: &Kinds) -> bool {
        let parse = |overrides| Self::parse(text, "", folder, overrides, kinds);
        let config = parse(&[]).or_else(|_| parse(overrides));
        config.is_ok_and(|config| config.holds_secret)
    }

    /// Validates a file's text. `origin` is what errors call the file.
    pub fn parse(text: &str, origin: &str, folder: &Path, overrides: &[Override], kinds: &Kinds) -> Result<Self> {
        let invalid = |problems: Problems| Error::new(ErrorKind::Invalid, "config", "check", problems.to_string());
        let mut tree = Tree::parse(text, origin).map_err(|p| invalid(p.into()))?;
        for change in overrides {
            tree.set(&change.path, &change.value).map_err(|p| invalid(p.into()))?;
        }
        Reader::new(kinds, folder).read(tree).map_err(invalid)
    }

    /// The kinds that the file may choose from: those it was read with, and those that its own tables brought.
    pub fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    /// The choices for one layer.
    pub fn of(&self, layer: Layer) -> impl Iterator<Item = &Choice> {
        self.layers.iter().filter(move |choice| choice.layer == layer)
    }

    /// The numbers the engine runs with.
    pub fn engine(&self) -> EngineConfig {
        let mut engine = EngineConfig::new(peerloom_core::wire::NetworkId::from_name(&self.general.network));
        engine.ttl = self.delivery.ttl.0;
        engine.delivery.ack_timeout = self.delivery.ack_timeout.0;
        engine.delivery.retry_delays = self.delivery.retry_delays.iter().map(|d| d.0).collect();
        engine.max_queued_messages = self.delivery.max_queued_messages;
        engine.max_queued_bytes = self.delivery.max_queued_bytes;
        engine.max_queued_bytes_in_all = self.delivery.max_queued_bytes_in_all;
        engine.max_links = self.delivery.max_links;
        engine
    }
}

/// The tables that a file may have, beside its general keys.
fn tables(kinds: &Kinds) -> Vec<String> {
    let sources = kinds.sources().iter().map(|source| source.table().to_owned());
    TABLES.into_iter().map(str::to_owned).chain(sources).collect()
}

/// The JSON Schema of a section's type.
pub fn schema_of<S: JsonSchema>() -> Value {
    schemars::schema_for!(S).to_value()
}

//! The kinds that a program knows, by layer and name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::schema::check_word;
use super::{
    CryptoContext, DiscoveryContext, INNER, KindConfig, Layer, Schema, Settings, SettingsError, StorageContext,
    TransportContext, parse,
};
use crate::{Crypto, Discovery, Error, ErrorKind, Result, Storage, StreamTransport, Transport};

/// What a kind is, apart from how it is built. A kind that comes at run time brings it as data.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Its name in the file: lower-case letters, digits and `-`, at most 64 bytes.
    pub name: String,
    /// What it is, in a line.
    pub summary: String,
    /// Its settings.
    pub schema: Schema,
    /// Whether it wraps another kind of its layer, chosen by its [`INNER`] table.
    pub wraps: bool,
}

/// What a transport kind makes: links, or plain byte streams of which the stack makes links.
#[derive(Clone)]
pub enum AnyTransport {
    /// Links.
    Links(Arc<dyn Transport>),
    /// Plain byte streams.
    Streams(Arc<dyn StreamTransport>),
}

impl AnyTransport {
    /// A transport with links of its own.
    pub fn links(transport: impl Transport + 'static) -> Self {
        Self::Links(Arc::new(transport))
    }

    /// A transport of plain byte streams.
    pub fn streams(transport: impl StreamTransport + 'static) -> Self {
        Self::Streams(Arc::new(transport))
    }
}

/// One kind: what it is, and how it is checked and built.
struct Kind<V, C> {
    description: Arc<Description>,
    check: Arc<dyn Fn(&Settings) -> Result<(), SettingsError> + Send + Sync>,
    holds_secret: Arc<dyn Fn(&Settings) -> bool + Send + Sync>,
    build: Arc<dyn Fn(&Settings, Option<V>, &C) -> Result<V> + Send + Sync>,
}

impl<V, C> Clone for Kind<V, C> {
    fn clone(&self) -> Self {
        Self {
            description: self.description.clone(),
            check: self.check.clone(),
            holds_secret: self.holds_secret.clone(),
            build: self.build.clone(),
        }
    }
}

/// The kinds of one layer, which build values of type `V` with a `C`.
pub struct Registry<V, C> {
    layer: Layer,
    kinds: BTreeMap<String, Kind<V, C>>,
}

impl<V, C> Clone for Registry<V, C> {
    fn clone(&self) -> Self {
        Self { layer: self.layer, kinds: self.kinds.clone() }
    }
}

impl<V: 'static, C: 'static> Registry<V, C> {
    fn new(layer: Layer) -> Self {
        Self { layer, kinds: BTreeMap::new() }
    }

    /// Registers a kind with settings of a Rust type. `AlreadyExists` if the layer has a kind of this name.
    pub fn add<S: KindConfig>(
        &mut self,
        name: impl Into<String>,
        summary: impl Into<String>,
        build: impl Fn(S, &C) -> Result<V> + Send + Sync + 'static,
    ) -> Result<()> {
        self.add_typed::<S>(name.into(), summary.into(), false, move |config, _, context| build(config, context))
    }

    /// Registers a kind that wraps another one of its layer, which its [`INNER`] table chooses. `AlreadyExists` if
    /// the layer has a kind of this name.
    pub fn add_wrapper<S: KindConfig>(
        &mut self,
        name: impl Into<String>,
        summary: impl Into<String>,
        build: impl Fn(S, V, &C) -> Result<V> + Send + Sync + 'static,
    ) -> Result<()> {
        let name = name.into();
        let component = name.clone();
        let lacks = move || {
            let message = format!("add a table `{INNER}` with a `kind`: what {component} wraps");
            Error::new(ErrorKind::Invalid, component.clone(), "configure", message)
        };
        self.add_typed::<S>(name, summary.into(), true, move |config, inner, context| {
            build(config, inner.ok_or_else(&lacks)?, context)
        })
    }

    fn add_typed<S: KindConfig>(
        &mut self,
        name: String,
        summary: String,
        wraps: bool,
        build: impl Fn(S, Option<V>, &C) -> Result<V> + Send + Sync + 'static,
    ) -> Result<()> {
        let invalid = self.invalid(&name);
        let build = move |settings: &Settings, inner: Option<V>, context: &C| {
            build(parse::<S>(settings).map_err(&invalid)?, inner, context)
        };
        let kind = Kind {
            description: Arc::new(Description { name, summary, schema: Schema::of::<S>(), wraps }),
            check: Arc::new(|settings| parse::<S>(settings).map(drop)),
            holds_secret: Arc::new(|settings| parse::<S>(settings).is_ok_and(|config| config.holds_secret())),
            build: Arc::new(build),
        };
        self.insert(kind)
    }

    /// Registers a kind whose description comes as data. `build` gets settings that fit its schema, with the defaults
    /// filled in, and what it wraps, if it wraps. `AlreadyExists` if the layer has a kind of this name.
    pub fn add_described(
        &mut self,
        description: Description,
        build: impl Fn(&Settings, Option<V>, &C) -> Result<V> + Send + Sync + 'static,
    ) -> Result<()> {
        let description = Arc::new(description);
        let (checked, secret, built) = (description.clone(), description.clone(), description.clone());
        let invalid = self.invalid(&description.name);
        let lacks = SettingsError::new(INNER, "add a table with the `kind` that it wraps");
        let build = move |settings: &Settings, inner: Option<V>, context: &C| {
            if built.wraps && inner.is_none() {
                return Err(invalid(lacks.clone()));
            }
            build(&built.schema.complete(settings).map_err(&invalid)?, inner, context)
        };
        self.insert(Kind {
            check: Arc::new(move |settings| checked.schema.complete(settings).map(drop)),
            holds_secret: Arc::new(move |settings| secret.schema.holds_secret(settings)),
            build: Arc::new(build),
            description,
        })
    }

    fn invalid(&self, name: &str) -> impl Fn(SettingsError) -> Error + Send + Sync + use<V, C> {
        let (layer, name) = (self.layer, name.to_owned());
        move |error| {
            let message = format!("{layer}.{}: {}", error.path, error.message);
            Error::new(ErrorKind::Invalid, name.clone(), "configure", message)
        }
    }

    fn insert(&mut self, kind: Kind<V, C>) -> Result<()> {
        let name = kind.description.name.clone();
        let wrong = |kind, message| Err(Error::new(kind, "kinds", "register", message));
        if let Err(why) = check_word(&name) {
            return wrong(ErrorKind::Invalid, format!("`{name:.64}` is no name of a kind: {why}"));
        }
        if self.kinds.contains_key(&name) {
            let message = format!("there is a {} kind `{name}` already; give this one another name", self.layer);
            return wrong(ErrorKind::AlreadyExists, message);
        }
        self.kinds.insert(name, kind);
        Ok(())
    }

    /// Builds a kind, and what it wraps before it: opens files, binds nothing.
    pub fn build(&self, name: &str, settings: &Settings, context: &C) -> Result<V> {
        let unknown = || {
            let message = format!("the {} kind `{name}` is not registered", self.layer);
            Error::new(ErrorKind::Invalid, "kinds", "build", message)
        };
        let kind = self.kinds.get(name).ok_or_else(unknown)?;
        let mut settings = settings.clone();
        let inner = match settings.remove(INNER) {
            Some(Value::Object(mut inner)) if kind.description.wraps => {
                let name = inner.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
                Some(self.build(&name, &inner, context)?)
            }
            _ => None,
        };
        (kind.build)(&settings, inner, context)
    }

    fn find(&self, name: &str) -> Option<KindInfo<'_>> {
        self.kinds.get(name).map(|kind| self.info(kind))
    }

    fn describe(&self) -> impl Iterator<Item = KindInfo<'_>> {
        self.kinds.values().map(|kind| self.info(kind))
    }

    fn info<'a>(&self, kind: &'a Kind<V, C>) -> KindInfo<'a> {
        KindInfo {
            layer: self.layer,
            name: &kind.description.name,
            summary: &kind.description.summary,
            schema: kind.description.schema.json(),
            wraps: kind.description.wraps,
            check: &*kind.check,
            holds_secret: &*kind.holds_secret,
        }
    }
}

/// What is known of a kind without building it.
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
    check: &'a (dyn Fn(&Settings) -> Result<(), SettingsError> + Send + Sync),
    holds_secret: &'a (dyn Fn(&Settings) -> bool + Send + Sync),
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

/// All kinds a program knows. A clone is cheap, and what is added to it is in the clone alone.
#[derive(Clone)]
pub struct Kinds {
    /// Transports by kind: those that make links, and those that give byte streams.
    pub transports: Registry<AnyTransport, TransportContext>,
    /// Discoveries by kind.
    pub discoveries: Registry<Arc<dyn Discovery>, DiscoveryContext>,
    /// Stores by kind.
    pub stores: Registry<Arc<dyn Storage>, StorageContext>,
    /// Cryptos by kind.
    pub cryptos: Registry<Arc<dyn Crypto>, CryptoContext>,
    sources: Vec<Arc<dyn KindSource>>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.describe().iter().map(|kind| format!("{} {}", kind.layer, kind.name))).finish()
    }
}

impl Kinds {
    /// No kinds.
    pub fn new() -> Self {
        Self {
            transports: Registry::new(Layer::Transport),
            discoveries: Registry::new(Layer::Discovery),
            stores: Registry::new(Layer::Storage),
            cryptos: Registry::new(Layer::Crypto),
            sources: Vec::new(),
        }
    }

    /// Every kind, by layer and name.
    pub fn describe(&self) -> Vec<KindInfo<'_>> {
        let mut all: Vec<_> = self.transports.describe().collect();
        all.extend(self.discoveries.describe());
        all.extend(self.stores.describe());
        all.extend(self.cryptos.describe());
        all
    }

    /// The kind of a layer with this name.
    pub fn find(&self, layer: Layer, name: &str) -> Option<KindInfo<'_>> {
        match layer {
            Layer::Transport => self.transports.find(name),
            Layer::Discovery => self.discoveries.find(name),
            Layer::Storage => self.stores.find(name),
            Layer::Crypto => self.cryptos.find(name),
        }
    }

    /// Adds what brings kinds when a file is read. `AlreadyExists` if its table is a layer's or another source's.
    pub fn add_source(&mut self, source: Arc<dyn KindSource>) -> Result<()> {
        let table = source.table();
        let wrong = |kind, message| Err(Error::new(kind, "kinds", "register", message));
        if let Err(why) = check_word(table) {
            return wrong(ErrorKind::Invalid, format!("`{table:.64}` is no name of a table: {why}"));
        }
        let taken = Layer::ALL.iter().any(|layer| layer.to_string() == table);
        if taken || self.sources.iter().any(|other| other.table() == table) {
            let message = format!("the table `{table}` is taken; give this source of kinds another one");
            return wrong(ErrorKind::AlreadyExists, message);
        }
        self.sources.push(source);
        Ok(())
    }

    /// What brings kinds when a file is read, in the order of their registration.
    pub fn sources(&self) -> &[Arc<dyn KindSource>] {
        &self.sources
    }
}

/// Brings kinds at run time, as tables of the file ask for: `[[plugin]]` with a path, for instance.
///
/// A file is read in two passes. The first gives each of the source's tables to [`bring`](KindSource::bring); the
/// second reads the layers, whose `kind` may name what came in the first. The kinds are those of this file alone.
///
/// **The author's duties.** `bring` reads files and nothing else: it binds nothing and spawns nothing, for
/// `peerloom check` calls it, too. What it reads is bounded in size, and panics nowhere.
pub trait KindSource: Send + Sync {
    /// The name of its tables in the file.
    fn table(&self) -> &str;

    /// The keys of one of its tables.
    fn schema(&self) -> &Schema;

    /// Registers the kinds of one table. `settings` fit the schema, with the defaults filled in; relative paths begin
    /// at `folder`, the node's.
    fn bring(&self, settings: &Settings, folder: &Path, kinds: &mut Kinds) -> Result<(), SettingsError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{NoSettings, SettingKey, Takes};
    use crate::memory::{MemoryStorage, MemoryStreams};

    fn stores() -> Kinds {
        let mut kinds = Kinds::new();
        let build = |_: NoSettings, _: &StorageContext| Ok(Arc::new(MemoryStorage::new()) as Arc<dyn Storage>);
        kinds.stores.add("memory", "in memory", build).expect("the first one");
        kinds
    }

    #[test]
    fn a_second_kind_of_a_name_is_refused_and_the_first_stays() {
        let mut kinds = stores();
        let other = |_: NoSettings, _: &StorageContext| Err(Error::new(ErrorKind::Full, "other", "build", "full"));
        let error = kinds.stores.add("memory", "another", other).expect_err("a duplicate");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.message().contains("storage kind `memory`"), "{error}");
        let description =
            Description { name: "memory".into(), summary: String::new(), schema: Schema::default(), wraps: false };
        let error = kinds.stores.add_described(description, |_, _, _| Ok(Arc::new(MemoryStorage::new())));
        assert_eq!(error.expect_err("a duplicate").kind(), ErrorKind::AlreadyExists);
        assert!(kinds.stores.build("memory", &Settings::new(), &StorageContext::default()).is_ok());
        assert_eq!(kinds.find(Layer::Storage, "memory").expect("the first one").summary, "in memory");
        // Another layer's names are its own.
        let streams = |_: NoSettings, _: &TransportContext| Ok(AnyTransport::streams(MemoryStreams::default()));
        kinds.transports.add("memory", "in memory", streams).expect("another layer");
    }

    #[test]
    fn names_are_words() {
        for wrong in ["", "Memory", "a b", "vault/redb", "-a", "ä", &"a".repeat(65)] {
            let mut kinds = Kinds::new();
            let build = |_: NoSettings, _: &StorageContext| Ok(Arc::new(MemoryStorage::new()) as Arc<dyn Storage>);
            let error = kinds.stores.add(wrong, "wrong", build).expect_err(wrong);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn a_described_kind_gets_settings_that_fit_with_its_defaults() {
        let mut kinds = stores();
        let key = SettingKey {
            name: "pages".into(),
            takes: Takes::Number { lowest: 1, highest: 9 },
            default: Some(3.into()),
            documentation: "Pages.".into(),
            secret: false,
        };
        let schema = Schema::new([key]).expect("a schema");
        let description = Description { name: "paged".into(), summary: "over another".into(), schema, wraps: true };
        let build = |settings: &Settings, inner: Option<Arc<dyn Storage>>, _: &StorageContext| {
            assert_eq!(settings["pages"], 3);
            inner.ok_or_else(|| Error::new(ErrorKind::Internal, "paged", "build", "nothing to wrap"))
        };
        kinds.stores.add_described(description, build).expect("a kind");
        let settings = |text: &str| serde_json::from_str::<Settings>(text).expect("settings");
        let context = StorageContext::default();
        let good = settings(r#"{ "inner": { "kind": "memory" } }"#);
        assert!(kinds.stores.build("paged", &good, &context).is_ok());
        let info = kinds.find(Layer::Storage, "paged").expect("a kind");
        assert_eq!(info.validate(&settings(r#"{ "pages": 9 }"#)), Ok(()));
        for (wrong, why) in [
            (r#"{ "pages": 10, "inner": { "kind": "memory" } }"#, "from 1 to 9"),
            (r#"{ "page": 1, "inner": { "kind": "memory" } }"#, "no key `page`"),
            (r#"{}"#, "add a table"),
        ] {
            let error = kinds.stores.build("paged", &settings(wrong), &context).err().expect(wrong);
            assert!(error.message().contains(why), "{error}");
        }
    }
}

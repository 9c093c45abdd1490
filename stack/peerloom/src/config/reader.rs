//! From a file's tree to a configuration: first what brings kinds, then the layers that choose among them.

use std::env::VarError;
use std::path::Path;

use peerloom_core::Passphrase;
use peerloom_core::kinds::{self, INNER, KindConfig, KindSource, Settings, SettingsError};
use peerloom_core::{Kinds, Layer};
use serde::Serialize;
use serde_json::Value;

use super::problems::Problems;
use super::tree::{Place, Tree};
use super::{Choice, Config, Delivery, General, PASSPHRASE, TABLES, keys, nearest, own_files, schema_of, tables};

/// Turns a tree into a configuration, collecting all problems on the way.
pub(super) struct Reader<'a> {
    /// Those that were known before, and those that the file brought.
    kinds: Kinds,
    folder: &'a Path,
    problems: Problems,
    /// Whether a token or password stands in the file.
    secret: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(kinds: &Kinds, folder: &'a Path) -> Self {
        Self { kinds: kinds.clone(), folder, problems: Problems::default(), secret: false }
    }

    pub(super) fn read(mut self, mut tree: Tree) -> Result<Config, Problems> {
        self.bring_kinds(&mut tree);
        // Without its kinds the rest of the file has problems that are none.
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        match self.read_layers(tree) {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(self.problems),
        }
    }

    /// The first pass: the tables of sources bring kinds, and are taken from the tree.
    fn bring_kinds(&mut self, tree: &mut Tree) {
        for source in self.kinds.sources().to_vec() {
            let name = source.table().to_owned();
            if TABLES.contains(&name.as_str()) || keys(&schema_of::<General>()).iter().any(|key| key.name == name) {
                let problem = format!("the table `{name}` of a source of kinds has another meaning in the file");
                self.problems.add(tree.place(), problem);
                continue;
            }
            let Some(table) = tree.take(&name) else { continue };
            for item in self.items(table, &name) {
                self.bring(&*source, &name, &item);
            }
        }
    }

    /// One table of a source: it brings all its kinds or none.
    fn bring(&mut self, source: &dyn KindSource, name: &str, table: &Tree) {
        if !table.is_table() {
            self.no_table::<()>(table, name, true);
            return;
        }
        if !self.check_keys(table, source.schema().json(), &format!("[[{name}]]")) {
            return;
        }
        let Ok(settings) = table.to_settings() else { return };
        let mut kinds = self.kinds.clone();
        let complete = source.schema().complete(&settings);
        match complete.and_then(|settings| source.bring(&settings, self.folder, &mut kinds)) {
            Ok(()) => self.kinds = kinds,
            Err(error) => self.explain(table, name, &error),
        }
        self.secret |= source.schema().holds_secret(&settings);
    }

    /// The tables of a name: one, or a list of them.
    fn items(&mut self, table: Tree, name: &str) -> Vec<Tree> {
        if table.is_table() {
            return vec![table];
        }
        table.into_items().unwrap_or_else(|other| {
            self.no_table::<()>(&other, name, true);
            Vec::new()
        })
    }

    /// The second pass: everything else.
    fn read_layers(&mut self, mut tree: Tree) -> Option<Config> {
        let mut layers = Vec::new();
        for layer in Layer::ALL {
            match tree.take(&layer.to_string()) {
                None => self.problems.add(tree.place(), self.lacks(layer)),
                Some(table) if layer == Layer::Storage => layers.extend(self.choice(layer, table)),
                Some(table) => {
                    let before = self.problems.count();
                    let items = self.items(table, &layer.to_string());
                    if items.is_empty() && self.problems.count() == before {
                        self.problems.add(tree.place(), self.lacks(layer));
                    }
                    items.into_iter().for_each(|item| layers.extend(self.choice(layer, item)));
                }
            }
        }
        let delivery = match tree.take("delivery") {
            Some(table) if table.is_table() => self.section::<Delivery>(table, "delivery"),
            Some(other) => self.no_table(&other, "delivery", false),
            None => Some(Delivery::default()),
        };
        let general = self.section::<General>(tree, "");
        let passphrase = match std::env::var(PASSPHRASE) {
            Ok(text) => Some(Passphrase::new(text)),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => {
                let place = Place { text: PASSPHRASE.into(), line: usize::MAX };
                self.problems.add(&place, "the variable's value is not UTF-8");
                None
            }
        };
        let holds_secret = self.secret || layers.iter().any(|choice| choice.holds_secret(&self.kinds));
        Some(Config {
            folder: self.folder.to_path_buf(),
            general: general?,
            delivery: delivery?,
            layers,
            passphrase,
            kinds: self.kinds.clone(),
            holds_secret,
        })
    }

    fn lacks(&self, layer: Layer) -> String {
        let names: Vec<_> =
            self.kinds.describe().iter().filter(|k| k.layer == layer).map(|k| k.name.to_owned()).collect();
        let example = names.first().cloned().unwrap_or_default();
        format!("no {} table; add one with `kind = \"{example}\"` (known: {})", header(layer), names.join(", "))
    }

    /// `many`: whether there may be several tables of the name.
    fn no_table<T>(&mut self, other: &Tree, name: &str, many: bool) -> Option<T> {
        let problem = match many {
            true => format!("each `{name}` is a table: write [[{name}]], or set a key of one, as {name}.0.KEY"),
            false => format!("`{name}` is a table: write [{name}], or set a key of it"),
        };
        self.problems.add(other.place(), problem);
        None
    }

    fn choice(&mut self, layer: Layer, mut table: Tree) -> Option<Choice> {
        if !table.is_table() {
            return self.no_table(&table, &layer.to_string(), layer != Layer::Storage);
        }
        let place = table.place().clone();
        let header = header(layer);
        let kinds = self.kinds.clone();
        let known: Vec<_> = kinds.describe().into_iter().filter(|k| k.layer == layer).map(|k| k.name).collect();
        let Some(kind) = table.take("kind") else {
            self.problems.add(&place, format!("{header} lacks `kind`; known: {}", known.join(", ")));
            return None;
        };
        let Some(name) = kind.as_text() else {
            self.problems.add(kind.place(), format!("`kind` is not a string; known: {}", known.join(", ")));
            return None;
        };
        let Some(info) = kinds.find(layer, name) else {
            let guess =
                nearest(name, known.iter().copied()).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
            let problem = format!("unknown {layer} kind `{name}`{guess}; known: {}", known.join(", "));
            self.problems.add(kind.place(), problem);
            return None;
        };
        let inner = if info.wraps {
            let Some(inner) = table.take(INNER) else {
                let problem =
                    format!("{header} of kind `{name}` lacks a table [{layer}.{INNER}] with the `kind` it wraps");
                self.problems.add(&place, problem);
                return None;
            };
            Some(self.choice(layer, inner)?)
        } else {
            None
        };
        let before = self.problems.count();
        self.check_keys(&table, info.schema, &format!("{header} of kind `{name}`"));
        let Ok(mut settings) = table.to_settings() else {
            return None;
        };
        let clash = own_files::clash(self.folder, &settings).filter(|_| layer == Layer::Storage);
        let wrong = every_error(known_to(info.schema, &settings), |settings| info.validate(settings));
        for error in clash.into_iter().chain(wrong) {
            self.explain(&table, &layer.to_string(), &error);
        }
        if self.problems.count() > before {
            return None;
        }
        if let Some(Choice { kind, settings: mut inner, .. }) = inner {
            inner.insert("kind".into(), kind.into());
            settings.insert(INNER.into(), inner.into());
        }
        Some(Choice { layer, kind: name.to_owned(), settings })
    }

    fn section<S: KindConfig + Serialize>(&mut self, table: Tree, name: &str) -> Option<S> {
        let schema = schemars::schema_for!(S).to_value();
        let what = if name.is_empty() { "the file".to_owned() } else { format!("[{name}]") };
        let before = self.problems.count();
        self.check_keys(&table, &schema, &what);
        let settings = known_to(&schema, &table.to_settings().ok()?);
        for error in every_error(settings.clone(), |settings| kinds::parse::<S>(settings).map(drop)) {
            self.explain(&table, name, &error);
        }
        if self.problems.count() > before { None } else { kinds::parse(&settings).ok() }
    }

    fn explain(&mut self, table: &Tree, name: &str, error: &SettingsError) {
        let (place, problem) = table.explain(name, error);
        self.problems.add(place, problem);
    }

    /// Whether a table has no keys but those that it may have.
    fn check_keys(&mut self, table: &Tree, schema: &Value, what: &str) -> bool {
        let known: Vec<String> = keys(schema).into_iter().map(|k| k.name).collect();
        let sections = match what {
            "the file" => tables(&self.kinds),
            _ => Vec::new(),
        };
        let names: Vec<&str> = known.iter().chain(&sections).map(String::as_str).collect();
        let list = if names.is_empty() { "it has no settings".into() } else { format!("known: {}", names.join(", ")) };
        let before = self.problems.count();
        for (key, place) in table.keys().filter(|(key, _)| !known.iter().any(|k| k == key)) {
            self.problems.add_with(place, || {
                let guess = nearest(key, names.iter().copied());
                let guess = guess.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
                format!("{what} has no key `{key}`{guess}; {list}")
            });
        }
        self.problems.count() == before
    }
}

/// Those settings that a schema has keys for.
fn known_to(schema: &Value, settings: &Settings) -> Settings {
    let known: Vec<String> = keys(schema).into_iter().map(|key| key.name).collect();
    settings.iter().filter(|(key, _)| known.contains(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Everything that is wrong with settings: whatever is said of one key, the others are looked at without it.
fn every_error(
    mut settings: Settings,
    validate: impl Fn(&Settings) -> Result<(), SettingsError>,
) -> Vec<SettingsError> {
    let mut errors = Vec::new();
    while let Err(error) = validate(&settings) {
        let key = error.path.trim_start_matches('.').split(['.', '[']).next().unwrap_or_default().to_owned();
        errors.push(error);
        if settings.remove(&key).is_none() {
            break;
        }
    }
    errors
}

/// How a layer's table begins in a file.
fn header(layer: Layer) -> String {
    if layer == Layer::Storage { format!("[{layer}]") } else { format!("[[{layer}]]") }
}

//! What brings kinds when a configuration file is read.

use std::path::Path;

use super::{Kinds, Schema, Settings, SettingsError};

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

impl From<crate::Error> for SettingsError {
    /// For what a source couldn't register or read.
    fn from(error: crate::Error) -> Self {
        Self::new("", error.message())
    }
}

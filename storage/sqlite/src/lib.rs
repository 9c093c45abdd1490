//! A store in one [SQLite](https://sqlite.org) database: write-ahead log, `synchronous=FULL`.

mod config;
mod storage;

use std::sync::Arc;

use peerloom_core::{Kinds, Result};

pub use config::SqliteConfig;
pub use storage::SqliteStorage;

/// Registers the `sqlite` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    kinds.stores.add("sqlite", "one SQLite database, readable by its tools", |config: SqliteConfig, context| {
        let path = context.folder.join(&config.path);
        Ok(Arc::new(SqliteStorage::open(path, config.cache_mib)?))
    })
}

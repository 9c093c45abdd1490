//! A store in one [redb](https://docs.rs/redb) file, copy-on-write B-trees, with a journal beside it:
//! one `fdatasync` per commit.

mod config;
mod journal;
mod rows;
mod storage;

use std::sync::Arc;

use peerloom_core::{Kinds, Result};

pub use config::RedbConfig;
pub use storage::RedbStorage;

/// Registers the `redb` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    kinds.stores.add("redb", "one redb file, durable at each commit", |config: RedbConfig, context| {
        let path = context.folder.join(&config.path);
        Ok(Arc::new(RedbStorage::open(path, config.cache_mib as usize * 1024 * 1024)?))
    })
}

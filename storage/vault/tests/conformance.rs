//! The storage suite over the `vault` kind, over each store that may lie beneath it.

use std::sync::Arc;

use peerloom_conformance::storage;
use peerloom_core::Storage;
use peerloom_core::memory::MemoryStorage;
use peerloom_storage_redb::RedbStorage;
use peerloom_storage_sqlite::SqliteStorage;
use peerloom_storage_vault::VaultStorage;

#[test]
fn storage_vault_over_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let memory = MemoryStorage::new();
    let vault = |inner: Arc<dyn Storage>| -> Arc<dyn Storage> {
        Arc::new(VaultStorage::open(inner, "correct horse battery staple").expect("a vault"))
    };
    storage::run(|| vault(Arc::new(memory.clone())));
    let path = folder.path().join("store.redb");
    storage::run(|| vault(Arc::new(RedbStorage::open(&path, 4 << 20).expect("a store"))));
    let path = folder.path().join("store.sqlite");
    storage::run(|| vault(Arc::new(SqliteStorage::open(&path, 4).expect("a store"))));
}

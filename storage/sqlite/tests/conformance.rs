//! The storage suite over the `sqlite` kind.

use std::sync::Arc;

use peerloom_conformance::storage;
use peerloom_storage_sqlite::SqliteStorage;

#[test]
fn storage_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    storage::run(|| Arc::new(SqliteStorage::open(&path, 4).expect("a store")));
}

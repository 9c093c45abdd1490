//! The storage suite over the `redb` kind.

use std::sync::Arc;

use peerloom_conformance::storage;
use peerloom_storage_redb::RedbStorage;

#[test]
fn storage_redb() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    storage::run(|| Arc::new(RedbStorage::open(&path, 4 << 20).expect("a store")));
}

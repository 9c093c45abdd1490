//! Encrypts any store under a passphrase: Argon2id (RFC 9106) wraps a random data key, XChaCha20-
//! Poly1305 seals each value with its table and key as associated data, HMAC-SHA-256 hides ids.

mod config;
mod header;
mod storage;

use std::sync::Arc;

use peerloom_core::{Error, ErrorKind, Kinds, Result};

pub use config::VaultConfig;
pub use storage::VaultStorage;

/// Registers the `vault` kind, which encrypts the store of its `inner` table.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "encrypts the store in its `inner` table under a passphrase";
    kinds.stores.add_wrapper("vault", summary, |config: VaultConfig, inner, context| {
        Ok(Arc::new(VaultStorage::open(inner, config.passphrase(context)?.expose())?))
    })
}

fn error(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(kind, "vault", operation, message)
}

//! Encrypts any store under a passphrase: Argon2id (RFC 9106) wraps a random data key, XChaCha20-
//! Poly1305 seals each value with its table and key as associated data, HMAC-SHA-256 hides ids.

mod header;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerloom_core::kinds::{KindConfig, Passphrase, SettingsError};
use peerloom_core::{Error, ErrorKind, Kinds, Result, private};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use store::VaultStorage;

/// Settings of the `vault` kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VaultConfig {
    /// A file whose only line is the passphrase; nobody but its owner may be able to read it. Empty:
    /// the environment variable `PEERLOOM_PASSPHRASE` has it.
    pub passphrase_file: PathBuf,
}

impl KindConfig for VaultConfig {
    fn validate(&self) -> std::result::Result<(), SettingsError> {
        Ok(())
    }
}

/// Registers the `vault` kind, which encrypts the store of its `inner` table.
pub fn register(kinds: &mut Kinds) {
    let summary = "encrypts the store in its `inner` table under a passphrase";
    kinds.stores.add_wrapper("vault", summary, |config: VaultConfig, inner, context| {
        let passphrase = match (&context.passphrase, config.passphrase_file.as_os_str().is_empty()) {
            (_, false) => read_passphrase(&context.folder.join(&config.passphrase_file))?,
            (Some(passphrase), true) => passphrase.clone(),
            (None, true) => {
                let message = "the store is encrypted; put its passphrase into PEERLOOM_PASSPHRASE, or name a file \
                               that has it with storage.passphrase_file";
                return Err(error(ErrorKind::Invalid, "open", message));
            }
        };
        Ok(Arc::new(VaultStorage::open(inner, passphrase.expose())?))
    });
}

/// The one line of a file that only its owner can read.
fn read_passphrase(path: &Path) -> Result<Passphrase> {
    let failed = |e| error(ErrorKind::Invalid, "open", "the passphrase file can't be used").source(e);
    let text = private::read_secret(path).map_err(failed)?;
    let wrong = |why| error(ErrorKind::Invalid, "open", format!("{}: {why}", path.display()));
    Passphrase::from_line(&text).map_err(wrong)
}

pub(crate) fn error(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(kind, "vault", operation, message)
}

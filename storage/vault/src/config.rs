//! Settings of the `vault` kind.

use std::path::{Path, PathBuf};

use peerloom_core::Passphrase;
use peerloom_core::kinds::{KindConfig, StorageContext};
use peerloom_core::{ErrorKind, Result, private};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error;

/// Settings of the `vault` kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct VaultConfig {
    /// A file whose only line is the passphrase; nobody but its owner may be able to read it. Empty:
    /// the environment variable `PEERLOOM_PASSPHRASE` has it.
    pub passphrase_file: PathBuf,
}

impl KindConfig for VaultConfig {}

impl VaultConfig {
    /// The passphrase: of the file that the settings name, or else the one that the node was given.
    pub(crate) fn passphrase(&self, context: &StorageContext) -> Result<Passphrase> {
        match (&context.passphrase, self.passphrase_file.as_os_str().is_empty()) {
            (_, false) => read_passphrase(&context.folder.join(&self.passphrase_file)),
            (Some(passphrase), true) => Ok(passphrase.clone()),
            (None, true) => {
                let message = "the store is encrypted; put its passphrase into PEERLOOM_PASSPHRASE, or name a file \
                               that has it with storage.passphrase_file";
                Err(error(ErrorKind::Invalid, "open", message))
            }
        }
    }
}

/// The one line of a file that only its owner can read.
fn read_passphrase(path: &Path) -> Result<Passphrase> {
    let failed = |e| error(ErrorKind::Invalid, "open", "the passphrase file can't be used").with_source(e);
    let text = private::read_secret(path).map_err(failed)?;
    let wrong = |why| error(ErrorKind::Invalid, "open", format!("{}: {why}", path.display()));
    Passphrase::from_line(&text).map_err(wrong)
}

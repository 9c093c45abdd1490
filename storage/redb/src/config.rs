//! Settings of the `redb` kind.

use std::path::PathBuf;

use peerloom_core::kinds::{KindConfig, SettingsError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the `redb` kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RedbConfig {
    /// The store's file; a relative path begins at the node's folder.
    pub path: PathBuf,
    /// Most memory for cached pages, in MiB.
    #[schemars(range(min = 1, max = 65_536))]
    pub cache_mib: u32,
}

impl Default for RedbConfig {
    fn default() -> Self {
        Self { path: "store.redb".into(), cache_mib: 8 }
    }
}

impl KindConfig for RedbConfig {
    fn validate(&self) -> Result<(), SettingsError> {
        if self.path.as_os_str().is_empty() {
            return Err(SettingsError::new("path", "name a file, such as \"store.redb\""));
        }
        Ok(())
    }
}

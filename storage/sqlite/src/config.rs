//! Settings of the `sqlite` kind.

use std::path::PathBuf;

use peerloom_core::kinds::{KindConfig, SettingsError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the `sqlite` kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SqliteConfig {
    /// The database's file; a relative path begins at the node's folder.
    pub path: PathBuf,
    /// Most memory for cached pages of each connection, in MiB.
    #[schemars(range(min = 1, max = 65_536))]
    pub cache_mib: u32,
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self { path: "store.sqlite".into(), cache_mib: 4 }
    }
}

impl KindConfig for SqliteConfig {
    fn validate(&self) -> Result<(), SettingsError> {
        if self.path.as_os_str().is_empty() {
            return Err(SettingsError::new("path", "name a file, such as \"store.sqlite\""));
        }
        Ok(())
    }
}

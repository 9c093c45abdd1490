//! Checking a configuration file.

use std::path::{Path, PathBuf};

use clap::Args;
use peerloom::config::FILE_NAME;
use peerloom::{Config, Override, Result};
use serde_json::json;

use crate::output::{say, say_json};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file; by default the folder's.
    pub(crate) file: Option<PathBuf>,
}

pub(super) fn run(dir: &Path, overrides: &[Override], json: bool, check: Check) -> Result<()> {
    let path = check.file.unwrap_or_else(|| dir.join(FILE_NAME));
    let config = Config::load(&path, overrides, &crate::kinds()?)?;
    let chosen = config.layers.iter().map(|c| format!("{} {}", c.layer, c.full_kind()));
    if json {
        let layers: Vec<_> = config.layers.iter().map(|c| json!({ "layer": c.layer, "kind": c.full_kind() })).collect();
        say_json(&json!({ "ok": true, "file": path.to_string_lossy(), "layers": layers }));
    } else {
        say(&format!("{}: good ({})", path.display(), chosen.collect::<Vec<_>>().join(", ")));
    }
    Ok(())
}

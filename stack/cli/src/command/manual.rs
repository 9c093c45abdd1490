//! Completions and manual pages, from the same definitions as `--help`.

use std::path::Path;

use clap::CommandFactory;
use peerloom::{Error, ErrorKind, Result};

use super::Arguments;
use crate::output::say;

pub(super) fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(), "peerloom", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}

/// The command without what `--help` hides: completions would offer that.
fn visible() -> clap::Command {
    let all = Arguments::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("peerloom")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(shown)
}

pub(super) fn pages(folder: &Path) -> Result<()> {
    let failed = |e| {
        let message = format!("{}: the manual pages can't be written there; check its permissions", folder.display());
        Error::new(ErrorKind::Invalid, "man", "write", message).with_source(e)
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), folder).map_err(failed)?;
    say(&format!("wrote the manual pages to {}; see `man -l {0}/peerloom.1`", folder.display()));
    Ok(())
}

//! Making a folder.

use std::fs;
use std::path::Path;

use clap::Args;
use peerloom::config::FILE_NAME;
use peerloom::core::wire::name::{check_name, clean_name};
use peerloom::{Error, ErrorKind, Override, Result, contact_word};
use serde_json::json;

use crate::folder::{free_port, init_folder};
use crate::output::{hint, note, printable, say, say_json};

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// What you are called; contacts see it. By default the folder's name.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: Option<String>,
    /// Name of the network; by default peerloom.
    #[arg(long)]
    pub(crate) network: Option<String>,
    /// Address and port to listen on; by default every address, with a free port.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<String>,
}

pub(super) async fn run(folder: &Path, overrides: &[Override], json: bool, init: Init) -> Result<()> {
    let name = match &init.name {
        Some(name) => chosen(name, "--name")?,
        None => name_of(folder),
    };
    let network = chosen(init.network.as_deref().unwrap_or("peerloom"), "--network")?;
    for (argument, given, key) in [
        ("--name", init.name.is_some(), "name"),
        ("--network", init.network.is_some(), "network"),
        ("--listen", init.listen.is_some(), "transport.0.listen"),
    ] {
        let same =
            |o: &&Override| key.strip_prefix(&o.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if let Some(other) = overrides.iter().find(same).filter(|_| given) {
            let message = format!("{argument} and {}={} both say what `{key}` is; give one", other.path, other.value);
            return Err(Error::new(ErrorKind::Invalid, "init", "read the arguments", message));
        }
    }
    let listen = match init.listen {
        Some(listen) => listen,
        None => format!("0.0.0.0:{}", free_port("0.0.0.0")?),
    };
    let node = init_folder(folder, overrides, &name, &network, &listen).await?;
    let file = folder.join(FILE_NAME).to_string_lossy().into_owned();
    if json {
        say_json(&json!({
            "file": file,
            "name": node.name(),
            "user": node.user().to_string(),
            "device": node.device().to_string(),
        }));
    } else {
        say(&format!("made {}; {} is user {}", printable(&file), node.name(), node.user()));
        let asked = init.name.as_deref().map(str::trim).filter(|asked| *asked != node.name());
        if asked.is_some() {
            note(&format!("note: the name is {}, since {}", node.name(), super::names::why_changed("")));
        }
        let word = contact_word(node.name());
        if word != node.name() {
            let why = super::names::why_changed(node.name());
            note(&format!("note: contacts call you {word}, unless they choose another name, since {why}"));
        }
        let [run, invite] = ["run", "invite"].map(|command| hint(folder, &[command]));
        say(&format!("next: {run}, and in another terminal: {invite}"));
    }
    node.shutdown().await;
    Ok(())
}

/// A name out of an argument, which the error names.
fn chosen(name: &str, argument: &str) -> Result<String> {
    check_name(name)
        .map_err(|e| Error::new(ErrorKind::Invalid, "init", "read the arguments", format!("{argument}: {e}")))
}

/// The folder's name, for those who gave no other.
fn name_of(folder: &Path) -> String {
    let full = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let name = full.file_name().or(folder.file_name()).map(|n| clean_name(&n.to_string_lossy()));
    name.filter(|n| !n.is_empty()).unwrap_or_else(|| "me".into())
}

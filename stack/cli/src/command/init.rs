//! Making a folder.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use clap::Args;
use peerloom::config::{FILE_NAME, edit};
use peerloom::core::private;
use peerloom::core::wire::name::{check_name, clean_name};
use peerloom::{Config, Error, ErrorKind, Node, Override, Result, contact_word};
use serde_json::json;

use crate::control;
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

/// Writes the file and makes the identity. What fails leaves nothing behind.
pub(crate) async fn init_folder(
    folder: &Path,
    overrides: &[Override],
    name: &str,
    network: &str,
    listen: &str,
) -> Result<Node> {
    let kinds = crate::kinds()?;
    let path = folder.join(FILE_NAME);
    let origin = printable(&path.to_string_lossy());
    let text = template(name, network, listen);
    // Before anything is written: the file is good, and a node can run there. A problem names the override, not a line.
    Config::parse(&text, &origin, folder, overrides, &kinds)?;
    let text = edit(&text, overrides)?;
    let config = Config::parse(&text, &origin, folder, &[], &kinds)?;
    control::check_path(folder)?;
    let before = Before::of(folder);
    // Keys and messages will be in there: only for this user.
    let written = private::make_folder(folder).and_then(|()| private::create(&path, text.as_bytes()));
    written
        .map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => {
                let message = format!("{origin}: it is there already; edit it, or use another folder");
                Error::new(ErrorKind::AlreadyExists, "init", "write", message)
            }
            _ => e,
        })
        .inspect_err(|_| before.remove_empty(folder))?;
    // From here on the folder is ours: another `init` finds the file.
    Node::open(&config).await.inspect_err(|_| before.restore(folder))
}

/// What there was before a folder was made.
struct Before {
    /// The topmost folder that wasn't there.
    missing: Option<PathBuf>,
    /// What was in the folder.
    entries: HashSet<OsString>,
}

impl Before {
    fn of(folder: &Path) -> Self {
        let missing = folder.ancestors().filter(|path| !path.as_os_str().is_empty());
        let missing = missing.take_while(|path| path.symlink_metadata().is_err()).last().map(Path::to_path_buf);
        Self { missing, entries: entries(folder).map(|entry| entry.file_name()).collect() }
    }

    /// Removes the folders that were made, as far as nothing is in them.
    fn remove_empty(&self, folder: &Path) {
        let Some(top) = &self.missing else { return };
        let made = folder.ancestors().take_while(|path| path.starts_with(top));
        // The first that isn't empty keeps those above it.
        let _ = made.map(fs::remove_dir).find(Result::is_err);
    }

    /// Removes what has come since.
    fn restore(&self, folder: &Path) {
        // What can't be removed is in the way of nothing but the next attempt, which says so.
        match &self.missing {
            Some(top) => drop(fs::remove_dir_all(top)),
            None => entries(folder).filter(|entry| !self.entries.contains(&entry.file_name())).for_each(|entry| {
                drop(fs::remove_file(entry.path()));
            }),
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok())
}

/// A UDP port of this machine that is free now.
pub(crate) fn free_port(ip: &str) -> Result<u16> {
    let bound = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).map(|a: SocketAddr| a.port());
    bound.map_err(|e| Error::new(ErrorKind::System, "init", "find a port", "no UDP port can be bound").with_source(e))
}

/// The folder's name, for those who gave no other.
fn name_of(folder: &Path) -> String {
    let full = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let name = full.file_name().or(folder.file_name()).map(|n| clean_name(&n.to_string_lossy()));
    name.filter(|n| !n.is_empty()).unwrap_or_else(|| "me".into())
}

fn template(name: &str, network: &str, listen: &str) -> String {
    // TOML's basic strings are escaped like JSON's.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        r#"# Peerloom: one table for each layer, each with a `kind`.
# `peerloom kinds` lists every kind with its keys; `peerloom check` checks this file.
network = {network}
name = {name}

[[transport]]
kind = "quic"
listen = {listen}

[[discovery]]
kind = "invite"

# Finds contacts on the local network, and shows this device there:
# [[discovery]]
# kind = "mdns"

# `peerloom db copy` moves to another kind of store.
[storage]
kind = "redb"

[[crypto]]
kind = "mls-classical"

[delivery]
ttl = "7d"
"#,
        network = quoted(network),
        name = quoted(name),
        listen = quoted(listen),
    )
}

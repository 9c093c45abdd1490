//! Makes a node's folder: the configuration file, and the identity in the store.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use peerloom::config::{FILE_NAME, edit};
use peerloom::core::private;
use peerloom::{Config, Error, ErrorKind, Node, Override, Result};

use crate::control;
use crate::output::printable;

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

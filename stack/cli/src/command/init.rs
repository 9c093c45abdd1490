//! Making a folder.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use peerloom::config::{FILE_NAME, edit};
use peerloom::core::private;
use peerloom::{Config, Error, ErrorKind, Node, Override, Result};
use serde_json::json;

use crate::args::Init;
use crate::output::{say, say_json};

pub(super) async fn run(folder: &Path, overrides: &[Override], json: bool, init: Init) -> Result<()> {
    let name = init.name.unwrap_or_else(|| name_of(folder));
    let listen = match init.listen {
        Some(listen) => listen,
        None => format!("0.0.0.0:{}", free_port("0.0.0.0")?),
    };
    let node = init_folder(folder, overrides, &name, &init.network, &listen).await?;
    if json {
        say_json(&json!({
            "file": folder.join(FILE_NAME),
            "name": name,
            "user": node.user().to_string(),
            "device": node.device().to_string(),
        }));
    } else {
        say(&format!("made {}; {name} is user {}", folder.join(FILE_NAME).display(), node.user()));
        say(&format!("next: peerloom -C {0} run, and in another terminal: peerloom -C {0} invite", folder.display()));
    }
    node.shutdown().await;
    Ok(())
}

/// Writes the file and makes the identity.
pub(crate) async fn init_folder(
    folder: &Path,
    overrides: &[Override],
    name: &str,
    network: &str,
    listen: &str,
) -> Result<Node> {
    let path = folder.join(FILE_NAME);
    let text = template(name, network, listen);
    // Before anything is written: the file is good. A problem names the override, not a line.
    let config = Config::parse(&text, &path.display().to_string(), folder, overrides, &crate::kinds())?;
    let text = if overrides.is_empty() { text } else { edit(&text, overrides)? };
    // Keys and messages will be in there: only for this user.
    private::make_folder(folder)?;
    private::create(&path, text.as_bytes()).map_err(|e| match e.kind() {
        ErrorKind::Exists => {
            let message = format!("{}: it is there already; edit it, or use another folder", path.display());
            Error::new(ErrorKind::Exists, "init", "write", message)
        }
        _ => e,
    })?;
    Node::open(&config, &crate::kinds()).await
}

/// A UDP port of this machine that is free now.
pub(crate) fn free_port(ip: &str) -> Result<u16> {
    let bound = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()).map(|a: SocketAddr| a.port());
    bound.map_err(|e| Error::new(ErrorKind::Invalid, "init", "find a port", "no UDP port can be bound").source(e))
}

/// The folder's name, for those who gave no other.
fn name_of(folder: &Path) -> String {
    let full = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let name = full.file_name().or(folder.file_name()).map(|n| n.to_string_lossy().into_owned());
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

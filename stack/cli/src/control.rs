//! The local control socket: a running node answers commands of the same user.
//!
//! One JSON object a line. A request has an `id` and an `op`; answers carry the same `id`. Requests of one
//! connection take effect in the order in which they come. The socket's file is 0600 in the node's folder.

mod answers;
mod client;
mod connection;
mod execute;
mod protocol;
mod server;

use std::os::unix::net::SocketAddr;
use std::path::Path;

use peerloom::{Error, ErrorKind, Result};

pub(crate) use client::Client;
pub(crate) use connection::Owner;
pub(crate) use execute::execute;
pub(crate) use peerloom::SOCKET;
pub(crate) use protocol::{EventView, Failure, MessageView, Request, event_view};
pub(crate) use server::Server;

/// Checks that the socket of a node in this folder can have an address, which is short: about 100 bytes.
pub(crate) fn check_path(folder: &Path) -> Result<()> {
    let path = folder.join(SOCKET);
    SocketAddr::from_pathname(&path).map(drop).map_err(|e| {
        let length = path.as_os_str().len();
        let advice = format!("the folder's path is too long for the node's socket, which would have {length} bytes; use a shorter one, or go there and use `-C .`");
        Error::new(ErrorKind::Invalid, "control", "check the folder", format!("{}: {advice}", folder.display())).with_source(e)
    })
}

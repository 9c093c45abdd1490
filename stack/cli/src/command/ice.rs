//! The STUN and TURN servers of a running node.

use std::sync::Arc;

use clap::{Args, Subcommand};
use peerloom::{Error, ErrorKind, IceServer, Result};

use crate::control::Request;
use crate::output::{say, say_json};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Ice {
    #[command(subcommand)]
    pub(crate) action: IceAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IceAction {
    /// Use these servers for new links, in place of the file's, until the node ends.
    #[command(after_help = "Example: peerloom -C alice ice set turn:user:password@turn.example:3478?transport=tcp")]
    Set {
        /// stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT; none at all takes away the file's.
        servers: Vec<String>,
    },
}

pub(super) async fn run(session: Arc<Session>, json: bool, ice: Ice) -> Result<()> {
    let IceAction::Set { servers } = ice.action;
    if session.is_alone() {
        let message = "no node runs on this folder; write the servers into its file, at transport.ice_servers";
        return Err(Error::new(ErrorKind::NotStarted, "ice", "set", message));
    }
    let none = servers.is_empty();
    let servers = servers.into_iter().map(|url| IceServer { urls: vec![url], username: None, credential: None });
    let answer = session.request(Request::SetIceServers { servers: servers.collect() }).await?;
    if json {
        say_json(&answer);
    } else {
        say(match none {
            true => "new links use no servers but those that a registry names; for the next time empty the file's, too",
            false => "new links use these servers; write them into the file, too, for the next time",
        });
    }
    Ok(())
}

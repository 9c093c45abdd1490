//! A node to work on: the one that runs on the folder, or one in this process.

use std::path::Path;

use peerloom::config::FILE_NAME;
use peerloom::core::private;
use peerloom::{Config, Error, ErrorKind, Node, Override, Result};
use serde_json::Value;

use crate::control::{self, Client, Request, Server, event_view};
use crate::output;

/// A way to a folder's node.
pub(crate) enum Session {
    /// It runs in another process.
    Remote(Client),
    /// It runs in this one; the control socket answers others meanwhile.
    Local { node: Node, _server: Server },
}

impl Session {
    /// Connects to the running node of a folder, or opens it here.
    pub(crate) async fn open(folder: &Path, overrides: &[Override]) -> Result<Self> {
        // Before anything is said to what listens there.
        private::check_folder(folder)?;
        if let Some(client) = Client::connect(folder).await {
            if !overrides.is_empty() {
                output::note("note: a node runs on this folder already; neither --set nor PEERLOOM__… changes it");
            }
            return Ok(Self::Remote(client));
        }
        let kinds = crate::kinds();
        let config = Config::load(&folder.join(FILE_NAME), overrides, &kinds)?;
        let node = match Node::open(&config, &kinds).await {
            // Between the two steps another command may have opened it.
            Err(error) if error.kind() == ErrorKind::InUse => match Client::connect(folder).await {
                Some(client) => return Ok(Self::Remote(client)),
                None => return Err(error),
            },
            opened => opened?,
        };
        let server = Server::start(folder, node.clone())?;
        Ok(Self::Local { node, _server: server })
    }

    /// Makes sure that the node is on the network.
    pub(crate) async fn start(&self) -> Result<()> {
        match self {
            Self::Remote(_) => Ok(()),
            Self::Local { node, .. } => node.start().await,
        }
    }

    /// Does something and gives the answer.
    pub(crate) async fn request(&self, request: Request) -> Result<Value> {
        match self {
            Self::Remote(client) => client.request(request).await,
            Self::Local { node, .. } => control::execute(node, request).await,
        }
    }

    /// Calls `each` for every event until it says stop, or the node ends.
    pub(crate) async fn follow(&self, after: Option<String>, mut each: impl FnMut(Value)) -> Result<()> {
        match self {
            Self::Remote(client) => {
                let mut events = client.follow(after).await?;
                while let Some(event) = events.next().await {
                    each(event);
                }
                Err(Error::new(ErrorKind::Closed, "control", "follow", "the node that ran on this folder has ended"))
            }
            Self::Local { node, .. } => {
                let mut events = match after {
                    Some(after) => node.events_after(after.parse()?),
                    None => node.events().await?,
                };
                while let Some(event) = events.next().await {
                    let view = event_view(node, &event).and_then(|view| serde_json::to_value(view).ok());
                    view.into_iter().for_each(&mut each);
                }
                Ok(())
            }
        }
    }

    /// Ends a node in this process.
    pub(crate) async fn close(self) {
        if let Self::Local { node, .. } = &self {
            node.shutdown().await;
        }
    }
}

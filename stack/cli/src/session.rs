//! A node to work on: the one that runs on the folder, or one in this process.

use std::path::Path;
use std::time::{Duration, Instant};

use peerloom::config::FILE_NAME;
use peerloom::core::private;
use peerloom::{Config, Error, ErrorKind, Node, Override, Result, Retry};
use serde_json::Value;

use crate::control::{self, Client, Owner, Request, SOCKET, Server, event_view};
use crate::output;

/// How long a folder that another command has open is waited for, and the pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// After how long a person hears what is waited for.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// Makes sure that no node runs on a folder. Another command that has it open for a moment is waited for.
pub(crate) async fn alone(folder: &Path) -> Result<()> {
    let begin = Instant::now();
    while let Some(client) = Client::connect(folder).await? {
        let message = "a node runs on this folder and has its store open; end it first";
        let error = Error::new(ErrorKind::InUse, "db", "open", message);
        match (client.passing, begin.elapsed() > PATIENCE) {
            (false, _) => return Err(error),
            (true, true) => return Err(error.with_retry(Retry::Later)),
            (true, false) => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}

/// Opens something that another command may be about to let go of. It may sleep: not for async code.
pub(crate) fn patiently<T>(open: impl Fn() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match open() {
            Err(error) if error.kind() == ErrorKind::InUse && begin.elapsed() <= PATIENCE => std::thread::sleep(PAUSE),
            Err(error) if error.kind() == ErrorKind::InUse => return Err(error.with_retry(Retry::Later)),
            opened => return opened,
        }
    }
}

/// A way to a folder's node.
pub(crate) enum Session {
    /// It runs in another process.
    Remote(Client),
    /// It runs in this one; the control socket answers others meanwhile.
    Local { node: Node, server: Server },
}

impl Session {
    /// Connects to the running node of a folder, or opens it here until this command is done.
    pub(crate) async fn open(folder: &Path, overrides: &[Override]) -> Result<Self> {
        Self::open_as(folder, overrides, Owner::Command).await
    }

    /// Opens it here, to run until the user ends it. Another command that has it open for a moment is waited
    /// for.
    pub(crate) async fn own(folder: &Path, overrides: &[Override]) -> Result<Self> {
        Self::open_as(folder, overrides, Owner::Run).await
    }

    async fn open_as(folder: &Path, overrides: &[Override], owner: Owner) -> Result<Self> {
        // Before anything is sent to what listens there.
        private::check_folder(folder)?;
        control::check_path(folder)?;
        let kinds = crate::kinds()?;
        let (begin, mut said) = (Instant::now(), false);
        loop {
            let running = Client::connect(folder).await?;
            let busy = match running {
                Some(client) if owner == Owner::Command => {
                    if !overrides.is_empty() {
                        output::note(
                            "note: a node runs on this folder already; neither --set nor PEERLOOM__… changes it",
                        );
                    }
                    return Ok(Self::Remote(client));
                }
                Some(client) if !client.passing => {
                    let message = format!("a node runs on this folder already (its socket is {SOCKET}); end it first");
                    return Err(Error::new(ErrorKind::InUse, "run", "start", message));
                }
                Some(_) => {
                    let message = "another command has this folder open; end it, or try again when it is done";
                    Error::new(ErrorKind::InUse, "run", "start", message)
                }
                None => {
                    let config = Config::load(&folder.join(FILE_NAME), overrides, &kinds)?;
                    match Node::open(&config).await {
                        // Another command opens it, or is about to let go of it.
                        Err(error) if error.kind() == ErrorKind::InUse => error,
                        opened => {
                            let node = opened?;
                            let server = Server::start(folder, node.clone(), owner)?;
                            return Ok(Self::Local { node, server });
                        }
                    }
                }
            };
            if begin.elapsed() > PATIENCE {
                return Err(busy.with_retry(Retry::Later));
            }
            if begin.elapsed() > SAID_AFTER && !std::mem::replace(&mut said, true) {
                output::note("note: another command has this folder open; waiting for its end");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether no node runs on the folder but this command's own, or another command's.
    pub(crate) fn is_alone(&self) -> bool {
        match self {
            Self::Local { .. } => true,
            Self::Remote(client) => client.passing,
        }
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
                node.failure().map_or(Ok(()), Err)
            }
        }
    }

    /// Ends a node in this process, once other commands have the answers to what they asked it.
    pub(crate) async fn close(self) {
        self.end().await;
    }

    /// The same, for a session that others hold, too.
    pub(crate) async fn end(&self) {
        if let Self::Local { node, server } = self {
            server.close().await;
            node.shutdown().await;
        }
    }
}

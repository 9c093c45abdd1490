//! The listening socket of a node.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peerloom::core::accept::{self, Accepting};
use peerloom::core::private::{self, Identity};
use peerloom::{Error, ErrorKind, Node, Result};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::SOCKET;
use super::connection::{self, Owner};

/// Commands that may be connected at once, and one in how many of the process's files is for one.
const CONNECTIONS: usize = 128;
const FILES_SHARE: usize = 4;
/// How long a server that ends waits for what it was asked already.
const GRACE: Duration = Duration::from_secs(5);

/// The listening socket; removed from the folder when dropped, unless another node's has taken its place.
pub(crate) struct Server {
    path: PathBuf,
    /// Until it is removed.
    socket: Mutex<Option<Identity>>,
    task: tokio::task::JoinHandle<()>,
    closing: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Listens in the node's folder. The node holds the store's lock, so a socket that is there
    /// already was left by a crash.
    pub(crate) fn start(folder: &Path, node: Node, owner: Owner) -> Result<Self> {
        let path = folder.join(SOCKET);
        let failed =
            |e| Error::new(ErrorKind::Invalid, "control", "listen", "the control socket can't be used").with_source(e);
        let listener = private::bind(&path)?;
        let socket = Identity::of(&path);
        let listener =
            listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener)).map_err(failed)?;
        let (closing, connections) = (CancellationToken::new(), TaskTracker::new());
        let task = tokio::spawn(accept(listener, node, owner, closing.clone(), connections.clone()));
        Ok(Self { path, socket: Mutex::new(socket), task, closing, connections })
    }

    /// Removes the socket's file. While the listener lives, no other socket can have its identity.
    fn remove(&self) {
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
            socket.remove(&self.path);
        }
    }

    /// Accepts nothing more, and waits some seconds for the answers to what was asked already.
    pub(crate) async fn close(&self) {
        self.remove();
        self.task.abort();
        self.closing.cancel();
        self.connections.close();
        // Clients that still wait see the end of the connection.
        let _ = tokio::time::timeout(GRACE, self.connections.wait()).await;
    }
}

async fn accept(
    listener: UnixListener,
    node: Node,
    owner: Owner,
    closing: CancellationToken,
    connections: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(accept::connections(CONNECTIONS, FILES_SHARE)));
    let long_lines = Arc::new(Semaphore::new(connection::LONG_LINES));
    let mut accepting = Accepting::new("control socket");
    loop {
        let (stream, _) = accepting.next(|| listener.accept()).await;
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let serving = connection::serve(stream, node.clone(), owner, long_lines.clone(), closing.clone());
                connections.spawn(async move {
                    let _place = place;
                    serving.await;
                });
            }
            Err(_) => connection::refuse(stream),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.remove();
        self.task.abort();
    }
}

//! Asking a running node.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use peerloom::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::SOCKET;
use super::protocol::{Answer, Numbered, Outcome, Request};
use crate::output::note;

/// Answers to one request that wait to be taken; then the node waits.
const ANSWERS: usize = 256;
/// How long a node may be silent before a person hears of it, and how often it is pinged.
const SILENT: Duration = Duration::from_secs(3);
/// The pause before a full socket is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Who waits for an answer. Once it is over, nobody may begin to wait: there is nothing that would wake them.
#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, mpsc::Sender<Outcome>>,
    over: Option<Error>,
}

struct Inner {
    requests: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    /// An answer waits for its taker, so that others behind it are not read.
    held_up: Arc<AtomicBool>,
}

/// A connection to a running node. Requests may run concurrently; they take effect in their order.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Arc<Inner>,
    /// The node runs only until another command is done.
    pub(crate) passing: bool,
}

impl Client {
    /// Connects to the node that runs on a folder; `None` when none does. A node that doesn't answer is waited
    /// for, and a person hears of it.
    pub(crate) async fn connect(folder: &Path) -> Result<Option<Self>> {
        let Some(stream) = connect(folder).await else { return Ok(None) };
        let (reader, mut writer) = stream.into_split();
        let (requests, mut queue) = mpsc::channel::<Vec<u8>>(256);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let held_up = Arc::<AtomicBool>::default();
        tokio::spawn(async move {
            while let Some(mut request) = queue.recv().await {
                while let Ok(more) = queue.try_recv() {
                    request.extend(more);
                }
                if writer.write_all(&request).await.is_err() {
                    return;
                }
            }
        });
        let (answers, holding) = (waiting.clone(), held_up.clone());
        tokio::spawn(async move {
            let over = read(reader, &answers, &holding).await;
            let mut waiting = lock(&answers);
            // In one step: everybody who waits hears of it, and nobody waits from now on.
            waiting.over = Some(over);
            waiting.answers.clear();
        });
        let mut client =
            Self { inner: Arc::new(Inner { requests, waiting, next: AtomicU64::new(0), held_up }), passing: false };
        match client.ping().await {
            Ok(answer) => client.passing = answer["passing"] == true,
            // It ended before it took anything in.
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(None),
            Err(error) => return Err(error),
        }
        tokio::spawn(watch(Arc::downgrade(&client.inner)));
        Ok(Some(client))
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn request(&self, request: Request) -> Result<Value> {
        let (id, mut answers) = self.send(request).await?;
        let answer = answers.recv().await;
        let mut waiting = lock(&self.inner.waiting);
        waiting.answers.remove(&id);
        match answer {
            Some(Outcome::Ok(value)) => Ok(value),
            Some(Outcome::Error(failure)) => Err(failure.into()),
            Some(Outcome::Event(_)) | None => Err(waiting.over.clone().unwrap_or_else(gone)),
        }
    }

    /// Asks for events; they come until the node ends.
    pub(crate) async fn follow(&self, after: Option<String>) -> Result<Events> {
        let (_, mut answers) = self.send(Request::Follow { after }).await?;
        match answers.recv().await {
            Some(Outcome::Error(failure)) => Err(failure.into()),
            Some(_) => Ok(Events { answers, _client: self.clone() }),
            None => Err(lock(&self.inner.waiting).over.clone().unwrap_or_else(gone)),
        }
    }

    async fn send(&self, request: Request) -> Result<(u64, mpsc::Receiver<Outcome>)> {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let mut line = serde_json::to_vec(&Numbered { id, request }).map_err(|e| {
            Error::new(ErrorKind::Internal, "control", "ask", "the request can't be written").with_source(e)
        })?;
        line.push(b'\n');
        let (sender, answers) = mpsc::channel(ANSWERS);
        {
            let mut waiting = lock(&self.inner.waiting);
            if let Some(over) = &waiting.over {
                return Err(over.clone());
            }
            waiting.answers.insert(id, sender);
        }
        // Where nothing can be written, the reader sees the end and says why.
        let _ = self.inner.requests.send(line).await;
        Ok((id, answers))
    }

    /// Waits until the node shows that it is there; says once if that takes long.
    async fn ping(&self) -> Result<Value> {
        let mut answer = std::pin::pin!(self.request(Request::Ping));
        loop {
            match tokio::time::timeout(SILENT, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) if self.inner.held_up.load(Ordering::Relaxed) => {}
                Err(_) => {
                    tell_silence();
                    return answer.await;
                }
            }
        }
    }
}

/// Pings the node now and then, for as long as there is a client.
async fn watch(client: Weak<Inner>) {
    loop {
        tokio::time::sleep(SILENT).await;
        let Some(inner) = client.upgrade() else { return };
        if (Client { inner, passing: false }).ping().await.is_err() {
            return;
        }
    }
}

fn tell_silence() {
    note(
        "note: the node that runs on this folder doesn't answer; it is stopped, or busy. Waiting; Ctrl-C ends this command",
    );
}

/// A connection to the socket; `None` where nobody listens.
async fn connect(folder: &Path) -> Option<UnixStream> {
    let (begin, mut told) = (Instant::now(), false);
    loop {
        match UnixStream::connect(folder.join(SOCKET)).await {
            // More commands wait already than fit: the node is there.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if !told && begin.elapsed() >= SILENT {
                    told = true;
                    tell_silence();
                }
                tokio::time::sleep(PAUSE).await;
            }
            connected => return connected.ok(),
        }
    }
}

/// Hands answers to those who wait; gives the reason of the end.
async fn read(reader: tokio::net::unix::OwnedReadHalf, waiting: &Mutex<Waiting>, held_up: &AtomicBool) -> Error {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (id, outcome) = match serde_json::from_str(&line) {
            Ok(Answer { id: Some(id), outcome }) => (id, outcome),
            Ok(Answer { id: None, outcome: Outcome::Error(failure) }) => return failure.into(),
            _ => break,
        };
        let waiter = lock(waiting).answers.get(&id).cloned();
        let Some(waiter) = waiter else { continue };
        held_up.store(true, Ordering::Relaxed);
        // Fails when the caller has given up.
        if waiter.send(outcome).await.is_err() {
            lock(waiting).answers.remove(&id);
        }
        held_up.store(false, Ordering::Relaxed);
    }
    gone()
}

/// Events of a running node.
pub(crate) struct Events {
    answers: mpsc::Receiver<Outcome>,
    /// Keeps the connection.
    _client: Client,
}

impl Events {
    /// The next event; `None` when the node has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match self.answers.recv().await? {
                Outcome::Event(event) => return Some(event),
                Outcome::Ok(_) | Outcome::Error(_) => {}
            }
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "control", "ask", "the running node ended before it answered; run the command again")
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    use super::*;

    /// A node that answers the first ping and then goes, at once or after `more` bytes.
    async fn node_that_goes(folder: &Path) -> tokio::task::JoinHandle<()> {
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("a socket");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a command");
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"{\"id\":0,\"ok\":{\"passing\":false}}\n").await.expect("an answer");
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_ends_however_the_node_does() {
        for round in 0..300 {
            let folder = tempfile::tempdir().expect("a folder");
            let node = node_that_goes(folder.path()).await;
            let client = Client::connect(folder.path()).await.expect("no refusal").expect("a node");
            if round % 2 == 0 {
                // The reader has seen the end by now, or sees it meanwhile.
                node.await.expect("an end");
            }
            let asked = tokio::time::timeout(Duration::from_secs(20), client.request(Request::Status)).await;
            let error = asked.expect("the request hangs").expect_err("nobody answers");
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
    }
}

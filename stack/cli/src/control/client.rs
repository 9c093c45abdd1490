//! Asking a running node.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use peerloom::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::SOCKET;
use super::protocol::{Answer, Numbered, Outcome, Request};

/// Answers to one request that wait to be taken; then the node waits.
const ANSWERS: usize = 256;

type Waiting = Arc<Mutex<HashMap<u64, mpsc::Sender<Outcome>>>>;

/// A connection to a running node. Requests may run concurrently.
#[derive(Clone)]
pub(crate) struct Client {
    requests: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

impl Client {
    /// Connects to the node that runs on a folder; `None` when none does.
    pub(crate) async fn connect(folder: &Path) -> Option<Self> {
        let stream = UnixStream::connect(folder.join(SOCKET)).await.ok()?;
        let (reader, mut writer) = stream.into_split();
        let (requests, mut queue) = mpsc::channel::<Vec<u8>>(256);
        let waiting: Waiting = Waiting::default();
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
        let answers = waiting.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(Answer { id, outcome }) = serde_json::from_str(&line) else {
                    break;
                };
                let waiter = answers.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
                let Some(waiter) = waiter else { continue };
                // Fails when whoever asked has given up.
                if waiter.send(outcome).await.is_err() {
                    answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                }
            }
            // Whoever still waits hears that the node is gone.
            answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Some(Self { requests, waiting, next: Arc::default() })
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn request(&self, request: Request) -> Result<Value> {
        let (id, mut answers) = self.send(request).await?;
        let answer = answers.recv().await;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match answer {
            Some(Outcome::Ok(value)) => Ok(value),
            Some(Outcome::Error(failure)) => Err(failure.into()),
            Some(Outcome::Event(_)) | None => Err(gone()),
        }
    }

    /// Asks for events; they come until the node ends.
    pub(crate) async fn follow(&self, after: Option<String>) -> Result<Events> {
        let (_, mut answers) = self.send(Request::Follow { after }).await?;
        match answers.recv().await {
            Some(Outcome::Error(failure)) => Err(failure.into()),
            Some(_) => Ok(Events(answers)),
            None => Err(gone()),
        }
    }

    async fn send(&self, request: Request) -> Result<(u64, mpsc::Receiver<Outcome>)> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = mpsc::channel(ANSWERS);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let mut line = serde_json::to_vec(&Numbered { id, request })
            .map_err(|e| Error::new(ErrorKind::Bug, "control", "ask", "the request can't be written").source(e))?;
        line.push(b'\n');
        self.requests.send(line).await.map_err(|_| gone())?;
        Ok((id, answers))
    }
}

/// Events of a running node.
pub(crate) struct Events(mpsc::Receiver<Outcome>);

impl Events {
    /// The next event; `None` when the node has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match self.0.recv().await? {
                Outcome::Event(event) => return Some(event),
                Outcome::Ok(_) | Outcome::Error(_) => {}
            }
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "control", "ask", "the running node ended before it answered; run the command again")
}

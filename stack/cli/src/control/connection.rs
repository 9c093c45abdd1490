//! One command's connection: its requests in order, and their answers.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use peerloom::{Error, ErrorKind, Node, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::answers::{self, Answers};
use super::execute::{accept_message, execute};
use super::protocol::{Answer, Numbered, Outcome, Request, cursor, event_view};

/// Longest request line: a message of 1 MiB whose every byte is escaped.
const MAX_LINE: u64 = 8 * 1024 * 1024;
/// A line's buffer that is kept for the next one.
const KEPT_LINE: usize = 64 * 1024;
/// Requests of one connection that run at once; one of more than 8 KiB counts for as many as it fills.
const RUNNING: usize = 2048;
const RUNNING_BYTES: usize = 8 * 1024;
/// Requests for events of one connection that go on at once.
const FOLLOWS: usize = 8;
/// Lines beyond [`KEPT_LINE`] that are read at once, of all connections: what they may take of memory.
pub(super) const LONG_LINES: usize = 8;
/// How long such a line may take.
const LONG_LINE: Duration = Duration::from_secs(2);
/// How long a connection may ask nothing, while nothing of it runs. Clients ping every few seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a server that ends waits for a further request.
const QUIET: Duration = Duration::from_millis(300);

/// How long the node of a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// `run`: until the user ends it.
    Run,
    /// Another command: until that command is done.
    Command,
}

/// Serves a connection until it ends, and all that was asked is answered.
pub(super) async fn serve(
    stream: UnixStream,
    node: Node,
    owner: Owner,
    long_lines: Arc<Semaphore>,
    closing: CancellationToken,
) {
    let (reader, mut writer) = stream.into_split();
    let (answers, outgoing) = answers::channel();
    let over = closing.child_token();
    let running = Arc::new(Semaphore::new(RUNNING));
    let follows = TaskTracker::new();
    let connection = Connection { node, owner, answers, running, long_lines, follows, over };
    let mut write = pin!(outgoing.write_to(&mut writer));
    tokio::select! {
        // The client is gone.
        _ = &mut write => return,
        () = connection.read(reader, closing) => {}
    }
    // It asks no more; what it asked is still answered.
    let _ = write.await;
}

/// Tells a client that too many are connected.
pub(super) fn refuse(stream: UnixStream) {
    let message = "too many commands are connected to the running node; end some, then try again";
    let error = Error::new(ErrorKind::Overloaded, "control", "connect", message);
    let Ok(mut text) = serde_json::to_vec(&Answer { id: None, outcome: Outcome::Error((&error).into()) }) else {
        return;
    };
    text.push(b'\n');
    // It fits into the socket's buffer; a client that has gone misses nothing.
    let _ = stream.into_std().and_then(|mut stream| stream.write_all(&text));
}

struct Connection {
    node: Node,
    owner: Owner,
    answers: Answers,
    running: Arc<Semaphore>,
    long_lines: Arc<Semaphore>,
    /// Requests for events.
    follows: TaskTracker,
    /// Cancelled when the client asks no more, or the server ends: ends `follows`.
    over: CancellationToken,
}

impl Connection {
    async fn read(self, reader: OwnedReadHalf, closing: CancellationToken) {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            line.shrink_to(KEPT_LINE);
            let read = tokio::select! {
                biased;
                read = self.next_line(&mut reader, &mut line) => read,
                () = async { closing.cancelled().await; tokio::time::sleep(QUIET).await } => None,
            };
            let Some(_long) = read else { break };
            let Numbered { id, request } = match serde_json::from_slice(&line) {
                Ok(request) => request,
                Err(error) => {
                    debug!(%error, "a request is not understood");
                    self.answers.send(&not_understood(&error)).await;
                    break;
                }
            };
            let cost = u32::try_from((1 + line.len() / RUNNING_BYTES).min(RUNNING)).unwrap_or(1);
            let Ok(permit) = self.running.clone().acquire_many_owned(cost).await else {
                break;
            };
            self.begin(id, request, permit).await;
        }
        self.over.cancel();
        if closing.is_cancelled() && self.running.acquire_many(RUNNING as u32).await.is_ok() {
            // After all other answers: what has none was not begun.
            let message = "the node that ran on this folder is ending and did nothing; run the command again";
            let error = Error::new(ErrorKind::Closed, "control", "ask", message);
            self.answers.send(&Answer { id: None, outcome: Outcome::Error((&error).into()) }).await;
        }
    }

    /// Reads a line; `None` at the end, and when the client has been silent for too long. A long line holds one of the
    /// places for such.
    async fn next_line(
        &self,
        reader: &mut BufReader<OwnedReadHalf>,
        line: &mut Vec<u8>,
    ) -> Option<Option<OwnedSemaphorePermit>> {
        {
            let mut limited = (&mut *reader).take(KEPT_LINE as u64);
            let mut read = pin!(limited.read_until(b'\n', line));
            loop {
                match tokio::time::timeout(SILENCE, &mut read).await {
                    Ok(Ok(1..)) => break,
                    Ok(_) => return None,
                    Err(_) if self.running.available_permits() == RUNNING && self.follows.is_empty() => return None,
                    Err(_) => {}
                }
            }
        }
        if line.len() < KEPT_LINE || line.ends_with(b"\n") {
            return Some(None);
        }
        let place = self.long_lines.clone().acquire_owned().await.ok()?;
        let mut limited = reader.take(MAX_LINE - KEPT_LINE as u64);
        let rest = tokio::time::timeout(LONG_LINE, limited.read_until(b'\n', line)).await;
        rest.is_ok_and(|rest| rest.is_ok()).then_some(Some(place))
    }

    /// Begins a request before the next one is read, so that requests take effect in their order. What takes
    /// long, or has no effect on others, is finished beside the next ones.
    async fn begin(&self, id: u64, request: Request, permit: OwnedSemaphorePermit) {
        match request {
            Request::Ping => {
                let passing = self.owner == Owner::Command;
                self.answer(id, Ok(json!({ "passing": passing }))).await;
            }
            Request::Follow { .. } if self.follows.len() >= FOLLOWS => {
                let message = "this connection follows events as often as it may; one is enough for all";
                self.answer(id, Err(Error::new(ErrorKind::Overloaded, "control", "follow", message))).await;
            }
            Request::Follow { after } => {
                let (node, answers, over) = (self.node.clone(), self.answers.clone(), self.over.clone());
                drop(self.follows.spawn(async move {
                    // A follow that panics ends; its client hears of no more events.
                    let following = follow(id, &node, after, &answers, &over);
                    if AssertUnwindSafe(following).catch_unwind().await.is_err() {
                        answers.send(&answer(id, Err(panicked()))).await;
                    }
                }));
            }
            Request::Send { contact, text, ttl_ms } => {
                match guarded(accept_message(&self.node, &contact, text, ttl_ms)).await {
                    Ok((contact, sending)) => {
                        let answers = self.answers.clone();
                        drop(tokio::spawn(async move {
                            let sent = sending.await;
                            let result = sent.map(|id| json!({ "id": id.to_string(), "contact": contact }));
                            answers.send(&answer(id, result)).await;
                            drop(permit);
                        }));
                    }
                    Err(error) => self.answer(id, Err(error)).await,
                }
            }
            request if request.waits_for_the_network() => {
                let (node, answers) = (self.node.clone(), self.answers.clone());
                drop(tokio::spawn(async move {
                    let result = guarded(execute(&node, request)).await;
                    answers.send(&answer(id, result)).await;
                    drop(permit);
                }));
            }
            request => self.answer(id, guarded(execute(&self.node, request)).await).await,
        }
    }

    async fn answer(&self, id: u64, result: Result<Value>) {
        // The client may be gone.
        self.answers.send(&answer(id, result)).await;
    }
}

/// What is said of a line that is no request: its number isn't known.
fn not_understood(error: &serde_json::Error) -> Answer {
    let message = format!(
        "the line is no request of this version ({error}); see docs/formats.md, and run the same version on both sides"
    );
    let error = Error::new(ErrorKind::Malformed, "control", "read", message);
    Answer { id: None, outcome: Outcome::Error((&error).into()) }
}

fn answer(id: u64, result: Result<Value>) -> Answer {
    let outcome = match result {
        Ok(value) => Outcome::Ok(value),
        Err(error) => Outcome::Error((&error).into()),
    };
    Answer { id: Some(id), outcome }
}

/// A request's result; a panic is an error, since the client waits for the answer.
async fn guarded<T>(request: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(request).catch_unwind().await.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Error {
    let message = "the request met a bug and was given up; the node's log says where, please report it";
    Error::new(ErrorKind::Internal, "control", "answer", message)
}

async fn follow(id: u64, node: &Node, after: Option<String>, answers: &Answers, over: &CancellationToken) {
    let stream = match after {
        Some(after) => cursor(Some(&after)).map(|after| node.events_after(after)),
        None => node.events().await,
    };
    let mut events = match stream {
        Ok(events) => events,
        Err(error) => {
            answers.send(&answer(id, Err(error))).await;
            return;
        }
    };
    if !answers.send(&answer(id, Ok(Value::Null))).await {
        return;
    }
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = answers.closed() => None,
            () = over.cancelled() => None,
        };
        let Some(event) = event else { return };
        let view = event_view(node, &event).and_then(|view| serde_json::to_value(view).ok());
        if let Some(value) = view
            && !answers.send(&Answer { id: Some(id), outcome: Outcome::Event(value) }).await
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_is_answered() {
        let request = async {
            tokio::task::yield_now().await;
            panic!("as a bug would")
        };
        assert_eq!(guarded::<Value>(request).await.unwrap_err().kind(), ErrorKind::Internal);
    }
}

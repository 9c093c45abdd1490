//! Answers on their way to a client, within a bound of bytes.

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::protocol::Answer;

/// Bytes of answers that wait for a client that doesn't read. A longer answer waits alone.
const ROOM: usize = 1024 * 1024;
/// Answers that wait.
const WAITING: usize = 256;
/// Bytes that one write joins.
const JOINED: usize = 64 * 1024;

struct Line {
    text: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// The way to the client of one connection.
#[derive(Clone)]
pub(super) struct Answers {
    lines: mpsc::Sender<Line>,
    room: Arc<Semaphore>,
}

/// The other end of [`Answers`].
pub(super) struct Outgoing(mpsc::Receiver<Line>);

pub(super) fn channel() -> (Answers, Outgoing) {
    let (lines, queue) = mpsc::channel(WAITING);
    (Answers { lines, room: Arc::new(Semaphore::new(ROOM)) }, Outgoing(queue))
}

impl Answers {
    /// Waits for room, and hands over an answer; false once the client is gone.
    pub(super) async fn send(&self, answer: &Answer) -> bool {
        let Ok(mut text) = serde_json::to_vec(answer) else {
            // Into memory, so only a bug fails; the connection's end is the answer then.
            return false;
        };
        text.push(b'\n');
        let size = u32::try_from(text.len().min(ROOM)).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().acquire_many_owned(size).await else {
            return false;
        };
        self.lines.send(Line { text, _room: room }).await.is_ok()
    }

    /// Completes once the client is gone.
    pub(super) async fn closed(&self) {
        self.lines.closed().await;
    }
}

impl Outgoing {
    /// Writes answers until no one has any more, or the client is gone.
    pub(super) async fn write_to(mut self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        while let Some(mut line) = self.0.recv().await {
            let mut rooms = Vec::new();
            while line.text.len() < JOINED
                && let Ok(more) = self.0.try_recv()
            {
                line.text.extend(more.text);
                rooms.push(more._room);
            }
            writer.write_all(&line.text).await?;
        }
        Ok(())
    }
}

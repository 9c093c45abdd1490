//! Byte streams inside one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use peerloom_wire::Address;
use tokio::io::DuplexStream;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::{ByteStream, Error, ErrorKind, Result, StreamListener, StreamTransport};

/// What a stream holds until the other side reads, in bytes.
const BUFFER: usize = 64 * 1024;
/// Streams that may wait to be accepted.
const WAITING: usize = 16;

/// A stream transport whose addresses are `memory-stream://name`; clones reach each other.
#[derive(Clone, Default)]
pub struct MemoryStreams(Arc<Mutex<Listening>>);

#[derive(Default)]
struct Listening {
    /// By number.
    listeners: HashMap<usize, mpsc::Sender<DuplexStream>>,
    /// How often all have moved.
    moves: usize,
}

impl Listening {
    fn name(&self, number: usize) -> String {
        format!("{number}.{}", self.moves)
    }
}

impl MemoryStreams {
    /// Moves everything that listens to other names, as a machine whose addresses change.
    pub fn move_on(&self) {
        self.listening().moves += 1;
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StreamTransport for MemoryStreams {
    fn scheme(&self) -> &'static str {
        "memory-stream"
    }

    async fn listen(&self) -> Result<Box<dyn StreamListener>> {
        let (sender, streams) = mpsc::channel(WAITING);
        let mut listening = self.listening();
        let number = listening.listeners.len();
        listening.listeners.insert(number, sender);
        Ok(Box::new(MemoryListener { all: self.clone(), number, streams: AsyncMutex::new(streams) }))
    }

    async fn dial(&self, address: &Address) -> Result<Box<dyn ByteStream>> {
        let nobody = || Error::new(ErrorKind::Unreachable, "memory", "dial", format!("nobody listens at {address}"));
        let found = {
            let listening = self.listening();
            let mut listeners = listening.listeners.iter();
            listeners
                .find(|(number, _)| listening.name(**number) == address.rest())
                .map(|(_, listener)| listener.clone())
        };
        let listener = found.ok_or_else(nobody)?;
        let (near, far) = tokio::io::duplex(BUFFER);
        listener.send(far).await.map_err(|_| nobody())?;
        Ok(Box::new(near))
    }
}

struct MemoryListener {
    all: MemoryStreams,
    number: usize,
    streams: AsyncMutex<mpsc::Receiver<DuplexStream>>,
}

#[async_trait]
impl StreamListener for MemoryListener {
    fn addresses(&self) -> Vec<Address> {
        format!("memory-stream://{}", self.all.listening().name(self.number)).parse().into_iter().collect()
    }

    async fn accept(&self) -> Option<(Box<dyn ByteStream>, String)> {
        let stream = self.streams.lock().await.recv().await?;
        Some((Box::new(stream), "this process".into()))
    }
}

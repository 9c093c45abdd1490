//! Byte streams inside one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use peerloom_wire::Address;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::{ByteStream, Error, ErrorKind, Result, StreamListener, StreamTransport};

/// What a stream holds until the other side reads, in bytes.
const BUFFER: usize = 64 * 1024;
/// Streams that may wait to be accepted.
const WAITING: usize = 16;

type Listening = HashMap<String, mpsc::Sender<DuplexStream>>;

/// A stream transport whose addresses are `memory-stream://name`; clones reach each other.
#[derive(Clone, Default)]
pub struct MemoryStreams(Arc<Mutex<Listening>>);

impl MemoryStreams {
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
        let name = listening.len().to_string();
        listening.insert(name.clone(), sender);
        Ok(Box::new(MemoryListener { name, streams }))
    }

    async fn dial(&self, address: &Address) -> Result<Box<dyn ByteStream>> {
        let nobody = || Error::new(ErrorKind::Unreachable, "memory", "dial", format!("nobody listens at {address}"));
        let listener = self.listening().get(address.rest()).cloned().ok_or_else(nobody)?;
        let (near, far) = tokio::io::duplex(BUFFER);
        listener.send(far).await.map_err(|_| nobody())?;
        Ok(Box::new(near))
    }
}

struct MemoryListener {
    name: String,
    streams: mpsc::Receiver<DuplexStream>,
}

#[async_trait]
impl StreamListener for MemoryListener {
    fn addresses(&self) -> Vec<Address> {
        format!("memory-stream://{}", self.name).parse().into_iter().collect()
    }

    async fn accept(&mut self) -> Option<(Box<dyn ByteStream>, String)> {
        let stream = self.streams.recv().await?;
        Some((Box::new(stream), "this process".into()))
    }
}

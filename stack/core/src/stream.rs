//! The contract for transports that have nothing but byte streams: TCP, serial lines, Unix sockets.
//!
//! The stack makes such streams into links: it encrypts and authenticates them (Noise XX) and lays
//! channels over them (yamux). So an author here proves nothing about identity and frames nothing.

use async_trait::async_trait;
use peerloom_wire::Address;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Result;

/// Carries bytes to other devices, reliably and in order, without protecting them.
///
/// **The author's duties.** Dropping a call's future abandons the attempt and frees what it held.
/// A write waits while the other side doesn't read: back-pressure. What wasn't written is never
/// buffered without a bound.
///
/// **The caller's duties.** [`listen`](StreamTransport::listen) is called at most once, inside a
/// Tokio runtime.
///
/// ```
/// # use peerloom_core::memory::MemoryStreams;
/// # use peerloom_core::{Result, StreamTransport};
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let streams = MemoryStreams::default();
/// let listener = streams.listen().await?;
/// let address = listener.addresses().remove(0);
/// let mut near = streams.dial(&address).await?;
/// let (mut far, _from) = listener.accept().await.expect("the other end");
/// near.write_all(b"hello").await.expect("room");
/// let mut text = [0; 5];
/// far.read_exact(&mut text).await.expect("what was written");
/// assert_eq!(&text, b"hello");
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait StreamTransport: Send + Sync {
    /// The scheme of its addresses.
    fn scheme(&self) -> &str;

    /// Binds, and begins to accept streams. Not cancel safe: it is called once, and a call that is dropped may have
    /// bound already.
    async fn listen(&self) -> Result<Box<dyn StreamListener>>;

    /// Makes a stream to the device at an address. The caller gives up after 10 s. Cancel safe: dropping the call gives
    /// the attempt up.
    async fn dial(&self, address: &Address) -> Result<Box<dyn ByteStream>>;
}

/// The accepting side. Dropping it stops listening; streams live on.
#[async_trait]
pub trait StreamListener: Send + Sync {
    /// Where others can dial this device now, best first; empty where none can. It is asked again when the machine's
    /// addresses change, also while [`accept`](StreamListener::accept) waits. For a socket,
    /// [`reachable_at`](crate::interfaces::reachable_at) has the answer.
    fn addresses(&self) -> Vec<Address>;

    /// The next stream, and where it comes from: for people, and to share places fairly among machines,
    /// for which it begins with an IP address where there is one. `None` once nothing can come any more.
    /// What goes wrong with one stream concerns that one only: log it, and wait for the next.
    /// Accept from a socket through [`Accepting`](crate::accept::Accepting), which pauses where no file is left.
    /// One call waits at a time. Cancel safe: no stream is lost when the call is dropped.
    async fn accept(&self) -> Option<(Box<dyn ByteStream>, String)>;
}

/// Bytes in both directions. Reading gives zero bytes at the end; dropping it closes it.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

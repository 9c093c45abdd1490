//! Counts a stream's bytes, and holds up strangers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use peerloom_core::ByteStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a stream may bring before the link is admitted, in bytes: Peerloom's handshake fits.
/// Streams inside it buffer up to 256 KiB each, which is for acquaintances.
const FOR_STRANGERS: u64 = 128 * 1024;

/// Figures of one stream.
#[derive(Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    admitted: AtomicBool,
    waiting: AtomicWaker,
}

impl Traffic {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// From now on the other side may send without a limit.
    pub(crate) fn admit(&self) {
        if !self.admitted.swap(true, Ordering::AcqRel) {
            self.waiting.wake();
        }
    }

    fn held_up(&self) -> bool {
        self.received() >= FOR_STRANGERS && !self.admitted.load(Ordering::Acquire)
    }
}

/// A stream whose bytes are counted.
pub(crate) struct Counted {
    pub(crate) stream: Box<dyn ByteStream>,
    pub(crate) traffic: Arc<Traffic>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.traffic.held_up() {
            self.traffic.waiting.register(cx.waker());
            // It may have been admitted between the two.
            if self.traffic.held_up() {
                return Poll::Pending;
            }
        }
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, into);
        let read = into.filled().len().saturating_sub(before);
        self.traffic.received.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &result {
            self.traffic.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! Streams that are read at a bounded rate.
//!
//! What a WebSocket is made of, empty fragments and pings for instance, costs work before a message comes of it. So the
//! bytes are counted, below everything that makes sense of them. What comes too fast isn't lost: it waits at its sender.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, Sleep, sleep};

/// How fast a connection is read, once it is to be paced.
#[derive(Debug)]
pub struct Pace {
    on: AtomicBool,
    per_second: u32,
    burst: u32,
}

impl Pace {
    /// So many bytes a second on average, and so many at once; 0 a second is no limit.
    pub fn new(per_second: u32, burst: u32) -> Arc<Self> {
        Arc::new(Self { on: AtomicBool::new(false), per_second, burst })
    }

    /// From now on it counts.
    pub fn begin(&self) {
        self.on.store(self.per_second > 0, Ordering::Relaxed);
    }
}

/// A stream at the pace of its connection.
pub struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
    /// When all that was read so far would have been read at the average rate.
    due: Option<Instant>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    /// A stream that is read as fast as it comes until the pace begins.
    pub fn new(stream: S, pace: Arc<Pace>) -> Self {
        Self { stream, pace, due: None, waiting: None }
    }

    fn count(&mut self, bytes: usize) {
        let now = Instant::now();
        let cost = |bytes: f64| Duration::from_secs_f64(bytes / f64::from(self.pace.per_second.max(1)));
        let due = self.due.map_or(now, |due| due.max(now)) + cost(bytes as f64);
        self.due = Some(due);
        let early = due.saturating_duration_since(now).saturating_sub(cost(f64::from(self.pace.burst)));
        if !early.is_zero() {
            self.waiting = Some(Box::pin(sleep(early)));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.pace.on.load(Ordering::Relaxed) {
            self.count(buf.filled().len() - before);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn seconds(pace: &Arc<Pace>, bytes: usize) -> u64 {
        let mut stream = Paced::new(tokio::io::repeat(7).take(bytes as u64), pace.clone());
        let (begin, mut buffer) = (Instant::now(), [0; 1000]);
        while stream.read(&mut buffer).await.expect("no error") > 0 {}
        begin.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_beyond_the_burst_takes_its_time() {
        let pace = Pace::new(1000, 5000);
        assert_eq!(seconds(&pace, 1_000_000).await, 0, "requests have limits of their own");
        pace.begin();
        assert_eq!(seconds(&pace, 5000).await, 0);
        assert_eq!(seconds(&pace, 65_000).await, 60);
        let free = Pace::new(0, 0);
        free.begin();
        assert_eq!(seconds(&free, 1_000_000).await, 0);
    }
}

//! What the `webrtc` crate runs on: Tokio, with four corrections.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime, TokioRuntime,
    Transmit,
};

use crate::guard::Guard;

/// Socket buffers to ask the system for: below the SCTP window, bursts are lost and everything crawls.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// How long a connection in a hurry sleeps at most.
const TICK: Duration = Duration::from_millis(2);

/// One connection's runtime.
///
/// The crate's loop flushes packets before it handles events; what an event makes waits for the next
/// wake-up, up to 200 ms later. While the connection is *hot* it sleeps 2 ms at most, which takes
/// half a second off connecting. Sockets get large buffers, and a [`Guard`] looks at what goes out. TCP
/// candidates of the other side are refused: they would have us connect to any TCP service it names.
#[derive(Debug)]
pub(crate) struct ConnectionRuntime {
    inner: TokioRuntime,
    guard: Arc<Guard>,
    hot_until: Mutex<Instant>,
}

impl ConnectionRuntime {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self { inner: TokioRuntime, guard, hot_until: Mutex::new(Instant::now()) }
    }

    /// What the connection may send to whom.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Packets will be made that must not wait, for this long.
    pub(crate) fn heat(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut hot = self.hot_until.lock().unwrap_or_else(PoisonError::into_inner);
        *hot = until.max(*hot);
    }

    /// The hurry is over.
    pub(crate) fn cool(&self) {
        *self.hot_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// How large the SCTP window may be, so that what is on the way fits the socket's buffer, in bytes.
///
/// The kernel counts its own overhead, about as much as the packets, and doubles what is asked for to
/// that end (socket(7)); a quarter of what it grants is left for a window with room to spare.
pub(crate) fn window() -> u32 {
    let granted = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
        let socket = socket2::SockRef::from(&socket);
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        socket.recv_buffer_size()
    });
    let quarter = granted.unwrap_or(256 * 1024) / 4;
    u32::try_from(quarter.clamp(64 * 1024, 2 * 1024 * 1024)).unwrap_or(64 * 1024)
}

impl Runtime for ConnectionRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.inner.spawn(future)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let buffers = socket2::SockRef::from(&socket);
        // The system may grant less; the window was chosen by what it grants.
        let _ = buffers.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = buffers.set_send_buffer_size(SOCKET_BUFFER);
        let local = socket.local_addr()?;
        let inner = self.inner.wrap_udp_socket(socket)?;
        Ok(Arc::new(GuardedSocket { inner, local, guard: self.guard.clone() }))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        self.inner.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        _to: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        self.inner.resolve_host(host)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        let hot = Instant::now() < *self.hot_until.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.sleep(if hot { duration.min(TICK) } else { duration })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.inner.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.inner.block_on(future);
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.inner.yield_now()
    }

    fn name(&self) -> &'static str {
        "peerloom"
    }
}

/// A socket from which only what the guard lets pass goes out.
#[derive(Debug)]
struct GuardedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    guard: Arc<Guard>,
}

impl AsyncUdpSocket for GuardedSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        let size = transmit.segment_size.unwrap_or(usize::MAX).max(1);
        let may = |packet: &[u8]| self.guard.may_send(self.local, transmit.destination, packet, now);
        // Of data, the first datagram tells whether the path is proved; STUN is counted (RFC 7983 §7 tells them apart).
        let count = if transmit.contents.first().is_some_and(|first| *first < 4) { usize::MAX } else { 1 };
        if transmit.contents.chunks(size).take(count).all(may) {
            return self.inner.poll_send(cx, transmit);
        }
        // To the crate it is a packet that was lost.
        Poll::Ready(Ok(transmit.contents.len()))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received {
            let now = Instant::now();
            for (buffer, meta) in bufs.iter().zip(meta.iter()).take(count) {
                for packet in buffer.get(..meta.len).unwrap_or_default().chunks(meta.stride.max(1)) {
                    self.guard.heard(self.local, meta.addr, packet, now);
                }
            }
        }
        received
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

//! One encrypted stream as a link: yamux streams are its channels.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::windows::Window;
use peerloom_core::wire::PublicKey;
use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, Link, LinkStats, Result, framing};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::noise::Encrypted;
use crate::traffic::{Counted, Traffic};

/// How long a channel may take to say what it is for.
const CLASS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the other side may be silent; yamux asks it every 10 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often silence is looked for, and yamux given the chance to ask.
const TICK: Duration = Duration::from_secs(5);
/// How long an end may take.
const LINGER: Duration = Duration::from_secs(1);
/// Channels of the other side that may wait to be accepted.
const WAITING: usize = 16;
/// Channels at once, of both sides.
const STREAMS: usize = 16;
/// What all channels of a link may hold unread at least, in bytes; yamux grants each 256 KiB.
pub(crate) const LEAST_WINDOW: u32 = STREAMS as u32 * 256 * 1024;

type Reply = oneshot::Sender<Result<yamux::Stream, yamux::ConnectionError>>;

pub(crate) struct SecuredLink {
    remote_key: PublicKey,
    binding: [u8; 32],
    from: String,
    rtt: Duration,
    traffic: Arc<Traffic>,
    opening: mpsc::Sender<Reply>,
    incoming: Mutex<mpsc::Receiver<yamux::Stream>>,
    /// Why it ended, once it did.
    end: Arc<End>,
    stop: CancellationToken,
    _window: Window,
}

#[derive(Default)]
struct End {
    why: OnceLock<String>,
    reached: CancellationToken,
}

/// Which side of the dial this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialed,
    Accepted,
}

impl SecuredLink {
    /// Takes an encrypted stream into use, which holds no more than `window` unread; it ends with `stop`, and its task is one of `tasks`.
    pub(crate) fn new(
        encrypted: Encrypted<Counted>,
        traffic: Arc<Traffic>,
        side: Side,
        from: String,
        window: Window,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let Encrypted { frames, remote_key, binding, rtt } = encrypted;
        let (sink, stream) = frames.split();
        let reader = StreamReader::new(stream);
        let writer = SinkWriter::new(CopyToBytes::new(SinkExt::<Bytes>::sink_map_err(sink, std::io::Error::from)));
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS).set_max_connection_receive_window(Some(window.bytes() as usize));
        let mode = if side == Side::Dialed { yamux::Mode::Client } else { yamux::Mode::Server };
        let connection = yamux::Connection::new(tokio::io::join(reader, writer).compat(), config, mode);

        let (opening, requests) = mpsc::channel(1);
        let (accepted, incoming) = mpsc::channel(WAITING);
        let end = Arc::new(End::default());
        let driver = Driver { connection, requests, waiting: None, accepted };
        tasks.spawn(run(driver, traffic.clone(), stop.clone(), end.clone()));
        let incoming = Mutex::new(incoming);
        Self { remote_key, binding, from, rtt, traffic, opening, incoming, end, stop, _window: window }
    }

    fn gone(&self, operation: &'static str) -> Error {
        let why = self.end.why.get().map_or("the link is closed", String::as_str);
        Error::new(ErrorKind::Closed, "secured", operation, format!("{why}; it is made again by itself"))
    }

    fn channel(class: ChannelClass, stream: yamux::Stream) -> Channel {
        let (receive, send) = tokio::io::split(stream.compat());
        framing::channel("secured", class, send, receive)
    }
}

#[async_trait]
impl Link for SecuredLink {
    fn remote_key(&self) -> Option<PublicKey> {
        Some(self.remote_key.clone())
    }

    fn channel_binding(&self) -> Result<[u8; 32]> {
        Ok(self.binding)
    }

    fn admit(&self) {
        self.traffic.admit();
    }

    async fn open(&self, class: ChannelClass) -> Result<Channel> {
        const OPERATION: &str = "open a channel";
        let (reply, answer) = oneshot::channel();
        self.opening.send(reply).await.map_err(|_| self.gone(OPERATION))?;
        let stream = match answer.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(yamux::ConnectionError::TooManyStreams)) => {
                let message = format!("{STREAMS} channels are open already; close some");
                return Err(Error::new(ErrorKind::Overloaded, "secured", OPERATION, message));
            }
            Ok(Err(_)) | Err(_) => return Err(self.gone(OPERATION)),
        };
        let mut stream = stream.compat();
        stream.write_u8(framing::class_byte(class)).await.map_err(|_| self.gone(OPERATION))?;
        Ok(Self::channel(class, stream.into_inner()))
    }

    async fn accept(&self) -> Result<Channel> {
        const OPERATION: &str = "accept a channel";
        let incoming = self.incoming.lock().await.recv().await;
        let mut stream = incoming.ok_or_else(|| self.gone(OPERATION))?.compat();
        let late = |_| Error::new(ErrorKind::Timeout, "secured", OPERATION, "the channel didn't say what it is for");
        let class = framing::read_class("secured", &mut stream);
        let class = tokio::time::timeout(CLASS_TIMEOUT, class).await.map_err(late)??;
        Ok(Self::channel(class, stream.into_inner()))
    }

    fn remote_address(&self) -> String {
        self.from.clone()
    }

    fn stats(&self) -> LinkStats {
        LinkStats {
            rtt_us: u64::try_from(self.rtt.as_micros()).unwrap_or(u64::MAX),
            bytes_sent: self.traffic.sent(),
            bytes_received: self.traffic.received(),
        }
    }

    fn close(&self, reason: &str) {
        // Fails only when it had ended already.
        let _ = self.end.why.set(format!("closed: {reason}"));
        self.stop.cancel();
    }

    async fn closed(&self) -> Error {
        self.end.reached.cancelled().await;
        self.gone("link")
    }
}

impl Drop for SecuredLink {
    fn drop(&mut self) {
        self.close("dropped");
    }
}

/// Moves a link's bytes until it ends.
struct Driver<S> {
    connection: yamux::Connection<S>,
    requests: mpsc::Receiver<Reply>,
    waiting: Option<Reply>,
    accepted: mpsc::Sender<yamux::Stream>,
}

async fn run<S>(mut driver: Driver<S>, traffic: Arc<Traffic>, stop: CancellationToken, end: Arc<End>)
where
    S: futures_util::AsyncRead + futures_util::AsyncWrite + Send + Unpin + 'static,
{
    // However this task ends, whoever waits for the link hears of it.
    let _reached = end.reached.clone().drop_guard();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut received) = (Instant::now(), 0);
    let why = loop {
        tokio::select! {
            why = poll_fn(|cx| driver.poll(cx)) => break why,
            () = stop.cancelled() => break "closed".into(),
            now = tick.tick() => {
                if traffic.received() != received {
                    (heard, received) = (now, traffic.received());
                } else if now - heard > IDLE_TIMEOUT {
                    break format!("nothing was heard for {} s", IDLE_TIMEOUT.as_secs());
                }
            }
        }
    };
    let _ = end.why.set(why);
    driver.requests.close();
    let closing = poll_fn(|cx| driver.connection.poll_close(cx));
    let _ = tokio::time::timeout(LINGER, closing).await;
}

impl<S: futures_util::AsyncRead + futures_util::AsyncWrite + Unpin> Driver<S> {
    /// Works until the link ends; ready with the reason.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            if self.waiting.is_none()
                && let Poll::Ready(Some(reply)) = self.requests.poll_recv(cx)
            {
                self.waiting = Some(reply);
            }
            if self.waiting.is_some()
                && let Poll::Ready(opened) = self.connection.poll_new_outbound(cx)
                && let Some(reply) = self.waiting.take()
            {
                // Whoever asked may have given up; then the stream ends by being dropped.
                let _ = reply.send(opened);
                continue;
            }
            match self.connection.poll_next_inbound(cx) {
                // One too many is dropped, which resets it.
                Poll::Ready(Some(Ok(stream))) => drop(self.accepted.try_send(stream)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(format!("the link broke: {error}")),
                Poll::Ready(None) => return Poll::Ready("the other side closed the link".into()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

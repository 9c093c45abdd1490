//! One QUIC connection as a link.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use peerloom_core::interfaces::has_lost;
use peerloom_core::names::canonical;
use peerloom_core::windows::{Window, Windows};
use peerloom_core::wire::{PublicKey, context};
use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, Link, LinkStats, Result, framing};
use quinn::{Connection, VarInt};

use crate::channel::{channel, closed};
use crate::tls;

/// How long a stream may take to say what it is for.
const CLASS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may put off an acknowledgement (RFC 9000 §18.2), and how long the end of a link is waited for.
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
const LINGER: Duration = Duration::from_secs(1);
/// Streams that the other side may have open at once.
pub(crate) const STREAMS: u32 = 16;

/// What an admitted link may hold unread at least, in bytes.
const LEAST_WINDOW: u32 = 256 * 1024;

/// What the links of one transport share. Clones share it.
#[derive(Clone)]
pub(crate) struct Links {
    windows: Windows,
    book: Arc<Mutex<Book>>,
}

impl Default for Links {
    fn default() -> Self {
        Self { windows: Windows::new(LEAST_WINDOW), book: Arc::default() }
    }
}

#[derive(Default)]
struct Book {
    up: HashMap<usize, Connection>,
    /// When the last of the links that were closed has ended.
    ended: Option<Instant>,
}

impl Links {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the ends of all links are over, those that are up being closed now.
    pub(crate) fn farewell(&self) -> Option<Instant> {
        let mut book = self.book();
        let up: Vec<Connection> = book.up.drain().map(|(_, connection)| connection).collect();
        up.iter().for_each(|connection| book.ends(connection));
        book.ended
    }

    /// Closes the links that came in at an address which the machine has lost: nothing arrives over them any more. A
    /// link that was dialed goes on from another address by itself (RFC 9000 §9).
    pub(crate) fn close_lost(&self) {
        let up: Vec<Connection> = self.book().up.values().cloned().collect();
        let lost = up.iter().filter(|connection| connection.local_ip().is_some_and(has_lost));
        lost.for_each(|connection| connection.close(VarInt::from_u32(0), b"the machine has lost the address"));
    }
}

impl Book {
    /// An end is over three probe timeouts later (RFC 9000 §10.2).
    fn ends(&mut self, connection: &Connection) {
        let end = (3 * (2 * connection.rtt() + MAX_ACK_DELAY)).min(LINGER);
        self.ended = self.ended.max(Some(Instant::now() + end));
    }
}

pub(crate) struct QuicLink {
    connection: Connection,
    remote_key: PublicKey,
    links: Links,
    /// What the link may hold unread, once it is admitted.
    window: OnceLock<Window>,
}

impl QuicLink {
    /// `None`: the other side has shown no usable key.
    pub(crate) fn new(connection: Connection, links: &Links) -> Option<Self> {
        let remote_key = tls::remote_key(&connection)?;
        links.book().up.insert(connection.stable_id(), connection.clone());
        Some(Self { connection, remote_key, links: links.clone(), window: OnceLock::new() })
    }
}

#[async_trait]
impl Link for QuicLink {
    fn remote_key(&self) -> Option<PublicKey> {
        Some(self.remote_key.clone())
    }

    fn channel_binding(&self) -> Result<[u8; 32]> {
        let mut binding = [0; 32];
        let failed = |_| Error::new(ErrorKind::Closed, "quic", "bind", "the TLS exporter gives nothing");
        self.connection.export_keying_material(&mut binding, context::CHANNEL_BINDING, b"").map_err(failed)?;
        Ok(binding)
    }

    fn admit(&self) {
        let window = self.window.get_or_init(|| self.links.windows.take());
        self.connection.set_receive_window(VarInt::from_u32(window.bytes()));
        self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS));
    }

    async fn open(&self, class: ChannelClass) -> Result<Channel> {
        let (mut send, receive) = self.connection.open_bi().await.map_err(|e| closed("open a channel", e))?;
        let gone = |_| Error::new(ErrorKind::Closed, "quic", "open a channel", "the link is closed");
        send.write_all(&[framing::class_byte(class)]).await.map_err(gone)?;
        Ok(channel(class, send, receive))
    }

    async fn accept(&self) -> Result<Channel> {
        let (send, mut receive) = self.connection.accept_bi().await.map_err(|e| closed("accept a channel", e))?;
        let late =
            |_| Error::new(ErrorKind::Timeout, "quic", "accept a channel", "the stream didn't say what it is for");
        let class =
            tokio::time::timeout(CLASS_TIMEOUT, framing::read_class("quic", &mut receive)).await.map_err(late)??;
        Ok(channel(class, send, receive))
    }

    fn remote_address(&self) -> String {
        canonical(self.connection.remote_address()).to_string()
    }

    fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        LinkStats {
            rtt_us: u64::try_from(self.connection.rtt().as_micros()).unwrap_or(u64::MAX),
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
        }
    }

    fn close(&self, reason: &str) {
        self.connection.close(VarInt::from_u32(0), reason.as_bytes());
    }

    async fn closed(&self) -> Error {
        closed("link", self.connection.closed().await)
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.close("dropped");
        let mut book = self.links.book();
        book.up.remove(&self.connection.stable_id());
        book.ends(&self.connection);
    }
}

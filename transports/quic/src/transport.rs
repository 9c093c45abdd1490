//! One UDP socket: dialing, listening, and what strangers may cost.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use peerloom_core::interfaces::source;
use peerloom_core::names::{HostPort, Resolver, race};
use peerloom_core::wire::{Address, DeviceId, PublicKey, limits};
use peerloom_core::{
    DeviceSecret, Diagnostic, Error, ErrorKind, Link, Listener, Places, Result, Signaling, Source, Transport,
    TransportCaps,
};
use peerloom_crypto_primitives::SigningKey;
use quinn::{ConnectionError, Endpoint, IdleTimeout, TransportConfig, TransportErrorCode, VarInt};
use tokio::sync::mpsc;
use tracing::debug;

use crate::QuicConfig;
use crate::link::{Links, QuicLink};
use crate::sockets::{Reached, Sockets};
use crate::tls;

/// TLS handshakes that run at once, and of one address; the oldest gives way to a newer one.
const HANDSHAKES: usize = 64;
const HANDSHAKES_OF_ONE: usize = 32;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Links that wait for the engine.
const BACKLOG: usize = 64;
/// What a link may hold unread before it is admitted, in bytes: Peerloom's handshake fits.
const FOR_STRANGERS: u32 = 64 * 1024;
/// Streams that the other side may have open until its link is admitted: for control and chat.
const STREAMS_FIRST: u32 = 2;
/// Bytes that one channel may have on the way to us, within the link's window.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
/// Bytes of a link that wait to be sent, or to be acknowledged.
const SEND_WINDOW: u64 = 12 * 1024 * 1024;
/// How long a dial may take, with looking up a name and trying all its addresses.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Names that are looked up at once; more wait.
const LOOKUPS: usize = 16;

/// The `quic` transport.
pub struct QuicTransport {
    config: QuicConfig,
    sockets: Sockets,
    links: Links,
    /// Contacts choose the names that are looked up.
    resolver: Resolver,
    /// Set once it listens.
    reached: OnceLock<Arc<Reached>>,
}

impl QuicTransport {
    /// A transport with the device's key. Binds nothing yet.
    pub fn new(config: QuicConfig, secret: &DeviceSecret) -> Result<Self> {
        let wrong = |e: rustls::Error| {
            Error::new(ErrorKind::Internal, "quic", "configure", "TLS refuses its settings").with_source(e)
        };
        let (server_tls, client_tls) = tls::configs(secret, config.require_post_quantum).map_err(wrong)?;
        let transport = Arc::new(transport_config(&config)?);

        let mut server = quinn::ServerConfig::with_crypto(server_tls);
        server.transport_config(transport.clone());
        server.max_incoming(256).incoming_buffer_size(16 << 10).incoming_buffer_size_total(1 << 20);
        let mut client = quinn::ClientConfig::new(client_tls);
        client.transport_config(transport);
        client.token_store(Arc::new(quinn::NoneTokenStore));
        let listen = config.listen_address().map_err(|e| invalid(e.message))?;
        let device = DeviceId::from_key(SigningKey::from_seed(secret.expose()).public());
        let sockets = Sockets::new(listen, device, server, client);
        let (resolver, reached) = (Resolver::new(LOOKUPS), OnceLock::new());
        Ok(Self { config, sockets, links: Links::default(), resolver, reached })
    }

    /// Makes a link to the device at one address.
    async fn dial_at(&self, place: SocketAddr, expected: Option<&PublicKey>) -> Result<Arc<dyn Link>> {
        let unreachable =
            |message: &str| Error::new(ErrorKind::Unreachable, "quic", "dial", format!("{place}: {message}"));
        source(place).map_err(|e| unreachable("this machine has no way there").with_source(e))?;
        let connecting = self
            .sockets
            .dialing(place)?
            .connect(place, &tls::server_name(expected))
            .map_err(|e| unreachable("this machine can't dial it").with_source(e))?;
        let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|_| unreachable("nobody answers; is the other node running, and the port open?"))?
            .map_err(|e| explain_dial(place, e))?;
        let link = QuicLink::new(connection, &self.links).ok_or_else(|| unreachable("the other side shows no key"))?;
        Ok(Arc::new(link))
    }
}

fn transport_config(config: &QuicConfig) -> Result<TransportConfig> {
    let idle = IdleTimeout::try_from(config.idle_timeout.0).map_err(|_| invalid("idle_timeout is too long".into()))?;
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(config.keep_alive.0))
        .max_idle_timeout(Some(idle))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(FOR_STRANGERS.into())
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(STREAMS_FIRST.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .crypto_buffer_size(16 << 10)
        .allow_spin(false);
    Ok(transport)
}

#[async_trait]
impl Transport for QuicTransport {
    fn scheme(&self) -> &'static str {
        "quic"
    }

    fn caps(&self) -> TransportCaps {
        TransportCaps {
            authenticates: true,
            nat_traversal: false,
            needs_signaling: false,
            max_frame: limits::CHAT_FRAME,
        }
    }

    async fn listen(&self, _signaling: Option<Arc<dyn Signaling>>) -> Result<Box<dyn Listener>> {
        let listening = self.sockets.listening()?;
        let advertised = self.config.advertised().map_err(|e| invalid(e.message))?;
        let reached = Arc::new(Reached::new(listening.ear, advertised));
        let _ = self.reached.set(reached.clone());
        let (sender, links) = mpsc::channel(BACKLOG);
        tokio::spawn(accept(listening.endpoint, sender, self.links.clone()));
        Ok(Box::new(QuicListener { reached, links }))
    }

    async fn dial(
        &self,
        address: &Address,
        expected: Option<&PublicKey>,
        _signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>> {
        let place: HostPort = address.rest().parse().map_err(invalid)?;
        let unreachable =
            |message: &str| Error::new(ErrorKind::Unreachable, "quic", "dial", format!("{place}: {message}"));
        let dial = async {
            let found = self.resolver.resolve(&place).await;
            let places = found.map_err(|e| unreachable("the name can't be looked up").with_source(e))?;
            let dialed = race(places, |place| self.dial_at(place, expected)).await;
            dialed.unwrap_or_else(|| Err(unreachable("the name has no address")))
        };
        tokio::time::timeout(DIAL_TIMEOUT, dial).await.map_err(|_| unreachable("nobody answers in time"))?
    }

    async fn diagnose(&self) -> Vec<Diagnostic> {
        let Some(reached) = self.reached.get().filter(|_| self.sockets.is_listening()) else {
            return vec![Diagnostic::bad("QUIC", "doesn't listen", "start the node; it says why it can't")];
        };
        let local = reached.local();
        if reached.now().is_empty() {
            let remedy = "set transport.listen to [::] and the port, which takes IPv4 and IPv6, or to an address \
                          that this machine has";
            let detail = format!("listens at {local}, and this machine has no such address by which others could come");
            return vec![Diagnostic::bad("QUIC", detail, remedy)];
        }
        vec![Diagnostic::good("QUIC", format!("listens at {local}"))]
    }

    fn network_changed(&self) {
        self.links.close_lost();
    }

    async fn shutdown(&self) {
        self.sockets.close(&self.links).await;
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, "quic", "configure", message)
}

fn explain_dial(place: SocketAddr, cause: ConnectionError) -> Error {
    // TLS alerts (RFC 8446 §6.2) arrive as crypto errors.
    const HANDSHAKE_FAILURE: u8 = 40;
    const ACCESS_DENIED: u8 = 49;
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    let alert = match &cause {
        ConnectionError::TransportError(e) => Some(e.code),
        ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        _ => None,
    };
    let is = |code| alert == Some(TransportErrorCode::crypto(code));
    let (kind, message) = if is(ACCESS_DENIED) {
        (ErrorKind::Unauthenticated, "another device answers there; ask your contact for a new invitation")
    } else if is(HANDSHAKE_FAILURE) {
        (ErrorKind::Refused, "no common key exchange; one side requires post-quantum links")
    } else if is(NO_APPLICATION_PROTOCOL) {
        (ErrorKind::Refused, "the program there doesn't speak Peerloom's protocol version")
    } else {
        (ErrorKind::Unreachable, "the handshake failed")
    };
    Error::new(kind, "quic", "dial", format!("{place}: {message}")).with_source(cause)
}

/// Takes in connections until the endpoint closes or nobody wants links any more.
async fn accept(endpoint: Endpoint, accepted: mpsc::Sender<Arc<dyn Link>>, links: Links) {
    let places = Places::new(HANDSHAKES, HANDSHAKES_OF_ONE);
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = accepted.closed() => None,
        };
        let Some(incoming) = incoming else { return };
        let from = incoming.remote_address();
        // Under load only those who answer from their address get to work.
        if places.taken() > HANDSHAKES / 2 && !incoming.remote_address_validated() && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let place = places.take(Source::ip(from.ip()));
        let (accepted, links) = (accepted.clone(), links.clone());
        tokio::spawn(async move {
            let Ok(connecting) = incoming.accept() else {
                return;
            };
            let connected = tokio::select! {
                connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting) => connected,
                () = place.lost() => return debug!(%from, "a handshake gave way to a newer one"),
            };
            match connected {
                Ok(Ok(connection)) => {
                    let Some(link) = QuicLink::new(connection, &links) else {
                        return;
                    };
                    // Its key is known: from here on the engine decides.
                    tokio::select! {
                        _ = accepted.send(Arc::new(link)) => {}
                        () = place.lost() => debug!(%from, "the node is busy; closed a new link"),
                    }
                }
                Ok(Err(error)) => debug!(%from, %error, "a handshake failed"),
                Err(_) => debug!(%from, "a handshake took too long"),
            }
        });
    }
}

struct QuicListener {
    reached: Arc<Reached>,
    links: mpsc::Receiver<Arc<dyn Link>>,
}

#[async_trait]
impl Listener for QuicListener {
    fn addresses(&self) -> Vec<Address> {
        self.reached.now().iter().filter_map(|place| crate::config::address(place).ok()).collect()
    }

    async fn accept(&mut self) -> Option<Arc<dyn Link>> {
        self.links.recv().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use peerloom_core::ChannelClass;
    use peerloom_core::framing::class_byte;
    use peerloom_core::kinds::DurationText;

    use super::*;

    /// How long anything may take.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn transport(seed: u8) -> QuicTransport {
        with_timers(seed, QuicConfig::default())
    }

    fn with_timers(seed: u8, config: QuicConfig) -> QuicTransport {
        let config = QuicConfig { listen: "127.0.0.1:0".into(), ..config };
        QuicTransport::new(config, &DeviceSecret::new([seed; 32])).unwrap()
    }

    fn timers(keep_alive: Duration, idle_timeout: Duration) -> QuicConfig {
        let (keep_alive, idle_timeout) = (DurationText(keep_alive), DurationText(idle_timeout));
        QuicConfig { keep_alive, idle_timeout, ..QuicConfig::default() }
    }

    /// A connection by hand, and the link that the other side sees.
    async fn raw(
        attacker: &QuicTransport,
        victim: &QuicTransport,
    ) -> (quinn::Connection, Arc<dyn Link>, Box<dyn Listener>) {
        let mut listener = victim.listen(None).await.unwrap();
        let address: SocketAddr = listener.addresses()[0].rest().parse().unwrap();
        let connecting = attacker.sockets.dialing(address).unwrap().connect(address, &tls::server_name(None)).unwrap();
        let (connection, link) = tokio::join!(connecting, listener.accept());
        (connection.unwrap(), link.unwrap(), listener)
    }

    #[tokio::test]
    async fn promises_of_4_gib_are_refused_before_anything_is_allocated() {
        let (attacker, victim) = (transport(1), transport(2));
        let (connection, link, _listener) = raw(&attacker, &victim).await;
        for class in [ChannelClass::Control, ChannelClass::Chat] {
            let (mut send, _receive) = connection.open_bi().await.unwrap();
            send.write_all(&[class_byte(class), 0xff, 0xff, 0xff, 0xff, 1, 2, 3]).await.unwrap();
            let mut channel = link.accept().await.unwrap();
            let refused = channel.receiver.next().await.unwrap().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::TooLarge);
        }
    }

    #[tokio::test]
    async fn unknown_classes_and_truncated_frames_are_errors() {
        let (attacker, victim) = (transport(1), transport(2));
        let (connection, link, _listener) = raw(&attacker, &victim).await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&[9]).await.unwrap();
        assert_eq!(link.accept().await.map(drop).unwrap_err().kind(), ErrorKind::Malformed);
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&[2, 0, 0, 0, 9, 1, 2]).await.unwrap();
        send.finish().unwrap();
        let mut channel = link.accept().await.unwrap();
        assert!(channel.receiver.next().await.unwrap().is_err(), "half a frame is not a frame");
        // No more streams than agreed.
        let mut open = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), connection.open_bi()).await {
            open.push(stream);
            assert!(open.len() <= crate::link::STREAMS as usize, "an unbounded number of streams can be opened");
        }
    }

    /// In a link of days the keys change by themselves, after many packets; here before each frame.
    #[tokio::test]
    async fn a_link_outlives_updates_of_its_keys() {
        let (near, far) = (transport(1), transport(2));
        let (connection, link, _listener) = raw(&near, &far).await;
        link.admit();
        let binding = link.channel_binding().unwrap();
        let mut channel = link.open(ChannelClass::Chat).await.unwrap();
        channel.sender.send(bytes::Bytes::from_static(b"first")).await.unwrap();
        let other = QuicLink::new(connection.clone(), &near.links).unwrap();
        let mut theirs = other.accept().await.unwrap();
        assert_eq!(theirs.receiver.next().await.unwrap().unwrap(), "first");
        for round in 0..100u8 {
            connection.force_key_update();
            let there = bytes::Bytes::from(vec![round; 50_000]);
            let back = bytes::Bytes::from(vec![round; 10]);
            theirs.sender.send(there.clone()).await.unwrap();
            assert_eq!(channel.receiver.next().await.unwrap().unwrap(), there);
            channel.sender.send(back.clone()).await.unwrap();
            assert_eq!(theirs.receiver.next().await.unwrap().unwrap(), back);
        }
        assert_eq!(link.channel_binding().unwrap(), binding, "what was signed stays true");
        assert_eq!(other.channel_binding().unwrap(), binding);
    }

    #[tokio::test]
    async fn an_idle_link_is_kept_by_either_side_and_ends_where_neither_keeps_it() {
        let idle = Duration::from_secs(1);
        let lively = || timers(Duration::from_millis(100), idle);
        // It takes the other's idle time-out, and keeps nothing alive within that.
        let quiet = || timers(Duration::from_secs(100), Duration::from_secs(300));
        for (near, far) in [(lively(), quiet()), (quiet(), lively())] {
            let (near, far) = (with_timers(1, near), with_timers(2, far));
            let (connection, link, _listener) = raw(&near, &far).await;
            tokio::select! {
                error = connection.closed() => panic!("{error}"),
                error = link.closed() => panic!("{error}"),
                () = tokio::time::sleep(3 * idle) => {}
            }
        }
        let silent = timers(Duration::from_secs(100), idle);
        let (near, far) = (with_timers(1, silent.clone()), with_timers(2, silent));
        let (connection, link, _listener) = raw(&near, &far).await;
        let ended = async { tokio::join!(connection.closed(), link.closed()) };
        let (theirs, _) = tokio::time::timeout(PATIENCE, ended).await.expect("both ends notice");
        assert_eq!(theirs, ConnectionError::TimedOut);
    }

    #[test]
    fn the_end_of_a_device_that_vanished_is_noticed() {
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (here, there) = (runtime(), runtime());
        let config = timers(Duration::from_millis(100), Duration::from_secs(1));
        let near = with_timers(1, config.clone());
        let mut listener = here.block_on(near.listen(None)).unwrap();
        let address = listener.addresses()[0].clone();
        let far = with_timers(2, config);
        let dialed = there.spawn(async move { far.dial(&address, None, None).await.map(|link| (link, far)) });
        let link = here.block_on(listener.accept()).unwrap();
        let _vanished = here.block_on(dialed).unwrap().unwrap();
        // Its sockets close, and nothing says goodbye.
        there.shutdown_background();
        here.block_on(async { tokio::time::timeout(PATIENCE, link.closed()).await }).expect("it is given up");
    }

    /// A transport that was shut down may still be held, and is asked to bind.
    #[tokio::test]
    async fn nothing_is_bound_after_a_shutdown() {
        let (near, far) = (transport(1), transport(2));
        let mut listener = far.listen(None).await.unwrap();
        let address = listener.addresses()[0].clone();
        near.shutdown().await;
        far.shutdown().await;
        assert!(listener.accept().await.is_none());
        for transport in [&near, &far] {
            assert_eq!(transport.listen(None).await.map(drop).unwrap_err().kind(), ErrorKind::Closed);
            let dialed = transport.dial(&address, None, None).await.map(drop).unwrap_err();
            assert_eq!(dialed.kind(), ErrorKind::Closed, "{dialed}");
            assert!(!transport.sockets.is_listening());
        }
    }
}

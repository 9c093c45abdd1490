//! One UDP socket: dialing, listening, and what strangers may cost.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use peerloom_core::wire::{Address, PublicKey, limits};
use peerloom_core::{
    DeviceSecret, Error, ErrorKind, Finding, Link, Listener, Places, Result, Signaling, Source, Transport,
    TransportCaps,
};
use quinn::{
    ConnectionError, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, TransportErrorCode, VarInt,
};
use tokio::sync::mpsc;
use tracing::debug;

use crate::QuicConfig;
use crate::link::QuicLink;
use crate::tls;
use crate::windows::{FOR_STRANGERS, Windows};

/// TLS handshakes that run at once, and of one address; the oldest gives way to a newer one.
const HANDSHAKES: usize = 64;
const HANDSHAKES_OF_ONE: usize = 32;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Links that wait for the engine.
const BACKLOG: usize = 64;
/// Streams that the other side may have open until its link is admitted: for control and chat.
const STREAMS_FIRST: u32 = 2;
/// Bytes that one channel may have on the way to us, within the link's window.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
/// Bytes of a link that wait to be sent, or to be acknowledged.
const SEND_WINDOW: u64 = 12 * 1024 * 1024;
/// Socket buffers to ask the system for: bursts of a busy link fit.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// How long shutting down waits for the peers to hear of it.
const LINGER: Duration = Duration::from_secs(1);

/// The `quic` transport.
pub struct QuicTransport {
    config: QuicConfig,
    server: quinn::ServerConfig,
    client: quinn::ClientConfig,
    endpoint: Mutex<Option<Endpoint>>,
    windows: Windows,
}

impl QuicTransport {
    /// A transport with the device's key. Binds nothing yet.
    pub fn new(config: QuicConfig, secret: &DeviceSecret) -> Result<Self> {
        let wrong =
            |e: rustls::Error| Error::new(ErrorKind::Bug, "quic", "configure", "TLS refuses its settings").source(e);
        let (server_tls, client_tls) = tls::configs(secret, config.require_post_quantum).map_err(wrong)?;
        let transport = Arc::new(transport_config(&config)?);

        let mut server = quinn::ServerConfig::with_crypto(server_tls);
        server.transport_config(transport.clone());
        server.max_incoming(256).incoming_buffer_size(16 << 10).incoming_buffer_size_total(1 << 20);
        let mut client = quinn::ClientConfig::new(client_tls);
        client.transport_config(transport);
        client.token_store(Arc::new(quinn::NoneTokenStore));
        Ok(Self { config, server, client, endpoint: Mutex::new(None), windows: Windows::default() })
    }

    /// The endpoint; binds the socket at its first use.
    fn endpoint(&self) -> Result<Endpoint> {
        let mut slot = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = &*slot {
            return Ok(endpoint.clone());
        }
        let address = self.config.listen_address().map_err(|e| invalid(e.message))?;
        let failed = |e: std::io::Error| {
            let (kind, advice) = match e.kind() {
                std::io::ErrorKind::AddrInUse => (
                    ErrorKind::InUse,
                    "another program uses this port; stop it, or set transport.listen to another one",
                ),
                std::io::ErrorKind::AddrNotAvailable => (
                    ErrorKind::Invalid,
                    "this machine has no such address; set transport.listen to one it has, or to 0.0.0.0",
                ),
                std::io::ErrorKind::PermissionDenied => {
                    (ErrorKind::Invalid, "ports below 1024 need privileges; set transport.listen to a higher one")
                }
                _ => (ErrorKind::Invalid, "the socket can't be opened; check transport.listen"),
            };
            Error::new(kind, "quic", "listen", format!("{address}: {advice}")).source(e)
        };
        let socket = UdpSocket::bind(address).map_err(failed)?;
        let buffers = socket2::SockRef::from(&socket);
        // The system may grant less; then bursts are lost and sent again.
        let _ = buffers.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = buffers.set_send_buffer_size(SOCKET_BUFFER);
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(self.server.clone()), socket, Arc::new(TokioRuntime));
        let mut endpoint = endpoint.map_err(failed)?;
        endpoint.set_default_client_config(self.client.clone());
        *slot = Some(endpoint.clone());
        Ok(endpoint)
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
        let endpoint = self.endpoint()?;
        let failed = |e| Error::new(ErrorKind::Bug, "quic", "listen", "the socket has no address").source(e);
        let bound = endpoint.local_addr().map_err(failed)?;
        let advertised = self.config.advertised().map_err(|e| invalid(e.message))?;
        let addresses = if advertised.is_empty() { own_addresses(bound) } else { advertised };
        let (sender, links) = mpsc::channel(BACKLOG);
        tokio::spawn(accept(endpoint, sender, self.windows.clone()));
        Ok(Box::new(QuicListener { addresses, links }))
    }

    async fn dial(
        &self,
        address: &Address,
        expected: Option<&PublicKey>,
        _signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>> {
        let place: SocketAddr =
            address.rest().parse().map_err(|_| invalid(format!("`{address}` is not a QUIC address")))?;
        let unreachable =
            |message: &str| Error::new(ErrorKind::Unreachable, "quic", "dial", format!("{place}: {message}"));
        let connecting = self
            .endpoint()?
            .connect(place, &tls::server_name(expected))
            .map_err(|e| unreachable("this machine can't dial it").source(e))?;
        let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|_| unreachable("nobody answers; is the other node running, and the port open?"))?
            .map_err(|e| explain_dial(place, e))?;
        let link =
            QuicLink::new(connection, &self.windows).ok_or_else(|| unreachable("the other side shows no key"))?;
        Ok(Arc::new(link))
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let bound = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Endpoint::local_addr);
        let Some(Ok(bound)) = bound else {
            return vec![Finding::bad("QUIC", "doesn't listen", "start the node; it says why it can't")];
        };
        let advertised = self.config.advertised().unwrap_or_default();
        let reached = if advertised.is_empty() { own_addresses(bound) } else { advertised };
        let shown = reached.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let public = |place: &SocketAddr| match place.ip() {
            IpAddr::V4(ip) => !ip.is_private() && !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unique_local() && !ip.is_loopback() && !ip.is_unicast_link_local(),
        };
        if reached.iter().any(public) {
            return vec![Finding::good("QUIC", format!("listens at {shown}"))];
        }
        let remedy = "forward the port and set transport.advertise, or use webrtc, if contacts elsewhere shall dial";
        vec![Finding::note("QUIC", format!("listens at addresses of private networks only: {shown}"), remedy)]
    }

    async fn shutdown(&self) {
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            endpoint.close(VarInt::from_u32(0), b"shutting down");
            let _ = tokio::time::timeout(LINGER, endpoint.wait_idle()).await;
        }
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
    Error::new(kind, "quic", "dial", format!("{place}: {message}")).source(cause)
}

/// Takes in connections until the endpoint closes or nobody wants links any more.
async fn accept(endpoint: Endpoint, links: mpsc::Sender<Arc<dyn Link>>, windows: Windows) {
    let places = Places::new(HANDSHAKES, HANDSHAKES_OF_ONE);
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = links.closed() => None,
        };
        let Some(incoming) = incoming else { return };
        let from = incoming.remote_address();
        // Under load only those who answer from their address get to work.
        if places.taken() > HANDSHAKES / 2 && !incoming.remote_address_validated() && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let place = places.take(Source::ip(from.ip()));
        let (links, windows) = (links.clone(), windows.clone());
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
                    let Some(link) = QuicLink::new(connection, &windows) else {
                        return;
                    };
                    // Its key is known: from here on the engine decides.
                    tokio::select! {
                        _ = links.send(Arc::new(link)) => {}
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
    addresses: Vec<SocketAddr>,
    links: mpsc::Receiver<Arc<dyn Link>>,
}

#[async_trait]
impl Listener for QuicListener {
    fn addresses(&self) -> Vec<Address> {
        self.addresses.iter().filter_map(|a| format!("quic://{a}").parse().ok()).collect()
    }

    async fn accept(&mut self) -> Option<Arc<dyn Link>> {
        self.links.recv().await
    }
}

/// The addresses under which others may reach a socket.
fn own_addresses(bound: SocketAddr) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => bound.is_ipv4() && !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => bound.is_ipv6() && !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut ips: BTreeSet<IpAddr> = interfaces.iter().map(|i| i.ip()).filter(reachable).collect();
    if ips.is_empty() {
        // No network: at least nodes on this machine can meet.
        ips.insert(if bound.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    ips.into_iter().take(limits::ADDRESSES).map(|ip| SocketAddr::new(ip, bound.port())).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use peerloom_core::framing::class_byte;

    fn transport(seed: u8) -> QuicTransport {
        let config = QuicConfig { listen: "127.0.0.1:0".into(), ..QuicConfig::default() };
        QuicTransport::new(config, &DeviceSecret::new([seed; 32])).unwrap()
    }

    /// A connection by hand, and the link that the other side sees.
    async fn raw(
        attacker: &QuicTransport,
        victim: &QuicTransport,
    ) -> (quinn::Connection, Arc<dyn Link>, Box<dyn Listener>) {
        let mut listener = victim.listen(None).await.unwrap();
        let address: SocketAddr = listener.addresses()[0].rest().parse().unwrap();
        let connecting = attacker.endpoint().unwrap().connect(address, &tls::server_name(None)).unwrap();
        let (connection, link) = tokio::join!(connecting, listener.accept());
        (connection.unwrap(), link.unwrap(), listener)
    }

    #[tokio::test]
    async fn promises_of_4_gib_are_refused_before_anything_is_allocated() {
        let (attacker, victim) = (transport(1), transport(2));
        let (connection, link, _listener) = raw(&attacker, &victim).await;
        for class in [peerloom_core::ChannelClass::Control, peerloom_core::ChannelClass::Chat] {
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
}

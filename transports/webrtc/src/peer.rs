//! One peer connection of the `webrtc` crate, set up for data channels alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::sha256;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::ice::network_type::NetworkType;
use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use tokio::sync::mpsc;
use webrtc::data_channel::DataChannel;
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCCertificate, RTCConfigurationBuilder,
    RTCIceConnectionState, RTCIceGatheringState, RTCIceTransportPolicy, RTCPeerConnectionIceEvent,
    RTCPeerConnectionState, SettingEngineBuilder, crypto,
};

use crate::ice::Prepared;
use crate::message::LONGEST;
use crate::runtime::ConnectionRuntime;
use crate::turn::Relay;

/// How long STUN may be missing before the crate calls a connection disconnected. That it has failed the
/// crate never says (zero): a link that is made by hand may wait for minutes, and links that are up are
/// watched by their sessions.
const DISCONNECTED: Duration = Duration::from_secs(5);
const FAILED: Duration = Duration::ZERO;
/// How often STUN keeps the NAT's mapping and asks for consent at least (RFC 8445 §11 asks for 15 s, RFC 7675 for 5 s).
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How often candidate pairs are tried, and how often each.
const CHECK: Duration = Duration::from_millis(50);
const CHECKS: u16 = u16::MAX;
/// How long better kinds of candidates are waited for before one of this kind is taken.
const REFLEXIVE_WAIT: Duration = Duration::from_millis(100);
const RELAY_WAIT: Duration = Duration::from_millis(1200);
/// What a channel may have unsent in the crate, in bytes; the lanes stay below it.
const SEND_LIMIT: usize = 8 * 1024 * 1024;
/// Ports tried in the configured range before giving up.
const PORT_TRIES: u16 = 64;
/// Events of one connection that wait; a connection whose events nobody takes is over.
const EVENTS: usize = 256;
/// How long closing may take: what waits goes out, and the other side hears of it.
const CLOSE: Duration = Duration::from_secs(2);
/// The same where nothing waits for it. The crate leaks a connection whose closing is given up.
const CLOSE_AT_LAST: Duration = Duration::from_secs(60);

/// Something happened on a connection.
pub(crate) enum PeerEvent {
    /// An own candidate.
    Candidate(String),
    /// There are no more.
    Gathered,
    /// The connection's state.
    State(RTCPeerConnectionState),
    /// The state of its paths.
    Ice(RTCIceConnectionState),
    /// The other side opened a data channel.
    Lane(Arc<dyn DataChannel>),
}

struct Handler(mpsc::Sender<PeerEvent>);

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    // The crate's loop waits for these: they may not.
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Ok(candidate) = event.candidate.to_json() {
            let _ = self.0.try_send(PeerEvent::Candidate(candidate.candidate));
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.0.try_send(PeerEvent::Gathered);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let _ = self.0.try_send(PeerEvent::State(state));
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        let _ = self.0.try_send(PeerEvent::Ice(state));
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let _ = self.0.try_send(PeerEvent::Lane(channel));
    }
}

/// Where to bind, and how.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) ip: IpAddr,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) relay_only: bool,
    pub(crate) window: u32,
    /// How often an idle link is kept alive.
    pub(crate) keep_alive: Duration,
}

/// A peer connection. It must be closed: [`Peer`] sees to that when it is dropped.
pub(crate) struct Peer {
    pub(crate) connection: Arc<dyn PeerConnection>,
    pub(crate) runtime: Arc<ConnectionRuntime>,
    /// SHA-256 of our certificate.
    pub(crate) fingerprint: [u8; 32],
    /// Relays end after the connection, whose last word goes over them.
    relays: Vec<Relay>,
}

pub(crate) fn failed(operation: &'static str, error: webrtc::error::Error) -> Error {
    Error::new(ErrorKind::Unreachable, "webrtc", operation, "the connection could not be made").with_source(error)
}

impl Peer {
    /// Binds sockets, and begins to run. Candidates come once a description is set.
    pub(crate) async fn new(binding: &Binding, prepared: Prepared) -> Result<(Self, mpsc::Receiver<PeerEvent>)> {
        let wrong = |error| failed("set up", error);
        let (certificate, fingerprint) = certificate()?;
        let policy = if binding.relay_only { RTCIceTransportPolicy::Relay } else { RTCIceTransportPolicy::All };
        let configuration = RTCConfigurationBuilder::new()
            .with_ice_servers(prepared.servers)
            .with_ice_transport_policy(policy)
            .with_certificates(vec![certificate])
            .build();
        let settings = SettingEngineBuilder::new()
            .with_ice_timeouts(Some(DISCONNECTED), Some(FAILED), Some(binding.keep_alive.min(KEEP_ALIVE)))
            .with_ice_connection_attempts(Some(CHECK), Some(CHECKS))
            .with_host_acceptance_min_wait(Some(Duration::ZERO))
            .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
            .with_srflx_acceptance_min_wait(Some(REFLEXIVE_WAIT))
            .with_relay_acceptance_min_wait(Some(RELAY_WAIT))
            .with_discard_local_candidates_during_ice_restart(true)
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_network_types(vec![NetworkType::Udp4, NetworkType::Udp6])
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(64 * 1024))
            .with_sctp_max_receive_buffer_size(binding.window)
            .with_crypto_provider(provider())
            .build();
        let runtime = Arc::new(ConnectionRuntime::new(prepared.guard));
        let (events, queue) = mpsc::channel(EVENTS);
        let builder = PeerConnectionBuilder::<SocketAddr>::new()
            .with_configuration(configuration)
            .with_setting_engine(settings)
            .with_runtime(runtime.clone())
            .with_handler(Arc::new(Handler(events)))
            .with_udp_addrs(vec![address(binding)?])
            .with_data_channel_send_buffer_limit(SEND_LIMIT);
        // 20 KiB of state, which every future around it would hold.
        let connection = Box::pin(builder.build()).await.map_err(wrong)?;
        let peer = Self { connection: Arc::new(connection), runtime, fingerprint, relays: prepared.relays };
        Ok((peer, queue))
    }

    /// SHA-256 of the certificate that the other side showed in the DTLS handshake.
    pub(crate) async fn remote_fingerprint(&self) -> Result<[u8; 32]> {
        let missing =
            || Error::new(ErrorKind::Unauthenticated, "webrtc", "bind", "the other side shows no certificate");
        let sctp = self.connection.sctp().await.ok_or_else(missing)?;
        let chain = sctp.transport().get_remote_certificates().await.map_err(|e| missing().with_source(e))?;
        Ok(sha256(&[chain.first().ok_or_else(missing)?]))
    }

    /// Ends the connection; the other side hears of it.
    pub(crate) async fn close(&self) {
        self.runtime.cool();
        // Whatever comes of it, the connection is over.
        let _ = tokio::time::timeout(CLOSE, self.connection.close()).await;
    }
}

impl Drop for Peer {
    /// The crate leaks a connection that isn't closed.
    fn drop(&mut self) {
        let (connection, relays) = (self.connection.clone(), std::mem::take(&mut self.relays));
        self.runtime.cool();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(CLOSE_AT_LAST, connection.close()).await;
                drop(relays);
            });
        }
    }
}

fn provider() -> Arc<dyn crypto::RTCCryptoProvider> {
    Arc::new(crypto::providers::AwsLcRsProvider::new())
}

/// A certificate of this connection's own: two links never have the same, and nobody can tell by it
/// that two are one device's.
fn certificate() -> Result<(RTCCertificate, [u8; 32])> {
    let bug = |message: String| Error::new(ErrorKind::Internal, "webrtc", "make a certificate", message);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| bug(e.to_string()))?;
    let params = rcgen::CertificateParams::new(vec!["peerloom".into()]).map_err(|e| bug(e.to_string()))?;
    let made = params.self_signed(&key).map_err(|e| bug(e.to_string()))?;
    let fingerprint = sha256(&[made.der()]);
    let expires = SystemTime::now() + Duration::from_secs(30 * 24 * 3600);
    let certificate = RTCCertificate::from_pkcs8(
        provider().crypto(),
        crypto::SignatureScheme::EcdsaP256Sha256,
        vec![made.der().clone()],
        &key.serialize_der(),
        expires,
    );
    Ok((certificate.map_err(|e| bug(e.to_string()))?, fingerprint))
}

/// The address to bind: with a port of the configured range that is free now.
fn address(binding: &Binding) -> Result<SocketAddr> {
    let Some((first, last)) = binding.ports else {
        return Ok(SocketAddr::new(binding.ip, 0));
    };
    let random: [u8; 2] = peerloom_crypto_primitives::random()
        .map_err(|e| Error::new(ErrorKind::System, "webrtc", "bind", "no randomness").with_source(e))?;
    let count = u32::from(last - first) + 1;
    let start = u32::from(u16::from_be_bytes(random));
    for number in 0..u32::from(PORT_TRIES).min(count) {
        let offset = (start + number) % count;
        let port = first + u16::try_from(offset).unwrap_or_default();
        let address = SocketAddr::new(binding.ip, port);
        if std::net::UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    let message = format!("no port from {first} to {last} is free; widen transport.ports");
    Err(Error::new(ErrorKind::InUse, "webrtc", "bind", message))
}

/// Longest message to send to a peer that takes `max_message` bytes.
pub(crate) fn longest_message(max_message: usize) -> usize {
    LONGEST.min(max_message)
}

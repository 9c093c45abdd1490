//! The transport contract: links to devices, and framed channels on them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use futures_sink::Sink;
use peerloom_wire::{Address, PublicKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{Admission, Diagnostic, Error, ErrorKind, IceServer, Result, Signal, Signaling};

/// Makes links to other devices.
///
/// **The author's duties.** Links encrypt, and give a channel binding that both ends, and nobody
/// else, compute. Where there are only plain byte streams, implement
/// [`StreamTransport`](crate::StreamTransport): the stack makes links of them. A device that proved no
/// key can't make it allocate more than a few KiB, or hold anything for more than 10 s; those that dial
/// share [`Places`](crate::Places), so that a newcomer always gets its turn. Dropping a call's future
/// abandons the attempt and frees what it held.
///
/// **The caller's duties.** [`listen`](Transport::listen) is called at most once, inside a Tokio
/// runtime. Who the other side *is* gets decided by the engine's handshake on the first channel; if the
/// device may stay, the engine calls [`Link::admit`].
///
/// ```
/// # use bytes::Bytes;
/// # use futures_util::{SinkExt, StreamExt};
/// # use peerloom_core::memory::{MemoryNetwork, MemoryTransport};
/// # use peerloom_core::{ChannelClass, Result, Transport, wire::PublicKey};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let network = MemoryNetwork::default();
/// let (alice, bob) = (PublicKey::ed25519([1; 32]), PublicKey::ed25519([2; 32]));
/// let near = MemoryTransport::new(&network, "memory://alice".parse()?, alice);
/// let far = MemoryTransport::new(&network, "memory://bob".parse()?, bob.clone());
///
/// let mut listener = far.listen(None).await?;
/// let address = listener.addresses().remove(0);
/// let (dialed, accepted) = tokio::join!(near.dial(&address, Some(&bob), None), listener.accept());
/// let (dialed, accepted) = (dialed?, accepted.expect("the other end"));
/// assert_eq!(dialed.channel_binding()?, accepted.channel_binding()?);
///
/// let mut outgoing = dialed.open(ChannelClass::Chat).await?;
/// outgoing.sender.send(Bytes::from_static(b"a frame")).await?;
/// let mut incoming = accepted.accept().await?;
/// assert_eq!(incoming.receiver.next().await.expect("a frame")?, "a frame");
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Transport: Send + Sync {
    /// The scheme of its addresses.
    fn scheme(&self) -> &str;

    /// What it can do.
    fn caps(&self) -> TransportCaps;

    /// What to ask about devices that want a link; given before `listen`. It is for transports that spend
    /// much on a link before the engine's handshake: they keep places for
    /// [`Known`](crate::Standing::Known) devices and spend nothing on
    /// [`Unwelcome`](crate::Standing::Unwelcome) ones. The others hand the engine a link at once, and the
    /// engine decides.
    fn set_admission(&self, _admission: Arc<dyn Admission>) {}

    /// Binds, and begins to accept links. Where [`TransportCaps::needs_signaling`] is set, offers
    /// of others come over `signaling`; without one the transport can still dial by hand.
    ///
    /// Not cancel safe: it is called once, and a call that is dropped may have bound already.
    async fn listen(&self, signaling: Option<Arc<dyn Signaling>>) -> Result<Box<dyn Listener>>;

    /// Makes a link to the device at an address. With `expected`, a device with another key is an
    /// error of kind [`Unauthenticated`](crate::ErrorKind::Unauthenticated). `signaling` is given
    /// where [`TransportCaps::needs_signaling`] is set.
    ///
    /// Cancel safe: dropping the call gives the attempt up; the other side may see a link that ends at once.
    async fn dial(
        &self,
        address: &Address,
        expected: Option<&PublicKey>,
        signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>>;

    /// Answers an offer that came another way than over the signaling it listens on: people carried it.
    /// The answer goes over `signaling`, and the link comes to the listener.
    fn answer(&self, _offer: &Signal, _signaling: Arc<dyn Signaling>) -> Result<()> {
        Err(Error::new(ErrorKind::Invalid, self.scheme().to_owned(), "answer", "this transport takes no offers"))
    }

    /// Closes all links and the listener, and waits up to a second for the peers to hear of it.
    ///
    /// Cancel safe: what was closed before the call was dropped stays closed, and another call closes the rest.
    async fn shutdown(&self);

    /// The machine's addresses changed: look for new paths now instead of waiting for timeouts.
    fn network_changed(&self) {}

    /// The STUN and TURN servers to use from now on, in place of the configured ones.
    fn set_ice_servers(&self, _servers: Vec<IceServer>) -> Result<()> {
        let message = "it uses no STUN or TURN servers; they are for transports such as webrtc";
        Err(Error::new(ErrorKind::Invalid, self.scheme().to_owned(), "set ice servers", message))
    }

    /// What this machine's network allows it, for `peerloom doctor`; takes up to 10 s. Cancel safe: it changes nothing.
    async fn diagnose(&self) -> Vec<Diagnostic> {
        Vec::new()
    }
}

/// What a transport can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportCaps {
    /// Links know the other device's key ([`Link::remote_key`]).
    pub authenticates: bool,
    /// It can reach devices behind NATs.
    pub nat_traversal: bool,
    /// It can dial only with a [`Signaling`].
    pub needs_signaling: bool,
    /// Longest frame it carries on a chat channel, in bytes; at least
    /// [`peerloom_wire::limits::CHAT_FRAME`].
    pub max_frame: usize,
}

/// The accepting side of a transport. Dropping it stops accepting; links live on.
#[async_trait]
pub trait Listener: Send {
    /// Where others can dial this device now, best first; empty where none can. It is asked again when the
    /// machine's addresses change. For a socket, [`reachable_at`](crate::interfaces::reachable_at) has the answer.
    fn addresses(&self) -> Vec<Address>;

    /// The next link; `None` once the transport is shut down. Failed attempts of others are
    /// counted and logged by the transport, not returned. Cancel safe: no link is lost when the call is dropped.
    async fn accept(&mut self) -> Option<Arc<dyn Link>>;
}

/// A connection to one device, with any number of channels on it.
///
/// **The author's duties.** All methods may be called concurrently. Until [`admit`](Link::admit) was
/// called, the link takes in at most 256 KiB that nobody reads, on at most two channels that the other
/// side opened. A channel whose reader is slow
/// holds up its own writer and no other channel; a bulk channel never delays a chat or control
/// channel by more than a frame. When the link dies, every pending call ends with an error of kind
/// [`Closed`](crate::ErrorKind::Closed), within the transport's idle timeout.
#[async_trait]
pub trait Link: Send + Sync {
    /// The key with which the other device authenticated, where [`TransportCaps::authenticates`] is set.
    fn remote_key(&self) -> Option<PublicKey>;

    /// 32 bytes that both ends of this very link compute, and nobody else.
    fn channel_binding(&self) -> Result<[u8; 32]>;

    /// The other side may stay: from now on the link may hold as much unread as its transport's windows
    /// allow, and the other side may open more channels. The engine calls it after its handshake.
    fn admit(&self);

    /// Opens a channel. The other side sees it once a first frame was sent. Cancel safe: a channel that nobody gets
    /// is closed.
    async fn open(&self, class: ChannelClass) -> Result<Channel>;

    /// The next channel that the other side opened. At most 16 wait to be accepted.
    ///
    /// Not cancel safe: a channel that has come and hasn't shown its class yet is closed with a call that is dropped.
    /// One task accepts, in a loop.
    async fn accept(&self) -> Result<Channel>;

    /// Where the other side is, for people.
    fn remote_address(&self) -> String;

    /// Which way it takes through the network.
    fn path(&self) -> LinkPath {
        LinkPath::Direct
    }

    /// Figures since the link was made.
    fn stats(&self) -> LinkStats;

    /// Closes the link, and with it all channels. `reason` may reach the other side.
    fn close(&self, reason: &str);

    /// Completes when the link is closed by either side or lost, and says why. Cancel safe; any number may wait.
    async fn closed(&self) -> Error;
}

/// What a channel is for; decides its priority and its longest frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelClass {
    /// Handshake and receipts: small and urgent.
    Control,
    /// Messages.
    Chat,
    /// Files: yields to the others.
    Bulk,
}

impl ChannelClass {
    /// Longest frame, in bytes.
    pub fn max_frame(self) -> usize {
        match self {
            Self::Control => peerloom_wire::limits::CONTROL_FRAME,
            Self::Chat | Self::Bulk => peerloom_wire::limits::CHAT_FRAME,
        }
    }
}

/// The sending half of a channel. It is ready only while the other side has room: back-pressure. Sending is not cancel
/// safe: a frame whose sending was dropped was taken or not, but never in part.
pub type FrameSender = Pin<Box<dyn Sink<Bytes, Error = Error> + Send>>;

/// The receiving half: whole frames in the order they were sent. `None` is a clean end by the
/// other side; a frame longer than its class allows is an error, found before anything is
/// allocated for it. Waiting for the next frame is cancel safe.
pub type FrameReceiver = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// An ordered, reliable stream of frames in both directions.
pub struct Channel {
    /// What it is for.
    pub class: ChannelClass,
    /// The sending half.
    pub sender: FrameSender,
    /// The receiving half.
    pub receiver: FrameReceiver,
}

/// Figures of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Smoothed round trip, in microseconds.
    pub rtt_us: u64,
    /// Bytes sent, with the transport's overhead.
    pub bytes_sent: u64,
    /// Bytes received, with the transport's overhead.
    pub bytes_received: u64,
}

/// Which way a link takes through the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkPath {
    /// From address to address.
    Direct,
    /// Direct, through a hole in a NAT: one side's address is server-reflexive, `srflx`, or
    /// peer-reflexive, `prflx` (RFC 8445 §5.1.1).
    Punched(&'static str),
    /// Through a TURN server (RFC 8656).
    Turn,
}

impl fmt::Display for LinkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Punched(candidate) => write!(f, "direct via {candidate}"),
            Self::Turn => f.write_str("relayed by TURN"),
        }
    }
}

/// The secret seed of this device's key. Wiped from memory when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DeviceSecret([u8; 32]);

impl DeviceSecret {
    /// Takes an Ed25519 seed.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The seed.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceSecret(…)")
    }
}

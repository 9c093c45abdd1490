//! The signaling contracts: what two devices send each other before a link exists.
//!
//! A [`SignalCarrier`] brings bytes to a device and isn't trusted. [`Signaling`] is what transports see: each
//! signal's sender is verified. The engine makes the second of the first.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use peerloom_wire::{DeviceId, SessionId, Signed};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::Result;

/// What a receiver gets, as the stream of a `receive`.
pub fn received<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) }).boxed()
}

/// Carries signed signals between two devices before a link exists.
///
/// **The author's duties.** Signals to one device keep their order or are lost; loss is allowed. What waits to
/// be received is bounded, and drops the newest. Signals of up to [`peerloom_wire::limits::SIGNED_SIGNAL`] bytes
/// are carried as they are; the author verifies nothing in them.
///
/// **The caller's duties.** A carrier may read a signal, hold it back, repeat it or invent one: the caller verifies
/// each.
#[async_trait]
pub trait SignalCarrier: Send + Sync {
    /// Sends to a device. `Ok` means accepted for sending, not received. An error of kind
    /// [`Unreachable`](crate::ErrorKind::Unreachable) says that the device isn't there.
    async fn send(&self, to: DeviceId, signal: Signed) -> Result<()>;

    /// What other devices send, from now on.
    fn receive(&self) -> BoxStream<'static, Carried>;

    /// STUN and TURN servers that the carrier's operator offers, beside the configured ones.
    async fn ice_servers(&self) -> Vec<IceServer> {
        Vec::new()
    }
}

/// What a [`SignalCarrier`] brought. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The sender as the carrier names it; `None` where it names none. A signal of another device is refused.
    pub from: Option<DeviceId>,
    /// The signed [`peerloom_wire::SignedSignal`].
    pub signal: Signed,
}

/// Sends signals in this device's name, and gives out those of others that are verified.
///
/// **The author's duties.** Each received signal is its sender's, for this device, of this network, in time, and was
/// not received before. Signals to one device keep their order or are lost. What waits to be received is bounded,
/// and drops the newest. Payloads of up to [`peerloom_wire::limits::SIGNAL`] bytes are carried.
///
/// **The caller's duties.** A signal proves who sent it, not who is on the other end of a link that comes of it: that
/// is proved on the link itself.
#[async_trait]
pub trait Signaling: Send + Sync {
    /// How it carries.
    fn caps(&self) -> SignalingCaps {
        SignalingCaps { trickles: true, patience: Duration::from_secs(15) }
    }

    /// Signs and sends to a device. `Ok` means accepted for sending, not received. An error of kind
    /// [`Unreachable`](crate::ErrorKind::Unreachable) says that the device isn't there.
    async fn send(&self, to: DeviceId, session: SessionId, payload: Bytes) -> Result<()>;

    /// What other devices send, from now on.
    fn receive(&self) -> BoxStream<'static, Signal>;

    /// STUN and TURN servers that carriers offer, beside the configured ones.
    async fn ice_servers(&self) -> Vec<IceServer> {
        Vec::new()
    }
}

/// How a [`Signaling`] carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalingCaps {
    /// It takes several messages each way, as candidates come to be known (trickle ICE, RFC 8838).
    /// Otherwise there is one offer and one answer, and each must say everything.
    pub trickles: bool,
    /// How long an answer may take.
    pub patience: Duration,
}

/// A message of [`Signaling`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Who sent it.
    pub from: DeviceId,
    /// What it is about.
    pub session: SessionId,
    /// An offer, an answer or a candidate, as the transport encodes it.
    pub payload: Bytes,
}

/// A STUN or TURN server. Its credential doesn't show itself in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// Where it is: `stun:host:port`, `turn:host:port` (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).field("username", &self.username).finish_non_exhaustive()
    }
}

//! The signaling contract: what two devices tell each other before a link exists.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use peerloom_wire::DeviceId;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Carries small messages between two devices before a link exists.
///
/// **The author's duties.** Messages to one device keep their order or are lost; loss is allowed,
/// duplicates are not. What waits to be received is bounded, and drops the newest. Payloads of up to
/// [`peerloom_wire::limits::SIGNAL`] bytes are carried.
///
/// **The caller's duties.** Whoever carries a signal may read it, hold it back or invent one: what
/// is agreed on by signals must be proved on the link itself.
#[async_trait]
pub trait Signaling: Send + Sync {
    /// How it carries.
    fn caps(&self) -> SignalingCaps {
        SignalingCaps { trickles: true, patience: Duration::from_secs(15) }
    }

    /// Sends to a device. `Ok` means accepted for sending, not received. An error of kind
    /// [`Unreachable`](crate::ErrorKind::Unreachable) says that the device isn't there.
    async fn send(&self, to: DeviceId, payload: Bytes) -> Result<()>;

    /// What other devices send, from now on.
    fn receive(&self) -> BoxStream<'static, Signal>;

    /// STUN and TURN servers that whoever runs the signaling offers, beside the configured ones.
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
    /// Who sent it, as far as the signaling knows.
    pub from: DeviceId,
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

//! How links and contacts' devices stand, for people.

use peerloom_core::LinkPath;
use peerloom_core::wire::{DeviceId, Negotiated, UserId};
use peerloom_delivery::ConnectionState;

use crate::roles::LinkRole;

/// A link, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// What the other side is to this node.
    pub role: LinkRole,
    /// Where the other side is.
    pub address: String,
    /// Which way it takes.
    pub path: LinkPath,
    /// What the two sides agreed on in the handshake.
    pub negotiated: Negotiated,
    /// Smoothed round trip, in microseconds.
    pub rtt_us: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

/// How a contact's device stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// Where it stands on the way to a link.
    pub state: ConnectionState,
    /// The link, if one is up.
    pub link: Option<LinkInfo>,
    /// Why nothing is sent to it, or why the last attempt to make a link failed.
    pub reason: Option<String>,
    /// The first of our crypto suites that the device offers in its signed record.
    pub suite: Option<String>,
    /// Whether the device signed a notice that its store was restored or copied.
    pub restored: bool,
    /// When a link was last made, in milliseconds since the Unix epoch; 0 = never.
    pub last_seen_ms: u64,
}

//! The messages on the WebSocket.

use std::fmt;

use peerloom_wire::{DeviceId, NetworkId, Signed};
use serde::{Deserialize, Serialize};

use crate::http::Failure;
use crate::text;

/// From the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ServerMessage {
    /// The first message.
    Challenge {
        /// 32 random bytes.
        #[serde(with = "text::bytes")]
        nonce: [u8; 32],
        /// The name by which this server was called, `host` or `host:port`.
        registry: String,
        /// The work that a hello needs, in leading zero bits; 0 for none.
        work_bits: u32,
    },
    /// The hello was accepted; signals may be sent.
    Ready {},
    /// From another device.
    Signal {
        /// Who sent it. The server has checked that.
        #[serde(with = "text::id")]
        from: DeviceId,
        /// What was sent.
        payload: String,
    },
    /// The signal is in the other device's queue.
    Sent {
        /// The device.
        #[serde(with = "text::id")]
        to: DeviceId,
        /// The signal's number.
        id: u64,
    },
    /// The signal is dropped: the device has no socket in this network.
    Absent {
        /// The device.
        #[serde(with = "text::id")]
        to: DeviceId,
        /// The signal's number, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    },
    /// The signal is dropped: the device's queue is full, or this client sends too fast.
    Busy {
        /// The device.
        #[serde(with = "text::id")]
        to: DeviceId,
        /// The signal's number, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// When to try again, in milliseconds, where this client was too fast.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// Why the server closes the socket.
    Error(Failure),
}

/// From a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ClientMessage {
    /// Answers the challenge, and announces the record.
    Hello(Box<Hello>),
    /// For another device of the network.
    Signal {
        /// The device.
        #[serde(with = "text::id")]
        to: DeviceId,
        /// What to send: opaque, at most [`crate::limits::PAYLOAD`] bytes.
        payload: String,
        /// A number for the answer. Without one, only failures are answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    },
}

/// Who a client is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The network.
    #[serde(with = "text::id")]
    pub network: NetworkId,
    /// The device's signed record.
    #[serde(with = "text::record")]
    pub record: Signed,
    /// The device key's signature over [`crate::proof::challenge_input`].
    #[serde(with = "text::bytes")]
    pub signature: [u8; 64],
    /// A private network's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The proof of work, where the challenge wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<u64>,
    /// Where the device takes signals, if not over this registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_address: Option<String>,
    /// The coordinators that the device is linked to now; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "text::devices")]
    pub coordinators: Vec<DeviceId>,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("network", &self.network).finish_non_exhaustive()
    }
}

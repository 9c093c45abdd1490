//! The bodies of HTTP calls.

use peerloom_wire::{DeviceId, NetworkId, Signed, UserId};
use serde::{Deserialize, Serialize};

use crate::text;

/// `POST /network/{networkId}/announce`: makes a device findable until its record expires, or until it
/// hasn't been seen for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Announce {
    /// The device; it must be the record's.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub peer_id: DeviceId,
    /// Where the device takes signals, `scheme://place`; without it, over this registry's WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SignalAddress>))]
    pub signal_address: Option<String>,
    /// The record's capabilities once more, for those who can't read it; must equal them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<u64>,
    /// The signed peer record in base64url; it proves who announces.
    #[serde(with = "text::record")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Record))]
    pub record: Signed,
    /// The proof of work, where the registry wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<u64>,
    /// The coordinators that the device is linked to now; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "text::devices")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::Id>, max_items = 5))]
    pub coordinators: Vec<DeviceId>,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Announced {
    /// False when this very record was known already, though it may be forgotten: nothing changed, not
    /// even when the device was last seen. It may be a replay. Say hello, or sign a newer record.
    pub changed: bool,
}

/// `POST /network/{networkId}/item`: an announced device publishes an item other than its record: a device list of
/// its user, a key package or a service offer of its own. It stays for some days, or until it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PublishItem {
    /// The device.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub peer_id: DeviceId,
    /// The item in base64url. Text, so that a kind of a later version is refused by its own code.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Item))]
    pub item: String,
    /// When it is published; within two minutes of the server's clock.
    pub at_ms: u64,
    /// The device key's signature over [`crate::proof::item_input`], in base64url.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Signature))]
    pub signature: [u8; 64],
}

/// `GET /network/{networkId}/device-list/{userId}`, `…/key-package/{hash}` and `…/service/{kind}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ItemsAnswer {
    /// The items, published last first. Of a device list, what each of the user's devices published.
    pub items: Vec<FoundItem>,
}

/// An item as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FoundItem {
    /// The item in base64url, byte for byte as it was published. Text, so that one item of a later version doesn't
    /// spoil the answer; see [`text::decode_item`].
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Item))]
    pub item: String,
    /// How long ago it was published, in milliseconds.
    pub age_ms: u64,
}

/// `GET /network/{networkId}/active-peers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ActivePeers {
    /// Devices that are online, in the order of their ids. A page may have fewer than were asked for
    /// although more follow.
    pub peers: Vec<ActivePeer>,
    /// What to ask for next (`after`); absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Id>))]
    pub next: Option<String>,
}

/// A device that is online.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ActivePeer {
    /// Its user.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub user_id: UserId,
    /// The device.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub peer_id: DeviceId,
    /// Where it takes signals; null: over this registry.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SignalAddress>))]
    pub signal_address: Option<String>,
    /// When it was last seen.
    pub last_seen: u64,
    /// Whether it sent a heartbeat as a coordinator in the last minutes.
    pub is_coordinator: bool,
}

/// `GET /network/{networkId}/peer/{userId}`. About a user that isn't known: no devices, and who helps to meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UserAnswer {
    /// Whether one of the devices is online.
    pub online: bool,
    /// The user's devices, last seen first.
    pub devices: Vec<Device>,
    /// The coordinators that the user's devices named lately, the last one first: they saw this user.
    pub last_coordinators: Vec<Coordinator>,
    /// Who else helps to meet in this network, best first. Where no coordinator reported lately, these are
    /// the online devices with most capabilities.
    #[serde(default)]
    pub coordinators: Vec<Coordinator>,
}

/// `GET /network/{networkId}/device/{peerId}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceAnswer {
    /// Whether it is online.
    pub online: bool,
    /// The device.
    pub device: Device,
}

/// A device as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The device.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub peer_id: DeviceId,
    /// Where it takes signals; null: over this registry.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SignalAddress>))]
    pub signal_address: Option<String>,
    /// When it was last seen.
    pub last_seen: u64,
    /// How long ago that was, in milliseconds by the registry's clock.
    #[serde(default)]
    pub age_ms: u64,
    /// Its signed record in base64url, byte for byte as it was announced. Text, so that one record of a
    /// later version doesn't spoil the answer; see [`text::decode_record`].
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Record))]
    pub record: String,
    /// Whether it has a socket open, or announced itself lately and hasn't closed one since.
    pub online: bool,
}

/// Somebody who may help to meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Coordinator {
    /// The device.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub peer_id: DeviceId,
    /// Where it takes signals; null: over this registry.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SignalAddress>))]
    pub signal_address: Option<String>,
    /// When its last heartbeat came, by the registry's clock; for a device that sent none, when it was last seen.
    pub last_seen: u64,
    /// How many peers it can take, as it says itself; null for a device that sent no heartbeat.
    pub capacity: Option<u32>,
}

/// `POST /coordinator/heartbeat`: an announced device says that it coordinates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// The network.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub network_id: NetworkId,
    /// The device.
    #[serde(with = "text::id")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Id))]
    pub peer_id: DeviceId,
    /// How many peers it serves now.
    pub active_peers: u32,
    /// How many peers it can take.
    pub capacity: u32,
    /// When it says so; later than its last heartbeat, and within two minutes of the server's clock.
    pub at_ms: u64,
    /// The device key's signature over [`crate::proof::heartbeat_input`], in base64url.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Signature))]
    pub signature: [u8; 64],
}

/// `GET /network/{networkId}/ice-servers`: what `RTCPeerConnection` takes, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct IceAnswer {
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// For how many seconds the credentials are valid.
    pub ttl_seconds: u64,
}

/// STUN or TURN servers with the same credentials.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct IceServer {
    /// Their URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// A TURN user name: when it expires, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password: base64 of HMAC-SHA1 over the user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl std::fmt::Debug for IceServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).field("username", &self.username).finish_non_exhaustive()
    }
}

/// Every failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// What failed.
    pub error: Failure,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One of [`crate::code`].
    pub code: String,
    /// What to do about it.
    pub message: String,
    /// When to call again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The work that is wanted, in leading zero bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_bits: Option<u32>,
}

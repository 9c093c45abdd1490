//! Every limit of the protocol.

/// Longest body of a request, in bytes.
pub const BODY: usize = 8 * 1024;
/// Longest body of a request that publishes an item, in bytes: the longest item in base64url, and what stands around.
pub const ITEM_BODY: usize = (peerloom_wire::limits::DISCOVERY_ITEM / 3 + 1) * 4 + 1024;
/// Most items in an answer.
pub const ITEMS: usize = 64;
/// Most bytes of items in an answer, before base64url; the newest that fit are given.
pub const ITEM_BYTES: usize = 160 * 1024;
/// Most items that a registry keeps of one device; of more, the one published longest ago goes.
pub const ITEMS_OF_DEVICE: usize = 32;
/// Most bytes of items that a registry keeps of one device.
pub const BYTES_OF_DEVICE: usize = 64 * 1024;
/// Most bytes of items that a registry keeps of all devices of a user.
pub const BYTES_OF_USER: usize = 256 * 1024;
/// Longest response that a client takes, in bytes.
pub const RESPONSE: usize = 256 * 1024;
/// Longest payload of a signal, in bytes of UTF-8: a signed signal of 16.5 KiB takes 22,528 in base64url.
pub const PAYLOAD: usize = 22 * 1024;
/// Longest message on the WebSocket, in bytes: a payload with every character escaped, and what
/// stands around it.
pub const MESSAGE: usize = 48 * 1024;
/// Longest name of a registry, in bytes.
pub const REGISTRY_NAME: usize = 256;
/// Longest token of a private network, in bytes.
pub const TOKEN: usize = 256;
/// Longest signal address, in bytes: as long as any other address.
pub const SIGNAL_ADDRESS: usize = peerloom_wire::limits::ADDRESS;
/// Most peers on a page.
pub const PAGE: u32 = 500;
/// Peers on a page when nothing is asked for.
pub const PAGE_DEFAULT: u32 = 100;
/// Most devices in the answer about a user; of more, the longest unseen are left out.
pub const DEVICES: usize = 64;
/// Most coordinators in an answer, and most that a device names.
pub const COORDINATORS: usize = 5;
/// How far a heartbeat's time may be from the server's, in milliseconds.
pub const HEARTBEAT_SKEW_MS: u64 = 2 * 60 * 1000;
/// Most bits of work that a client does: about 16 million hashes, seconds on a phone.
pub const WORK_BITS: u32 = 24;

//! The codes of errors: stable, for programs. The message beside them is for people.

/// Not the JSON that this call takes.
pub const MALFORMED: &str = "malformed";
/// An id or another part of the address is not what it should be.
pub const INVALID_ID: &str = "invalidId";
/// Longer than its limit.
pub const TOO_LARGE: &str = "tooLarge";
/// The record is forged, damaged, or contradicts what stands around it.
pub const BAD_RECORD: &str = "badRecord";
/// The item is forged, damaged, or not one that this device may publish.
pub const BAD_ITEM: &str = "badItem";
/// The record belongs to another network.
pub const FOREIGN_NETWORK: &str = "foreignNetwork";
/// The record is no longer valid.
pub const EXPIRED: &str = "expired";
/// A newer record of the device is known, or this heartbeat is not the newest.
pub const OUTDATED: &str = "outdated";
/// The signature is not the device's.
pub const BAD_SIGNATURE: &str = "badSignature";
/// A heartbeat's time is too far from the server's.
pub const CLOCK_SKEW: &str = "clockSkew";
/// An address points inward, where the registry's clients must not be sent.
pub const INWARD_ADDRESS: &str = "inwardAddress";
/// The announcement lacks the work that the registry wants.
pub const WORK_REQUIRED: &str = "workRequired";
/// The network is private: its token is missing or wrong.
pub const TOKEN_REQUIRED: &str = "tokenRequired";
/// The registry doesn't serve this network.
pub const NETWORK_REFUSED: &str = "networkRefused";
/// Too many calls; the answer says when to call again.
pub const RATE_LIMITED: &str = "rateLimited";
/// Nothing is known by this id or address.
pub const NOT_FOUND: &str = "notFound";
/// The address takes other methods.
pub const METHOD: &str = "method";
/// The call took too long.
pub const TIMEOUT: &str = "timeout";
/// A WebSocket message came where it may not.
pub const UNEXPECTED: &str = "unexpected";
/// The device opened a newer socket.
pub const REPLACED: &str = "replaced";
/// The registry has too much to do, or is being stopped.
pub const OVERLOADED: &str = "overloaded";
/// The registry itself failed.
pub const INTERNAL: &str = "internal";

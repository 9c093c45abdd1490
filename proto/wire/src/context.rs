//! Every domain-separation string in one place: what is hashed or signed under one of them can
//! never be taken for another thing.

/// Prefix of a network's id: `SHA-256(NETWORK_ID ‖ name)`.
pub const NETWORK_ID: &[u8] = b"peerloom/v1/network-id\0";
/// Prefix of a user's id: `SHA-256(USER_ID ‖ algorithm ‖ first user key ‖ algorithm ‖ recovery key)`.
pub const USER_ID: &[u8] = b"peerloom/v1/user-id\0";
/// Prefix of a device's id: `SHA-256(DEVICE_ID ‖ algorithm ‖ first public key)`.
pub const DEVICE_ID: &[u8] = b"peerloom/v1/device-id\0";
/// Prefix of a 1:1 conversation's id: `SHA-256(DIRECT_CONVERSATION ‖ network ‖ lower user ‖ higher user)`.
pub const DIRECT_CONVERSATION: &[u8] = b"peerloom/v1/direct-conversation\0";
/// Prefix of a roster's id: `SHA-256(ROSTER ‖ roster)`.
pub const ROSTER: &[u8] = b"peerloom/v1/roster\0";

/// A device certificate, signed by the user key that is in force.
pub const DEVICE_CERTIFICATE: &[u8] = b"peerloom/v1/device-certificate\0";
/// A signed device certificate, signed again by the device it is for.
pub const CERTIFICATE_ACCEPTANCE: &[u8] = b"peerloom/v1/certificate-acceptance\0";
/// A revocation of devices, signed by the user key that is in force or the recovery key.
pub const REVOCATION: &[u8] = b"peerloom/v1/revocation\0";
/// A succession of user keys, signed by the recovery key.
pub const SUCCESSION: &[u8] = b"peerloom/v1/succession\0";
/// A peer record, signed by the device key.
pub const PEER_RECORD: &[u8] = b"peerloom/v1/peer-record\0";
/// Prefix of an invitation's checksum.
pub const INVITATION: &[u8] = b"peerloom/v1/invitation\0";
/// The handshake's signature, by the device key.
pub const HANDSHAKE: &[u8] = b"peerloom/v1/handshake\0";
/// Label of the TLS exporter (RFC 8446 §7.5) whose output binds the handshake to its link.
pub const CHANNEL_BINDING: &[u8] = b"EXPORTER-peerloom-v1-channel-binding";
/// The header of an entry, signed by the log owner's device key.
pub const ENTRY: &[u8] = b"peerloom/v1/entry\0";
/// Prefix of an entry's id: `SHA-256(ENTRY_ID ‖ header as it was signed)`.
pub const ENTRY_ID: &[u8] = b"peerloom/v1/entry-id\0";
/// Prefix of what a header says of its payload: `SHA-256(ENTRY_PAYLOAD ‖ payload)`.
pub const ENTRY_PAYLOAD: &[u8] = b"peerloom/v1/entry-payload\0";
/// Prefix of what a header says of its welcome: `SHA-256(ENTRY_WELCOME ‖ welcome)`.
pub const ENTRY_WELCOME: &[u8] = b"peerloom/v1/entry-welcome\0";
/// The header of an application entry without its payload's hash, authenticated by the crypto layer
/// as associated data.
pub const ENTRY_HEADER: &[u8] = b"peerloom/v1/entry-header\0";
/// An acknowledgement, signed by the receiving device's key.
pub const ACK: &[u8] = b"peerloom/v1/ack\0";
/// A `cannot-open`, signed by the receiving device's key.
pub const CANNOT_OPEN: &[u8] = b"peerloom/v1/cannot-open\0";
/// A withdrawal, signed by the log owner's device key.
pub const WITHDRAWAL: &[u8] = b"peerloom/v1/withdrawal\0";
/// A request for positions of a log, signed by the receiving device's key.
pub const GAP_REQUEST: &[u8] = b"peerloom/v1/gap-request\0";
/// "These positions hold nothing for you", signed by the log owner's device key.
pub const NOT_FOR_YOU: &[u8] = b"peerloom/v1/not-for-you\0";
/// A device's word that its store was restored or copied, signed by its key.
pub const RESTORED: &[u8] = b"peerloom/v1/restored\0";

/// The X25519 key in a key package of the `sealed` suites, signed by its device's key.
pub const SEALED_KEY: &[u8] = b"peerloom/v1/sealed-key\0";
/// Wrapping a content key for a device: HPKE's `info` (RFC 9180 §5.1).
pub const SEALED_WRAP: &[u8] = b"peerloom/v1/sealed-wrap\0";
/// An entry of the `sealed` suites, signed by the log owner's device key.
pub const SEALED_ENTRY: &[u8] = b"peerloom/v1/sealed-entry\0";

/// The static key of a Noise handshake, signed by the device's key.
pub const NOISE_KEY: &[u8] = b"peerloom/v1/noise-key\0";

/// A signal, signed by its sender's device key.
pub const SIGNAL: &[u8] = b"peerloom/v1/signal\0";

/// What binds the handshake to a WebRTC link: `SHA-256(WEBRTC_BINDING ‖ SHA-256 of the offerer's DTLS
/// certificate ‖ SHA-256 of the answerer's)`.
pub const WEBRTC_BINDING: &[u8] = b"peerloom/v1/webrtc-binding\0";

/// A published key package, signed by its device's key.
pub const KEY_PACKAGE: &[u8] = b"peerloom/v1/key-package\0";
/// A service offer, signed by the device's key.
pub const SERVICE_OFFER: &[u8] = b"peerloom/v1/service-offer\0";
/// Beginning of the contexts of discoveries that other authors write.
pub const DISCOVERY: &[u8] = b"peerloom/v1/discovery/";

/// A registry's challenge, answered with a signature by the device's key.
pub const REGISTRY_CHALLENGE: &[u8] = b"peerloom/v1/registry-challenge\0";
/// A coordinator's heartbeat to a registry, signed by the device's key.
pub const REGISTRY_HEARTBEAT: &[u8] = b"peerloom/v1/registry-heartbeat\0";
/// An item for a registry, signed by the publishing device's key.
pub const REGISTRY_ITEM: &[u8] = b"peerloom/v1/registry-item\0";
/// Prefix of a proof of work for a registry: `SHA-256(REGISTRY_WORK ‖ SHA-256(record) ‖ number)`.
pub const REGISTRY_WORK: &[u8] = b"peerloom/v1/registry-work\0";

/// All of them; a test keeps them distinct and prefix-free.
pub const ALL: [&[u8]; 37] = [
    NETWORK_ID,
    USER_ID,
    DEVICE_ID,
    DIRECT_CONVERSATION,
    ROSTER,
    DEVICE_CERTIFICATE,
    CERTIFICATE_ACCEPTANCE,
    REVOCATION,
    SUCCESSION,
    PEER_RECORD,
    INVITATION,
    HANDSHAKE,
    CHANNEL_BINDING,
    ENTRY,
    ENTRY_ID,
    ENTRY_PAYLOAD,
    ENTRY_WELCOME,
    ENTRY_HEADER,
    ACK,
    CANNOT_OPEN,
    WITHDRAWAL,
    GAP_REQUEST,
    NOT_FOR_YOU,
    RESTORED,
    SEALED_KEY,
    SEALED_WRAP,
    SEALED_ENTRY,
    NOISE_KEY,
    SIGNAL,
    WEBRTC_BINDING,
    KEY_PACKAGE,
    SERVICE_OFFER,
    DISCOVERY,
    REGISTRY_CHALLENGE,
    REGISTRY_HEARTBEAT,
    REGISTRY_ITEM,
    REGISTRY_WORK,
];

/// What a discovery may have signed with the device's key; nothing else of the stack is signed under these.
pub const OF_DISCOVERIES: [&[u8]; 4] = [DISCOVERY, REGISTRY_CHALLENGE, REGISTRY_HEARTBEAT, REGISTRY_ITEM];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn no_context_is_the_beginning_of_another() {
        for (i, a) in ALL.iter().enumerate() {
            for (j, b) in ALL.iter().enumerate() {
                assert!(i == j || !b.starts_with(a), "{i} begins {j}");
            }
        }
    }
}

//! Every limit on lengths and counts. A number here is part of the format: raising one needs a
//! version, lowering one breaks peers.

/// Longest frame on a control channel, in bytes.
pub const CONTROL_FRAME: usize = 64 * 1024;
/// Longest frame on a chat or bulk channel, in bytes.
pub const CHAT_FRAME: usize = 2 * 1024 * 1024;
/// Longest frame before the handshake is done, in bytes.
pub const HANDSHAKE_FRAME: usize = 4 * 1024;

/// Longest body of one message, in bytes. Larger things are files.
pub const MESSAGE_BODY: usize = 1024 * 1024;
/// Longest content type of a message, in bytes.
pub const CONTENT_TYPE: usize = 127;
/// Most messages in one entry.
pub const BUNDLE_ITEMS: usize = 4096;
/// Most earlier positions that a message sealed again remembers.
pub const RESEALED_FROM: usize = 8;
/// Longest payload of a handshake entry, in bytes.
pub const HANDSHAKE_PAYLOAD: usize = 128 * 1024;
/// Longest plaintext of one entry, in bytes.
pub const BUNDLE: usize = MESSAGE_BODY + 64 * 1024;
/// Size at which the committer closes an entry and begins the next, in bytes. A single larger
/// message gets an entry of its own. Just below 512 KiB, since stores like powers of two.
pub const BUNDLE_TARGET: usize = 508 * 1024;
/// Longest sealed payload of one entry, in bytes.
pub const PAYLOAD: usize = BUNDLE + 128 * 1024;
/// Most users of a conversation.
pub const MEMBERS: usize = 256;
/// Most devices that one entry is addressed to.
pub const RECIPIENTS: usize = 256;
/// Longest header of an entry with its signature, in bytes: half of all devices may join while the others are left out.
pub const HEADER: usize = 20 * 1024;

/// Longest peer record with its signature, in bytes: it must fit a DNS TXT record.
pub const RECORD: usize = 900;
/// Longest device certificate with its signatures, or succession, in bytes.
pub const CERTIFICATE: usize = 640;
/// Most devices that speak for a user.
pub const DEVICES: usize = 16;
/// Most certificates that a device list names.
pub const LISTED: usize = 64;
/// Most devices that one revocation names.
pub const REVOKED: usize = 256;
/// Longest revocation with its signature, in bytes.
pub const REVOCATION: usize = 34 * REVOKED + 256;
/// Most revocations in a device list; one that names all devices of another takes its place.
pub const REVOCATIONS: usize = 16;
/// Longest device list, in bytes.
pub const DEVICE_LIST: usize = REVOCATIONS * REVOCATION + 8 * 1024;
/// Longest device list with the certificates of its devices, in bytes, as devices show it on links.
pub const USER_DEVICES: usize = 48 * 1024;
/// Most addresses in a record.
pub const ADDRESSES: usize = 8;
/// Longest address, in bytes.
pub const ADDRESS: usize = 128;
/// Most suites in a record or a hello.
pub const SUITES: usize = 16;
/// Most key package hashes in a record.
pub const KEY_PACKAGE_HASHES: usize = 4;
/// Longest invitation, in bytes.
pub const INVITATION: usize = 1280;
/// Longest name of a user or device, in bytes.
pub const NAME: usize = 64;
/// Longest key, in bytes.
pub const KEY: usize = 64;
/// Longest signature, in bytes.
pub const SIGNATURE: usize = 128;

/// Most ranges or spans in an acknowledgement, a gap request or a withdrawal.
pub const RANGES: usize = 64;
/// Longest acknowledgement, `cannot-open` or withdrawal with its signature, in bytes.
pub const RECEIPT: usize = 6 * 1024;
/// Longest key package, in bytes: a hybrid post-quantum one takes 2,640.
pub const KEY_PACKAGE: usize = 4096;

/// Longest published key package with its signature, in bytes.
pub const PUBLISHED_KEY_PACKAGE: usize = KEY_PACKAGE + 512;
/// Longest service offer with its signature, in bytes.
pub const SERVICE_OFFER: usize = RECORD;
/// Longest item of a discovery, in bytes: a device list with all certificates and some 500 revoked devices.
pub const DISCOVERY_ITEM: usize = 32 * 1024;

/// Longest body of a signal between two devices, in bytes: an offer with its candidates takes 1 to 3 KiB.
pub const SIGNAL: usize = 16 * 1024;
/// Longest signal with what is signed beside it and its signature, in bytes.
pub const SIGNED_SIGNAL: usize = SIGNAL + 512;

/// Most unknown fields at one level of a message: room for newer versions, none for floods.
pub const UNKNOWN_FIELDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// What peers of the same version count on, in bytes.
    #[test]
    fn the_lengths_of_the_format_stay_as_they_are() {
        for (limit, bytes) in [
            (CONTROL_FRAME, 65_536),
            (CHAT_FRAME, 2_097_152),
            (HANDSHAKE_FRAME, 4_096),
            (MESSAGE_BODY, 1_048_576),
            (HANDSHAKE_PAYLOAD, 131_072),
            (BUNDLE, 1_114_112),
            (BUNDLE_TARGET, 520_192),
            (PAYLOAD, 1_245_184),
            (HEADER, 20_480),
            (REVOCATION, 8_960),
            (DEVICE_LIST, 151_552),
            (USER_DEVICES, 49_152),
            (RECEIPT, 6_144),
            (PUBLISHED_KEY_PACKAGE, 4_608),
            (DISCOVERY_ITEM, 32_768),
            (SIGNAL, 16_384),
            (SIGNED_SIGNAL, 16_896),
        ] {
            assert_eq!(limit, bytes);
        }
    }
}

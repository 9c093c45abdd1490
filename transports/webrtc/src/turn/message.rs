//! STUN messages and ChannelData as TURN uses them (RFC 8489 §5, RFC 8656 §12.4, §18).

use std::net::{IpAddr, SocketAddr};

use rtc::crypto::{self, RTCCryptoProvider};
use rtc::stun::attributes::{ATTR_XOR_PEER_ADDRESS, ATTR_XOR_RELAYED_ADDRESS, ATTR_XORMAPPED_ADDRESS, AttrType};
use rtc::stun::error_code::ErrorCodeAttribute;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{Getter, Message, Setter};

/// Where SHA-1, MD5 and HMAC come from.
pub(super) fn provider() -> crypto::providers::AwsLcRsProvider {
    crypto::providers::AwsLcRsProvider::new()
}

/// A STUN message; `None` for anything else.
pub(super) fn read(bytes: &[u8]) -> Option<Message> {
    let mut message = Message::new();
    message.unmarshal_binary(bytes).ok().map(|()| message)
}

/// A message of these parts.
pub(super) fn build(parts: &[Box<dyn Setter + '_>]) -> Option<Vec<u8>> {
    let mut message = Message::new();
    message.build(parts).ok().map(|()| message.raw)
}

/// The key that signs requests (RFC 8489 §9.2.2).
pub(super) fn key(username: &str, realm: &str, password: &str) -> Option<Vec<u8>> {
    let provider = provider();
    MessageIntegrity::long_term_integrity_key(username.into(), realm.into(), password.into(), provider.crypto()).ok()
}

/// Whether a message was signed with this key.
pub(super) fn is_signed(message: &mut Message, key: &[u8]) -> bool {
    MessageIntegrity::check(message, key, provider().crypto()).is_ok()
}

/// The code of an error response.
pub(super) fn error_code(message: &Message) -> u16 {
    let mut code = ErrorCodeAttribute::default();
    code.get_from(message).map_or(0, |()| code.code.0)
}

/// The addresses in a message, of one kind of attribute (RFC 8489 §14.2).
pub(super) fn addresses(message: &Message, kind: AttrType) -> Vec<SocketAddr> {
    let cookie = [0x21, 0x12, 0xa4, 0x42];
    let mask: Vec<u8> = cookie.iter().chain(&message.transaction_id.0).copied().collect();
    let decode = |value: &[u8]| {
        let (head, masked) = value.split_at_checked(4)?;
        let port = u16::from_be_bytes([head.get(2)? ^ 0x21, head.get(3)? ^ 0x12]);
        let plain: Vec<u8> = masked.iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect();
        let ip: IpAddr = match (head.get(1)?, masked.len()) {
            (1, 4) => <[u8; 4]>::try_from(plain).ok()?.into(),
            (2, 16) => <[u8; 16]>::try_from(plain).ok()?.into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    message.attributes.0.iter().filter(|found| found.typ == kind).filter_map(|found| decode(&found.value)).collect()
}

/// The peer that a message is about.
pub(super) fn peer(message: &Message) -> Option<SocketAddr> {
    addresses(message, ATTR_XOR_PEER_ADDRESS).first().copied()
}

/// What an allocation got: the relay's address, and ours as the server sees it.
pub(super) fn allocated(message: &Message) -> Option<(SocketAddr, SocketAddr)> {
    let first = |kind| addresses(message, kind).first().copied();
    Some((first(ATTR_XOR_RELAYED_ADDRESS)?, first(ATTR_XORMAPPED_ADDRESS)?))
}

/// Data on a channel.
pub(super) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    [&number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// The channel's number and the data; `None` if it is no ChannelData. Padding behind it is allowed.
pub(super) fn split_channel_data(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, data) = bytes.split_at_checked(4)?;
    let [first, second, high, low] = head.try_into().ok()?;
    let number = u16::from_be_bytes([first, second]);
    // RFC 8656 §12: 0x4000 to 0x4fff; earlier versions took those up to 0x7fff, and the crate does.
    let length = usize::from(u16::from_be_bytes([high, low]));
    (0x4000..0x8000).contains(&number).then(|| data.get(..length)).flatten().map(|data| (number, data))
}

//! Names of networks, users, devices, conversations and messages.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use crate::{DecodeError, PublicKey, context};

/// What an [`Id`] names.
pub trait IdKind: 'static {
    /// The kind's name, for errors.
    const NAME: &'static str;
}

/// A network: nodes of different networks don't talk to each other.
pub enum Network {}
/// A person or a service, with one or more devices.
pub enum User {}
/// A device of a user: the peer on the other end of a link.
pub enum Device {}
/// A conversation between users.
pub enum Conversation {}
/// An entry of a log.
pub enum Entry {}
/// A roster of a conversation.
pub enum Roster {}

impl IdKind for Network {
    const NAME: &'static str = "network id";
}
impl IdKind for User {
    const NAME: &'static str = "user id";
}
impl IdKind for Device {
    const NAME: &'static str = "device id";
}
impl IdKind for Conversation {
    const NAME: &'static str = "conversation id";
}
impl IdKind for Roster {
    const NAME: &'static str = "roster id";
}
impl IdKind for Entry {
    const NAME: &'static str = "entry id";
}

/// 32 bytes that name one thing of kind `K`. Shown as lower-case base32 (RFC 4648, no padding).
pub struct Id<K>([u8; 32], PhantomData<fn() -> K>);

/// Names a network.
pub type NetworkId = Id<Network>;
/// Names a user.
pub type UserId = Id<User>;
/// Names a device.
pub type DeviceId = Id<Device>;
/// Names a conversation.
pub type ConversationId = Id<Conversation>;
/// Names an entry of a log, and through its header's predecessor everything before it.
pub type EntryId = Id<Entry>;
/// Names a roster of a conversation.
pub type RosterId = Id<Roster>;

impl<K: IdKind> Id<K> {
    /// Takes the id's bytes as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes, PhantomData)
    }

    /// The id's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten characters of the id: enough for a person to tell ids apart.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes = bytes.try_into().map_err(|_| DecodeError::invalid(K::NAME, "is not 32 bytes long"))?;
        Ok(Self::from_bytes(bytes))
    }

    pub(crate) fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// An id that may be absent, written as no bytes.
    pub(crate) fn decode_optional(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        if bytes.is_empty() { Ok(None) } else { Self::decode(bytes).map(Some) }
    }

    fn hash(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self::from_bytes(hasher.finalize().into())
    }
}

impl NetworkId {
    /// The id of the network called `name`.
    pub fn from_name(name: &str) -> Self {
        Self::hash(&[context::NETWORK_ID, name.as_bytes()])
    }
}

impl EntryId {
    /// Stands for the id of an entry whose row is lost. No entry has it.
    pub const UNKNOWN: Self = Self::from_bytes([0; 32]);

    /// The id, unless it is [`EntryId::UNKNOWN`].
    pub fn known(self) -> Option<Self> {
        Some(self).filter(|id| *id != Self::UNKNOWN)
    }

    /// The id of the entry with this header.
    pub(crate) fn of_header(body: &[u8]) -> Self {
        Self::hash(&[context::ENTRY_ID, body])
    }
}

impl RosterId {
    /// The id of the roster with this encoding.
    pub(crate) fn of_roster(body: &[u8]) -> Self {
        Self::hash(&[context::ROSTER, body])
    }
}

impl UserId {
    /// The id of the user with these two keys.
    pub(crate) fn from_keys(user: &PublicKey, recovery: &PublicKey) -> Self {
        let (a, b) = (user.algorithm().to_be_bytes(), recovery.algorithm().to_be_bytes());
        Self::hash(&[context::USER_ID, &a, user.as_bytes(), &b, recovery.as_bytes()])
    }
}

impl DeviceId {
    /// The id of the device whose first key is `key`.
    pub fn from_key(key: &PublicKey) -> Self {
        Self::hash(&[context::DEVICE_ID, &key.algorithm().to_be_bytes(), key.as_bytes()])
    }
}

impl ConversationId {
    /// The 1:1 conversation of two users: the same whoever asks.
    pub fn direct(network: &NetworkId, a: &UserId, b: &UserId) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        Self::hash(&[context::DIRECT_CONVERSATION, network.as_bytes(), low.as_bytes(), high.as_bytes()])
    }
}

// Derived impls would ask the same of `K`, which is only a name.
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl<K: IdKind> FromStr for Id<K> {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        if text.len() != 52 {
            return Err(DecodeError::invalid(K::NAME, "is not 52 characters long"));
        }
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| DecodeError::invalid(K::NAME, "has characters outside a-z and 2-7"))?;
        Self::decode(&bytes)
    }
}

/// Names a message: 16 random bytes chosen by its author. Shown as lower-case base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId([u8; 16]);

impl MessageId {
    /// Takes the id's bytes as they are.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let invalid = || DecodeError::invalid("message id", "is not 26 characters of a-z and 2-7");
        if text.len() != 26 {
            return Err(invalid());
        }
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| invalid())?;
        Ok(Self(bytes.try_into().map_err(|_| invalid())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        let id = NetworkId::from_name("test");
        assert_eq!(id.to_string().parse(), Ok(id));
        let message = MessageId::from_bytes([7; 16]);
        assert_eq!(message.to_string().parse(), Ok(message));
        assert!("abc".parse::<UserId>().is_err());
        assert!("é".repeat(26).parse::<UserId>().is_err());
        assert!("é".repeat(13).parse::<MessageId>().is_err());
    }

    #[test]
    fn ids_are_shown_in_small_letters_and_compared_by_their_bytes() {
        let (low, high) = (UserId::from_bytes([0; 32]), UserId::from_bytes([255; 32]));
        assert_eq!(low.to_string(), "a".repeat(52));
        assert_eq!((low.short(), format!("{low:?}")), ("a".repeat(10), "a".repeat(10)));
        assert_eq!(high.short(), "7".repeat(10));
        assert!(low < high && low.cmp(&low).is_eq() && low.partial_cmp(&high).is_some_and(std::cmp::Ordering::is_lt));
        assert!(low == low && low != high);
        let set: std::collections::HashSet<UserId> = [low, high, low].into_iter().collect();
        assert_eq!(set.len(), 2);
        let hash = |id: UserId| {
            let mut hasher = std::collections::hash_map::DefaultHasher::new();
            id.hash(&mut hasher);
            hasher.finish()
        };
        assert!(hash(low) == hash(low) && hash(low) != hash(high));
        let message = MessageId::from_bytes([0; 16]);
        assert_eq!((message.to_string(), format!("{message:?}")), ("a".repeat(26), "a".repeat(26)));
        assert_eq!("A".repeat(52).parse(), Ok(low), "capitals are read, too");
        for wrong in ["a".repeat(51), "a".repeat(53), "1".repeat(52)] {
            assert!(wrong.parse::<UserId>().is_err(), "{wrong}");
        }
        assert!("a".repeat(25).parse::<MessageId>().is_err() && "a".repeat(27).parse::<MessageId>().is_err());
    }

    #[test]
    fn names_of_different_things_differ() {
        let (a, b) = (PublicKey::ed25519([1; 32]), PublicKey::ed25519([2; 32]));
        assert_ne!(NetworkId::from_name("a"), NetworkId::from_name("b"));
        assert_ne!(DeviceId::from_key(&a), DeviceId::from_key(&b));
        assert_ne!(UserId::from_keys(&a, &b), UserId::from_keys(&b, &a), "each key has its part");
        assert_ne!(EntryId::of_header(b"a"), EntryId::of_header(b"b"));
        assert_ne!(EntryId::of_header(b"a").as_bytes(), RosterId::of_roster(b"a").as_bytes());
        let (known, unknown) = (EntryId::from_bytes([1; 32]), EntryId::UNKNOWN);
        assert_eq!((known.known(), unknown.known()), (Some(known), None));
        assert_eq!((EntryId::decode_optional(&[]), EntryId::decode_optional(&[1; 32])), (Ok(None), Ok(Some(known))));
        assert!(EntryId::decode_optional(&[1; 31]).is_err());
    }

    #[test]
    fn a_direct_conversation_has_one_name() {
        let network = NetworkId::from_name("test");
        let (a, b) = (UserId::from_bytes([1; 32]), UserId::from_bytes([2; 32]));
        assert_eq!(ConversationId::direct(&network, &a, &b), ConversationId::direct(&network, &b, &a));
        assert_ne!(ConversationId::direct(&network, &a, &b), ConversationId::direct(&network, &a, &a));
        let other = NetworkId::from_name("other");
        assert_ne!(ConversationId::direct(&network, &a, &b), ConversationId::direct(&other, &a, &b));
    }
}

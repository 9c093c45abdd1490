//! What a device sends another before the two have a link, signed, whatever carries it.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use crate::key::PUBLIC_KEY;
use crate::shape::{Field, Shape};
use crate::{DecodeError, DeviceId, NetworkId, PublicKey, Signed, context, limits, pb};

/// How long a signal is valid on its way over carriers, in milliseconds.
pub const LIFETIME_MS: u64 = 60_000;
/// How long an offer or an answer is valid that people carry, in milliseconds.
pub const MANUAL_LIFETIME_MS: u64 = 10 * 60_000;
/// How far the clocks of two devices may differ, in milliseconds.
pub const SKEW_MS: u64 = 2 * 60_000;

/// Names one attempt to make a link, and the signals about that link as long as it lives: 16 random bytes
/// of the device that offers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Takes the bytes as they are.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The body of a signed signal. It verifies from its own bytes: the sender's id is the hash of `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedSignal {
    /// The network of both devices.
    pub network: NetworkId,
    /// The sender's device key.
    pub key: PublicKey,
    /// Whom it is for.
    pub to: DeviceId,
    /// What it is about.
    pub session: SessionId,
    /// Rises with each signal of its sender in the session.
    pub serial: u64,
    /// When it stops being valid, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// As the transport encodes it; at most [`limits::SIGNAL`] bytes.
    pub body: Bytes,
}

static SIGNED_SIGNAL: Shape = Shape {
    what: "signal",
    max_len: limits::SIGNED_SIGNAL,
    fields: &[
        Field::one(1, 32),
        Field::nested(2, 1, &PUBLIC_KEY),
        Field::one(3, 32),
        Field::one(4, 16),
        Field::one(5, 0),
        Field::one(6, 0),
        Field::one(7, limits::SIGNAL),
    ],
};

impl SignedSignal {
    /// Who sent it.
    pub fn from(&self) -> DeviceId {
        DeviceId::from_key(&self.key)
    }

    /// The bytes to sign under [`context::SIGNAL`].
    pub fn encode(&self) -> Bytes {
        let signal = pb::SignedSignal {
            network: self.network.encode(),
            key: Some(self.key.to_pb()),
            to: self.to.encode(),
            session: Bytes::copy_from_slice(&self.session.0),
            serial: self.serial,
            expires_at_ms: self.expires_at_ms,
            body: self.body.clone(),
        };
        signal.encode_to_vec().into()
    }

    /// Decodes a signal of which nothing is verified yet: to see whether verifying is worth its cost.
    pub fn decode_unverified(signed: &Signed) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        SIGNED_SIGNAL.check(body)?;
        let pb =
            pb::SignedSignal::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: SIGNED_SIGNAL.what })?;
        let session = pb.session.as_ref().try_into();
        Ok(Self {
            network: NetworkId::decode(&pb.network)?,
            key: PublicKey::decode(pb.key)?,
            to: DeviceId::decode(&pb.to)?,
            session: SessionId(session.map_err(|_| DecodeError::invalid("session", "is not 16 bytes long"))?),
            serial: pb.serial,
            expires_at_ms: pb.expires_at_ms,
            body: pb.body,
        })
    }

    /// Whether the sender signed `signed`, of which this is the body.
    pub fn is_signed(&self, signed: &Signed, verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool) -> bool {
        signed.verify(context::SIGNAL, |message, signature| verify(&self.key, message, signature)).is_some()
    }

    /// Whether it is valid at this time, where signals live so long at most.
    pub fn is_valid_at(&self, now_ms: u64, lifetime_ms: u64) -> bool {
        let latest = now_ms.saturating_add(lifetime_ms).saturating_add(SKEW_MS);
        self.expires_at_ms.saturating_add(SKEW_MS) >= now_ms && self.expires_at_ms <= latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_valid_for_its_lifetime_and_the_clocks_difference() {
        let now = 1_800_000_000_000;
        let signal = |expires_at_ms| SignedSignal {
            network: NetworkId::from_name("test"),
            key: PublicKey::ed25519([1; 32]),
            to: DeviceId::from_bytes([2; 32]),
            session: SessionId([3; 16]),
            serial: 1,
            expires_at_ms,
            body: Bytes::new(),
        };
        for good in [now, now + LIFETIME_MS, now + LIFETIME_MS + SKEW_MS, now - SKEW_MS] {
            assert!(signal(good).is_valid_at(now, LIFETIME_MS), "{good}");
        }
        for bad in [0, now - SKEW_MS - 1, now + LIFETIME_MS + SKEW_MS + 1, u64::MAX] {
            assert!(!signal(bad).is_valid_at(now, LIFETIME_MS), "{bad}");
        }
    }
}

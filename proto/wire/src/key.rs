//! Public keys with their algorithm.

use std::fmt;

use bytes::Bytes;

use crate::shape::{Field, Shape};
use crate::{DecodeError, limits, pb};

pub(crate) static PUBLIC_KEY: Shape =
    Shape { what: "public key", max_len: 80, fields: &[Field::one(1, 0), Field::one(2, limits::KEY)] };

/// A signature key with its algorithm.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    algorithm: u16,
    key: Bytes,
}

impl PublicKey {
    /// Ed25519 (RFC 8032), the only algorithm of version 1.
    pub const ED25519: u16 = 1;

    /// An Ed25519 key.
    pub fn ed25519(key: [u8; 32]) -> Self {
        Self { algorithm: Self::ED25519, key: Bytes::copy_from_slice(&key) }
    }

    /// The algorithm's number.
    pub fn algorithm(&self) -> u16 {
        self.algorithm
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn decode(key: Option<pb::PublicKey>) -> Result<Self, DecodeError> {
        let key = key.ok_or(DecodeError::invalid("public key", "is missing"))?;
        if key.algorithm != u32::from(Self::ED25519) {
            return Err(DecodeError::UnsupportedVersion { what: "public key", found: key.algorithm });
        }
        if key.key.len() != 32 {
            return Err(DecodeError::invalid("public key", "an Ed25519 key has 32 bytes"));
        }
        Ok(Self { algorithm: Self::ED25519, key: key.key })
    }

    pub(crate) fn to_pb(&self) -> pb::PublicKey {
        pb::PublicKey { algorithm: self.algorithm.into(), key: self.key.clone() }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_of_a_known_algorithm_and_length() {
        let key = PublicKey::ed25519([7; 32]);
        assert_eq!((key.algorithm(), key.as_bytes()), (PublicKey::ED25519, &[7; 32][..]));
        assert_eq!(format!("{key:?}"), "07".repeat(32));
        let decode =
            |algorithm, length| PublicKey::decode(Some(pb::PublicKey { algorithm, key: Bytes::from(vec![7; length]) }));
        assert_eq!(decode(1, 32), Ok(key));
        assert_eq!(decode(2, 32), Err(DecodeError::UnsupportedVersion { what: "public key", found: 2 }));
        assert!(decode(1, 31).is_err() && decode(1, 33).is_err() && PublicKey::decode(None).is_err());
    }
}

//! Ed25519 signatures (RFC 8032).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use bytes::Bytes;
use peerloom_wire::{PublicKey, Signed};

/// A secret Ed25519 key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// The key with this secret seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        // Fails only for a seed of another length.
        let pair = match Ed25519KeyPair::from_seed_unchecked(seed) {
            Ok(pair) => pair,
            Err(_) => unreachable!("every 32-byte seed makes an Ed25519 key"),
        };
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public: PublicKey::ed25519(public) }
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A signature over bytes that begin with a context string (see [`peerloom_wire::context`]).
    pub fn sign(&self, message: &[u8]) -> Bytes {
        Bytes::copy_from_slice(self.pair.sign(message).as_ref())
    }

    /// A signed object.
    pub fn sign_object(&self, context: &[u8], body: Bytes) -> Signed {
        Signed::sign(context, body, |message| self.sign(message))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.public)
    }
}

/// Whether `signature` is `key`'s over `message`.
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    key.algorithm() == PublicKey::ED25519
        && UnparsedPublicKey::new(&ED25519, key.as_bytes()).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_rfc_8032_test_1() {
        let seed = data("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = SigningKey::from_seed(&seed.try_into().unwrap());
        assert_eq!(key.public().as_bytes(), data("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"));
        let signature = key.sign(b"");
        assert_eq!(signature[..4], data("e5564300"));
        assert!(verify(key.public(), b"", &signature));
        assert!(!verify(key.public(), b"x", &signature));
        assert!(!verify(key.public(), b"", &signature[..63]));
    }

    fn data(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }
}

//! The cryptographic primitives that Peerloom uses, in fast implementations (AWS-LC; the
//! `chacha20poly1305` crate for XChaCha20-Poly1305), behind types that
//! are hard to use wrongly. Protocols are elsewhere: `crypto/mls`, `crypto/sealed`.

pub mod aead;
pub mod hpke;
mod signature;

pub use signature::{SigningKey, verify};

use aws_lc_rs::digest;

/// SHA-256 (FIPS 180-4) of the parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// A keyed pseudorandom function: HMAC-SHA-256 (RFC 2104).
pub struct Prf(aws_lc_rs::hmac::Key);

impl Prf {
    /// The function with this key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key))
    }

    /// Its value of the parts, one after the other.
    pub fn of(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = aws_lc_rs::hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        let mut value = [0; 32];
        value.copy_from_slice(context.sign().as_ref());
        value
    }
}

/// Whether two byte strings are equal, in a time that depends only on their lengths.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Fills an array with random bytes of the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], Unavailable> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Unavailable)?;
    Ok(bytes)
}

/// The operating system gives no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the operating system gives no randomness")
    }
}

impl std::error::Error for Unavailable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_matches_fips_180_4() {
        // The example "abc" of FIPS 180-4.
        assert_eq!(sha256(&[b"a", b"bc"])[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}

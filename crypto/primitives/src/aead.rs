//! ChaCha20-Poly1305 (RFC 8439) with keys that are used once.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = 16;

/// The nonce: zero, since a key seals once.
const NONCE: [u8; 12] = [0; 12];

fn key(key: &[u8; 32]) -> LessSafeKey {
    match UnboundKey::new(&CHACHA20_POLY1305, key) {
        Ok(key) => LessSafeKey::new(key),
        Err(_) => unreachable!("every 32-byte string is a ChaCha20 key"),
    }
}

/// Seals `buffer` in place under a key that seals nothing else, and appends the tag.
pub fn seal_once(once: &Zeroizing<[u8; 32]>, associated_data: &[u8], buffer: &mut Vec<u8>) {
    let nonce = Nonce::assume_unique_for_key(NONCE);
    let sealed = key(once).seal_in_place_append_tag(nonce, Aad::from(associated_data), buffer);
    // Fails only beyond 256 GiB.
    assert!(sealed.is_ok(), "a buffer in memory is shorter than ChaCha20-Poly1305's limit");
}

/// Opens what [`seal_once`] sealed; `None` when the bytes, the key or the data are others.
pub fn open_once(once: &Zeroizing<[u8; 32]>, associated_data: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let nonce = Nonce::assume_unique_for_key(NONCE);
    let length = key(once).open_in_place(nonce, Aad::from(associated_data), &mut sealed).ok()?.len();
    sealed.truncate(length);
    Some(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        let once = Zeroizing::new([7; 32]);
        let mut sealed = b"hello".to_vec();
        seal_once(&once, b"ad", &mut sealed);
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        assert_eq!(open_once(&once, b"ad", sealed.clone()).as_deref(), Some(&b"hello"[..]));
        assert_eq!(open_once(&once, b"other", sealed.clone()), None);
        assert_eq!(open_once(&Zeroizing::new([8; 32]), b"ad", sealed.clone()), None);
        sealed[0] ^= 1;
        assert_eq!(open_once(&once, b"ad", sealed), None);
        assert_eq!(open_once(&once, b"ad", Vec::new()), None);
    }
}

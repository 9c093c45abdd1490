//! ChaCha20-Poly1305 (RFC 8439) with keys that are used once, and with longer nonces for one that isn't.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
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

/// A key that seals many values, each under a random nonce: XChaCha20-Poly1305
/// (draft-irtf-cfrg-xchacha), whose 24-byte nonces may be drawn at random for as long as one likes.
pub struct ManyTimesKey(XChaCha20Poly1305);

/// Bytes that [`ManyTimesKey::seal`] adds.
pub const MANY_TIMES_OVERHEAD: usize = 24 + OVERHEAD;

impl ManyTimesKey {
    /// The key made of these bytes.
    pub fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self(XChaCha20Poly1305::new(key.as_slice().try_into().unwrap_or_else(|_| unreachable!("32 bytes"))))
    }

    /// Nonce, sealed bytes and tag.
    pub fn seal(&self, associated_data: &[u8], plaintext: &[&[u8]]) -> Result<Vec<u8>, crate::Unavailable> {
        let nonce: [u8; 24] = crate::random()?;
        let mut sealed = Vec::with_capacity(plaintext.iter().map(|p| p.len()).sum::<usize>() + MANY_TIMES_OVERHEAD);
        sealed.extend_from_slice(&nonce);
        plaintext.iter().for_each(|part| sealed.extend_from_slice(part));
        let (_, body) = sealed.split_at_mut(24);
        // Fails only beyond 256 GiB.
        let tag = self.0.encrypt_inout_detached(&nonce.into(), associated_data, body.into());
        sealed.extend_from_slice(&tag.map_err(|_| crate::Unavailable)?);
        Ok(sealed)
    }

    /// Opens what [`ManyTimesKey::seal`] sealed; `None` when the bytes, the key or the data are others.
    pub fn open(&self, associated_data: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<24>()?;
        let (body, tag) = rest.split_last_chunk::<OVERHEAD>()?;
        let mut body = body.to_vec();
        let opened =
            self.0.decrypt_inout_detached(nonce.into(), associated_data, body.as_mut_slice().into(), tag.into());
        opened.ok().map(|()| body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_seals_many_times() {
        let key = ManyTimesKey::new(&Zeroizing::new([7; 32]));
        let sealed = key.seal(b"ad", &[b"he", b"llo"]).unwrap();
        assert_eq!(sealed.len(), 5 + MANY_TIMES_OVERHEAD);
        assert_ne!(key.seal(b"ad", &[b"hello"]).unwrap(), sealed);
        assert_eq!(key.open(b"ad", &sealed).as_deref(), Some(&b"hello"[..]));
        assert_eq!(key.open(b"other", &sealed), None);
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(key.open(b"ad", &flipped), None);
            assert_eq!(key.open(b"ad", &sealed[..at]), None);
        }
    }

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

//! Checks signatures, once where they last.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;
use peerloom_core::sync::lock;
use peerloom_core::wire::{DecodeError, DeviceCertificate, PeerRecord, PublicKey, Signed, context};
use peerloom_crypto_primitives::{sha256, verify};

/// Signatures of certificates remembered as good, at about 100 bytes each: two or three for a device.
/// A device announces itself again and again with the same one, which then costs one signature check
/// instead of three.
const CERTIFICATES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);

/// Checks signatures, and remembers certificates that were good.
pub(crate) struct Verifier {
    certificates: Mutex<LruCache<[u8; 32], ()>>,
}

impl Verifier {
    pub(crate) fn new() -> Self {
        Self { certificates: Mutex::new(LruCache::new(CERTIFICATES)) }
    }

    /// The record and certificate of a signed record, verified.
    pub(crate) fn open(&self, signed: &Signed) -> Result<(PeerRecord, DeviceCertificate), DecodeError> {
        PeerRecord::open(signed, |key, message, signature| self.verify(key, message, signature))
    }

    pub(crate) fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        let lasting =
            [context::DEVICE_CERTIFICATE, context::CERTIFICATE_ACCEPTANCE, context::SUCCESSION, context::REVOCATION];
        if !lasting.iter().any(|context| message.starts_with(context)) {
            return verify(key, message, signature);
        }
        // With the lengths, so that no byte can move from one part to the next.
        let lengths = [(key.as_bytes().len() as u64).to_be_bytes(), (signature.len() as u64).to_be_bytes()];
        let hash = sha256(&[&lengths.concat(), key.as_bytes(), signature, message]);
        let certificates = || lock(&self.certificates);
        if certificates().get(&hash).is_some() {
            return true;
        }
        let good = verify(key, message, signature);
        if good {
            certificates().put(hash, ());
        }
        good
    }
}

//! Key packages, and wrapping a content key for their owners.

use bytes::Bytes;
use peerloom_core::wire::{DeviceCertificate, DeviceId, PublicKey, Signed, context, limits};
use peerloom_crypto_primitives::hpke::{self, KEY};
use peerloom_crypto_primitives::{SigningKey, sha256, verify};
use rand_core::Rng;
use zeroize::Zeroizing;

/// A wrapped content key.
const WRAPPED: usize = 32 + hpke::OVERHEAD;
/// First byte of a key package.
const PACKAGE_VERSION: u8 = 1;
/// Beginning of a key's hash, by which a device finds what is wrapped for it.
const HINT: usize = 8;
/// What one recipient costs.
pub(crate) const WRAP: usize = HINT + WRAPPED;

/// `1 ‖ device key ‖ key ‖ signature`: whose key it is, provably, since the device's id is its key's hash.
pub(crate) fn package(signing: &SigningKey, public: &[u8; KEY]) -> Bytes {
    let signature = signing.sign(&[context::SEALED_KEY, public].concat());
    [&[PACKAGE_VERSION], signing.public().as_bytes(), public, &signature[..]].concat().into()
}

/// The key in a device's package; `None` when it isn't that device's, or is damaged.
pub(crate) fn open_package(package: &[u8], device: &DeviceId) -> Option<[u8; KEY]> {
    let (device_key, rest) = package.strip_prefix(&[PACKAGE_VERSION])?.split_first_chunk::<KEY>()?;
    let (public, signature) = rest.split_first_chunk::<KEY>()?;
    let device_key = PublicKey::ed25519(*device_key);
    let own = DeviceId::from_key(&device_key) == *device;
    (own && verify(&device_key, &[context::SEALED_KEY, public].concat(), signature)).then_some(*public)
}

/// A verified certificate after its length, and what follows it.
pub(crate) fn split_certificate(bytes: &[u8]) -> Option<(DeviceCertificate, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (certificate, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let signed = Signed::decode(Bytes::copy_from_slice(certificate), limits::RECORD).ok()?;
    Some((DeviceCertificate::open(&signed, verify).ok()?, rest))
}

/// What tells a key's owner that something is wrapped for it.
fn hint(public: &[u8; KEY]) -> [u8; HINT] {
    let mut hint = [0; HINT];
    hint.iter_mut().zip(sha256(&[public])).for_each(|(to, from)| *to = from);
    hint
}

/// A content key for one recipient; `None` when its key is none that X25519 takes.
pub(crate) fn wrap(rng: &mut dyn Rng, public: &[u8; KEY], content_key: &[u8; 32]) -> Option<Vec<u8>> {
    let sealed = hpke::seal(rng, public, context::SEALED_WRAP, content_key)?;
    Some([&hint(public)[..], &sealed].concat())
}

/// The content key among wrapped ones that is for this key pair.
pub(crate) fn unwrap(wraps: &[u8], secret: &[u8; KEY], public: &[u8; KEY]) -> Option<Zeroizing<[u8; 32]>> {
    let own = hint(public);
    let open = |wrap: &[u8]| {
        let opened = hpke::open(secret, public, context::SEALED_WRAP, wrap.get(HINT..)?)?;
        Some(Zeroizing::new(<[u8; 32]>::try_from(opened.as_slice()).ok()?))
    };
    wraps.chunks_exact(WRAP).filter(|wrap| wrap.starts_with(&own)).find_map(open)
}

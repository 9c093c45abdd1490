//! Key packages, and wrapping a content key for their owners.

use bytes::Bytes;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use peerloom_core::wire::{DeviceCertificate, DeviceId, PublicKey, Signed, context, limits};
use peerloom_crypto_primitives::{SigningKey, sha256, verify};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

/// Bytes of an X25519 key, and of HPKE's encapsulated one.
pub(crate) const KEY: usize = 32;
/// A wrapped content key: encapsulated key, sealed key, tag.
const WRAPPED: usize = KEY + 32 + 16;
/// First byte of a key package.
const PACKAGE_VERSION: u8 = 1;
/// Beginning of a key's hash, by which a device finds what is wrapped for it.
const HINT: usize = 8;
/// What one recipient costs.
pub(crate) const WRAP: usize = HINT + WRAPPED;

/// The key pair of a seed (RFC 9180 §7.1.3).
pub(crate) fn key_pair(seed: &[u8; 32]) -> (Zeroizing<[u8; KEY]>, [u8; KEY]) {
    let (secret, public) = X25519HkdfSha256::derive_keypair(seed);
    (Zeroizing::new(secret.to_bytes().into()), public.to_bytes().into())
}

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
    // The library wants an RNG of a type of its own.
    let mut seed = Zeroizing::new([0; 32]);
    rng.fill_bytes(seed.as_mut_slice());
    let mut rng = ChaCha20Rng::from_seed(*seed);
    let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).ok()?;
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &recipient,
        context::SEALED_WRAP,
        content_key,
        b"",
        &mut rng,
    )
    .ok()?;
    Some([&hint(public), &encapsulated.to_bytes()[..], &sealed].concat())
}

/// The content key among wrapped ones that is for this key pair.
pub(crate) fn unwrap(wraps: &[u8], secret: &[u8; KEY], public: &[u8; KEY]) -> Option<Zeroizing<[u8; 32]>> {
    let own = hint(public);
    let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret).ok()?;
    let open = |wrap: &[u8]| {
        let (encapsulated, sealed) = wrap.get(HINT..)?.split_at_checked(KEY)?;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret,
            &encapsulated,
            context::SEALED_WRAP,
            sealed,
            b"",
        );
        let opened = Zeroizing::new(opened.ok()?);
        Some(Zeroizing::new(<[u8; 32]>::try_from(opened.as_slice()).ok()?))
    };
    wraps.chunks_exact(WRAP).filter(|wrap| wrap.starts_with(&own)).find_map(open)
}

//! A user with devices, under signatures that tests can make without cryptography.

use bytes::Bytes;
use peerloom_wire::{DeviceCertificate, DeviceId, PublicKey, Roles, Signed, UserKeys};
use sha2::{Digest, Sha256};

/// A signature that anybody could make, but that belongs to one key and one message.
pub(crate) fn sign(key: &PublicKey, message: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest([key.as_bytes(), message].concat()))
}

/// Whether a signature is [`sign`]'s.
pub(crate) fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    sign(key, message) == signature
}

/// The key with this number.
pub(crate) fn key(number: u8) -> PublicKey {
    PublicKey::ed25519([number; 32])
}

/// The user's keys.
pub(crate) fn keys() -> UserKeys {
    UserKeys { user: key(200), recovery: key(201) }
}

/// The device with this number.
pub(crate) fn device(number: u8) -> DeviceId {
    DeviceId::from_key(&key(number))
}

/// A device's certificate, signed by a user key.
pub(crate) fn certificate(number: u8, signer: &PublicKey, succession: Option<Signed>) -> Signed {
    let certificate =
        DeviceCertificate { succession, ..DeviceCertificate::new(keys(), key(number), Roles::ALL, number.into()) };
    certificate.sign(|m| sign(signer, m), |m| sign(&key(number), m))
}

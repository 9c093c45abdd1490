//! Identities for the suites, from numbers.

use peerloom_core::DeviceSecret;
use peerloom_core::wire::{
    Address, DeviceCertificate, DeviceId, NetworkId, PeerRecord, PublicKey, Signed, UserId, context,
};
use peerloom_crypto_primitives::SigningKey;

/// A device of a user, both made from a number.
pub struct Identity {
    /// The device's secret.
    pub secret: DeviceSecret,
    /// The device's key.
    pub key: PublicKey,
    /// The device.
    pub device: DeviceId,
    /// The user.
    pub user: UserId,
    /// Signed by the user.
    pub certificate: Signed,
}

/// The identity with this number.
pub fn identity(number: u8) -> Identity {
    let (user, device) = (SigningKey::from_seed(&[number; 32]), SigningKey::from_seed(&[number ^ 0x80; 32]));
    let certificate = DeviceCertificate {
        user: UserId::from_key(user.public()),
        user_key: user.public().clone(),
        device: DeviceId::from_key(device.public()),
        device_key: device.public().clone(),
        admin: true,
        issued_at_ms: 1,
    };
    Identity {
        secret: DeviceSecret::new([number ^ 0x80; 32]),
        key: device.public().clone(),
        device: certificate.device,
        user: certificate.user,
        certificate: user.sign_object(context::DEVICE_CERTIFICATE, certificate.encode()),
    }
}

/// A record of an identity, signed by it.
pub fn record(identity: &Identity, sequence: u64, addresses: &[Address]) -> Signed {
    let record = PeerRecord {
        network: NetworkId::from_name("conformance"),
        certificate: identity.certificate.clone(),
        addresses: addresses.to_vec(),
        capabilities: 0,
        suites: Vec::new(),
        key_packages: Vec::new(),
        sequence,
        expires_at_ms: u64::MAX,
    };
    SigningKey::from_seed(identity.secret.expose()).sign_object(context::PEER_RECORD, record.encode())
}

//! Identities for the suites, from numbers.

use bytes::Bytes;
use peerloom_core::wire::{
    Address, DeviceCertificate, DeviceId, DeviceList, NetworkId, PeerRecord, PublicKey, PublishedKeyPackage, Roles,
    ServiceKind, ServiceOffer, Signed, SuiteId, UserId, UserKeys, context, store,
};
use peerloom_core::{Admission, DeviceSecret, DeviceSigner, Standing};
use peerloom_crypto_primitives::{SigningKey, verify};

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
    /// Signed by the user and the device.
    pub certificate: Signed,
}

/// To a node that asks this, every device is a contact's.
pub struct AllKnown;

impl Admission for AllKnown {
    fn standing(&self, _device: &DeviceId) -> Standing {
        Standing::Known
    }
}

/// The identity with this number.
pub fn identity(number: u8) -> Identity {
    of_seeds([number, number ^ 0x40, number ^ 0x80].map(|n| [n; 32]), 1)
}

/// Another device of the user of the identity with the first number: it has the second one's device key, and was
/// certified after those with lower numbers.
pub fn device_of(user: u8, device: u8) -> Identity {
    of_seeds([[user; 32], [user ^ 0x40; 32], [device ^ 0x80; 32]], 1 + u64::from(device))
}

/// One of many identities, all others than those of [`identity`].
pub fn one_of_many(number: u16) -> Identity {
    let [high, low] = number.to_be_bytes();
    let seed = |role: u8| std::array::from_fn(|at| [high, low, role, 0xa5][at % 4]);
    of_seeds([1, 2, 3].map(seed), 1)
}

fn of_seeds(seeds: [[u8; 32]; 3], issued_at_ms: u64) -> Identity {
    let device_seed = seeds[2];
    let [user, recovery, device] = seeds.map(|seed| SigningKey::from_seed(&seed));
    let keys = UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
    let certificate = DeviceCertificate::new(keys, device.public().clone(), Roles::ALL, issued_at_ms);
    Identity {
        secret: DeviceSecret::new(device_seed),
        key: device.public().clone(),
        device: certificate.device,
        user: certificate.user,
        certificate: certificate.sign(|m| user.sign(m), |m| device.sign(m)),
    }
}

impl Identity {
    /// What a store holds of the [`identity`] with this number.
    pub fn stored(&self, number: u8, network: NetworkId) -> store::Identity {
        store::Identity {
            user_seed: Some([number; 32]),
            recovery_seed: None,
            device_seed: [number ^ 0x80; 32],
            certificate: self.certificate.clone(),
            network,
            name: format!("node-{number}"),
        }
    }

    /// The same of a device with this number that doesn't hold the user's key ([`device_of`]).
    pub fn stored_without_user_key(&self, number: u8, network: NetworkId) -> store::Identity {
        store::Identity { user_seed: None, ..self.stored(number, network) }
    }

    /// Signs with the device's key.
    pub fn key(&self) -> SigningKey {
        SigningKey::from_seed(self.secret.expose())
    }

    /// Signs what a discovery has to prove.
    pub fn signer(&self) -> DeviceSigner {
        let key = self.key();
        DeviceSigner::new(self.key.clone(), move |message| key.sign(message))
    }

    /// The user's only device, as a list.
    pub fn devices(&self) -> DeviceList {
        let certificate = DeviceCertificate::open(&self.certificate, verify).expect("a certificate");
        let mut list = DeviceList::new(certificate.keys);
        list.add_certificate(&self.certificate, verify).expect("a certificate of this user");
        list
    }

    /// A published key package that holds these bytes.
    pub fn key_package(&self, package: &[u8]) -> Signed {
        let package = PublishedKeyPackage {
            network: NetworkId::from_name("conformance"),
            key: self.key.clone(),
            suite: SuiteId(3),
            package: Bytes::copy_from_slice(package),
            expires_at_ms: u64::MAX,
        };
        self.key().sign_object(context::KEY_PACKAGE, package.encode())
    }

    /// An offer of a service.
    pub fn service(&self, kind: ServiceKind, sequence: u64) -> Signed {
        self.service_in(NetworkId::from_name("conformance"), kind, sequence)
    }

    /// The same in another network.
    pub fn service_in(&self, network: NetworkId, kind: ServiceKind, sequence: u64) -> Signed {
        let offer = ServiceOffer {
            network,
            certificate: self.certificate.clone(),
            kind,
            addresses: Vec::new(),
            capacity: 7,
            sequence,
            expires_at_ms: u64::MAX,
        };
        self.key().sign_object(context::SERVICE_OFFER, offer.encode())
    }
}

/// A record of an identity, signed by it.
pub fn record(identity: &Identity, sequence: u64, addresses: &[Address]) -> Signed {
    let record = PeerRecord {
        versions: (1, 1),
        network: NetworkId::from_name("conformance"),
        certificate: identity.certificate.clone(),
        addresses: addresses.to_vec(),
        capabilities: 0,
        suites: Vec::new(),
        key_packages: Vec::new(),
        sequence,
        expires_at_ms: u64::MAX,
    };
    identity.key().sign_object(context::PEER_RECORD, record.encode())
}

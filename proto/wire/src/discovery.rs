//! What a discovery publishes and finds: items that verify by themselves, whatever brought them.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use crate::device_list::USER_DEVICES;
use crate::key::PUBLIC_KEY;
use crate::shape::{Field, Shape};
use crate::signed::ObjectHash;
use crate::{
    Address, DecodeError, DeviceCertificate, DeviceId, DeviceList, NetworkId, PeerRecord, PublicKey, Signed, SuiteId,
    UserDevices, UserId, context, limits, pb, signed,
};

/// What a [`DiscoveryItem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKind {
    /// A device's [`PeerRecord`].
    Record,
    /// A user's [`DeviceList`].
    DeviceList,
    /// A device's [`PublishedKeyPackage`].
    KeyPackage,
    /// A device's [`ServiceOffer`].
    Service,
}

impl ItemKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Record, Self::DeviceList, Self::KeyPackage, Self::Service];
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "record",
            Self::DeviceList => "device list",
            Self::KeyPackage => "key package",
            Self::Service => "service",
        })
    }
}

/// What a device does for others, by number; unknown numbers are carried like known ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKind(pub u32);

impl ServiceKind {
    /// Helps others to meet.
    pub const COORDINATOR: Self = Self(1);
    /// Keeps messages for those who are away.
    pub const MAILBOX: Self = Self(2);
    /// Brings those together who know a name in common.
    pub const RENDEZVOUS: Self = Self(3);
}

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiscoveryKey {
    /// A device's record.
    Record(DeviceId),
    /// The records of all devices of a user.
    Records(UserId),
    /// A user's device list.
    DeviceList(UserId),
    /// The published key package with this hash.
    KeyPackage(ObjectHash),
    /// Offers of a service, of any device of the network.
    Service(ServiceKind),
}

impl DiscoveryKey {
    /// What answers it.
    pub fn kind(&self) -> ItemKind {
        match self {
            Self::Record(_) | Self::Records(_) => ItemKind::Record,
            Self::DeviceList(_) => ItemKind::DeviceList,
            Self::KeyPackage(_) => ItemKind::KeyPackage,
            Self::Service(_) => ItemKind::Service,
        }
    }
}

/// The place of an item: of two items with one slot the newer takes the other's place. Device lists are
/// united instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemSlot {
    /// A device's record.
    Record(DeviceId),
    /// A user's device list.
    DeviceList(UserId),
    /// The key package with this hash.
    KeyPackage(ObjectHash),
    /// A device's offer of a service.
    Service(ServiceKind, DeviceId),
}

/// What a discovery publishes and finds. Nothing in it is verified: [`DiscoveryItem::open`] verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscoveryItem {
    /// A [`PeerRecord`].
    Record(Signed),
    /// A device list.
    DeviceList(UserDevices),
    /// A [`PublishedKeyPackage`].
    KeyPackage(Signed),
    /// A [`ServiceOffer`].
    Service(Signed),
}

static ITEM: Shape = Shape {
    what: "discovery item",
    max_len: limits::DISCOVERY_ITEM,
    fields: &[
        Field::nested(1, 1, &signed::SHAPE),
        Field::nested(2, 1, &USER_DEVICES),
        Field::nested(3, 1, &signed::SHAPE),
        Field::nested(4, 1, &signed::SHAPE),
    ],
};

impl DiscoveryItem {
    /// A user's devices as they are published: with the certificates, if there is room for them.
    pub fn of_devices(list: &DeviceList) -> Self {
        let with = Self::DeviceList(list.show());
        match with.encode().len() <= limits::DISCOVERY_ITEM {
            true => with,
            // The devices' records have them, too.
            false => Self::DeviceList(UserDevices { list: list.to_encoded(), certificates: Vec::new() }),
        }
    }

    /// What it is.
    pub fn kind(&self) -> ItemKind {
        match self {
            Self::Record(_) => ItemKind::Record,
            Self::DeviceList(_) => ItemKind::DeviceList,
            Self::KeyPackage(_) => ItemKind::KeyPackage,
            Self::Service(_) => ItemKind::Service,
        }
    }

    /// Its bytes; at most [`limits::DISCOVERY_ITEM`], or nobody takes it.
    pub fn encode(&self) -> Bytes {
        let mut item = pb::DiscoveryItem::default();
        match self {
            Self::Record(signed) => item.record = Some(signed.to_pb()),
            Self::DeviceList(devices) => item.device_list = Some(devices.to_pb()),
            Self::KeyPackage(signed) => item.key_package = Some(signed.to_pb()),
            Self::Service(signed) => item.service = Some(signed.to_pb()),
        }
        item.encode_to_vec().into()
    }

    /// Decodes an item. `None`: a kind that this version doesn't know.
    pub fn decode(bytes: Bytes) -> Result<Option<Self>, DecodeError> {
        ITEM.check(&bytes)?;
        let pb = pb::DiscoveryItem::decode(bytes).map_err(|_| DecodeError::Malformed { what: ITEM.what })?;
        let found = [
            pb.record.map(|s| Ok(Self::Record(Signed::from_pb(s)))),
            pb.device_list.map(|devices| UserDevices::from_pb(devices).map(Self::DeviceList)),
            pb.key_package.map(|s| Ok(Self::KeyPackage(Signed::from_pb(s)))),
            pb.service.map(|s| Ok(Self::Service(Signed::from_pb(s)))),
        ];
        let mut found = found.into_iter().flatten();
        match (found.next(), found.next()) {
            (first, None) => first.transpose(),
            (_, Some(_)) => Err(DecodeError::invalid(ITEM.what, "is several things at once")),
        }
    }

    /// Decodes what is in it and checks every signature with `verify(key, message, signature)`, and every hash.
    /// Whether it is what was asked for, and still valid, says [`OpenItem::check`].
    pub fn open(&self, verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool) -> Result<OpenItem, DecodeError> {
        match self {
            Self::Record(signed) => {
                within(signed, "peer record", limits::RECORD)?;
                let (record, certificate) = PeerRecord::open(signed, verify)?;
                Ok(OpenItem::Record(record, certificate))
            }
            Self::DeviceList(devices) => devices.open(verify).map(OpenItem::DeviceList),
            Self::KeyPackage(signed) => {
                within(signed, KEY_PACKAGE.what, limits::PUBLISHED_KEY_PACKAGE)?;
                Ok(OpenItem::KeyPackage(PublishedKeyPackage::open(signed, verify)?, signed.hash()))
            }
            Self::Service(signed) => {
                within(signed, SERVICE.what, limits::SERVICE_OFFER)?;
                let (offer, certificate) = ServiceOffer::open(signed, verify)?;
                Ok(OpenItem::Service(offer, certificate))
            }
        }
    }
}

fn within(signed: &Signed, what: &'static str, max: usize) -> Result<(), DecodeError> {
    let len = signed.encode().len();
    if len > max { Err(DecodeError::TooLong { what, len, max }) } else { Ok(()) }
}

/// An item whose signatures and hashes are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenItem {
    /// A record, and the certificate of its device.
    Record(PeerRecord, DeviceCertificate),
    /// A device list.
    DeviceList(DeviceList),
    /// A key package, and the hash that names it.
    KeyPackage(PublishedKeyPackage, ObjectHash),
    /// A service, and the certificate of the device that offers it.
    Service(ServiceOffer, DeviceCertificate),
}

impl OpenItem {
    /// Refuses an item of another network, one that has expired, and, with a key, one that doesn't answer it.
    pub fn check(&self, key: Option<&DiscoveryKey>, network: &NetworkId, now_ms: u64) -> Result<(), DecodeError> {
        let wrong = |why| Err(DecodeError::invalid(ITEM.what, why));
        if key.is_some_and(|key| !self.answers(key)) {
            return wrong("is another one than was asked for");
        }
        if self.network().is_some_and(|of| of != network) {
            return wrong("belongs to another network");
        }
        if self.expires_at_ms().is_some_and(|at| at <= now_ms) {
            return wrong("has expired");
        }
        Ok(())
    }

    /// Whether it is what a key asks for.
    pub fn answers(&self, key: &DiscoveryKey) -> bool {
        match (self, key) {
            (Self::Record(_, certificate), DiscoveryKey::Record(device)) => certificate.device == *device,
            (Self::Record(_, certificate), DiscoveryKey::Records(user)) => certificate.user == *user,
            (Self::DeviceList(list), DiscoveryKey::DeviceList(user)) => list.user() == *user,
            (Self::KeyPackage(_, hash), DiscoveryKey::KeyPackage(wanted)) => hash == wanted,
            (Self::Service(offer, _), DiscoveryKey::Service(kind)) => offer.kind == *kind,
            _ => false,
        }
    }

    /// Its place.
    pub fn slot(&self) -> ItemSlot {
        match self {
            Self::Record(_, certificate) => ItemSlot::Record(certificate.device),
            Self::DeviceList(list) => ItemSlot::DeviceList(list.user()),
            Self::KeyPackage(_, hash) => ItemSlot::KeyPackage(*hash),
            Self::Service(offer, certificate) => ItemSlot::Service(offer.kind, certificate.device),
        }
    }

    /// The network that it belongs to; a user's devices are the same in all networks.
    pub fn network(&self) -> Option<&NetworkId> {
        match self {
            Self::Record(record, _) => Some(&record.network),
            Self::DeviceList(_) => None,
            Self::KeyPackage(package, _) => Some(&package.network),
            Self::Service(offer, _) => Some(&offer.network),
        }
    }

    /// When it stops being valid; a device list never does.
    pub fn expires_at_ms(&self) -> Option<u64> {
        match self {
            Self::Record(record, _) => Some(record.expires_at_ms),
            Self::DeviceList(_) => None,
            Self::KeyPackage(package, _) => Some(package.expires_at_ms),
            Self::Service(offer, _) => Some(offer.expires_at_ms),
        }
    }

    /// Of two items of one slot the one with the higher sequence counts; 0 where there is none.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Record(record, _) => record.sequence,
            Self::Service(offer, _) => offer.sequence,
            Self::DeviceList(_) | Self::KeyPackage(..) => 0,
        }
    }
}

/// A key package that others can fetch by its hash, signed by its device key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKeyPackage {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The device's key.
    pub key: PublicKey,
    /// The crypto suite it is for.
    pub suite: SuiteId,
    /// The package, as its crypto made it; at most [`limits::KEY_PACKAGE`] bytes.
    pub package: Bytes,
    /// When it stops being valid, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
}

static KEY_PACKAGE: Shape = Shape {
    what: "published key package",
    max_len: limits::PUBLISHED_KEY_PACKAGE,
    fields: &[
        Field::one(1, 32),
        Field::nested(2, 1, &PUBLIC_KEY),
        Field::one(3, 0),
        Field::one(4, limits::KEY_PACKAGE),
        Field::one(5, 0),
    ],
};

impl PublishedKeyPackage {
    /// The device that it adds to a session.
    pub fn device(&self) -> DeviceId {
        DeviceId::from_key(&self.key)
    }

    /// The bytes to sign under [`context::KEY_PACKAGE`].
    pub fn encode(&self) -> Bytes {
        let package = pb::PublishedKeyPackage {
            network: self.network.encode(),
            key: Some(self.key.to_pb()),
            suite: self.suite.0.into(),
            package: self.package.clone(),
            expires_at_ms: self.expires_at_ms,
        };
        package.encode_to_vec().into()
    }

    /// Decodes a key package and checks the device's signature with `verify(key, message, signature)`. What is in the
    /// package itself is the crypto's to check.
    pub fn open(signed: &Signed, verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        KEY_PACKAGE.check(body)?;
        let pb = pb::PublishedKeyPackage::decode(body.clone())
            .map_err(|_| DecodeError::Malformed { what: KEY_PACKAGE.what })?;
        let package = Self {
            network: NetworkId::decode(&pb.network)?,
            key: PublicKey::decode(pb.key)?,
            suite: SuiteId::decode(pb.suite)?,
            package: pb.package,
            expires_at_ms: pb.expires_at_ms,
        };
        if package.package.is_empty() {
            return Err(DecodeError::invalid(KEY_PACKAGE.what, "is empty"));
        }
        signed
            .verify(context::KEY_PACKAGE, |m, s| verify(&package.key, m, s))
            .ok_or(DecodeError::invalid(KEY_PACKAGE.what, "its signature is wrong"))?;
        Ok(package)
    }
}

/// What a device does for others of its network, signed by its device key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceOffer {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The device's certificate, verbatim.
    pub certificate: Signed,
    /// What it does.
    pub kind: ServiceKind,
    /// Where, best first; none: where the device's record says.
    pub addresses: Vec<Address>,
    /// How many devices it can serve, by its own account.
    pub capacity: u32,
    /// Of two offers of a device for one kind the one with the higher sequence counts.
    pub sequence: u64,
    /// When it stops being valid, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
}

static SERVICE: Shape = Shape {
    what: "service offer",
    max_len: limits::SERVICE_OFFER,
    fields: &[
        Field::one(1, 32),
        Field::nested(2, 1, &signed::SHAPE),
        Field::one(3, 0),
        Field::many(4, limits::ADDRESSES, limits::ADDRESS),
        Field::one(5, 0),
        Field::one(6, 0),
        Field::one(7, 0),
    ],
};

impl ServiceOffer {
    /// The bytes to sign under [`context::SERVICE_OFFER`].
    pub fn encode(&self) -> Bytes {
        let offer = pb::ServiceOffer {
            network: self.network.encode(),
            certificate: Some(self.certificate.to_pb()),
            kind: self.kind.0,
            addresses: self.addresses.iter().map(Address::to_string).collect(),
            capacity: self.capacity,
            sequence: self.sequence,
            expires_at_ms: self.expires_at_ms,
        };
        offer.encode_to_vec().into()
    }

    /// Decodes an offer and checks all signatures with `verify(key, message, signature)`: the certificate's, and the
    /// offer's by the device.
    pub fn open(
        signed: &Signed,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<(Self, DeviceCertificate), DecodeError> {
        let body = signed.unverified_body();
        SERVICE.check(body)?;
        let pb = pb::ServiceOffer::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: SERVICE.what })?;
        let offer = Self {
            network: NetworkId::decode(&pb.network)?,
            certificate: Signed::required(pb.certificate, SERVICE.what)?,
            kind: ServiceKind(pb.kind),
            addresses: pb.addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?,
            capacity: pb.capacity,
            sequence: pb.sequence,
            expires_at_ms: pb.expires_at_ms,
        };
        let certificate = DeviceCertificate::open(&offer.certificate, &verify)?;
        signed
            .verify(context::SERVICE_OFFER, |m, s| verify(&certificate.device_key, m, s))
            .ok_or(DecodeError::invalid(SERVICE.what, "its signature is wrong"))?;
        Ok((offer, certificate))
    }
}

//! Who a user is, and which devices speak for it: two keys that name the user for good, certificates
//! of devices, and the succession of user keys.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::key::PUBLIC_KEY;
use crate::shape::{Field, Shape};
use crate::{DecodeError, DeviceId, ObjectHash, PublicKey, Signed, UserId, context, limits, pb, signed};

/// The two keys that name a user for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserKeys {
    /// The first user key. Devices with the role *admin* hold its secret.
    pub user: PublicKey,
    /// The recovery key. No device needs its secret; what it signs outranks what user keys sign.
    pub recovery: PublicKey,
}

impl UserKeys {
    /// The user's id: a hash of both keys.
    pub fn id(&self) -> UserId {
        UserId::from_keys(&self.user, &self.recovery)
    }
}

/// What a device may do for its user, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles(u32);

impl Roles {
    /// It holds the user key: it certifies and revokes devices.
    pub const ADMIN: Self = Self(1);
    /// It reads and writes messages.
    pub const MESSAGES: Self = Self(2);
    /// It adds, removes and blocks contacts.
    pub const CONTACTS: Self = Self(4);
    /// It changes the user's settings.
    pub const SETTINGS: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// These and those.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits on the wire. Unknown ones are kept: a newer version may have set them.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// "This device speaks for this user", signed by the user key in force and by the device itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCertificate {
    /// The user.
    pub user: UserId,
    /// The keys that name the user.
    pub keys: UserKeys,
    /// Why another key than the first signs, verbatim: a [`Succession`].
    pub succession: Option<Signed>,
    /// The device.
    pub device: DeviceId,
    /// The device's key.
    pub device_key: PublicKey,
    /// What the device may do.
    pub roles: Roles,
    /// When it was issued, in milliseconds since the Unix epoch.
    pub issued_at_ms: u64,
}

static CERTIFICATE: Shape = Shape {
    what: "device certificate",
    max_len: limits::CERTIFICATE,
    fields: &[
        Field::nested(1, 1, &PUBLIC_KEY),
        Field::nested(2, 1, &PUBLIC_KEY),
        Field::nested(3, 1, &PUBLIC_KEY),
        Field::one(4, 0),
        Field::one(5, 0),
        Field::nested(6, 1, &signed::SHAPE),
    ],
};

impl DeviceCertificate {
    /// A certificate for the device with this key, to be signed by the first user key.
    pub fn new(keys: UserKeys, device_key: PublicKey, roles: Roles, issued_at_ms: u64) -> Self {
        let (user, device) = (keys.id(), DeviceId::from_key(&device_key));
        Self { user, keys, succession: None, device, device_key, roles, issued_at_ms }
    }

    /// The certificate as it travels: signed by the user key under [`context::DEVICE_CERTIFICATE`], and
    /// that by the device key under [`context::CERTIFICATE_ACCEPTANCE`].
    pub fn sign(&self, user: impl FnOnce(&[u8]) -> Bytes, device: impl FnOnce(&[u8]) -> Bytes) -> Signed {
        Self::accept(&Signed::sign(context::DEVICE_CERTIFICATE, self.encode(), user), device)
    }

    /// The device's signature over what the user key signed.
    pub fn accept(by_user: &Signed, device: impl FnOnce(&[u8]) -> Bytes) -> Signed {
        Signed::sign(context::CERTIFICATE_ACCEPTANCE, by_user.encode(), device)
    }

    /// The bytes to sign under [`context::DEVICE_CERTIFICATE`].
    pub fn encode(&self) -> Bytes {
        let certificate = pb::DeviceCertificate {
            user_key: Some(self.keys.user.to_pb()),
            recovery_key: Some(self.keys.recovery.to_pb()),
            device_key: Some(self.device_key.to_pb()),
            roles: self.roles.0,
            issued_at_ms: self.issued_at_ms,
            succession: self.succession.as_ref().map(Signed::to_pb),
        };
        certificate.encode_to_vec().into()
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        CERTIFICATE.check(body)?;
        let pb = pb::DeviceCertificate::decode(body.clone())
            .map_err(|_| DecodeError::Malformed { what: CERTIFICATE.what })?;
        let keys = UserKeys { user: PublicKey::decode(pb.user_key)?, recovery: PublicKey::decode(pb.recovery_key)? };
        let certificate = Self::new(keys, PublicKey::decode(pb.device_key)?, Roles(pb.roles), pb.issued_at_ms);
        Ok(Self { succession: pb.succession.map(Signed::from_pb), ..certificate })
    }

    /// Decodes a certificate and checks its signatures with `verify(key, message, signature)`: the
    /// user's, the device's, and the recovery key's where the user key is not the first.
    ///
    /// That a certificate is well signed doesn't mean that it counts: see
    /// [`DeviceList`](crate::DeviceList).
    pub fn open(signed: &Signed, verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool) -> Result<Self, DecodeError> {
        // The keys that verify stand inside; the ids they hash to are what makes them the right keys.
        let by_user = Signed::decode(signed.unverified_body().clone(), limits::CERTIFICATE)?;
        let certificate = Self::decode(by_user.unverified_body())?;
        let wrong = |why| DecodeError::invalid(CERTIFICATE.what, why);
        let key = match &certificate.succession {
            Some(signed) => Succession::open(signed, &certificate.keys, &verify)?.user_key,
            None => certificate.keys.user.clone(),
        };
        by_user
            .verify(context::DEVICE_CERTIFICATE, |m, s| verify(&key, m, s))
            .ok_or(wrong("the user's signature is wrong"))?;
        signed
            .verify(context::CERTIFICATE_ACCEPTANCE, |m, s| verify(&certificate.device_key, m, s))
            .ok_or(wrong("the device's signature is wrong"))?;
        Ok(certificate)
    }
}

/// "Another user key is in force", signed by the recovery key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// The user.
    pub user: UserId,
    /// The key that is in force.
    pub user_key: PublicKey,
    /// Of two successions the one with the higher sequence counts.
    pub sequence: u64,
    /// [`kept_hash`] of the certificates by earlier keys that stay valid.
    pub kept: ObjectHash,
}

pub(crate) static SUCCESSION: Shape = Shape {
    what: "succession",
    max_len: limits::CERTIFICATE,
    fields: &[Field::one(1, 32), Field::nested(2, 1, &PUBLIC_KEY), Field::one(3, 0), Field::one(4, 32)],
};

/// What a [`Succession`] commits to: SHA-256 over the hashes of the kept certificates, ascending.
pub fn kept_hash<'a>(kept: impl IntoIterator<Item = &'a ObjectHash>) -> ObjectHash {
    let mut hasher = Sha256::new();
    kept.into_iter().for_each(|hash| hasher.update(hash));
    hasher.finalize().into()
}

impl Succession {
    /// The bytes to sign under [`context::SUCCESSION`].
    pub fn encode(&self) -> Bytes {
        let succession = pb::Succession {
            user: self.user.encode(),
            user_key: Some(self.user_key.to_pb()),
            sequence: self.sequence,
            kept: Bytes::copy_from_slice(&self.kept),
        };
        succession.encode_to_vec().into()
    }

    /// Decodes a succession of the user with these keys and checks the recovery key's signature.
    pub fn open(
        signed: &Signed,
        keys: &UserKeys,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<Self, DecodeError> {
        let invalid = |why| DecodeError::invalid(SUCCESSION.what, why);
        let body = signed.unverified_body();
        SUCCESSION.check(body)?;
        let pb = pb::Succession::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: SUCCESSION.what })?;
        let succession = Self {
            user: UserId::decode(&pb.user)?,
            user_key: PublicKey::decode(pb.user_key)?,
            sequence: pb.sequence,
            kept: decode_hash(&pb.kept, SUCCESSION.what)?,
        };
        if succession.user != keys.id() {
            return Err(invalid("it is another user's"));
        }
        signed
            .verify(context::SUCCESSION, |m, s| verify(&keys.recovery, m, s))
            .ok_or(invalid("the recovery key's signature is wrong"))?;
        Ok(succession)
    }
}

/// "These devices no longer speak for this user": permanent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The user.
    pub user: UserId,
    /// The devices, at most [`limits::REVOKED`].
    pub devices: Vec<DeviceId>,
    /// When it was issued, in milliseconds since the Unix epoch; for people.
    pub issued_at_ms: u64,
}

pub(crate) static REVOCATION: Shape = Shape {
    what: "revocation",
    max_len: limits::REVOCATION,
    fields: &[Field::one(1, 32), Field::many(2, limits::REVOKED, 32), Field::one(3, 0)],
};

impl Revocation {
    /// The bytes to sign under [`context::REVOCATION`].
    pub fn encode(&self) -> Bytes {
        let revocation = pb::Revocation {
            user: self.user.encode(),
            devices: self.devices.iter().map(DeviceId::encode).collect(),
            issued_at_ms: self.issued_at_ms,
        };
        revocation.encode_to_vec().into()
    }

    /// Decodes a revocation; `verify(message, signature)` tries the keys that count.
    pub fn open(signed: &Signed, verify: impl FnOnce(&[u8], &[u8]) -> bool) -> Result<Self, DecodeError> {
        let body = signed.unverified_body();
        REVOCATION.check(body)?;
        let pb = pb::Revocation::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: REVOCATION.what })?;
        signed.verify(context::REVOCATION, verify).ok_or(DecodeError::invalid(
            REVOCATION.what,
            "its signature is neither the user key's in force nor the recovery key's",
        ))?;
        Ok(Self {
            user: UserId::decode(&pb.user)?,
            devices: pb.devices.iter().map(|d| DeviceId::decode(d)).collect::<Result<_, _>>()?,
            issued_at_ms: pb.issued_at_ms,
        })
    }
}

pub(crate) fn decode_hash(bytes: &[u8], what: &'static str) -> Result<ObjectHash, DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::invalid(what, "a hash is not 32 bytes long"))
}

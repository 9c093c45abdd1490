//! A user's devices as a set that only grows: readers unite what they find, in any order, and agree.
//!
//! Two administrators that edit while they don't hear of each other converge, since merging is union.
//! A revocation wins over every certificate of its device and can't be taken back; a list without a
//! known revocation is an old one, and uniting it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use crate::certificate::{Revocation, Succession, UserKeys, decode_hash, kept_hash};
use crate::key::PUBLIC_KEY;
use crate::shape::{Field, Shape};
use crate::signed::ObjectHash;
use crate::{DecodeError, DeviceCertificate, DeviceId, PublicKey, Signed, UserId, limits, pb, signed};

/// The devices of one user, as far as they are known.
///
/// Call order: [`DeviceList::new`]; then [`DeviceList::unite`] with lists
/// and [`DeviceList::add_certificate`] with certificates, in any order; [`DeviceList::devices`] at
/// any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceList {
    keys: UserKeys,
    succession: Option<Succeeded>,
    /// Certificates that were seen, by hash.
    certificates: BTreeMap<ObjectHash, Known>,
    revocations: BTreeMap<ObjectHash, Revoked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Succeeded {
    signed: Signed,
    succession: Succession,
    /// What it keeps; empty until a list with the hashes was seen.
    kept: BTreeSet<ObjectHash>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Revoked {
    signed: Signed,
    statement: Revocation,
    /// Signed by the recovery key: it outlives the user key.
    by_recovery: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    signed: Signed,
    certificate: DeviceCertificate,
}

pub(crate) static LIST: Shape = Shape {
    what: "device list",
    max_len: limits::DEVICE_LIST,
    fields: &[
        Field::nested(1, 1, &PUBLIC_KEY),
        Field::nested(2, 1, &PUBLIC_KEY),
        Field::nested(3, 1, &signed::SHAPE),
        Field::many(4, limits::DEVICES, 32),
        Field::many(5, limits::LISTED, 32),
        Field::nested(6, limits::REVOCATIONS, &signed::SHAPE),
    ],
};

impl DeviceList {
    /// The list of a user of whom nothing else is known.
    pub fn new(keys: UserKeys) -> Self {
        Self { keys, succession: None, certificates: BTreeMap::new(), revocations: BTreeMap::new() }
    }

    /// The user.
    pub fn user(&self) -> UserId {
        self.keys.id()
    }

    /// The user key that is in force.
    pub fn user_key(&self) -> &PublicKey {
        self.succession.as_ref().map_or(&self.keys.user, |s| &s.succession.user_key)
    }

    /// The devices that speak for the user, by their certificates: signed by the key in force or kept
    /// by the succession, not revoked; at most [`limits::DEVICES`], the earliest issued first.
    pub fn devices(&self) -> Vec<&DeviceCertificate> {
        let mut counting: Vec<_> = self
            .certificates
            .iter()
            .map(|(hash, known)| (hash, &known.certificate))
            .filter(|(hash, certificate)| self.counts(hash, certificate))
            .collect();
        counting.sort_by_key(|(hash, certificate)| (certificate.issued_at_ms, **hash));
        let mut seen = BTreeSet::new();
        // A device that was certified twice counts by its latest certificate, in its first one's place.
        let devices: Vec<DeviceId> = counting
            .iter()
            .map(|(_, c)| c.device)
            .filter(|device| seen.insert(*device))
            .take(limits::DEVICES)
            .collect();
        let latest = |device| counting.iter().rev().map(|(_, c)| *c).find(|c| c.device == device);
        devices.into_iter().filter_map(latest).collect()
    }

    /// Whether a device was revoked.
    pub fn is_revoked(&self, device: &DeviceId) -> bool {
        self.revocations.values().any(|revoked| revoked.statement.devices.contains(device))
    }

    /// Every device that was revoked.
    pub fn revoked(&self) -> BTreeSet<DeviceId> {
        self.revocations.values().flat_map(|revoked| revoked.statement.devices.iter().copied()).collect()
    }

    /// Certificates that another list names and that weren't seen yet: to be asked of the device that sent the list.
    /// Nobody signs these hashes, so none is kept: made-up ones can displace nothing.
    pub fn missing<'a>(&'a self, other: &'a EncodedDeviceList) -> impl Iterator<Item = &'a ObjectHash> {
        other.certificates.iter().filter(|hash| !self.certificates.contains_key(*hash))
    }

    /// The certificates that were seen, verbatim.
    pub fn certificates(&self) -> impl Iterator<Item = &Signed> {
        self.certificates.values().map(|known| &known.signed)
    }

    /// What to show others: the list, and the certificates of the devices that speak for the user.
    pub fn show(&self) -> UserDevices {
        let devices = self.devices();
        let speaks = |known: &&Known| devices.contains(&&known.certificate);
        let certificates = self.certificates.values().filter(speaks).map(|known| known.signed.clone()).collect();
        UserDevices { list: self.to_encoded(), certificates }
    }

    /// Takes in what another device shows, which may come from anybody: what doesn't verify is passed over. `true`:
    /// something is new.
    pub fn take_in(
        &mut self,
        shown: &UserDevices,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<bool, DecodeError> {
        let mut news = self.unite(&shown.list, &verify)?;
        for certificate in &shown.certificates {
            // Each is verified once.
            if !self.certificates.contains_key(&certificate.hash()) {
                news |= self.add_certificate(certificate, &verify).unwrap_or(false);
            }
        }
        Ok(news)
    }

    /// The certificate of a device that speaks for the user, verbatim.
    pub fn certificate(&self, device: &DeviceId) -> Option<&Signed> {
        let certificate = self.devices().into_iter().find(|certificate| certificate.device == *device)?;
        self.certificates.values().find(|known| known.certificate == *certificate).map(|known| &known.signed)
    }

    fn counts(&self, hash: &ObjectHash, certificate: &DeviceCertificate) -> bool {
        let in_force = self.succession.as_ref().map(|s| &s.signed);
        let by_key = certificate.succession.as_ref() == in_force;
        let kept = self.succession.as_ref().is_some_and(|s| s.kept.contains(hash));
        (by_key || kept) && !self.is_revoked(&certificate.device)
    }

    /// Takes in a certificate of this user. `true`: something is new. A succession in it that is newer
    /// than the known one is taken over.
    pub fn add_certificate(
        &mut self,
        signed: &Signed,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<bool, DecodeError> {
        let certificate = DeviceCertificate::open(signed, &verify)?;
        if certificate.keys != self.keys {
            return Err(DecodeError::invalid("device certificate", "it is another user's"));
        }
        let hash = signed.hash();
        let mut news = match &certificate.succession {
            Some(succession) => self.succeed(succession, BTreeSet::new(), &verify)?,
            None => false,
        };
        if !self.certificates.contains_key(&hash) {
            if !self.has_room() {
                return Err(DecodeError::TooMany { what: LIST.what, max: limits::LISTED });
            }
            self.certificates.insert(hash, Known { signed: signed.clone(), certificate });
            news = true;
        }
        Ok(news)
    }

    /// Makes room for one more certificate: those that don't count go. A device that knows better shows them again.
    fn has_room(&mut self) -> bool {
        if self.certificates.len() >= limits::LISTED {
            let known = std::mem::take(&mut self.certificates);
            self.certificates = known.into_iter().filter(|(hash, k)| self.counts(hash, &k.certificate)).collect();
        }
        self.certificates.len() < limits::LISTED
    }

    /// Takes in a revocation. `true`: it revokes a device that wasn't.
    pub fn add_revocation(
        &mut self,
        signed: &Signed,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<bool, DecodeError> {
        let revocation = self.open_revocation(signed, &verify)?;
        let news = revocation.statement.devices.iter().any(|device| !self.is_revoked(device));
        let says_no_less = |a: &Revoked, b: &Revoked| {
            a.by_recovery >= b.by_recovery && b.statement.devices.iter().all(|d| a.statement.devices.contains(d))
        };
        if self.revocations.values().any(|known| says_no_less(known, &revocation)) {
            return Ok(false);
        }
        self.revocations.retain(|_, known| !says_no_less(&revocation, known));
        if self.revocations.len() >= limits::REVOCATIONS {
            return Err(DecodeError::TooMany { what: "revocations", max: limits::REVOCATIONS });
        }
        self.revocations.insert(signed.hash(), revocation);
        Ok(news)
    }

    fn open_revocation(
        &self,
        signed: &Signed,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<Revoked, DecodeError> {
        let mut by_recovery = false;
        let statement = Revocation::open(signed, |message, signature| {
            by_recovery = verify(&self.keys.recovery, message, signature);
            by_recovery || verify(self.user_key(), message, signature)
        })?;
        if statement.user != self.user() {
            return Err(DecodeError::invalid("revocation", "it is another user's"));
        }
        Ok(Revoked { signed: signed.clone(), statement, by_recovery })
    }

    /// Takes in a succession with the hashes that it keeps (empty if they are not at hand). `true`:
    /// something is new.
    pub fn succeed(
        &mut self,
        signed: &Signed,
        kept: BTreeSet<ObjectHash>,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<bool, DecodeError> {
        let succession = Succession::open(signed, &self.keys, &verify)?;
        let kept = if kept_hash(&kept) == succession.kept { kept } else { BTreeSet::new() };
        let rank = |s: &Succession, signed: &Signed| (s.sequence, signed.hash());
        if let Some(known) = &mut self.succession {
            if known.signed == *signed {
                let news = known.kept.is_empty() && !kept.is_empty();
                known.kept.extend(kept);
                return Ok(news);
            }
            if rank(&succession, signed) < rank(&known.succession, &known.signed) {
                return Ok(false);
            }
        }
        self.succession = Some(Succeeded { signed: signed.clone(), succession, kept });
        // Statements of earlier user keys count no longer.
        let known = std::mem::take(&mut self.revocations);
        self.revocations =
            known.into_iter().filter(|(_, r)| self.open_revocation(&r.signed, &verify).is_ok()).collect();
        Ok(true)
    }

    /// Unites this list with another one of the same user, which may come from anybody: what doesn't
    /// verify is passed over. `true`: something is new. Its certificates come one by one, see
    /// [`DeviceList::missing`].
    pub fn unite(
        &mut self,
        other: &EncodedDeviceList,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<bool, DecodeError> {
        if other.keys != self.keys {
            return Err(DecodeError::invalid(LIST.what, "it is another user's"));
        }
        let mut news = false;
        if let Some(succession) = &other.succession {
            news |= self.succeed(succession, other.kept.clone(), &verify)?;
        }
        for revocation in &other.revocations {
            news |= self.add_revocation(revocation, &verify).unwrap_or(false);
        }
        Ok(news)
    }

    /// What to publish: the same bytes on every device that knows the same.
    pub fn to_encoded(&self) -> EncodedDeviceList {
        EncodedDeviceList {
            keys: self.keys.clone(),
            succession: self.succession.as_ref().map(|s| s.signed.clone()),
            kept: self.succession.as_ref().map(|s| s.kept.clone()).unwrap_or_default(),
            certificates: self
                .certificates
                .iter()
                .filter(|(hash, known)| self.counts(hash, &known.certificate))
                .map(|(hash, _)| *hash)
                .collect(),
            revocations: self.revocations.values().map(|revoked| revoked.signed.clone()).collect(),
        }
    }
}

/// A user's devices as they are shown and published: a list, and certificates that it names. Nothing in it is verified
/// yet: [`UserDevices::open`] and [`DeviceList::take_in`] verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDevices {
    /// The list.
    pub list: EncodedDeviceList,
    /// Certificates, verbatim.
    pub certificates: Vec<Signed>,
}

pub(crate) static USER_DEVICES: Shape = Shape {
    what: "user's devices",
    max_len: limits::USER_DEVICES,
    fields: &[Field::nested(1, 1, &LIST), Field::nested(2, limits::LISTED, &signed::SHAPE)],
};

impl UserDevices {
    /// The list, if everything in it verifies and the certificates are those that it names.
    pub fn open(&self, verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool) -> Result<DeviceList, DecodeError> {
        let mut list = DeviceList::new(self.list.keys.clone());
        list.unite(&self.list, &verify)?;
        for certificate in &self.certificates {
            if !self.list.names(&certificate.hash()) {
                return Err(DecodeError::invalid(USER_DEVICES.what, "has a certificate that the list doesn't name"));
            }
            list.add_certificate(certificate, &verify)?;
        }
        Ok(list)
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        self.to_pb().encode_to_vec().into()
    }

    /// Decodes what was shown.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        USER_DEVICES.check(&bytes)?;
        let what = USER_DEVICES.what;
        Self::from_pb(pb::UserDevices::decode(bytes).map_err(|_| DecodeError::Malformed { what })?)
    }

    pub(crate) fn to_pb(&self) -> pb::UserDevices {
        let certificates = self.certificates.iter().map(Signed::to_pb).collect();
        pb::UserDevices { list: Some(self.list.to_pb()), certificates }
    }

    pub(crate) fn from_pb(pb: pb::UserDevices) -> Result<Self, DecodeError> {
        let list = pb.list.ok_or(DecodeError::invalid(USER_DEVICES.what, "it has no list"))?;
        let certificates = pb.certificates.into_iter().map(Signed::from_pb).collect();
        Ok(Self { list: EncodedDeviceList::from_pb(list)?, certificates })
    }
}

/// A device list as it travels: nothing in it is verified yet. [`DeviceList::unite`] verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedDeviceList {
    /// The keys that name the user.
    pub keys: UserKeys,
    succession: Option<Signed>,
    kept: BTreeSet<ObjectHash>,
    certificates: BTreeSet<ObjectHash>,
    revocations: Vec<Signed>,
}

impl EncodedDeviceList {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        self.to_pb().encode_to_vec().into()
    }

    /// Decodes a list.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        LIST.check(&bytes)?;
        Self::from_pb(pb::DeviceList::decode(bytes).map_err(|_| DecodeError::Malformed { what: LIST.what })?)
    }

    /// Whether the certificate with this hash is in it.
    pub fn names(&self, certificate: &ObjectHash) -> bool {
        self.certificates.contains(certificate)
    }

    pub(crate) fn to_pb(&self) -> pb::DeviceList {
        let hashes = |set: &BTreeSet<ObjectHash>| set.iter().map(|h| Bytes::copy_from_slice(h)).collect();
        pb::DeviceList {
            user_key: Some(self.keys.user.to_pb()),
            recovery_key: Some(self.keys.recovery.to_pb()),
            succession: self.succession.as_ref().map(Signed::to_pb),
            kept: hashes(&self.kept),
            certificates: hashes(&self.certificates),
            revocations: self.revocations.iter().map(Signed::to_pb).collect(),
        }
    }

    pub(crate) fn from_pb(pb: pb::DeviceList) -> Result<Self, DecodeError> {
        let hashes = |list: &[Bytes]| list.iter().map(|h| decode_hash(h, LIST.what)).collect::<Result<_, _>>();
        Ok(Self {
            keys: UserKeys { user: PublicKey::decode(pb.user_key)?, recovery: PublicKey::decode(pb.recovery_key)? },
            succession: pb.succession.map(Signed::from_pb),
            kept: hashes(&pb.kept)?,
            certificates: hashes(&pb.certificates)?,
            revocations: pb.revocations.into_iter().map(Signed::from_pb).collect(),
        })
    }
}

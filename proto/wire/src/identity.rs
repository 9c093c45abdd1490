//! The record by which a device is found: its addresses and suites.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use prost::Message;

use crate::shape::{Field, Shape};
use crate::{DecodeError, DeviceCertificate, NetworkId, PublicKey, Signed, context, limits, pb, signed};

/// Names a crypto suite on the wire and on disk; `docs/formats.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SuiteId(pub u16);

impl SuiteId {
    pub(crate) fn decode(value: u32) -> Result<Self, DecodeError> {
        u16::try_from(value).map(Self).map_err(|_| DecodeError::invalid("suite", "is above 65535"))
    }
}

/// Where a device may be reached: `scheme://rest`, the scheme being a transport's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

impl Address {
    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The transport that understands the address.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// What stands after `scheme://`.
    pub fn rest(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, rest)| rest)
    }
}

impl FromStr for Address {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let invalid = |why| Err(DecodeError::invalid("address", why));
        if text.len() > limits::ADDRESS {
            return Err(DecodeError::TooLong { what: "address", len: text.len(), max: limits::ADDRESS });
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return invalid("has characters that can't be shown");
        }
        match text.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => {
                let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                if scheme.bytes().all(good) { Ok(Self(text.into())) } else { invalid("has a malformed scheme") }
            }
            _ => invalid("is not of the form scheme://place"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where and how a device can be reached, signed by its device key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The device's certificate, verbatim.
    pub certificate: Signed,
    /// Its addresses, best first.
    pub addresses: Vec<Address>,
    /// What it offers to others, as bits; `docs/formats.md` lists them.
    pub capabilities: u64,
    /// The crypto suites it accepts, best first.
    pub suites: Vec<SuiteId>,
    /// SHA-256 of the key packages that may be fetched.
    pub key_packages: Vec<[u8; 32]>,
    /// Of two records of a device the one with the higher sequence counts.
    pub sequence: u64,
    /// When it stops being valid, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// The oldest and the newest wire version that the device speaks.
    pub versions: (u32, u32),
}

static RECORD: Shape = Shape {
    what: "peer record",
    max_len: limits::RECORD,
    fields: &[
        Field::one(1, 32),
        Field::nested(2, 1, &signed::SHAPE),
        Field::many(3, limits::ADDRESSES, limits::ADDRESS),
        Field::one(4, 0),
        // Packed: one field holds all of them, at most three bytes each.
        Field::many(5, limits::SUITES, 3 * limits::SUITES),
        Field::many(6, limits::KEY_PACKAGE_HASHES, 32),
        Field::one(7, 0),
        Field::one(8, 0),
        Field::one(9, 0),
        Field::one(10, 0),
    ],
};

impl PeerRecord {
    /// The bytes to sign under [`context::PEER_RECORD`].
    pub fn encode(&self) -> Bytes {
        let record = pb::PeerRecord {
            network: self.network.encode(),
            certificate: Some(self.certificate.to_pb()),
            addresses: self.addresses.iter().map(Address::to_string).collect(),
            capabilities: self.capabilities,
            suites: self.suites.iter().map(|s| s.0.into()).collect(),
            key_packages: self.key_packages.iter().map(|h| Bytes::copy_from_slice(h)).collect(),
            sequence: self.sequence,
            expires_at_ms: self.expires_at_ms,
            version_min: self.versions.0,
            version_max: self.versions.1,
        };
        record.encode_to_vec().into()
    }

    /// Decodes a record and checks both signatures with `verify(key, message, signature)`: the
    /// certificate's, and the record's by the device. Expiry and sequence are the caller's.
    pub fn open(
        signed: &Signed,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<(Self, DeviceCertificate), DecodeError> {
        let record = Self::decode(signed.unverified_body())?;
        let certificate = DeviceCertificate::open(&record.certificate, &verify)?;
        signed
            .verify(context::PEER_RECORD, |m, s| verify(&certificate.device_key, m, s))
            .ok_or(DecodeError::invalid(RECORD.what, "its signature is wrong"))?;
        Ok((record, certificate))
    }

    fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        RECORD.check(body)?;
        let pb = pb::PeerRecord::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: RECORD.what })?;
        let hash = |h: &Bytes| {
            let wrong = DecodeError::invalid(RECORD.what, "a key package hash is not 32 bytes long");
            <[u8; 32]>::try_from(h.as_ref()).map_err(|_| wrong)
        };
        if pb.version_min == 0 || pb.version_min > pb.version_max {
            return Err(DecodeError::invalid(RECORD.what, "it names no wire version"));
        }
        Ok(Self {
            versions: (pb.version_min, pb.version_max),
            network: NetworkId::decode(&pb.network)?,
            certificate: Signed::required(pb.certificate, RECORD.what)?,
            addresses: pb.addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?,
            capabilities: pb.capabilities,
            suites: decode_suites(&pb.suites)?,
            key_packages: pb.key_packages.iter().map(hash).collect::<Result<_, _>>()?,
            sequence: pb.sequence,
            expires_at_ms: pb.expires_at_ms,
        })
    }
}

pub(crate) fn decode_suites(suites: &[u32]) -> Result<Vec<SuiteId>, DecodeError> {
    if suites.len() > limits::SUITES {
        return Err(DecodeError::TooMany { what: "suites", max: limits::SUITES });
    }
    suites.iter().map(|s| SuiteId::decode(*s)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let address: Address = "quic://127.0.0.1:4433".parse().unwrap();
        assert_eq!((address.scheme(), address.rest()), ("quic", "127.0.0.1:4433"));
        for wrong in ["", "quic", "://x", "quic://", "Quic://x", "quic://a b", "quic://\u{202e}"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
        assert!(format!("q://{}", "x".repeat(200)).parse::<Address>().is_err());
    }

    fn record(versions: (u32, u32)) -> PeerRecord {
        PeerRecord {
            network: NetworkId::from_name("test"),
            certificate: Signed::sign(b"", Bytes::from_static(b"body"), |_| Bytes::from_static(b"signature")),
            addresses: Vec::new(),
            capabilities: 0,
            suites: vec![SuiteId(u16::MAX); limits::SUITES],
            key_packages: vec![[3; 32]; limits::KEY_PACKAGE_HASHES],
            sequence: 1,
            expires_at_ms: 2,
            versions,
        }
    }

    #[test]
    fn a_record_names_the_versions_that_its_device_speaks() {
        for versions in [(1, 1), (1, 2), (3, 9)] {
            assert_eq!(PeerRecord::decode(&record(versions).encode()), Ok(record(versions)));
        }
        for versions in [(0, 0), (0, 1), (2, 1)] {
            assert!(PeerRecord::decode(&record(versions).encode()).is_err(), "{versions:?}");
        }
        let many = PeerRecord { suites: vec![SuiteId(u16::MAX); limits::SUITES + 1], ..record((1, 1)) };
        assert!(PeerRecord::decode(&many.encode()).is_err());
        assert!(SuiteId::decode(65_535).is_ok() && SuiteId::decode(65_536).is_err());
    }
}

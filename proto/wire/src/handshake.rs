//! The handshake's messages and what its signatures cover.
//!
//! One exchange for every transport: `Hello →`, `← Hello`, `← Auth`, `Auth →`, `← Verdict`. Each
//! side signs its role, both hellos verbatim and the link's channel binding, so a signature fits
//! one link, one direction and one pair of offers.

use bytes::Bytes;
use prost::Message;

use crate::identity::decode_suites;
use crate::name::clean_name;
use crate::shape::{Field, Shape};
use crate::{DecodeError, NetworkId, Restored, Signed, Stated, SuiteId, context, limits, pb, signed};

/// Which end of the link a side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that dialed.
    Initiator,
    /// The side that was dialed.
    Responder,
}

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// 32 random bytes, new for each handshake.
    pub nonce: [u8; 32],
    /// Oldest wire version it speaks.
    pub version_min: u32,
    /// Newest wire version it speaks.
    pub version_max: u32,
    /// Its network.
    pub network: NetworkId,
    /// Its device's certificate, verbatim.
    pub certificate: Signed,
    /// The crypto suites it accepts, best first.
    pub suites: Vec<SuiteId>,
    /// What it insists on, as bits: 0 post-quantum content, 1 post-quantum transport.
    pub policy: u32,
    /// Optional features it understands, as bits. None are defined in version 1.
    pub features: u64,
}

static HELLO: Shape = Shape {
    what: "hello",
    max_len: limits::HANDSHAKE_FRAME,
    fields: &[
        Field::one(1, 32),
        Field::one(2, 0),
        Field::one(3, 0),
        Field::one(4, 32),
        Field::nested(5, 1, &signed::SHAPE),
        Field::many(6, limits::SUITES, 3 * limits::SUITES),
        Field::one(7, 0),
        Field::one(8, 0),
    ],
};

impl Hello {
    /// Its bytes on the wire.
    pub fn encode(&self) -> Bytes {
        let hello = pb::Hello {
            nonce: Bytes::copy_from_slice(&self.nonce),
            version_min: self.version_min,
            version_max: self.version_max,
            network: self.network.encode(),
            certificate: Some(self.certificate.to_pb()),
            suites: self.suites.iter().map(|s| s.0.into()).collect(),
            policy: self.policy,
            features: self.features,
        };
        hello.encode_to_vec().into()
    }

    /// Decodes a hello; nothing in it is verified yet.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        HELLO.check(&bytes)?;
        let pb = pb::Hello::decode(bytes).map_err(|_| DecodeError::Malformed { what: HELLO.what })?;
        let nonce = pb.nonce.as_ref().try_into();
        Ok(Self {
            nonce: nonce.map_err(|_| DecodeError::invalid(HELLO.what, "its nonce is not 32 bytes long"))?,
            version_min: pb.version_min,
            version_max: pb.version_max,
            network: NetworkId::decode(&pb.network)?,
            certificate: Signed::required(pb.certificate, HELLO.what)?,
            suites: decode_suites(&pb.suites)?,
            policy: pb.policy,
            features: pb.features,
        })
    }
}

/// The second message of each side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The device key's signature over [`auth_input`].
    pub signature: Bytes,
    /// The token of the invitation that brought the sender here.
    pub token: Option<[u8; 16]>,
    /// What the sender calls itself.
    pub name: String,
}

static AUTH: Shape = Shape {
    what: "auth",
    max_len: limits::HANDSHAKE_FRAME,
    fields: &[Field::one(1, limits::SIGNATURE), Field::one(2, 16), Field::one(3, limits::NAME)],
};

impl Auth {
    /// Its bytes on the wire.
    pub fn encode(&self) -> Bytes {
        let auth = pb::Auth {
            signature: self.signature.clone(),
            token: self.token.map(|t| Bytes::copy_from_slice(&t)).unwrap_or_default(),
            name: self.name.clone(),
        };
        auth.encode_to_vec().into()
    }

    /// Decodes the message; the signature is the caller's to check.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        AUTH.check(&bytes)?;
        let pb = pb::Auth::decode(bytes).map_err(|_| DecodeError::Malformed { what: AUTH.what })?;
        let token = match pb.token.len() {
            0 => None,
            _ => Some(
                pb.token
                    .as_ref()
                    .try_into()
                    .map_err(|_| DecodeError::invalid(AUTH.what, "its token is not 16 bytes long"))?,
            ),
        };
        Ok(Self { signature: pb.signature, token, name: clean_name(&pb.name) })
    }
}

/// What a side's [`Auth`] signature covers.
///
/// `HANDSHAKE ‖ role ‖ len ‖ initiator hello ‖ len ‖ responder hello ‖ len ‖ channel binding`, lengths
/// as 4 bytes big-endian. Ids, network, versions, suites and policy stand in the hellos.
pub fn auth_input(role: Role, initiator_hello: &[u8], responder_hello: &[u8], binding: &[u8]) -> Vec<u8> {
    let role = match role {
        Role::Initiator => 1,
        Role::Responder => 2,
    };
    let mut input = context::HANDSHAKE.to_vec();
    input.push(role);
    for part in [initiator_hello, responder_hello, binding] {
        // A hello is at most 4 KiB and a binding shorter, so the length fits.
        input.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        input.extend_from_slice(part);
    }
    input
}

/// Why a responder refuses a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The dialer is neither a contact nor does it carry a valid invitation.
    NotAContact,
    /// The two sides share no wire version.
    Version,
    /// The two sides share no suite, or one side's policy forbids what is left.
    Suite,
    /// The dialer belongs to another network.
    Network,
    /// The responder has too many links or handshakes under way.
    Busy,
    /// The signature or the certificate is wrong.
    Unauthenticated,
    /// The dialer's user has as many devices there as a contact may have ([`limits::DEVICES`]).
    Full,
    /// The dialer's user revoked this device.
    Revoked,
}

/// The responder's last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The link is up.
    Accepted,
    /// It isn't.
    Refused(Refusal),
    /// Nor ever will be: the responder's store isn't its device's newest. Its notice.
    Restored(Stated<Restored>),
}

static NOTICE: Shape = Shape { what: "notice", max_len: limits::HANDSHAKE_FRAME, fields: signed::SHAPE.fields };
static VERDICT: Shape = Shape {
    what: "verdict",
    max_len: limits::HANDSHAKE_FRAME,
    fields: &[Field::one(1, 0), Field::nested(2, 1, &NOTICE)],
};

impl Verdict {
    /// Its bytes on the wire.
    pub fn encode(&self) -> Bytes {
        let code = match self {
            Self::Accepted => 0,
            Self::Refused(Refusal::NotAContact) => 1,
            Self::Refused(Refusal::Version) => 2,
            Self::Refused(Refusal::Suite) => 3,
            Self::Refused(Refusal::Network) => 4,
            Self::Refused(Refusal::Busy) => 5,
            Self::Refused(Refusal::Unauthenticated) => 6,
            Self::Restored(_) => 7,
            Self::Refused(Refusal::Full) => 8,
            Self::Refused(Refusal::Revoked) => 9,
        };
        let notice = match self {
            Self::Restored(notice) => Some(notice.signed().to_pb()),
            Self::Accepted | Self::Refused(_) => None,
        };
        pb::Verdict { code, notice }.encode_to_vec().into()
    }

    /// Decodes a verdict.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        VERDICT.check(&bytes)?;
        let pb = pb::Verdict::decode(bytes).map_err(|_| DecodeError::Malformed { what: VERDICT.what })?;
        Ok(match pb.code {
            0 => Self::Accepted,
            1 => Self::Refused(Refusal::NotAContact),
            2 => Self::Refused(Refusal::Version),
            3 => Self::Refused(Refusal::Suite),
            4 => Self::Refused(Refusal::Network),
            5 => Self::Refused(Refusal::Busy),
            6 => Self::Refused(Refusal::Unauthenticated),
            7 => Self::Restored(Stated::decode(Signed::required(pb.notice, VERDICT.what)?)?),
            8 => Self::Refused(Refusal::Full),
            9 => Self::Refused(Refusal::Revoked),
            found => {
                return Err(DecodeError::UnsupportedVersion { what: VERDICT.what, found });
            }
        })
    }
}

/// What the two hellos of a link agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The newest wire version that both sides speak.
    pub version: u32,
    /// The features that both sides understand, as bits.
    pub features: u64,
    /// What either side insists on, as bits.
    pub policy: u32,
}

/// What both sides can do; symmetric in its arguments. `None`: they share no version.
pub fn negotiate(a: &Hello, b: &Hello) -> Option<Negotiated> {
    let version = a.version_max.min(b.version_max);
    let (features, policy) = (a.features & b.features, a.policy | b.policy);
    (version >= a.version_min.max(b.version_min)).then_some(Negotiated { version, features, policy })
}

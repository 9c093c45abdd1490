//! The invitation: a signed record with a token that lets its bearer in.

use bytes::Bytes;
use prost::Message;

use crate::name::clean_name;
use crate::shape::{Field, Shape};
use crate::{DecodeError, DeviceCertificate, PeerRecord, PublicKey, Signed, context, limits, pb, signed};

/// What the inviter hands to the invited, signed by the inviting device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The inviting device's record, verbatim.
    pub record: Signed,
    /// Shows the inviter that the bearer was invited.
    pub token: [u8; 16],
    /// When the inviter stops accepting it, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// What the inviter calls itself.
    pub name: String,
}

static SHAPE: Shape = Shape {
    what: "invitation",
    max_len: limits::INVITATION,
    fields: &[Field::nested(1, 1, &signed::SHAPE), Field::one(2, 16), Field::one(3, 0), Field::one(4, limits::NAME)],
};

impl Invitation {
    /// The bytes to sign under [`context::INVITATION`].
    pub fn encode(&self) -> Bytes {
        let invitation = pb::Invitation {
            record: Some(self.record.to_pb()),
            token: Bytes::copy_from_slice(&self.token),
            expires_at_ms: self.expires_at_ms,
            name: self.name.clone(),
        };
        invitation.encode_to_vec().into()
    }

    /// Decodes an invitation and checks its three signatures with `verify(key, message, signature)`.
    /// Network and expiry are the caller's to check.
    pub fn open(
        signed: &Signed,
        verify: impl Fn(&PublicKey, &[u8], &[u8]) -> bool,
    ) -> Result<(Self, PeerRecord, DeviceCertificate), DecodeError> {
        let body = signed.unverified_body();
        SHAPE.check(body)?;
        let pb = pb::Invitation::decode(body.clone()).map_err(|_| DecodeError::Malformed { what: SHAPE.what })?;
        let token = pb.token.as_ref().try_into();
        let invitation = Self {
            record: Signed::required(pb.record, SHAPE.what)?,
            token: token.map_err(|_| DecodeError::invalid(SHAPE.what, "its token is not 16 bytes long"))?,
            expires_at_ms: pb.expires_at_ms,
            name: clean_name(&pb.name),
        };
        let (record, certificate) = PeerRecord::open(&invitation.record, &verify)?;
        signed
            .verify(context::INVITATION, |m, s| verify(&certificate.device_key, m, s))
            .ok_or(DecodeError::invalid(SHAPE.what, "its signature is wrong"))?;
        Ok((invitation, record, certificate))
    }
}

//! Objects that are verified and forwarded exactly as they were signed.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::shape::{Field, Shape};
use crate::{DecodeError, limits, pb};

/// SHA-256 of an object's bytes, by which lists name it.
pub type ObjectHash = [u8; 32];

/// Bytes and the signature over them.
///
/// The signature covers `context ‖ body` (see [`crate::context`]), never a re-encoding: decoding
/// drops what a newer version may have added. Verify before decoding the body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Signed {
    body: Bytes,
    signature: Bytes,
}

pub(crate) static SHAPE: Shape = Shape {
    what: "signed object",
    max_len: limits::CHAT_FRAME,
    fields: &[Field::one(1, limits::CHAT_FRAME), Field::one(2, limits::SIGNATURE)],
};

impl Signed {
    /// Signs `body` under `context` with the given function.
    pub fn sign(context: &[u8], body: Bytes, sign: impl FnOnce(&[u8]) -> Bytes) -> Self {
        let signature = sign(&signing_input(context, &body));
        Self { body, signature }
    }

    /// The body, if `verify(message, signature)` finds the signature good.
    pub fn verify(&self, context: &[u8], verify: impl FnOnce(&[u8], &[u8]) -> bool) -> Option<&Bytes> {
        verify(&signing_input(context, &self.body), &self.signature).then_some(&self.body)
    }

    /// The body, unverified: only to learn which key the signature must be checked with.
    pub fn unverified_body(&self) -> &Bytes {
        &self.body
    }

    /// Decodes bytes of at most `max_len`.
    pub fn decode(bytes: Bytes, max_len: usize) -> Result<Self, DecodeError> {
        if bytes.len() > max_len {
            return Err(DecodeError::TooLong { what: SHAPE.what, len: bytes.len(), max: max_len });
        }
        SHAPE.check(&bytes)?;
        let signed = pb::Signed::decode(bytes).map_err(|_| DecodeError::Malformed { what: SHAPE.what })?;
        if signed.signature.is_empty() {
            return Err(DecodeError::invalid(SHAPE.what, "its signature is missing"));
        }
        Ok(Self::from_pb(signed))
    }

    /// The object's bytes.
    pub fn encode(&self) -> Bytes {
        self.to_pb().encode_to_vec().into()
    }

    /// SHA-256 of its bytes, by which others name it.
    pub fn hash(&self) -> ObjectHash {
        Sha256::digest(self.encode()).into()
    }

    pub(crate) fn from_pb(signed: pb::Signed) -> Self {
        Self { body: signed.body, signature: signed.signature }
    }

    pub(crate) fn required(signed: Option<pb::Signed>, what: &'static str) -> Result<Self, DecodeError> {
        signed.map(Self::from_pb).ok_or(DecodeError::Invalid { what, why: "lacks a signed object" })
    }

    pub(crate) fn to_pb(&self) -> pb::Signed {
        pb::Signed { body: self.body.clone(), signature: self.signature.clone() }
    }
}

/// What is signed: the context, then the body.
pub fn signing_input(context: &[u8], body: &[u8]) -> Vec<u8> {
    [context, body].concat()
}

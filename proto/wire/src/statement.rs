//! What a device states and signs, decoded once and kept with the bytes that it signed.

use std::ops::Deref;

use bytes::Bytes;

use crate::shape::Shape;
use crate::{DecodeError, DeviceId, Signed};

/// The content of a [`Stated`]: it names the device that signs it, so that it verifies from its own bytes
/// and that device's certificate, whichever way it comes.
pub trait Statement: Sized {
    /// What the signature is made under ([`crate::context`]).
    const CONTEXT: &'static [u8];

    /// How often each field may stand in it.
    fn shape() -> &'static Shape;

    /// The device that signs it.
    fn signer(&self) -> DeviceId;

    /// The bytes to sign.
    fn encode(&self) -> Bytes;

    /// Decodes bytes that have the [`shape`](Self::shape).
    fn decode(body: &Bytes) -> Result<Self, DecodeError>;
}

/// A statement as its device signed it. Nothing in it can be changed; [`Stated::verify`] says whether the
/// signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated<T> {
    content: T,
    signed: Signed,
}

impl<T: Statement> Stated<T> {
    /// Signs a statement; `sign` is the signature function of [`Statement::signer`].
    pub fn sign(content: T, sign: impl FnOnce(&[u8]) -> Bytes) -> Self {
        let signed = Signed::sign(T::CONTEXT, content.encode(), sign);
        Self { content, signed }
    }

    /// Decodes a signed statement; its signature is not verified yet.
    pub fn decode(signed: Signed) -> Result<Self, DecodeError> {
        T::shape().check(signed.unverified_body())?;
        Ok(Self { content: T::decode(signed.unverified_body())?, signed })
    }

    /// Whether `verify(message, signature)`, with the key of [`Statement::signer`], finds the signature good.
    pub fn verify(&self, verify: impl FnOnce(&[u8], &[u8]) -> bool) -> bool {
        self.signed.verify(T::CONTEXT, verify).is_some()
    }

    /// The statement's bytes and the signature over them.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }
}

impl<T> Deref for Stated<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

//! An application entry: `number of wraps ‖ wraps ‖ signature ‖ body`.
//!
//! The signature is over the log, the associated data, the wraps and the body, so that nobody can
//! take an entry for another log's or position's, or wrap its key for another recipient.

use bytes::Bytes;
use peerloom_core::wire::{LogId, PublicKey, context};
use peerloom_crypto_primitives::{SigningKey, aead, sha256, verify};
use zeroize::Zeroizing;

use crate::keys::WRAP;

/// Bytes of an Ed25519 signature.
const SIGNATURE: usize = 64;

/// An entry taken apart.
pub(crate) struct Parts<'a> {
    pub(crate) wraps: &'a [u8],
    signature: &'a [u8],
    body: &'a [u8],
}

/// The entry, and the recipe that makes it again from its plaintext.
pub(crate) fn seal(
    signing: &SigningKey,
    log: &LogId,
    associated_data: &[u8],
    content_key: &Zeroizing<[u8; 32]>,
    wraps: &[u8],
    plaintext: &[u8],
) -> (Bytes, Bytes) {
    let body = body(content_key, plaintext);
    let signature = signing.sign(&signed_message(log, associated_data, wraps, &body));
    let recipe = [content_key.as_slice(), &signature, wraps].concat();
    (assemble(wraps, &signature, &body), recipe.into())
}

/// The entry that a recipe and its plaintext make.
pub(crate) fn rebuild(recipe: &[u8], plaintext: &[u8]) -> Option<Bytes> {
    let (content_key, rest) = recipe.split_first_chunk()?;
    let (signature, wraps) = rest.split_at_checked(SIGNATURE)?;
    Some(assemble(wraps, signature, &body(&Zeroizing::new(*content_key), plaintext)))
}

fn body(content_key: &Zeroizing<[u8; 32]>, plaintext: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(plaintext.len() + aead::OVERHEAD);
    body.extend_from_slice(plaintext);
    aead::seal_once(content_key, b"", &mut body);
    body
}

fn assemble(wraps: &[u8], signature: &[u8], body: &[u8]) -> Bytes {
    let count = u16::try_from(wraps.len() / WRAP).unwrap_or(u16::MAX);
    [&count.to_be_bytes(), wraps, signature, body].concat().into()
}

fn signed_message(log: &LogId, associated_data: &[u8], wraps: &[u8], body: &[u8]) -> Vec<u8> {
    let hashes = [sha256(&[associated_data]), sha256(&[wraps]), sha256(&[body])];
    [context::SEALED_ENTRY, log.device.as_bytes(), log.conversation.as_bytes(), &hashes.concat()].concat()
}

/// Takes a payload apart.
pub(crate) fn split(payload: &[u8]) -> Option<Parts<'_>> {
    let (count, rest) = payload.split_first_chunk()?;
    let (wraps, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*count)) * WRAP)?;
    let (signature, body) = rest.split_at_checked(SIGNATURE)?;
    Some(Parts { wraps, signature, body })
}

impl Parts<'_> {
    /// Whether the log's owner signed it, for this place.
    pub(crate) fn is_genuine(&self, owner: &PublicKey, log: &LogId, associated_data: &[u8]) -> bool {
        verify(owner, &signed_message(log, associated_data, self.wraps, self.body), self.signature)
    }

    /// The plaintext.
    pub(crate) fn open(&self, content_key: &Zeroizing<[u8; 32]>) -> Option<Bytes> {
        aead::open_once(content_key, b"", self.body.to_vec()).map(Bytes::from)
    }
}

//! MLS (RFC 9420) as Peerloom's default crypto.
//!
//! Each device owns one MLS group per conversation for what *it* sends, and alone commits there:
//! the group's history is the device's log, so a serverless group never forks. A 1:1 conversation
//! is two such groups of two members.

mod codec;
mod commits;
mod crypto;
mod error;
mod groups;
mod members;
mod parameters;
mod payload;
mod provider;
mod suite;
mod timeless;

use std::sync::Arc;

use peerloom_core::kinds::NoSettings;
use peerloom_core::{Kinds, Result};

pub use crypto::MlsCrypto;

/// Registers the `mls-classical` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "MLS with X25519, ChaCha20-Poly1305, SHA-256, Ed25519: forward secrecy and healing";
    kinds.cryptos.add("mls-classical", summary, |_: NoSettings, context| {
        Ok(Arc::new(MlsCrypto::new(&context.secret, context.certificate.clone())?))
    })
}

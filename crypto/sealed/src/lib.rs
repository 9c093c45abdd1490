//! Sealing without a ratchet: a fresh content key for each entry, wrapped for each recipient by HPKE
//! (RFC 9180), a ChaCha20-Poly1305 body and an Ed25519 signature.
//!
//! For first contact, broadcasts and tiny devices. A thief of a device's key reads all that
//! was ever sealed for it: no forward secrecy and no healing; `mls` has both.

mod crypto;
mod entry;
mod keys;

use std::sync::Arc;

use peerloom_core::kinds::NoSettings;
use peerloom_core::{Kinds, Result};

pub use crypto::SealedCrypto;

/// Registers the `sealed-classical` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    let summary = "a key for each entry, wrapped with X25519 for each device, and a signature: no forward secrecy";
    kinds.cryptos.add("sealed-classical", summary, |_: NoSettings, context| {
        Ok(Arc::new(SealedCrypto::new(&context.secret, context.certificate.clone())?))
    })
}

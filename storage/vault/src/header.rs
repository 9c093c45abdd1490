//! The header: the data key under a passphrase.

use argon2::{Algorithm, Argon2, Params, Version};
use bytes::Bytes;
use peerloom_core::storage::DAMAGED_REMEDY;
use peerloom_core::wire::store::{META, Record, VAULT, VAULT_HEADER, VaultHeader};
use peerloom_core::{Batch, Error, ErrorKind, KeyRange, Order, Page, Result, Storage};
use peerloom_crypto_primitives::aead::ManyTimesKey;
use peerloom_crypto_primitives::random;
use zeroize::Zeroizing;

use crate::error;

/// What a new header asks of Argon2id: the second recommendation of RFC 9106, with one lane.
const NEW: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
/// The most that a header may ask for, some seconds: a damaged or forged one must not take all memory, nor minutes.
pub(crate) const MOST: Cost = Cost { memory_kib: 256 * 1024, passes: 16, lanes: 16 };
const CONTEXT: &[u8] = b"peerloom/vault-key/1\0";

#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
    pub(crate) lanes: u32,
}

/// The data key of a store; a store without a header, and without rows, gets one.
pub(crate) fn open_or_create(inner: &dyn Storage, passphrase: &str) -> Result<Zeroizing<[u8; 32]>> {
    let stored = inner.snapshot()?.get(VAULT, VAULT_HEADER)?;
    let Some(stored) = stored else {
        if !inner.snapshot()?.scan(META, &KeyRange::all(), Order::Ascending, Page::ONE)?.is_empty() {
            let message = "the store beneath is not encrypted; set storage.kind back to its kind, and move it with \
                           `peerloom db copy --to vault/KIND`";
            return Err(error(ErrorKind::Invalid, "open", message));
        }
        let key = Zeroizing::new(random().map_err(no_random)?);
        write(inner, passphrase, &key, NEW)?;
        return Ok(key);
    };
    let header = VaultHeader::decode(stored)?;
    let cost = Cost { memory_kib: header.memory_kib, passes: header.passes, lanes: header.lanes };
    if passphrase.is_empty() {
        return Err(error(ErrorKind::Unauthenticated, "open", "the passphrase is empty"));
    }
    if cost.memory_kib > MOST.memory_kib || cost.passes > MOST.passes || cost.lanes > MOST.lanes {
        return Err(error(ErrorKind::Malformed, "open", format!("its header is damaged; {DAMAGED_REMEDY}")));
    }
    let opened = wrapping_key(passphrase, &header.salt, cost)?.open(CONTEXT, &header.wrapped_key);
    let key = opened.map(Zeroizing::new).and_then(|key| <[u8; 32]>::try_from(key.as_slice()).ok());
    let wrong = || error(ErrorKind::Unauthenticated, "open", "the passphrase is wrong, or the header is damaged");
    key.map(Zeroizing::new).ok_or_else(wrong)
}

/// Wraps the data key under another passphrase: one row is written.
pub(crate) fn write(inner: &dyn Storage, passphrase: &str, key: &[u8; 32], cost: Cost) -> Result<()> {
    if passphrase.is_empty() {
        return Err(error(ErrorKind::Invalid, "open", "the passphrase is empty; choose one"));
    }
    let salt: [u8; 16] = random().map_err(no_random)?;
    let wrapped_key = wrapping_key(passphrase, &salt, cost)?.seal(CONTEXT, &[key]).map_err(no_random)?;
    let Cost { memory_kib, passes, lanes } = cost;
    let salt = Bytes::copy_from_slice(&salt);
    let header = VaultHeader { memory_kib, passes, lanes, salt, wrapped_key: wrapped_key.into() };
    let mut batch = Batch::default();
    batch.put(VAULT, VAULT_HEADER, header.encode());
    inner.commit(&batch)
}

pub(crate) fn rewrap(inner: &dyn Storage, passphrase: &str, key: &[u8; 32]) -> Result<()> {
    write(inner, passphrase, key, NEW)
}

fn wrapping_key(passphrase: &str, salt: &[u8], cost: Cost) -> Result<ManyTimesKey> {
    let damaged = || error(ErrorKind::Malformed, "open", format!("its header is damaged; {DAMAGED_REMEDY}"));
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| damaged())?;
    let mut key = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice()).map_err(|cause| match cause {
        argon2::Error::OutOfMemory => {
            let message = format!("{} MiB of memory are needed for a moment; free some", cost.memory_kib / 1024);
            error(ErrorKind::Storage, "open", message)
        }
        _ => damaged(),
    })?;
    Ok(ManyTimesKey::new(&key))
}

fn no_random(cause: peerloom_crypto_primitives::Unavailable) -> Error {
    error(ErrorKind::Storage, "open", "the operating system gives no randomness").with_source(cause)
}

//! Making an identity, and opening the store that holds it.

use std::sync::Arc;

use bytes::Bytes;
use peerloom_core::wire::name::check_name;
use peerloom_core::wire::store::{Identity, META, Record, SCHEMA_VERSION, meta};
use peerloom_core::wire::{DeviceCertificate, NetworkId, Roles, UserKeys};
use peerloom_core::{Batch, DeviceSigner, Error, ErrorKind, Result, Storage};
use peerloom_crypto_primitives::{SigningKey, random};

use crate::clock::system_ms;
use crate::store;

/// Brings a store to this program's layout and reads whose it is; `None` in a new store.
pub fn open_store(storage: &dyn Storage) -> Result<Option<Identity>> {
    Ok(store::open(storage, store::MIGRATIONS, SCHEMA_VERSION)?.identity)
}

/// Signs for this node's device what its discoveries have to prove.
pub fn device_signer(identity: &Identity) -> DeviceSigner {
    let key = SigningKey::from_seed(&identity.device_seed);
    DeviceSigner::new(key.public().clone(), move |message| key.sign(message))
}

/// A name that this node's user chose, in its normal form.
pub(crate) fn chosen_name(name: &str, operation: &'static str) -> Result<String> {
    check_name(name).map_err(|e| Error::new(ErrorKind::Invalid, "engine", operation, e.to_string()))
}

/// Makes a user and its first device, and stores them. The name may be empty: contacts choose one then.
pub fn create_identity(storage: &Arc<dyn Storage>, network: NetworkId, name: &str) -> Result<Identity> {
    if open_store(&**storage)?.is_some() {
        let message = "the store holds an identity already; use another folder for another one";
        return Err(Error::new(ErrorKind::AlreadyExists, "engine", "make an identity", message));
    }
    let name = if name.is_empty() { String::new() } else { chosen_name(name, "make an identity")? };
    let no_randomness = |e| Error::new(ErrorKind::System, "engine", "make an identity", "no randomness").with_source(e);
    let seed = || random().map_err(no_randomness);
    let (user_seed, recovery_seed, device_seed) = (seed()?, seed()?, seed()?);
    let [user, recovery, device] = [&user_seed, &recovery_seed, &device_seed].map(SigningKey::from_seed);
    let keys = UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
    let certificate = DeviceCertificate::new(keys, device.public().clone(), Roles::ALL, system_ms());
    let certificate = certificate.sign(|m| user.sign(m), |m| device.sign(m));
    let identity = Identity {
        user_seed: Some(user_seed),
        recovery_seed: Some(recovery_seed),
        device_seed,
        certificate,
        network,
        name,
    };
    let mut batch = Batch::default();
    batch.put(META, Bytes::from_static(meta::IDENTITY), identity.encode());
    batch.put(META, Bytes::from_static(meta::INSTANCE), random::<16>().map_err(no_randomness)?.to_vec());
    storage.commit(&batch)?;
    Ok(identity)
}

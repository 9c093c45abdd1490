//! Who is in a group: credentials, key packages, leaves.

use bytes::Bytes;
use openmls::group::{MlsGroup, StagedCommit};
use openmls::prelude::{Credential, GroupId, KeyPackage, KeyPackageIn, LeafNodeIndex, Member, ProtocolVersion};
use openmls_traits::OpenMlsProvider;
use peerloom_core::wire::{DeviceCertificate, DeviceId, LogId, Signed, limits};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::verify;
use tls_codec::DeserializeBytes;

use crate::provider::Provider;
use crate::suite::SUITE;

/// The MLS group of a log.
pub(crate) fn group_id(log: LogId) -> GroupId {
    GroupId::from_slice(&[log.device.as_bytes().as_slice(), log.conversation.as_bytes()].concat())
}

/// Who makes a group is its first leaf, and stays there.
pub(crate) fn owner_index() -> LeafNodeIndex {
    LeafNodeIndex::new(0)
}

/// The device that a credential certifies, if its certificate is good and its key is the leaf's.
pub(crate) fn certified(credential: &Credential, signature_key: &[u8]) -> Option<DeviceId> {
    let blob = Bytes::copy_from_slice(credential.serialized_content());
    let signed = Signed::decode(blob, limits::CERTIFICATE).ok()?;
    let certificate = DeviceCertificate::open(&signed, verify).ok()?;
    (certificate.device_key.as_bytes() == signature_key).then_some(certificate.device)
}

/// The other devices of a group, with their leaves.
pub(crate) fn members(group: &MlsGroup) -> impl Iterator<Item = (DeviceId, LeafNodeIndex)> + '_ {
    let other = |m: &Member| m.index != owner_index();
    group.members().filter(other).filter_map(|m| Some((certified(&m.credential, &m.signature_key)?, m.index)))
}

pub(crate) fn key_package_of(provider: &Provider<'_>, bytes: &[u8], device: DeviceId) -> Result<KeyPackage> {
    let bad = |message: &str| Error::new(ErrorKind::Unauthenticated, "mls", "add a device", message);
    let parsed = KeyPackageIn::tls_deserialize_exact_bytes(bytes).map_err(|_| bad("the key package is malformed"))?;
    let package =
        parsed.validate(provider.crypto(), ProtocolVersion::Mls10).map_err(|_| bad("the key package is invalid"))?;
    if package.ciphersuite() != SUITE {
        return Err(bad("the key package is for another suite"));
    }
    let leaf = package.leaf_node();
    if certified(leaf.credential(), leaf.signature_key().as_slice()) != Some(device) {
        return Err(bad("the key package belongs to another device"));
    }
    Ok(package)
}

/// Whether the first leaf stays the log's owner.
pub(crate) fn keeps_owner(commit: &StagedCommit, log: LogId) -> bool {
    commit
        .update_path_leaf_node()
        .is_none_or(|leaf| certified(leaf.credential(), leaf.signature_key().as_slice()) == Some(log.device))
}

//! Handshakes of our own group: members added and removed, new keys, and how long that may become.

use bytes::Bytes;
use openmls::group::{MlsGroup, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY};
use openmls::prelude::{BasicCredential, CredentialWithKey, GroupId, KeyPackage, LeafNodeIndex};
use openmls_traits::OpenMlsProvider;
use peerloom_core::wire::Signed;
use peerloom_core::{Error, ErrorKind, Result};
use tls_codec::Serialize;

use crate::error::internal;
use crate::parameters::{always, capabilities, sender_ratchet};
use crate::provider::{DeviceSigner, Provider};
use crate::suite::SUITE;

/// A step of our group to its next epoch.
pub(crate) struct Commit {
    /// For the members.
    pub(crate) payload: Bytes,
    /// For those that are added.
    pub(crate) welcome: Bytes,
}

impl Commit {
    /// The longest of its parts, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.payload.len().max(self.welcome.len())
    }
}

/// This device as the owner of its send groups.
pub(crate) struct Owner {
    pub(crate) signer: DeviceSigner,
    pub(crate) certificate: Signed,
    /// Longest payload of a handshake entry, in bytes.
    pub(crate) longest_handshake: usize,
}

impl Owner {
    pub(crate) fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.certificate.encode().to_vec()).into(),
            signature_key: self.signer.0.public().as_bytes().to_vec().into(),
        }
    }

    /// Removes and adds members, in as many commits as it takes: `openmls` brings the removals of one commit into an order
    /// of the system's randomness, so each has its own. The last one adds.
    pub(crate) fn commits(
        &self,
        provider: &Provider<'_>,
        id: &GroupId,
        existing: Option<MlsGroup>,
        removes: &[LeafNodeIndex],
        adds: &[KeyPackage],
    ) -> Result<Vec<Commit>> {
        let mut group = match existing {
            Some(group) => group,
            None => self.new_group(provider, id)?,
        };
        let (last, before) = removes.split_last().map_or((None, removes), |(last, before)| (Some(*last), before));
        let mut commits = Vec::new();
        for leaf in before {
            commits.push(self.commit(provider, &mut group, Some(*leaf), &[])?);
        }
        commits.push(self.commit(provider, &mut group, last, adds)?);
        Ok(commits)
    }

    /// Moves a group to its next epoch, with a new path of ours: what brings the others along.
    pub(crate) fn commit(
        &self,
        provider: &Provider<'_>,
        group: &mut MlsGroup,
        remove: Option<LeafNodeIndex>,
        adds: &[KeyPackage],
    ) -> Result<Commit> {
        let staged = group
            .commit_builder()
            .propose_removals(remove)
            .propose_adds(adds.iter().cloned())
            .force_self_update(true)
            .load_psks(provider.storage())
            .map_err(|e| internal("commit", e))?
            .build(provider.rand(), provider.crypto(), &self.signer, |_| true)
            // The key packages are all in it that comes from outside.
            .map_err(|e| {
                Error::new(ErrorKind::Unauthenticated, "mls", "add devices", "a key package doesn't fit the group")
                    .with_source(e)
            })?
            .stage_commit(provider)
            .map_err(|e| internal("commit", e))?;
        // The group info would let its holder join by itself; it stays here.
        let (commit, welcome, _) = staged.into_messages();
        let encode = |message: openmls::prelude::MlsMessageOut| -> Result<Bytes> {
            Ok(message.tls_serialize_detached().map_err(|e| internal("commit", e))?.into())
        };
        let commit = Commit { payload: encode(commit)?, welcome: welcome.map(encode).transpose()?.unwrap_or_default() };
        group.merge_pending_commit(provider).map_err(|e| internal("commit", e))?;
        Ok(commit)
    }

    /// A handshake is too long: how many of the new devices fit, by trying.
    pub(crate) fn too_long(
        &self,
        longest: usize,
        adds: usize,
        mut length: impl FnMut(usize) -> Result<usize>,
    ) -> Error {
        let (mut fits, mut too_many) = (0, adds);
        while too_many - fits > 1 {
            let count = fits.midpoint(too_many);
            match length(count) {
                Ok(length) if length <= self.longest_handshake => fits = count,
                Ok(_) => too_many = count,
                Err(error) => return error,
            }
        }
        let limit = self.longest_handshake;
        let message =
            format!("adding {adds} devices at once takes {longest} of {limit} bytes; add at most {fits} at once");
        Error::new(ErrorKind::TooLarge, "mls", "prepare", message)
    }

    fn new_group(&self, provider: &Provider<'_>, id: &GroupId) -> Result<MlsGroup> {
        MlsGroup::builder()
            .with_group_id(id.clone())
            .ciphersuite(SUITE)
            .lifetime(always())
            .with_capabilities(capabilities())
            .with_wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
            .padding_size(0)
            .max_past_epochs(0)
            .number_of_resumption_psks(0)
            .sender_ratchet_configuration(sender_ratchet())
            .build(provider, &self.signer, self.credential())
            .map_err(|e| internal("make a group", e))
    }
}

//! Handshakes of our own group: members added and removed, new keys, and how long that may become.

use bytes::Bytes;
use openmls::group::{MlsGroup, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY};
use openmls::prelude::{GroupId, KeyPackage, LeafNodeIndex, SenderRatchetConfiguration};
use openmls_traits::OpenMlsProvider;
use peerloom_core::{Error, ErrorKind, Result};
use tls_codec::Serialize;

use crate::crypto::{FORWARD, MlsCrypto, OUT_OF_ORDER, bug};
use crate::members::{always, capabilities};
use crate::provider::Provider;
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

impl MlsCrypto {
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
            .map_err(|e| bug("commit", e))?
            .build(provider.rand(), provider.crypto(), &self.signer, |_| true)
            // The key packages are all in it that comes from outside.
            .map_err(|e| {
                Error::new(ErrorKind::Unauthenticated, "mls", "add devices", "a key package doesn't fit the group")
                    .with_source(e)
            })?
            .stage_commit(provider)
            .map_err(|e| bug("commit", e))?;
        // The group info would let its holder join by itself; it stays here.
        let (commit, welcome, _) = staged.into_messages();
        let encode = |message: openmls::prelude::MlsMessageOut| -> Result<Bytes> {
            Ok(message.tls_serialize_detached().map_err(|e| bug("commit", e))?.into())
        };
        let commit = Commit { payload: encode(commit)?, welcome: welcome.map(encode).transpose()?.unwrap_or_default() };
        group.merge_pending_commit(provider).map_err(|e| bug("commit", e))?;
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
            .sender_ratchet_configuration(SenderRatchetConfiguration::new(OUT_OF_ORDER, FORWARD))
            .build(provider, &self.signer, self.credential())
            .map_err(|e| bug("make a group", e))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use peerloom_core::wire::{ConversationId, DeviceCertificate, Roles, UserKeys};
    use peerloom_core::{Crypto, DeviceSecret, Member, Serves, StateTxn};
    use peerloom_crypto_primitives::SigningKey;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[derive(Default)]
    struct State(BTreeMap<Vec<u8>, Bytes>);

    impl StateTxn for State {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
            Ok(self.0.get(key).cloned())
        }

        fn put(&mut self, key: &[u8], value: Bytes) {
            self.0.insert(key.to_vec(), value);
        }

        fn delete(&mut self, key: &[u8]) {
            self.0.remove(key);
        }
    }

    fn crypto(number: u8) -> MlsCrypto {
        let secret = DeviceSecret::new([number; 32]);
        let device = SigningKey::from_seed(secret.expose());
        let [user, recovery] = [1, 2].map(|role| SigningKey::from_seed(&[role; 32]));
        let keys = UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
        let certificate = DeviceCertificate::new(keys, device.public().clone(), Roles::ALL, 1);
        let signed = certificate.sign(|m| user.sign(m), |m| device.sign(m));
        MlsCrypto::new(&secret, signed).unwrap()
    }

    /// What is too long is refused whole, with a number that is the largest that fits: in a new session and in one that
    /// stands, with and without a removal.
    #[test]
    fn a_handshake_that_is_too_long_says_how_many_devices_fit() {
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        let conversation = ConversationId::from_bytes([5; 32]);
        let member = |number: u8, rng: &mut ChaCha20Rng| {
            let crypto = crypto(number);
            let package = crypto.key_package(&mut State::default(), rng, Serves::Once).unwrap();
            Member { device: crypto.device, key_package: Some(package), rejoin: false }
        };
        let roster: Vec<Member> = (10..26).map(|number| member(number, &mut rng)).collect();
        for (before, gone) in [(0, 0), (2, 0), (4, 3)] {
            let mut alice = crypto(1);
            let mut state = State::default();
            if before > 0 {
                alice.prepare(&mut state, &mut rng, conversation, &roster[..before]).unwrap();
            }
            let stored = state.0.clone();
            alice.longest_handshake = 8 * 1024;
            let error = alice.prepare(&mut state, &mut rng, conversation, &roster[gone..]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert!(state.0 == stored, "something was written");
            let fits: usize =
                error.message().rsplit("at most ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
            assert!(fits > 0, "{error}");
            let more = alice.prepare(&mut state, &mut rng, conversation, &roster[gone..=before + fits]);
            assert_eq!(more.map(drop).map_err(|e| e.kind()), Err(ErrorKind::TooLarge), "one more than {fits}");
            let prepared = alice.prepare(&mut state, &mut rng, conversation, &roster[gone..before + fits]).unwrap();
            assert_eq!(prepared.members.len(), before - gone + fits);
            assert!(prepared.outgoing.iter().all(|outgoing| outgoing.payload.len() <= 8 * 1024));
        }
    }
}

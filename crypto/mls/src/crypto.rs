//! Send groups and receive groups.

use bytes::Bytes;
use openmls::framing::errors::{MessageDecryptionError, SecretTreeError};
use openmls::group::{
    MlsGroup, MlsGroupJoinConfig, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, ProcessMessageError, StagedWelcome,
    ValidationError, WelcomeError,
};
use openmls::prelude::{
    GroupId, KeyPackage, LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, Sender, Welcome,
};
use openmls_traits::OpenMlsProvider;
use openmls_traits::storage::StorageProvider;
use peerloom_core::wire::{
    CannotOpenReason, ConversationId, DeviceCertificate, DeviceId, EntryClass, LogId, Signed, SuiteId, limits,
};
use peerloom_core::{
    Crypto, CryptoCaps, DeviceSecret, Error, ErrorKind, Member, Opened, Outgoing, Prepared, Result, Sealed, Sealing,
    Serves, StateTxn,
};
use peerloom_crypto_primitives::{SigningKey, sha256, verify};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tls_codec::{DeserializeBytes, Serialize};

use crate::commits::{Commit, Owner};
use crate::error::{StateError, internal, state_failed};
use crate::groups::Groups;
use crate::members::{certified, group_id, keeps_owner, key_package_of, members, owner_index};
use crate::parameters::{always, capabilities, sender_ratchet};
use crate::payload;
use crate::provider::{DeviceSigner, Provider};
use crate::suite::SUITE;

/// Most devices in one send group, the owner included.
const MAX_DEVICES: usize = 32;

/// The `mls-classical` crypto.
pub struct MlsCrypto {
    owner: Owner,
    device: DeviceId,
    groups: Groups,
}

impl MlsCrypto {
    /// MLS ciphersuite 0x0003, in Peerloom's numbering.
    pub const SUITE: SuiteId = SuiteId(0x0003);

    /// The crypto of the device with this key and certificate.
    pub fn new(secret: &DeviceSecret, certificate: Signed) -> Result<Self> {
        let key = SigningKey::from_seed(secret.expose());
        let opened = DeviceCertificate::open(&certificate, verify)?;
        if opened.device_key != *key.public() {
            let message = "the device's certificate is for another key";
            return Err(Error::new(ErrorKind::Invalid, "mls", "start", message));
        }
        Ok(Self {
            owner: Owner { signer: DeviceSigner(key), certificate, longest_handshake: limits::HANDSHAKE_PAYLOAD },
            device: opened.device,
            groups: Groups::default(),
        })
    }

    fn load(&self, provider: &Provider<'_>, id: &GroupId) -> Result<Option<MlsGroup>> {
        self.groups.take(provider, id).map_err(|e| state_failed("load a group", e))
    }

    fn join(&self, provider: &Provider<'_>, log: LogId, welcome: Welcome) -> Result<Joined> {
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
            .padding_size(0)
            .max_past_epochs(0)
            .number_of_resumption_psks(0)
            .sender_ratchet_configuration(sender_ratchet())
            .build();
        let mut used = None;
        let staged = StagedWelcome::build_from_welcome(provider, &config, welcome).and_then(|builder| {
            used = builder.processed_welcome().own_key_package().cloned();
            builder.skip_lifetime_validation().replace_old_group().build()
        });
        let staged = match staged {
            Ok(staged) => staged,
            Err(WelcomeError::NoMatchingKeyPackage) => return Ok(Joined::NotForUs),
            Err(WelcomeError::StorageError(error)) => return Err(state_failed("join", error)),
            Err(_) => return Ok(Joined::Bad("the welcome is invalid")),
        };
        if staged.group_context().group_id() != &group_id(log) {
            return Ok(Joined::Bad("the welcome is for another log"));
        }
        if staged.members().count() > MAX_DEVICES {
            return Ok(Joined::Bad("the group has too many members"));
        }
        let owner = staged.members().find(|m| m.index == owner_index());
        let by_owner = staged.welcome_sender_index() == owner_index()
            && owner.is_some_and(|m| certified(&m.credential, &m.signature_key) == Some(log.device));
        if !by_owner {
            return Ok(Joined::Bad("the welcome comes from another device than the log's owner"));
        }
        // The session before this one goes whole, its keys with it.
        provider.storage().discard(&group_id(log)).map_err(|e| state_failed("join", e))?;
        staged.into_group(provider).map_err(|e| internal("join", e))?;
        let used = used.as_ref().map(encode_package).transpose()?.unwrap_or_default();
        Ok(Joined::Yes(sha256(&[&used])))
    }

    fn open_handshake(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, log: LogId, bytes: &[u8]) -> Result<Opened> {
        if bytes.len() > limits::HANDSHAKE_PAYLOAD {
            return Ok(Opened::Rejected("the handshake is longer than its limit"));
        }
        let Ok(message) = MlsMessageIn::tls_deserialize_exact_bytes(bytes) else {
            return Ok(Opened::Rejected("the handshake is malformed"));
        };
        if let MlsMessageBodyIn::Welcome(welcome) = message.extract() {
            let provider = Provider::new(txn, rng);
            return Ok(match self.join(&provider, log, welcome)? {
                Joined::Yes(package) => {
                    provider.flush();
                    Opened::Joined(package)
                }
                Joined::Bad(why) => Opened::Rejected(why),
                // Made with a key package whose keys are gone.
                Joined::NotForUs => Opened::CannotOpen(CannotOpenReason::NoSession),
            });
        }
        let provider = Provider::new(txn, rng);
        let opened = self.open_message(&provider, log, bytes, |group, content| match content {
            ProcessedMessageContent::StagedCommitMessage(commit) if keeps_owner(&commit, log) => {
                let merged = group.merge_staged_commit(&provider, *commit);
                merged.map_err(|e| internal("apply a commit", e))?;
                Ok(Opened::Applied)
            }
            ProcessedMessageContent::StagedCommitMessage(_) => {
                Ok(Opened::Rejected("the commit replaces the log's owner"))
            }
            _ => Ok(Opened::Rejected("the handshake carries something else than a commit")),
        })?;
        if opened == Opened::Applied {
            provider.flush();
        }
        Ok(opened)
    }

    fn open_application(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        log: LogId,
        associated_data: &[u8],
        bytes: &[u8],
    ) -> Result<Opened> {
        let Some((message, body)) = payload::split(bytes) else {
            return Ok(Opened::CannotOpen(CannotOpenReason::Damaged));
        };
        let provider = Provider::new(txn, rng);
        let expected = sha256(&[associated_data]);
        let mut aad_matches = false;
        let opened = self.process(&provider, log, message, |_, aad, content| {
            aad_matches = aad == expected;
            match content {
                ProcessedMessageContent::ApplicationMessage(carried) => {
                    let plaintext = payload::attach(&carried.into_bytes(), body);
                    Ok(plaintext.map_or(Opened::CannotOpen(CannotOpenReason::Damaged), Opened::Content))
                }
                _ => Ok(Opened::Rejected("the entry carries something else than a message")),
            }
        })?;
        match opened {
            Opened::Content(_) if !aad_matches => Ok(Opened::CannotOpen(CannotOpenReason::Damaged)),
            Opened::Content(_) => {
                provider.flush();
                Ok(opened)
            }
            _ => Ok(opened),
        }
    }

    fn open_message(
        &self,
        provider: &Provider<'_>,
        log: LogId,
        message: &[u8],
        then: impl FnOnce(&mut MlsGroup, ProcessedMessageContent) -> Result<Opened>,
    ) -> Result<Opened> {
        self.process(provider, log, message, |group, _, content| then(group, content))
    }

    /// Processes a message of the log's group, if its sender is the log's owner.
    fn process(
        &self,
        provider: &Provider<'_>,
        log: LogId,
        message: &[u8],
        then: impl FnOnce(&mut MlsGroup, &[u8], ProcessedMessageContent) -> Result<Opened>,
    ) -> Result<Opened> {
        let Some(mut group) = self.load(provider, &group_id(log))? else {
            return Ok(Opened::CannotOpen(CannotOpenReason::NoSession));
        };
        let parsed = MlsMessageIn::tls_deserialize_exact_bytes(message);
        let Some(message) = parsed.ok().and_then(|m| m.try_into_protocol_message().ok()) else {
            return Ok(Opened::CannotOpen(CannotOpenReason::Damaged));
        };
        let epoch = message.epoch();
        match group.process_message(provider, message) {
            Ok(processed) if *processed.sender() == Sender::Member(owner_index()) => {
                let aad = processed.aad().to_vec();
                let opened = then(&mut group, &aad, processed.into_content())?;
                self.groups.keep(provider, group);
                Ok(opened)
            }
            Ok(_) => Ok(Opened::Rejected("the entry comes from another device than the log's owner")),
            Err(error) => explain(error, epoch > group.epoch()),
        }
    }
}

impl Crypto for MlsCrypto {
    fn suite(&self) -> SuiteId {
        Self::SUITE
    }

    fn name(&self) -> &'static str {
        "mls-classical"
    }

    fn caps(&self) -> CryptoCaps {
        CryptoCaps {
            ratchet: true,
            healing: true,
            removal: true,
            post_quantum: false,
            single_use: true,
            members: MAX_DEVICES - 1,
        }
    }

    fn key_package(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, serves: Serves) -> Result<Bytes> {
        let provider = Provider::new(txn, rng);
        let builder = match serves {
            Serves::Once => KeyPackage::builder(),
            Serves::Always => KeyPackage::builder().mark_as_last_resort(),
        };
        let bundle = builder
            .key_package_lifetime(always())
            .leaf_node_capabilities(capabilities())
            .build(SUITE, &provider, &self.owner.signer, self.owner.credential())
            .map_err(|e| internal("make a key package", e))?;
        let package = encode_package(bundle.key_package())?;
        provider.flush();
        Ok(package)
    }

    fn discard_key_package(&self, txn: &mut dyn StateTxn, package: &[u8]) -> Result<()> {
        let provider = Provider::new(txn, &mut nothing_random());
        let package = key_package_of(&provider, package, self.device)?;
        let reference = package.hash_ref(provider.crypto()).map_err(|e| internal("discard a key package", e))?;
        let deleted = provider.storage().delete_key_package(&reference);
        deleted.map_err(|e| state_failed("discard a key package", e))?;
        provider.flush();
        Ok(())
    }

    fn prepare(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        conversation: ConversationId,
        roster: &[Member],
    ) -> Result<Prepared> {
        self.caps().check_roster("mls", roster)?;
        let id = group_id(LogId { device: self.device, conversation });
        let provider = Provider::new(txn, rng);
        let existing = self.load(&provider, &id)?;
        let present: Vec<(DeviceId, LeafNodeIndex)> = existing.iter().flat_map(members).collect();

        let mut prepared = Prepared::default();
        let (mut adds, mut removes, mut joins) = (Vec::new(), Vec::new(), Vec::new());
        for member in roster {
            let leaf = present.iter().find(|(device, _)| *device == member.device).map(|(_, leaf)| *leaf);
            match (leaf, &member.key_package) {
                (Some(_), _) if !member.rejoin => prepared.members.push(member.device),
                (leaf, Some(package)) => {
                    adds.push(key_package_of(&provider, package, member.device)?);
                    removes.extend(leaf);
                    joins.push(member.device);
                    prepared.members.push(member.device);
                }
                (leaf, None) => {
                    prepared.members.extend(leaf.map(|_| member.device));
                    prepared.missing.push(member.device);
                }
            }
        }
        let listed = |device: &DeviceId| roster.iter().any(|m| m.device == *device);
        removes.extend(present.iter().filter(|(device, _)| !listed(device)).map(|(_, leaf)| *leaf));
        if adds.is_empty() && removes.is_empty() {
            return Ok(prepared);
        }

        let mut commits = self.owner.commits(&provider, &id, existing, &removes, &adds)?;
        let longest = commits.iter().map(Commit::longest).max().unwrap_or_default();
        if longest > self.owner.longest_handshake {
            return Err(self.owner.too_long(longest, adds.len(), |count| {
                let provider = Provider::new(txn, rng);
                let existing = self.load(&provider, &id)?;
                let commits =
                    self.owner.commits(&provider, &id, existing, &removes, adds.get(..count).unwrap_or_default())?;
                Ok(commits.iter().map(Commit::longest).max().unwrap_or_default())
            }));
        }
        let stay: Vec<DeviceId> = prepared.members.iter().filter(|device| !joins.contains(device)).copied().collect();
        let handshake = |devices, joins, Commit { payload, welcome }| Outgoing { devices, joins, payload, welcome };
        let last = commits.pop().map(|commit| handshake(prepared.members.clone(), joins, commit));
        let before = commits.into_iter().map(|commit| handshake(stay.clone(), Vec::new(), commit));
        prepared.outgoing.extend(before.chain(last));
        provider.flush();
        prepared.outgoing.retain(|outgoing| !outgoing.devices.is_empty());
        Ok(prepared)
    }

    fn refresh(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        conversation: ConversationId,
    ) -> Result<Option<Outgoing>> {
        let provider = Provider::new(txn, rng);
        let Some(mut group) = self.load(&provider, &group_id(LogId { device: self.device, conversation }))? else {
            return Ok(None);
        };
        let devices: Vec<DeviceId> = members(&group).map(|(device, _)| device).collect();
        let Commit { payload, welcome } = self.owner.commit(&provider, &mut group, None, &[])?;
        self.groups.keep(&provider, group);
        provider.flush();
        Ok((!devices.is_empty()).then_some(Outgoing { devices, joins: Vec::new(), payload, welcome }))
    }

    fn seal(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, sealing: Sealing<'_>) -> Result<Sealed> {
        if sealing.plaintext.len() > limits::BUNDLE {
            return Err(Error::new(ErrorKind::TooLarge, "mls", "seal", "the entry is longer than its limit"));
        }
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let provider = Provider::new(txn, rng);
        let log = LogId { device: self.device, conversation: sealing.conversation };
        let Some(mut group) = self.load(&provider, &group_id(log))? else {
            return Err(Error::new(ErrorKind::Internal, "mls", "seal", "there is no send group; prepare one first"));
        };
        let (carried, body) = payload::detach(sealing.plaintext, key);
        group.set_aad(sha256(&[sealing.associated_data]).to_vec());
        let message = group.create_message(&provider, &self.owner.signer, &carried).map_err(|e| internal("seal", e))?;
        let message = message.tls_serialize_detached().map_err(|e| internal("seal", e))?;
        self.groups.keep(&provider, group);
        provider.flush();
        let recipe = (!body.is_empty()).then(|| Bytes::from([key.as_slice(), &message].concat()));
        Ok(Sealed { payload: payload::join(&message, &body), recipe })
    }

    fn rebuild(&self, recipe: &[u8], plaintext: &[u8]) -> Result<Bytes> {
        let damaged = || Error::new(ErrorKind::Storage, "mls", "rebuild", "the stored recipe is damaged");
        let (key, message) = recipe.split_first_chunk().ok_or_else(damaged)?;
        let (_, body) = payload::detach(plaintext, *key);
        Ok(payload::join(message, &body))
    }

    fn open(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        log: LogId,
        class: EntryClass,
        associated_data: &[u8],
        payload: &[u8],
    ) -> Result<Opened> {
        match class {
            EntryClass::Handshake => self.open_handshake(txn, rng, log, payload),
            EntryClass::Application => self.open_application(txn, rng, log, associated_data, payload),
            EntryClass::Other(_) => Ok(Opened::Rejected("its class is unknown")),
        }
    }

    fn discard(&self, txn: &mut dyn StateTxn, log: LogId) -> Result<()> {
        let provider = Provider::new(txn, &mut nothing_random());
        provider.storage().discard(&group_id(log)).map_err(|e| state_failed("discard a session", e))?;
        provider.flush();
        Ok(())
    }

    fn forget(&self) {
        self.groups.clear();
    }
}

/// For calls that draw nothing at random.
fn nothing_random() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([0; 32])
}

fn encode_package(package: &KeyPackage) -> Result<Bytes> {
    let encoded = package.tls_serialize_detached().map_err(|e| internal("encode a key package", e))?;
    Ok(encoded.into())
}

enum Joined {
    /// With the key package of this SHA-256.
    Yes([u8; 32]),
    NotForUs,
    Bad(&'static str),
}

fn explain(error: ProcessMessageError<StateError>, from_later_epoch: bool) -> Result<Opened> {
    use CannotOpenReason as Reason;
    use MessageDecryptionError as Decryption;
    use ProcessMessageError as Process;
    Ok(match error {
        Process::StorageError(error) => return Err(state_failed("open", error)),
        Process::ValidationError(ValidationError::UnableToDecrypt(Decryption::SecretTreeError(cause))) => match cause {
            SecretTreeError::SecretReuseError => Opened::Duplicate,
            SecretTreeError::TooDistantInTheFuture => Opened::NeedsEarlier,
            _ => Opened::CannotOpen(Reason::KeyGone),
        },
        Process::ValidationError(ValidationError::WrongEpoch) if from_later_epoch => Opened::NeedsEarlier,
        Process::ValidationError(ValidationError::WrongEpoch) => Opened::CannotOpen(Reason::KeyGone),
        Process::ValidationError(ValidationError::WrongGroupId) => Opened::Rejected("the entry is of another group"),
        Process::GroupStateError(_) => Opened::CannotOpen(Reason::NoSession),
        _ => Opened::CannotOpen(Reason::Damaged),
    })
}

#[cfg(test)]
mod tests;

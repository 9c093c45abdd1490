//! What `openmls` runs on: the entry's transaction for state, injected randomness, our primitives.
//!
//! A [`Provider`] lives for one call. What it writes stays in it until [`Provider::flush`], so that
//! an entry that turns out to be bad leaves no trace.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;

use openmls_traits::{
    OpenMlsProvider,
    random::OpenMlsRand,
    signatures::{Signer, SignerError},
    storage::{CURRENT_VERSION as V1, StorageProvider, traits},
    types::SignatureScheme,
};
use peerloom_core::StateTxn;
use peerloom_crypto_primitives::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec;
use crate::error::{StateError, StateResult};
use crate::suite::SuiteCrypto;
use crate::timeless::Timeless;

/// State, randomness and primitives for one call.
pub(crate) struct Provider<'a> {
    crypto: SuiteCrypto,
    rand: SeededRand,
    store: Store<'a>,
}

impl<'a> Provider<'a> {
    pub(crate) fn new(txn: &'a mut dyn StateTxn, rng: &mut dyn Rng) -> Self {
        let mut seeds = [[0; 32]; 2];
        seeds.iter_mut().for_each(|seed| rng.fill_bytes(seed));
        Self {
            crypto: SuiteCrypto::new(seeds[0]),
            rand: SeededRand(RefCell::new(ChaCha20Rng::from_seed(seeds[1]))),
            store: Store { txn, writes: RefCell::default() },
        }
    }

    /// Moves what was written into the transaction.
    pub(crate) fn flush(self) {
        for (key, value) in self.store.writes.into_inner() {
            match value {
                Some(value) => self.store.txn.put(&key, value),
                None => self.store.txn.delete(&key),
            }
        }
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = SuiteCrypto;
    type RandProvider = SeededRand;
    type StorageProvider = Store<'a>;

    fn storage(&self) -> &Store<'a> {
        &self.store
    }

    fn crypto(&self) -> &SuiteCrypto {
        &self.crypto
    }

    fn rand(&self) -> &SeededRand {
        &self.rand
    }
}

/// A generator that is seeded by the caller's.
pub(crate) struct SeededRand(RefCell<ChaCha20Rng>);
impl OpenMlsRand for SeededRand {
    type Error = std::convert::Infallible;
    fn random_array<const N: usize>(&self) -> Result<[u8; N], Self::Error> {
        let mut out = [0u8; N];
        self.0.borrow_mut().fill_bytes(&mut out);
        Ok(out)
    }
    fn random_vec(&self, len: usize) -> Result<Vec<u8>, Self::Error> {
        let mut out = vec![0u8; len];
        self.0.borrow_mut().fill_bytes(&mut out);
        Ok(out)
    }
}

/// The device key as an MLS signer.
pub(crate) struct DeviceSigner(pub(crate) SigningKey);

impl Signer for DeviceSigner {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// The transaction, with this call's writes on top.
pub(crate) struct Store<'a> {
    txn: &'a mut dyn StateTxn,
    writes: RefCell<BTreeMap<Vec<u8>, Option<Bytes>>>,
}

/// First byte of every key: changes when `openmls` changes what it stores.
const STATE_VERSION: u8 = 1;

// One byte per kind of record; never renumber.
const KEY_PACKAGE: u8 = 1;
const PSK: u8 = 2;
const ENC_KEY_PAIR: u8 = 3;
const SIG_KEY_PAIR: u8 = 4;
const EPOCH_KEY_PAIRS: u8 = 5;
const TREE: u8 = 6;
const CONTEXT: u8 = 7;
const INTERIM_HASH: u8 = 8;
const CONFIRMATION_TAG: u8 = 9;
const JOIN_CONFIG: u8 = 10;
const OWN_LEAF_NODES: u8 = 11;
const GROUP_STATE: u8 = 12;
const PROPOSALS: u8 = 13;
const OWN_LEAF_INDEX: u8 = 14;
const EPOCH_SECRETS: u8 = 15;
const RESUMPTION_PSKS: u8 = 16;
const MESSAGE_SECRETS: u8 = 17;

/// All that a group has rows of, each under the group's id.
const OF_A_GROUP: [u8; 13] = [
    EPOCH_KEY_PAIRS,
    TREE,
    CONTEXT,
    INTERIM_HASH,
    CONFIRMATION_TAG,
    JOIN_CONFIG,
    OWN_LEAF_NODES,
    GROUP_STATE,
    PROPOSALS,
    OWN_LEAF_INDEX,
    EPOCH_SECRETS,
    RESUMPTION_PSKS,
    MESSAGE_SECRETS,
];

/// The key pairs of one epoch, by epoch and leaf, as they are encoded.
type EpochKeyPairs = Vec<(Vec<u8>, u32, Vec<u8>)>;

impl Store<'_> {
    /// A group's message secrets, as they are stored.
    pub(crate) fn secrets(&self, group: &openmls::prelude::GroupId) -> StateResult<Option<Bytes>> {
        self.row(&Self::key(MESSAGE_SECRETS, group)?)
    }
    /// The same, if this call wrote them.
    pub(crate) fn written_secrets(&self, group: &openmls::prelude::GroupId) -> Option<Bytes> {
        self.writes.borrow().get(&Self::key(MESSAGE_SECRETS, group).ok()?)?.clone()
    }
    /// Deletes a group whole, without reading it: it may be damaged, or be about to be replaced.
    pub(crate) fn discard(&self, group: &openmls::prelude::GroupId) -> StateResult<()> {
        OF_A_GROUP.iter().try_for_each(|tag| self.remove(*tag, group))
    }
    fn key(tag: u8, key: &impl Serialize) -> StateResult<Vec<u8>> {
        let mut out = vec![STATE_VERSION, tag];
        out.extend(codec::encode(key)?);
        Ok(out)
    }
    fn write(&self, tag: u8, key: &impl Serialize, value: &impl Serialize) -> StateResult<()> {
        // The join config (de)serialises through an untagged enum: self-describing format only.
        let value = if tag == JOIN_CONFIG { codec::encode_described(value)? } else { codec::encode(value)? };
        self.writes.borrow_mut().insert(Self::key(tag, key)?, Some(value.into()));
        Ok(())
    }
    fn row(&self, key: &[u8]) -> StateResult<Option<Bytes>> {
        match self.writes.borrow().get(key) {
            Some(written) => Ok(written.clone()),
            None => self.txn.get(key).map_err(StateError::of_store),
        }
    }
    fn read<T: DeserializeOwned>(&self, tag: u8, key: &impl Serialize) -> StateResult<Option<T>> {
        let Some(value) = self.row(&Self::key(tag, key)?)? else { return Ok(None) };
        if tag == JOIN_CONFIG { codec::decode_described(&value) } else { codec::decode(&value) }.map(Some)
    }
    fn remove(&self, tag: u8, key: &impl Serialize) -> StateResult<()> {
        self.writes.borrow_mut().insert(Self::key(tag, key)?, None);
        Ok(())
    }
    /// The key pairs of a group but for one epoch's.
    fn other_epochs(&self, group: &impl Serialize, epoch: &impl Serialize, leaf: u32) -> StateResult<EpochKeyPairs> {
        let epoch = codec::encode(epoch)?;
        let mut epochs: EpochKeyPairs = self.list(EPOCH_KEY_PAIRS, group)?;
        epochs.retain(|(e, l, _)| (e, *l) != (&epoch, leaf));
        Ok(epochs)
    }
    /// Lists of already-encoded items.
    fn list<T: DeserializeOwned>(&self, tag: u8, key: &impl Serialize) -> StateResult<Vec<T>> {
        Ok(self.read(tag, key)?.unwrap_or_default())
    }
}

// The trait asks for 43 methods of three shapes; spelled out they would hide the few that differ.
// `fn name<generics in the trait's order>(K, V) = TAG`
macro_rules! put {
    ($($name:ident<$($p:ident: $t:ident),+> = $tag:ident;)+) => {$(
        fn $name<$($p: traits::$t<V1>),+>(&self, key: &K, value: &V) -> StateResult<()> {
            self.write($tag, key, value)
        }
    )+};
}
macro_rules! get {
    ($($name:ident<$($p:ident: $t:ident),+> = $tag:ident;)+) => {$(
        fn $name<$($p: traits::$t<V1>),+>(&self, key: &K) -> StateResult<Option<V>> {
            self.read($tag, key)
        }
    )+};
}
macro_rules! del {
    ($($name:ident<$t:ident> = $tag:ident;)+) => {$(
        fn $name<K: traits::$t<V1>>(&self, key: &K) -> StateResult<()> {
            self.remove($tag, key)
        }
    )+};
}

impl StorageProvider<V1> for Store<'_> {
    type Error = StateError;

    put! {
        write_mls_join_config<K: GroupId, V: MlsGroupJoinConfig> = JOIN_CONFIG;
        write_tree<K: GroupId, V: TreeSync> = TREE;
        write_interim_transcript_hash<K: GroupId, V: InterimTranscriptHash> = INTERIM_HASH;
        write_context<K: GroupId, V: GroupContext> = CONTEXT;
        write_confirmation_tag<K: GroupId, V: ConfirmationTag> = CONFIRMATION_TAG;
        write_group_state<V: GroupState, K: GroupId> = GROUP_STATE;
        write_own_leaf_index<K: GroupId, V: LeafNodeIndex> = OWN_LEAF_INDEX;
        write_group_epoch_secrets<K: GroupId, V: GroupEpochSecrets> = EPOCH_SECRETS;
        write_signature_key_pair<K: SignaturePublicKey, V: SignatureKeyPair> = SIG_KEY_PAIR;
        write_encryption_key_pair<K: EncryptionKey, V: HpkeKeyPair> = ENC_KEY_PAIR;
        write_key_package<K: HashReference, V: KeyPackage> = KEY_PACKAGE;
        write_psk<K: PskId, V: PskBundle> = PSK;
    }
    // They have a time in them.
    fn write_message_secrets<K: traits::GroupId<V1>, V: traits::MessageSecrets<V1>>(
        &self,
        group: &K,
        secrets: &V,
    ) -> StateResult<()> {
        self.write(MESSAGE_SECRETS, group, &Timeless(secrets))
    }
    // `openmls` keeps the secrets of a created group's last 32 epochs whatever its configuration says. Nothing here
    // resumes from them, so what is stored is the store that holds none: room for 0, no secrets, next place 0.
    fn write_resumption_psk_store<K: traits::GroupId<V1>, V: traits::ResumptionPskStore<V1>>(
        &self,
        group: &K,
        _: &V,
    ) -> StateResult<()> {
        self.write(RESUMPTION_PSKS, group, &(0usize, Vec::<u8>::new(), 0usize))
    }

    get! {
        mls_group_join_config<K: GroupId, V: MlsGroupJoinConfig> = JOIN_CONFIG;
        tree<K: GroupId, V: TreeSync> = TREE;
        interim_transcript_hash<K: GroupId, V: InterimTranscriptHash> = INTERIM_HASH;
        group_context<K: GroupId, V: GroupContext> = CONTEXT;
        confirmation_tag<K: GroupId, V: ConfirmationTag> = CONFIRMATION_TAG;
        group_state<V: GroupState, K: GroupId> = GROUP_STATE;
        message_secrets<K: GroupId, V: MessageSecrets> = MESSAGE_SECRETS;
        resumption_psk_store<K: GroupId, V: ResumptionPskStore> = RESUMPTION_PSKS;
        own_leaf_index<K: GroupId, V: LeafNodeIndex> = OWN_LEAF_INDEX;
        group_epoch_secrets<K: GroupId, V: GroupEpochSecrets> = EPOCH_SECRETS;
        signature_key_pair<K: SignaturePublicKey, V: SignatureKeyPair> = SIG_KEY_PAIR;
        encryption_key_pair<V: HpkeKeyPair, K: EncryptionKey> = ENC_KEY_PAIR;
        key_package<K: HashReference, V: KeyPackage> = KEY_PACKAGE;
        psk<V: PskBundle, K: PskId> = PSK;
    }
    del! {
        delete_own_leaf_nodes<GroupId> = OWN_LEAF_NODES;
        delete_group_config<GroupId> = JOIN_CONFIG;
        delete_tree<GroupId> = TREE;
        delete_confirmation_tag<GroupId> = CONFIRMATION_TAG;
        delete_group_state<GroupId> = GROUP_STATE;
        delete_context<GroupId> = CONTEXT;
        delete_interim_transcript_hash<GroupId> = INTERIM_HASH;
        delete_message_secrets<GroupId> = MESSAGE_SECRETS;
        delete_all_resumption_psk_secrets<GroupId> = RESUMPTION_PSKS;
        delete_own_leaf_index<GroupId> = OWN_LEAF_INDEX;
        delete_group_epoch_secrets<GroupId> = EPOCH_SECRETS;
        delete_signature_key_pair<SignaturePublicKey> = SIG_KEY_PAIR;
        delete_encryption_key_pair<EncryptionKey> = ENC_KEY_PAIR;
        delete_key_package<HashReference> = KEY_PACKAGE;
        delete_psk<PskId> = PSK;
    }

    fn append_own_leaf_node<K: traits::GroupId<V1>, V: traits::LeafNode<V1>>(
        &self,
        group: &K,
        leaf: &V,
    ) -> StateResult<()> {
        let mut items: Vec<Vec<u8>> = self.list(OWN_LEAF_NODES, group)?;
        items.push(codec::encode(leaf)?);
        self.write(OWN_LEAF_NODES, group, &items)
    }
    fn own_leaf_nodes<K: traits::GroupId<V1>, V: traits::LeafNode<V1>>(&self, group: &K) -> StateResult<Vec<V>> {
        let items: Vec<Vec<u8>> = self.list(OWN_LEAF_NODES, group)?;
        items.iter().map(|b| codec::decode(b)).collect()
    }

    // The whole proposal queue of a group is one record: our groups never hold proposals by
    // reference, so it is normally absent.
    fn queue_proposal<K: traits::GroupId<V1>, R: traits::ProposalRef<V1>, P: traits::QueuedProposal<V1>>(
        &self,
        group: &K,
        reference: &R,
        proposal: &P,
    ) -> StateResult<()> {
        let mut items: Vec<(Vec<u8>, Vec<u8>)> = self.list(PROPOSALS, group)?;
        items.push((codec::encode(reference)?, codec::encode(proposal)?));
        self.write(PROPOSALS, group, &items)
    }
    fn queued_proposal_refs<K: traits::GroupId<V1>, R: traits::ProposalRef<V1>>(
        &self,
        group: &K,
    ) -> StateResult<Vec<R>> {
        let items: Vec<(Vec<u8>, Vec<u8>)> = self.list(PROPOSALS, group)?;
        items.iter().map(|(r, _)| codec::decode(r)).collect()
    }
    fn queued_proposals<K: traits::GroupId<V1>, R: traits::ProposalRef<V1>, P: traits::QueuedProposal<V1>>(
        &self,
        group: &K,
    ) -> StateResult<Vec<(R, P)>> {
        let items: Vec<(Vec<u8>, Vec<u8>)> = self.list(PROPOSALS, group)?;
        items.iter().map(|(r, p)| Ok((codec::decode(r)?, codec::decode(p)?))).collect()
    }
    fn remove_proposal<K: traits::GroupId<V1>, R: traits::ProposalRef<V1>>(
        &self,
        group: &K,
        reference: &R,
    ) -> StateResult<()> {
        let reference = codec::encode(reference)?;
        let mut items: Vec<(Vec<u8>, Vec<u8>)> = self.list(PROPOSALS, group)?;
        items.retain(|(r, _)| *r != reference);
        self.write(PROPOSALS, group, &items)
    }
    fn clear_proposal_queue<K: traits::GroupId<V1>, R: traits::ProposalRef<V1>>(&self, group: &K) -> StateResult<()> {
        self.remove(PROPOSALS, group)
    }

    // The key pairs of all epochs of a group are one record, so that it can be deleted by the group's id alone. It
    // has one epoch, and during a commit two.
    fn write_encryption_epoch_key_pairs<K: traits::GroupId<V1>, E: traits::EpochKey<V1>, P: traits::HpkeKeyPair<V1>>(
        &self,
        group: &K,
        epoch: &E,
        leaf: u32,
        pairs: &[P],
    ) -> StateResult<()> {
        let mut epochs = self.other_epochs(group, epoch, leaf)?;
        epochs.push((codec::encode(epoch)?, leaf, codec::encode(&pairs)?));
        self.write(EPOCH_KEY_PAIRS, group, &epochs)
    }
    fn encryption_epoch_key_pairs<K: traits::GroupId<V1>, E: traits::EpochKey<V1>, P: traits::HpkeKeyPair<V1>>(
        &self,
        group: &K,
        epoch: &E,
        leaf: u32,
    ) -> StateResult<Vec<P>> {
        let epoch = codec::encode(epoch)?;
        let epochs: EpochKeyPairs = self.list(EPOCH_KEY_PAIRS, group)?;
        let found = epochs.iter().find(|(e, l, _)| (e, *l) == (&epoch, leaf));
        found.map_or(Ok(Vec::new()), |(_, _, pairs)| codec::decode(pairs))
    }
    fn delete_encryption_epoch_key_pairs<K: traits::GroupId<V1>, E: traits::EpochKey<V1>>(
        &self,
        group: &K,
        epoch: &E,
        leaf: u32,
    ) -> StateResult<()> {
        let others = self.other_epochs(group, epoch, leaf)?;
        if others.is_empty() {
            self.remove(EPOCH_KEY_PAIRS, group)
        } else {
            self.write(EPOCH_KEY_PAIRS, group, &others)
        }
    }
}

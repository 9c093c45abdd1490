//! The crypto contract: sealing what one device says in one conversation.

use bytes::Bytes;
use peerloom_wire::{CannotOpenReason, ConversationId, DeviceId, EntryClass, LogId, SuiteId};
use rand_core::Rng;

use crate::{Error, ErrorKind, Result};

/// Seals this device's log entries and opens those of others.
///
/// For each conversation an implementation keeps at most one *send session* of this device's own,
/// and one receive session for each peer device's log. All state that must survive lives in the
/// [`StateTxn`] it is given: what a call writes there becomes durable together with the entry that
/// it made, or not at all.
///
/// **The author's duties.** Calls do no I/O and use no randomness but `rng`: the same state, input
/// and seed give the same bytes. A sealed entry names and authenticates its sender, and `open`
/// accepts it only from the log's owner. State may be cached between calls; [`forget`](Crypto::forget)
/// drops the cache. Input from peers never panics and never allocates beyond its own size. A session
/// that is replaced goes whole: no key of it stays in the state. Damaged state panics nowhere, and
/// harms the sessions it belongs to alone; [`discard`](Crypto::discard) makes way for new ones.
///
/// **The caller's duties.** Calls come one at a time, from one thread. After a transaction that was
/// not committed, `forget` is called before anything else. No method is async, so none is ever cancelled.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use bytes::Bytes;
/// # use peerloom_core::memory::MemoryCrypto;
/// # use peerloom_core::wire::{ConversationId, DeviceId, EntryClass, LogId};
/// # use peerloom_core::{Crypto, Member, Opened, Result, Sealing, Serves, StateTxn};
/// # use rand::{SeedableRng, rngs::StdRng};
/// # #[derive(Default)]
/// # struct State(BTreeMap<Vec<u8>, Bytes>);
/// # impl StateTxn for State {
/// #     fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
/// #         Ok(self.0.get(key).cloned())
/// #     }
/// #     fn put(&mut self, key: &[u8], value: Bytes) {
/// #         self.0.insert(key.to_vec(), value);
/// #     }
/// #     fn delete(&mut self, key: &[u8]) {
/// #         self.0.remove(key);
/// #     }
/// # }
/// # fn main() -> Result<()> {
/// let (alice, bob) = (DeviceId::from_bytes([1; 32]), DeviceId::from_bytes([2; 32]));
/// let (near, far) = (MemoryCrypto::new(alice), MemoryCrypto::new(bob));
/// let (mut here, mut there) = (State::default(), State::default());
/// let mut rng = StdRng::seed_from_u64(1);
/// let conversation = ConversationId::from_bytes([3; 32]);
///
/// // Bob's device gives out a key package, with which Alice's adds it to her send session.
/// let key_package = far.key_package(&mut there, &mut rng, Serves::Once)?;
/// let roster = [Member { device: bob, key_package: Some(key_package), rejoin: false }];
/// let prepared = near.prepare(&mut here, &mut rng, conversation, &roster)?;
/// let sealing = Sealing { conversation, associated_data: b"header", plaintext: b"hello" };
/// let sealed = near.seal(&mut here, &mut rng, sealing)?;
///
/// // The handshake entry lets Bob's device in; from there on it opens what Alice's sealed.
/// let log = LogId { device: alice, conversation };
/// let handshake = &prepared.outgoing[0].welcome;
/// let joined = far.open(&mut there, &mut rng, log, EntryClass::Handshake, b"", handshake)?;
/// assert!(matches!(joined, Opened::Joined(_)));
/// let opened = far.open(&mut there, &mut rng, log, EntryClass::Application, b"header", &sealed.payload)?;
/// assert_eq!(opened, Opened::Content("hello".into()));
/// # Ok(())
/// # }
/// ```
pub trait Crypto: Send + Sync {
    /// The suite's number on the wire.
    fn suite(&self) -> SuiteId;

    /// The suite's name for people: the kind that offers it.
    fn name(&self) -> &str;

    /// What it promises; selects conformance cases.
    fn caps(&self) -> CryptoCaps;

    /// Makes a key package, with which others can add this device to their sessions. Its name is its SHA-256, by which
    /// [`Opened::Joined`] says that it was used. A suite without [`CryptoCaps::single_use`] gives the same one each time.
    fn key_package(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, serves: Serves) -> Result<Bytes>;

    /// Deletes what opens sessions that were made with a key package of this device: it has expired, or won't be used.
    /// A package that isn't known any more is passed over; the one of a suite without [`CryptoCaps::single_use`] stays.
    fn discard_key_package(&self, txn: &mut dyn StateTxn, package: &[u8]) -> Result<()>;

    /// Brings this device's send session in a conversation to the given roster (this device not
    /// included). Members that are new and have a key package are added, those no longer listed are
    /// removed, [`Member::rejoin`] removes and adds at once: until there is a key package, the device stays a member, so
    /// that what is sealed meanwhile is owed to it. A key package that isn't its member's
    /// is an error of kind [`Unauthenticated`](crate::ErrorKind::Unauthenticated). More members than
    /// [`CryptoCaps::members`], or a payload beyond [`limits::HANDSHAKE_PAYLOAD`](peerloom_wire::limits), are one of kind
    /// [`TooLarge`](crate::ErrorKind::TooLarge) that says how many devices fit; then nothing is written.
    fn prepare(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        conversation: ConversationId,
        roster: &[Member],
    ) -> Result<Prepared>;

    /// Moves this device's send session in a conversation to keys that nothing but this call has seen: not an earlier copy
    /// of the state either. Two copies of one state that are refreshed seal with no key in common. Gives the handshake
    /// entry that takes the members along, to be appended before anything else is sealed; `None` where there is no
    /// session or nobody else in it, or where every entry has keys of its own anyway.
    fn refresh(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        conversation: ConversationId,
    ) -> Result<Option<Outgoing>>;

    /// Seals `plaintext` for the members of the send session. `sealing.associated_data` is
    /// authenticated with it.
    fn seal(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, sealing: Sealing<'_>) -> Result<Sealed>;

    /// The same payload again, byte for byte, from the recipe that [`seal`](Crypto::seal) gave and the
    /// same plaintext.
    fn rebuild(&self, recipe: &[u8], plaintext: &[u8]) -> Result<Bytes>;

    /// Opens an entry of another device's log: of a handshake that lets this device in the welcome, else the payload. An `Err` is a failure of this node: of its store, or of
    /// kind [`Damaged`](crate::ErrorKind::Damaged) where the session's state can't be understood.
    /// Whatever is wrong with the entry is an [`Opened`].
    fn open(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        log: LogId,
        class: EntryClass,
        associated_data: &[u8],
        payload: &[u8],
    ) -> Result<Opened>;

    /// Deletes the session of a log whole, without reading it: of this device's own log the send
    /// session, of a peer's the receive session. Afterwards it is as if the session had never been.
    fn discard(&self, txn: &mut dyn StateTxn, log: LogId) -> Result<()>;

    /// Drops all cached state: the last transaction was not committed.
    fn forget(&self);
}

/// What [`Crypto::seal`] seals.
#[derive(Debug, Clone, Copy)]
pub struct Sealing<'a> {
    /// The conversation whose send session is used.
    pub conversation: ConversationId,
    /// Authenticated, not encrypted, not sent.
    pub associated_data: &'a [u8],
    /// Encrypted.
    pub plaintext: &'a [u8],
}

/// What [`Crypto::seal`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The entry's payload.
    pub payload: Bytes,
    /// What rebuilds the payload from the plaintext, where that is much shorter than the payload: the
    /// caller stores the plaintext anyway, and then needn't store the payload as well. It is as secret
    /// as the plaintext.
    pub recipe: Option<Bytes>,
}

/// What an implementation promises beyond secrecy and authenticity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CryptoCaps {
    /// Keys of opened entries are gone: forward secrecy for each entry, and duplicates are noticed.
    pub ratchet: bool,
    /// A stolen state stops being useful after a while.
    pub healing: bool,
    /// A removed member can't open what is sealed afterwards.
    pub removal: bool,
    /// Safe against an attacker with a quantum computer.
    pub post_quantum: bool,
    /// A key package that [`Serves::Once`] has keys of its own, which go when it was used.
    pub single_use: bool,
    /// Most members of a session, the owner not included.
    pub members: usize,
}

impl CryptoCaps {
    /// Checks that a session may have so many members.
    pub fn check_roster(&self, component: &'static str, roster: &[Member]) -> Result<()> {
        if roster.len() <= self.members {
            return Ok(());
        }
        let message = format!("a conversation in this suite has at most {} other devices; remove some", self.members);
        Err(Error::new(ErrorKind::TooLarge, component, "prepare", message))
    }
}

/// How often a key package may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// For one session: its keys go with the join.
    Once,
    /// For any number: the last resort of those who got none that serves once. Its keys stay until it is discarded.
    Always,
}

/// A device that shall be able to open what is sealed next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The device.
    pub device: DeviceId,
    /// A key package of it, if one is at hand; needed only while it isn't in the session.
    pub key_package: Option<Bytes>,
    /// Whether it lost its state and must be added again.
    pub rejoin: bool,
}

/// What [`Crypto::prepare`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Handshake entries to append to the log before anything else is sealed.
    pub outgoing: Vec<Outgoing>,
    /// The devices in the session now.
    pub members: Vec<DeviceId>,
    /// Devices of the roster that lack a key package.
    pub missing: Vec<DeviceId>,
}

/// A handshake entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The devices that need it.
    pub devices: Vec<DeviceId>,
    /// Those among them that begin to read the log with it.
    pub joins: Vec<DeviceId>,
    /// What the others get.
    pub payload: Bytes,
    /// What those that begin get.
    pub welcome: Bytes,
}

/// What became of an entry that was to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// An application entry's plaintext.
    Content(Bytes),
    /// A handshake entry let this device in, by the key package with this SHA-256: it reads the log from here on.
    Joined([u8; 32]),
    /// A handshake entry changed a session that this device is in.
    Applied,
    /// It can't be opened before an earlier entry was.
    NeedsEarlier,
    /// It was opened before.
    Duplicate,
    /// It can't be opened here; the sender must add this device again.
    CannotOpen(CannotOpenReason),
    /// It breaks a rule (a forged sender, a commit by another device than the log's owner); the text is for the log.
    Rejected(&'static str),
}

/// A crypto implementation's view of the transaction in which its entry will be stored.
pub trait StateTxn {
    /// The value of a key, with the writes of this transaction applied.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Sets a value.
    fn put(&mut self, key: &[u8], value: Bytes);
    /// Deletes a value.
    fn delete(&mut self, key: &[u8]);
}

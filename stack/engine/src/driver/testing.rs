//! A turn without a thread around it, for tests of what it writes.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::memory::{MemoryCrypto, MemoryStorage};
use peerloom_core::wire::store::{Contact, ContactDevice};
use peerloom_core::wire::{
    ConversationId, DeviceCertificate, DeviceId, EntryClass, Envelope, Header, Item, LogId, MessageId, NetworkId,
    Position, Roles, RosterId, SuiteId, UserKeys, context,
};
use peerloom_core::{
    Crypto, CryptoCaps, Error, ErrorKind, Member, Opened, Outgoing, Prepared, Result, Sealed, Sealing, Serves, StateTxn,
};
use peerloom_crypto_primitives::SigningKey;
use peerloom_delivery::Now;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_core::Rng;
use tokio::sync::{Semaphore, mpsc};

use super::state::Queued;
use super::{DriverHandle, Effects, Input, LocalIdentity, SENDS, State, Turn, WAITING};
use crate::config::EngineConfig;
use crate::contacts::Contacts;
use crate::directory::Directory;
use crate::event::EventSource;
use crate::net::Links;
use crate::store::View;

/// The time of the first turn.
pub(super) const NOW: Now = Now { mono: Duration::from_secs(1), wall_ms: 1 };

/// Runs something in a turn of a node whose store is empty.
pub(super) fn in_a_turn(work: impl FnOnce(&mut Turn<'_>)) {
    in_a_turn_with(|own| Arc::new(MemoryCrypto::new(own)), work);
}

/// The same with another crypto.
pub(super) fn in_a_turn_with(crypto: impl FnOnce(DeviceId) -> Arc<dyn Crypto>, work: impl FnOnce(&mut Turn<'_>)) {
    let network = NetworkId::from_name("test");
    let key = SigningKey::from_seed(&[1; 32]);
    let own = Arc::new(LocalIdentity {
        user: peerloom_core::wire::UserId::from_bytes([1; 32]),
        keys: UserKeys { user: key.public().clone(), recovery: key.public().clone() },
        device: DeviceId::from_bytes([1; 32]),
        certificate: key.sign_object(context::ACK, Bytes::from_static(b"none")),
        key,
        user_key: None,
        network,
        name: "test".into(),
    });
    let cryptos = vec![crypto(own.device)];
    let (contacts, links, events) = (Contacts::default(), Links::default(), EventSource::new());
    let (rng, directory) = (StdRng::seed_from_u64(1), Directory::default());
    let mut state = State::new(EngineConfig::new(network), own, cryptos, contacts, directory, links, events, rng);
    let mut view = View::new(Arc::new(MemoryStorage::new()));
    let (txn, effects) = (view.begin(0), Effects::default());
    work(&mut Turn { state: &mut state, txn, effects, now: NOW, latest_ms: 1, told_ms: 1, may_seal: usize::MAX });
}

impl DriverHandle {
    /// A handle whose inputs a test takes.
    pub(crate) fn without_thread() -> (Self, mpsc::Receiver<Input>) {
        let (inputs, taken) = mpsc::channel(WAITING);
        (Self { inputs, sends: Arc::new(Semaphore::new(SENDS as usize)), failure: Arc::default() }, taken)
    }
}

/// Adds a contact with so many devices, each with a session; gives their conversation and the devices' keys.
pub(super) fn meet(turn: &mut Turn<'_>, devices: u8) -> (ConversationId, Vec<(DeviceId, SigningKey)>) {
    let [user, recovery] = [90, 91].map(|seed| SigningKey::from_seed(&[seed; 32]));
    let keys = || UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
    let device = |number: u8| {
        let key = SigningKey::from_seed(&[100 + number; 32]);
        let certificate = DeviceCertificate::new(keys(), key.public().clone(), Roles::ALL, 1);
        let (id, of) = (certificate.device, certificate.user);
        (id, of, certificate.sign(|m| user.sign(m), |m| key.sign(m)), key)
    };
    let devices: Vec<_> = (0..devices).map(device).collect();
    let of = devices[0].1;
    let known = |(device, _, certificate, _): &(DeviceId, _, peerloom_core::wire::Signed, _)| ContactDevice {
        device: *device,
        certificate: Some(certificate.clone()),
        invited: None,
        record: None,
        last_seen_ms: 0,
        restored: None,
    };
    turn.state.contacts.insert(Contact {
        user: of,
        alias: "bob".into(),
        devices: devices.iter().map(known).collect(),
        added_at_ms: 0,
        token: None,
        list: None,
    });
    turn.open_direct(&of).unwrap();
    let conversation = ConversationId::direct(&turn.state.own.network, &turn.state.own.user, &of);
    let devices: Vec<(DeviceId, SigningKey)> = devices.into_iter().map(|(id, _, _, key)| (id, key)).collect();
    devices.iter().for_each(|(device, _)| give_key_package(turn, conversation, *device));
    turn.prepare_session(conversation).unwrap();
    (conversation, devices)
}

/// A key package of a device is at hand.
pub(super) fn give_key_package(turn: &mut Turn<'_>, conversation: ConversationId, device: DeviceId) {
    let conversation = turn.state.conversations.get_mut(&conversation).unwrap();
    conversation.key_packages.insert(device, Bytes::copy_from_slice(device.as_bytes()));
}

/// A message of this size that was accepted.
pub(super) fn message(number: u8, size: usize, expires_at_ms: u64) -> Queued {
    let item = Item {
        id: MessageId::from_bytes([number; 16]),
        sent_at_ms: 1,
        content_type: String::new(),
        body: vec![number; size].into(),
        resealed_from: Vec::new(),
    };
    Queued { item, expires_at_ms, reply: None, order: None }
}

/// An entry with a payload of this size, in the log of a peer with this number.
pub(super) fn early(number: u8, position: Position, size: usize) -> Envelope {
    let device = DeviceId::from_bytes([number; 32]);
    let payload: Bytes = vec![number; size].into();
    let header = Header {
        log: LogId { device, conversation: ConversationId::from_bytes([number; 32]) },
        position,
        class: EntryClass::Application,
        suite: SuiteId(1),
        expires_at_ms: 0,
        roster: RosterId::from_bytes([0; 32]),
        excluded: Vec::new(),
        joins: Vec::new(),
        previous: None,
    };
    Envelope { header: header.sign(&payload, |_| vec![7; 64].into()), payload, welcome: Bytes::new(), hops: 0 }
}

/// A crypto whose calls fail as damaged state makes them fail.
pub(super) struct Breaking {
    inner: MemoryCrypto,
    /// How many calls of `seal` and of `prepare` succeed from now on.
    pub(super) seals: AtomicU32,
    pub(super) prepares: AtomicU32,
}

impl Breaking {
    pub(super) fn new(device: DeviceId) -> Self {
        let ever = || AtomicU32::new(u32::MAX);
        Self { inner: MemoryCrypto::new(device), seals: ever(), prepares: ever() }
    }

    fn spend(left: &AtomicU32) -> Result<()> {
        let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let damaged = |_| Error::new(ErrorKind::Damaged, "test", "use a session", "its state is damaged");
        spent.map(drop).map_err(damaged)
    }
}

impl Crypto for Breaking {
    fn suite(&self) -> SuiteId {
        self.inner.suite()
    }

    fn name(&self) -> &'static str {
        "breaking"
    }

    fn caps(&self) -> CryptoCaps {
        self.inner.caps()
    }

    fn key_package(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, serves: Serves) -> Result<Bytes> {
        self.inner.key_package(txn, rng, serves)
    }

    fn discard_key_package(&self, txn: &mut dyn StateTxn, package: &[u8]) -> Result<()> {
        self.inner.discard_key_package(txn, package)
    }

    fn prepare(
        &self,
        txn: &mut dyn StateTxn,
        rng: &mut dyn Rng,
        conversation: ConversationId,
        roster: &[Member],
    ) -> Result<Prepared> {
        Self::spend(&self.prepares)?;
        self.inner.prepare(txn, rng, conversation, roster)
    }

    fn refresh(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, id: ConversationId) -> Result<Option<Outgoing>> {
        self.inner.refresh(txn, rng, id)
    }

    fn seal(&self, txn: &mut dyn StateTxn, rng: &mut dyn Rng, sealing: Sealing<'_>) -> Result<Sealed> {
        Self::spend(&self.seals)?;
        self.inner.seal(txn, rng, sealing)
    }

    fn rebuild(&self, recipe: &[u8], plaintext: &[u8]) -> Result<Bytes> {
        self.inner.rebuild(recipe, plaintext)
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
        self.inner.open(txn, rng, log, class, associated_data, payload)
    }

    fn discard(&self, txn: &mut dyn StateTxn, log: LogId) -> Result<()> {
        self.inner.discard(txn, log)
    }

    fn forget(&self) {
        self.inner.forget();
    }
}

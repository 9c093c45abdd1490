//! Everything the delivery thread knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::wire::store::{
    ContactDevice, OUT_CURSORS, OUT_SEALED, OutEntry, OwnState, Record, Table, ordered_key,
};
use peerloom_core::wire::{
    Allowance, ConversationId, DeviceId, DeviceList, Item, LogId, MessageId, NetworkId, Position, Signed, Stated,
    Statement, SuiteId, UserId, UserKeys,
};
use peerloom_core::{Crypto, Error, ErrorKind, Result};
use peerloom_crypto_primitives::SigningKey;
use peerloom_delivery::{Inbox, Now, Outbox};
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use super::Turn;
use super::conversation::{EarlyHeld, cursor_key};
use super::key_packages::KeyPackages;
use super::parked::Parked;
use super::patience::{Faults, Refused};
use super::quarantine::Quarantine;
use super::recent::Recent;
use super::standing::OwnStanding;
use super::timers::Timers;
use crate::config::EngineConfig;
use crate::contacts::{Contacts, suites};
use crate::directory::Directory;
use crate::event::EventSource;
use crate::net::Links;

/// Who this node is.
pub(crate) struct LocalIdentity {
    pub(crate) user: UserId,
    pub(crate) keys: UserKeys,
    pub(crate) device: DeviceId,
    pub(crate) key: SigningKey,
    /// The user's key that is in force, on devices that hold it.
    pub(crate) user_key: Option<SigningKey>,
    pub(crate) certificate: Signed,
    pub(crate) network: NetworkId,
    pub(crate) name: String,
}

impl LocalIdentity {
    /// Signs a statement of this device.
    pub(crate) fn state<T: Statement>(&self, statement: T) -> Stated<T> {
        Stated::sign(statement, |message| self.key.sign(message))
    }
}

/// What a deadline belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TimerKey {
    Outbox(ConversationId),
    Inbox(LogId),
    /// A session that lacks members.
    Session(ConversationId),
    /// Messages that waited for a session, and were too many to be sealed in one turn.
    Pending(ConversationId),
    /// Key packages that others hold.
    KeyPackages,
}

/// The delivery thread's state.
pub(crate) struct State {
    pub(crate) config: EngineConfig,
    pub(crate) own: Arc<LocalIdentity>,
    pub(crate) cryptos: Vec<Arc<dyn Crypto>>,
    pub(crate) contacts: Contacts,
    pub(crate) directory: Directory,
    pub(crate) links: Links,
    pub(crate) events: EventSource,
    pub(crate) rng: StdRng,
    pub(crate) conversations: HashMap<ConversationId, Conversation>,
    pub(crate) inboxes: HashMap<LogId, Inbox>,
    /// Rows of own entries that were damaged: to be written again, or deleted where they are of no use.
    pub(crate) mended: Vec<(Bytes, Option<OutEntry>)>,
    /// Rows that say how far peers' logs are here were damaged when the store was read.
    pub(crate) inboxes_damaged: bool,
    /// What was damaged when the store was read, for people: tables, each with how many of its rows.
    pub(crate) damaged: Vec<String>,
    pub(crate) timers: Timers<TimerKey>,
    /// Devices with a link, and whose each is.
    pub(crate) up: HashMap<DeviceId, UserId>,
    /// Sequence of the last entry in the history.
    pub(crate) history: u64,
    /// Sequence of the last message that waits unsealed.
    pub(crate) pending: u64,
    /// The devices of this node's user.
    pub(crate) devices: DeviceList,
    /// This device's current record, for peers.
    pub(crate) record: Option<Signed>,
    /// Whether the node is started, so that a subscriber may receive what expires.
    pub(crate) started: bool,
    /// Whether the last turn knew no time to decide expiry by.
    pub(crate) time_unknown: bool,
    /// Conversations and logs that this turn changed.
    pub(crate) touched: BTreeSet<TimerKey>,
    /// Logs to acknowledge at the end of this turn.
    pub(crate) to_acknowledge: BTreeSet<LogId>,
    /// The newest sealed envelopes, to be sent without being read or rebuilt.
    pub(crate) recent: Recent,
    /// What devices have done wrong, and entries that needn't be looked at again.
    pub(crate) faults: HashMap<DeviceId, Faults>,
    pub(crate) refused: Refused,
    /// Logs whose owners are to be shown, at the end of this turn, what is held of them.
    pub(crate) to_show: BTreeSet<LogId>,
    /// How far the clocks of devices are from the system's, in milliseconds, as their last links reported.
    pub(crate) clock_differences: HashMap<DeviceId, Option<u64>>,
    /// What devices showed of conversations that aren't known yet.
    pub(crate) early_held: EarlyHeld,
    /// Whether this store is the newest of its device.
    pub(crate) standing: OwnStanding,
    /// How much is parked.
    pub(crate) parked: Parked,
    /// How many entries are in quarantine.
    pub(crate) quarantine: Quarantine,
    /// Key packages of ours that others hold.
    pub(crate) given: KeyPackages,
    /// Conversations of which a device is to get more once its link has room.
    pub(crate) without_room: HashMap<DeviceId, BTreeSet<ConversationId>>,
    /// Devices that may have room for more of a conversation.
    pub(crate) ready: BTreeSet<(ConversationId, DeviceId)>,
    /// The bytes of all conversations that wait to be acknowledged, and those accepted since they were counted; `None`
    /// until a turn counts them.
    pub(crate) queued_bytes: Option<usize>,
    /// Rows whose deletion may be written later.
    pub(crate) lazy_deletes: Vec<(Table, Bytes)>,
    /// Conversations whose cursors may be written later.
    pub(crate) lazy_cursors: BTreeSet<ConversationId>,
    /// What became of own messages, by conversation and sequence in the history, and since when: may be written later.
    pub(crate) lazy_states: BTreeMap<(ConversationId, u64), (OwnState, u64)>,
    /// Rows of the history with deleted messages that no device needs any more: may be written later.
    pub(crate) to_scrub: BTreeSet<(ConversationId, u64)>,
}

/// One conversation: our own log in it, and what waits to be sealed.
pub(crate) struct Conversation {
    pub(crate) outbox: Outbox,
    /// Unsettled entries of our log.
    pub(crate) entries: BTreeMap<Position, OwnEntry>,
    /// The log's last entry is settled; its row goes when the next is appended.
    pub(crate) settled_head: bool,
    /// Accepted in this turn, and the bytes of their bodies.
    pub(crate) queued: Vec<Queued>,
    pub(crate) queued_bytes: usize,
    /// Messages that wait unsealed in the store, and their bytes.
    pub(crate) pending: usize,
    pub(crate) pending_bytes: usize,
    /// When the first of them expires, in milliseconds since the Unix epoch; 0 = never.
    pub(crate) pending_expiry_ms: u64,
    /// The devices in the send session; `None` until it was looked at.
    pub(crate) members: Option<Vec<DeviceId>>,
    /// Whether the session's keys were made since the store was opened, so that no earlier copy of it has them.
    pub(crate) fresh: bool,
    /// The suite of our log; `None` until it was chosen.
    pub(crate) suite: Option<SuiteId>,
    /// How often it may still change.
    pub(crate) suite_changes: Allowance,
    /// Key packages at hand.
    pub(crate) key_packages: HashMap<DeviceId, Bytes>,
    /// Devices to be added again.
    pub(crate) rejoin: BTreeSet<DeviceId>,
}

impl Conversation {
    /// Whether one more message of this length may wait. Entries that have expired take a place until every device
    /// has heard so, but not a message's.
    pub(crate) fn has_room(&self, length: usize, config: &EngineConfig) -> bool {
        self.messages() < config.max_queued_messages
            && self.outbox.entries() < config.max_queued_messages.saturating_mul(2)
            && self.bytes() + length <= config.max_queued_bytes
    }

    /// The messages that wait to be acknowledged.
    pub(crate) fn messages(&self) -> usize {
        self.outbox.messages() + self.pending + self.queued.len()
    }

    /// The bytes that wait to be acknowledged.
    pub(crate) fn bytes(&self) -> usize {
        self.outbox.bytes() + self.pending_bytes + self.queued_bytes
    }

    fn next_deadline(&self, now: Now) -> Option<Duration> {
        let wait = self.pending_expiry_ms.saturating_sub(now.wall_ms);
        let pending = (self.pending_expiry_ms > 0).then(|| now.mono.saturating_add(Duration::from_millis(wait)));
        [self.outbox.next_deadline(now), pending].into_iter().flatten().min()
    }
}

/// The earlier of two times of expiry, of which 0 is never.
pub(super) fn sooner(a: u64, b: u64) -> u64 {
    if a == 0 || (b > 0 && b < a) { b } else { a }
}

/// What is known of an own entry beside what the outbox knows.
pub(crate) struct OwnEntry {
    /// Those that it carries.
    pub(crate) messages: Arc<[MessageId]>,
    pub(crate) history: u64,
    /// Where else the same messages stand or stood.
    pub(crate) copies: Vec<Position>,
    /// Whether its row says that it was put on a link.
    pub(crate) left: bool,
    /// Whether it expired.
    pub(crate) expired: bool,
    /// Whether the user deleted messages of it.
    pub(crate) discard: bool,
}

impl OwnEntry {
    pub(crate) fn new(entry: &OutEntry) -> Self {
        Self {
            messages: entry.messages.clone().into(),
            history: entry.history,
            copies: entry.copies.clone(),
            left: entry.left,
            expired: entry.expired,
            discard: entry.discard,
        }
    }
}

/// A message accepted in this turn.
pub(crate) struct Queued {
    pub(crate) item: Item,
    pub(crate) expires_at_ms: u64,
    pub(crate) reply: Option<oneshot::Sender<Result<MessageId>>>,
    /// Its place among the messages that wait unsealed, if it had one.
    pub(crate) order: Option<u64>,
}

impl State {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        config: EngineConfig,
        own: Arc<LocalIdentity>,
        cryptos: Vec<Arc<dyn Crypto>>,
        contacts: Contacts,
        directory: Directory,
        links: Links,
        events: EventSource,
        rng: StdRng,
    ) -> Self {
        let devices = DeviceList::new(own.keys.clone());
        Self {
            config,
            own,
            cryptos,
            contacts,
            directory,
            links,
            events,
            rng,
            conversations: HashMap::new(),
            inboxes: HashMap::new(),
            mended: Vec::new(),
            inboxes_damaged: false,
            damaged: Vec::new(),
            timers: Timers::new(),
            up: HashMap::new(),
            history: 0,
            pending: 0,
            devices,
            record: None,
            started: false,
            time_unknown: false,
            touched: BTreeSet::new(),
            to_acknowledge: BTreeSet::new(),
            recent: Recent::default(),
            faults: HashMap::new(),
            refused: Refused::default(),
            to_show: BTreeSet::new(),
            clock_differences: HashMap::new(),
            early_held: EarlyHeld::default(),
            standing: OwnStanding::default(),
            parked: Parked::default(),
            quarantine: Quarantine::default(),
            given: KeyPackages::default(),
            without_room: HashMap::new(),
            ready: BTreeSet::new(),
            queued_bytes: None,
            lazy_deletes: Vec::new(),
            lazy_cursors: BTreeSet::new(),
            lazy_states: BTreeMap::new(),
            to_scrub: BTreeSet::new(),
        }
    }

    /// Sets the deadlines of what this turn touched.
    pub(crate) fn refresh_timers(&mut self, now: Now) {
        for key in std::mem::take(&mut self.touched) {
            let deadline = match key {
                TimerKey::Outbox(id) => self.conversations.get(&id).and_then(|c| c.next_deadline(now)),
                TimerKey::Inbox(log) => self.inboxes.get(&log).and_then(Inbox::next_deadline),
                // Set where it is needed.
                TimerKey::Session(_) | TimerKey::Pending(_) | TimerKey::KeyPackages => continue,
            };
            self.timers.set(key, deadline);
        }
    }

    /// Another time counts: what expires by it is looked at again.
    pub(crate) fn touch_outboxes(&mut self) {
        let now = Duration::ZERO;
        for id in self.conversations.keys() {
            self.touched.insert(TimerKey::Outbox(*id));
            self.timers.set(TimerKey::Outbox(*id), Some(now));
        }
    }

    /// Whether a message of this length may wait for a conversation as far as all others allow it. What one turn settles
    /// counts until the next, unless it is missing.
    pub(crate) fn has_room_in_all(&mut self, id: &ConversationId, length: usize) -> bool {
        let most = self.config.max_queued_bytes_in_all;
        let fits = |bytes: &usize| bytes + length <= most;
        if !self.queued_bytes.is_some_and(|bytes| fits(&bytes)) {
            self.queued_bytes = Some(self.conversations.values().map(Conversation::bytes).sum());
        }
        self.queued_bytes.as_ref().is_some_and(fits) || self.conversations.get(id).is_some_and(|c| c.messages() == 0)
    }

    /// The other devices in a conversation, each with its user.
    pub(crate) fn devices_in(&self, id: &ConversationId) -> Vec<(UserId, ContactDevice)> {
        let Some(info) = self.directory.get(id) else { return Vec::new() };
        let users = info.roster.members.keys();
        let devices = users.flat_map(|user| self.contacts.devices_of(user).into_iter().map(|device| (*user, device)));
        devices.filter(|(_, device)| device.device != self.own.device).collect()
    }

    /// The ids of the other devices in a conversation.
    pub(crate) fn device_ids_in(&self, id: &ConversationId) -> Vec<DeviceId> {
        let Some(info) = self.directory.get(id) else { return Vec::new() };
        let devices = info.roster.members.keys().flat_map(|user| self.contacts.device_ids_of(user));
        devices.filter(|device| *device != self.own.device).collect()
    }

    /// Whether a device's user is in a conversation, and so is this node's.
    pub(crate) fn shares(&self, device: &DeviceId, id: &ConversationId) -> bool {
        let user = self.contacts.user_of(device);
        user.is_some_and(|user| self.directory.is_member(id, &user)) && self.directory.is_member(id, &self.own.user)
    }

    /// The conversations that this node shares with a device.
    pub(crate) fn shared_with(&self, device: &DeviceId) -> Vec<ConversationId> {
        let of_user = self.contacts.user_of(device).map(|user| self.directory.of_user(&user)).unwrap_or_default();
        of_user.into_iter().filter(|id| self.directory.is_member(id, &self.own.user)).collect()
    }

    /// Who a conversation is with, for people.
    pub(crate) fn with(&self, id: &ConversationId) -> Option<String> {
        let info = self.directory.get(id)?;
        if !info.title.is_empty() {
            return Some(info.title.clone());
        }
        let name = |user: UserId| self.contacts.by_user(&user).map(|contact| contact.alias);
        let names: Option<Vec<String>> = info.others(&self.own.user).map(name).collect();
        names.filter(|names| !names.is_empty()).map(|names| names.join(", "))
    }

    pub(crate) fn has_lazy(&self) -> bool {
        let history = !self.lazy_states.is_empty() || !self.to_scrub.is_empty();
        history || !self.lazy_deletes.is_empty() || !self.lazy_cursors.is_empty()
    }

    /// The suite of our log in a conversation: the first of ours that every device in it
    /// offers in its signed record. It stays until one of those changes.
    pub(crate) fn crypto(&mut self, id: ConversationId) -> Result<Arc<dyn Crypto>> {
        let none =
            || Error::new(ErrorKind::Invalid, "engine", "seal", "no crypto is configured; add a [[crypto]] table");
        let chosen = self.conversations.get(&id).and_then(|c| c.suite);
        if let Some(crypto) = self.cryptos.iter().find(|c| Some(c.suite()) == chosen) {
            return Ok(crypto.clone());
        }
        let known = self.devices_in(&id);
        let offers: Vec<Vec<SuiteId>> =
            known.iter().filter(|(_, d)| d.record.is_some()).map(|(_, d)| suites(d)).collect();
        let common = |crypto: &&Arc<dyn Crypto>| offers.iter().all(|suites| suites.contains(&crypto.suite()));
        // Without a common one the first is tried: the other side's record may be out of date.
        let crypto = self.cryptos.iter().find(common).or(self.cryptos.first()).cloned().ok_or_else(none)?;
        if let Some(conversation) = self.conversations.get_mut(&id).filter(|_| !offers.is_empty()) {
            conversation.suite = Some(crypto.suite());
        }
        Ok(crypto)
    }
}

impl Turn<'_> {
    /// Writes what may be written later.
    pub(crate) fn write_lazy(&mut self) {
        self.write_history();
        for (table, key) in std::mem::take(&mut self.state.lazy_deletes) {
            self.txn.delete(table, key);
        }
        for id in std::mem::take(&mut self.state.lazy_cursors) {
            let Some(conversation) = self.state.conversations.get_mut(&id) else {
                continue;
            };
            for (device, cursor) in conversation.outbox.take_dirty() {
                self.txn.put(OUT_CURSORS, cursor_key(&id, &device), cursor.encode());
            }
        }
    }

    /// The next sequence in the history.
    pub(super) fn next_history(&mut self) -> u64 {
        self.state.history += 1;
        self.state.history
    }
}

/// The key of an own entry's rows.
pub(super) fn own_key(conversation: &ConversationId, position: Position) -> Bytes {
    ordered_key(&[conversation.as_bytes()], position)
}

/// The key of a peer's log, or of an entry in it.
pub(super) fn log_key(log: &LogId) -> Bytes {
    [log.device.as_bytes().as_slice(), log.conversation.as_bytes()].concat().into()
}

pub(super) fn entry_key(log: &LogId, position: Position) -> Bytes {
    ordered_key(&[log.device.as_bytes(), log.conversation.as_bytes()], position)
}

/// The rows of an own entry that go once it is settled.
pub(super) fn sealed_row(conversation: &ConversationId, position: Position) -> (Table, Bytes) {
    (OUT_SEALED, own_key(conversation, position))
}

pub(super) fn history_key(sequence: u64) -> Bytes {
    ordered_key(&[], sequence)
}

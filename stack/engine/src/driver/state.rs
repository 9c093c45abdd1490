//! Everything the delivery thread knows, rebuilt from the store whenever that fails.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::wire::store::{
    CONTACTS, HISTORY, IN_LOGS, IN_PARKED, InLog, OUT_CURSORS, OUT_ENTRIES, OUT_SEALED, OutCursor, OutEntry, PENDING,
    Pending, QUARANTINE, Record, Table, key_order, ordered_key,
};
use peerloom_core::wire::{
    ConversationId, DeviceId, Item, LogId, MessageId, NetworkId, Position, RangeSet, Signed, SuiteId, UserId,
};
use peerloom_core::{Crypto, Error, ErrorKind, KeyRange, Result};
use peerloom_crypto_primitives::SigningKey;
use peerloom_delivery::{Allowance, Inbox, Now, Outbox};
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tracing::error;

use super::Turn;
use super::contact::open_invitations;
use super::parked::Parked;
use super::patience::{Faults, Refused};
use super::quarantine::Quarantine;
use super::recent::Recent;
use super::session::SUITE_CHANGES;
use super::standing::OwnStanding;
use super::status::halted;
use super::timers::Timers;
use crate::config::EngineConfig;
use crate::contacts::{Contacts, suites};
use crate::event::EventSource;
use crate::net::{Links, Trouble};
use crate::store::Txn;

/// Who this node is.
pub(crate) struct LocalIdentity {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) key: SigningKey,
    pub(crate) certificate: Signed,
    pub(crate) network: NetworkId,
    pub(crate) name: String,
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
}

/// The delivery thread's state.
pub(crate) struct State {
    pub(crate) config: EngineConfig,
    pub(crate) own: Arc<LocalIdentity>,
    pub(crate) cryptos: Vec<Arc<dyn Crypto>>,
    pub(crate) contacts: Contacts,
    pub(crate) links: Links,
    pub(crate) events: EventSource,
    pub(crate) rng: StdRng,
    pub(crate) conversations: HashMap<ConversationId, Conversation>,
    pub(crate) inboxes: HashMap<LogId, Inbox>,
    pub(crate) timers: Timers<TimerKey>,
    /// Devices with a link.
    pub(crate) up: HashSet<DeviceId>,
    /// Sequence of the last entry in the history.
    pub(crate) history: u64,
    /// Sequence of the last message that waits unsealed.
    pub(crate) pending: u64,
    /// This device's current record, to be told to peers.
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
    /// Whether this store is the newest of its device.
    pub(crate) standing: OwnStanding,
    /// How much is parked.
    pub(crate) parked: Parked,
    /// How many entries are in quarantine.
    pub(crate) quarantine: Quarantine,
    /// Devices that may have room for more of a conversation.
    pub(crate) ready: BTreeSet<(ConversationId, DeviceId)>,
    /// The bytes of all conversations that wait to be acknowledged, and those accepted since they were counted; `None`
    /// until a turn counts them.
    pub(crate) queued_bytes: Option<usize>,
    /// Rows whose deletion may be written later.
    pub(crate) lazy_deletes: Vec<(Table, Bytes)>,
    /// Conversations whose cursors may be written later.
    pub(crate) lazy_cursors: BTreeSet<ConversationId>,
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
    /// The suite of our log; `None` until it was chosen.
    pub(crate) suite: Option<SuiteId>,
    /// How often it may still change.
    pub(crate) suite_changes: Allowance,
    /// Key packages at hand.
    pub(crate) key_packages: HashMap<DeviceId, Bytes>,
    /// Devices to be added anew.
    pub(crate) rejoin: BTreeSet<DeviceId>,
}

impl Conversation {
    /// Whether one more message of this length may wait. Entries that have expired take a place until every device
    /// has heard so, but not a message's.
    pub(crate) fn has_room(&self, length: usize, config: &EngineConfig) -> bool {
        let messages = self.outbox.messages() + self.pending + self.queued.len();
        messages < config.max_queued_messages
            && self.outbox.entries() < config.max_queued_messages.saturating_mul(2)
            && self.bytes() + length <= config.max_queued_bytes
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
    pub(crate) messages: Arc<[MessageId]>,
    pub(crate) history: u64,
    /// Where the same messages stood before.
    pub(crate) resealed_from: Vec<Position>,
    /// Whether its row says that it was put on a link.
    pub(crate) left: bool,
    /// Whether it expired.
    pub(crate) expired: bool,
}

impl OwnEntry {
    pub(crate) fn new(entry: &OutEntry) -> Self {
        Self {
            messages: entry.messages.clone().into(),
            history: entry.history,
            resealed_from: entry.resealed_from.clone(),
            left: entry.left,
            expired: entry.expired,
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
        links: Links,
        events: EventSource,
        rng: StdRng,
    ) -> Self {
        Self {
            config,
            own,
            cryptos,
            contacts,
            links,
            events,
            rng,
            conversations: HashMap::new(),
            inboxes: HashMap::new(),
            timers: Timers::new(),
            up: HashSet::new(),
            history: 0,
            pending: 0,
            record: None,
            started: false,
            time_unknown: false,
            touched: BTreeSet::new(),
            to_acknowledge: BTreeSet::new(),
            recent: Recent::default(),
            faults: HashMap::new(),
            refused: Refused::default(),
            to_show: BTreeSet::new(),
            standing: OwnStanding::default(),
            parked: Parked::default(),
            quarantine: Quarantine::default(),
            ready: BTreeSet::new(),
            queued_bytes: None,
            lazy_deletes: Vec::new(),
            lazy_cursors: BTreeSet::new(),
        }
    }

    /// Reads everything from the store, in place of what is known.
    pub(crate) fn load(&mut self, txn: &Txn<'_>, now: Now) -> Result<()> {
        self.cryptos.iter().for_each(|crypto| crypto.forget());
        self.conversations.clear();
        self.recent = Recent::default();
        self.inboxes.clear();
        self.timers = Timers::new();
        self.touched.clear();
        self.to_acknowledge.clear();
        self.to_show.clear();
        self.standing.load(txn)?;
        self.ready.clear();
        self.queued_bytes = None;
        self.lazy_deletes.clear();
        self.lazy_cursors.clear();
        let contacts = txn.sound_records(CONTACTS, &KeyRange::all())?;
        self.contacts.replace(contacts.into_iter().map(|(_, contact)| contact).collect());
        // A damaged row must not keep the invited out; using an invitation looks at its own row anyway.
        let unknown = |_| BTreeSet::from([(u64::MAX, [0; 32])]);
        self.contacts.replace_invitations(open_invitations(txn).unwrap_or_else(unknown));
        self.history = txn.last_key(HISTORY)?.map(|key| key_order(&key)).transpose()?.unwrap_or(0);
        self.pending = 0;
        for contact in self.contacts.all() {
            self.load_conversation(txn, contact.conversation, now)?;
            // Sessions that were being made are made anew.
            self.timers.set(TimerKey::Session(contact.conversation), Some(now.mono));
        }
        self.quarantine = Quarantine::default();
        for row in txn.scan(QUARANTINE, &KeyRange::all())? {
            self.quarantine.add(log_in(&row.key)?);
        }
        self.load_inboxes(txn, now)?;
        let damaged = txn.snapshot()?.damaged();
        if !damaged.is_empty() {
            let tables: BTreeSet<_> = damaged.iter().map(|table| table.name).collect();
            error!(
                rows = damaged.len(),
                ?tables,
                "damaged rows of the store are left out; `peerloom db check` lists them"
            );
        }
        Ok(())
    }

    pub(crate) fn load_conversation(&mut self, txn: &Txn<'_>, id: ConversationId, now: Now) -> Result<()> {
        let range = KeyRange::prefix(id.as_bytes());
        let mut entries = BTreeMap::new();
        let mut restored = Vec::new();
        for (key, entry) in txn.sound_records::<OutEntry>(OUT_ENTRIES, &range)? {
            let position = key_order(&key)?;
            // Should the last row of the history be damaged: its place is taken.
            self.history = self.history.max(entry.history);
            entries.insert(position, OwnEntry::new(&entry));
            restored.push((position, entry));
        }
        let mut cursors: HashMap<DeviceId, OutCursor> = HashMap::new();
        for (key, cursor) in txn.sound_records::<OutCursor>(OUT_CURSORS, &range)? {
            cursors.insert(device_in(&key, 32)?, cursor);
        }
        // A recipient whose cursor is damaged gets everything again that is still here.
        for (position, entry) in &restored {
            for device in &entry.recipients {
                let Some(certificate) = self.contacts.certificate(device) else { continue };
                let (base, beyond) = (*position, RangeSet::default());
                let again =
                    OutCursor { user: certificate.user, base, through: base - 1, beyond, rejoins: 0, halted: false };
                cursors.entry(*device).or_insert(again);
            }
        }
        let mut outbox = Outbox::restore(self.config.delivery.clone(), restored, cursors, now);
        let incomplete = txn.snapshot()?.damaged().contains(&OUT_ENTRIES);
        incomplete.then(|| outbox.mark_incomplete());
        let devices = self.contacts.devices_in(&id);
        for device in devices.iter().filter(|device| self.links.has_shown(device)) {
            if incomplete {
                // Where the log ends is known by what it shows, which isn't kept.
                self.links.reset(device);
                continue;
            }
            outbox.on_held(device, None);
            self.ready.insert((id, *device));
        }
        entries.retain(|position, _| outbox.holds(*position));
        let (mut pending, mut pending_bytes) = (0, 0);
        let mut pending_expiry_ms = 0;
        let mut rest = Some(range);
        while let Some(range) = rest {
            let part;
            (part, rest) = txn.part(PENDING, &range)?;
            for row in part {
                self.pending = self.pending.max(key_order(&row.key)?);
                pending += 1;
                pending_bytes += row.value.len();
                let expires_at_ms = Pending::decode(row.value).map_or(0, |pending| pending.expires_at_ms);
                pending_expiry_ms = sooner(pending_expiry_ms, expires_at_ms);
            }
        }
        let settled_head = outbox.head() > 0 && !outbox.holds(outbox.head());
        let conversation = Conversation {
            outbox,
            entries,
            settled_head,
            queued: Vec::new(),
            queued_bytes: 0,
            pending,
            pending_bytes,
            pending_expiry_ms,
            members: None,
            suite: None,
            suite_changes: Allowance::full(SUITE_CHANGES),
            key_packages: HashMap::new(),
            rejoin: BTreeSet::new(),
        };
        for device in conversation.outbox.halted() {
            self.links.set_trouble(
                device,
                Trouble::Halted,
                conversation.outbox.halt(&device).map(|why| halted(why).into()),
            );
        }
        if conversation.pending > 0 || conversation.outbox.entries() > 0 {
            // Something waits to be sent: they are dialed before others.
            devices.iter().for_each(|device| self.links.want(*device));
        }
        self.conversations.insert(id, conversation);
        self.touched.insert(TimerKey::Outbox(id));
        Ok(())
    }

    fn load_inboxes(&mut self, txn: &Txn<'_>, now: Now) -> Result<()> {
        self.parked = Parked::default();
        let mut rest = Some(KeyRange::all());
        while let Some(range) = rest {
            let part;
            (part, rest) = txn.part(IN_PARKED, &range)?;
            for row in part {
                self.parked.add(log_in(&row.key)?, key_order(&row.key)?, row.value.len());
            }
        }
        let mut parked: HashMap<LogId, Vec<Position>> = self.parked.positions().collect();
        let mut known: HashMap<LogId, InLog> = HashMap::new();
        for (key, log) in txn.sound_records(IN_LOGS, &KeyRange::all())? {
            known.insert(log_in(&key)?, log);
        }
        let logs: HashSet<LogId> = parked.keys().chain(known.keys()).copied().collect();
        for log in logs {
            let inbox = Inbox::restore(
                log,
                &self.config.delivery,
                known.remove(&log).unwrap_or_default(),
                parked.remove(&log).unwrap_or_default(),
                now,
            );
            self.inboxes.insert(log, inbox);
            self.touched.insert(TimerKey::Inbox(log));
        }
        Ok(())
    }

    /// Sets the deadlines of what this turn touched.
    pub(crate) fn refresh_timers(&mut self, now: Now) {
        for key in std::mem::take(&mut self.touched) {
            let deadline = match key {
                TimerKey::Outbox(id) => self.conversations.get(&id).and_then(|c| c.next_deadline(now)),
                TimerKey::Inbox(log) => self.inboxes.get(&log).and_then(Inbox::next_deadline),
                // Set where it is needed.
                TimerKey::Session(_) | TimerKey::Pending(_) => continue,
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
        self.queued_bytes.as_ref().is_some_and(fits) || self.conversations.get(id).is_some_and(|c| c.bytes() == 0)
    }

    pub(crate) fn has_lazy(&self) -> bool {
        !self.lazy_deletes.is_empty() || !self.lazy_cursors.is_empty()
    }

    /// The suite of our log in a conversation: the first of ours that every device of the contact
    /// offers in its signed record. It stays until one of those changes.
    pub(crate) fn crypto(&mut self, id: ConversationId) -> Result<Arc<dyn Crypto>> {
        let none =
            || Error::new(ErrorKind::Invalid, "engine", "seal", "no crypto is configured; add a [[crypto]] table");
        let chosen = self.conversations.get(&id).and_then(|c| c.suite);
        if let Some(crypto) = self.cryptos.iter().find(|c| Some(c.suite()) == chosen) {
            return Ok(crypto.clone());
        }
        let contact = self.contacts.by_conversation(&id);
        let devices = contact.iter().flat_map(|c| &c.devices).filter(|d| d.record.is_some());
        let offers: Vec<Vec<SuiteId>> = devices.map(suites).collect();
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
    pub(super) fn write_lazy(&mut self) {
        for (table, key) in std::mem::take(&mut self.state.lazy_deletes) {
            self.txn.delete(table, key);
        }
        for id in std::mem::take(&mut self.state.lazy_cursors) {
            let Some(conversation) = self.state.conversations.get_mut(&id) else {
                continue;
            };
            for (device, cursor) in conversation.outbox.take_dirty() {
                self.txn.put(OUT_CURSORS, [id.as_bytes().as_slice(), device.as_bytes()].concat(), cursor.encode());
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

fn device_in(key: &[u8], at: usize) -> Result<DeviceId> {
    let bytes = key.get(at..at + 32).and_then(|b| b.try_into().ok());
    bytes.map(DeviceId::from_bytes).ok_or_else(damaged_key)
}

fn log_in(key: &[u8]) -> Result<LogId> {
    let conversation = key.get(32..64).and_then(|b| b.try_into().ok()).map(ConversationId::from_bytes);
    Ok(LogId { device: device_in(key, 0)?, conversation: conversation.ok_or_else(damaged_key)? })
}

fn damaged_key() -> Error {
    Error::new(ErrorKind::Malformed, "store", "read", "a key is damaged; restore the store from a copy")
}

//! What the delivery thread knows, read from the store: at the start, and again once a store that failed answers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use peerloom_core::storage::DAMAGED_REMEDY;
use peerloom_core::wire::store::{
    CONTACTS, CONVERSATIONS, ConversationInfo, HISTORY, IN_LOGS, IN_PARKED, InLog, META, OUT_CURSORS, OUT_ENTRIES,
    OutCursor, OutEntry, PENDING, QUARANTINE, key_order, meta,
};
use peerloom_core::wire::{Allowance, ConversationId, DeviceId, LogId, Position, RangeSet};
use peerloom_core::{Error, ErrorKind, KeyRange, Result};
use peerloom_delivery::{Inbox, Now, Outbox};
use tracing::error;

use super::contact::open_invitations;
use super::conversation::direct;
use super::devices::load_own;
use super::key_packages::KeyPackages;
use super::mending::{Mending, OwnHistory};
use super::parked::Parked;
use super::pending::heads;
use super::quarantine::Quarantine;
use super::recent::Recent;
use super::session::SUITE_CHANGES;
use super::state::{Conversation, OwnEntry, State, TimerKey, sooner};
use super::status::halted;
use super::timers::Timers;
use crate::net::Trouble;
use crate::store::Txn;

impl State {
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
        self.mended.clear();
        self.standing.load(txn)?;
        self.standing.notice().into_iter().for_each(|notice| self.links.leave(notice.clone()));
        self.devices = load_own(&self.own, txn)?;
        self.contacts.set_own(&self.devices, &self.own.device);
        self.ready.clear();
        self.without_room.clear();
        self.queued_bytes = None;
        self.lazy_deletes.clear();
        self.lazy_cursors.clear();
        self.lazy_states.clear();
        self.to_scrub.clear();
        let contacts = txn.sound_records(CONTACTS, &KeyRange::all())?;
        self.contacts.replace(contacts.into_iter().map(|(_, contact)| contact).collect());
        // A damaged row must not keep the invited out; using an invitation looks at its own row anyway.
        let unknown = |_| BTreeSet::from([(u64::MAX, [0; 32])]);
        self.contacts.replace_invitations(open_invitations(txn).unwrap_or_else(unknown));
        let deleted = txn.sound(META, meta::HISTORY_END)?.and_then(|end| end.as_ref().try_into().ok());
        let newest = txn.last_key(HISTORY)?.map(|key| key_order(&key)).transpose()?.unwrap_or(0);
        self.history = newest.max(deleted.map_or(0, u64::from_be_bytes));
        self.pending = 0;
        self.load_directory(txn)?;
        for (id, _) in self.directory.all() {
            self.load_conversation(txn, id, now)?;
            // Sessions that were being made are made again.
            self.timers.set(TimerKey::Session(id), Some(now.mono));
        }
        if txn.has_damaged(CONTACTS)? || txn.has_damaged(CONVERSATIONS)? {
            self.load_orphans(txn, now)?;
        }
        self.given = KeyPackages::load(txn)?;
        // What expired meanwhile goes at the first turn.
        self.timers.set(TimerKey::KeyPackages, self.given.next_expiry_ms().map(|_| now.mono));
        self.quarantine = Quarantine::default();
        for row in txn.scan(QUARANTINE, &KeyRange::all())? {
            self.quarantine.add(log_in(&row.key)?);
        }
        self.load_inboxes(txn, now)?;
        let damaged = txn.snapshot()?.damaged();
        self.inboxes_damaged = txn.has_damaged(IN_LOGS)?;
        let mut tables = BTreeMap::<_, usize>::new();
        damaged.iter().for_each(|(table, _)| *tables.entry(table.name).or_default() += 1);
        if !tables.is_empty() {
            error!(?tables, "damaged rows of the store are left out; `peerloom db check` lists them");
        }
        self.damaged = tables.into_iter().map(|(table, rows)| format!("{table} ({rows})")).collect();
        Ok(())
    }

    /// The conversations. A direct one whose row is lost is made again of its contact.
    fn load_directory(&mut self, txn: &Txn<'_>) -> Result<()> {
        let mut conversations = HashMap::new();
        for (key, info) in txn.sound_records::<ConversationInfo>(CONVERSATIONS, &KeyRange::all())? {
            let id = key.first_chunk().copied().map(ConversationId::from_bytes).ok_or_else(damaged_key)?;
            conversations.insert(id, info);
        }
        for contact in self.contacts.all() {
            let (id, info) = direct(&self.own, contact.user, contact.added_at_ms);
            conversations.entry(id).or_insert(info);
        }
        self.directory.replace(conversations);
        Ok(())
    }

    /// What waits in a conversation whose row, or whose contact's, is damaged shows in the queue until it expires, or the contact is added again.
    fn load_orphans(&mut self, txn: &Txn<'_>, now: Now) -> Result<()> {
        let mut orphans = BTreeSet::new();
        for table in [PENDING, OUT_ENTRIES] {
            let mut rest = Some(KeyRange::all());
            while let Some(range) = rest {
                let part;
                (part, rest) = txn.part(table, &range)?;
                let ids = part.iter().filter_map(|row| row.key.first_chunk().copied().map(ConversationId::from_bytes));
                orphans.extend(ids.filter(|id| !self.conversations.contains_key(id)));
            }
        }
        orphans.into_iter().try_for_each(|id| self.load_conversation(txn, id, now))
    }

    /// Reads a conversation.
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
        let damaged = txn.damaged_keys(OUT_ENTRIES, id.as_bytes())?;
        let incomplete = !damaged.is_empty();
        if incomplete {
            let history = OwnHistory::read(txn, &id, self.own.device)?;
            let others = self.device_ids_in(&id);
            let mut again = Vec::new();
            let mending =
                Mending { txn, id, sound: &restored, cursors: &cursors, others: &others, ttl: self.config.ttl };
            for key in damaged {
                let position = key_order(&key)?;
                again.push((position, key, mending.entry(position, &history)?));
            }
            for (position, key, entry) in again {
                if let Some(entry) = &entry {
                    self.history = self.history.max(entry.history);
                    entries.insert(position, OwnEntry::new(entry));
                    restored.push((position, entry.clone()));
                }
                self.mended.push((key, entry));
            }
            restored.sort_by_key(|(position, _)| *position);
        }
        // A recipient whose cursor is damaged gets everything again that is still here.
        for (position, entry) in &restored {
            for device in &entry.recipients {
                let Some(certificate) = self.contacts.certificate(device).filter(|_| self.shares(device, &id)) else {
                    continue;
                };
                let (base, beyond, owed) = (*position, RangeSet::default(), RangeSet::default());
                let again = OutCursor {
                    user: certificate.user,
                    base,
                    through: base - 1,
                    beyond,
                    rejoins: 0,
                    halted: false,
                    owed,
                    acknowledged: None,
                    void: RangeSet::default(),
                };
                cursors.entry(*device).or_insert(again);
            }
        }
        let mut outbox = Outbox::restore(self.config.delivery.clone(), restored, cursors, now);
        incomplete.then(|| outbox.mark_incomplete());
        let devices = self.device_ids_in(&id);
        for device in devices.iter().filter(|device| self.links.has_shown(device, &id)) {
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
            (part, rest) = heads(txn, &range)?;
            for (key, head) in part {
                self.pending = self.pending.max(key_order(&key)?);
                pending += 1;
                pending_bytes += head.size as usize;
                pending_expiry_ms = sooner(pending_expiry_ms, head.expires_at_ms);
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
            fresh: false,
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
    let message = format!("a key is damaged; {DAMAGED_REMEDY}");
    Error::new(ErrorKind::Malformed, "store", "read", message)
}

//! Our own logs: accepting, sealing, transmitting, and what receivers say.

use bytes::Bytes;
use peerloom_core::wire::store::{
    HISTORY, History, OUT_ENTRIES, OUT_SEALED, OutEntry, PENDING, Pending, Record, SealedEntry, ordered_key,
};
use peerloom_core::wire::{
    Bundle, ConversationId, DeviceId, EntryClass, Envelope, Frame, Header, Item, LogId, MessageId, Position, RangeSet,
    UserId, Withdrawal, context, limits,
};
use peerloom_core::{Error, ErrorKind, KeyRange, Result, Sealing};
use peerloom_delivery::{Effect, NewEntry, Transmit};
use rand::Rng;
use tracing::{debug, debug_span, error, warn};

use super::state::{Conversation, OwnEntry, Queued, TimerKey, history_key, own_key, sooner};
use super::{RESTORED, SendRequest, Turn};
use crate::clock::system_ms;
use crate::event::Event;
use crate::store::stored;

impl Turn<'_> {
    /// Accepts a message, or says why not. The reply to an accepted one waits for the disk.
    pub(super) fn on_send(&mut self, request: SendRequest) {
        let SendRequest { conversation, content_type, body, ttl, reply } = request;
        if let Err(error) = self.check_room(&conversation, &content_type, body.len()) {
            let _ = reply.send(Err(error));
            return;
        }
        let mut id = [0; 16];
        self.state.rng.fill_bytes(&mut id);
        let item = Item {
            id: MessageId::from_bytes(id),
            sent_at_ms: system_ms(),
            content_type,
            body,
            resealed_from: Vec::new(),
        };
        // While the clock isn't confirmed, and when it jumped, the later time: no message is to be lost.
        let now_ms = self.now.wall_ms.max(system_ms());
        let expires_at_ms = now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        debug!(id = %item.id, %conversation, bytes = item.body.len(), "accepted");
        if let Some(found) = self.state.conversations.get_mut(&conversation) {
            found.queued_bytes += item.body.len();
            found.queued.push(Queued { item, expires_at_ms, reply: Some(reply) });
            self.state.touched.insert(TimerKey::Outbox(conversation));
        }
    }

    fn check_room(&mut self, id: &ConversationId, content_type: &str, length: usize) -> Result<()> {
        let error = |kind, message: String| Err(Error::new(kind, "engine", "send", message));
        if self.state.standing.is_restored() {
            return error(ErrorKind::Invalid, format!("nothing is sent from this folder any more: {RESTORED}"));
        }
        let Some(conversation) = self.state.conversations.get(id) else {
            return error(ErrorKind::NotFound, "there is no such conversation; add the contact first".into());
        };
        if length > limits::MESSAGE_BODY {
            return error(
                ErrorKind::TooLarge,
                format!("a message has at most {} bytes, this one {length}", limits::MESSAGE_BODY),
            );
        }
        if content_type.len() > limits::CONTENT_TYPE {
            return error(ErrorKind::TooLarge, format!("a content type has at most {} bytes", limits::CONTENT_TYPE));
        }
        if conversation.has_room(length, &self.state.config) {
            return Ok(());
        }
        self.make_room(*id);
        match self.state.conversations.get(id) {
            Some(conversation) if !conversation.has_room(length, &self.state.config) => {
                error(ErrorKind::Overloaded, self.overloaded(id, conversation))
            }
            _ => Ok(()),
        }
    }

    /// Devices that stay away keep nothing that their users have elsewhere, nor what has expired.
    fn make_room(&mut self, id: ConversationId) {
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return;
        };
        let before: Vec<DeviceId> = conversation.outbox.halted().collect();
        let freed = conversation.outbox.make_room(self.now);
        let halted: Vec<DeviceId> = conversation.outbox.halted().filter(|device| !before.contains(device)).collect();
        for device in halted {
            warn!(conversation = %id, ?device, entries = freed.len(), "a device was away too long; others get its room");
            self.on_halted(id, device);
        }
        freed.into_iter().for_each(|position| self.drop_settled(id, position));
    }

    /// Whose messages fill a conversation, since when, and what helps.
    fn overloaded(&self, id: &ConversationId, conversation: &Conversation) -> String {
        let contact = self.state.contacts.by_conversation(id).map_or_else(|| "the contact".into(), |c| c.alias);
        let messages = conversation.outbox.messages() + conversation.pending + conversation.queued.len();
        let since = self.oldest_waiting(id, conversation).ok().flatten();
        let age =
            since.map(|at| format!(", the oldest for {}", age(system_ms().saturating_sub(at)))).unwrap_or_default();
        format!(
            "{messages} messages for {contact} wait already{age}; `peerloom peers` says how {contact} stands. \
             Wait until {contact} can be reached or they expire, or raise delivery.max_queued_messages or \
             delivery.max_queued_bytes"
        )
    }

    /// When the oldest message that waits in a conversation was accepted.
    fn oldest_waiting(&self, id: &ConversationId, conversation: &Conversation) -> Result<Option<u64>> {
        if let Some((position, _)) = conversation.outbox.oldest_waiting() {
            let history = conversation.entries.get(&position).map_or(0, |entry| entry.history);
            return Ok(self.txn.record::<History>(HISTORY, &history_key(history))?.map(|row| row.stored_at_ms));
        }
        let first = self.txn.first(PENDING, &KeyRange::prefix(id.as_bytes()))?;
        Ok(first.map(|row| stored::<Pending>(row.value)).transpose()?.map(|pending| pending.item.sent_at_ms))
    }

    /// Seals what was accepted, or stores it to be sealed once there is a session.
    pub(super) fn seal_queues(&mut self) -> Result<()> {
        if self.state.standing.is_restored() {
            return self.keep_unsealed();
        }
        let touched: Vec<ConversationId> = self
            .state
            .touched
            .iter()
            .filter_map(|key| match key {
                TimerKey::Outbox(id) => Some(*id),
                TimerKey::Inbox(_) | TimerKey::Session(_) => None,
            })
            .collect();
        for id in touched {
            let Some(conversation) = self.state.conversations.get(&id) else {
                continue;
            };
            if conversation.queued.is_empty() {
                continue;
            }
            for device in self.state.contacts.devices_in(&id) {
                self.effects.want_link(device);
            }
            if conversation.members.is_none() {
                let outcome = self.prepare_session(id);
                self.contain(outcome)?;
            }
            let outcome = self.seal_queue(id);
            self.contain(outcome)?;
        }
        Ok(())
    }

    /// A store that was restored seals nothing: what was accepted before that was noticed waits as it is.
    fn keep_unsealed(&mut self) -> Result<()> {
        let waiting: Vec<ConversationId> =
            self.state.conversations.iter().filter(|(_, c)| !c.queued.is_empty()).map(|(id, _)| *id).collect();
        for id in waiting {
            if let Some(conversation) = self.state.conversations.get_mut(&id) {
                conversation.members = None;
            }
            self.seal_queue(id)?;
        }
        Ok(())
    }

    fn seal_queue(&mut self, id: ConversationId) -> Result<()> {
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let queued = std::mem::take(&mut conversation.queued);
        conversation.queued_bytes = 0;
        let members = conversation.members.as_ref().is_some_and(|m| !m.is_empty());
        let ready = conversation.pending == 0 && members && conversation.outbox.knows_head();
        if ready {
            return self.seal(id, queued);
        }
        self.store_pending(id, queued);
        Ok(())
    }

    /// Stores messages to be sealed once there is a session.
    fn store_pending(&mut self, id: ConversationId, queued: Vec<Queued>) {
        let sequence = self.state.pending;
        self.state.pending += queued.len() as u64;
        for (queued, order) in queued.into_iter().zip(sequence + 1..) {
            let message = queued.item.id;
            let value = Pending { item: queued.item, expires_at_ms: queued.expires_at_ms }.encode();
            if let Some(conversation) = self.state.conversations.get_mut(&id) {
                conversation.pending += 1;
                conversation.pending_bytes += value.len();
                conversation.pending_expiry_ms = sooner(conversation.pending_expiry_ms, queued.expires_at_ms);
            }
            self.txn.put(PENDING, ordered_key(&[id.as_bytes()], order), value);
            if let Some(reply) = queued.reply {
                self.effects.sent(reply, message);
            }
        }
    }

    /// Seals messages that waited for a session, before anything newer.
    pub(super) fn seal_pending(&mut self, id: ConversationId) -> Result<()> {
        if self.state.standing.is_restored() {
            return Ok(());
        }
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let ready = conversation.outbox.knows_head() && conversation.members.as_ref().is_some_and(|m| !m.is_empty());
        if conversation.pending == 0 || !ready {
            return Ok(());
        }
        (conversation.pending, conversation.pending_bytes, conversation.pending_expiry_ms) = (0, 0, 0);
        let mut queued = Vec::new();
        for (key, pending) in self.txn.sound_records::<Pending>(PENDING, &KeyRange::prefix(id.as_bytes()))? {
            queued.push(Queued { item: pending.item, expires_at_ms: pending.expires_at_ms, reply: None });
            self.txn.delete(PENDING, key);
        }
        self.seal(id, queued)
    }

    /// Seals messages in bundles, each an entry.
    fn seal(&mut self, id: ConversationId, queued: Vec<Queued>) -> Result<()> {
        let mut bundle: Vec<Queued> = Vec::new();
        let mut size = 0;
        for next in queued {
            if self.now.is_past(next.expires_at_ms) {
                self.fail_unsealed(id, next);
                continue;
            }
            let length = next.item.encoded_size();
            let full = size + length > limits::BUNDLE_TARGET || bundle.len() >= limits::BUNDLE_ITEMS;
            // One lifetime for each entry, to the second: a short one isn't stretched by its neighbours.
            let apart = |first: &Queued| first.expires_at_ms.abs_diff(next.expires_at_ms) > 1000;
            if full || bundle.first().is_some_and(apart) {
                if !bundle.is_empty() {
                    self.seal_bundle(id, std::mem::take(&mut bundle))?;
                }
                size = 0;
            }
            size += length;
            bundle.push(next);
        }
        if bundle.is_empty() { Ok(()) } else { self.seal_bundle(id, bundle) }
    }

    fn seal_bundle(&mut self, id: ConversationId, queued: Vec<Queued>) -> Result<()> {
        let expires_at_ms = queued.iter().map(|q| q.expires_at_ms).max().unwrap_or(0);
        if self.state.conversations.get(&id).is_some_and(|c| c.members.is_none()) {
            // The session was discarded meanwhile.
            self.store_pending(id, queued);
            return Ok(());
        }
        let mut items = Vec::with_capacity(queued.len());
        for next in queued {
            if let Some(reply) = next.reply {
                self.effects.sent(reply, next.item.id);
            }
            items.push(next.item);
        }
        let messages: Vec<MessageId> = items.iter().map(|item| item.id).collect();
        let bundle = Bundle { items }.encode();
        let history = self.next_history();
        let sealed = Sealed::Application { bundle: bundle.clone() };
        let contents = Contents { messages: &messages, expires_at_ms, history, resealed_from: &[] };
        let position = match self.append(id, sealed, contents, &[]) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                error!(conversation = %id, %error, "a session is damaged; making a new one");
                let items = Bundle::decode(bundle)?.items;
                let again = items.into_iter().map(|item| Queued { item, expires_at_ms, reply: None });
                self.store_pending(id, again.collect());
                return self.prepare_session(id);
            }
            appended => appended?,
        };
        let own = &self.state.own;
        let row = History {
            conversation: id,
            user: own.user,
            device: own.device,
            position,
            stored_at_ms: system_ms(),
            bundle,
            hidden: Vec::new(),
        };
        self.txn.put(HISTORY, history_key(history), row.encode());
        Ok(())
    }

    /// Appends an entry to our log: position, seal, rows.
    pub(super) fn append(
        &mut self,
        id: ConversationId,
        sealed: Sealed,
        contents: Contents<'_>,
        joins: &[(DeviceId, UserId)],
    ) -> Result<Position> {
        let Contents { messages, expires_at_ms, history, resealed_from } = contents;
        let own = self.state.own.clone();
        let crypto = self.state.crypto(id)?;
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Err(Error::new(ErrorKind::Bug, "engine", "append", "the conversation is gone"));
        };
        let class = sealed.class();
        let recipients = match &sealed {
            Sealed::Handshake { recipients, .. } => recipients.clone(),
            Sealed::Application { .. } => conversation.members.clone().unwrap_or_default(),
        };
        // Nothing is changed before it is sealed: that may fail.
        let (position, previous) = (conversation.outbox.head() + 1, conversation.outbox.previous());
        let _span = debug_span!("entry", conversation = %id, position, class = ?class).entered();
        let header = Header {
            log: LogId { device: own.device, conversation: id },
            position,
            class,
            suite: crypto.suite(),
            expires_at_ms,
            recipients: recipients.clone(),
            joins: joins.iter().map(|(device, _)| *device).collect(),
            previous,
        };
        let mut recipe = None;
        let payload = match sealed {
            Sealed::Handshake { payload, .. } => payload,
            Sealed::Application { bundle } => {
                let associated_data = header.associated_data();
                let sealing = Sealing { conversation: id, associated_data: &associated_data, plaintext: &bundle };
                let mut state = self.txn.crypto(crypto.suite());
                let sealed = match crypto.seal(&mut state, &mut self.state.rng, sealing) {
                    Ok(sealed) => sealed,
                    Err(error) => {
                        self.discard_session(header.log, crypto.suite(), error.clone())?;
                        return Err(
                            Error::new(ErrorKind::Damaged, "engine", "seal", "a session is damaged").source(error)
                        );
                    }
                };
                // What was sealed again differs from what the history has.
                recipe = sealed.recipe.filter(|_| history > 0 && resealed_from.is_empty());
                sealed.payload
            }
        };
        let header = header.sign(&payload, |message| own.key.sign(message));
        let entry_id = header.id();
        let envelope = Envelope { header, payload, hops: 0 };
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Err(Error::new(ErrorKind::Bug, "engine", "append", "the conversation is gone"));
        };
        if std::mem::take(&mut conversation.settled_head) {
            self.txn.delete(OUT_ENTRIES, own_key(&id, conversation.outbox.head()));
        }
        let new = NewEntry { class, expires_at_ms, recipients: &recipients, joins, messages: messages.len() };
        conversation.outbox.append(new);
        let encoded = envelope.encode();
        let kept = match &recipe {
            Some(_) => Envelope { payload: Bytes::new(), ..envelope }.encode(),
            None => encoded.clone(),
        };
        debug!(?messages, suite = crypto.name(), bytes = encoded.len(), "sealed");
        let kept = SealedEntry { envelope: kept, recipe: recipe.unwrap_or_default() };
        let size = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        let row = OutEntry {
            class,
            size,
            expires_at_ms,
            messages: messages.to_vec(),
            recipients: recipients.clone(),
            history,
            resealed_from: resealed_from.to_vec(),
            id: entry_id,
            // Where a device is linked it goes out in this turn: one write for both.
            left: recipients.iter().any(|device| conversation.outbox.is_up(device)),
            expired: false,
        };
        self.txn.put(OUT_ENTRIES, own_key(&id, position), row.encode());
        self.txn.put(OUT_SEALED, own_key(&id, position), kept.encode());
        self.state.recent.insert(id, position, encoded);
        conversation.outbox.set_sealed(position, entry_id, size as usize);
        conversation.outbox.wake(self.now);
        conversation.entries.insert(position, OwnEntry::new(&row));
        self.state.ready.extend(recipients.iter().map(|device| (id, *device)));
        self.state.touched.insert(TimerKey::Outbox(id));
        if !joins.is_empty() {
            self.state.lazy_cursors.insert(id);
        }
        Ok(position)
    }

    /// Sends whatever fits each ready device's window.
    pub(super) fn transmit(&mut self) -> Result<()> {
        if self.state.standing.is_restored() {
            self.state.ready.clear();
            return Ok(());
        }
        let missing = |error: Error| if error.kind() == ErrorKind::Damaged { Ok(None) } else { Err(error) };
        for (id, device) in std::mem::take(&mut self.state.ready) {
            let mut withdrawn = RangeSet::default();
            while let Some(conversation) = self.state.conversations.get_mut(&id) {
                match conversation.outbox.transmit(&device, self.now) {
                    Some(Transmit::Entry(position)) => match self.envelope(id, position).or_else(missing)? {
                        Some(envelope) => {
                            self.note_left(id, position)?;
                            debug!(conversation = %id, position, %device, "goes out");
                            self.effects.chat(device, Frame::wrap_envelope(&envelope));
                        }
                        None => self.on_lost(id, position)?,
                    },
                    Some(Transmit::Withdrawal(position)) => withdrawn.insert(position, position),
                    None => break,
                }
            }
            if !withdrawn.is_empty() {
                self.withdraw(id, device, withdrawn);
            }
            self.state.touched.insert(TimerKey::Outbox(id));
        }
        Ok(())
    }

    /// An entry as it travels, the same bytes every time.
    fn envelope(&self, id: ConversationId, position: Position) -> Result<Option<Bytes>> {
        let Some(conversation) = self.state.conversations.get(&id) else { return Ok(None) };
        if let Some(recent) = self.state.recent.get(id, position) {
            return Ok(Some(recent));
        }
        let Some(kept) = self.txn.record::<SealedEntry>(OUT_SEALED, &own_key(&id, position))? else { return Ok(None) };
        if kept.recipe.is_empty() {
            return Ok(Some(kept.envelope));
        }
        let history = conversation.entries.get(&position).map_or(0, |entry| entry.history);
        let Some(row) = self.txn.record::<History>(HISTORY, &history_key(history))? else { return Ok(None) };
        let Ok(mut envelope) = Envelope::decode(kept.envelope) else { return Ok(None) };
        let Some(crypto) = self.state.cryptos.iter().find(|c| c.suite() == envelope.header.suite) else {
            return Ok(None);
        };
        let Ok(payload) = crypto.rebuild(&kept.recipe, &row.bundle) else { return Ok(None) };
        envelope.payload = payload;
        Ok(Some(envelope.encode()))
    }

    /// Tells a device that positions will never come.
    pub(super) fn withdraw(&mut self, conversation: ConversationId, device: DeviceId, positions: RangeSet) {
        let Some(positions) = self.state.conversations.get(&conversation).map(|c| c.outbox.bind(&positions)) else {
            return;
        };
        let withdrawal = Withdrawal { conversation, positions };
        let signed = self.state.own.key.sign_object(context::WITHDRAWAL, withdrawal.encode());
        self.effects.control(device, &Frame::Withdrawal(signed));
    }

    /// Puts the messages of positions into new entries, with the same message ids.
    pub(super) fn reseal(&mut self, id: ConversationId, positions: &[Position]) -> Result<()> {
        for position in positions {
            let entry = self.state.conversations.get(&id).and_then(|c| c.entries.get(position));
            let Some((history, mut before)) = entry.map(|e| (e.history, e.resealed_from.clone())) else {
                continue;
            };
            let Some(row) = self.txn.record::<History>(HISTORY, &history_key(history))? else {
                continue;
            };
            before.push(*position);
            // The oldest positions are the least likely to matter.
            let resealed_from = before.split_off(before.len().saturating_sub(limits::RESEALED_FROM));
            let Ok(mut bundle) = Bundle::decode(row.bundle) else {
                continue;
            };
            bundle.items.iter_mut().for_each(|item| item.resealed_from.clone_from(&resealed_from));
            let messages: Vec<MessageId> = bundle.items.iter().map(|item| item.id).collect();
            let stored = self.txn.sound_record::<OutEntry>(OUT_ENTRIES, &own_key(&id, *position))?;
            let contents = Contents {
                messages: &messages,
                expires_at_ms: stored.map_or(0, |entry| entry.expires_at_ms),
                history,
                resealed_from: &resealed_from,
            };
            self.append(id, Sealed::Application { bundle: bundle.encode() }, contents, &[])?;
        }
        Ok(())
    }

    /// What time brought to our logs.
    pub(super) fn on_outbox_timer(&mut self, id: ConversationId) -> Result<()> {
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let effects = conversation.outbox.on_timer(self.now, &mut self.state.rng);
        if self.now.is_past(conversation.pending_expiry_ms) {
            self.expire_pending(id)?;
        }
        self.apply(id, effects)
    }

    /// Does what an outbox asks for.
    pub(super) fn apply(&mut self, id: ConversationId, effects: Vec<Effect>) -> Result<()> {
        self.state.touched.insert(TimerKey::Outbox(id));
        let restored = self.state.standing.is_restored();
        for effect in effects {
            match effect {
                // What waits here waits for ever: only its end matters.
                _ if restored && !matches!(effect, Effect::Expired(_)) => {}
                Effect::Connect(device) => self.effects.want_link(device),
                Effect::ResetLink(device) => {
                    debug!(?device, "nothing is acknowledged; making a new link");
                    self.effects.reset_link(device);
                }
                Effect::Ready(device) => drop(self.state.ready.insert((id, device))),
                Effect::Stalled(device) => self.effects.event(Event::Stalled { conversation: id, device }),
                Effect::Expired(expired) => self.on_expired(id, expired)?,
            }
        }
        Ok(())
    }
}

/// A time that has passed, in the unit that a person would use.
fn age(ms: u64) -> String {
    let (number, unit) = match ms / 1000 {
        seconds @ ..120 => (seconds, "seconds"),
        seconds @ ..7200 => (seconds / 60, "minutes"),
        seconds @ ..172_800 => (seconds / 3600, "hours"),
        seconds => (seconds / 86_400, "days"),
    };
    format!("{number} {unit}")
}

/// What is in an entry, for our own records.
pub(super) struct Contents<'a> {
    pub(super) messages: &'a [MessageId],
    pub(super) expires_at_ms: u64,
    pub(super) history: u64,
    pub(super) resealed_from: &'a [Position],
}

impl Contents<'_> {
    /// Of a handshake entry: nothing, and for ever.
    pub(super) const HANDSHAKE: Self = Self { messages: &[], expires_at_ms: 0, history: 0, resealed_from: &[] };
}

/// What an entry is made of.
pub(super) enum Sealed {
    /// Made by the crypto already.
    Handshake { payload: Bytes, recipients: Vec<DeviceId> },
    /// To be sealed for the session's members.
    Application { bundle: Bytes },
}

impl Sealed {
    fn class(&self) -> EntryClass {
        match self {
            Self::Handshake { .. } => EntryClass::Handshake,
            Self::Application { .. } => EntryClass::Application,
        }
    }
}

//! Our own logs: sealing, transmitting, and what receivers say.

use bytes::Bytes;
use peerloom_core::wire::store::{History, OUT_ENTRIES, OUT_SEALED, OutEntry, OwnState, Record, SealedEntry};
use peerloom_core::wire::{
    Bundle, ConversationId, DeviceId, EntryClass, Envelope, Frame, Header, LogId, MessageId, Position, UserId, limits,
};
use peerloom_core::{Error, ErrorKind, Result, Sealing};
use peerloom_delivery::{Effect, NewEntry};
use tracing::{debug, debug_span, error};

use super::Turn;
use super::expiry::EXPIRED;
use super::state::{OwnEntry, Queued, TimerKey, own_key};
use crate::clock::system_ms;
use crate::event::Event;

impl Turn<'_> {
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
                TimerKey::Inbox(_) | TimerKey::Session(_) | TimerKey::Pending(_) | TimerKey::KeyPackages => None,
            })
            .collect();
        for id in touched {
            let Some(conversation) = self.state.conversations.get(&id) else {
                continue;
            };
            if conversation.queued.is_empty() {
                continue;
            }
            for device in self.state.device_ids_in(&id) {
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
        if members && conversation.pending == 0 && conversation.outbox.owes() {
            // What is sealed again comes before what is new.
            self.state.timers.set(TimerKey::Pending(id), Some(self.now.mono));
        } else if members && conversation.pending == 0 && conversation.outbox.knows_head() {
            return self.seal(id, queued);
        }
        self.store_pending(id, queued);
        Ok(())
    }

    /// Seals messages in bundles, each an entry. From the first that can't be sealed on, all are stored to be sealed
    /// later, in their order.
    pub(super) fn seal(&mut self, id: ConversationId, queued: Vec<Queued>) -> Result<()> {
        let mut queued = queued.into_iter().peekable();
        while queued.peek().is_some() {
            let bundle = self.next_bundle(id, &mut queued);
            if bundle.is_empty() {
                continue;
            }
            if !self.seal_bundle(id, bundle)? {
                self.store_pending(id, queued.collect());
                self.state.timers.set(TimerKey::Pending(id), Some(self.now.mono));
                // A session that was discarded is made again; what fails here can wait for the next try.
                return self.prepare_session(id);
            }
        }
        Ok(())
    }

    /// The messages of the next entry. Those that have expired fail.
    fn next_bundle(
        &mut self,
        id: ConversationId,
        queued: &mut std::iter::Peekable<std::vec::IntoIter<Queued>>,
    ) -> Vec<Queued> {
        let mut bundle: Vec<Queued> = Vec::new();
        let mut size = 0;
        while let Some(next) = queued.peek() {
            let length = next.item.encoded_size();
            let full = size + length > limits::BUNDLE_TARGET || bundle.len() >= limits::BUNDLE_ITEMS;
            // One lifetime for each entry, to the second: a short one isn't stretched by its neighbours.
            let apart = |first: &Queued| first.expires_at_ms.abs_diff(next.expires_at_ms) > 1000;
            let expired = self.now.is_past(next.expires_at_ms);
            if !expired && !bundle.is_empty() && (full || bundle.first().is_some_and(apart)) {
                break;
            }
            let Some(next) = queued.next() else { break };
            if expired {
                self.fail_unsealed(id, next.item, next.reply, EXPIRED);
                continue;
            }
            size += length;
            bundle.push(next);
        }
        bundle
    }

    /// Seals messages in one entry. `false`: the session can't be used and was discarded; the messages are stored.
    fn seal_bundle(&mut self, id: ConversationId, queued: Vec<Queued>) -> Result<bool> {
        let expires_at_ms = queued.iter().map(|q| q.expires_at_ms).max().unwrap_or(0);
        if self.state.conversations.get(&id).is_some_and(|c| c.members.is_none()) {
            // The session was discarded meanwhile.
            self.store_pending(id, queued);
            return Ok(false);
        }
        let (mut items, mut orders) = (Vec::with_capacity(queued.len()), Vec::with_capacity(queued.len()));
        for next in queued {
            if let Some(reply) = next.reply {
                self.effects.sent(reply, next.item.id);
            }
            items.push(next.item);
            orders.push(next.order);
        }
        let messages: Vec<MessageId> = items.iter().map(|item| item.id).collect();
        let bundle = Bundle { items }.encode();
        let history = self.next_history();
        let sealed = Sealed::Application { bundle: bundle.clone() };
        let contents = Contents { messages: &messages, expires_at_ms, history, copies: &[] };
        let position = match self.append(id, sealed, contents, &[]) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                error!(conversation = %id, %error, "a session is damaged; making a new one");
                let items = Bundle::decode(bundle)?.items;
                let again = items.into_iter().zip(orders);
                let again = again.map(|(item, order)| Queued { item, expires_at_ms, reply: None, order });
                self.store_pending(id, again.collect());
                return Ok(false);
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
        let left = self.state.conversations.get(&id).and_then(|c| c.entries.get(&position)).is_some_and(|e| e.left);
        self.put_history(history, &row, messages, Some(if left { OwnState::Sent } else { OwnState::Queued }));
        Ok(true)
    }

    /// Appends an entry to our log: position, seal, rows.
    pub(super) fn append(
        &mut self,
        id: ConversationId,
        sealed: Sealed,
        contents: Contents<'_>,
        joins: &[(DeviceId, UserId)],
    ) -> Result<Position> {
        let Contents { messages, expires_at_ms, history, copies } = contents;
        if matches!(sealed, Sealed::Application { .. }) {
            self.refresh_session(id)?;
        }
        let own = self.state.own.clone();
        let crypto = self.state.crypto(id)?;
        let awaited = self.awaited(id);
        let (others, roster) = (self.state.device_ids_in(&id), self.state.directory.get(&id));
        let roster = roster
            .map(|info| info.roster.id())
            .ok_or_else(|| Error::new(ErrorKind::Internal, "engine", "append", "nobody is in the conversation"))?;
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Err(Error::new(ErrorKind::Internal, "engine", "append", "the conversation is gone"));
        };
        let class = sealed.class();
        let recipients = match &sealed {
            Sealed::Handshake { recipients, .. } => recipients.clone(),
            Sealed::Application { .. } => conversation.members.clone().unwrap_or_default(),
        };
        // Nothing is changed before it is sealed: that may fail.
        let excluded = others.into_iter().filter(|device| !recipients.contains(device)).collect();
        let awaited = match class {
            EntryClass::Application => awaited,
            _ => Vec::new(),
        };
        let (position, previous) = (conversation.outbox.head() + 1, conversation.outbox.previous());
        let _span = debug_span!("entry", conversation = %id, position, class = ?class).entered();
        let header = Header {
            log: LogId { device: own.device, conversation: id },
            position,
            class,
            suite: crypto.suite(),
            expires_at_ms,
            roster,
            excluded,
            joins: joins.iter().map(|(device, _)| *device).collect(),
            previous,
        };
        let mut recipe = None;
        let (payload, welcome) = match sealed {
            Sealed::Handshake { payload, welcome, .. } => (payload, welcome),
            Sealed::Application { bundle } => {
                let associated_data = header.associated_data();
                let sealing = Sealing { conversation: id, associated_data: &associated_data, plaintext: &bundle };
                let mut state = self.txn.crypto(crypto.suite());
                let sealed = match crypto.seal(&mut state, &mut self.state.rng, sealing) {
                    Ok(sealed) => sealed,
                    Err(error) => {
                        self.discard_session(header.log, crypto.suite(), error.clone())?;
                        return Err(
                            Error::new(ErrorKind::Damaged, "engine", "seal", "a session is damaged").with_source(error)
                        );
                    }
                };
                // What was sealed again differs from what the history has.
                recipe = sealed.recipe.filter(|_| history > 0 && copies.is_empty());
                (sealed.payload, Bytes::new())
            }
        };
        let header = header.sign_parts(&payload, &welcome, |message| own.key.sign(message));
        let entry_id = header.id();
        let envelope = Envelope { header, payload, welcome, hops: 0 };
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Err(Error::new(ErrorKind::Internal, "engine", "append", "the conversation is gone"));
        };
        if std::mem::take(&mut conversation.settled_head) {
            self.txn.delete(OUT_ENTRIES, own_key(&id, conversation.outbox.head()));
        }
        awaited.iter().for_each(|(device, user)| conversation.outbox.await_device(*device, *user));
        let members = recipients.clone();
        let recipients: Vec<DeviceId> = recipients.into_iter().chain(awaited.into_iter().map(|(d, _)| d)).collect();
        let new = NewEntry { class, expires_at_ms, recipients: &recipients, joins, messages: messages.len() };
        conversation.outbox.append(new);
        // Encoded once, for all devices.
        let frame = Frame::Envelope(envelope.clone()).encode();
        let encoded = Frame::unwrap_envelope(&frame).unwrap_or_else(|| envelope.encode());
        let kept = match &recipe {
            Some(_) => Envelope { payload: Bytes::new(), ..envelope }.encode(),
            None => encoded.clone(),
        };
        debug!(?messages, suite = crypto.name(), bytes = encoded.len(), "sealed");
        let kept = SealedEntry { envelope: kept, recipe: recipe.unwrap_or_default(), history };
        let size = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        let row = OutEntry {
            class,
            size,
            expires_at_ms,
            messages: messages.to_vec(),
            recipients: recipients.clone(),
            history,
            copies: copies.to_vec(),
            id: entry_id,
            // Where a device is linked it goes out in this turn: one write for both.
            left: members.iter().any(|device| conversation.outbox.is_up(device)),
            expired: false,
            delivered: false,
            discard: false,
        };
        self.txn.put(OUT_ENTRIES, own_key(&id, position), row.encode());
        self.txn.put(OUT_SEALED, own_key(&id, position), kept.encode());
        self.state.recent.insert(id, position, frame);
        conversation.outbox.set_sealed(position, entry_id, size as usize);
        conversation.outbox.wake(self.now);
        conversation.entries.insert(position, OwnEntry::new(&row));
        self.state.ready.extend(members.iter().map(|device| (id, *device)));
        self.state.touched.insert(TimerKey::Outbox(id));
        if !joins.is_empty() {
            self.state.lazy_cursors.insert(id);
        }
        Ok(position)
    }

    /// The devices of a conversation that can't open what is sealed now, with their users: their key packages are still
    /// missing.
    fn awaited(&self, id: ConversationId) -> Vec<(DeviceId, UserId)> {
        let members = self.state.conversations.get(&id).and_then(|c| c.members.as_ref());
        let is_member = |device: &DeviceId| members.is_some_and(|members| members.contains(device));
        let others = self.state.device_ids_in(&id).into_iter().filter(|device| !is_member(device));
        others.filter_map(|device| Some((device, self.state.contacts.certificate(&device)?.user))).collect()
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

/// What is in an entry, for our own records.
pub(super) struct Contents<'a> {
    pub(super) messages: &'a [MessageId],
    pub(super) expires_at_ms: u64,
    pub(super) history: u64,
    pub(super) copies: &'a [Position],
}

impl Contents<'_> {
    /// Of a handshake entry: nothing, and for ever.
    pub(super) const HANDSHAKE: Self = Self { messages: &[], expires_at_ms: 0, history: 0, copies: &[] };
}

/// What an entry is made of.
pub(super) enum Sealed {
    /// Made by the crypto already.
    Handshake { payload: Bytes, welcome: Bytes, recipients: Vec<DeviceId> },
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

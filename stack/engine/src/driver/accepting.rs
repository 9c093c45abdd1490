//! Accepting messages to send, as far as there is room for them.

use peerloom_core::wire::store::{HISTORY, History};
use peerloom_core::wire::{ConversationId, DeviceId, Item, MessageId, limits};
use peerloom_core::{Error, ErrorKind, KeyRange, Result};
use rand::Rng;
use tracing::{debug, warn};

use super::pending::heads;
use super::state::{Conversation, Queued, TimerKey, history_key};
use super::{SendRequest, Turn};
use crate::clock::system_ms;

impl Turn<'_> {
    /// Accepts a message, or says why not. The reply to an accepted one waits for the disk.
    pub(super) fn on_send(&mut self, request: SendRequest) {
        // Its room goes to the next one: a turn has a bound of its own.
        let SendRequest { conversation, content_type, body, ttl, reply, room: _room } = request;
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
        let expires_at_ms = self.latest_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        debug!(id = %item.id, %conversation, bytes = item.body.len(), "accepted");
        if let Some(found) = self.state.conversations.get_mut(&conversation) {
            found.queued_bytes += item.body.len();
            self.state.queued_bytes = self.state.queued_bytes.map(|bytes| bytes + item.body.len());
            found.queued.push(Queued { item, expires_at_ms, reply: Some(reply), order: None });
            self.state.touched.insert(TimerKey::Outbox(conversation));
        }
    }

    fn check_room(&mut self, id: &ConversationId, content_type: &str, length: usize) -> Result<()> {
        let error = |kind, message: String| Err(Error::new(kind, "engine", "send", message));
        self.refuse_if_restored("send")?;
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
        if !conversation.has_room(length, &self.state.config) {
            self.make_room(*id);
        }
        if let Some(conversation) = self.state.conversations.get(id)
            && !conversation.has_room(length, &self.state.config)
        {
            return error(ErrorKind::Overloaded, self.overloaded(id, conversation));
        }
        if self.state.has_room_in_all(id, length) {
            return Ok(());
        }
        let fullest = self.state.conversations.iter().max_by_key(|(_, c)| c.bytes()).map(|(id, _)| *id);
        fullest.into_iter().for_each(|fullest| self.make_room(fullest));
        if self.state.has_room_in_all(id, length) {
            return Ok(());
        }
        error(ErrorKind::Overloaded, self.overloaded_in_all(fullest))
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
        let contact = self.state.with(id).unwrap_or_else(|| "the contact".into());
        let messages = conversation.messages();
        let since = self.oldest_waiting(id, conversation).ok().flatten();
        let age =
            since.map(|at| format!(", the oldest for {}", age(system_ms().saturating_sub(at)))).unwrap_or_default();
        format!(
            "{messages} messages for {contact} wait already{age}; `peerloom peers` says how {contact} stands. \
             Wait until {contact} can be reached or they expire, or raise delivery.max_queued_messages or \
             delivery.max_queued_bytes"
        )
    }

    /// How much waits in all conversations, for whom the most, and what helps.
    fn overloaded_in_all(&self, fullest: Option<ConversationId>) -> String {
        let bytes = self.state.queued_bytes.unwrap_or_default();
        let contact = fullest.and_then(|id| self.state.with(&id)).unwrap_or_else(|| "a removed contact".into());
        format!(
            "{bytes} bytes wait for all contacts together, the most for {contact}; `peerloom peers` says how they \
             stand. Wait until they can be reached or the messages expire, or raise delivery.max_queued_bytes_in_all"
        )
    }

    /// When the oldest message that waits in a conversation was accepted.
    fn oldest_waiting(&self, id: &ConversationId, conversation: &Conversation) -> Result<Option<u64>> {
        if let Some((position, _)) = conversation.outbox.oldest_waiting() {
            let history = conversation.entries.get(&position).map_or(0, |entry| entry.history);
            return Ok(self.txn.record::<History>(HISTORY, &history_key(history))?.map(|row| row.stored_at_ms));
        }
        let (first, _) = heads(&self.txn, &KeyRange::prefix(id.as_bytes()))?;
        Ok(first.into_values().next().map(|head| head.sent_at_ms))
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

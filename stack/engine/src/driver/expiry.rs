//! The end of messages whose time is over, sealed or not: recorded with what drops them, and reported once.

use peerloom_core::Result;
use peerloom_core::wire::store::{FAILURES, Failure, OUT_ENTRIES, OUT_SEALED, OutEntry, Record};
use peerloom_core::wire::{ConversationId, MessageId, Position};
use peerloom_delivery::Expired;
use rand::Rng;
use tokio::sync::oneshot;

use super::Turn;
use super::state::own_key;
use crate::event::{Event, MessageState};

/// Where the one who sends a message waits for its id.
type Reply = oneshot::Sender<Result<MessageId>>;

/// Why a message failed that never left, and one that did.
pub(super) const EXPIRED: &str = "it expired before it could be delivered";
const EXPIRED_ON_THE_WAY: &str =
    "it expired before its receipt came; it was on its way, so the contact may have it all the same";

impl Turn<'_> {
    /// An entry goes out: should it expire before it is acknowledged, it may have arrived all the same.
    pub(super) fn note_left(&mut self, id: ConversationId, position: Position) -> Result<()> {
        let entry = self.state.conversations.get_mut(&id).and_then(|c| c.entries.get_mut(&position));
        if let Some(entry) = entry.filter(|entry| !entry.left) {
            entry.left = true;
            self.change_entry(id, position, |row| row.left = true)?;
        }
        Ok(())
    }

    pub(super) fn change_entry(
        &mut self,
        id: ConversationId,
        position: Position,
        change: impl FnOnce(&mut OutEntry),
    ) -> Result<()> {
        let key = own_key(&id, position);
        if let Some(mut row) = self.txn.sound_record::<OutEntry>(OUT_ENTRIES, &key)? {
            change(&mut row);
            self.txn.put(OUT_ENTRIES, key, row.encode());
        }
        Ok(())
    }

    /// An entry expired: its bytes go and its end is recorded in one batch.
    pub(super) fn on_expired(&mut self, id: ConversationId, expired: Expired) -> Result<()> {
        let Expired { position, delivered, left, settled } = expired;
        self.txn.delete(OUT_SEALED, own_key(&id, position));
        self.state.recent.remove(id, position);
        self.change_entry(id, position, |row| row.expired = true)?;
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let entry = conversation.entries.get_mut(&position);
        let messages = entry.map(|entry| {
            entry.expired = true;
            entry.messages.clone()
        });
        // What another entry carries has not ended.
        if let Some(messages) = messages.filter(|messages| !delivered && !messages.is_empty()) {
            self.fail(id, position, &messages, if left { EXPIRED_ON_THE_WAY } else { EXPIRED });
        }
        if settled {
            self.drop_settled(id, position);
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, id: ConversationId, order: u64, messages: &[MessageId], reason: &str) {
        let row = Failure { messages: messages.to_vec(), reason: reason.into() };
        self.txn.put(FAILURES, own_key(&id, order), row.encode());
        let state = MessageState::Failed(reason.into());
        self.effects.event(Event::Receipt { conversation: id, messages: messages.into(), state });
    }

    /// A message ends before it was sealed.
    pub(super) fn fail_unsealed(&mut self, id: ConversationId, message: MessageId, reply: Option<Reply>, reason: &str) {
        if let Some(reply) = reply {
            self.effects.sent(reply, message);
        }
        // Beyond every position of the log, so that it stands for itself.
        let order = self.state.rng.next_u64() | 1 << 63;
        self.fail(id, order, &[message], reason);
    }
}

//! The end of messages whose time is over, sealed or not: recorded with what drops them, and reported once.

use peerloom_core::Result;
use peerloom_core::wire::store::{History, OUT_ENTRIES, OUT_SEALED, OutEntry, OwnState, Record};
use peerloom_core::wire::{Bundle, ConversationId, Item, MessageId, Position};
use peerloom_delivery::Expired;
use tokio::sync::oneshot;

use super::Turn;
use super::state::own_key;
use crate::clock::system_ms;
use crate::event::Event;
use crate::message::MessageState;

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
            if !entry.messages.is_empty() && !entry.expired {
                let history = entry.history;
                self.note_state(id, history, OwnState::Sent);
            }
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
        let ended = entry.map(|entry| {
            entry.expired = true;
            (entry.history, entry.messages.clone())
        });
        // What another entry carries has not ended.
        if let Some((history, messages)) = ended.filter(|(_, messages)| !delivered && !messages.is_empty()) {
            self.fail(id, history, &messages, if left { EXPIRED_ON_THE_WAY } else { EXPIRED });
        }
        if settled {
            self.drop_settled(id, position);
        }
        Ok(())
    }

    /// Messages ended: that goes into the history, at this sequence, and to subscribers.
    pub(super) fn fail(&mut self, id: ConversationId, history: u64, messages: &[MessageId], reason: &str) {
        self.note_state(id, history, OwnState::Failed(reason.into()));
        let state = MessageState::Failed(reason.into());
        self.effects.event(Event::Receipt { conversation: id, messages: messages.into(), state });
    }

    /// A message ends before it was sealed.
    pub(super) fn fail_unsealed(&mut self, id: ConversationId, item: Item, reply: Option<Reply>, reason: &str) {
        let message = item.id;
        if let Some(reply) = reply {
            self.effects.sent(reply, message);
        }
        let own = &self.state.own;
        let row = History {
            conversation: id,
            user: own.user,
            device: own.device,
            position: 0,
            stored_at_ms: system_ms(),
            bundle: Bundle { items: vec![item] }.encode(),
            hidden: Vec::new(),
        };
        let history = self.next_history();
        self.put_history(history, &row, vec![message], Some(OwnState::Failed(reason.into())));
        self.fail(id, history, &[message], reason);
    }
}

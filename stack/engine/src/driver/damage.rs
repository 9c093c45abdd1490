//! Damaged rows of the store: what depends on one goes, and comes back where others can help; everything else goes on.

use peerloom_core::wire::store::{OUT_ENTRIES, Record};
use peerloom_core::wire::{ConversationId, LogId, Position, SuiteId};
use peerloom_core::{Error, ErrorKind, Result};
use tracing::error;

use super::Turn;
use super::state::TimerKey;

impl Turn<'_> {
    /// Writes the rows of own entries again that were damaged when the store was read.
    pub(super) fn write_mended(&mut self) {
        for (key, row) in std::mem::take(&mut self.state.mended) {
            self.txn.put(OUT_ENTRIES, key, row.encode());
        }
    }

    /// An input that met damage comes to nothing, and the turn goes on. Other errors mean that the store can't be read.
    pub(super) fn contain(&self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                error!(%error, "something of one conversation was given up; the others go on");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// A crypto can't use the state of a session: the session goes, so that a new one can be made. An error if it was
    /// the store that failed.
    pub(super) fn discard_session(&mut self, log: LogId, suite: SuiteId, error: Error) -> Result<()> {
        if let Some(failure) = self.txn.take_failure() {
            return Err(failure);
        }
        error!(conversation = %log.conversation, device = %log.device, %error, "a session is damaged; it is made again");
        if let Some(crypto) = self.state.cryptos.iter().find(|c| c.suite() == suite).cloned() {
            crypto.discard(&mut self.txn.crypto(suite), log)?;
        }
        if log.device == self.state.own.device
            && let Some(conversation) = self.state.conversations.get_mut(&log.conversation)
        {
            conversation.members = None;
        }
        Ok(())
    }

    /// The bytes of an entry of ours are damaged. Its messages are sealed again where the history has them, and fail
    /// otherwise; who needs a handshake entry is added again.
    pub(super) fn on_lost(&mut self, id: ConversationId, position: Position) -> Result<()> {
        let Some(conversation) = self.state.conversations.get(&id) else {
            return Ok(());
        };
        error!(conversation = %id, position, "an entry that is still needed has lost its bytes");
        let messages = conversation.entries.get(&position).map(|entry| entry.messages.clone()).unwrap_or_default();
        if let Some(conversation) = self.state.conversations.get_mut(&id).filter(|_| messages.is_empty()) {
            conversation.rejoin.extend(conversation.outbox.lacking(position));
            self.state.timers.set(TimerKey::Session(id), Some(self.now.mono));
        }
        self.reseal_or_fail(id, position)?;
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            conversation.outbox.drop_entry(position);
        }
        self.drop_settled(id, position);
        Ok(())
    }

    /// Puts the messages of an entry into a new one, or says that they won't be delivered.
    pub(super) fn reseal_or_fail(&mut self, id: ConversationId, position: Position) -> Result<()> {
        let Some(conversation) = self.state.conversations.get(&id) else {
            return Ok(());
        };
        let head = conversation.outbox.head();
        let messages = conversation.entries.get(&position).map(|entry| entry.messages.clone()).unwrap_or_default();
        let resealed = self.reseal(id, &[position]);
        self.contain(resealed)?;
        let again = self.state.conversations.get(&id).is_some_and(|c| c.outbox.head() > head);
        if !again && !messages.is_empty() {
            self.fail(id, position, &messages, "its bytes in the store are damaged");
        }
        Ok(())
    }
}

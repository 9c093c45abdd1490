//! Damaged rows of the store: what depends on one goes, and comes back where others can help; everything else goes on.

use peerloom_core::wire::store::{OUT_ENTRIES, Record};
use peerloom_core::wire::{ConversationId, LogId, Position, SuiteId};
use peerloom_core::{Error, ErrorKind, Result};
use tracing::error;

use super::Turn;
use super::state::TimerKey;

impl Turn<'_> {
    /// Writes the rows of own entries again that were damaged when the store was read, or deletes them.
    pub(super) fn write_mended(&mut self) {
        for (key, row) in std::mem::take(&mut self.state.mended) {
            match row {
                Some(row) => self.txn.put(OUT_ENTRIES, key, row.encode()),
                None => self.txn.delete(OUT_ENTRIES, key),
            }
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

    /// The bytes of an entry of ours are damaged. What it carries is sealed again as soon as there is a session; who needs
    /// a handshake entry is added again.
    pub(super) fn on_lost(&mut self, id: ConversationId, position: Position) {
        let Some(conversation) = self.state.conversations.get_mut(&id) else { return };
        error!(conversation = %id, position, "an entry that is still needed has lost its bytes");
        let add_again = conversation.outbox.on_lost(position);
        if conversation.outbox.owes() {
            self.state.timers.set(TimerKey::Pending(id), Some(self.now.mono));
        }
        if !add_again.is_empty() {
            conversation.rejoin.extend(add_again);
            self.state.timers.set(TimerKey::Session(id), Some(self.now.mono));
        }
        self.state.lazy_cursors.insert(id);
    }
}

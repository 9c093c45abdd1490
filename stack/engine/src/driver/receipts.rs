//! What receivers say of our own logs.

use peerloom_core::wire::store::{OUT_ENTRIES, OwnState};
use peerloom_core::wire::{
    Ack, CannotOpen, CannotOpenReason, ConversationId, DeviceId, GapRequest, LogId, Position, Stated,
};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_delivery::{AckOutcome, CannotOpenOutcome};
use tracing::{debug, warn};

use super::Turn;
use super::state::{TimerKey, own_key, sealed_row};
use crate::event::Event;
use crate::message::MessageState;

impl Turn<'_> {
    /// A device of a contact acknowledges.
    pub(super) fn on_ack(&mut self, device: DeviceId, ack: &Stated<Ack>) -> Result<()> {
        let id = self.own_log(device, &ack.log, ack.signer)?;
        if self.state.standing.is_restored() {
            // It may be about what this store doesn't know.
            return Ok(());
        }
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        let outcome = conversation.outbox.on_ack(&device, ack, self.now);
        if outcome.news {
            conversation.outbox.keep_ack(&device, ack);
        }
        if outcome.conflict {
            debug!(conversation = %id, %device, "an acknowledgement is about other entries than ours");
        }
        self.on_settled(id, outcome)?;
        self.state.ready.insert((id, device));
        Ok(())
    }

    /// What became of entries of ours.
    pub(super) fn on_settled(&mut self, id: ConversationId, outcome: AckOutcome) -> Result<()> {
        outcome.delivered.iter().try_for_each(|position| self.on_delivered(id, *position))?;
        outcome.undelivered.into_iter().try_for_each(|ended| self.on_expired(id, ended))?;
        self.state.lazy_cursors.insert(id);
        self.state.touched.insert(TimerKey::Outbox(id));
        outcome.settled.iter().for_each(|position| self.drop_settled(id, *position));
        Ok(())
    }

    /// An entry was shown by one device of each user that it is for, and so were its messages, wherever they stand now.
    fn on_delivered(&mut self, id: ConversationId, position: Position) -> Result<()> {
        let Some(conversation) = self.state.conversations.get(&id) else { return Ok(()) };
        let Some(shown) = conversation.entries.get(&position) else { return Ok(()) };
        let carries = |at: &&Position| conversation.entries.get(at).is_some_and(|copy| !copy.messages.is_empty());
        let carrier = if shown.messages.is_empty() { shown.copies.iter().rev().find(carries) } else { Some(&position) };
        let Some((carrier, entry)) = carrier.and_then(|at| Some((at, conversation.entries.get(at)?))) else {
            return Ok(());
        };
        if *carrier != position && conversation.outbox.was_delivered(*carrier) {
            return Ok(());
        }
        let (carrier, messages, history) = (*carrier, entry.messages.clone(), entry.history);
        debug!(conversation = %id, position, ?messages, "delivered");
        // It may have been called failed before its receipt came.
        self.note_state(id, history, OwnState::Delivered);
        self.effects.event(Event::Receipt { conversation: id, messages, state: MessageState::Delivered });
        // A copy that is still on its way has nothing more to say of them.
        match carrier == position {
            // A restart can't tell it by what the devices have settled.
            true if self.state.conversations.get(&id).is_some_and(|c| c.outbox.holds(position)) => {
                self.change_entry(id, position, |row| row.delivered = true)
            }
            true => Ok(()),
            false => self.note_moved(id, carrier, None),
        }
    }

    /// No device needs an entry any more: its rows may go. The log's last row stays, since it says
    /// where the log ends.
    pub(super) fn drop_settled(&mut self, id: ConversationId, position: Position) {
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return;
        };
        let entry = conversation.entries.remove(&position).filter(|entry| entry.discard);
        let needed = |history| conversation.entries.values().any(|other| other.history == history);
        if let Some(entry) = entry.filter(|entry| !needed(entry.history)) {
            self.state.to_scrub.insert((id, entry.history));
        }
        self.state.recent.remove(id, position);
        self.state.lazy_deletes.push(sealed_row(&id, position));
        if position == conversation.outbox.head() {
            conversation.settled_head = true;
        } else {
            self.state.lazy_deletes.push((OUT_ENTRIES, own_key(&id, position)));
        }
    }

    /// Checks that a receipt is about our log, from a device that shares the conversation. The link's
    /// task has checked that the device signed it.
    fn own_log(&self, device: DeviceId, log: &LogId, signer: DeviceId) -> Result<ConversationId> {
        if log.device == self.state.own.device && signer == device && self.state.shares(&device, &log.conversation) {
            return Ok(log.conversation);
        }
        let message = "it is about another device's log, or another device's";
        Err(Error::new(ErrorKind::Unauthenticated, "engine", "take a receipt", message))
    }

    /// A device of a contact lacks positions of our log.
    pub(super) fn on_gap_request(&mut self, device: DeviceId, request: &GapRequest) -> Result<()> {
        let id = self.own_log(device, &request.log, request.signer)?;
        if let Some(conversation) = self.state.conversations.get_mut(&id) {
            let gone = conversation.outbox.on_gap_request(&device, &request.positions, self.now);
            self.state.ready.insert((id, device));
            if !gone.is_empty() && !self.state.standing.is_restored() {
                self.not_for(id, device, gone);
            }
        }
        Ok(())
    }

    /// Nothing is sent to a device before it was added again: that is stored, and shown.
    pub(super) fn on_halted(&mut self, id: ConversationId, device: DeviceId) {
        self.state.lazy_cursors.insert(id);
        self.state.touched.insert(TimerKey::Outbox(id));
        self.show_halted(id, device);
        self.effects.event(Event::Stalled { conversation: id, device });
    }

    /// A halted device appeared, or has news, or the user asks for it: it is added again once its key package is
    /// here, within its budget. Returns whether it is.
    pub(super) fn resume(&mut self, id: ConversationId, device: DeviceId, asked: bool) -> bool {
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return false;
        };
        if conversation.rejoin.contains(&device) || !conversation.outbox.resume(&device, asked, self.now) {
            return false;
        }
        conversation.rejoin.insert(device);
        conversation.key_packages.remove(&device);
        self.state.lazy_cursors.insert(id);
        true
    }

    /// A device of a contact can't open an entry of ours: it is added again once its key package is here.
    pub(super) fn on_cannot_open(&mut self, device: DeviceId, cannot: &CannotOpen) -> Result<()> {
        let id = self.own_log(device, &cannot.log, cannot.signer)?;
        if self.state.standing.is_restored() {
            return Ok(());
        }
        let Some(conversation) = self.state.conversations.get_mut(&id) else {
            return Ok(());
        };
        if cannot.reason == CannotOpenReason::Expired {
            let effects = conversation.outbox.on_refused_as_expired(&device, cannot.position, cannot.id);
            return self.apply(id, effects);
        }
        if conversation.rejoin.contains(&device) {
            return Ok(());
        }
        match conversation.outbox.on_cannot_open(&device, cannot.position, cannot.id, self.now) {
            CannotOpenOutcome::Nothing => return Ok(()),
            CannotOpenOutcome::Halted => {
                warn!(?device, "a device still can't open what is sealed for it; nothing more is sent to it for now");
                self.on_halted(id, device);
                return Ok(());
            }
            CannotOpenOutcome::AddAgain => {}
        }
        warn!(?device, position = cannot.position, reason = ?cannot.reason, "a device can't open an entry; adding it again");
        conversation.rejoin.insert(device);
        conversation.key_packages.remove(&device);
        self.state.lazy_cursors.insert(id);
        self.request_key_package(id, device)
    }
}

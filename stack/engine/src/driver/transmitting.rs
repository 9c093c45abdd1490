//! What goes out on links: entries as far as each link's window allows, and that positions hold nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use peerloom_core::wire::store::{HISTORY, History, OUT_SEALED, SealedEntry};
use peerloom_core::wire::{
    ConversationId, DeviceId, EntryClass, Envelope, Frame, LogId, NotForYou, Position, RangeSet, Withdrawal,
};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_delivery::{Transmit, Window};
use tracing::debug;

use super::Turn;
use super::state::{TimerKey, history_key, own_key};

/// The positions of one conversation that hold nothing, stated together.
#[derive(Default)]
struct Nothing {
    withdrawn: RangeSet,
    not_for_it: RangeSet,
}

impl Turn<'_> {
    /// Sends whatever fits the window of each link that may have room.
    pub(super) fn transmit(&mut self) -> Result<()> {
        let mut ready: BTreeMap<DeviceId, Vec<ConversationId>> = BTreeMap::new();
        for (id, device) in std::mem::take(&mut self.state.ready) {
            ready.entry(device).or_default().push(id);
        }
        if self.state.standing.is_restored() {
            return Ok(());
        }
        ready.into_iter().try_for_each(|(device, conversations)| self.transmit_to(device, conversations))
    }

    /// Sends to one device, an entry of each conversation in turn.
    fn transmit_to(&mut self, device: DeviceId, conversations: Vec<ConversationId>) -> Result<()> {
        let mut window = Window::new(&self.state.config.delivery);
        for id in self.state.shared_with(&device) {
            self.state.conversations.get(&id).into_iter().for_each(|c| window.add(c.outbox.in_flight(&device)));
        }
        let mut nothing: BTreeMap<ConversationId, Nothing> = BTreeMap::new();
        // What had no room before may have it now.
        let mut left = self.state.without_room.remove(&device).unwrap_or_default();
        left.extend(conversations);
        let mut left: Vec<ConversationId> = left.into_iter().collect();
        self.state.touched.extend(left.iter().map(|id| TimerKey::Outbox(*id)));
        while !left.is_empty() {
            let mut more = Vec::new();
            for id in left {
                let Some(conversation) = self.state.conversations.get_mut(&id) else { continue };
                match conversation.outbox.transmit(&device, self.now, &mut window) {
                    Some(Transmit::Entry(position)) => self.send_entry(id, device, position)?,
                    Some(Transmit::Withdrawal(position)) => {
                        nothing.entry(id).or_default().withdrawn.insert(position, position);
                    }
                    Some(Transmit::NotForYou(position)) => {
                        nothing.entry(id).or_default().not_for_it.insert(position, position);
                    }
                    None => {
                        if window.is_full() {
                            self.state.without_room.entry(device).or_default().insert(id);
                        }
                        continue;
                    }
                }
                more.push(id);
            }
            left = more;
        }
        for (id, Nothing { withdrawn, not_for_it }) in nothing {
            if !withdrawn.is_empty() {
                self.withdraw(id, device, withdrawn);
            }
            if !not_for_it.is_empty() {
                self.not_for(id, device, not_for_it);
            }
        }
        Ok(())
    }

    fn send_entry(&mut self, id: ConversationId, device: DeviceId, position: Position) -> Result<()> {
        let missing = |error: Error| if error.kind() == ErrorKind::Damaged { Ok(None) } else { Err(error) };
        match self.frame(id, position).or_else(missing)? {
            Some(mut frame) => {
                let class = self.state.conversations.get(&id).and_then(|c| c.outbox.class(position));
                if class == Some(EntryClass::Handshake) {
                    frame = only_for(frame, &device);
                }
                self.note_left(id, position)?;
                debug!(conversation = %id, position, %device, "goes out");
                self.effects.chat(device, frame);
            }
            None => self.on_lost(id, position),
        }
        Ok(())
    }

    /// The frame of an entry, the same bytes every time.
    fn frame(&self, id: ConversationId, position: Position) -> Result<Option<Bytes>> {
        let Some(conversation) = self.state.conversations.get(&id) else { return Ok(None) };
        if let Some(recent) = self.state.recent.get(id, position) {
            return Ok(Some(recent));
        }
        let Some(kept) = self.txn.record::<SealedEntry>(OUT_SEALED, &own_key(&id, position))? else { return Ok(None) };
        if kept.recipe.is_empty() {
            return Ok(Some(Frame::wrap_envelope(&kept.envelope)));
        }
        let history = conversation.entries.get(&position).map_or(0, |entry| entry.history);
        let Some(row) = self.txn.record::<History>(HISTORY, &history_key(history))? else { return Ok(None) };
        let Ok(mut envelope) = Envelope::decode(kept.envelope) else { return Ok(None) };
        let Some(crypto) = self.state.cryptos.iter().find(|c| c.suite() == envelope.header.suite) else {
            return Ok(None);
        };
        let Ok(payload) = crypto.rebuild(&kept.recipe, &row.bundle) else { return Ok(None) };
        envelope.payload = payload;
        Ok(Some(Frame::Envelope(envelope).encode()))
    }

    /// Tells a device that positions will never come.
    pub(super) fn withdraw(&mut self, conversation: ConversationId, device: DeviceId, positions: RangeSet) {
        let Some(positions) = self.state.conversations.get(&conversation).map(|c| c.outbox.bind(&positions)) else {
            return;
        };
        let log = LogId { device: self.state.own.device, conversation };
        let withdrawal = self.state.own.state(Withdrawal { log, positions });
        self.effects.control(device, &Frame::Withdrawal(withdrawal));
    }

    /// Tells a device that positions hold nothing for it.
    pub(super) fn not_for(&mut self, conversation: ConversationId, to: DeviceId, positions: RangeSet) {
        let Some(positions) = self.state.conversations.get(&conversation).map(|c| c.outbox.bind(&positions)) else {
            return;
        };
        let log = LogId { device: self.state.own.device, conversation };
        let statement = self.state.own.state(NotForYou { log, to, positions });
        self.effects.control(to, &Frame::NotForYou(statement));
    }
}

/// The frame of an entry without the part that isn't for a device: only handshakes that let devices in have two.
fn only_for(frame: Bytes, device: &DeviceId) -> Bytes {
    match Frame::unwrap_envelope(&frame).map(Envelope::decode) {
        Some(Ok(decoded)) if !decoded.welcome.is_empty() => Frame::Envelope(decoded.only_for(device)).encode(),
        _ => frame,
    }
}

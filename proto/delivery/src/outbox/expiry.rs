//! The end of entries whose time is over.

use peerloom_wire::{DeviceId, EntryClass, EntryId, Position};

use super::{Effect, Entry, Expired, Outbox};
use crate::Now;

impl Outbox {
    pub(super) fn expire(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((_, position)) = self.expiries.first().copied().filter(|(at, _)| now.is_past(*at)) {
            self.expire_entry(position, effects);
        }
    }

    fn expire_entry(&mut self, position: Position, effects: &mut Vec<Effect>) {
        let Some(entry) = self.entries.get_mut(&position) else {
            return;
        };
        self.expiries.remove(&(entry.expires_at_ms, position));
        entry.withdrawn = true;
        self.bytes -= std::mem::take(&mut entry.size);
        self.messages -= std::mem::take(&mut entry.messages);
        let (delivered, left) = (entry.delivered, entry.left);
        // Where those that lack it have refused it, no device has to hear of it any more.
        let settled = self.is_settled(position);
        if settled {
            self.forget(position);
        }
        effects.push(Effect::Expired(Expired { position, delivered, left, settled }));
        for (device, cursor) in self.cursors.iter_mut().filter(|(_, c)| !c.has(position)) {
            cursor.next = cursor.next.min(position);
            effects.push(Effect::Ready(*device));
        }
    }

    /// A device refuses to show an entry, which had expired by its clock: it holds nothing for that device. Once every
    /// device refuses it, the entry is withdrawn; the clock of one says nothing to the others.
    pub fn on_refused_as_expired(&mut self, device: &DeviceId, position: Position, id: EntryId) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(cursor) = self.cursors.get_mut(device) else { return effects };
        let lacks = position >= cursor.stored.base && !cursor.has(position);
        let open = |e: &&mut Entry| e.id == Some(id) && e.expires_at_ms > 0 && e.class == EntryClass::Application;
        let entry = self.entries.get_mut(&position).filter(open);
        let Some(entry) = entry.filter(|e| lacks && !e.withdrawn && e.is_for(device)) else { return effects };
        entry.refused.insert(*device);
        if entry.recipients.iter().all(|recipient| entry.refused.contains(recipient)) {
            self.expire_entry(position, &mut effects);
            if let Some(Effect::Expired(expired)) = effects.first_mut() {
                // None of those who can have it shows it.
                expired.left = false;
            }
        } else {
            cursor.next = cursor.next.min(position);
            effects.push(Effect::Ready(*device));
        }
        effects
    }
}

impl Entry {
    pub(super) fn has_expired(&self, now: Now) -> bool {
        self.class == EntryClass::Application && now.is_past(self.expires_at_ms)
    }
}

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
        effects.push(Effect::Expired(Expired { position, delivered: entry.delivered, left: entry.left }));
        for (device, cursor) in self.cursors.iter_mut().filter(|(_, c)| !c.has(position)) {
            cursor.next = cursor.next.min(position);
            effects.push(Effect::Ready(*device));
        }
    }

    /// A device refuses to show an entry, which had expired by its clock: the entry is withdrawn.
    pub fn on_refused_as_expired(&mut self, device: &DeviceId, position: Position, id: EntryId) -> Vec<Effect> {
        let mut effects = Vec::new();
        let lacks = self.cursors.get(device).is_some_and(|c| position >= c.stored.base && !c.has(position));
        let open = |e: &&Entry| e.id == Some(id) && e.expires_at_ms > 0 && e.class == EntryClass::Application;
        if lacks && self.entries.get(&position).filter(open).is_some_and(|e| !e.withdrawn) {
            self.expire_entry(position, &mut effects);
            let alone = self.entries.get(&position).is_some_and(|e| e.recipients.len() == 1);
            if let Some(Effect::Expired(expired)) = effects.first_mut() {
                // The only one who can have it doesn't show it.
                expired.left &= !alone;
            }
        }
        effects
    }
}

impl Entry {
    pub(super) fn has_expired(&self, now: Now) -> bool {
        self.class == EntryClass::Application && now.is_past(self.expires_at_ms)
    }
}

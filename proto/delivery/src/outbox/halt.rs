//! The end of the attempts for a device that opens nothing, or stays away while others need its room.

use std::time::Duration;

use peerloom_wire::{Allowance, DeviceId, EntryClass, EntryId, Position, limits};

use super::{CannotOpenOutcome, Cursor, Entry, Halt, Outbox};
use crate::Now;

/// Room is looked for at most this often.
const ROOM_WAIT: Duration = Duration::from_secs(1);

impl Outbox {
    /// A device says it can't open an entry. The signature has been checked.
    pub fn on_cannot_open(
        &mut self,
        device: &DeviceId,
        position: Position,
        id: EntryId,
        now: Now,
    ) -> CannotOpenOutcome {
        if self.id_at(position) != Some(id) {
            return CannotOpenOutcome::Nothing;
        }
        let config = &self.config;
        match self.cursors.get_mut(device) {
            Some(cursor) if !cursor.has(position) && position >= cursor.stored.base && !cursor.stored.halted => {
                cursor.dirty = true;
                if cursor.stored.rejoins < config.max_rejoins && cursor.rejoins.spend(now.mono, config.rejoin_every) {
                    cursor.stored.rejoins += 1;
                    CannotOpenOutcome::AddAgain
                } else {
                    cursor.stored.rejoins = cursor.stored.rejoins.max(1);
                    cursor.stop();
                    CannotOpenOutcome::Halted
                }
            }
            _ => CannotOpenOutcome::Nothing,
        }
    }

    /// The devices that have not settled an entry.
    pub fn lacking(&self, position: Position) -> Vec<DeviceId> {
        let recipients = self.entries.get(&position).map(|entry| entry.recipients.as_slice()).unwrap_or_default();
        recipients.iter().filter(|device| !self.is_settled_for(device, position)).copied().collect()
    }

    /// An entry's bytes are lost: devices that lack it hear that it holds nothing for them, and are owed what it
    /// carries. Returns those that have to be added again, since it was a handshake.
    pub fn on_lost(&mut self, position: Position) -> Vec<DeviceId> {
        let lacking = self.lacking(position);
        let Some(entry) = self.entries.get_mut(&position) else { return Vec::new() };
        entry.lost = true;
        let carries = entry.class == EntryClass::Application && entry.messages > 0 && !entry.withdrawn;
        for device in &lacking {
            if let Some(cursor) = self.cursors.get_mut(device) {
                cursor.next = cursor.next.min(position);
                if carries {
                    cursor.stored.owed.insert(position, position);
                    cursor.stored.owed.fill_lowest(limits::RANGES);
                    cursor.dirty = true;
                }
            }
        }
        if entry.class == EntryClass::Handshake { lacking } else { Vec::new() }
    }

    /// Why nothing is sent to a device before it was added again.
    pub fn halt(&self, device: &DeviceId) -> Option<Halt> {
        self.cursors.get(device)?.halt()
    }

    /// The devices that are halted, or haven't joined yet.
    pub fn halted(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.cursors.iter().filter(|(_, c)| c.stored.halted).map(|(device, _)| *device)
    }

    /// Whether nothing is sent to a device before it was added again.
    pub fn is_halted(&self, device: &DeviceId) -> bool {
        self.halt(device).is_some()
    }

    /// A halted device appeared, or has news: `true` if it may be added again now. `asked`: the user
    /// wants it, whatever was spent.
    pub fn resume(&mut self, device: &DeviceId, asked: bool, now: Now) -> bool {
        let config = &self.config;
        let Some(cursor) = self.cursors.get_mut(device).filter(|c| c.stored.halted && c.has_joined()) else {
            return false;
        };
        if asked {
            cursor.rejoins = Allowance::full(config.rejoins_at_once);
        }
        let may = cursor.rejoins.spend(now.mono, config.rejoin_every);
        if may {
            cursor.stored.rejoins = 0;
            cursor.dirty = true;
        }
        may
    }

    /// The log has no room for more: devices without a link whose entries have reached their users
    /// elsewhere, or have expired, don't keep them any longer, but for a window's worth. They are
    /// halted. Returns the positions that nobody needs any more.
    pub fn make_room(&mut self, now: Now) -> Vec<Position> {
        if self.looked_for_room.is_some_and(|at| now.mono < at + ROOM_WAIT) {
            return Vec::new();
        }
        self.looked_for_room = Some(now.mono);
        let away: Vec<DeviceId> = self.cursors.keys().filter(|device| !self.up.contains(device)).copied().collect();
        for device in away {
            let waiting = self.waiting(&device);
            let (kept, freed): (Vec<_>, Vec<_>) = waiting.partition(|(_, entry)| entry.is_needed());
            if freed.is_empty() || kept.len() > self.config.window_entries {
                continue;
            }
            if let Some(cursor) = self.cursors.get_mut(&device) {
                cursor.stop();
            }
        }
        let given_up = |device: &DeviceId, position: Position, entry: &Entry| {
            self.is_settled_for(device, position) || !entry.is_needed() && self.is_halted(device)
        };
        let freed: Vec<Position> = self
            .entries
            .iter()
            .filter(|(p, entry)| self.cursors.keys().all(|device| given_up(device, **p, entry)))
            .map(|(p, _)| *p)
            .collect();
        freed.iter().for_each(|position| self.forget(*position));
        freed
    }

    /// The oldest entry that waits for a device which isn't halted; `None` if nothing does.
    pub fn oldest_waiting(&self) -> Option<(Position, DeviceId)> {
        let oldest = |device: &DeviceId| {
            let (position, _) = self.waiting(device).find(|(_, entry)| entry.is_needed())?;
            Some((position, *device))
        };
        self.cursors.keys().filter_map(oldest).min()
    }
}

impl Entry {
    /// Whether a user would miss it: it isn't anywhere with each of them, hasn't expired, and no other entry carries
    /// its messages.
    pub(super) fn is_needed(&self) -> bool {
        self.class == EntryClass::Application && !self.delivered && !self.withdrawn && self.messages > 0
    }
}

impl Cursor {
    pub(super) fn halt(&self) -> Option<Halt> {
        let why = match self.stored.rejoins {
            _ if !self.has_joined() => Halt::NotJoined,
            0 => Halt::Away,
            _ => Halt::CannotOpen,
        };
        self.stored.halted.then_some(why)
    }

    fn stop(&mut self) {
        self.stored.halted = true;
        self.stalled = true;
        self.deadline = None;
        self.dirty = true;
    }
}

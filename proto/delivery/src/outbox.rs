//! One of our own logs: which entries are out, and how far each device has them.

mod attempts;
mod expiry;
mod halt;
mod joins;
mod receipts;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use peerloom_wire::store::{OutCursor, OutEntry};
use peerloom_wire::{Allowance, DeviceId, EntryClass, EntryId, Position, RangeSet, SignedHeader};

use crate::{Config, Now, Window};

pub use values::{AckOutcome, CannotOpenOutcome, DeviceStatus, Effect, Expired, Halt, NewEntry, Transmit};

/// The log of one conversation that this device writes.
///
/// Entries get consecutive positions and are never changed. For each device there is a cursor: a
/// base where its view begins, the position through which it has settled everything, and the
/// settled ranges beyond. An entry is forgotten once every device whose view has begun has settled
/// everything up to it. (A device that it isn't for settles it by a withdrawal.) What a device lacks that is
/// added again is *owed* to it: kept until it is sealed again, at [`Outbox::on_sealed_again`]. So is what was sealed
/// before a device was let in for the first time, from [`Outbox::await_device`] on.
///
/// A device is *halted* when it can't open what it gets although it was added again and again, or when
/// it stays away and [`Outbox::make_room`] gives its entries' room to others. Nothing is sent to it
/// until [`Outbox::resume`] allows to add it again.
///
/// Call order: a device counts as linked from [`Outbox::on_held`], which is where it shows what it
/// holds of the log, to [`Outbox::on_link_down`]. Nothing is transmitted to it before.
#[derive(Debug)]
pub struct Outbox {
    config: Config,
    head: Position,
    /// The id of the entry at `head`.
    head_id: Option<EntryId>,
    /// Rows of it are damaged.
    incomplete: bool,
    entries: BTreeMap<Position, Entry>,
    /// Unsettled application entries by expiry.
    expiries: BTreeSet<(u64, Position)>,
    cursors: BTreeMap<DeviceId, Cursor>,
    /// Devices with a link, whether they have joined or not.
    up: BTreeSet<DeviceId>,
    bytes: usize,
    messages: usize,
    /// When room was last looked for.
    looked_for_room: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    class: EntryClass,
    size: usize,
    messages: usize,
    expires_at_ms: u64,
    recipients: Vec<DeviceId>,
    id: Option<EntryId>,
    delivered: bool,
    /// It was put on a link.
    left: bool,
    /// It expired: devices that lack it get a withdrawal instead.
    withdrawn: bool,
    /// Its bytes are lost: it holds nothing for anybody any more.
    lost: bool,
    /// Devices that won't show it, by their clocks: it holds nothing for them.
    refused: BTreeSet<DeviceId>,
}

#[derive(Debug)]
struct Cursor {
    stored: OutCursor,
    /// Whether the stored part has changed since it was last written.
    dirty: bool,
    /// The next position to transmit, unless it is settled.
    next: Position,
    deadline: Option<Duration>,
    attempts: u32,
    stalled: bool,
    /// When it last asked for positions again.
    gap_asked: Option<Duration>,
    /// Links that were replaced since it last acknowledged anything new.
    resets: u32,
    /// How often it may still be added again.
    rejoins: Allowance,
}

/// Most positions of one gap request that are looked up.
const MAX_ASKED: usize = 4096;

impl Outbox {
    /// An empty log.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            head: 0,
            head_id: None,
            incomplete: false,
            entries: BTreeMap::new(),
            expiries: BTreeSet::new(),
            cursors: BTreeMap::new(),
            up: BTreeSet::new(),
            bytes: 0,
            messages: 0,
            looked_for_room: None,
        }
    }

    /// The log as it was stored. The last entry is always stored, whether settled or not.
    pub fn restore(
        config: Config,
        entries: impl IntoIterator<Item = (Position, OutEntry)>,
        cursors: impl IntoIterator<Item = (DeviceId, OutCursor)>,
        now: Now,
    ) -> Self {
        let mut outbox = Self::new(config);
        for (device, stored) in cursors {
            outbox.head = outbox.head.max(values::last_settled(&stored));
            // Whoever waits gets a first attempt at once.
            let halted = stored.halted;
            let cursor = Cursor {
                dirty: false,
                deadline: (!halted).then_some(now.mono),
                stalled: halted,
                ..Cursor::new(stored, &outbox.config)
            };
            outbox.cursors.insert(device, cursor);
        }
        for (position, entry) in entries {
            if position >= outbox.head {
                (outbox.head, outbox.head_id) = (position, entry.id.known());
            }
            let kept = !entry.expired;
            outbox.track(
                position,
                Entry {
                    class: entry.class,
                    size: if kept { entry.size as usize } else { 0 },
                    messages: if kept { entry.messages.len() } else { 0 },
                    expires_at_ms: entry.expires_at_ms,
                    recipients: entry.recipients,
                    id: entry.id.known(),
                    delivered: entry.delivered,
                    left: entry.left,
                    withdrawn: entry.expired,
                    lost: false,
                    refused: BTreeSet::new(),
                },
            );
        }
        let positions: Vec<Position> = outbox.entries.keys().copied().collect();
        for position in positions {
            let delivered = outbox.is_delivered(position);
            if let Some(entry) = outbox.entries.get_mut(&position) {
                entry.delivered |= delivered;
            }
            if outbox.is_settled(position) {
                outbox.forget(position);
            }
        }
        outbox
    }

    fn track(&mut self, position: Position, entry: Entry) {
        self.bytes += entry.size;
        self.messages += entry.messages;
        if entry.expires_at_ms > 0 && entry.class == EntryClass::Application && !entry.withdrawn {
            self.expiries.insert((entry.expires_at_ms, position));
        }
        self.entries.insert(position, entry);
    }

    fn forget(&mut self, position: Position) {
        if let Some(entry) = self.entries.remove(&position) {
            self.bytes -= entry.size;
            self.messages -= entry.messages;
            self.expiries.remove(&(entry.expires_at_ms, position));
        }
    }

    /// The last position in use; 0 = none.
    pub fn head(&self) -> Position {
        self.head
    }

    /// The id of the entry at [`Outbox::head`]: the predecessor of the next.
    pub fn head_id(&self) -> Option<EntryId> {
        self.head_id
    }

    /// The predecessor of the next entry. Where the store has lost it, an id that is nobody's.
    pub fn previous(&self) -> Option<EntryId> {
        self.head_id.or((self.head > 0).then_some(EntryId::UNKNOWN))
    }

    /// Whether the id of the entry at [`Outbox::head`] is known: it may be lost with a damaged row, until
    /// a device shows it.
    pub fn knows_head(&self) -> bool {
        self.head == 0 || self.head_id.is_some()
    }

    /// Rows of the log are damaged: what a device shows beyond them is not another copy's.
    pub fn mark_incomplete(&mut self) {
        self.incomplete = true;
    }

    /// The id of an entry, as far as it is still known: of all that any device has yet to settle.
    fn id_at(&self, position: Position) -> Option<EntryId> {
        let head = self.head_id.filter(|_| position == self.head);
        head.or_else(|| self.entries.get(&position).and_then(|entry| entry.id))
    }

    /// Bytes of all entries that a device still needs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages in all entries that a device still needs.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Entries that a device still needs, or needs to hear the end of.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// What the entry at a position is for, if it is still needed.
    pub fn class(&self, position: Position) -> Option<EntryClass> {
        self.entries.get(&position).map(|entry| entry.class)
    }

    /// Whether somebody still needs the entry at a position.
    pub fn holds(&self, position: Position) -> bool {
        self.entries.contains_key(&position)
    }

    /// Whether a device's view of the log has begun.
    pub fn has_joined(&self, device: &DeviceId) -> bool {
        self.cursors.get(device).is_some_and(Cursor::has_joined)
    }

    /// Whether a device is linked and has shown what it holds.
    pub fn is_up(&self, device: &DeviceId) -> bool {
        self.up.contains(device)
    }

    /// Appends an entry; the next position is `head() + 1`. Its id and size are set once it is sealed,
    /// by [`Outbox::set_sealed`].
    pub fn append(&mut self, new: NewEntry<'_>) -> Position {
        self.head += 1;
        self.head_id = None;
        let position = self.head;
        new.joins.iter().for_each(|(device, user)| self.join(*device, *user, position));
        self.track(
            position,
            Entry {
                class: new.class,
                size: 0,
                messages: new.messages,
                expires_at_ms: new.expires_at_ms,
                recipients: new.recipients.to_vec(),
                id: None,
                delivered: false,
                left: false,
                withdrawn: false,
                lost: false,
                refused: BTreeSet::new(),
            },
        );
        position
    }

    /// Sets what is known of an entry once it is sealed: its id, and its size in bytes.
    pub fn set_sealed(&mut self, position: Position, id: EntryId, size: usize) {
        if position == self.head {
            self.head_id = Some(id);
        }
        if let Some(entry) = self.entries.get_mut(&position) {
            self.bytes = self.bytes - entry.size + size;
            entry.size = size;
            entry.id = Some(id);
        }
    }

    /// What to send to a device next; `None` when it has everything, the window of its link is full, or no link
    /// is up. Each call moves on.
    pub fn transmit(&mut self, device: &DeviceId, now: Now, window: &mut Window) -> Option<Transmit> {
        let cursor = self.cursors.get_mut(device).filter(|c| self.up.contains(device) && !c.stored.halted)?;
        let wanted = |(position, _): &(&Position, &mut Entry)| !cursor.stored.beyond.contains(**position);
        let (position, entry) = self.entries.range_mut(cursor.next.max(cursor.unsettled())..).find(wanted)?;
        let gone = entry.withdrawn || !entry.is_for(device);
        if !gone && entry.has_expired(now) {
            // Not sent any more; the timer that is due says so.
            return None;
        }
        if !window.take(entry.size) {
            return None;
        }
        cursor.next = position + 1;
        cursor.deadline.get_or_insert(now.mono + cursor.patience(&self.config));
        if gone {
            let withdrawn = entry.withdrawn;
            return Some(if withdrawn { Transmit::Withdrawal(*position) } else { Transmit::NotForYou(*position) });
        }
        entry.left = true;
        Some(Transmit::Entry(*position))
    }

    /// Bytes and entries sent to a device and not acknowledged.
    pub fn in_flight(&self, device: &DeviceId) -> (usize, usize) {
        let Some(cursor) = self.cursors.get(device) else { return (0, 0) };
        let from = cursor.unsettled();
        let sent = if cursor.next > from { Some(self.entries.range(from..cursor.next)) } else { None };
        let unsettled = sent.into_iter().flatten().filter(|(p, _)| !cursor.stored.beyond.contains(**p));
        unsettled.fold((0, 0), |(bytes, n), (_, entry)| (bytes + entry.size, n + 1))
    }

    /// A device asks for positions again: transmission goes back to the lowest of them, but not more
    /// often than once in the gap wait. Returns positions that are no more: they hold nothing for the device.
    pub fn on_gap_request(&mut self, device: &DeviceId, positions: &RangeSet, now: Now) -> RangeSet {
        let Some(cursor) = self.cursors.get_mut(device) else {
            return RangeSet::default();
        };
        let early = cursor.gap_asked.is_some_and(|at| now.mono < at + self.config.gap_wait / 2);
        let Some(first) = positions.iter().next().map(|r| r.first).filter(|_| !early) else {
            return RangeSet::default();
        };
        cursor.gap_asked = Some(now.mono);
        cursor.next = cursor.next.min(first);
        let asked = positions.iter().flat_map(|r| r.first..=r.last.min(self.head));
        asked.take(MAX_ASKED).filter(|p| !self.entries.contains_key(p)).collect()
    }

    /// A device on a link shows the newest header of this log that it holds; its signature has been
    /// checked with our own key. The first time on a link, everything that the device lacks is sent again
    /// from the beginning. `false`: this log has no such entry, so this store is older than what the device
    /// has, or another copy of it runs. Then nothing may be sent any more.
    pub fn on_held(&mut self, device: &DeviceId, held: Option<&SignedHeader>) -> bool {
        let other = |h: &SignedHeader| h.position > self.head || self.id_at(h.position).is_some_and(|id| id != h.id());
        if self.incomplete
            && let Some(held) = held.filter(|h| h.position >= self.head)
        {
            (self.head, self.head_id) = (held.position, Some(held.id()));
        } else if held.is_some_and(other) {
            return false;
        }
        let shown = held.filter(|h| h.position == self.head).map(SignedHeader::id);
        self.head_id = self.head_id.or(shown);
        self.head_id = self.previous();
        let first = self.up.insert(*device);
        if let Some(cursor) = self.cursors.get_mut(device).filter(|_| first) {
            cursor.next = cursor.unsettled();
            cursor.deadline = None;
            cursor.attempts = 0;
            cursor.stalled = cursor.stored.halted;
        }
        true
    }

    /// Another link to a device took over: what was on its way may be lost. Unless the device has `shown` what it
    /// holds on a link that is left, it counts as linked only once it does.
    pub fn on_link_replaced(&mut self, device: &DeviceId, shown: bool) {
        let was_up = if shown { self.up.contains(device) } else { self.up.remove(device) };
        if let Some(cursor) = self.cursors.get_mut(device).filter(|_| was_up) {
            cursor.next = cursor.unsettled();
            cursor.deadline = cursor.deadline.filter(|_| shown);
        }
    }

    /// The entries for a device that it lacks, those to be sealed again first.
    fn waiting(&self, device: &DeviceId) -> impl Iterator<Item = (Position, &Entry)> {
        let cursor = self.cursors.get(device);
        let from = cursor.map_or(Position::MAX, |c| c.stored.base.max(c.unsettled()));
        let first = cursor.and_then(|c| c.stored.owed.iter().next()).map_or(from, |owed| owed.first.min(from));
        let open = move |c: &Cursor, p| p >= from && !c.stored.beyond.contains(p);
        let lacks = move |p, entry: &Entry| cursor.is_some_and(|c| open(c, p) || c.is_owed(device, p, entry));
        let entries = self.entries.range(first..).map(|(p, e)| (*p, e));
        entries.filter(move |(p, e)| lacks(*p, e) && e.recipients.contains(device))
    }

    /// Cursors that changed since the last call, to be stored.
    pub fn take_dirty(&mut self) -> Vec<(DeviceId, OutCursor)> {
        let dirty =
            |(device, c): (&DeviceId, &mut Cursor)| std::mem::take(&mut c.dirty).then(|| (*device, c.stored.clone()));
        self.cursors.iter_mut().filter_map(dirty).collect()
    }

    /// How delivery to each device stands.
    pub fn status(&self, now: Now) -> Vec<DeviceStatus> {
        let status = |(device, c): (&DeviceId, &Cursor)| DeviceStatus {
            device: *device,
            link_up: self.up.contains(device),
            waiting: self.waiting(device).filter(|(_, e)| !e.withdrawn).map(|(p, _)| p).collect(),
            attempts: c.attempts,
            next_try: c.deadline.map(|d| d.saturating_sub(now.mono)),
            stalled: c.stalled,
            halted: c.halt(),
        };
        self.cursors.iter().map(status).collect()
    }
}

impl Entry {
    /// Whether the entry holds anything for a device.
    fn is_for(&self, device: &DeviceId) -> bool {
        !self.lost && !self.refused.contains(device) && self.recipients.contains(device)
    }
}

impl Cursor {
    /// Of a device whose view begins with what is stored.
    fn new(stored: OutCursor, config: &Config) -> Self {
        let next = stored.base;
        Self {
            stored,
            dirty: true,
            next,
            deadline: None,
            attempts: 0,
            stalled: false,
            gap_asked: None,
            resets: 0,
            rejoins: Allowance::full(config.rejoins_at_once),
        }
    }

    /// Whether the device's view of the log has begun.
    fn has_joined(&self) -> bool {
        self.stored.base > 0
    }

    /// The lowest position that isn't settled.
    fn unsettled(&self) -> Position {
        self.stored.through + 1
    }

    fn has(&self, position: Position) -> bool {
        position <= self.stored.through || self.stored.beyond.contains(position)
    }
}

#[cfg(test)]
mod tests;

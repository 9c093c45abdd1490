//! One of our own logs: which entries are out, and how far each device has them.

mod halt;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use peerloom_wire::store::{OutCursor, OutEntry};
use peerloom_wire::{Ack, DeviceId, EntryClass, Position, RangeSet, UserId};
use rand_core::Rng;

use crate::{Allowance, Config, Now};

pub use values::{AckOutcome, CannotOpenOutcome, DeviceStatus, Effect, Halt, NewEntry, Transmit};

/// The log of one conversation that this device writes.
///
/// Entries get consecutive positions and are never changed. For each device there is a cursor: a
/// base where its view begins, the position through which it has settled everything, and the
/// settled ranges beyond. An entry is forgotten once every device it is for has settled it.
///
/// A device is *halted* when it can't open what it gets although it was added again and again, or when
/// it stays away and [`Outbox::make_room`] gives its entries' room to others. Nothing is sent to it
/// until [`Outbox::resume`] allows to add it again.
#[derive(Debug)]
pub struct Outbox {
    config: Config,
    head: Position,
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
    delivered: bool,
    /// It expired: devices that lack it get a withdrawal instead.
    withdrawn: bool,
}

#[derive(Debug)]
struct Cursor {
    stored: OutCursor,
    /// Whether the stored part has changed since it was last written.
    dirty: bool,
    /// The next position to transmit.
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
/// How many times the wait for acknowledgements doubles, at most.
const DOUBLINGS: u32 = 7;

impl Outbox {
    /// An empty log.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            head: 0,
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
            let next = stored.through + 1;
            // Whoever waits gets a first attempt at once.
            let halted = stored.halted;
            let cursor = Cursor {
                dirty: false,
                next,
                deadline: (!halted).then_some(now.mono),
                stalled: halted,
                ..Cursor::new(stored, &outbox.config)
            };
            outbox.cursors.insert(device, cursor);
        }
        for (position, entry) in entries {
            outbox.head = outbox.head.max(position);
            outbox.track(
                position,
                Entry {
                    class: entry.class,
                    size: entry.size as usize,
                    messages: entry.messages.len(),
                    expires_at_ms: entry.expires_at_ms,
                    recipients: entry.recipients,
                    delivered: false,
                    withdrawn: false,
                },
            );
        }
        let positions: Vec<Position> = outbox.entries.keys().copied().collect();
        for position in positions {
            let delivered = outbox.is_delivered(position);
            if let Some(entry) = outbox.entries.get_mut(&position) {
                entry.delivered = delivered;
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
        if entry.expires_at_ms > 0 && entry.class == EntryClass::Application {
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

    /// Bytes of all entries that somebody still needs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages in all entries that somebody still needs.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Entries that somebody still needs, or needs to hear the end of.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Whether somebody still needs the entry at a position.
    pub fn holds(&self, position: Position) -> bool {
        self.entries.contains_key(&position)
    }

    /// Whether a device's view of the log has begun.
    pub fn has_joined(&self, device: &DeviceId) -> bool {
        self.cursors.contains_key(device)
    }

    /// Appends an entry; the next position is `head() + 1`. `size` is set once it is sealed, by
    /// [`Outbox::set_size`].
    pub fn append(&mut self, new: NewEntry<'_>) -> Position {
        self.head += 1;
        let position = self.head;
        for (device, user) in new.joins {
            let before = self.cursors.remove(device);
            let rejoins = before.as_ref().map_or(0, |c| c.stored.rejoins);
            let (base, through) = (position, position - 1);
            let stored = OutCursor { user: *user, base, through, beyond: RangeSet::default(), rejoins, halted: false };
            let new = Cursor::new(stored, &self.config);
            let cursor = match before {
                Some(before) => Cursor { stored: new.stored, dirty: true, next: position, gap_asked: None, ..before },
                None => new,
            };
            self.cursors.insert(*device, cursor);
        }
        self.track(
            position,
            Entry {
                class: new.class,
                size: 0,
                messages: new.messages,
                expires_at_ms: new.expires_at_ms,
                recipients: new.recipients.to_vec(),
                delivered: false,
                withdrawn: false,
            },
        );
        position
    }

    /// Says how long a sealed entry is, in bytes.
    pub fn set_size(&mut self, position: Position, size: usize) {
        if let Some(entry) = self.entries.get_mut(&position) {
            self.bytes = self.bytes - entry.size + size;
            entry.size = size;
        }
    }

    /// What to send to a device next; `None` when it has everything, its window is full, or no link
    /// is up. Each call moves on.
    pub fn transmit(&mut self, device: &DeviceId, now: Now) -> Option<Transmit> {
        let in_flight = self.in_flight(device)?;
        let cursor = self.cursors.get_mut(device).filter(|c| self.up.contains(device) && !c.stored.halted)?;
        let wanted = |(position, entry): &(&Position, &Entry)| {
            !cursor.stored.beyond.contains(**position) && entry.recipients.contains(device)
        };
        let (position, entry) = self.entries.range(cursor.next.max(cursor.stored.through + 1)..).find(wanted)?;
        let (bytes, entries) = in_flight;
        let full = bytes + entry.size > self.config.window_bytes || entries >= self.config.window_entries;
        if full && entries > 0 {
            return None;
        }
        cursor.next = position + 1;
        cursor.deadline.get_or_insert(now.mono + cursor.patience(&self.config));
        Some(if entry.withdrawn { Transmit::Withdrawal(*position) } else { Transmit::Entry(*position) })
    }

    /// Bytes and entries sent to a device and not acknowledged.
    fn in_flight(&self, device: &DeviceId) -> Option<(usize, usize)> {
        let cursor = self.cursors.get(device)?;
        let from = cursor.stored.through + 1;
        let sent = if cursor.next > from { Some(self.entries.range(from..cursor.next)) } else { None };
        let unsettled = sent.into_iter().flatten().filter(|(p, _)| !cursor.stored.beyond.contains(**p));
        Some(unsettled.fold((0, 0), |(bytes, n), (_, entry)| (bytes + entry.size, n + 1)))
    }

    /// A device acknowledged. The signature has been checked.
    pub fn on_ack(&mut self, device: &DeviceId, ack: &Ack, now: Now) -> AckOutcome {
        let head = self.head;
        let Some(cursor) = self.cursors.get_mut(device) else {
            return AckOutcome::default();
        };
        // Below its base the device never had anything; above our head nothing exists.
        let mut settled = RangeSet::default();
        let mut add = |first: Position, last: Position| {
            settled.insert(first.max(cursor.stored.base), last.min(head));
        };
        add(cursor.stored.through + 1, ack.through);
        ack.beyond.iter().for_each(|r| add(r.first.max(cursor.stored.through + 1), r.last));
        let news: Vec<Position> = settled
            .iter()
            .flat_map(|r| self.entries.range(r.first..=r.last).map(|(p, _)| *p))
            .filter(|p| !cursor.stored.beyond.contains(*p))
            .collect();
        if news.is_empty() {
            return AckOutcome::default();
        }
        if news.iter().any(|p| *p > cursor.stored.base) {
            // It opens what follows its joining: what went wrong before is over.
            cursor.stored.rejoins = 0;
        }
        settled.iter().for_each(|r| cursor.stored.beyond.insert(r.first, r.last));
        cursor.stored.through = cursor.stored.beyond.absorb(cursor.stored.through);
        cursor.next = cursor.next.max(cursor.stored.through + 1);
        cursor.dirty = true;
        cursor.attempts = 0;
        cursor.resets = 0;
        cursor.stalled = cursor.stored.halted;
        // Progress restarts the wait; with nothing left in flight there is none.
        let more = self.in_flight(device).is_some_and(|(_, n)| n > 0);
        if let Some(cursor) = self.cursors.get_mut(device) {
            cursor.deadline = more.then(|| now.mono + self.config.ack_timeout);
        }
        let mut outcome = AckOutcome::default();
        for position in news {
            if self.note_delivered(position) {
                outcome.delivered.push(position);
            }
            if self.is_settled(position) {
                self.forget(position);
                outcome.settled.push(position);
            }
        }
        outcome
    }

    fn note_delivered(&mut self, position: Position) -> bool {
        let delivered = self.is_delivered(position);
        match self.entries.get_mut(&position) {
            Some(entry) if delivered && !entry.delivered && !entry.withdrawn => {
                entry.delivered = true;
                entry.class == EntryClass::Application
            }
            _ => false,
        }
    }

    /// Whether one device of each recipient user has settled the entry.
    fn is_delivered(&self, position: Position) -> bool {
        let Some(entry) = self.entries.get(&position) else {
            return true;
        };
        let mut users = BTreeMap::<UserId, bool>::new();
        for device in &entry.recipients {
            if let Some(cursor) = self.cursors.get(device) {
                *users.entry(cursor.stored.user).or_default() |= cursor.has(position);
            }
        }
        !users.is_empty() && users.values().all(|reached| *reached)
    }

    /// Whether no device needs the entry any more.
    fn is_settled(&self, position: Position) -> bool {
        let Some(entry) = self.entries.get(&position) else {
            return true;
        };
        entry.recipients.iter().all(|device| self.is_settled_for(device, position))
    }

    fn is_settled_for(&self, device: &DeviceId, position: Position) -> bool {
        self.cursors.get(device).is_none_or(|c| position < c.stored.base || c.has(position))
    }

    /// Application entries that a device has not settled and that have not expired.
    pub fn unsettled(&self, device: &DeviceId) -> Vec<Position> {
        let Some(cursor) = self.cursors.get(device) else {
            return Vec::new();
        };
        let waiting = |(position, entry): (&Position, &Entry)| {
            let open = !entry.withdrawn && entry.recipients.contains(device) && !cursor.has(*position);
            (open && entry.class == EntryClass::Application).then_some(*position)
        };
        self.entries.range(cursor.stored.base..).filter_map(waiting).collect()
    }

    /// Entries that became settled because devices joined anew; call after [`Outbox::append`] with
    /// joins.
    pub fn settle_before_joins(&mut self) -> Vec<Position> {
        let settled: Vec<Position> =
            self.entries.keys().copied().filter(|p| *p < self.head && self.is_settled(*p)).collect();
        settled.iter().for_each(|p| self.forget(*p));
        settled
    }

    /// A device asks for positions again: transmission goes back to the lowest of them, but not more
    /// often than once in the gap wait. Returns positions that are no more, to be withdrawn.
    pub fn on_gap_request(&mut self, device: &DeviceId, positions: &RangeSet, now: Now) -> RangeSet {
        let Some(cursor) = self.cursors.get_mut(device) else {
            return RangeSet::default();
        };
        let early = cursor.gap_asked.is_some_and(|at| now.mono < at + self.config.gap_wait / 2);
        let Some(first) = positions.iter().next().map(|r| r.first).filter(|_| !early) else {
            return RangeSet::default();
        };
        cursor.gap_asked = Some(now.mono);
        cursor.next = cursor.next.min(first.max(cursor.stored.through + 1));
        let asked = positions.iter().flat_map(|r| r.first..=r.last.min(self.head));
        asked.take(MAX_ASKED).filter(|p| !self.entries.contains_key(p)).collect()
    }

    /// A link to a device came up: everything it lacks is sent again from the beginning.
    pub fn on_link_up(&mut self, device: &DeviceId) {
        self.up.insert(*device);
        if let Some(cursor) = self.cursors.get_mut(device) {
            cursor.next = cursor.stored.through + 1;
            cursor.deadline = None;
            cursor.attempts = 0;
            cursor.stalled = cursor.stored.halted;
        }
    }

    /// The last link to a device went down.
    pub fn on_link_down(&mut self, device: &DeviceId, now: Now, rng: &mut dyn Rng) {
        let first = self.config.retry_delays.first().copied().unwrap_or(Duration::from_secs(1));
        let wait = self.config.jittered(first, rng);
        self.up.remove(device);
        if let Some(cursor) = self.cursors.get_mut(device).filter(|c| !c.stored.halted) {
            cursor.attempts = 0;
            cursor.deadline = Some(now.mono + wait);
        }
    }

    /// Entries were appended: devices without a link get a first attempt at once.
    pub fn wake(&mut self, now: Now) {
        for (device, cursor) in &mut self.cursors {
            if !self.up.contains(device) && !cursor.stalled {
                cursor.deadline.get_or_insert(now.mono);
            }
        }
    }

    /// The user asks to try stalled devices again. Halted ones take [`Outbox::resume`].
    pub fn retry(&mut self, now: Now) -> usize {
        let stalled = self.cursors.values_mut().filter(|c| c.stalled && !c.stored.halted);
        stalled
            .map(|cursor| {
                cursor.stalled = false;
                cursor.attempts = 0;
                cursor.deadline = Some(now.mono);
            })
            .count()
    }

    /// What is due at `now`.
    pub fn on_timer(&mut self, now: Now, rng: &mut dyn Rng) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.expire(now, &mut effects);
        let due: Vec<DeviceId> = self
            .cursors
            .iter()
            .filter(|(_, c)| c.deadline.is_some_and(|d| d <= now.mono))
            .map(|(device, _)| *device)
            .collect();
        for device in due {
            let waiting = self.waits_for(&device);
            let config = &self.config;
            let Some(cursor) = self.cursors.get_mut(&device) else {
                continue;
            };
            cursor.deadline = None;
            if !waiting {
                continue;
            }
            cursor.attempts += 1;
            let spent = cursor.attempts as usize > config.retry_delays.len();
            if self.up.contains(&device) {
                // The next transmission sets the next deadline.
                cursor.next = cursor.stored.through + 1;
                if spent {
                    cursor.attempts = 0;
                    cursor.resets = cursor.resets.saturating_add(1);
                }
                effects.push(if spent { Effect::ResetLink(device) } else { Effect::Ready(device) });
                continue;
            }
            effects.push(Effect::Connect(device));
            match config.retry_delays.get(cursor.attempts as usize - 1) {
                Some(wait) => cursor.deadline = Some(now.mono + config.jittered(*wait, rng)),
                None => {
                    cursor.stalled = true;
                    effects.push(Effect::Stalled(device));
                }
            }
        }
        effects
    }

    fn expire(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((at, position)) = self.expiries.first().copied().filter(|(at, _)| *at <= now.wall_ms) {
            self.expiries.remove(&(at, position));
            let Some(entry) = self.entries.get_mut(&position) else {
                continue;
            };
            entry.withdrawn = true;
            self.bytes -= std::mem::take(&mut entry.size);
            self.messages -= std::mem::take(&mut entry.messages);
            effects.push(Effect::Expired { position, delivered: entry.delivered });
            let recipients = entry.recipients.clone();
            for device in recipients {
                if let Some(cursor) = self.cursors.get_mut(&device).filter(|c| !c.has(position)) {
                    cursor.next = cursor.next.min(position);
                    effects.push(Effect::Ready(device));
                }
            }
        }
    }

    /// What a device lacks.
    fn waiting(&self, device: &DeviceId) -> impl Iterator<Item = (Position, &Entry)> {
        let cursor = self.cursors.get(device);
        let from = cursor.map_or(Position::MAX, |c| c.stored.base.max(c.stored.through + 1));
        let lacks = move |p: Position| cursor.is_some_and(|c| !c.stored.beyond.contains(p));
        self.entries
            .range(from..)
            .map(|(p, e)| (*p, e))
            .filter(move |(p, e)| lacks(*p) && e.recipients.contains(device))
    }

    /// Whether a device lacks anything that it can be sent.
    fn waits_for(&self, device: &DeviceId) -> bool {
        !self.is_halted(device) && self.waiting(device).next().is_some()
    }

    /// When [`Outbox::on_timer`] has something to do next.
    pub fn next_deadline(&self, now: Now) -> Option<Duration> {
        let retry = self.cursors.values().filter_map(|c| c.deadline).min();
        let expiry =
            self.expiries.first().map(|(at, _)| now.mono + Duration::from_millis(at.saturating_sub(now.wall_ms)));
        [retry, expiry].into_iter().flatten().min()
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

    /// How long to wait for an acknowledgement: twice as long after each link that brought none.
    fn patience(&self, config: &Config) -> Duration {
        config.ack_timeout.saturating_mul(1 << self.resets.min(DOUBLINGS))
    }

    fn has(&self, position: Position) -> bool {
        position <= self.stored.through || self.stored.beyond.contains(position)
    }
}

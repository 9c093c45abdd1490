//! One node of the simulation: its machines, its store, and what its user was told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use peerloom_delivery::{Arrival, Config, Effect, Expired, GapAction, Inbox, NewEntry, Now, Outbox, Transmit, Window};
use peerloom_wire::store::{InLog, OutCursor, OutEntry};
use peerloom_wire::{
    Ack, Chain, ConversationId, DeviceId, EntryClass, EntryId, Header, LogId, MessageId, Position, RangeSet, RosterId,
    SignedHeader, SuiteId, UserId,
};
use rand::RngExt;
use rand::rngs::StdRng;

/// An entry: its header, and what it says. The header differs when an entry is sealed a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) header: SignedHeader,
    pub(crate) message: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Entry(Entry),
    Ack(Ack),
    Withdrawal(Chain),
    Gap(RangeSet),
    /// Not shown, since it had expired when it came.
    Refused(Position, EntryId),
    /// What the sender holds of the receiver's log, and how far it has settled it.
    Held(Option<SignedHeader>, Option<Ack>),
}

/// What users were shown and told, whatever became of the stores since.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Messages shown, by receiver and sender.
    pub(crate) shown: Vec<(usize, usize, u64)>,
    pub(crate) delivered: BTreeSet<u64>,
    /// Messages that failed, and whether they were said to have left.
    pub(crate) failed: BTreeMap<u64, bool>,
}

/// What a crash leaves: the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) entries: BTreeMap<Position, OutEntry>,
    pub(crate) sealed: BTreeMap<Position, Entry>,
    pub(crate) cursors: BTreeMap<usize, OutCursor>,
    pub(crate) logs: BTreeMap<usize, InLog>,
    pub(crate) parked: BTreeMap<(usize, Position), Entry>,
    /// Messages shown, by sender.
    pub(crate) shown: Vec<(usize, u64)>,
    /// Messages accepted from the user, by position.
    pub(crate) accepted: BTreeMap<Position, u64>,
    /// It was put back from an older copy, or is a copy: it sends nothing any more.
    pub(crate) restored: bool,
}

pub(crate) struct Node {
    pub(crate) me: usize,
    pub(crate) disk: Disk,
    pub(crate) outbox: Outbox,
    pub(crate) inboxes: BTreeMap<usize, Inbox>,
    pub(crate) up: BTreeSet<usize>,
    pub(crate) told: Told,
}

pub(crate) fn device(node: usize) -> DeviceId {
    DeviceId::from_bytes([node as u8 + 1; 32])
}

pub(crate) fn node_of(device: &DeviceId) -> usize {
    usize::from(device.as_bytes()[0]) - 1
}

pub(crate) fn log_of(node: usize) -> LogId {
    LogId { device: device(node), conversation: ConversationId::from_bytes([9; 32]) }
}

pub(crate) fn config() -> Config {
    Config { window_entries: 8, ..Config::default() }
}

impl Node {
    pub(crate) fn restart(me: usize, disk: Disk, now: Now) -> Self {
        let entries = disk.entries.iter().map(|(p, e)| (*p, e.clone()));
        let cursors = disk.cursors.iter().map(|(n, c)| (device(*n), c.clone()));
        let outbox = Outbox::restore(config(), entries, cursors, now);
        let mut inboxes = BTreeMap::new();
        let known: BTreeSet<usize> = disk.logs.keys().copied().chain(disk.parked.keys().map(|(n, _)| *n)).collect();
        for peer in known {
            let parked: Vec<Position> = disk.parked.keys().filter(|(n, _)| *n == peer).map(|(_, p)| *p).collect();
            let stored = disk.logs.get(&peer).cloned().unwrap_or_default();
            inboxes.insert(peer, Inbox::restore(log_of(peer), &config(), stored, parked, now));
        }
        Self { me, disk, outbox, inboxes, up: BTreeSet::new(), told: Told::default() }
    }

    /// Writes what may be written late: how far others are, and what nobody needs any more. In one
    /// batch, or an entry could lose its bytes and still be waited for.
    pub(crate) fn write_cursors(&mut self) {
        for (device, cursor) in self.outbox.take_dirty() {
            self.disk.cursors.insert(node_of(&device), cursor);
        }
        self.prune();
    }

    pub(crate) fn append(
        &mut self,
        peers: &[usize],
        joins: &[usize],
        message: Option<u64>,
        expires_at_ms: u64,
        now: Now,
        rng: &mut StdRng,
    ) {
        let recipients: Vec<DeviceId> = peers.iter().map(|p| device(*p)).collect();
        let users: Vec<(DeviceId, UserId)> =
            joins.iter().map(|p| (device(*p), UserId::from_bytes([*p as u8 + 1; 32]))).collect();
        let class = if message.is_some() { EntryClass::Application } else { EntryClass::Handshake };
        let new = NewEntry { class, expires_at_ms, recipients: &recipients, joins: &users, messages: 1 };
        let previous = self.outbox.head_id();
        let position = self.outbox.append(new);
        let header = Header {
            log: log_of(self.me),
            position,
            class,
            suite: SuiteId(1),
            expires_at_ms,
            roster: RosterId::from_bytes([0; 32]),
            excluded: Vec::new(),
            joins: users.iter().map(|(device, _)| *device).collect(),
            previous,
        };
        let header = header.sign(&rng.random::<u64>().to_be_bytes(), |_| Bytes::new());
        self.outbox.set_sealed(position, header.id(), 1000);
        self.outbox.wake(now);
        let row = OutEntry {
            class,
            size: 1000,
            expires_at_ms,
            messages: vec![MessageId::from_bytes([0; 16])],
            recipients,
            history: 0,
            copies: Vec::new(),
            id: header.id(),
            left: false,
            expired: false,
            delivered: false,
            discard: false,
        };
        // The last entry is always kept; those before it may go.
        self.disk.entries.insert(position, row);
        self.disk.sealed.insert(position, Entry { header, message });
        self.disk.accepted.extend(message.map(|message| (position, message)));
        self.write_cursors();
    }

    pub(crate) fn prune(&mut self) {
        let head = self.outbox.head();
        let outbox = &self.outbox;
        self.disk.entries.retain(|p, _| *p == head || outbox.holds(*p));
        self.disk.sealed.retain(|p, _| outbox.holds(*p));
    }

    pub(crate) fn transmit(&mut self, peer: usize, now: Now) -> Vec<Packet> {
        let mut packets = Vec::new();
        if self.disk.restored {
            return packets;
        }
        let mut window = Window::new(&config());
        window.add(self.outbox.in_flight(&device(peer)));
        while let Some(next) = self.outbox.transmit(&device(peer), now, &mut window) {
            packets.push(match next {
                Transmit::Entry(position) => {
                    self.disk.entries.get_mut(&position).expect("what is sent is on disk").left = true;
                    Packet::Entry(self.disk.sealed[&position].clone())
                }
                Transmit::Withdrawal(position) | Transmit::NotForYou(position) => {
                    Packet::Withdrawal(self.outbox.bind(&[position].into_iter().collect()))
                }
            });
        }
        packets
    }

    pub(crate) fn receive(&mut self, from: usize, packet: Packet, now: Now, rng: &mut StdRng) -> Vec<Packet> {
        match packet {
            Packet::Entry(entry) => self.on_entry(from, entry, now),
            Packet::Ack(ack) => {
                self.on_ack(from, &ack, now);
                self.transmit(from, now)
            }
            Packet::Withdrawal(positions) => {
                let Some(inbox) = self.inboxes.get_mut(&from) else {
                    return Vec::new();
                };
                let (void, next) = inbox.on_withdrawn(&positions, now);
                void.iter().for_each(|p| drop(self.disk.parked.remove(&(from, *p))));
                self.open_parked(from, next, now);
                self.ack(from)
            }
            Packet::Gap(positions) => {
                let gone = self.outbox.on_gap_request(&device(from), &positions, now);
                let mut packets = Vec::new();
                if !gone.is_empty() && !self.disk.restored {
                    packets.push(Packet::Withdrawal(self.outbox.bind(&gone)));
                }
                packets.extend(self.transmit(from, now));
                packets
            }
            Packet::Refused(position, id) => {
                let effects = self.outbox.on_refused_as_expired(&device(from), position, id);
                self.apply(effects, now, rng).into_iter().map(|(_, packet)| packet).collect()
            }
            Packet::Held(header, ack) => {
                self.disk.restored |= !self.outbox.on_held(&device(from), header.as_ref());
                ack.iter().for_each(|ack| self.on_ack(from, ack, now));
                self.transmit(from, now)
            }
        }
    }

    /// What this node holds of a peer's log, and how far it has settled it.
    pub(crate) fn held(&self, peer: usize) -> Vec<Packet> {
        let inbox = self.inboxes.get(&peer);
        vec![Packet::Held(inbox.and_then(Inbox::newest).cloned(), inbox.map(|inbox| inbox.ack(device(self.me))))]
    }

    pub(crate) fn on_ack(&mut self, from: usize, ack: &Ack, now: Now) {
        if self.disk.restored {
            return;
        }
        let outcome = self.outbox.on_ack(&device(from), ack, now);
        let delivered = outcome.delivered.iter().filter_map(|position| self.disk.accepted.get(position));
        self.told.delivered.extend(delivered);
        outcome.undelivered.into_iter().for_each(|ended| self.on_expired(ended));
    }

    pub(crate) fn inbox(&mut self, peer: usize, now: Now) -> &mut Inbox {
        self.inboxes.entry(peer).or_insert_with(|| Inbox::restore(log_of(peer), &config(), InLog::default(), [], now))
    }

    pub(crate) fn on_entry(&mut self, from: usize, entry: Entry, now: Now) -> Vec<Packet> {
        let joins = entry.header.joins.contains(&device(self.me));
        match self.inbox(from, now).on_entry(&entry.header, joins, now) {
            Arrival::Open => {
                let refused = self.refuse(from, &entry, now);
                if !refused.is_empty() {
                    return refused;
                }
                let next = self.open(from, entry, now);
                self.open_parked(from, next, now);
                self.ack(from)
            }
            Arrival::Park => {
                self.disk.parked.insert((from, entry.header.position), entry);
                self.write_log(from);
                Vec::new()
            }
            Arrival::Duplicate | Arrival::Conflict => self.held(from),
            Arrival::NoRoom => Vec::new(),
        }
    }

    /// What expired by this node's clock isn't shown; its owner shall withdraw it.
    pub(crate) fn refuse(&mut self, from: usize, entry: &Entry, now: Now) -> Vec<Packet> {
        if entry.message.is_none() || !now.is_past(entry.header.expires_at_ms) {
            return Vec::new();
        }
        self.inbox(from, now).on_refused(entry.header.position, now);
        vec![Packet::Refused(entry.header.position, entry.header.id())]
    }

    /// Opens an entry: what is shown and how far the log is are written together.
    pub(crate) fn open(&mut self, from: usize, entry: Entry, now: Now) -> Option<Position> {
        if !self.inbox(from, now).fits(&entry.header) {
            self.inbox(from, now).on_refused(entry.header.position, now);
            return None;
        }
        if entry.header.joins.contains(&device(self.me)) {
            let void = self.inbox(from, now).on_joined(&entry.header);
            void.iter().for_each(|p| drop(self.disk.parked.remove(&(from, *p))));
        }
        self.disk.shown.extend(entry.message.map(|m| (from, m)));
        self.told.shown.extend(entry.message.map(|m| (self.me, from, m)));
        let next = self.inbox(from, now).on_settled(&entry.header, now);
        self.write_log(from);
        next
    }

    pub(crate) fn open_parked(&mut self, from: usize, mut next: Option<Position>, now: Now) {
        while let Some(position) = next {
            // Expired ones are asked for again, and refused then.
            let Some(entry) = self.disk.parked.remove(&(from, position)) else { break };
            self.inbox(from, now).unpark(position);
            if entry.message.is_some() && now.is_past(entry.header.expires_at_ms) {
                self.inbox(from, now).on_refused(position, now);
                break;
            }
            next = self.open(from, entry, now);
        }
        self.write_log(from);
    }

    pub(crate) fn write_log(&mut self, peer: usize) {
        if let Some(stored) = self.inboxes.get_mut(&peer).and_then(Inbox::take_dirty) {
            self.disk.logs.insert(peer, stored);
        }
    }

    pub(crate) fn ack(&self, peer: usize) -> Vec<Packet> {
        self.inboxes.get(&peer).map(|inbox| Packet::Ack(inbox.ack(device(self.me)))).into_iter().collect()
    }

    pub(crate) fn apply(&mut self, effects: Vec<Effect>, now: Now, rng: &mut StdRng) -> Vec<(usize, Packet)> {
        let mut packets = Vec::new();
        for effect in effects {
            match effect {
                Effect::Ready(device) | Effect::ResetLink(device) => {
                    let peer = node_of(&device);
                    if effect == Effect::ResetLink(device) {
                        self.outbox.on_link_down(&device, now, rng);
                        self.outbox.on_held(&device, None);
                    }
                    packets.extend(self.transmit(peer, now).into_iter().map(|p| (peer, p)));
                }
                Effect::Expired(expired) => self.on_expired(expired),
                Effect::Connect(_) | Effect::Stalled(_) => {}
            }
        }
        packets
    }

    /// In one batch.
    fn on_expired(&mut self, expired: Expired) {
        let Expired { position, delivered, left, .. } = expired;
        self.disk.sealed.remove(&position);
        self.disk.entries.get_mut(&position).expect("what expires is on disk").expired = true;
        let message = self.disk.accepted[&position];
        if !delivered {
            assert!(self.told.failed.insert(message, left).is_none(), "{message} failed twice");
        }
    }

    pub(crate) fn timers(&mut self, now: Now, rng: &mut StdRng) -> Vec<(usize, Packet)> {
        let effects = self.outbox.on_timer(now, rng);
        let mut packets = self.apply(effects, now, rng);
        let peers: Vec<usize> = self.inboxes.keys().copied().collect();
        for peer in peers {
            match self.inbox(peer, now).on_timer(now) {
                Some(GapAction::Ask(positions)) => packets.push((peer, Packet::Gap(positions))),
                Some(GapAction::OpenAhead { positions, missing }) => {
                    packets.push((peer, Packet::Gap(missing)));
                    // Without having joined there are no keys: back to the parking place.
                    if self.inbox(peer, now).ack(device(peer)).through == 0 {
                        continue;
                    }
                    for position in positions {
                        self.open_parked(peer, Some(position), now);
                    }
                    packets.extend(self.ack(peer).into_iter().map(|p| (peer, p)));
                }
                None => {}
            }
        }
        packets
    }
}

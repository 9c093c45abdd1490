//! What an outbox says and does, subject by subject. Stories over longer times are in the crate's `tests`.
#![cfg(test)]

mod attempts;
mod books;
mod endings;
mod halts;
mod joins;
mod links;
mod receipts;
mod restart;

use bytes::Bytes;
use peerloom_wire::{Ack, Chain, ConversationId, Header, LogId, MessageId, RosterId, Span, SuiteId, UserId};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const FIRST: DeviceId = DeviceId::from_bytes([1; 32]);
const SECOND: DeviceId = DeviceId::from_bytes([2; 32]);
const THIRD: DeviceId = DeviceId::from_bytes([3; 32]);
const USER: UserId = UserId::from_bytes([7; 32]);
const OTHER: UserId = UserId::from_bytes([8; 32]);

/// So many seconds after the beginning, by both clocks.
fn at(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(seconds), wall_ms: seconds * 1000 }
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

/// Waits are as they are written.
fn config() -> Config {
    Config { jitter: 0.0, ..Config::default() }
}

fn log_id() -> LogId {
    LogId { device: DeviceId::from_bytes([9; 32]), conversation: ConversationId::from_bytes([8; 32]) }
}

/// The header of the entry at a position.
fn header(position: Position) -> SignedHeader {
    header_of(position, &[])
}

fn header_of(position: Position, payload: &[u8]) -> SignedHeader {
    let header = Header {
        log: log_id(),
        position,
        class: EntryClass::Application,
        suite: SuiteId(1),
        expires_at_ms: 0,
        roster: RosterId::from_bytes([0; 32]),
        excluded: Vec::new(),
        joins: Vec::new(),
        previous: None,
    };
    header.sign(payload, |_| Bytes::new())
}

fn id(position: Position) -> EntryId {
    header(position).id()
}

/// Appends an entry of 1000 bytes, or of 500 if it is a handshake; an application entry has two messages.
fn append(outbox: &mut Outbox, class: EntryClass, recipients: &[DeviceId], expires_at_ms: u64) -> Position {
    let is_handshake = class == EntryClass::Handshake;
    let (size, messages) = if is_handshake { (500, 0) } else { (1000, 2) };
    let position = outbox.append(NewEntry { class, expires_at_ms, recipients, joins: &[], messages });
    outbox.set_sealed(position, id(position), size);
    position
}

fn say(outbox: &mut Outbox, recipients: &[DeviceId]) -> Position {
    append(outbox, EntryClass::Application, recipients, 0)
}

fn say_until(outbox: &mut Outbox, recipients: &[DeviceId], expires_at_ms: u64) -> Position {
    append(outbox, EntryClass::Application, recipients, expires_at_ms)
}

/// Lets devices in with a handshake for them.
fn join(outbox: &mut Outbox, joins: &[(DeviceId, UserId)]) -> Position {
    let recipients: Vec<DeviceId> = joins.iter().map(|(device, _)| *device).collect();
    let class = EntryClass::Handshake;
    let position = outbox.append(NewEntry { class, expires_at_ms: 0, recipients: &recipients, joins, messages: 0 });
    outbox.set_sealed(position, id(position), 500);
    position
}

/// A log whose first entry lets devices in, which are linked.
fn log(devices: &[(DeviceId, UserId)]) -> Outbox {
    let mut outbox = Outbox::new(config());
    join(&mut outbox, devices);
    assert!(devices.iter().all(|(device, _)| outbox.on_held(device, None)));
    outbox
}

/// A log of one device that has settled the entry that let it in.
fn settled_log() -> Outbox {
    let mut outbox = log(&[(FIRST, USER)]);
    outbox.on_ack(&FIRST, &ack(1), at(0));
    outbox
}

fn ack(through: Position) -> Ack {
    ack_of(through, &[], &[])
}

fn ack_of(through: Position, beyond: &[Position], withdrawn: &[Position]) -> Ack {
    let span = |p: &Position| Span { first: *p, last: *p, previous: None, id: Some(id(*p)) };
    Ack {
        log: log_id(),
        signer: FIRST,
        through,
        through_id: Some(id(through)),
        beyond: beyond.iter().map(span).collect::<Chain>(),
        withdrawn: withdrawn.iter().copied().collect(),
    }
}

/// Everything that goes to a device now, over a link of its own.
fn sent(outbox: &mut Outbox, device: &DeviceId, now: Now) -> Vec<Transmit> {
    let mut window = Window::new(&config());
    window.add(outbox.in_flight(device));
    std::iter::from_fn(|| outbox.transmit(device, now, &mut window)).collect()
}

fn entries(positions: impl IntoIterator<Item = Position>) -> Vec<Transmit> {
    positions.into_iter().map(Transmit::Entry).collect()
}

fn status(outbox: &Outbox, device: &DeviceId) -> DeviceStatus {
    outbox.status(at(0)).into_iter().find(|status| status.device == *device).expect("a device")
}

fn waiting(outbox: &Outbox, device: &DeviceId) -> Vec<Position> {
    status(outbox, device).waiting
}

fn owed(outbox: &Outbox) -> Vec<Position> {
    outbox.owed(at(0)).into_iter().collect()
}

fn row(position: Position, recipients: &[DeviceId]) -> OutEntry {
    OutEntry {
        class: EntryClass::Application,
        size: 1000,
        expires_at_ms: 0,
        messages: vec![MessageId::from_bytes([0; 16]); 2],
        recipients: recipients.to_vec(),
        history: 1,
        copies: Vec::new(),
        id: id(position),
        left: true,
        expired: false,
        delivered: false,
        discard: false,
    }
}

fn cursor(through: Position) -> OutCursor {
    OutCursor {
        user: USER,
        base: 1,
        through,
        beyond: RangeSet::default(),
        rejoins: 0,
        halted: false,
        owed: RangeSet::default(),
        acknowledged: None,
        void: RangeSet::default(),
    }
}

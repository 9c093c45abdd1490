//! What goes into an outbox and comes out of it.

use std::time::Duration;

use peerloom_wire::store::OutCursor;
use peerloom_wire::{DeviceId, EntryClass, Position, UserId};

/// An entry to append.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// What the entry is for.
    pub class: EntryClass,
    /// When it expires, in milliseconds since the Unix epoch; 0 = never.
    pub expires_at_ms: u64,
    /// The devices it is for: sealed for, or awaited.
    pub recipients: &'a [DeviceId],
    /// Devices whose view of the log begins here, with their users.
    pub joins: &'a [(DeviceId, UserId)],
    /// How many messages are inside.
    pub messages: usize,
}

/// What to send to a device next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// The entry at this position, byte for byte as before.
    Entry(Position),
    /// That the entry at this position will never come, to any device.
    Withdrawal(Position),
    /// That the entry at this position holds nothing for the device.
    NotForYou(Position),
}

/// What an acknowledgement changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AckOutcome {
    /// It settles what no earlier one did.
    pub news: bool,
    /// Entries that have now reached one device of each recipient user.
    pub delivered: Vec<Position>,
    /// Entries that ended undelivered: no device lacks them, and not every user's showed them.
    pub undelivered: Vec<Expired>,
    /// Entries that nobody needs any more.
    pub settled: Vec<Position>,
    /// It is about other entries than ours, in part or as a whole; that part settles nothing.
    pub conflict: bool,
}

/// What time brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Entries wait for this device and there is no link: make one.
    Connect(DeviceId),
    /// The link is up but nothing is acknowledged: replace it.
    ResetLink(DeviceId),
    /// The scheduled retries are used up; entries wait until the device appears.
    Stalled(DeviceId),
    /// There is something to [`crate::Outbox::transmit`] to this device.
    Ready(DeviceId),
    /// An entry expired. If it was not delivered, its messages have failed. Record it in the batch that
    /// drops its bytes.
    Expired(Expired),
}

/// An entry that expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Its position.
    pub position: Position,
    /// Whether one device of each recipient user had it.
    pub delivered: bool,
    /// Whether it was put on a link: then it may have arrived, and its acknowledgement be late.
    pub left: bool,
    /// Whether no device needs to hear of it any more: its rows may go.
    pub settled: bool,
}

/// How delivery to one device stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The device.
    pub device: DeviceId,
    /// Whether a link to it is up.
    pub link_up: bool,
    /// Positions it has not settled yet.
    pub waiting: Vec<Position>,
    /// Attempts since it was last heard of.
    pub attempts: u32,
    /// Time until the next attempt.
    pub next_try: Option<Duration>,
    /// Whether the scheduled attempts are used up, or it is halted.
    pub stalled: bool,
    /// Why nothing is sent to it before it was added again.
    pub halted: Option<Halt>,
}

/// Why nothing is sent to a device before it was added again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// It couldn't open what it got, and was added again too often.
    CannotOpen,
    /// It was away, and its entries' room was needed.
    Away,
    /// It hasn't been let in yet: its key package is still missing.
    NotJoined,
}

/// What follows from a device's word that it can't open an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotOpenOutcome {
    /// Nothing: the entry is settled there, or not its business, or the device is halted already.
    Nothing,
    /// Add the device again, and seal again what it lacks.
    AddAgain,
    /// It was added too often: the device is halted from now on.
    Halted,
}

/// The highest position that a device has settled. Should the log's last row be lost, no position up to there is used
/// twice.
pub(super) fn last_settled(cursor: &OutCursor) -> Position {
    cursor.beyond.iter().last().map_or(cursor.through, |range| range.last)
}

//! Peerloom's delivery rules, as state machines without I/O.
//!
//! A machine gets what happened and what time it is, and says what to do; it owns no socket, file,
//! clock or randomness. The engine drives it over the real layers, the simulation in
//! `tests/simulation.rs` over virtual time. The unit of everything is the *position* in a log:
//! acknowledgements, gaps and duplicates are integers and ranges, never sets of message ids.
//!
//! - [`Outbox`]: one of our own logs, and how far each device has it.
//! - [`Inbox`]: one log of a peer device, as far as we have it.
//! - [`Window`]: how much of all logs is on its way to a device.
//! - [`ConnectionMachine`]: getting links to devices, and getting them back.

mod config;
mod connection;
mod inbox;
mod outbox;
mod window;

pub use config::{Config, Now};
pub use connection::{ConnectionMachine, ConnectionState};
pub use inbox::{Arrival, GapAction, Inbox};
pub use outbox::{AckOutcome, CannotOpenOutcome, DeviceStatus, Effect, Expired, Halt, NewEntry, Outbox, Transmit};
pub use window::Window;

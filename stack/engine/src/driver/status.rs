//! What waits, for people.

use std::time::Duration;

use peerloom_core::wire::{ConversationId, DeviceId, MessageId};
use peerloom_core::{KeyRange, Result};
use peerloom_delivery::{Halt, Now};

use super::RESTORED;
use super::Turn;
use super::pending::heads;
use super::state::TimerKey;
use crate::clock::system_ms;
use crate::net::Trouble;

/// A message that waits to be delivered to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedEntry {
    /// The conversation.
    pub conversation: ConversationId,
    /// The message.
    pub message: MessageId,
    /// The device it waits for; `None` while there is no session with the contact.
    pub device: Option<DeviceId>,
    /// Attempts since the device was last heard of.
    pub attempts: u32,
    /// Time until the next attempt.
    pub next_try: Option<Duration>,
    /// Whether the scheduled attempts are used up.
    pub stalled: bool,
    /// Why it waits.
    pub reason: String,
}

/// Why a message isn't sent whose lifetime is over: it ends with an event, so there has to be one who receives events.
const OVER: &str = "its lifetime is over by this machine's clock; a running node reports it as failed";

impl Turn<'_> {
    /// Every message that waits, oldest first in each conversation.
    pub(crate) fn queue(&mut self) -> Result<Vec<QueuedEntry>> {
        let mut queue = Vec::new();
        // Nothing is tried, whatever the schedule is.
        let resting = match (self.state.standing.is_restored(), self.state.started) {
            (true, _) => Some(format!("not sent, or sent before by the newer copy: {RESTORED}")),
            (false, false) => Some("the node doesn't run".to_owned()),
            (false, true) => None,
        };
        let lost = "the row of its contact in the store is damaged; add the contact again by a new invitation";
        for (id, conversation) in &self.state.conversations {
            let known = self.state.with(id).is_some();
            for status in conversation.outbox.status(self.now) {
                let reason = match (status.halted, status.link_up, status.stalled) {
                    _ if let Some(why) = &resting => why.clone(),
                    _ if !known => lost.into(),
                    (Some(why), ..) => halted(why).into(),
                    (None, true, _) => "sent; waiting for the acknowledgement".into(),
                    (None, false, stalled) => {
                        let why = self.state.links.reason(&status.device).unwrap_or_else(|| "no link yet".into());
                        if stalled { format!("stalled: {why}") } else { why }
                    }
                };
                for position in &status.waiting {
                    let Some(entry) = conversation.entries.get(position) else { continue };
                    let over = self.is_over(conversation.outbox.expiry(*position));
                    queue.extend(entry.messages.iter().map(|message| QueuedEntry {
                        conversation: *id,
                        message: *message,
                        device: Some(status.device),
                        attempts: status.attempts,
                        next_try: status.next_try.filter(|_| resting.is_none() && !over),
                        stalled: status.stalled && resting.is_none() && !over,
                        reason: if over { OVER.into() } else { reason.clone() },
                    }));
                }
            }
            if conversation.pending == 0 {
                continue;
            }
            let devices = self.state.device_ids_in(id);
            let refused = devices.iter().find_map(|device| self.state.links.reason(device));
            let reason = match refused {
                _ if let Some(why) = &resting => why.clone(),
                _ if !known => lost.into(),
                Some(why) => format!("no keys agreed on yet: {why}"),
                None => "waiting for a first link to the contact, to agree on keys".into(),
            };
            let mut rest = Some(KeyRange::prefix(id.as_bytes()));
            while let Some(range) = rest {
                let part;
                (part, rest) = heads(&self.txn, &range)?;
                queue.extend(part.into_values().map(|head| QueuedEntry {
                    conversation: *id,
                    message: head.message,
                    device: None,
                    attempts: 0,
                    next_try: None,
                    stalled: false,
                    reason: if self.is_over(head.expires_at_ms) { OVER.into() } else { reason.clone() },
                }));
            }
        }
        Ok(queue)
    }

    /// Whether a message with this expiry fails as soon as the node runs, unless the clock is wrong.
    fn is_over(&self, expires_at_ms: u64) -> bool {
        !self.state.standing.is_restored() && Now { wall_ms: system_ms(), ..self.now }.is_past(expires_at_ms)
    }

    /// Wakes stalled devices, and adds halted ones again; returns how many.
    pub(crate) fn retry(&mut self, only: Option<ConversationId>) -> Result<usize> {
        let mut woken = 0;
        let mut halted = Vec::new();
        for (id, conversation) in &mut self.state.conversations {
            if only.is_none_or(|only| only == *id) {
                woken += conversation.outbox.retry(self.now);
                halted.extend(conversation.outbox.halted().map(|device| (*id, device)));
                self.state.touched.insert(TimerKey::Outbox(*id));
            }
        }
        for (id, device) in halted {
            if self.resume(id, device, true) {
                woken += 1;
                self.prepare_session(id)?;
            }
        }
        Ok(woken)
    }

    /// Says in the list of peers that nothing is sent to a device, and why.
    pub(super) fn show_halted(&self, id: ConversationId, device: DeviceId) {
        let status = self.state.conversations.get(&id).and_then(|c| c.outbox.halt(&device));
        self.state.links.set_trouble(device, Trouble::Halted, status.map(|why| halted(why).into()));
    }
}

/// Why nothing is sent to a device, for people.
pub(super) fn halted(why: Halt) -> &'static str {
    match why {
        Halt::CannotOpen => {
            "halted: the device opened nothing although it was added again; the next try comes with its next link or record, or with `queue retry`"
        }
        Halt::NotJoined => "waiting for a link to the device, to agree on keys",
        Halt::Away => "halted: the device was away too long; it is added again when it appears",
    }
}

//! The history: its rows as messages. Rows stand in the order in which this node stored them, own messages beside those
//! of others.

mod reader;

use std::ops::Bound;

use peerloom_core::KeyRange;
use peerloom_core::wire::store::{History, HistoryHead, OwnState, ordered_key};
use peerloom_core::wire::{Bundle, ConversationId, DecodeError, DeviceId};

use crate::message::{Cursor, Message};

pub(crate) use reader::{Reader, blocking};

/// Sequences from here on are of own messages that wait unsealed, in their order: they come after all others.
const WAITING: u64 = 1 << 63;

/// The messages of an entry that are to be shown.
pub(crate) fn shown(sequence: u64, entry: &History) -> Result<Vec<Message>, DecodeError> {
    let bundle = Bundle::decode(entry.bundle.clone())?;
    let numbered = bundle.items.into_iter().zip(0u16..);
    let visible = numbered.filter(|(_, index)| !entry.hidden.contains(index));
    let message = |(item, index): (peerloom_core::wire::Item, u16)| Message {
        id: item.id,
        conversation: entry.conversation,
        user: entry.user,
        device: entry.device,
        sent_at_ms: item.sent_at_ms,
        received_at_ms: entry.stored_at_ms,
        content_type: item.content_type,
        body: item.body,
        cursor: Cursor { sequence, index },
    };
    Ok(visible.map(message).collect())
}

/// Which page of a history is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryPage {
    /// The newest messages before a place.
    Before(Cursor),
    /// The oldest messages after a place.
    After(Cursor),
}

/// The head of a row, made again: what became of own messages it doesn't say.
pub(crate) fn head_of(row: &History, own: &DeviceId) -> Option<HistoryHead> {
    let bundle = Bundle::decode(row.bundle.clone()).ok()?;
    Some(HistoryHead {
        device: row.device,
        position: row.position,
        stored_at_ms: row.stored_at_ms,
        size: u32::try_from(row.bundle.len()).unwrap_or(u32::MAX),
        messages: bundle.items.iter().map(|item| item.id).collect(),
        state: (row.device == *own).then_some(OwnState::Unknown),
        state_at_ms: 0,
    })
}

/// The keys of a conversation whose orders are between two, both included.
pub(crate) fn orders(id: &ConversationId, from: u64, through: u64) -> KeyRange {
    let key = |order| ordered_key(&[id.as_bytes()], order).to_vec();
    KeyRange { start: Bound::Included(key(from)), end: Bound::Included(key(through)) }
}

//! Reads a conversation's history.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use peerloom_core::wire::store::{HISTORY, History, Record, key_order, ordered_key};
use peerloom_core::wire::{Bundle, ConversationId, DecodeError, DeviceId};
use peerloom_core::{Error, ErrorKind, KeyRange, Order, Page, Result, Snapshot, Storage};

use crate::event::Message;

/// Bytes of bodies after which a page ends; the message that reaches them is in it.
const PAGE_BYTES: usize = 1024 * 1024;
/// Bytes of history in which the newest messages are looked for.
const LOOK_BACK: usize = 64 * 1024 * 1024;

/// A place among all messages that this node has stored: the entry's sequence, and the message in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    pub(crate) sequence: u64,
    pub(crate) index: u16,
}

impl Cursor {
    /// Before the first message.
    pub const START: Self = Self { sequence: 0, index: 0 };

    /// A place after every earlier message and before this one.
    fn before(self) -> Self {
        match self.index.checked_sub(1) {
            Some(index) => Self { index, ..self },
            None => Self::end_of(self.sequence.saturating_sub(1)),
        }
    }

    /// After every message of an entry.
    pub(crate) fn end_of(sequence: u64) -> Self {
        Self { sequence, index: u16::MAX }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.sequence, self.index)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(
                ErrorKind::Invalid,
                "history",
                "read a cursor",
                format!("`{text}` is not a cursor such as 12.3; take one from `inbox --json`"),
            )
        };
        let (sequence, index) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { sequence: sequence.parse().map_err(|_| wrong())?, index: index.parse().map_err(|_| wrong())? })
    }
}

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

/// Reads messages from the store, on threads that may wait. It doesn't keep the store open: a node
/// that is shut down has let go of its store, even while a program still holds the node.
#[derive(Clone)]
pub(crate) struct Reader {
    storage: Weak<dyn Storage>,
    own_device: DeviceId,
}

impl Reader {
    pub(crate) fn new(storage: &Arc<dyn Storage>, own_device: DeviceId) -> Self {
        Self { storage: Arc::downgrade(storage), own_device }
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let closed = || Error::new(ErrorKind::Closed, "history", "read", "the node is shut down");
        self.storage.upgrade().ok_or_else(closed)?.snapshot()
    }

    /// A page of received messages after a place, in order of arrival, of one conversation or all: at most
    /// `limit` messages and about [`PAGE_BYTES`] of bodies. None means that there are no more.
    pub(crate) async fn page(&self, after: Cursor, limit: usize, only: Option<ConversationId>) -> Result<Vec<Message>> {
        let reader = self.clone();
        blocking(move || reader.read_after(after, limit, only.as_ref())).await
    }

    /// The place before the newest `count` received messages, of one conversation or all. It looks at the
    /// newest [`LOOK_BACK`] bytes of history.
    pub(crate) async fn before_newest(&self, count: usize, only: Option<ConversationId>) -> Result<Cursor> {
        let reader = self.clone();
        blocking(move || reader.find_newest(count, only.as_ref())).await
    }

    fn read_after(&self, after: Cursor, limit: usize, only: Option<&ConversationId>) -> Result<Vec<Message>> {
        let snapshot = self.snapshot()?;
        let mut range = KeyRange::all();
        range.start = std::ops::Bound::Included(ordered_key(&[], after.sequence).to_vec());
        let (mut found, mut bytes) = (Vec::new(), 0);
        let full = |found: &Vec<Message>, bytes| found.len() >= limit || bytes >= PAGE_BYTES;
        while !full(&found, bytes) {
            let page = snapshot.scan(HISTORY, &range, Order::Ascending, Page::DEFAULT)?;
            let Some(last) = page.last() else { break };
            range = range.after(&last.key);
            for row in page {
                let received = self.received(&row.key, row.value, only)?.into_iter().filter(|m| m.cursor > after);
                found.extend(received.inspect(|message| bytes += message.body.len()));
                if full(&found, bytes) {
                    break;
                }
            }
        }
        // Not truncated inside an entry: the next call begins after the last cursor anyway.
        found.truncate(limit.max(1));
        Ok(found)
    }

    fn find_newest(&self, count: usize, only: Option<&ConversationId>) -> Result<Cursor> {
        let snapshot = self.snapshot()?;
        let mut range = KeyRange::all();
        let (mut place, mut found, mut looked_at) = (Cursor::START, 0, 0);
        loop {
            let page = snapshot.scan(HISTORY, &range, Order::Descending, Page::DEFAULT)?;
            let Some(last) = page.last() else { return Ok(Cursor::START) };
            range = range.before(&last.key);
            for row in page {
                if looked_at >= LOOK_BACK {
                    return Ok(Cursor::end_of(key_order(&row.key)?));
                }
                looked_at += row.value.len();
                for message in self.received(&row.key, row.value, only)?.iter().rev() {
                    if found >= count {
                        return Ok(place);
                    }
                    found += 1;
                    place = message.cursor.before();
                }
            }
        }
    }

    fn received(&self, key: &Bytes, value: Bytes, only: Option<&ConversationId>) -> Result<Vec<Message>> {
        let entry = History::decode(value)?;
        if entry.device == self.own_device || only.is_some_and(|only| entry.conversation != *only) {
            return Ok(Vec::new());
        }
        Ok(shown(key_order(key)?, &entry)?)
    }
}

/// Runs what may wait for a disk on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let failed = |e| Error::new(ErrorKind::Internal, "engine", "read", "a read panicked").with_source(e);
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

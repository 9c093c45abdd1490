//! Reads messages from the store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use peerloom_core::wire::store::{
    HISTORY, HISTORY_HEADS, History, HistoryHead, PENDING_BODIES, Pending, Record, Table, key_order, ordered_key,
};
use peerloom_core::wire::{ConversationId, DeviceId, MessageId, UserId};
use peerloom_core::{Error, ErrorKind, KeyRange, Order, Page, Result, Row, Snapshot, Storage};

use super::{HistoryPage, WAITING, head_of, orders, shown};
use crate::message::{Cursor, HistoryMessage, Message, MessageState};

/// Bytes of bodies after which a page ends; the message that reaches them is in it.
const PAGE_BYTES: usize = 1024 * 1024;
/// Bytes of history in which the newest messages of all conversations are looked for.
const LOOK_BACK: usize = 64 * 1024 * 1024;

/// Reads messages, on threads that may wait. It doesn't keep the store open: a node that is shut down has let go of its
/// store, even while the node itself is still held.
#[derive(Clone)]
pub(crate) struct Reader {
    storage: Weak<dyn Storage>,
    own_user: UserId,
    own_device: DeviceId,
}

impl Reader {
    pub(crate) fn new(storage: &Arc<dyn Storage>, own_user: UserId, own_device: DeviceId) -> Self {
        Self { storage: Arc::downgrade(storage), own_user, own_device }
    }

    /// A page of received messages after a place, in order of arrival, of one conversation or all: at most
    /// `limit` messages and about [`PAGE_BYTES`] of bodies. None means that there are no more.
    pub(crate) async fn page(&self, after: Cursor, limit: usize, only: Option<ConversationId>) -> Result<Vec<Message>> {
        self.read(move |view| match only {
            Some(only) => view.received_in(&only, after, limit),
            None => view.received(after, limit),
        })
        .await
    }

    /// The place before the newest `count` received messages, of one conversation or all; of all, it looks at the
    /// newest [`LOOK_BACK`] bytes of history.
    pub(crate) async fn before_newest(&self, count: usize, only: Option<ConversationId>) -> Result<Cursor> {
        self.read(move |view| match only {
            Some(only) => view.newest_in(&only, count),
            None => view.newest(count),
        })
        .await
    }

    /// A page of a conversation, everybody's messages, in their order: at most `limit` messages and about [`PAGE_BYTES`]
    /// of bodies.
    pub(crate) async fn conversation(
        &self,
        id: ConversationId,
        page: HistoryPage,
        limit: usize,
    ) -> Result<Vec<HistoryMessage>> {
        self.read(move |view| view.conversation(&id, page, limit)).await
    }

    /// A message of a conversation by its id. It looks at the heads of the whole conversation, newest first.
    pub(crate) async fn find(&self, id: ConversationId, message: MessageId) -> Result<Option<HistoryMessage>> {
        self.read(move |view| view.find(&id, message)).await
    }

    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&View) -> Result<T> + Send + 'static) -> Result<T> {
        let reader = self.clone();
        blocking(move || {
            let closed = || Error::new(ErrorKind::Closed, "history", "read", "the node is shut down");
            let snapshot = reader.storage.upgrade().ok_or_else(closed)?.snapshot()?;
            work(&View { snapshot, own_user: reader.own_user, own_device: reader.own_device })
        })
        .await
    }
}

/// Runs what may wait for a disk on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let failed = |e| Error::new(ErrorKind::Internal, "engine", "read", "a read panicked").with_source(e);
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// Messages up to a number and up to [`PAGE_BYTES`].
struct Collected<T> {
    messages: Vec<T>,
    bytes: usize,
    limit: usize,
}

impl<T> Collected<T> {
    fn new(limit: usize) -> Self {
        Self { messages: Vec::new(), bytes: 0, limit: limit.max(1) }
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    /// Adds a message where there is room.
    fn push(&mut self, message: T, bytes: usize) {
        if !self.is_full() {
            self.bytes += bytes;
            self.messages.push(message);
        }
    }
}

/// The store at one moment.
struct View {
    snapshot: Box<dyn Snapshot>,
    own_user: UserId,
    own_device: DeviceId,
}

impl View {
    fn received(&self, after: Cursor, limit: usize) -> Result<Vec<Message>> {
        let start = Bound::Included(ordered_key(&[], after.sequence).to_vec());
        let mut range = KeyRange { start, end: Bound::Unbounded };
        let mut found = Collected::new(limit);
        while !found.is_full() {
            let rows = self.next_page(HISTORY, &mut range, Order::Ascending)?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let messages = self.of_others(&row)?.into_iter().filter(|m| m.cursor > after);
                messages.for_each(|message| {
                    let bytes = message.body.len();
                    found.push(message, bytes);
                });
                if found.is_full() {
                    break;
                }
            }
        }
        Ok(found.messages)
    }

    fn of_others(&self, row: &Row) -> Result<Vec<Message>> {
        let entry = History::decode(row.value.clone())?;
        if entry.device == self.own_device {
            return Ok(Vec::new());
        }
        Ok(shown(key_order(&row.key)?, &entry)?)
    }

    fn received_in(&self, id: &ConversationId, after: Cursor, limit: usize) -> Result<Vec<Message>> {
        let mut found = Collected::new(limit);
        self.heads(id, HistoryPage::After(after), |sequence, head| {
            if head.device != self.own_device {
                for message in self.messages(id, sequence)?.into_iter().filter(|m| m.cursor > after) {
                    let bytes = message.body.len();
                    found.push(message, bytes);
                }
            }
            Ok(!found.is_full())
        })?;
        Ok(found.messages)
    }

    fn newest(&self, count: usize) -> Result<Cursor> {
        let mut range = KeyRange::all();
        let (mut place, mut found, mut looked_at) = (Cursor::START, 0, 0);
        loop {
            let rows = self.next_page(HISTORY, &mut range, Order::Descending)?;
            if rows.is_empty() {
                return Ok(Cursor::START);
            }
            for row in rows {
                if looked_at >= LOOK_BACK {
                    return Ok(Cursor::end_of(key_order(&row.key)?));
                }
                looked_at += row.value.len();
                for message in self.of_others(&row)?.iter().rev() {
                    if found >= count {
                        return Ok(place);
                    }
                    found += 1;
                    place = message.cursor.before();
                }
            }
        }
    }

    fn newest_in(&self, id: &ConversationId, count: usize) -> Result<Cursor> {
        let (mut place, mut found, mut more) = (Cursor::START, 0, false);
        self.heads(id, HistoryPage::Before(Cursor::END), |sequence, head| {
            if head.device != self.own_device {
                for message in self.messages(id, sequence)?.iter().rev() {
                    more = found >= count;
                    if more {
                        break;
                    }
                    found += 1;
                    place = message.cursor.before();
                }
            }
            Ok(!more)
        })?;
        Ok(if more { place } else { Cursor::START })
    }

    fn conversation(&self, id: &ConversationId, page: HistoryPage, limit: usize) -> Result<Vec<HistoryMessage>> {
        let mut found = Collected::new(limit);
        let inside = |cursor: Cursor| match page {
            HistoryPage::Before(end) => cursor < end,
            HistoryPage::After(start) => cursor > start,
        };
        let mut take = |message: HistoryMessage| {
            let bytes = message.message.body.len();
            if inside(message.message.cursor) {
                found.push(message, bytes);
            }
            !found.is_full()
        };
        match page {
            HistoryPage::After(_) => {
                if self.each_stored(id, page, &mut take)? {
                    self.each_waiting(id, page, &mut take)?;
                }
                Ok(found.messages)
            }
            HistoryPage::Before(_) => {
                if self.each_waiting(id, page, &mut take)? {
                    self.each_stored(id, page, &mut take)?;
                }
                found.messages.reverse();
                Ok(found.messages)
            }
        }
    }

    /// Gives messages of the history in the page's direction while they are wanted; returns whether more are.
    fn each_stored(
        &self,
        id: &ConversationId,
        page: HistoryPage,
        take: &mut impl FnMut(HistoryMessage) -> bool,
    ) -> Result<bool> {
        let mut wanted = true;
        self.heads(id, page, |sequence, head| {
            let mut messages = self.messages(id, sequence)?;
            if matches!(page, HistoryPage::Before(_)) {
                messages.reverse();
            }
            for message in messages {
                let state = head.state.clone().map(MessageState::from);
                wanted = take(HistoryMessage { message, state, state_at_ms: head.state_at_ms });
                if !wanted {
                    break;
                }
            }
            Ok(wanted)
        })?;
        Ok(wanted)
    }

    /// The same, of own messages that wait unsealed.
    fn each_waiting(
        &self,
        id: &ConversationId,
        page: HistoryPage,
        take: &mut impl FnMut(HistoryMessage) -> bool,
    ) -> Result<bool> {
        let (mut range, order) = match page {
            HistoryPage::After(start) if start.sequence >= WAITING => {
                (orders(id, start.sequence - WAITING, u64::MAX), Order::Ascending)
            }
            HistoryPage::After(_) => (orders(id, 0, u64::MAX), Order::Ascending),
            HistoryPage::Before(end) if end.sequence < WAITING => return Ok(true),
            HistoryPage::Before(end) => (orders(id, 0, end.sequence - WAITING), Order::Descending),
        };
        loop {
            let rows = self.next_page(PENDING_BODIES, &mut range, order)?;
            if rows.is_empty() {
                return Ok(true);
            }
            for row in rows {
                let message = self.waiting(id, &row)?;
                let state_at_ms = message.sent_at_ms;
                if !take(HistoryMessage { message, state: Some(MessageState::Queued), state_at_ms }) {
                    return Ok(false);
                }
            }
        }
    }

    fn waiting(&self, id: &ConversationId, row: &Row) -> Result<Message> {
        let item = Pending::decode(row.value.clone())?.item;
        Ok(Message {
            id: item.id,
            conversation: *id,
            user: self.own_user,
            device: self.own_device,
            sent_at_ms: item.sent_at_ms,
            received_at_ms: item.sent_at_ms,
            content_type: item.content_type,
            body: item.body,
            cursor: Cursor { sequence: WAITING | key_order(&row.key)?, index: 0 },
        })
    }

    fn find(&self, id: &ConversationId, wanted: MessageId) -> Result<Option<HistoryMessage>> {
        let mut found = None;
        let mut take = |message: HistoryMessage| {
            if message.message.id == wanted {
                found = Some(message);
            }
            found.is_none()
        };
        let page = HistoryPage::Before(Cursor::END);
        if self.each_waiting(id, page, &mut take)? {
            self.heads(id, page, |sequence, head| {
                if !head.messages.contains(&wanted) {
                    return Ok(true);
                }
                let of_row = self.messages(id, sequence)?;
                let message = of_row.into_iter().find(|message| message.id == wanted);
                let state = head.state.map(MessageState::from);
                found = message.map(|message| HistoryMessage { message, state, state_at_ms: head.state_at_ms });
                Ok(found.is_none())
            })?;
        }
        Ok(found)
    }

    /// What is shown of a row.
    fn messages(&self, id: &ConversationId, sequence: u64) -> Result<Vec<Message>> {
        match self.row(id, sequence)? {
            Some(row) => Ok(shown(sequence, &row)?),
            None => Ok(Vec::new()),
        }
    }

    /// A row of a conversation; a damaged one counts as missing.
    fn row(&self, id: &ConversationId, sequence: u64) -> Result<Option<History>> {
        match self.snapshot.get(HISTORY, &ordered_key(&[], sequence)) {
            Ok(value) => Ok(value.and_then(|value| History::decode(value).ok()).filter(|row| row.conversation == *id)),
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Malformed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the heads of a conversation in the page's direction, those of its first place included, while they are
    /// wanted. Damaged ones are made again of their rows.
    fn heads(
        &self,
        id: &ConversationId,
        page: HistoryPage,
        mut take: impl FnMut(u64, HistoryHead) -> Result<bool>,
    ) -> Result<bool> {
        let (mut range, order) = match page {
            HistoryPage::After(start) => (orders(id, start.sequence, u64::MAX), Order::Ascending),
            HistoryPage::Before(end) => (orders(id, 0, end.sequence), Order::Descending),
        };
        loop {
            let asked = range.clone();
            let rows = self.next_page(HISTORY_HEADS, &mut range, order)?;
            let done = rows.is_empty();
            let mut heads = BTreeMap::new();
            for row in rows {
                heads.insert(key_order(&row.key)?, HistoryHead::decode(row.value).ok());
            }
            let damaged = self.snapshot.damaged().into_iter();
            let passed = |key: &[u8]| asked.contains(key) && (done || !range.contains(key));
            for (_, key) in damaged.filter(|(table, key)| *table == HISTORY_HEADS && passed(key)) {
                heads.insert(key_order(&key)?, None);
            }
            let mut heads: Vec<_> = heads.into_iter().collect();
            if order == Order::Descending {
                heads.reverse();
            }
            for (sequence, head) in heads {
                let head = match head {
                    Some(head) => Some(head),
                    None => self.row(id, sequence)?.and_then(|row| head_of(&row, &self.own_device)),
                };
                if let Some(head) = head
                    && !take(sequence, head)?
                {
                    return Ok(false);
                }
            }
            if done {
                return Ok(true);
            }
        }
    }

    /// The next rows of a range, none at its end; the range is what comes after them.
    fn next_page(&self, table: Table, range: &mut KeyRange, order: Order) -> Result<Vec<Row>> {
        let rows = self.snapshot.scan(table, range, order, Page::DEFAULT)?;
        if let Some(last) = rows.last() {
            *range = match order {
                Order::Ascending => range.clone().after(&last.key),
                Order::Descending => range.clone().before(&last.key),
            };
        }
        Ok(rows)
    }
}

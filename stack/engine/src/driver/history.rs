//! The history as turns write it: what is put there, what becomes of own messages, and what the user deletes.

use std::collections::BTreeSet;

use bytes::Bytes;
use peerloom_core::Result;
use peerloom_core::wire::store::{
    HISTORY, HISTORY_HEADS, History, HistoryHead, META, OwnState, Record, key_order, meta,
};
use peerloom_core::wire::{Bundle, ConversationId, MessageId};

use super::Turn;
use super::state::{history_key, own_key};
use crate::clock::system_ms;
use crate::history::{head_of, orders};
use crate::message::Cursor;

/// Bytes of plaintext that one turn looks at to delete.
const DELETED_AT_ONCE: usize = 4 * 1024 * 1024;

impl Turn<'_> {
    /// Puts an entry's messages into the history. `state`: what becomes of own ones.
    pub(super) fn put_history(
        &mut self,
        sequence: u64,
        row: &History,
        messages: Vec<MessageId>,
        state: Option<OwnState>,
    ) {
        let head = HistoryHead {
            device: row.device,
            position: row.position,
            stored_at_ms: row.stored_at_ms,
            size: u32::try_from(row.bundle.len()).unwrap_or(u32::MAX),
            messages,
            state_at_ms: if state.is_some() { row.stored_at_ms } else { 0 },
            state,
        };
        self.txn.put(HISTORY, history_key(sequence), row.encode());
        self.txn.put(HISTORY_HEADS, own_key(&row.conversation, sequence), head.encode());
    }

    /// Own messages have another state. It is written with the next batch: what is lost of it is decided again.
    pub(super) fn note_state(&mut self, id: ConversationId, sequence: u64, state: OwnState) {
        if sequence > 0 {
            self.state.lazy_states.insert((id, sequence), (state, system_ms()));
        }
    }

    /// Writes the states of own messages, and removes the plaintext of deleted ones that no device needs any more.
    pub(super) fn write_history(&mut self) {
        for ((id, sequence), (state, at_ms)) in std::mem::take(&mut self.state.lazy_states) {
            // A store that can't be read fails for the next one who has to.
            if let Ok(Some(mut head)) = self.head(&id, sequence) {
                (head.state, head.state_at_ms) = (Some(state), at_ms);
                self.txn.put(HISTORY_HEADS, own_key(&id, sequence), head.encode());
            }
        }
        for (id, sequence) in std::mem::take(&mut self.state.to_scrub) {
            if let Ok(Some(row)) = self.txn.sound_record::<History>(HISTORY, &history_key(sequence)) {
                self.scrub(id, sequence, row);
            }
        }
    }

    /// The head of a row of the history; a damaged one is made again of the row.
    fn head(&self, id: &ConversationId, sequence: u64) -> Result<Option<HistoryHead>> {
        let head = self.txn.sound_record::<HistoryHead>(HISTORY_HEADS, &own_key(id, sequence))?;
        if head.is_some() {
            return Ok(head);
        }
        let row = self.txn.sound_record::<History>(HISTORY, &history_key(sequence))?;
        Ok(row.filter(|row| row.conversation == *id).and_then(|row| head_of(&row, &self.state.own.device)))
    }

    /// Deletes messages of a conversation after one place and through another, as many as a turn may; returns how many
    /// there were, and where to go on. A message that a device still needs isn't shown any more, and goes once none
    /// needs it.
    pub(crate) fn delete_history(
        &mut self,
        id: ConversationId,
        after: Cursor,
        through: Cursor,
    ) -> Result<(usize, Option<Cursor>)> {
        let (mut deleted, mut looked_at) = (0, 0);
        let mut rest = Some(orders(&id, after.sequence, through.sequence));
        while let Some(range) = rest {
            let part;
            (part, rest) = self.txn.part(HISTORY_HEADS, &range)?;
            for row in part {
                let sequence = key_order(&row.key)?;
                if looked_at >= DELETED_AT_ONCE {
                    return Ok((deleted, Some(Cursor::end_of(sequence - 1).max(after))));
                }
                looked_at += row.value.len();
                let Some(row) = self.txn.sound_record::<History>(HISTORY, &history_key(sequence))? else {
                    self.txn.delete(HISTORY_HEADS, row.key);
                    continue;
                };
                looked_at += row.bundle.len();
                deleted += self.delete_in(id, sequence, row, after, through)?;
            }
        }
        Ok((deleted, None))
    }

    fn delete_in(
        &mut self,
        id: ConversationId,
        sequence: u64,
        mut row: History,
        after: Cursor,
        through: Cursor,
    ) -> Result<usize> {
        let items = Bundle::decode(row.bundle.clone()).map_or(0, |bundle| bundle.items.len());
        let hidden: BTreeSet<u16> = row.hidden.iter().copied().collect();
        let inside = |index: &u16| {
            let at = Cursor { sequence, index: *index };
            at > after && at <= through && !hidden.contains(index)
        };
        let gone: Vec<u16> = (0..u16::try_from(items).unwrap_or(u16::MAX)).filter(inside).collect();
        row.hidden.extend(&gone);
        let entries = self.state.conversations.get_mut(&id).map(|conversation| &mut conversation.entries);
        let mut needed = Vec::new();
        for (position, entry) in entries.into_iter().flatten().filter(|(_, entry)| entry.history == sequence) {
            entry.discard = true;
            needed.push(*position);
        }
        if needed.is_empty() {
            self.scrub(id, sequence, row);
        } else if !gone.is_empty() {
            self.txn.put(HISTORY, history_key(sequence), row.encode());
        }
        for position in needed {
            self.change_entry(id, position, |row| row.discard = true)?;
        }
        Ok(gone.len())
    }

    /// Removes the plaintext of messages that aren't shown; with the last one the row goes.
    fn scrub(&mut self, id: ConversationId, sequence: u64, mut row: History) {
        let bundle = Bundle::decode(row.bundle.clone()).ok();
        let shown = |bundle: &Bundle| (0..).zip(&bundle.items).any(|(index, _)| !row.hidden.contains(&index));
        match bundle.filter(shown) {
            Some(mut bundle) => {
                for (index, item) in (0..).zip(&mut bundle.items) {
                    if row.hidden.contains(&index) {
                        item.body = Bytes::new();
                        item.content_type = String::new();
                    }
                }
                row.bundle = bundle.encode();
                self.txn.put(HISTORY, history_key(sequence), row.encode());
            }
            None => {
                if sequence == self.state.history {
                    // No later message may take its place in the order.
                    self.txn.put(META, Bytes::from_static(meta::HISTORY_END), sequence.to_be_bytes().to_vec());
                }
                self.txn.delete(HISTORY, history_key(sequence));
                self.txn.delete(HISTORY_HEADS, own_key(&id, sequence));
            }
        }
    }
}

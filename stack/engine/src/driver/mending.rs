//! Rows of own entries that are damaged, made again from what else the store says of them.

use std::collections::HashMap;
use std::time::Duration;

use peerloom_core::wire::store::{
    HISTORY, HISTORY_HEADS, History, HistoryHead, OUT_SEALED, OutCursor, OutEntry, OwnState, SealedEntry, key_order,
};
use peerloom_core::wire::{ConversationId, DeviceId, EntryClass, EntryId, Envelope, Position};
use peerloom_core::{KeyRange, Result};

use super::state::{history_key, own_key};
use crate::history::head_of;
use crate::store::{Txn, stored};

/// What the history says of own entries in a conversation.
#[derive(Default)]
pub(super) struct OwnHistory {
    by_sequence: HashMap<u64, HistoryHead>,
    by_position: HashMap<Position, u64>,
}

impl OwnHistory {
    /// Reads the heads of a conversation's history.
    pub(super) fn read(txn: &Txn<'_>, id: &ConversationId, own: DeviceId) -> Result<Self> {
        let mut all = Self::default();
        let prefix = KeyRange::prefix(id.as_bytes());
        let mut rest = Some(prefix);
        while let Some(range) = rest {
            let part;
            (part, rest) = txn.part(HISTORY_HEADS, &range)?;
            for row in part {
                if let Ok(head) = stored::<HistoryHead>(row.value) {
                    all.add(key_order(&row.key)?, head, own);
                }
            }
        }
        for key in txn.damaged_keys(HISTORY_HEADS, id.as_bytes())? {
            let sequence = key_order(&key)?;
            let row = txn.sound_record::<History>(HISTORY, &history_key(sequence))?;
            let again = row.and_then(|row| head_of(&row, &own));
            again.into_iter().for_each(|head| all.add(sequence, head, own));
        }
        Ok(all)
    }

    fn add(&mut self, sequence: u64, head: HistoryHead, own: DeviceId) {
        if head.device == own {
            self.by_position.insert(head.position, sequence);
            self.by_sequence.insert(sequence, head);
        }
    }
}

/// What is known of the log whose rows are damaged.
pub(super) struct Mending<'a, 't> {
    pub(super) txn: &'a Txn<'t>,
    pub(super) id: ConversationId,
    /// The rows that are whole.
    pub(super) sound: &'a [(Position, OutEntry)],
    pub(super) cursors: &'a HashMap<DeviceId, OutCursor>,
    /// The other devices in the conversation.
    pub(super) others: &'a [DeviceId],
    /// How long a message may wait.
    pub(super) ttl: Duration,
}

impl Mending<'_, '_> {
    /// An entry whose row is damaged; `None`: no device lacks it, so it is of no use any more.
    pub(super) fn entry(&self, position: Position, history: &OwnHistory) -> Result<Option<OutEntry>> {
        let lacks = |cursor: &OutCursor| position > cursor.through && !cursor.beyond.contains(position);
        let lacking: Vec<DeviceId> = self.cursors.iter().filter(|(_, c)| lacks(c)).map(|(device, _)| *device).collect();
        if lacking.is_empty() {
            return Ok(None);
        }
        let key = own_key(&self.id, position);
        let sealed = self.txn.sound_record::<SealedEntry>(OUT_SEALED, &key)?;
        let envelope = sealed.as_ref().and_then(|sealed| Envelope::decode(sealed.envelope.clone()).ok());
        let sequence = sealed.as_ref().map_or(0, |sealed| sealed.history);
        let sequence = if sequence > 0 { sequence } else { self.sequence(position, history) };
        let head = history.by_sequence.get(&sequence);
        // A copy that was sealed since carries the messages.
        let newer = |(at, other): &(Position, OutEntry)| *at > position && other.history == sequence;
        let carried = head.filter(|_| !self.sound.iter().any(newer));
        let delivered = carried.is_some_and(|head| head.state == Some(OwnState::Delivered));
        let expired = carried.is_some_and(|head| matches!(head.state, Some(OwnState::Failed(_))));
        let mut entry = match &envelope {
            Some(Envelope { header, .. }) => OutEntry {
                class: header.class,
                size: sealed.as_ref().map_or(0, |sealed| u32::try_from(sealed.envelope.len()).unwrap_or(u32::MAX)),
                expires_at_ms: header.expires_at_ms,
                messages: Vec::new(),
                recipients: self.others.iter().filter(|device| !header.excluded.contains(device)).copied().collect(),
                history: sequence,
                copies: self.copies(position, sequence),
                id: header.id(),
                left: true,
                expired,
                delivered,
                discard: false,
            },
            None => {
                // Only messages are in the history: they are sealed again for those that lack them.
                let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
                OutEntry {
                    class: if head.is_some() { EntryClass::Application } else { EntryClass::Handshake },
                    size: 0,
                    expires_at_ms: head.map_or(0, |head| head.stored_at_ms.saturating_add(ttl_ms)),
                    messages: Vec::new(),
                    recipients: lacking,
                    history: sequence,
                    copies: self.copies(position, sequence),
                    id: self.id_by_successor(position)?,
                    left: true,
                    expired,
                    delivered,
                    discard: false,
                }
            }
        };
        if let Some(head) = head.filter(|_| !expired) {
            entry.size = entry.size.saturating_add(head.size);
        }
        if let Some(head) = carried {
            // Where they failed, too: a receipt that comes late takes the failure back.
            entry.messages.clone_from(&head.messages);
        }
        Ok(Some(entry))
    }

    /// Where the history has the messages of an entry, by where it stood first or by its copies; 0 = nowhere.
    fn sequence(&self, position: Position, history: &OwnHistory) -> u64 {
        let copy = self.sound.iter().find(|(_, entry)| entry.copies.contains(&position));
        let first = history.by_position.get(&position).copied();
        copy.map(|(_, entry)| entry.history).or(first).unwrap_or(0)
    }

    fn copies(&self, position: Position, sequence: u64) -> Vec<Position> {
        let others = self.sound.iter().filter(|(_, entry)| sequence > 0 && entry.history == sequence);
        let mut copies: Vec<Position> = others
            .flat_map(|(at, entry)| entry.copies.iter().copied().chain([*at]))
            .filter(|at| *at != position)
            .collect();
        copies.sort_unstable();
        copies.dedup();
        copies
    }

    /// The id of an entry, which the next one's header names as its predecessor.
    fn id_by_successor(&self, position: Position) -> Result<EntryId> {
        let next = self.txn.sound_record::<SealedEntry>(OUT_SEALED, &own_key(&self.id, position + 1))?;
        let next = next.and_then(|sealed| Envelope::decode(sealed.envelope).ok());
        Ok(next.and_then(|envelope| envelope.header.previous).unwrap_or(EntryId::UNKNOWN))
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::wire::store::OUT_ENTRIES;

    use super::super::Turn;
    use super::super::resealing::tests::copies;
    use super::super::testing::{in_a_turn, meet, message};
    use super::*;

    /// What becomes of the entry at a position whose row is damaged, and perhaps its bytes as well.
    fn mended(turn: &mut Turn<'_>, id: ConversationId, position: Position, bytes_too: bool) -> Option<OutEntry> {
        turn.state.lazy_cursors.insert(id);
        turn.write_lazy();
        if bytes_too {
            turn.txn.delete(OUT_SEALED, own_key(&id, position));
        }
        let range = KeyRange::prefix(id.as_bytes());
        let rows = turn.txn.sound_records::<OutEntry>(OUT_ENTRIES, &range).unwrap().into_iter();
        let rows = rows.map(|(key, row)| (key_order(&key).unwrap(), row));
        let sound: Vec<(Position, OutEntry)> = rows.filter(|(at, _)| *at != position).collect();
        let cursors = turn.txn.sound_records::<OutCursor>(peerloom_core::wire::store::OUT_CURSORS, &range).unwrap();
        let device = |key: &[u8]| DeviceId::from_bytes(key[32..].try_into().unwrap());
        let cursors = cursors.into_iter().map(|(key, cursor)| (device(&key), cursor)).collect();
        let others = turn.state.device_ids_in(&id);
        let ttl = Duration::from_secs(60);
        let mending = Mending { txn: &turn.txn, id, sound: &sound, cursors: &cursors, others: &others, ttl };
        mending.entry(position, &OwnHistory::read(&turn.txn, &id, turn.state.own.device).unwrap()).unwrap()
    }

    #[test]
    fn an_entry_is_made_again_of_its_bytes_or_of_the_history() {
        for bytes_too in [false, true] {
            in_a_turn(|turn| {
                let (id, devices) = meet(turn, 1);
                turn.seal(id, vec![message(1, 10, u64::MAX / 2)]).unwrap();
                let position = turn.state.conversations[&id].outbox.head();
                let before = turn.txn.record::<OutEntry>(OUT_ENTRIES, &own_key(&id, position)).unwrap().unwrap();
                turn.seal(id, vec![message(2, 10, 0)]).unwrap();
                let again = mended(turn, id, position, bytes_too).expect("it is needed");
                assert_eq!((&again.messages, again.history), (&before.messages, before.history));
                assert_eq!((again.id, again.class), (before.id, before.class), "the next one names it");
                assert_eq!((again.recipients, again.expired), (vec![devices[0].0], false));
                assert!(again.expires_at_ms > 0, "it doesn't wait for ever");
            });
        }
    }

    #[test]
    fn what_had_failed_stays_failed() {
        in_a_turn(|turn| {
            let copies = copies(turn);
            assert_eq!(copies.expires(turn).len(), 1);
            let again = mended(turn, copies.id, copies.copy, true).expect("its end isn't known to all yet");
            assert!(again.expired && again.messages.len() == 1, "a late receipt takes the failure back: {again:?}");
            let again = mended(turn, copies.id, copies.first, true).expect("nor is its");
            assert!(again.messages.is_empty(), "its copy said so: {again:?}");
        });
    }

    /// The newest copy carries the messages, whichever row is damaged.
    #[test]
    fn messages_are_carried_once() {
        for bytes_too in [false, true] {
            in_a_turn(|turn| {
                let copies = copies(turn);
                let first = mended(turn, copies.id, copies.first, bytes_too).expect("it is needed");
                assert_eq!((first.messages.len(), &first.copies), (0, &vec![copies.copy]));
                let copy = mended(turn, copies.id, copies.copy, bytes_too).expect("it is needed");
                assert_eq!((copy.messages.len(), &copy.copies), (1, &vec![copies.first]));
                assert_eq!(copy.history, first.history);
            });
        }
    }

    #[test]
    fn what_no_device_lacks_is_of_no_use() {
        in_a_turn(|turn| {
            let (id, devices) = meet(turn, 1);
            turn.seal(id, vec![message(1, 10, 0)]).unwrap();
            let position = turn.state.conversations[&id].outbox.head();
            let conversation = turn.state.conversations.get_mut(&id).unwrap();
            conversation.outbox.remove_device(&devices[0].0);
            turn.txn.delete(
                peerloom_core::wire::store::OUT_CURSORS,
                super::super::conversation::cursor_key(&id, &devices[0].0),
            );
            assert_eq!(mended(turn, id, position, false), None);
        });
    }
}

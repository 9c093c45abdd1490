//! Messages that are sealed again: for devices that were added again and can't open what was sealed before, and where
//! an entry's bytes are lost.
//!
//! A copy has the same message ids, and names the positions where they stood, so that a device which had them hides
//! them. The newest copy carries the messages: what becomes of it decides what becomes of them.

use std::collections::BTreeMap;

use peerloom_core::wire::store::{HISTORY, History};
use peerloom_core::wire::{Bundle, ConversationId, MessageId, Position, limits};
use peerloom_core::{ErrorKind, Result};

use super::Turn;
use super::outgoing::{Contents, Sealed};
use super::session::KEY_PACKAGE_RETRY;
use super::state::{Conversation, TimerKey, history_key};

/// Why messages failed that can't be sealed again.
const LOST: &str = "its bytes in the store are damaged";

impl Turn<'_> {
    /// Seals again what is owed to devices, in the order in which it was first sealed and before anything newer, as much
    /// as the turn still may. The next turn goes on. Returns whether all of it is.
    pub(super) fn seal_again(&mut self, id: ConversationId) -> Result<bool> {
        let members = |c: &Conversation| c.members.as_ref().is_some_and(|m| !m.is_empty());
        // Nothing is appended after an entry whose id is unknown, as long as a device may show it.
        let ready = |c: &&Conversation| members(c) && c.outbox.knows_head();
        let Some(conversation) = self.state.conversations.get(&id).filter(ready) else {
            return Ok(false);
        };
        let owes = conversation.outbox.owes();
        let mut done = true;
        for (history, copies) in owed(conversation, self.now) {
            let Some(conversation) = self.state.conversations.get(&id).filter(|c| self.may_seal > 0 && members(c))
            else {
                self.state.timers.set(TimerKey::Pending(id), Some(self.now.mono));
                done = false;
                break;
            };
            let size = copies.iter().map(|position| conversation.outbox.size(*position)).max();
            self.may_seal = self.may_seal.saturating_sub(size.unwrap_or(0));
            match self.reseal(id, history, &copies) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    // The session was discarded. It is owed on, until there is another one.
                    self.state.timers.set(TimerKey::Session(id), Some(self.now.mono + KEY_PACKAGE_RETRY));
                    self.contain(Err(error))?;
                    done = false;
                    break;
                }
                outcome => outcome?,
            }
            if let Some(conversation) = self.state.conversations.get_mut(&id) {
                copies.iter().for_each(|position| conversation.outbox.on_sealed_again(*position));
            }
        }
        if owes {
            // In one batch with what was sealed, so that nothing of it is sealed twice.
            self.state.lazy_cursors.insert(id);
        }
        let outcome = self.state.conversations.get_mut(&id).map(|c| c.outbox.settle_before_joins());
        outcome.map_or(Ok(()), |outcome| self.on_settled(id, outcome))?;
        Ok(done)
    }

    /// Puts messages into a new entry, which carries them from then on. `copies`: the entries that hold them so far.
    /// Where the history has lost them, they fail.
    fn reseal(&mut self, id: ConversationId, history: u64, copies: &[Position]) -> Result<()> {
        let Some(conversation) = self.state.conversations.get(&id) else { return Ok(()) };
        let delivered = copies.iter().any(|position| conversation.outbox.was_delivered(*position));
        let expires_at_ms = copies.iter().map(|position| conversation.outbox.expiry(*position)).max().unwrap_or(0);
        let (mut messages, mut before): (Vec<MessageId>, Vec<Position>) = (Vec::new(), copies.to_vec());
        for entry in copies.iter().filter_map(|position| conversation.entries.get(position)) {
            messages.extend(entry.messages.iter().filter(|_| !delivered));
            before.extend(&entry.copies);
        }
        let row = self.txn.sound_record::<History>(HISTORY, &history_key(history))?;
        let Some(mut bundle) = row.and_then(|row| Bundle::decode(row.bundle).ok()) else {
            if !messages.is_empty() {
                self.fail(id, history, &messages, LOST);
            }
            copies.iter().try_for_each(|position| self.note_moved(id, *position, None))?;
            return Ok(());
        };
        let before = newest(before);
        bundle.items.iter_mut().for_each(|item| item.resealed_from.clone_from(&before));
        let contents = Contents { messages: &messages, expires_at_ms, history, copies: &before };
        let position = self.append(id, Sealed::Application { bundle: bundle.encode() }, contents, &[])?;
        copies.iter().try_for_each(|copy| self.note_moved(id, *copy, Some(position)))
    }

    /// An entry carries its messages no more: they ended, or stand at another position, too.
    pub(super) fn note_moved(&mut self, id: ConversationId, position: Position, to: Option<Position>) -> Result<()> {
        let Some(conversation) = self.state.conversations.get_mut(&id) else { return Ok(()) };
        conversation.outbox.on_moved(position);
        let Some(entry) = conversation.entries.get_mut(&position) else { return Ok(()) };
        entry.messages = [].into();
        entry.copies.extend(to);
        entry.copies = newest(std::mem::take(&mut entry.copies));
        let copies = entry.copies.clone();
        self.change_entry(id, position, |row| {
            row.messages.clear();
            row.copies = copies;
        })
    }
}

/// What is owed to devices: for each row of the history the entries that hold it.
fn owed(conversation: &Conversation, now: peerloom_delivery::Now) -> BTreeMap<u64, Vec<Position>> {
    let mut owed: BTreeMap<u64, Vec<Position>> = BTreeMap::new();
    let history = |position: &Position| conversation.entries.get(position).map_or(0, |entry| entry.history);
    for position in conversation.outbox.owed(now) {
        owed.entry(history(&position)).or_default();
    }
    // What the history doesn't have can't be sealed again.
    owed.remove(&0);
    if !owed.is_empty() {
        for (position, entry) in &conversation.entries {
            if let Some(copies) = owed.get_mut(&entry.history) {
                copies.push(*position);
            }
        }
    }
    owed
}

/// The positions in order, each once. Where there are too many, the oldest are the least likely to matter.
fn newest(mut positions: Vec<Position>) -> Vec<Position> {
    positions.sort_unstable();
    positions.dedup();
    positions.split_off(positions.len().saturating_sub(limits::RESEALED_FROM))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use peerloom_core::KeyRange;
    use peerloom_core::wire::store::{
        HISTORY_HEADS, HistoryHead, OUT_ENTRIES, OUT_SEALED, OutEntry, OwnState, PENDING_BODIES, Pending,
    };
    use peerloom_core::wire::{Ack, Chain, DeviceId, LogId, RangeSet, Stated};
    use peerloom_crypto_primitives::SigningKey;
    use peerloom_delivery::Now;

    use super::super::state::own_key;
    use super::super::testing::{Breaking, NOW, give_key_package, in_a_turn, in_a_turn_with, meet, message};
    use super::*;
    use crate::message::MessageState;

    const EXPIRY_MS: u64 = 5_000;
    const LATE: Now = Now { mono: Duration::from_secs(10), wall_ms: 10_000 };

    /// A contact's two devices, a message that both lack, and its copy, sealed when the second joined again.
    pub(in super::super) struct Copies {
        pub(in super::super) id: ConversationId,
        devices: Vec<(DeviceId, SigningKey)>,
        pub(in super::super) first: Position,
        pub(in super::super) copy: Position,
    }

    pub(in super::super) fn copies(turn: &mut Turn<'_>) -> Copies {
        let (id, devices) = meet(turn, 2);
        turn.seal(id, vec![message(1, 10, EXPIRY_MS)]).unwrap();
        let first = turn.state.conversations[&id].outbox.head();
        join_again(turn, id, devices[1].0);
        let copy = turn.state.conversations[&id].outbox.head();
        assert!(copy > first + 1, "sealed again after the join");
        Copies { id, devices, first, copy }
    }

    fn join_again(turn: &mut Turn<'_>, id: ConversationId, device: DeviceId) {
        turn.state.conversations.get_mut(&id).unwrap().rejoin.insert(device);
        give_key_package(turn, id, device);
        turn.prepare_session(id).unwrap();
    }

    impl Copies {
        /// A device acknowledges everything through a position.
        fn acks(&self, turn: &mut Turn<'_>, device: usize, through: Position) -> Vec<MessageState> {
            let (device, key) = &self.devices[device];
            let conversation = turn.state.conversations.get_mut(&self.id).unwrap();
            conversation.outbox.on_held(device, None);
            let row = turn.txn.record::<OutEntry>(OUT_ENTRIES, &own_key(&self.id, through)).unwrap().unwrap();
            let ack = Ack {
                log: LogId { device: turn.state.own.device, conversation: self.id },
                signer: *device,
                through,
                through_id: Some(row.id),
                beyond: Chain::default(),
                withdrawn: RangeSet::default(),
            };
            turn.on_ack(*device, &Stated::sign(ack, |message| key.sign(message))).unwrap();
            states(turn)
        }

        pub(in super::super) fn expires(&self, turn: &mut Turn<'_>) -> Vec<MessageState> {
            turn.now = LATE;
            turn.on_outbox_timer(self.id).unwrap();
            states(turn)
        }
    }

    /// The states that the turn reports of the one message.
    fn states(turn: &mut Turn<'_>) -> Vec<MessageState> {
        let one = |(messages, state): (Vec<MessageId>, MessageState)| {
            assert_eq!(messages.len(), 1);
            state
        };
        turn.effects.take_receipts().into_iter().map(one).collect()
    }

    /// How many entries the history has whose messages failed.
    fn failures(turn: &mut Turn<'_>) -> usize {
        turn.write_lazy();
        let heads = turn.txn.sound_records::<HistoryHead>(HISTORY_HEADS, &KeyRange::all()).unwrap();
        heads.iter().filter(|(_, head)| matches!(head.state, Some(OwnState::Failed(_)))).count()
    }

    /// Whichever of its copies is shown first, and whatever becomes of the others, a message is delivered once.
    #[test]
    fn a_message_with_copies_has_one_end() {
        use MessageState::Delivered;
        in_a_turn(|turn| {
            let copies = copies(turn);
            assert_eq!(copies.acks(turn, 1, copies.copy), [Delivered]);
            assert_eq!(copies.expires(turn), [], "the first one is withdrawn from the absent device, no more");
            assert_eq!(failures(turn), 0);
        });
        in_a_turn(|turn| {
            let copies = copies(turn);
            assert_eq!(copies.acks(turn, 1, copies.copy), [Delivered]);
            assert_eq!(copies.acks(turn, 0, copies.first), [], "it was delivered");
            assert_eq!(copies.acks(turn, 0, copies.copy), []);
            assert_eq!(turn.state.conversations[&copies.id].outbox.messages(), 0);
        });
        in_a_turn(|turn| {
            let copies = copies(turn);
            assert_eq!(copies.acks(turn, 0, copies.first), [Delivered], "where it stood first");
            assert_eq!(copies.acks(turn, 1, copies.copy), []);
            assert_eq!(copies.expires(turn), []);
        });
        in_a_turn(|turn| {
            let copies = copies(turn);
            let ended = copies.expires(turn);
            assert!(matches!(ended.as_slice(), [MessageState::Failed(_)]), "{ended:?}");
            assert_eq!(failures(turn), 1);
            assert_eq!(copies.acks(turn, 0, copies.first), [Delivered], "its receipt was late");
            assert_eq!(failures(turn), 0);
            assert_eq!(copies.acks(turn, 1, copies.copy), []);
        });
    }

    /// Nor is it delivered a second time where it had been delivered before it was sealed again.
    #[test]
    fn a_copy_of_what_was_delivered_reports_nothing() {
        in_a_turn(|turn| {
            let (id, devices) = meet(turn, 2);
            turn.seal(id, vec![message(1, 10, EXPIRY_MS)]).unwrap();
            let first = turn.state.conversations[&id].outbox.head();
            let mut copies = Copies { id, devices, first, copy: 0 };
            assert_eq!(copies.acks(turn, 0, first), [MessageState::Delivered]);
            join_again(turn, id, copies.devices[1].0);
            copies.copy = turn.state.conversations[&id].outbox.head();
            assert!(copies.copy > first + 1);
            assert_eq!(copies.acks(turn, 1, copies.copy), []);
            assert_eq!(copies.expires(turn), []);
        });
    }

    /// What both devices lack is sealed once for both, and each copy names all positions where it stood.
    #[test]
    fn copies_of_copies_name_them_all() {
        in_a_turn(|turn| {
            let copies = copies(turn);
            join_again(turn, copies.id, copies.devices[0].0);
            let newest = turn.state.conversations[&copies.id].outbox.head();
            let entries = &turn.state.conversations[&copies.id].entries;
            let carriers = entries.iter().filter(|(_, entry)| !entry.messages.is_empty());
            assert_eq!(carriers.map(|(position, _)| *position).collect::<Vec<_>>(), [newest]);
            assert_eq!(entries[&newest].copies, [copies.first, copies.copy]);
            assert_eq!(newest, copies.copy + 2, "a handshake, and one copy");
        });
    }

    /// A session that can't be used any more loses nothing: what is owed stays owed, what waits waits in its order.
    #[test]
    fn what_a_broken_session_could_not_seal_waits() {
        let crypto = Arc::new(Breaking::new(DeviceId::from_bytes([1; 32])));
        let given = crypto.clone();
        in_a_turn_with(
            move |_| given,
            |turn| {
                let (id, devices) = meet(turn, 2);
                turn.seal(id, vec![message(1, 10, EXPIRY_MS)]).unwrap();
                crypto.seals.store(0, Ordering::Relaxed);
                // A refresh moves the head although nothing is sealed.
                turn.state.conversations.get_mut(&id).unwrap().fresh = false;
                join_again(turn, id, devices[1].0);
                assert!(turn.state.conversations[&id].outbox.owes());
                assert_eq!((failures(turn), turn.effects.take_receipts().len()), (0, 0));

                crypto.seals.store(1, Ordering::Relaxed);
                devices.iter().for_each(|(device, _)| give_key_package(turn, id, *device));
                turn.prepare_session(id).unwrap();
                assert!(!turn.state.conversations[&id].outbox.owes());

                // The second entry can't be sealed, nor a new session be made: the error is the turn's to contain.
                crypto.seals.store(1, Ordering::Relaxed);
                crypto.prepares.store(0, Ordering::Relaxed);
                let large = limits::BUNDLE_TARGET;
                let queued: Vec<_> = (2..7).map(|number| message(number, large, EXPIRY_MS)).collect();
                let outcome = turn.seal(id, queued);
                assert_eq!(outcome.expect_err("no session").kind(), ErrorKind::Damaged);
                let waiting = turn.txn.scan(PENDING_BODIES, &KeyRange::all()).unwrap();
                let waiting: Vec<u8> = waiting
                    .into_iter()
                    .map(|row| crate::store::stored::<Pending>(row.value).unwrap().item.id.as_bytes()[0])
                    .collect();
                assert_eq!(waiting, [3, 4, 5, 6]);
                assert_eq!(turn.state.conversations[&id].pending, 4);

                // It is sound again: everything goes out, in order, and nothing twice.
                crypto.seals.store(u32::MAX, Ordering::Relaxed);
                crypto.prepares.store(u32::MAX, Ordering::Relaxed);
                devices.iter().for_each(|(device, _)| give_key_package(turn, id, *device));
                turn.state.up.insert(devices[0].0, peerloom_core::wire::UserId::from_bytes([9; 32]));
                turn.now = Now { mono: NOW.mono + KEY_PACKAGE_RETRY, ..NOW };
                turn.on_timers().unwrap();
                let conversation = &turn.state.conversations[&id];
                let carried = conversation.entries.values().flat_map(|entry| entry.messages.iter());
                let carried: Vec<u8> = carried.map(|message| message.as_bytes()[0]).collect();
                assert_eq!(carried, [1, 2, 3, 4, 5, 6]);
                assert!(conversation.pending == 0 && !conversation.outbox.owes());
                assert_eq!(failures(turn), 0);
            },
        );
    }

    /// The bytes of an entry are lost while there is no session: it is sealed again once there is one, and the old position
    /// holds nothing for anybody.
    #[test]
    fn what_lost_its_bytes_is_sealed_again_once_there_is_a_session() {
        in_a_turn(|turn| {
            let (id, devices) = meet(turn, 1);
            turn.seal(id, vec![message(1, 10, EXPIRY_MS), message(2, limits::BUNDLE_TARGET, 0)]).unwrap();
            let position = turn.state.conversations[&id].outbox.head() - 1;
            turn.txn.put(OUT_SEALED, own_key(&id, position), bytes::Bytes::from_static(b"damaged"));
            turn.state.lazy_cursors.insert(id);
            turn.write_lazy();
            turn.state.load_conversation(&turn.txn, id, NOW).unwrap();
            turn.state.recent = Default::default();
            let device = devices[0].0;
            let conversation = turn.state.conversations.get_mut(&id).unwrap();
            assert!(conversation.outbox.on_held(&device, None));
            assert!(conversation.members.is_none(), "no session");
            turn.state.ready.insert((id, device));
            turn.transmit().unwrap();
            assert!(turn.state.conversations[&id].outbox.owes());
            assert_eq!(failures(turn), 0);
            give_key_package(turn, id, device);
            turn.prepare_session(id).unwrap();
            turn.seal_pending(id).unwrap();
            let conversation = &turn.state.conversations[&id];
            assert!(!conversation.outbox.owes());
            let carriers: Vec<(Position, u8)> = conversation
                .entries
                .iter()
                .flat_map(|(p, entry)| entry.messages.iter().map(|message| (*p, message.as_bytes()[0])))
                .collect();
            assert!(carriers.iter().any(|(p, number)| *number == 1 && *p > position), "{carriers:?}");
            assert_eq!(carriers.len(), 2, "{carriers:?}");
        });
    }
}

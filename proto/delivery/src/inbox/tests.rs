//! What an inbox does with what comes early, late, twice or never.
#![cfg(test)]

mod gaps;
mod joins;
mod withdrawals;

use bytes::Bytes;
use peerloom_wire::{ConversationId, DeviceId, EntryClass, Header, RosterId, SuiteId};

use super::*;

const OWN: DeviceId = DeviceId::from_bytes([9; 32]);
const NOW: Now = Now { mono: Duration::ZERO, wall_ms: 0 };

fn at(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(seconds), wall_ms: 0 }
}

fn log() -> LogId {
    LogId { device: DeviceId::from_bytes([1; 32]), conversation: ConversationId::from_bytes([2; 32]) }
}

/// The entries of a log, in order from position 1. The log of a `fork` is another one from a
/// position on.
fn entries(fork: Option<Position>) -> Vec<SignedHeader> {
    let mut previous = None;
    let header = |position| {
        let payload = [u8::from(fork.is_some_and(|from| position >= from))];
        let header = Header {
            log: log(),
            position,
            class: EntryClass::Application,
            suite: SuiteId(1),
            expires_at_ms: 0,
            roster: RosterId::from_bytes([0; 32]),
            excluded: Vec::new(),
            joins: Vec::new(),
            previous,
        };
        let signed = header.sign(&payload, |_| Bytes::new());
        previous = Some(signed.id());
        signed
    };
    (1..12).map(header).collect()
}

fn entry(position: usize) -> SignedHeader {
    entries(None)[position - 1].clone()
}

fn withdrawn(first: Position, last: Position) -> Chain {
    let id = Some(entry(last as usize).id());
    [Span { first, last, previous: None, id }].into_iter().collect()
}

fn inbox() -> Inbox {
    let config = Config { max_parked: 3, ..Config::default() };
    Inbox::restore(log(), &config, InLog::default(), [], NOW)
}

fn joined() -> Inbox {
    let mut inbox = inbox();
    assert_eq!(inbox.on_entry(&entry(1), true, NOW), Arrival::Open);
    assert!(inbox.on_joined(&entry(1)).is_empty());
    assert_eq!(inbox.on_settled(&entry(1), NOW), None);
    inbox
}

#[test]
fn what_was_withdrawn_was_not_shown() {
    let mut inbox = joined();
    inbox.on_withdrawn(&withdrawn(2, 3), NOW);
    assert!(inbox.is_settled(2) && !inbox.was_shown(2) && !inbox.was_shown(3) && inbox.was_shown(1));
    // Nor after joining again.
    inbox.on_joined(&entry(6));
    assert!(!inbox.was_shown(2) && !inbox.was_shown(3) && inbox.was_shown(1));
}

/// More withdrawals than are remembered: what was sealed again is shown, rather twice than not at all.
#[test]
fn no_copy_of_what_was_withdrawn_is_hidden_however_many_there_are() {
    let mut inbox = joined();
    for round in 0..2 * limits::RANGES as u64 {
        let (gone, shown) = (2 * round + 2, 2 * round + 3);
        let span = Span { first: gone, last: gone, previous: None, id: None };
        inbox.on_withdrawn(&[span].into_iter().collect(), NOW);
        inbox.stored.beyond.insert(Span { first: shown, last: shown, previous: None, id: None });
        inbox.absorb();
    }
    let last = 4 * limits::RANGES as u64 + 1;
    assert_eq!(inbox.stored.through, last);
    for position in (2..last).step_by(2) {
        assert!(!inbox.was_shown(position), "{position}");
    }
    assert!(inbox.was_shown(last) && inbox.stored.withdrawn.iter().count() <= limits::RANGES);
}

#[test]
fn early_entries_wait_for_their_turn() {
    let mut inbox = joined();
    assert_eq!(inbox.on_entry(&entry(3), false, NOW), Arrival::Park);
    assert_eq!(inbox.on_entry(&entry(4), false, NOW), Arrival::Park);
    assert_eq!(inbox.on_entry(&entry(2), false, NOW), Arrival::Open);
    assert_eq!(inbox.on_settled(&entry(2), NOW), Some(3));
    assert_eq!(inbox.on_settled(&entry(3), NOW), Some(4));
    assert_eq!(inbox.on_settled(&entry(4), NOW), None);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (4, Some(entry(4).id())));
    assert_eq!(inbox.next_deadline(), None);
    assert_eq!(inbox.on_entry(&entry(4), false, NOW), Arrival::Duplicate);
}

#[test]
fn a_gap_is_asked_for_and_then_passed_over() {
    let mut inbox = joined();
    inbox.on_entry(&entry(4), false, NOW);
    assert_eq!(inbox.on_timer(at(1)), None);
    let missing: RangeSet = [2, 3].into_iter().collect();
    assert_eq!(inbox.on_timer(at(2)), Some(GapAction::Ask(missing.clone())));
    assert_eq!(inbox.on_timer(at(4)), Some(GapAction::OpenAhead { positions: vec![4], missing }));
    assert_eq!(inbox.on_settled(&entry(4), at(4)), None);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).beyond.id_at(4)), (1, Some(entry(4).id())));
    // The late ones still come in, each once.
    assert_eq!(inbox.on_entry(&entry(3), false, at(5)), Arrival::Park);
    assert_eq!(inbox.on_entry(&entry(2), false, at(5)), Arrival::Open);
    assert_eq!(inbox.on_settled(&entry(2), at(5)), Some(3));
    assert_eq!(inbox.on_settled(&entry(3), at(5)), None);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (4, Some(entry(4).id())));
}

#[test]
fn an_older_store_lacks_what_the_newer_acknowledged_and_a_damaged_one_recovers_it() {
    let mut newer = joined();
    newer.on_settled(&entry(2), NOW);
    newer.on_settled(&entry(5), NOW);
    newer.on_withdrawn(&withdrawn(6, 7), NOW);
    let acks = [joined().ack(OWN), newer.ack(OWN)];
    assert!(acks.iter().all(|ack| newer.knows(ack)), "what was acknowledged before is known for good");
    assert!(joined().knows(&acks[0]) && !joined().knows(&acks[1]) && !inbox().knows(&acks[0]));
    // The same positions as far as one goes, and another one beyond.
    let mut other = joined();
    other.on_settled(&entry(2), NOW);
    assert!(!other.knows(&acks[1]));
    // Rejoining leaves nothing unknown.
    let mut rejoined = newer;
    rejoined.on_joined(&entry(9));
    assert!(acks.iter().all(|ack| rejoined.knows(ack)));

    let mut damaged = inbox();
    damaged.recover(&acks[1], NOW);
    assert!(damaged.knows(&acks[1]) && damaged.is_settled(6) && !damaged.was_shown(6) && damaged.was_shown(5));
    assert_eq!(damaged.on_entry(&entry(3), false, NOW), Arrival::Open);
    assert_eq!(damaged.ack(OWN), acks[1]);
}

#[test]
fn parking_is_bounded() {
    let mut inbox = joined();
    assert!((3..6).all(|p| inbox.on_entry(&entry(p), false, NOW) == Arrival::Park));
    assert_eq!(inbox.on_entry(&entry(6), false, NOW), Arrival::NoRoom);
    assert_eq!(inbox.on_entry(&entry(5), false, NOW), Arrival::Park);
}

#[test]
fn joining_anew_voids_what_came_before() {
    let mut inbox = joined();
    inbox.on_entry(&entry(3), false, NOW);
    assert_eq!(inbox.on_entry(&entry(9), true, NOW), Arrival::Open);
    assert_eq!(inbox.on_joined(&entry(9)), [3]);
    assert_eq!(inbox.on_settled(&entry(9), NOW), None);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (9, Some(entry(9).id())));
    assert!(inbox.was_shown(1) && !inbox.was_shown(3) && !inbox.was_shown(0));
    // The old invitation into the log comes late: it changes nothing.
    assert_eq!(inbox.on_entry(&entry(1), true, NOW), Arrival::Duplicate);
    assert_eq!(inbox.on_entry(&entry(3), false, NOW), Arrival::Duplicate);
}

#[test]
fn a_log_that_never_let_us_in_is_parked() {
    let mut inbox = inbox();
    assert_eq!(inbox.on_entry(&entry(1), false, NOW), Arrival::Park);
    assert_eq!(inbox.on_timer(at(2)), Some(GapAction::Ask(RangeSet::default())));
    assert!(matches!(inbox.on_timer(at(4)), Some(GapAction::OpenAhead { .. })));
}

#[test]
fn other_bytes_at_a_known_position_are_a_conflict() {
    let forked = entries(Some(2));
    let mut inbox = joined();
    for position in [2, 3] {
        assert_eq!(inbox.on_entry(&entry(position), false, NOW), Arrival::Open);
        inbox.on_settled(&entry(position), NOW);
    }
    let before = inbox.take_dirty();
    // At the newest position, after it, and as an invitation to begin again.
    assert_eq!(inbox.on_entry(&forked[2], false, NOW), Arrival::Conflict);
    assert_eq!(inbox.on_entry(&forked[3], false, NOW), Arrival::Conflict);
    assert_eq!(inbox.on_entry(&forked[3], true, NOW), Arrival::Conflict);
    // Inside what is settled ids are no longer kept: the owner is shown the newest header.
    assert_eq!(inbox.on_entry(&forked[1], false, NOW), Arrival::Duplicate);
    assert!(before.is_some() && inbox.take_dirty().is_none(), "nothing changed");
    assert_eq!(inbox.newest(), Some(&entry(3)));
    assert_eq!(inbox.on_entry(&entry(4), false, NOW), Arrival::Open);
}

#[test]
fn a_gap_is_not_filled_from_another_log() {
    let forked = entries(Some(2));
    let mut inbox = joined();
    inbox.on_entry(&entry(3), false, NOW);
    inbox.on_settled(&entry(3), NOW);
    assert_eq!(inbox.on_entry(&forked[1], false, NOW), Arrival::Conflict);
    // What was parked before its neighbour came is checked before it is opened.
    assert!(!inbox.fits(&forked[3]) && inbox.fits(&entry(4)));
    // Nor by a withdrawal of the other log.
    let other = [Span { first: 2, last: 2, previous: None, id: Some(forked[1].id()) }].into_iter().collect();
    inbox.on_withdrawn(&other, NOW);
    assert_eq!(inbox.ack(OWN).through, 1);
    inbox.on_withdrawn(&withdrawn(2, 2), NOW);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (3, Some(entry(3).id())));
    assert_eq!(inbox.ack(OWN).withdrawn, [2].into_iter().collect(), "what was shown isn't called withdrawn");
}

#[test]
fn a_withdrawal_without_an_id_leaves_it_to_the_next_entry() {
    let mut inbox = joined();
    inbox.on_withdrawn(&[Span { first: 2, last: 3, previous: None, id: None }].into_iter().collect(), NOW);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (3, None));
    assert_eq!(inbox.on_entry(&entry(4), false, NOW), Arrival::Open);
    inbox.on_settled(&entry(4), NOW);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (4, Some(entry(4).id())));
}

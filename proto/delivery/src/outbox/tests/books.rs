//! What an outbox knows of its entries: positions, ids, sizes, messages.

use super::*;

#[test]
fn the_head_moves_with_each_entry_and_its_id_comes_when_it_is_sealed() {
    let mut outbox = Outbox::new(config());
    assert_eq!((outbox.head(), outbox.head_id(), outbox.previous()), (0, None, None));
    assert!(outbox.knows_head(), "nothing of an empty log is lost");
    let new =
        || NewEntry { class: EntryClass::Application, expires_at_ms: 0, recipients: &[FIRST], joins: &[], messages: 1 };
    for position in 1..4 {
        assert_eq!(outbox.append(new()), position);
        assert_eq!((outbox.head(), outbox.head_id()), (position, None));
        assert_eq!(outbox.previous(), Some(EntryId::UNKNOWN));
        assert!(!outbox.knows_head());
        outbox.set_sealed(position, id(position), 10);
        assert_eq!((outbox.head_id(), outbox.previous()), (Some(id(position)), Some(id(position))));
        assert!(outbox.knows_head());
    }
    outbox.set_sealed(2, id(9), 10);
    assert_eq!(outbox.head_id(), Some(id(3)), "an earlier entry is not the head");
}

#[test]
fn bytes_and_messages_are_those_of_the_entries_that_are_needed() {
    let mut outbox = log(&[(FIRST, USER)]);
    say(&mut outbox, &[FIRST]);
    say(&mut outbox, &[FIRST]);
    assert_eq!((outbox.bytes(), outbox.messages(), outbox.entries()), (2500, 4, 3));
    outbox.set_sealed(2, id(2), 700);
    assert_eq!((outbox.bytes(), outbox.size(2), outbox.size(3), outbox.size(4)), (2200, 700, 1000, 0));
    outbox.on_ack(&FIRST, &ack(2), at(0));
    assert_eq!((outbox.bytes(), outbox.messages(), outbox.entries()), (1000, 2, 1));
    outbox.on_ack(&FIRST, &ack(3), at(0));
    assert_eq!((outbox.bytes(), outbox.messages(), outbox.entries()), (0, 0, 0));
}

#[test]
fn messages_that_another_entry_carries_count_no_more() {
    let mut outbox = log(&[(FIRST, USER)]);
    let position = say(&mut outbox, &[FIRST]);
    say(&mut outbox, &[FIRST]);
    outbox.on_moved(position);
    assert_eq!((outbox.messages(), outbox.bytes()), (2, 2500), "the bytes stay");
    outbox.on_moved(position);
    assert_eq!(outbox.messages(), 2);
}

#[test]
fn an_entry_is_known_as_long_as_it_is_needed() {
    let mut outbox = log(&[(FIRST, USER)]);
    let position = say_until(&mut outbox, &[FIRST], 90_000);
    assert_eq!(outbox.class(1), Some(EntryClass::Handshake));
    assert_eq!(outbox.class(position), Some(EntryClass::Application));
    assert_eq!((outbox.expiry(position), outbox.expiry(1)), (90_000, 0));
    assert!(outbox.holds(position) && !outbox.holds(3));
    outbox.on_ack(&FIRST, &ack(position), at(0));
    assert!(!outbox.holds(position));
    assert_eq!((outbox.class(position), outbox.expiry(position)), (None, 0));
}

#[test]
fn a_withdrawal_is_bound_by_the_id_of_its_last_position() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, USER)]);
    for _ in 0..4 {
        say(&mut outbox, &[FIRST, SECOND]);
    }
    let bound: Vec<(Position, Position, Option<EntryId>)> =
        outbox.bind(&[1, 2, 5].into_iter().collect()).iter().map(|span| (span.first, span.last, span.id)).collect();
    assert_eq!(bound, [(1, 2, Some(id(2))), (5, 5, Some(id(5)))]);
    // Once both have settled the entries, the id of the head alone is known.
    outbox.on_ack(&FIRST, &ack(5), at(0));
    outbox.on_ack(&SECOND, &ack(5), at(0));
    let ids = |positions: [Position; 2]| {
        outbox.bind(&positions.into_iter().collect()).iter().map(|span| span.id).collect::<Vec<_>>()
    };
    assert_eq!(ids([2, 5]), [None, Some(id(5))]);
}

#[test]
fn only_application_entries_with_a_time_expire() {
    let mut outbox = Outbox::new(config());
    say(&mut outbox, &[FIRST]);
    assert_eq!(outbox.next_deadline(at(0)), None, "0 is never");
    append(&mut outbox, EntryClass::Handshake, &[FIRST], 5_000);
    assert_eq!(outbox.next_deadline(at(0)), None);
    say_until(&mut outbox, &[FIRST], 9_000);
    assert_eq!(outbox.next_deadline(at(3)), Some(at(9).mono), "by the wall clock");
    let late = Now { mono: Duration::from_secs(100), wall_ms: 7_000 };
    assert_eq!(outbox.next_deadline(late), Some(Duration::from_secs(102)));
    assert_eq!(outbox.on_timer(at(8), &mut rng()), []);
    assert_eq!(outbox.on_timer(at(9), &mut rng()).len(), 1);
    assert_eq!(outbox.next_deadline(at(9)), None);
}

#[test]
fn devices_are_those_that_the_log_knows() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, USER)]);
    assert_eq!(outbox.devices().collect::<Vec<_>>(), [FIRST, SECOND]);
    assert!(outbox.has_joined(&FIRST) && !outbox.has_joined(&THIRD));
    outbox.await_device(THIRD, OTHER);
    assert!(!outbox.has_joined(&THIRD) && outbox.devices().any(|device| device == THIRD));
    outbox.remove_device(&FIRST);
    assert!(!outbox.has_joined(&FIRST) && !outbox.is_up(&FIRST) && outbox.is_up(&SECOND));
}

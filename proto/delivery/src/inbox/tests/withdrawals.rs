//! What a log's owner takes back.

use super::*;

fn span(first: Position, last: Position, id: Option<EntryId>) -> Chain {
    [Span { first, last, previous: None, id }].into_iter().collect()
}

#[test]
fn a_withdrawal_settles_what_was_not_and_drops_what_was_parked() {
    let mut inbox = joined();
    for position in [3, 5, 7] {
        assert_eq!(inbox.on_entry(&entry(position), false, NOW), Arrival::Park);
    }
    inbox.take_dirty();
    let both = [
        Span { first: 1, last: 3, previous: None, id: Some(entry(3).id()) },
        Span { first: 5, last: 5, previous: None, id: Some(entry(5).id()) },
    ];
    assert_eq!(inbox.on_withdrawn(&both.into_iter().collect(), NOW), (vec![3, 5], None));
    let ack = inbox.ack(OWN);
    assert_eq!((ack.through, ack.through_id), (3, Some(entry(3).id())));
    assert_eq!(ack.withdrawn, [2, 3, 5].into_iter().collect(), "what was shown before stays shown");
    assert!(inbox.was_shown(1) && !inbox.was_shown(2) && inbox.is_settled(5) && !inbox.is_settled(6));
    assert!(inbox.take_dirty().is_some());
    assert_eq!(inbox.on_timer(at(2)), Some(GapAction::Ask([4, 6].into_iter().collect())));
    // With the next ones the turn of the parked one has come.
    assert_eq!(inbox.on_withdrawn(&withdrawn(4, 6), at(3)), (vec![], Some(7)));
}

#[test]
fn before_this_device_is_let_in_nothing_has_its_turn() {
    let mut inbox = inbox();
    assert_eq!(inbox.on_entry(&entry(2), false, NOW), Arrival::Park);
    assert_eq!(inbox.on_withdrawn(&withdrawn(1, 1), NOW), (vec![], None));
    assert!(!inbox.is_settled(1) && !inbox.was_shown(1), "there is no view yet that it could be settled in");
    assert_eq!(inbox.on_settled(&entry(2), NOW), None);
    assert_eq!(inbox.ack(OWN).through, 2);
}

#[test]
fn a_withdrawal_reaches_so_far_and_no_further() {
    let (far, id) = (NEAR + 2, Some(entry(3).id()));
    let mut inbox = joined();
    inbox.on_withdrawn(&span(2, far, id), NOW);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (far - 1, None), "the id is that of another");
    let mut inbox = joined();
    inbox.on_withdrawn(&span(2, far - 1, id), NOW);
    assert_eq!((inbox.ack(OWN).through, inbox.ack(OWN).through_id), (far - 1, id));
}

#[test]
fn a_withdrawal_that_contradicts_what_is_held_is_void() {
    let mut inbox = joined();
    inbox.on_settled(&entry(4), NOW);
    let other = Some(entries(Some(2))[3].id());
    assert_eq!(inbox.on_withdrawn(&span(2, 4, other), NOW), (vec![], None));
    assert_eq!(inbox.ack(OWN).through, 1);
    inbox.on_withdrawn(&span(2, 4, None), NOW);
    assert_eq!(inbox.ack(OWN).through, 4, "one without an id contradicts nothing");
    assert_eq!(inbox.ack(OWN).withdrawn, [2, 3].into_iter().collect());
}

#[test]
fn ranges_are_bounded_but_the_next_position_always_has_room() {
    let mut inbox = joined();
    let last = 2 * limits::RANGES as u64 + 1;
    for position in (3..=last).step_by(2) {
        inbox.on_withdrawn(&span(position, position, None), NOW);
    }
    assert!(inbox.is_settled(last), "so many ranges fit");
    inbox.on_withdrawn(&span(last + 2, last + 2, None), NOW);
    assert!(!inbox.is_settled(last + 2), "and no more");
    inbox.on_withdrawn(&span(2, 2, None), NOW);
    assert_eq!(inbox.ack(OWN).through, 3);
    inbox.on_withdrawn(&span(last + 2, last + 2, None), NOW);
    assert!(inbox.is_settled(last + 2));
}

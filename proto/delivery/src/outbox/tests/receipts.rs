//! What acknowledgements settle, deliver and end.

use peerloom_wire::Stated;

use super::*;

fn stated(ack: Ack) -> Stated<Ack> {
    Stated::sign(ack, |_| Bytes::from_static(b"signature"))
}

#[test]
fn an_acknowledgement_settles_what_it_names_by_our_ids() {
    let mut outbox = log(&[(FIRST, USER)]);
    for _ in 0..4 {
        say(&mut outbox, &[FIRST]);
    }
    outbox.take_dirty();
    let other = Ack { through_id: Some(id(9)), ..ack(3) };
    let unknown = Ack { through_id: None, ..ack(3) };
    for foreign in [other, unknown, ack(6)] {
        let outcome = outbox.on_ack(&FIRST, &foreign, at(0));
        assert_eq!(outcome, AckOutcome { conflict: true, ..AckOutcome::default() });
    }
    assert_eq!((outbox.take_dirty(), outbox.entries()), (vec![], 5));
    let mut half = ack_of(2, &[4], &[]);
    half.through_id = Some(id(9));
    let outcome = outbox.on_ack(&FIRST, &half, at(0));
    assert!(outcome.conflict && outcome.news);
    assert_eq!((outcome.delivered, outcome.settled), (vec![4], vec![]));
    assert_eq!(waiting(&outbox, &FIRST), [1, 2, 3, 5]);
    let outcome = outbox.on_ack(&FIRST, &ack(3), at(0));
    assert_eq!((outcome.news, outcome.conflict), (true, false));
    assert_eq!((outcome.delivered, outcome.settled), (vec![2, 3], vec![1, 2, 3, 4]));
    assert_eq!(outbox.take_dirty()[0].1.through, 4);
    // What is known already is no news, nor a conflict.
    assert_eq!(outbox.on_ack(&FIRST, &ack(3), at(0)), AckOutcome::default());
    assert_eq!(outbox.on_ack(&FIRST, &ack_of(4, &[3], &[]), at(0)), AckOutcome::default());
    assert_eq!(outbox.take_dirty(), []);
}

#[test]
fn nothing_is_settled_by_a_device_that_has_not_shown_what_it_holds() {
    let mut outbox = Outbox::new(config());
    join(&mut outbox, &[(FIRST, USER)]);
    assert_eq!(outbox.on_ack(&FIRST, &ack(1), at(0)), AckOutcome::default());
    assert!(outbox.on_held(&FIRST, None));
    assert_eq!(outbox.on_ack(&SECOND, &ack(1), at(0)), AckOutcome::default());
    assert_eq!(outbox.on_ack(&FIRST, &ack(1), at(0)).settled, [1]);
}

#[test]
fn a_message_is_delivered_once_a_device_of_each_user_shows_it() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, USER), (THIRD, OTHER)]);
    let position = say(&mut outbox, &[FIRST, SECOND, THIRD]);
    let handshake = append(&mut outbox, EntryClass::Handshake, &[FIRST, SECOND, THIRD], 0);
    assert_eq!(outbox.on_ack(&FIRST, &ack(handshake), at(0)).delivered, []);
    assert!(!outbox.was_delivered(position));
    assert_eq!(outbox.on_ack(&THIRD, &ack(handshake), at(0)).delivered, [position], "a handshake is no message");
    assert!(outbox.was_delivered(position) && outbox.holds(position));
    let outcome = outbox.on_ack(&SECOND, &ack(handshake), at(0));
    assert_eq!((outcome.delivered, outcome.settled), (vec![], vec![1, position, handshake]));
    assert!(!outbox.was_delivered(position), "it is forgotten");
}

#[test]
fn what_was_settled_unshown_is_not_delivered() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, USER)]);
    let (first, second) = (say(&mut outbox, &[FIRST, SECOND]), say(&mut outbox, &[FIRST, SECOND]));
    let theirs = say(&mut outbox, &[SECOND]);
    let outcome = outbox.on_ack(&FIRST, &ack_of(theirs, &[], &[first, theirs]), at(0));
    assert_eq!((outcome.delivered, outcome.undelivered), (vec![second], vec![]));
    let stored = outbox.take_dirty().into_iter().find(|(device, _)| *device == FIRST).expect("a cursor").1;
    assert_eq!(stored.void, [first].into_iter().collect(), "of what is for it");
    // The other device shows it after all.
    let outcome = outbox.on_ack(&SECOND, &ack(first), at(0));
    assert_eq!((outcome.delivered, outcome.settled), (vec![first], vec![1, first]));
    let stored = outbox.take_dirty().into_iter().find(|(device, _)| *device == SECOND).expect("a cursor").1;
    assert!(stored.void.is_empty());
}

#[test]
fn what_no_device_shows_ends_undelivered() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let position = say(&mut outbox, &[FIRST, SECOND]);
    let last = say(&mut outbox, &[FIRST, SECOND]);
    assert_eq!(outbox.on_ack(&FIRST, &ack_of(last, &[], &[position, last]), at(0)).undelivered, []);
    let outcome = outbox.on_ack(&SECOND, &ack_of(last, &[], &[position]), at(0));
    let ended = |position, left| Expired { position, delivered: false, left, settled: true };
    assert_eq!(outcome.undelivered, [ended(position, false), ended(last, true)], "one was shown to a user");
    assert_eq!((outcome.settled, outbox.entries()), (vec![1], 0));
}

#[test]
fn what_was_shown_is_not_made_unshown_by_a_later_word() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    for _ in 0..4 {
        say(&mut outbox, &[FIRST, SECOND]);
    }
    assert_eq!(outbox.on_ack(&FIRST, &ack(3), at(0)).delivered, []);
    // An older copy of its store names more than is settled since, in one span.
    let span = Span { first: 2, last: 5, previous: None, id: Some(id(5)) };
    let later = Ack { beyond: [span].into_iter().collect(), ..ack_of(1, &[], &[2, 3, 4]) };
    assert!(outbox.on_ack(&FIRST, &later, at(0)).news);
    let stored = outbox.take_dirty().into_iter().find(|(device, _)| *device == FIRST).expect("a cursor").1;
    assert_eq!((stored.through, stored.void), (5, [4].into_iter().collect()));
    assert_eq!(outbox.on_ack(&SECOND, &ack(5), at(0)).delivered, [2, 3, 5]);
}

#[test]
fn unshown_positions_are_forgotten_with_their_entries() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let (first, second) = (say(&mut outbox, &[FIRST, SECOND]), say(&mut outbox, &[FIRST, SECOND]));
    outbox.on_ack(&SECOND, &ack(first), at(0));
    outbox.on_ack(&FIRST, &ack_of(second, &[], &[first, second]), at(0));
    let stored = outbox.take_dirty().into_iter().find(|(device, _)| *device == FIRST).expect("a cursor").1;
    assert_eq!(stored.void, [second].into_iter().collect());
    assert_eq!(outbox.entries(), 1);
}

#[test]
fn a_device_that_leaves_needs_nothing_any_more() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let (first, second) = (say(&mut outbox, &[FIRST, SECOND]), say(&mut outbox, &[FIRST, SECOND]));
    outbox.on_ack(&FIRST, &ack(first), at(0));
    assert_eq!(outbox.remove_device(&THIRD), AckOutcome::default());
    let outcome = outbox.remove_device(&SECOND);
    assert_eq!((outcome.delivered, outcome.settled), (vec![first], vec![1, first]));
    assert!(outbox.holds(second));
    assert_eq!(outbox.remove_device(&SECOND), AckOutcome::default());
    // With the last one goes everything; nobody is left who could show it.
    let outcome = outbox.remove_device(&FIRST);
    assert_eq!((outcome.delivered, outcome.undelivered.len(), outbox.entries()), (vec![], 1, 0));
}

#[test]
fn the_newest_acknowledgement_of_a_device_is_kept() {
    let mut outbox = log(&[(FIRST, USER)]);
    outbox.take_dirty();
    assert_eq!((outbox.acknowledged(&FIRST), outbox.acknowledged(&SECOND)), (None, None));
    let [old, same, new] = [ack_of(1, &[], &[]), ack_of(2, &[], &[]), ack_of(2, &[4], &[])].map(stated);
    outbox.keep_ack(&FIRST, &same);
    outbox.keep_ack(&FIRST, &old);
    assert_eq!(outbox.acknowledged(&FIRST), Some(&same), "of two copies of a store the one ahead counts");
    outbox.keep_ack(&FIRST, &new);
    assert_eq!(outbox.acknowledged(&FIRST), Some(&new));
    outbox.keep_ack(&SECOND, &new);
    assert_eq!(outbox.acknowledged(&SECOND), None);
    assert_eq!(outbox.take_dirty()[0].1.acknowledged, Some(new.clone()));
    join(&mut outbox, &[(FIRST, USER)]);
    assert_eq!(outbox.acknowledged(&FIRST), Some(&new), "joining again leaves it");
}

#[test]
fn a_halted_device_needs_no_word_of_what_holds_nothing_for_it() {
    let mut outbox = Outbox::new(Config { max_rejoins: 0, ..config() });
    join(&mut outbox, &[(FIRST, USER), (SECOND, OTHER)]);
    assert!(outbox.on_held(&FIRST, None));
    let both = say(&mut outbox, &[FIRST, SECOND]);
    let mine = say(&mut outbox, &[FIRST]);
    let expiring = say_until(&mut outbox, &[FIRST, SECOND], 5_000);
    outbox.on_cannot_open(&SECOND, both, id(both), at(0));
    outbox.on_timer(at(5), &mut rng());
    let outcome = outbox.on_ack(&FIRST, &ack(expiring), at(5));
    assert_eq!(outcome.settled, [mine, expiring]);
    assert!(outbox.holds(both) && outbox.holds(1));
}

//! Devices that are let in, again or for the first time, and what is sealed again for them.

use super::*;

#[test]
fn a_device_that_joins_again_gets_the_log_from_there_on() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let positions: Vec<Position> = (0..4).map(|_| say(&mut outbox, &[FIRST, SECOND])).collect();
    sent(&mut outbox, &FIRST, at(0));
    outbox.on_ack(&FIRST, &ack_of(2, &[4], &[]), at(0));
    outbox.take_dirty();
    let base = join(&mut outbox, &[(FIRST, USER)]);
    assert_eq!(outbox.in_flight(&FIRST), (0, 0));
    let later = say(&mut outbox, &[FIRST, SECOND]);
    assert_eq!(owed(&outbox), [3, 5]);
    assert_eq!(waiting(&outbox, &FIRST), [3, 5, base, later]);
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([base, later]));
    assert_eq!(outbox.in_flight(&FIRST), (1500, 2));
    let dirty = outbox.take_dirty();
    assert_eq!(
        dirty.iter().map(|(device, stored)| (*device, stored.base, stored.through)).collect::<Vec<_>>(),
        [(FIRST, base, base - 1)]
    );
    assert_eq!(waiting(&outbox, &SECOND), [[1].as_slice(), &positions, &[later]].concat());
    assert_eq!(outbox.take_dirty(), []);
}

#[test]
fn a_device_that_joined_again_may_ask_at_once() {
    let mut outbox = log(&[(FIRST, USER)]);
    let asked = |position| [position].into_iter().collect::<RangeSet>();
    outbox.on_ack(&FIRST, &ack(1), at(10));
    assert_eq!(outbox.on_gap_request(&FIRST, &asked(1), at(10)), asked(1));
    assert_eq!(outbox.on_gap_request(&FIRST, &asked(1), at(10)), RangeSet::default());
    join(&mut outbox, &[(FIRST, USER)]);
    assert_eq!(outbox.on_gap_request(&FIRST, &asked(1), at(10)), asked(1));
}

#[test]
fn a_device_that_was_awaited_is_owed_what_was_sealed_meanwhile() {
    let mut outbox = log(&[(FIRST, USER)]);
    let before = say(&mut outbox, &[FIRST]);
    outbox.await_device(SECOND, OTHER);
    outbox.await_device(FIRST, OTHER);
    assert!(outbox.has_joined(&FIRST), "it is in already");
    let awaited = status(&outbox, &SECOND);
    assert_eq!((awaited.halted, awaited.stalled, awaited.next_try), (Some(Halt::NotJoined), true, None));
    assert_eq!(outbox.halted().collect::<Vec<_>>(), [SECOND]);
    let meanwhile = say(&mut outbox, &[FIRST, SECOND]);
    assert!(outbox.on_held(&SECOND, None) && sent(&mut outbox, &SECOND, at(0)).is_empty());
    let outcome = outbox.on_ack(&FIRST, &ack(meanwhile), at(0));
    assert_eq!((outcome.delivered, outcome.settled), (vec![before], vec![1, before]));
    assert!(outbox.holds(meanwhile) && outbox.bytes() == 1000 && !outbox.owes());
    let base = join(&mut outbox, &[(SECOND, OTHER)]);
    assert_eq!(status(&outbox, &SECOND).halted, None);
    assert_eq!(owed(&outbox), [meanwhile]);
    assert_eq!(sent(&mut outbox, &SECOND, at(0)), entries([base]));
    outbox.on_sealed_again(meanwhile);
    assert!(!outbox.owes());
    assert_eq!(outbox.settle_before_joins().settled, [meanwhile]);
}

#[test]
fn what_has_expired_or_is_no_message_is_owed_to_nobody() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let message = say_until(&mut outbox, &[FIRST], 5_000);
    append(&mut outbox, EntryClass::Handshake, &[FIRST, SECOND], 0);
    say(&mut outbox, &[SECOND]);
    join(&mut outbox, &[(FIRST, USER)]);
    let owed = |seconds| outbox.owed(at(seconds)).into_iter().collect::<Vec<_>>();
    assert_eq!(owed(4), [message]);
    assert_eq!(owed(5), [], "its time is over, whether it was withdrawn yet or not");
}

#[test]
fn nothing_is_owed_once_all_of_it_has_ended() {
    let mut outbox = log(&[(FIRST, USER)]);
    let first = say_until(&mut outbox, &[FIRST], 5_000);
    let second = say_until(&mut outbox, &[FIRST], 9_000);
    join(&mut outbox, &[(FIRST, USER)]);
    outbox.take_dirty();
    outbox.on_timer(at(5), &mut rng());
    assert!(!outbox.holds(first));
    assert_eq!(outbox.settle_before_joins().settled, [1]);
    assert!(outbox.owes() && outbox.take_dirty().is_empty(), "nothing changed");
    outbox.on_timer(at(9), &mut rng());
    assert!(!outbox.holds(second));
    outbox.settle_before_joins();
    assert!(!outbox.owes());
    assert_eq!(outbox.take_dirty().len(), 1);
    outbox.settle_before_joins();
    assert_eq!(outbox.take_dirty(), [], "a second time there is nothing to do");
}

#[test]
fn the_entry_that_lets_devices_in_is_not_settled_by_it() {
    let mut outbox = settled_log();
    let mut others = Outbox::new(config());
    let position = say(&mut others, &[FIRST]);
    others.on_moved(position);
    assert_eq!(others.settle_before_joins().settled, [], "the newest entry stays");
    say(&mut others, &[FIRST]);
    assert_eq!(others.settle_before_joins().settled, [position]);
    assert_eq!(outbox.settle_before_joins(), AckOutcome::default());
}

#[test]
fn what_is_sealed_again_was_not_shown_where_it_was() {
    let mut outbox = log(&[(FIRST, USER)]);
    let first = say(&mut outbox, &[FIRST]);
    let second = say(&mut outbox, &[FIRST]);
    join(&mut outbox, &[(FIRST, USER)]);
    assert!(!outbox.was_delivered(first));
    outbox.take_dirty();
    outbox.on_sealed_again(first);
    let stored = outbox.take_dirty().pop().expect("a change").1;
    assert_eq!((owed(&outbox), outbox.messages()), (vec![second], 2));
    assert!(!stored.owed.contains(first) && stored.void.contains(first) && !stored.void.contains(second));
    outbox.on_sealed_again(first);
    assert_eq!(outbox.take_dirty(), [], "once is enough");
}

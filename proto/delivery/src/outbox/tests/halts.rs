//! Devices that can't open what they get, and those that stay away.

use super::*;
use CannotOpenOutcome::{AddAgain, Halted, Nothing};

#[test]
fn a_complaint_counts_only_about_what_the_device_lacks() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let (third, last) = (say(&mut outbox, &[FIRST, SECOND]), say(&mut outbox, &[FIRST, SECOND]));
    join(&mut outbox, &[(SECOND, OTHER)]);
    outbox.on_ack(&FIRST, &ack_of(0, &[third], &[]), at(0));
    for (device, position, named) in
        [(FIRST, last, third), (FIRST, third, third), (THIRD, last, last), (SECOND, last, last), (FIRST, 9, 9)]
    {
        assert_eq!(outbox.on_cannot_open(&device, position, id(named), at(0)), Nothing, "{position}");
    }
    outbox.take_dirty();
    assert_eq!(outbox.on_cannot_open(&SECOND, 4, id(4), at(0)), AddAgain, "where its view begins it may complain");
    assert_eq!(outbox.on_cannot_open(&FIRST, last, id(last), at(0)), AddAgain);
    let rejoins: Vec<u32> = outbox.take_dirty().iter().map(|(_, stored)| stored.rejoins).collect();
    assert_eq!(rejoins, [1, 1], "it is stored how often");
}

#[test]
fn a_device_is_added_again_so_often_and_then_halted() {
    let mut outbox = Outbox::new(Config { max_rejoins: 2, ..config() });
    join(&mut outbox, &[(FIRST, USER)]);
    let position = say(&mut outbox, &[FIRST]);
    outbox.wake(at(0));
    let mut complain = || outbox.on_cannot_open(&FIRST, position, id(position), at(0));
    assert_eq!([complain(), complain(), complain(), complain()], [AddAgain, AddAgain, Halted, Nothing]);
    assert_eq!(outbox.next_deadline(at(0)), None);
    let status = status(&outbox, &FIRST);
    assert_eq!((status.halted, status.stalled), (Some(Halt::CannotOpen), true));
    assert_eq!(outbox.halted().collect::<Vec<_>>(), [FIRST]);
    outbox.on_link_down(&FIRST, at(0), &mut rng());
    assert_eq!((outbox.next_deadline(at(0)), outbox.retry(at(0))), (None, 0));
    assert!(outbox.on_held(&FIRST, None));
    assert!(outbox.status(at(0))[0].stalled && sent(&mut outbox, &FIRST, at(0)).is_empty());
}

#[test]
fn the_budget_over_time_halts_too_and_says_why() {
    let mut outbox = Outbox::new(Config { rejoins_at_once: 0, ..config() });
    join(&mut outbox, &[(FIRST, USER)]);
    assert_eq!(outbox.on_cannot_open(&FIRST, 1, id(1), at(0)), Halted);
    assert_eq!(outbox.halt(&FIRST), Some(Halt::CannotOpen));
}

#[test]
fn opening_something_forgives_what_went_wrong_before() {
    let mut outbox = Outbox::new(Config { max_rejoins: 1, ..config() });
    join(&mut outbox, &[(FIRST, USER)]);
    assert!(outbox.on_held(&FIRST, None));
    let complain = |outbox: &mut Outbox, position| outbox.on_cannot_open(&FIRST, position, id(position), at(0));
    let first = say(&mut outbox, &[FIRST]);
    assert_eq!(complain(&mut outbox, first), AddAgain);
    let base = join(&mut outbox, &[(FIRST, USER)]);
    let opened = say(&mut outbox, &[FIRST]);
    outbox.on_ack(&FIRST, &ack(opened), at(0));
    let second = say(&mut outbox, &[FIRST]);
    assert_eq!(complain(&mut outbox, second), AddAgain);
    // The entry that lets it in isn't what it has to open.
    assert!(base < opened);
    let base = join(&mut outbox, &[(FIRST, USER)]);
    outbox.on_ack(&FIRST, &ack(base), at(0));
    let third = say(&mut outbox, &[FIRST]);
    assert_eq!(complain(&mut outbox, third), Halted);
}

#[test]
fn a_halted_device_may_be_added_again_as_often_as_the_budget_allows() {
    let mut outbox = Outbox::new(Config { max_rejoins: 0, rejoins_at_once: 2, ..config() });
    join(&mut outbox, &[(FIRST, USER)]);
    outbox.await_device(SECOND, OTHER);
    assert!(!outbox.resume(&FIRST, true, at(0)), "it isn't halted");
    assert!(!outbox.resume(&SECOND, true, at(0)), "it isn't let in yet");
    assert!(!outbox.resume(&THIRD, true, at(0)), "it isn't known");
    assert_eq!(outbox.on_cannot_open(&FIRST, 1, id(1), at(0)), Halted);
    outbox.take_dirty();
    let mut resume = |asked, now| outbox.resume(&FIRST, asked, at(now));
    assert_eq!([resume(false, 0), resume(false, 0), resume(false, 0)], [true, true, false]);
    assert!(!resume(false, 599) && resume(false, 600) && !resume(false, 600));
    assert!(resume(true, 600) && resume(false, 600) && !resume(false, 600), "the user's word fills it");
    let cursors = outbox.take_dirty();
    assert_eq!((cursors.len(), cursors[0].1.rejoins, cursors[0].1.halted), (1, 0, true));
    assert!(outbox.is_halted(&FIRST) && outbox.is_halted(&SECOND) && !outbox.is_halted(&THIRD));
    assert_eq!(outbox.halt(&SECOND), Some(Halt::NotJoined));
}

#[test]
fn those_that_lack_an_entry_are_its_recipients_that_have_not_settled_it() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER), (THIRD, OTHER)]);
    let position = say(&mut outbox, &[FIRST, SECOND]);
    assert_eq!(outbox.lacking(position), [FIRST, SECOND]);
    outbox.on_ack(&FIRST, &ack(position), at(0));
    assert_eq!((outbox.lacking(position), outbox.lacking(9)), (vec![SECOND], vec![]));
    assert_eq!(outbox.lacking(1), [SECOND, THIRD]);
    // What is owed to it, it lacks.
    join(&mut outbox, &[(SECOND, OTHER)]);
    assert_eq!(outbox.lacking(position), [SECOND]);
    outbox.on_sealed_again(position);
    assert_eq!(outbox.lacking(position), []);
}

#[test]
fn only_lost_messages_are_owed() {
    let mut outbox = log(&[(FIRST, USER)]);
    let handshake = append(&mut outbox, EntryClass::Handshake, &[FIRST], 0);
    let message = say(&mut outbox, &[FIRST]);
    let moved = say(&mut outbox, &[FIRST]);
    let expired = say_until(&mut outbox, &[FIRST], 5_000);
    outbox.on_moved(moved);
    outbox.on_timer(at(5), &mut rng());
    sent(&mut outbox, &FIRST, at(5));
    outbox.take_dirty();
    assert_eq!(outbox.on_lost(handshake), [FIRST], "it has to be added again");
    for position in [moved, expired, 99] {
        assert_eq!(outbox.on_lost(position), []);
    }
    assert!(!outbox.owes() && outbox.take_dirty().is_empty());
    assert_eq!(outbox.on_lost(message), []);
    assert_eq!(outbox.take_dirty().len(), 1);
    assert_eq!((owed(&outbox), outbox.owes()), (vec![message], true));
    assert_eq!(
        sent(&mut outbox, &FIRST, at(5)),
        [
            Transmit::NotForYou(handshake),
            Transmit::NotForYou(message),
            Transmit::NotForYou(moved),
            Transmit::Withdrawal(expired)
        ]
    );
}

#[test]
fn what_was_lost_before_a_device_joined_again_stays_owed_and_is_not_sent() {
    let mut outbox = log(&[(FIRST, USER)]);
    let message = say(&mut outbox, &[FIRST]);
    let base = join(&mut outbox, &[(FIRST, USER)]);
    assert_eq!(outbox.on_lost(message), []);
    assert_eq!(owed(&outbox), [message]);
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([base]));
}

/// A log that one device of a user has as far as `has`, and the other, without a link, not at all.
fn away(config: Config, has: Position, messages: usize) -> Outbox {
    let mut outbox = Outbox::new(config);
    join(&mut outbox, &[(FIRST, USER), (SECOND, USER)]);
    assert!(outbox.on_held(&FIRST, None));
    for _ in 0..messages {
        say(&mut outbox, &[FIRST, SECOND]);
    }
    outbox.on_ack(&FIRST, &ack(has), at(0));
    outbox
}

#[test]
fn an_absent_device_gives_room_unless_it_alone_lacks_too_much() {
    for (window_entries, freed) in [(2, vec![1, 2, 3]), (1, vec![])] {
        let mut outbox = away(Config { window_entries, ..config() }, 3, 4);
        outbox.take_dirty();
        assert_eq!(outbox.oldest_waiting(), Some((4, FIRST)));
        assert_eq!(outbox.make_room(at(0)), freed);
        let halted = !freed.is_empty();
        assert_eq!(outbox.is_halted(&SECOND), halted);
        assert_eq!(outbox.halt(&SECOND), halted.then_some(Halt::Away));
        assert_eq!(outbox.take_dirty().len(), usize::from(halted), "the halt is stored");
        assert_eq!(outbox.entries(), if halted { 2 } else { 5 });
        assert!(!outbox.is_halted(&FIRST), "a device with a link is not away");
    }
}

#[test]
fn a_device_that_lacks_nothing_but_what_its_user_lacks_is_not_given_up() {
    let mut outbox = Outbox::new(config());
    let base = join(&mut outbox, &[(FIRST, USER)]);
    assert!(outbox.on_held(&FIRST, None));
    outbox.on_ack(&FIRST, &ack(base), at(0));
    outbox.on_link_down(&FIRST, at(0), &mut rng());
    say(&mut outbox, &[FIRST]);
    assert_eq!(outbox.make_room(at(0)), []);
    assert!(!outbox.is_halted(&FIRST) && outbox.oldest_waiting() == Some((2, FIRST)));
}

#[test]
fn linked_devices_keep_their_entries() {
    let mut outbox = away(config(), 3, 4);
    assert!(outbox.on_held(&SECOND, None));
    assert_eq!(outbox.make_room(at(0)), []);
    assert_eq!((outbox.entries(), outbox.is_halted(&SECOND)), (5, false));
}

#[test]
fn room_is_looked_for_once_in_a_second() {
    let mut outbox = away(config(), 3, 4);
    assert_eq!(outbox.make_room(at(10)), [1, 2, 3]);
    outbox.on_ack(&FIRST, &ack(4), at(10));
    let soon = Now { mono: Duration::from_millis(10_999), wall_ms: 0 };
    assert_eq!(outbox.make_room(soon), []);
    assert_eq!(outbox.make_room(at(11)), [4]);
}

#[test]
fn the_oldest_entry_that_waits_is_one_that_a_user_would_miss() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    assert_eq!(outbox.oldest_waiting(), None, "a handshake isn't missed");
    let moved = say(&mut outbox, &[FIRST, SECOND]);
    say_until(&mut outbox, &[FIRST, SECOND], 5_000);
    let delivered = say(&mut outbox, &[FIRST]);
    let last = say(&mut outbox, &[SECOND]);
    outbox.on_moved(moved);
    outbox.on_timer(at(5), &mut rng());
    assert_eq!(outbox.oldest_waiting(), Some((delivered, FIRST)));
    outbox.on_ack(&FIRST, &ack_of(0, &[delivered], &[]), at(5));
    assert_eq!(outbox.oldest_waiting(), Some((last, SECOND)));
}

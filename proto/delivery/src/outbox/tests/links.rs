//! What goes over a link: in which order, how often, and from where on again.

use super::*;

#[test]
fn nothing_leaves_before_the_device_has_shown_what_it_holds() {
    let mut outbox = Outbox::new(config());
    join(&mut outbox, &[(FIRST, USER)]);
    let position = say(&mut outbox, &[FIRST]);
    assert!(!outbox.is_up(&FIRST) && sent(&mut outbox, &FIRST, at(0)).is_empty());
    assert!(outbox.on_held(&FIRST, None) && outbox.is_up(&FIRST));
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([1, position]));
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), [], "each once");
    assert!(outbox.on_held(&FIRST, Some(&header(1))));
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), [], "the link is the same");
    // A device that the log doesn't know has a link, and gets nothing.
    assert!(outbox.on_held(&SECOND, None) && outbox.is_up(&SECOND));
    assert_eq!((sent(&mut outbox, &SECOND, at(0)), outbox.in_flight(&SECOND)), (vec![], (0, 0)));
}

#[test]
fn a_new_link_begins_with_what_is_not_settled() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    for _ in 0..4 {
        say(&mut outbox, &[FIRST, SECOND]);
    }
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries(1..6));
    outbox.on_ack(&FIRST, &ack_of(2, &[4], &[]), at(0));
    assert_eq!(outbox.in_flight(&FIRST), (2000, 2));
    assert_eq!(waiting(&outbox, &FIRST), [3, 5]);
    outbox.on_link_down(&FIRST, at(0), &mut rng());
    assert!(!outbox.is_up(&FIRST) && sent(&mut outbox, &FIRST, at(0)).is_empty());
    assert!(outbox.on_held(&FIRST, None));
    assert_eq!((outbox.in_flight(&FIRST), outbox.next_deadline(at(0))), ((0, 0), None));
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([3, 5]));
    assert_eq!(outbox.in_flight(&FIRST), (2000, 2));
    assert_eq!(outbox.in_flight(&SECOND), (0, 0));
}

#[test]
fn what_is_acknowledged_ahead_of_what_was_sent_is_not_sent() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    for _ in 0..3 {
        say(&mut outbox, &[FIRST, SECOND]);
    }
    // It has them from an earlier link.
    outbox.on_ack(&FIRST, &ack(3), at(0));
    assert_eq!(outbox.in_flight(&FIRST), (0, 0));
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([4]));
    assert_eq!(outbox.in_flight(&FIRST), (1000, 1));
}

#[test]
fn a_full_window_holds_back_what_follows() {
    let mut outbox = log(&[(FIRST, USER)]);
    for _ in 0..2 {
        say(&mut outbox, &[FIRST]);
    }
    let config = Config { window_bytes: 1600, ..config() };
    let mut window = Window::new(&config);
    let mut next = |outbox: &mut Outbox| outbox.transmit(&FIRST, at(0), &mut window);
    assert_eq!(
        [next(&mut outbox), next(&mut outbox), next(&mut outbox)],
        [Some(Transmit::Entry(1)), Some(Transmit::Entry(2)), None]
    );
    assert!(window.is_full());
    assert_eq!(outbox.transmit(&FIRST, at(0), &mut Window::new(&config)), Some(Transmit::Entry(3)));
}

#[test]
fn a_link_that_takes_over_begins_again() {
    for shown in [true, false] {
        let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
        for _ in 0..2 {
            say(&mut outbox, &[FIRST, SECOND]);
        }
        assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([1, 2, 3]));
        outbox.on_ack(&FIRST, &ack(1), at(0));
        outbox.on_link_replaced(&FIRST, shown);
        assert_eq!(outbox.in_flight(&FIRST), (0, 0));
        assert_eq!((outbox.is_up(&FIRST), outbox.is_up(&SECOND)), (shown, true));
        assert_eq!(outbox.next_deadline(at(0)), shown.then_some(at(5).mono));
        if !shown {
            assert_eq!(sent(&mut outbox, &FIRST, at(0)), []);
            assert!(outbox.on_held(&FIRST, None));
        }
        assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([2, 3]));
    }
}

#[test]
fn a_replaced_link_that_was_not_up_changes_nothing() {
    let mut outbox = Outbox::new(config());
    join(&mut outbox, &[(FIRST, USER)]);
    outbox.wake(at(0));
    outbox.on_link_replaced(&FIRST, false);
    assert_eq!(outbox.next_deadline(at(0)), Some(at(0).mono), "it is still to be reached");
    outbox.on_link_replaced(&FIRST, true);
    assert!(!outbox.is_up(&FIRST) && outbox.next_deadline(at(0)).is_some());
}

#[test]
fn what_is_held_must_be_of_this_log() {
    let mut outbox = log(&[(FIRST, USER)]);
    for _ in 0..3 {
        say(&mut outbox, &[FIRST]);
    }
    outbox.on_ack(&FIRST, &ack(2), at(0));
    for (position, forked, fits) in [
        (4, false, true),
        (3, false, true),
        (5, false, false),
        (4, true, false),
        (3, true, false),
        // The ids of what everybody has are forgotten.
        (1, true, true),
    ] {
        let payload: &[u8] = if forked { &[1] } else { &[] };
        let held = header_of(position, payload);
        assert_eq!(outbox.on_held(&FIRST, Some(&held)), fits, "{position} {forked}");
        assert_eq!(outbox.head(), 4);
    }
    let mut refused = Outbox::new(config());
    join(&mut refused, &[(FIRST, USER)]);
    assert!(!refused.on_held(&FIRST, Some(&header(2))) && !refused.is_up(&FIRST));
}

#[test]
fn a_damaged_log_believes_what_a_device_holds_beyond_it() {
    let damaged = || {
        let mut outbox = log(&[(FIRST, USER)]);
        for _ in 0..2 {
            say(&mut outbox, &[FIRST]);
        }
        outbox.mark_incomplete();
        outbox
    };
    let mut beyond = damaged();
    assert!(beyond.on_held(&FIRST, Some(&header(7))));
    assert_eq!((beyond.head(), beyond.head_id()), (7, Some(id(7))));
    let mut other = damaged();
    let last = header_of(3, &[1]);
    assert!(other.on_held(&FIRST, Some(&last)));
    assert_eq!((other.head(), other.head_id()), (3, Some(last.id())));
    // What stands in rows that are whole is not given up.
    let mut within = damaged();
    assert!(!within.on_held(&FIRST, Some(&header_of(2, &[1]))) && within.on_held(&FIRST, Some(&header(2))));
    assert_eq!((within.head(), within.head_id()), (3, Some(id(3))));
}

#[test]
fn a_lost_id_of_the_head_is_learnt_from_a_device_that_holds_it() {
    let lost = || Outbox::restore(config(), [], [(FIRST, cursor(3))], at(0));
    let mut outbox = lost();
    assert!(!outbox.knows_head() && outbox.head() == 3);
    assert!(outbox.on_held(&FIRST, Some(&header(3))));
    assert_eq!(outbox.head_id(), Some(id(3)));
    let mut outbox = lost();
    assert!(outbox.on_held(&FIRST, Some(&header(2))));
    assert_eq!(outbox.head_id(), Some(EntryId::UNKNOWN), "an earlier entry says nothing of it");
}

#[test]
fn a_gap_is_sent_again_and_what_is_gone_is_named() {
    let mut outbox = log(&[(FIRST, USER)]);
    for _ in 0..4 {
        say(&mut outbox, &[FIRST]);
    }
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries(1..6));
    outbox.on_ack(&FIRST, &ack(2), at(0));
    let gap = |positions: &[Position]| positions.iter().copied().collect::<RangeSet>();
    assert_eq!(outbox.on_gap_request(&THIRD, &gap(&[1]), at(10)), gap(&[]));
    assert_eq!(outbox.on_gap_request(&FIRST, &gap(&[]), at(10)), gap(&[]));
    assert_eq!(outbox.on_gap_request(&FIRST, &gap(&[1, 2, 4, 5, 6, 7]), at(10)), gap(&[1, 2]));
    assert_eq!(sent(&mut outbox, &FIRST, at(10)), entries([3, 4, 5]));
    assert_eq!(outbox.on_gap_request(&FIRST, &gap(&[4]), at(11)), gap(&[]), "a second later it may ask again");
    assert_eq!(outbox.in_flight(&FIRST), (1000, 1));
    assert_eq!(sent(&mut outbox, &FIRST, at(11)), entries([4, 5]));
    let soon = Now { mono: Duration::from_millis(11_999), wall_ms: 0 };
    assert_eq!(outbox.on_gap_request(&FIRST, &gap(&[1, 4]), soon), gap(&[]));
    assert_eq!(sent(&mut outbox, &FIRST, soon), [], "but no sooner");
    // A gap beyond what was sent skips nothing.
    outbox.on_link_replaced(&FIRST, true);
    assert_eq!(outbox.on_gap_request(&FIRST, &gap(&[5]), at(20)), gap(&[]));
    assert_eq!(sent(&mut outbox, &FIRST, at(20)), entries([3, 4, 5]));
}

#[test]
fn an_entry_for_others_is_named_to_those_that_it_is_not_for() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let position = say(&mut outbox, &[FIRST]);
    assert_eq!(sent(&mut outbox, &SECOND, at(0)), [Transmit::Entry(1), Transmit::NotForYou(position)]);
    assert_eq!((waiting(&outbox, &SECOND), waiting(&outbox, &FIRST)), (vec![1], vec![1, position]));
}

#[test]
fn an_expired_entry_does_not_leave_and_is_withdrawn_once_the_timer_is_due() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let position = say_until(&mut outbox, &[FIRST], 5_000);
    let last = say(&mut outbox, &[FIRST, SECOND]);
    assert_eq!(sent(&mut outbox, &FIRST, at(6)), entries([1]));
    let others = [Transmit::Entry(1), Transmit::NotForYou(position), Transmit::Entry(last)];
    assert_eq!(sent(&mut outbox, &SECOND, at(6)), others, "it is none of this device's anyway");
    outbox.on_timer(at(6), &mut rng());
    assert_eq!(sent(&mut outbox, &FIRST, at(6)), [Transmit::Withdrawal(position), Transmit::Entry(last)]);
    assert_eq!(sent(&mut outbox, &SECOND, at(6)), [Transmit::Withdrawal(position), Transmit::Entry(last)]);
    assert_eq!(waiting(&outbox, &FIRST), [1, last]);
}

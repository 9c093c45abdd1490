//! What an outbox is after a restart.

use super::*;

#[test]
fn a_log_comes_back_as_it_was_stored() {
    let both = [FIRST, SECOND];
    let rows = [(2, row(2, &both)), (3, OutEntry { expired: true, ..row(3, &both) }), (4, row(4, &both))];
    let mut outbox = Outbox::restore(config(), rows, [(FIRST, cursor(1)), (SECOND, cursor(2))], at(7));
    assert_eq!((outbox.head(), outbox.head_id()), (4, Some(id(4))));
    assert_eq!((outbox.bytes(), outbox.messages(), outbox.entries()), (2000, 4, 3));
    assert_eq!(outbox.take_dirty(), [], "nothing has changed");
    assert_eq!(outbox.next_deadline(at(7)), Some(at(7).mono), "those that wait get an attempt at once");
    assert_eq!(outbox.on_timer(at(7), &mut rng()), [Effect::Connect(FIRST), Effect::Connect(SECOND)]);
    assert!(outbox.on_held(&FIRST, Some(&header(4))));
    let all = [Transmit::Entry(2), Transmit::Withdrawal(3), Transmit::Entry(4)];
    assert_eq!(sent(&mut outbox, &FIRST, at(7)), all);
    assert_eq!((waiting(&outbox, &FIRST), waiting(&outbox, &SECOND)), (vec![2, 4], vec![4]));
}

#[test]
fn what_expired_before_does_not_expire_again() {
    let rows = |expired| [(2, OutEntry { expires_at_ms: 9_000, expired, ..row(2, &[FIRST]) })];
    let halted = || [(FIRST, OutCursor { halted: true, ..cursor(1) })];
    let mut outbox = Outbox::restore(config(), rows(false), halted(), at(0));
    assert_eq!(outbox.next_deadline(at(0)), Some(at(9).mono));
    assert_eq!(outbox.on_timer(at(9), &mut rng()).len(), 2);
    let outbox = Outbox::restore(config(), rows(true), halted(), at(0));
    assert_eq!((outbox.next_deadline(at(0)), outbox.entries()), (None, 0), "and a halted device needs no word of it");
}

#[test]
fn a_halted_device_stays_so() {
    let rejoins = 2;
    let outbox = Outbox::restore(config(), [], [(FIRST, OutCursor { halted: true, rejoins, ..cursor(1) })], at(0));
    let status = status(&outbox, &FIRST);
    assert_eq!((status.halted, status.stalled, status.next_try), (Some(Halt::CannotOpen), true, None));
    let outbox = Outbox::restore(config(), [], [(FIRST, cursor(1))], at(0));
    assert!(!outbox.status(at(0))[0].stalled && !outbox.is_halted(&FIRST));
}

#[test]
fn positions_are_not_used_twice_though_rows_are_lost() {
    let ahead = OutCursor { beyond: [4, 6].into_iter().collect(), ..cursor(2) };
    let outbox = Outbox::restore(config(), [(3, row(3, &[FIRST]))], [(FIRST, ahead), (SECOND, cursor(5))], at(0));
    assert_eq!((outbox.head(), outbox.head_id()), (6, None));
    let outbox = Outbox::restore(config(), [], [(FIRST, cursor(2)), (SECOND, cursor(5))], at(0));
    assert_eq!(outbox.head(), 5);
}

#[test]
fn what_was_delivered_or_settled_is_known_from_the_cursors() {
    let both = [FIRST, SECOND];
    let rows = [(2, row(2, &both)), (3, row(3, &both)), (4, row(4, &both))];
    let outbox = Outbox::restore(config(), rows, [(FIRST, cursor(3)), (SECOND, cursor(2))], at(0));
    assert!(!outbox.holds(2), "both have it");
    assert!(outbox.was_delivered(3) && !outbox.was_delivered(4), "both devices are one user's");
    let lost = Outbox::restore(config(), [(3, OutEntry { id: EntryId::UNKNOWN, ..row(3, &both) })], [], at(0));
    assert_eq!((lost.head(), lost.head_id(), lost.knows_head()), (3, None, false));
}

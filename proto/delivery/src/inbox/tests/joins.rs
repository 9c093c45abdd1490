//! Where the view of a log begins, and what copies of this store have acknowledged of it.

use super::*;

#[test]
fn an_invitation_that_was_not_opened_yet_is_no_duplicate() {
    let mut inbox = joined();
    assert_eq!(inbox.on_entry(&entry(9), true, NOW), Arrival::Open);
    inbox.on_joined(&entry(9));
    assert!(!inbox.is_settled(9) && !inbox.was_shown(9));
    assert_eq!(inbox.on_entry(&entry(9), true, NOW), Arrival::Open);
    inbox.on_settled(&entry(9), NOW);
    assert_eq!(inbox.on_entry(&entry(9), true, NOW), Arrival::Duplicate);
    assert!(inbox.is_settled(9) && !inbox.is_settled(8) && !inbox.is_settled(10));
}

#[test]
fn joining_again_leaves_what_is_settled_beyond() {
    let mut inbox = joined();
    inbox.on_settled(&entry(2), NOW);
    inbox.on_settled(&entry(4), NOW);
    inbox.on_settled(&entry(8), NOW);
    inbox.on_entry(&entry(6), false, NOW);
    inbox.on_entry(&entry(10), false, NOW);
    inbox.take_dirty();
    assert_eq!(inbox.on_joined(&entry(7)), [6]);
    let stored = inbox.take_dirty().expect("a change");
    assert_eq!((stored.base, stored.through, stored.through_id), (7, 6, Some(entry(6).id())));
    assert_eq!(stored.before_join, [1, 2, 4].into_iter().collect(), "what was settled before");
    assert!(inbox.is_settled(8) && !inbox.is_settled(4));
    assert!(
        [1, 2, 4, 8].into_iter().all(|p| inbox.was_shown(p))
            && ![0, 3, 6, 7, 9].into_iter().any(|p| inbox.was_shown(p))
    );
    assert_eq!(inbox.on_settled(&entry(7), NOW), None);
    assert_eq!(inbox.ack(OWN).through, 8);
    assert_eq!(inbox.on_settled(&entry(9), NOW), Some(10), "what was parked later stays");
}

#[test]
fn a_first_join_has_nothing_before_it() {
    let mut inbox = inbox();
    assert_eq!(inbox.on_entry(&entry(5), true, NOW), Arrival::Open);
    inbox.on_joined(&entry(5));
    let stored = inbox.take_dirty().expect("a change");
    assert!(stored.before_join.is_empty());
    assert_eq!((stored.base, stored.through), (5, 4));
    assert!((0..5).all(|p| !inbox.was_shown(p) && !inbox.is_settled(p)));
    assert_eq!(inbox.on_entry(&entry(4), false, NOW), Arrival::Duplicate, "before the base there is nothing for us");
    assert_eq!(inbox.on_settled(&entry(5), NOW), None);
    assert_eq!(inbox.ack(OWN).through_id, Some(entry(5).id()));
}

#[test]
fn a_join_takes_back_no_acknowledgement() {
    for position in [2, 3] {
        let mut inbox = joined();
        inbox.on_settled(&entry(2), NOW);
        inbox.on_settled(&entry(3), NOW);
        let before = inbox.ack(OWN);
        inbox.on_joined(&entry(position));
        assert_eq!((inbox.ack(OWN), inbox.is_settled(position as Position)), (before, true));
    }
}

#[test]
fn what_lacks_is_what_an_acknowledgement_says_beyond_this_store() {
    let mut newer = joined();
    for position in [2, 3, 5, 8] {
        newer.on_settled(&entry(position), NOW);
    }
    let ack = newer.ack(OWN);
    let mut older = joined();
    older.on_settled(&entry(5), NOW);
    assert_eq!(older.lacks(&ack), [2, 3, 8].into_iter().collect());
    assert_eq!(newer.lacks(&older.ack(OWN)), RangeSet::default());
    assert_eq!(inbox().lacks(&ack), [1, 2, 3, 5, 8].into_iter().collect());
    older.on_withdrawn(&withdrawn(2, 8), NOW);
    assert!(older.knows(&ack));
}

#[test]
fn copies_are_awaited_until_the_log_was_compared_with_all() {
    let mut inbox = joined();
    inbox.take_dirty();
    assert!(!inbox.awaits_copy(0) && inbox.awaits_copy(1) && inbox.awaits_copy(2));
    inbox.on_compared(2);
    assert_eq!(inbox.take_dirty().map(|stored| stored.copies), Some(2));
    assert!(!inbox.awaits_copy(1) && !inbox.awaits_copy(2) && inbox.awaits_copy(3));
    inbox.on_compared(1);
    assert_eq!(inbox.take_dirty(), None);
    assert!(!inbox.awaits_copy(2), "fewer than before is no news");
}

#[test]
fn a_damaged_row_recovers_what_was_acknowledged_and_drops_what_that_settles() {
    let mut whole = joined();
    for position in [2, 3, 5, 8] {
        whole.on_settled(&entry(position), NOW);
    }
    let ack = whole.ack(OWN);
    let parked = [3, 5, 6];
    let mut damaged = Inbox::restore(log(), &Config::default(), InLog::default(), parked, NOW);
    damaged.recover(&ack, at(1));
    assert_eq!(damaged.ack(OWN), ack);
    assert!(damaged.take_dirty().is_some_and(|stored| stored.base == 1));
    let missing: RangeSet = [4, 7].into_iter().collect();
    assert_eq!(damaged.on_timer(at(2)), Some(GapAction::Ask(missing.clone())));
    let ahead = GapAction::OpenAhead { positions: vec![6], missing };
    assert_eq!(damaged.on_timer(at(4)), Some(ahead), "what is settled isn't opened again");
    assert_eq!(damaged.on_settled(&entry(4), at(5)), Some(6));
}

#[test]
fn recovering_loses_nothing_that_the_row_still_has() {
    let mut whole = joined();
    for position in [2, 3, 5] {
        whole.on_settled(&entry(position), NOW);
    }
    let before = whole.ack(OWN);
    let mut older = joined();
    older.on_settled(&entry(2), NOW);
    whole.recover(&older.ack(OWN), NOW);
    assert_eq!(whole.ack(OWN), before);
    // An acknowledgement of as much that doesn't know the id.
    whole.recover(&Ack { through_id: None, ..older_ack(3) }, NOW);
    assert_eq!(whole.ack(OWN), before);
    let mut rejoined = joined();
    rejoined.on_joined(&entry(7));
    rejoined.recover(&older.ack(OWN), NOW);
    assert_eq!(rejoined.take_dirty().map(|stored| (stored.base, stored.through)), Some((7, 6)));
}

/// An acknowledgement of everything through a position.
fn older_ack(through: Position) -> Ack {
    Ack { through, ..joined().ack(OWN) }
}

//! What comes early, and what is done about what is missing.

use super::*;

fn set(positions: &[Position]) -> RangeSet {
    positions.iter().copied().collect()
}

fn chain(positions: &[Position]) -> Chain {
    positions.iter().map(|p| Span { first: *p, last: *p, previous: None, id: Some(entry(*p as usize).id()) }).collect()
}

#[test]
fn what_is_missing_is_what_is_neither_settled_nor_parked() {
    for (beyond, parked, missing) in [
        (&[4, 5][..], &[8][..], &[2, 3, 6, 7][..]),
        (&[], &[3, 4, 6], &[2, 5]),
        (&[6, 8], &[3], &[2, 4, 5, 7]),
        (&[3], &[5], &[2, 4]),
        (&[], &[2, 4], &[3]),
    ] {
        let stored = InLog { base: 1, through: 1, beyond: chain(beyond), ..InLog::default() };
        let mut inbox = Inbox::restore(log(), &Config::default(), stored, parked.iter().copied(), at(10));
        assert_eq!(inbox.next_deadline(), Some(at(12).mono), "what was parked before a restart waits on");
        assert_eq!(inbox.on_timer(at(12)), Some(GapAction::Ask(set(missing))), "{beyond:?} {parked:?}");
    }
}

#[test]
fn a_gap_is_waited_for_ever_more_patiently() {
    let mut inbox = joined();
    inbox.on_entry(&entry(3), false, at(100));
    inbox.on_entry(&entry(4), false, at(101));
    let mut due = 102;
    assert_eq!(inbox.next_deadline(), Some(at(due).mono), "a second early entry doesn't put it off");
    for (round, wait) in [2, 4, 8, 16, 32, 64, 64, 64].into_iter().enumerate() {
        let early = Now { mono: at(due).mono - Duration::from_millis(1), wall_ms: 0 };
        assert_eq!(inbox.on_timer(early), None);
        match inbox.on_timer(at(due)) {
            Some(GapAction::Ask(missing)) => assert_eq!((round, missing), (0, set(&[2]))),
            Some(GapAction::OpenAhead { positions, missing }) => {
                assert!(round > 0, "asked for first");
                assert_eq!((positions, missing), (vec![3, 4], set(&[2])));
            }
            None => panic!("nothing in round {round}"),
        }
        due += wait;
        assert_eq!(inbox.next_deadline(), Some(at(due).mono), "after round {round}");
    }
    // What follows is a new gap.
    inbox.on_settled(&entry(3), at(500));
    assert_eq!(inbox.next_deadline(), Some(at(502).mono));
    assert_eq!(inbox.on_timer(at(502)), Some(GapAction::Ask(set(&[2]))));
    inbox.on_settled(&entry(4), at(503));
    assert_eq!((inbox.next_deadline(), inbox.on_timer(at(600))), (None, None), "nothing waits any more");
}

#[test]
fn no_more_is_opened_ahead_than_can_be_remembered() {
    let full = limits::RANGES as u64;
    let spans = (0..full - 1).map(|n| Span { first: 10 + 2 * n, last: 10 + 2 * n, previous: None, id: None });
    let stored = InLog { base: 1, through: 1, beyond: spans.collect(), ..InLog::default() };
    let mut inbox = Inbox::restore(log(), &Config::default(), stored, [4, 6], NOW);
    inbox.on_timer(at(2));
    let Some(GapAction::OpenAhead { positions, .. }) = inbox.on_timer(at(4)) else { panic!("nothing is opened") };
    assert_eq!(positions, [4]);
}

#[test]
fn what_cannot_be_opened_is_missing_again() {
    let mut inbox = joined();
    inbox.on_entry(&entry(3), false, NOW);
    inbox.on_entry(&entry(5), false, NOW);
    inbox.on_refused(3, NOW);
    assert_eq!(inbox.on_timer(at(2)), Some(GapAction::Ask(set(&[2, 3, 4]))));
    inbox.on_refused(5, at(3));
    assert_eq!(inbox.next_deadline(), None);
    assert_eq!(inbox.on_entry(&entry(3), false, at(4)), Arrival::Park, "its owner may send it again");
    inbox.unpark(3);
    inbox.on_settled(&entry(2), at(5));
    assert_eq!((inbox.next_deadline(), inbox.ack(OWN).through), (None, 2));
}

#[test]
fn a_parked_entry_that_comes_again_changes_nothing() {
    let mut inbox = joined();
    assert_eq!(inbox.on_entry(&entry(4), false, NOW), Arrival::Park);
    assert!(inbox.take_dirty().is_some(), "it is the newest");
    assert_eq!(inbox.on_entry(&entry(4), false, NOW), Arrival::Park);
    assert_eq!(inbox.on_entry(&entry(3), false, NOW), Arrival::Park);
    assert_eq!((inbox.take_dirty(), inbox.newest()), (None, Some(&entry(4))));
    assert_eq!(inbox.on_entry(&entries(Some(4))[3], false, NOW), Arrival::Conflict);
}

#[test]
fn an_entry_must_follow_the_one_before_it_and_lead_to_the_one_after() {
    let forked = entries(Some(3));
    let mut inbox = joined();
    inbox.on_settled(&entry(4), NOW);
    // After the settled ones: entry 2 is in both logs, entry 3 leads to another one.
    assert!(inbox.fits(&entry(2)) && inbox.fits(&entry(3)) && inbox.fits(&entry(5)));
    assert!(!inbox.fits(&forked[2]) && !inbox.fits(&forked[4]));
    assert!(inbox.fits(&forked[5]), "there is nothing beside it to compare with");
    let other = entries(Some(1));
    assert!(!inbox.fits(&other[1]), "its predecessor is another one");
    // Where the predecessor's id is unknown, nothing is compared.
    let stored = InLog { base: 1, through: 1, ..InLog::default() };
    assert!(Inbox::restore(log(), &Config::default(), stored, [], NOW).fits(&other[1]));
}

#[test]
fn the_state_is_stored_when_it_changed() {
    let mut inbox = joined();
    assert!(inbox.take_dirty().is_some());
    assert_eq!(inbox.take_dirty(), None);
    for position in [2, 3] {
        inbox.on_entry(&entry(position), false, NOW);
        inbox.on_settled(&entry(position), NOW);
    }
    let stored = inbox.take_dirty().expect("a change");
    assert_eq!((stored.base, stored.through, stored.newest), (1, 3, Some(entry(3))));
    for settled in [2, 3] {
        assert_eq!(inbox.on_settled(&entry(settled), NOW), None);
        assert_eq!(inbox.take_dirty(), None, "{settled} was settled before");
    }
    assert_eq!(inbox.ack(OWN).through, 3);
}

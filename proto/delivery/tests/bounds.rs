//! What a device costs that never returns, never acknowledges, or can't open what it gets.

use std::collections::BTreeMap;
use std::time::Duration;

use peerloom_delivery::{CannotOpenOutcome, Config, Effect, Halt, NewEntry, Now, Outbox, Transmit, Window};
use peerloom_wire::store::{OutCursor, OutEntry};
use peerloom_wire::{
    Ack, Chain, ConversationId, DeviceId, EntryClass, EntryId, LogId, MessageId, Position, RangeSet, UserId,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

const FIRST: DeviceId = DeviceId::from_bytes([1; 32]);
const SECOND: DeviceId = DeviceId::from_bytes([2; 32]);
const USER: UserId = UserId::from_bytes([3; 32]);

fn at(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(seconds), wall_ms: seconds * 1000 }
}

fn join(outbox: &mut Outbox, devices: &[DeviceId], joins: &[DeviceId]) -> Position {
    let joins: Vec<(DeviceId, UserId)> = joins.iter().map(|device| (*device, USER)).collect();
    let class = EntryClass::Handshake;
    let position = outbox.append(NewEntry { class, expires_at_ms: 0, recipients: devices, joins: &joins, messages: 0 });
    outbox.set_sealed(position, id(position), 500);
    position
}

fn say(outbox: &mut Outbox, devices: &[DeviceId], expires_at_ms: u64) -> Position {
    let class = EntryClass::Application;
    let position = outbox.append(NewEntry { class, expires_at_ms, recipients: devices, joins: &[], messages: 1 });
    outbox.set_sealed(position, id(position), 1000);
    position
}

fn id(position: Position) -> EntryId {
    EntryId::from_bytes([position as u8; 32])
}

fn ack(through: Position) -> Ack {
    let log = LogId { device: DeviceId::from_bytes([9; 32]), conversation: ConversationId::from_bytes([8; 32]) };
    Ack {
        log,
        signer: SECOND,
        through,
        through_id: Some(id(through)),
        beyond: Chain::default(),
        withdrawn: RangeSet::default(),
    }
}

/// What goes next to a device that gets this log alone.
fn next(outbox: &mut Outbox, device: &DeviceId, now: Now) -> Option<Transmit> {
    let mut window = Window::new(&Config::default());
    window.add(outbox.in_flight(device));
    outbox.transmit(device, now, &mut window)
}

fn sent(outbox: &mut Outbox, device: &DeviceId, now: Now) -> usize {
    std::iter::from_fn(|| next(outbox, device, now)).filter(|t| matches!(t, Transmit::Entry(_))).count()
}

/// Everything is sent again and links are replaced, but ever less often; progress ends that.
#[test]
fn a_device_that_never_acknowledges_is_tried_ever_less_often() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut outbox = Outbox::new(Config::default());
    join(&mut outbox, &[FIRST], &[FIRST]);
    say(&mut outbox, &[FIRST], 0);
    assert!(outbox.on_held(&FIRST, None));
    let mut resets = Vec::new();
    let mut copies = sent(&mut outbox, &FIRST, at(0));
    for second in 1..24 * 3600 {
        for effect in outbox.on_timer(at(second), &mut rng) {
            match effect {
                Effect::ResetLink(_) => {
                    resets.push(second);
                    outbox.on_link_down(&FIRST, at(second), &mut rng);
                    assert!(outbox.on_held(&FIRST, None));
                    copies += sent(&mut outbox, &FIRST, at(second));
                }
                Effect::Ready(_) => copies += sent(&mut outbox, &FIRST, at(second)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!((8..40).contains(&resets.len()), "{resets:?}");
    assert!(copies < 400, "{copies} copies in a day");
    let waits: Vec<u64> = resets.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.windows(2).all(|pair| pair[1] >= pair[0]), "{waits:?}");
    // One acknowledgement, and the first wait is the short one again.
    outbox.on_ack(&FIRST, &ack(1), at(90_000));
    assert_eq!(outbox.next_deadline(at(90_000)), Some(at(90_005).mono));
}

/// The end of the attempts to add a device again: nothing leaves any more, over restarts and links, until it is
/// allowed once more.
#[test]
fn a_device_that_opens_nothing_is_halted() {
    let mut rng = StdRng::seed_from_u64(2);
    let mut outbox = Outbox::new(Config::default());
    join(&mut outbox, &[FIRST], &[FIRST]);
    let position = say(&mut outbox, &[FIRST], 0);
    assert!(outbox.on_held(&FIRST, None));
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), 2);
    use CannotOpenOutcome::{AddAgain, Halted, Nothing};
    let mut outcomes = Vec::new();
    let mut last = position;
    for _ in 0..4 {
        let outcome = outbox.on_cannot_open(&FIRST, last, id(last), at(0));
        outcomes.push(outcome);
        if outcome == AddAgain {
            join(&mut outbox, &[FIRST], &[FIRST]);
            last = say(&mut outbox, &[FIRST], 0);
        }
    }
    assert_eq!(outcomes, [AddAgain, AddAgain, AddAgain, Halted]);
    assert_eq!(outbox.on_cannot_open(&FIRST, last, id(last), at(0)), Nothing, "said once");
    outbox.wake(at(0));
    let idle = |outbox: &mut Outbox, rng: &mut StdRng| {
        (1..7200).all(|s| outbox.on_timer(at(s), rng).is_empty() && next(outbox, &FIRST, at(s)).is_none())
    };
    assert!(idle(&mut outbox, &mut rng), "the link stays as it is, and empty");
    outbox.on_link_down(&FIRST, at(7200), &mut rng);
    assert!(idle(&mut outbox, &mut rng), "nor is a link wanted");
    assert_eq!(outbox.retry(at(7200)), 0, "another try takes another session");
    assert!(outbox.on_held(&FIRST, None));
    let status = outbox.status(at(7200)).pop().expect("a device");
    assert!(status.halted == Some(Halt::CannotOpen) && status.stalled && status.waiting.contains(&last), "{status:?}");

    // After a restart it is the same.
    let cursors = outbox.take_dirty();
    assert!(cursors.iter().any(|(_, stored)| stored.halted));
    let entries = [last].map(|position| (position, row(position)));
    let mut restored = Outbox::restore(Config::default(), entries, cursors, at(0));
    assert!(restored.on_held(&FIRST, None));
    assert!(restored.is_halted(&FIRST) && idle(&mut restored, &mut rng));
    assert!(restored.resume(&FIRST, false, at(0)));
    assert!(idle(&mut restored, &mut rng), "not before it was added");
    join(&mut restored, &[FIRST], &[FIRST]);
    assert!(!restored.is_halted(&FIRST));
    assert_eq!(sent(&mut restored, &FIRST, at(0)), 1);
}

fn row(position: Position) -> OutEntry {
    OutEntry {
        class: EntryClass::Application,
        size: 1000,
        expires_at_ms: 0,
        messages: vec![MessageId::from_bytes([0; 16])],
        recipients: vec![FIRST],
        history: 1,
        copies: vec![],
        id: id(position),
        left: true,
        expired: false,
        delivered: false,
        discard: false,
    }
}

/// A device that opens one entry between its complaints, or comes back with a new link each time, is added again
/// as often as the budget over time allows, and no more.
#[test]
fn rejoins_have_a_budget_whatever_comes_between() {
    let mut outbox = Outbox::new(Config::default());
    let mut opened = join(&mut outbox, &[FIRST], &[FIRST]);
    assert!(outbox.on_held(&FIRST, None));
    let mut added = 0;
    // One entry every twenty seconds of a day: far more often than the budget grows.
    for second in (0..24 * 3600u64).step_by(20) {
        let position = say(&mut outbox, &[FIRST], 0);
        let again = match outbox.on_cannot_open(&FIRST, position, id(position), at(second)) {
            CannotOpenOutcome::AddAgain => true,
            _ => {
                assert!(outbox.on_held(&FIRST, None));
                outbox.resume(&FIRST, false, at(second))
            }
        };
        if again {
            added += 1;
            opened = join(&mut outbox, &[FIRST], &[FIRST]);
            outbox.settle_before_joins();
            say(&mut outbox, &[FIRST], 0);
            outbox.on_ack(&FIRST, &ack(opened + 1), at(second));
        }
    }
    assert!(opened > 1);
    assert!((100..=8 + 24 * 6).contains(&added), "added {added} times in a day");
    // The user's own word counts more.
    while outbox.resume(&FIRST, false, at(90_000)) {}
    assert!(outbox.is_halted(&FIRST) && outbox.resume(&FIRST, true, at(90_000)));
}

/// One of a user's two devices never comes back: what the other has doesn't fill the log.
#[test]
fn a_device_that_stays_away_gives_room() {
    let both = [FIRST, SECOND];
    let mut outbox = Outbox::new(Config::default());
    join(&mut outbox, &both, &both);
    assert!(outbox.on_held(&FIRST, None));
    let positions: Vec<Position> = (0..1000).map(|_| say(&mut outbox, &both, 0)).collect();
    let late = positions[990];
    outbox.on_ack(&FIRST, &ack(late), at(1));
    assert_eq!(outbox.messages(), 1000, "the second device needs them all");
    let freed = outbox.make_room(at(1));
    assert_eq!(freed.len(), 992, "what the user has, and the handshake");
    assert_eq!(outbox.messages(), 9, "what nobody has stays");
    assert_eq!(outbox.halt(&SECOND), Some(Halt::Away));
    assert!(!outbox.is_halted(&FIRST));
    outbox.on_ack(&FIRST, &ack(positions[999]), at(2));

    // It returns: added again, it gets what is not settled, and everything from there on.
    assert!(outbox.on_held(&SECOND, None));
    assert_eq!(next(&mut outbox, &SECOND, at(3)), None);
    assert!(outbox.resume(&SECOND, false, at(3)));
    let base = join(&mut outbox, &both, &[SECOND]);
    assert_eq!(outbox.owed(at(3)).len(), 9);
    let later = say(&mut outbox, &both, 0);
    assert_eq!(next(&mut outbox, &SECOND, at(3)), Some(Transmit::Entry(base)));
    assert_eq!(next(&mut outbox, &SECOND, at(3)), Some(Transmit::Entry(later)));
}

/// The only device of a user never comes back: what was never delivered stays until it expires, and not a moment
/// longer.
#[test]
fn what_nobody_has_is_kept_until_it_expires() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut outbox = Outbox::new(Config::default());
    join(&mut outbox, &[FIRST], &[FIRST]);
    for _ in 0..1000 {
        say(&mut outbox, &[FIRST], 50_000);
    }
    assert!(outbox.make_room(at(1)).is_empty() && outbox.messages() == 1000);
    assert_eq!(outbox.oldest_waiting(), Some((2, FIRST)));
    outbox.on_timer(at(60), &mut rng);
    assert_eq!(outbox.messages(), 0);
    assert_eq!(outbox.make_room(at(60)).len(), 1001, "nothing of it has to be kept for ever");
    assert_eq!((outbox.entries(), outbox.oldest_waiting()), (0, None));
    let cursors: Vec<(DeviceId, OutCursor)> = outbox.take_dirty();
    assert!(cursors.iter().all(|(_, stored)| stored.halted));
}

/// What a device lacks when it is added again is kept, over a restart too, until it is sealed again; only then does
/// anybody call it settled or delivered.
#[test]
fn what_is_owed_is_kept_until_it_is_sealed_again() {
    let mut outbox = Outbox::new(Config::default());
    join(&mut outbox, &[FIRST], &[FIRST]);
    assert!(outbox.on_held(&FIRST, None));
    let positions: Vec<Position> = (0..200).map(|_| say(&mut outbox, &[FIRST], 0)).collect();
    // It has every second one: more gaps than a cursor has ranges.
    let row = |position: Position, class| OutEntry {
        class,
        size: 1000,
        expires_at_ms: 0,
        messages: vec![MessageId::from_bytes([0; 16])],
        recipients: vec![FIRST],
        history: 0,
        copies: Vec::new(),
        id: id(position),
        left: true,
        expired: false,
        delivered: false,
        discard: false,
    };
    let beyond = Chain::from_iter(positions.iter().step_by(2).map(|p| peerloom_wire::Span {
        first: *p,
        last: *p,
        previous: None,
        id: Some(id(*p)),
    }));
    outbox.on_ack(&FIRST, &Ack { beyond, ..ack(1) }, at(1));
    let base = join(&mut outbox, &[FIRST], &[FIRST]);
    outbox.settle_before_joins();
    let lacks: Vec<Position> = positions.iter().copied().filter(|p| p % 2 == 1).collect();
    let kept = |outbox: &Outbox| outbox.owed(at(2)).into_iter().collect::<Vec<_>>();
    assert!(lacks.iter().all(|position| kept(&outbox).contains(position)), "{:?}", kept(&outbox));
    let mut left = kept(&outbox);
    let mut stored = BTreeMap::new();
    while let Some(position) = left.first().copied() {
        stored.extend(outbox.take_dirty());
        let cursors = stored.clone();
        assert!(cursors.values().all(|stored: &OutCursor| stored.owed.len() <= peerloom_wire::limits::RANGES));
        // After a crash it is known what is left.
        let rows = left.iter().map(|p| (*p, row(*p, EntryClass::Application)));
        let rows = rows.chain([(base, row(base, EntryClass::Handshake))]);
        outbox = Outbox::restore(Config::default(), rows, cursors, at(3));
        assert_eq!(kept(&outbox), left);
        assert!(outbox.on_held(&FIRST, None));
        outbox.on_ack(&FIRST, &ack(base), at(3));
        outbox.on_sealed_again(position);
        assert_eq!(outbox.settle_before_joins().settled, [position]);
        left.remove(0);
    }
    assert!(!outbox.owes());
}

//! Entries that expire, by this node's clock or by a device's.

use super::*;

fn expired(position: Position, delivered: bool, left: bool, settled: bool) -> Effect {
    Effect::Expired(Expired { position, delivered, left, settled })
}

#[test]
fn what_expires_frees_its_bytes_and_is_told_to_those_that_lack_it() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let both = [FIRST, SECOND];
    let first = say_until(&mut outbox, &both, 5_000);
    let second = say_until(&mut outbox, &both, 9_000);
    sent(&mut outbox, &FIRST, at(0));
    outbox.on_ack(&FIRST, &ack_of(0, &[first], &[]), at(0));
    assert_eq!((outbox.bytes(), outbox.messages()), (2500, 4));
    assert_eq!(outbox.on_timer(at(4), &mut rng()), []);
    let effects = outbox.on_timer(at(5), &mut rng());
    let ready = |effect: &&Effect| matches!(effect, Effect::Ready(_));
    assert_eq!(effects[0], expired(first, false, true, false));
    assert!(effects.contains(&Effect::Ready(SECOND)));
    assert_eq!((outbox.bytes(), outbox.messages(), outbox.entries()), (1500, 2, 3));
    assert_eq!(outbox.next_deadline(Now { mono: Duration::ZERO, wall_ms: 8_000 }), Some(at(1).mono));
    let effects = outbox.on_timer(at(9), &mut rng());
    assert_eq!(effects.iter().filter(ready).count(), 2, "{effects:?}");
    assert_eq!((outbox.bytes(), outbox.messages()), (500, 0));
    assert_eq!(
        sent(&mut outbox, &SECOND, at(9)),
        [Transmit::Entry(1), Transmit::Withdrawal(first), Transmit::Withdrawal(second)]
    );
}

#[test]
fn what_expires_after_it_left_goes_back_to_be_withdrawn() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let both = [FIRST, SECOND];
    let first = say_until(&mut outbox, &both, 5_000);
    let last = say(&mut outbox, &both);
    assert_eq!(sent(&mut outbox, &FIRST, at(0)), entries([1, first, last]));
    assert_eq!(sent(&mut outbox, &SECOND, at(0)), entries([1, first, last]));
    outbox.on_ack(&FIRST, &ack(first), at(0));
    let effects = outbox.on_timer(at(5), &mut rng());
    assert!(effects.contains(&Effect::Ready(SECOND)) && effects.contains(&expired(first, false, true, false)));
    assert_eq!(sent(&mut outbox, &FIRST, at(5)), entries([last]), "the ack timer is due; this one has it");
    assert_eq!(sent(&mut outbox, &SECOND, at(5))[1..], [Transmit::Withdrawal(first), Transmit::Entry(last)]);
}

#[test]
fn what_everybody_has_expires_as_delivered() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, USER)]);
    let position = say_until(&mut outbox, &[FIRST, SECOND], 5_000);
    assert_eq!(outbox.on_ack(&FIRST, &ack(position), at(0)).delivered, [position]);
    let effects = outbox.on_timer(at(5), &mut rng());
    assert_eq!(effects[0], expired(position, true, false, false));
    assert!(!effects.contains(&Effect::Ready(FIRST)) && effects.contains(&Effect::Ready(SECOND)));
}

#[test]
fn an_expired_entry_that_no_device_has_to_hear_of_is_forgotten() {
    let mut outbox = Outbox::new(config());
    let position = say_until(&mut outbox, &[FIRST], 5_000);
    assert_eq!(outbox.on_timer(at(5), &mut rng()), [expired(position, false, false, true)]);
    assert_eq!((outbox.entries(), outbox.bytes(), outbox.messages()), (0, 0, 0));
}

/// A log with a message that expires at a time.
fn with_message(expires_at_ms: u64) -> (Outbox, Position) {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let position = say_until(&mut outbox, &[FIRST, SECOND], expires_at_ms);
    (outbox, position)
}

#[test]
fn a_refusal_counts_only_where_the_entry_could_have_expired() {
    let (mut outbox, position) = with_message(5_000);
    let other = say_until(&mut outbox, &[SECOND], 5_000);
    let handshake = append(&mut outbox, EntryClass::Handshake, &[FIRST, SECOND], 5_000);
    let lasting = say(&mut outbox, &[FIRST, SECOND]);
    for (device, position, named) in [
        (FIRST, position, id(other)),
        (THIRD, position, id(position)),
        (FIRST, other, id(other)),
        (FIRST, handshake, id(handshake)),
        (FIRST, lasting, id(lasting)),
        (FIRST, lasting + 1, id(lasting + 1)),
    ] {
        assert_eq!(outbox.on_refused_as_expired(&device, position, named), [], "{position}");
    }
    let held_by_all = [Transmit::Entry(1), Transmit::Entry(position), Transmit::NotForYou(other)];
    assert_eq!(sent(&mut outbox, &FIRST, at(0))[..3], held_by_all);
    assert_eq!(outbox.on_refused_as_expired(&FIRST, position, id(position)), [Effect::Ready(FIRST)]);
    assert_eq!(sent(&mut outbox, &FIRST, at(0))[0], Transmit::NotForYou(position));
}

#[test]
fn a_device_that_has_settled_an_entry_cannot_refuse_it() {
    let (mut outbox, position) = with_message(5_000);
    outbox.on_ack(&FIRST, &ack(position), at(0));
    assert_eq!(outbox.on_refused_as_expired(&FIRST, position, id(position)), []);
    // Nor can one whose view begins after it, nor anybody once it is withdrawn.
    let (mut outbox, position) = with_message(5_000);
    join(&mut outbox, &[(SECOND, OTHER)]);
    assert_eq!(outbox.on_refused_as_expired(&SECOND, position, id(position)), []);
    outbox.on_timer(at(5), &mut rng());
    assert_eq!(outbox.on_refused_as_expired(&FIRST, position, id(position)), []);
}

#[test]
fn refused_by_all_it_ends_as_if_it_had_not_left() {
    let (mut outbox, position) = with_message(5_000);
    sent(&mut outbox, &FIRST, at(0));
    assert_eq!(outbox.on_refused_as_expired(&FIRST, position, id(position)), [Effect::Ready(FIRST)]);
    let effects = outbox.on_refused_as_expired(&SECOND, position, id(position));
    assert_eq!(effects, [expired(position, false, false, false), Effect::Ready(FIRST), Effect::Ready(SECOND)]);
    assert_eq!(
        (outbox.messages(), outbox.next_deadline(Now { mono: Duration::ZERO, wall_ms: 1 })),
        (0, Some(at(5).mono))
    );
}

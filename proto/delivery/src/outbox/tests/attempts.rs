//! When devices are tried again, with a link and without.

use super::*;

/// Everything that the timer brings until a time, with the second of each.
fn effects_until(outbox: &mut Outbox, seconds: std::ops::Range<u64>) -> Vec<(u64, Effect)> {
    let mut rng = rng();
    let mut all = Vec::new();
    for second in seconds {
        let effects = outbox.on_timer(at(second), &mut rng);
        if effects.contains(&Effect::Ready(FIRST)) {
            sent(outbox, &FIRST, at(second));
        }
        all.extend(effects.into_iter().map(|effect| (second, effect)));
    }
    all
}

#[test]
fn a_device_without_a_link_is_tried_as_often_as_it_is_configured() {
    let mut outbox = Outbox::new(config());
    join(&mut outbox, &[(FIRST, USER)]);
    assert_eq!(outbox.next_deadline(at(3)), None);
    outbox.wake(at(3));
    assert_eq!(outbox.next_deadline(at(3)), Some(at(3).mono));
    let effects = effects_until(&mut outbox, 0..1000);
    let connects = [3, 4, 9, 24, 84].map(|second| (second, Effect::Connect(FIRST)));
    assert_eq!(effects[..5], connects);
    assert_eq!(effects[5..], [(84, Effect::Stalled(FIRST))]);
    let status = outbox.status(at(1000)).remove(0);
    assert_eq!((status.attempts, status.next_try, status.stalled, status.link_up), (5, None, true, false));
    // Entries alone don't begin it again; the user does.
    outbox.wake(at(1000));
    assert_eq!(outbox.next_deadline(at(1000)), None);
    assert_eq!(outbox.retry(at(1000)), 1);
    assert_eq!(outbox.retry(at(1000)), 0, "it is stalled no more");
    assert_eq!(outbox.next_deadline(at(1000)), Some(at(1000).mono));
    assert_eq!(effects_until(&mut outbox, 1000..1002).len(), 2);
    // Nor does a link leave anything of it.
    assert!(outbox.on_held(&FIRST, None));
    let status = outbox.status(at(1002)).remove(0);
    assert_eq!((status.attempts, status.next_try, status.stalled, status.link_up), (0, None, false, true));
}

#[test]
fn the_time_until_the_next_attempt_is_told() {
    let mut outbox = settled_log();
    outbox.on_link_down(&FIRST, at(10), &mut rng());
    let next_try = |second| outbox.status(at(second))[0].next_try;
    assert_eq!(next_try(10), Some(Duration::from_secs(1)));
    assert_eq!(next_try(12), Some(Duration::ZERO));
}

#[test]
fn without_configured_waits_a_lost_link_is_tried_again_after_a_second() {
    let mut outbox = Outbox::new(Config { retry_delays: Vec::new(), ..config() });
    join(&mut outbox, &[(FIRST, USER)]);
    assert!(outbox.on_held(&FIRST, None));
    outbox.on_link_down(&FIRST, at(10), &mut rng());
    assert_eq!(outbox.next_deadline(at(10)), Some(at(11).mono));
    assert_eq!(outbox.on_timer(at(11), &mut rng()), [Effect::Connect(FIRST), Effect::Stalled(FIRST)]);
}

#[test]
fn retry_counts_the_devices_that_it_tries() {
    let mut outbox = Outbox::new(Config { retry_delays: Vec::new(), ..config() });
    join(&mut outbox, &[(FIRST, USER), (SECOND, OTHER)]);
    outbox.await_device(THIRD, OTHER);
    outbox.wake(at(0));
    outbox.on_timer(at(0), &mut rng());
    assert_eq!(outbox.retry(at(1)), 2, "the third isn't let in yet");
    assert_eq!(outbox.status(at(1)).iter().map(|s| s.next_try.is_some()).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn entries_wake_only_devices_without_a_link() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    outbox.on_link_down(&SECOND, at(0), &mut rng());
    assert_eq!(outbox.on_timer(at(1), &mut rng()), [Effect::Connect(SECOND)]);
    outbox.wake(at(1));
    assert_eq!(outbox.next_deadline(at(1)), Some(at(2).mono), "an attempt that waits goes on waiting");
    assert_eq!((status(&outbox, &FIRST).next_try, status(&outbox, &SECOND).attempts), (None, 1));
    assert!(outbox.on_held(&SECOND, None));
    outbox.wake(at(1));
    assert_eq!(outbox.next_deadline(at(1)), None);
}

#[test]
fn where_nothing_waits_nothing_is_tried() {
    let mut outbox = settled_log();
    outbox.on_link_down(&FIRST, at(0), &mut rng());
    assert_eq!(effects_until(&mut outbox, 0..100), []);
    assert_eq!(status(&outbox, &FIRST).attempts, 0);
    // What is settled ahead of the rest doesn't wait.
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    say(&mut outbox, &[FIRST, SECOND]);
    outbox.on_ack(&FIRST, &ack(1), at(0));
    outbox.on_ack(&FIRST, &ack(2), at(0));
    outbox.on_link_down(&FIRST, at(0), &mut rng());
    assert_eq!(effects_until(&mut outbox, 0..100), []);
    assert_eq!(waiting(&outbox, &SECOND), [1, 2]);
}

#[test]
fn what_is_settled_beyond_a_gap_does_not_wait() {
    let mut outbox = log(&[(FIRST, USER), (SECOND, OTHER)]);
    let mine = say(&mut outbox, &[FIRST]);
    outbox.on_ack(&FIRST, &ack_of(0, &[1, mine], &[]), at(0));
    outbox.on_link_down(&FIRST, at(0), &mut rng());
    assert_eq!(effects_until(&mut outbox, 0..100), []);
}

#[test]
fn a_silent_link_gets_everything_again_and_then_is_replaced() {
    let mut outbox = log(&[(FIRST, USER)]);
    say(&mut outbox, &[FIRST]);
    sent(&mut outbox, &FIRST, at(0));
    assert_eq!(outbox.next_deadline(at(0)), Some(at(5).mono));
    let effects = effects_until(&mut outbox, 0..26);
    let again = [5, 10, 15, 20].map(|second| (second, Effect::Ready(FIRST)));
    assert_eq!(effects[..4], again);
    assert_eq!(effects[4..], [(25, Effect::ResetLink(FIRST))]);
    assert_eq!(status(&outbox, &FIRST).attempts, 0);
    assert_eq!(outbox.in_flight(&FIRST), (0, 0));
    // Each link that brought nothing doubles the patience, up to a limit.
    for doubling in 1..10 {
        assert_eq!(outbox.on_link_down(&FIRST, at(30), &mut rng()), ());
        assert!(outbox.on_held(&FIRST, None));
        assert_eq!(sent(&mut outbox, &FIRST, at(30)), entries([1, 2]));
        let mut now = at(30);
        let patience = Duration::from_secs(5) * 2_u32.pow(doubling.min(7));
        for attempt in 0..5 {
            now.mono += patience;
            assert_eq!(outbox.next_deadline(now), Some(now.mono));
            let effect = if attempt == 4 { Effect::ResetLink(FIRST) } else { Effect::Ready(FIRST) };
            assert_eq!(outbox.on_timer(now, &mut rng()), [effect]);
            if attempt < 4 {
                assert_eq!(sent(&mut outbox, &FIRST, now), entries([1, 2]));
            }
        }
    }
    // Progress makes it short again.
    assert!(outbox.on_held(&FIRST, None));
    outbox.on_ack(&FIRST, &ack(1), at(50));
    assert_eq!(outbox.next_deadline(at(50)), None, "nothing is on its way");
    assert_eq!(sent(&mut outbox, &FIRST, at(50)), entries([2]));
    assert_eq!(outbox.next_deadline(at(50)), Some(at(55).mono));
}

#[test]
fn progress_restarts_the_wait_and_the_count_of_attempts() {
    let mut outbox = log(&[(FIRST, USER)]);
    say(&mut outbox, &[FIRST]);
    sent(&mut outbox, &FIRST, at(0));
    sent(&mut outbox, &FIRST, at(3));
    assert_eq!(outbox.next_deadline(at(3)), Some(at(5).mono), "what is sent later doesn't prolong it");
    assert_eq!(outbox.on_timer(at(5), &mut rng()), [Effect::Ready(FIRST)]);
    assert_eq!((sent(&mut outbox, &FIRST, at(5)), status(&outbox, &FIRST).attempts), (entries([1, 2]), 1));
    outbox.on_ack(&FIRST, &ack(1), at(7));
    assert_eq!((outbox.next_deadline(at(7)), status(&outbox, &FIRST).attempts), (Some(at(12).mono), 0));
    outbox.on_ack(&FIRST, &ack(2), at(8));
    assert_eq!(outbox.next_deadline(at(8)), None);
}

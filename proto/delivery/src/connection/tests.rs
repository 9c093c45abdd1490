//! Which device is dialed when, among living and dead ones.
#![cfg(test)]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

fn device(number: u32) -> DeviceId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    DeviceId::from_bytes(bytes)
}

fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), wall_ms: 0 }
}

/// How long an attempt at a dead device takes.
const DIAL: Duration = Duration::from_secs(5);

/// A node with dead devices, in virtual time.
struct Node {
    machine: ConnectionMachine,
    rng: StdRng,
    now: Now,
    /// Attempts that run, by their end.
    dials: BTreeSet<(Duration, DeviceId)>,
    begun: Vec<(Duration, DeviceId)>,
    wakes: usize,
}

impl Node {
    fn new(devices: u32) -> Self {
        let mut machine = ConnectionMachine::default();
        (0..devices).for_each(|number| machine.insert(device(number), at(0)));
        let rng = StdRng::seed_from_u64(7);
        Self { machine, rng, now: at(0), dials: BTreeSet::new(), begun: Vec::new(), wakes: 0 }
    }

    fn run_until(&mut self, end: Duration) {
        loop {
            self.wakes += 1;
            assert!(self.wakes < 200_000 && self.begun.len() < 100_000, "time stands still at {:?}", self.now);
            while let Some(device) = self.machine.next(self.now) {
                assert!(self.dials.len() <= 2 * ATTEMPTS, "attempts without end");
                self.begun.push((self.now.mono, device));
                self.dials.insert((self.now.mono + DIAL, device));
            }
            let deadline = self.machine.next_deadline();
            assert!(deadline.is_none_or(|at| at > self.now.mono), "a deadline in the past: {deadline:?}");
            let dial = self.dials.first().map(|(at, _)| *at);
            let next = deadline.into_iter().chain(dial).min().unwrap_or(end);
            if next > end {
                self.now.mono = end;
                return;
            }
            self.now.mono = next;
            while let Some((_, device)) = self.dials.first().copied().filter(|(at, _)| *at <= next) {
                self.dials.pop_first();
                self.machine.on_failed(&device, self.now, &Config::default(), &mut self.rng);
            }
        }
    }

    fn attempts_at(&self, device: DeviceId) -> Vec<Duration> {
        self.begun.iter().filter(|(_, d)| *d == device).map(|(at, _)| *at).collect()
    }
}

#[test]
fn a_wanted_device_is_dialed_at_once_among_any_number_of_dead_ones() {
    for (dead, begin) in [(300, 1), (300, 40), (5_000, 1), (5_000, 20), (5_000, 600)] {
        let mut node = Node::new(dead);
        node.run_until(Duration::from_secs(begin));
        // Everybody else is wanted, too, and was before.
        (0..dead).for_each(|number| node.machine.want(&device(number), node.now));
        node.run_until(Duration::from_secs(begin + 30));
        let before = node.now.mono;
        let lucky = device(dead);
        node.machine.insert(lucky, node.now);
        node.machine.want(&lucky, node.now);
        node.run_until(before + Duration::from_secs(2));
        let first = node.attempts_at(lucky).first().copied().expect("an attempt");
        assert!(first - before <= YOUNG, "{dead} dead ones: {:?}", first - before);
    }
}

#[test]
fn each_device_has_its_first_attempt_soon_although_others_are_dead() {
    let mut node = Node::new(1_000);
    node.run_until(Duration::from_secs(60));
    let tried: BTreeSet<DeviceId> = node.begun.iter().map(|(_, device)| *device).collect();
    assert_eq!(tried.len(), 1_000);
    let last = (0..1_000).filter_map(|n| node.attempts_at(device(n)).first().copied()).max();
    assert!(last <= Some(Duration::from_secs(40)), "{last:?}");
    assert!(node.dials.len() <= ATTEMPTS);
}

#[test]
fn dead_devices_cost_a_bounded_number_of_attempts_and_wakes() {
    for dead in [10, 1_000, 10_000] {
        let mut node = Node::new(dead);
        node.run_until(Duration::from_secs(3_600));
        let (before, wakes) = (node.begun.len(), node.wakes);
        node.run_until(Duration::from_secs(3_700));
        let spaced = 100 * 4 + 1;
        let by_backoff = dead as usize * 3;
        let attempts = node.begun.len() - before;
        assert!(attempts <= spaced.min(by_backoff), "{dead}: {attempts} attempts in 100 s");
        assert!(node.wakes - wakes <= 3 * spaced, "{dead}: {} wakes in 100 s", node.wakes - wakes);
        assert!(attempts >= dead.min(50) as usize, "{dead}: nobody is given up: {attempts}");
    }
}

#[test]
fn links_that_come_and_go_keep_the_books_right() {
    let mut rng = StdRng::seed_from_u64(11);
    let config = Config::default();
    let mut machine = ConnectionMachine::default();
    let mut now = at(0);
    let mut running = BTreeSet::new();
    for _ in 0..50_000 {
        now.mono += Duration::from_millis(rng.random_range(0..50));
        let any = device(rng.random_range(0..60));
        match rng.random_range(0..8) {
            0 => machine.insert(any, now),
            1 => machine.want(&any, now),
            2 => machine.on_link_up(&any, now),
            3 => machine.on_link_down(&any, now, &config, &mut rng),
            4 if rng.random_range(0..100) == 0 => machine.on_moved(now),
            5 if rng.random_range(0..20) == 0 => machine.remove(&any),
            6 => {
                if let Some(device) = running.pop_first() {
                    machine.on_failed(&device, now, &config, &mut rng);
                }
            }
            _ => {
                let begun: Vec<DeviceId> = std::iter::from_fn(|| machine.next(now)).take(61).collect();
                assert!(begun.len() <= 60, "a device is dialed twice");
                running.extend(begun);
                assert!(machine.next_deadline().is_none_or(|at| at > now.mono));
            }
        }
        let waiting = machine.wanted.len() + machine.due.len() + machine.others.len();
        let connected = machine.devices.values().filter(|l| matches!(l.state, State::Connected(_))).count();
        assert_eq!(waiting + machine.attempts + connected, machine.devices.len());
    }
}

/// A machine with some devices, and waits as they are written.
fn machine(devices: u32) -> (ConnectionMachine, Config, StdRng) {
    let mut machine = ConnectionMachine::default();
    (0..devices).for_each(|number| machine.insert(device(number), at(0)));
    (machine, Config { jitter: 0.0, ..Config::default() }, StdRng::seed_from_u64(3))
}

fn begun(machine: &mut ConnectionMachine, now: Now) -> Vec<DeviceId> {
    std::iter::from_fn(|| machine.next(now)).take(1_000).collect()
}

fn ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

#[test]
fn a_device_is_dialed_as_long_as_it_is_known() {
    let (mut machine, config, mut rng) = machine(2);
    assert!(machine.contains(&device(0)) && !machine.contains(&device(2)));
    assert_eq!(machine.next_deadline(), ms(0));
    machine.remove(&device(0));
    machine.remove(&device(2));
    assert!(!machine.contains(&device(0)));
    assert_eq!(begun(&mut machine, at(0)), [device(1)]);
    machine.remove(&device(1));
    machine.on_failed(&device(1), at(10), &config, &mut rng);
    assert_eq!((machine.next_deadline(), machine.attempts), (None, 0));
}

#[test]
fn attempts_that_fail_come_after_doubling_waits() {
    let (mut machine, config, mut rng) = machine(1);
    let mut now = at(0);
    for wait in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        assert_eq!(begun(&mut machine, now), [device(0)]);
        assert_eq!(machine.next_deadline(), None, "it is on its way");
        machine.insert(device(0), now);
        machine.on_failed(&device(0), now, &config, &mut rng);
        assert_eq!(machine.next_deadline(), Some(now.mono + Duration::from_millis(wait)));
        machine.on_failed(&device(0), now, &config, &mut rng);
        now.mono += Duration::from_millis(wait - 1);
        assert_eq!(begun(&mut machine, now), []);
        now.mono += Duration::from_millis(1);
    }
}

/// Devices that failed four times; the last time at the returned time.
fn tired(devices: u32) -> (ConnectionMachine, Now) {
    let (mut machine, config, mut rng) = machine(devices);
    let mut now = at(0);
    for _ in 0..4 {
        now.mono += Duration::from_secs(10);
        // Retries are spaced.
        for _ in 0..devices {
            begun(&mut machine, now);
            now.mono += SPACING;
        }
        (0..devices).for_each(|number| machine.on_failed(&device(number), now, &config, &mut rng));
    }
    (machine, now)
}

fn later(now: Now, ms: u64) -> Now {
    Now { mono: now.mono + Duration::from_millis(ms), ..now }
}

#[test]
fn a_wanted_device_is_dialed_soon_but_not_at_once_after_an_attempt() {
    let (mut machine, now) = tired(1);
    assert_eq!(machine.next_deadline(), Some(later(now, 4_000).mono));
    machine.want(&device(0), later(now, 100));
    machine.want(&device(7), now);
    assert_eq!(machine.next_deadline(), Some(later(now, 500).mono));
    assert_eq!(begun(&mut machine, later(now, 499)), []);
    assert_eq!(begun(&mut machine, later(now, 500)), [device(0)]);
    let (mut machine, now) = tired(1);
    machine.want(&device(0), later(now, 3_000));
    assert_eq!(begun(&mut machine, later(now, 3_000)), [device(0)]);
    // A device whose turn it is anyway isn't put off.
    let (mut machine, now) = tired(1);
    machine.want(&device(0), later(now, 9_000));
    assert_eq!(machine.next_deadline(), Some(later(now, 4_000).mono));
}

#[test]
fn a_device_that_was_found_is_worth_a_first_attempt() {
    let (mut machine, now) = tired(1);
    machine.on_found(&device(7), now);
    machine.on_found(&device(0), later(now, 100));
    assert_eq!(machine.next_deadline(), Some(later(now, 500).mono));
    assert_eq!(begun(&mut machine, later(now, 500)), [device(0)]);
    let (config, mut rng) = (Config { jitter: 0.0, ..Config::default() }, StdRng::seed_from_u64(3));
    machine.on_found(&device(0), later(now, 600));
    machine.on_failed(&device(0), later(now, 700), &config, &mut rng);
    assert_eq!(machine.next_deadline(), Some(later(now, 1_200).mono), "the waits begin again");
}

#[test]
fn a_new_network_makes_every_device_worth_a_first_attempt() {
    let (mut machine, now) = tired(3);
    machine.want(&device(1), now);
    let now = later(now, 10);
    machine.on_moved(now);
    let mut dialed = begun(&mut machine, now);
    dialed.sort();
    assert_eq!(dialed, [device(0), device(1), device(2)], "none of them is a retry");
    let (config, mut rng) = (Config { jitter: 0.0, ..Config::default() }, StdRng::seed_from_u64(3));
    machine.on_failed(&device(0), now, &config, &mut rng);
    assert_eq!(machine.next_deadline(), Some(later(now, 500).mono));
}

#[test]
fn a_linked_device_is_left_alone_until_its_link_is_down() {
    let (mut machine, config, mut rng) = machine(1);
    machine.want(&device(0), at(0));
    machine.on_link_up(&device(0), at(0));
    machine.on_link_up(&device(7), at(0));
    assert_eq!((machine.next_deadline(), begun(&mut machine, at(0))), (None, vec![]));
    machine.want(&device(0), at(1));
    machine.on_found(&device(0), at(1));
    machine.on_moved(at(1));
    machine.on_failed(&device(0), at(1), &config, &mut rng);
    machine.insert(device(0), at(1));
    assert_eq!((machine.next_deadline(), begun(&mut machine, at(1))), (None, vec![]));
    machine.on_link_down(&device(0), at(2), &config, &mut rng);
    assert_eq!(machine.next_deadline(), ms(102));
    machine.on_link_down(&device(0), at(50), &config, &mut rng);
    assert_eq!(machine.next_deadline(), ms(102), "there was no link");
    assert_eq!(begun(&mut machine, at(102)), [device(0)]);
    // It comes up while an attempt of ours runs.
    machine.on_link_up(&device(0), at(200));
    machine.on_failed(&device(0), at(300), &config, &mut rng);
    assert_eq!((machine.next_deadline(), machine.attempts), (None, 0));
}

#[test]
fn links_that_die_young_are_dialed_after_doubling_waits() {
    let (mut machine, config, mut rng) = machine(1);
    let mut now = at(0);
    for (lived, wait) in [(0, 100), (9_999, 200), (1, 400), (10_000, 100), (5, 200)] {
        machine.on_link_up(&device(0), now);
        // A second link to it changes nothing.
        machine.on_link_up(&device(0), later(now, lived / 2));
        now = later(now, lived);
        machine.on_link_down(&device(0), now, &config, &mut rng);
        assert_eq!(machine.next_deadline(), Some(later(now, wait).mono), "after {lived} ms");
    }
}

#[test]
fn wanted_devices_and_others_have_slots_of_their_own() {
    let (mut machine, ..) = machine(100);
    (0..50).for_each(|number| machine.want(&device(number), at(0)));
    let dialed = begun(&mut machine, at(0));
    assert_eq!(dialed.len(), 2 * SLOTS);
    let wanted: BTreeSet<DeviceId> = (0..50).map(device).collect();
    assert_eq!(dialed.iter().filter(|device| wanted.contains(device)).count(), SLOTS);
    assert_eq!(machine.next_deadline(), ms(1_000), "an attempt is young for a second");
    assert_eq!(begun(&mut machine, at(999)).len(), 0);
    assert_eq!(begun(&mut machine, at(1_000)).len(), 100 - 2 * SLOTS);
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn attempts_are_bounded_and_wanted_devices_have_as_many_again() {
    let (mut machine, config, mut rng) = machine(1_000);
    let mut dialed = Vec::new();
    for second in 0..60 {
        dialed.extend(begun(&mut machine, at(second * 1_000)));
    }
    assert_eq!(dialed.len(), ATTEMPTS);
    assert_eq!(machine.next_deadline(), None, "the end of an attempt is waited for");
    let now = at(60_000);
    machine.on_failed(&dialed[0], now, &config, &mut rng);
    assert_eq!(machine.next_deadline(), ms(0));
    assert_eq!(begun(&mut machine, now).len(), 1);
    (500..1_000).for_each(|number| machine.want(&device(number), now));
    let mut more = begun(&mut machine, now).len();
    assert_eq!((more, machine.next_deadline()), (SLOTS, ms(61_000)));
    for second in 61..120 {
        more += begun(&mut machine, at(second * 1_000)).len();
    }
    assert_eq!((more, machine.next_deadline()), (ATTEMPTS, None));
}

#[test]
fn of_wanted_devices_the_least_tried_comes_first_and_then_the_one_wanted_last() {
    let (mut machine, config, mut rng) = machine(3);
    (0..3).for_each(|number| machine.want(&device(number), at(0)));
    assert_eq!([machine.next(at(0)), machine.next(at(0))], [Some(device(2)), Some(device(1))]);
    machine.on_failed(&device(2), at(0), &config, &mut rng);
    assert_eq!(begun(&mut machine, at(500)), [device(0), device(2)]);
    // Wanted once more, it begins again.
    [0, 1, 2].iter().for_each(|number| machine.on_failed(&device(*number), at(600), &config, &mut rng));
    machine.want(&device(2), at(600));
    assert_eq!(machine.next(at(9_000)), Some(device(2)));
}

#[test]
fn further_attempts_at_devices_that_nothing_waits_for_are_spaced() {
    let (mut machine, now) = tired(3);
    let now = later(now, 20_000);
    assert_eq!(begun(&mut machine, now).len(), 1);
    assert_eq!(machine.next_deadline(), Some(later(now, 250).mono));
    assert_eq!(begun(&mut machine, later(now, 249)).len(), 0);
    assert_eq!(begun(&mut machine, later(now, 250)).len(), 1);
}

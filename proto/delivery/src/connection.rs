//! Getting links to devices, and getting them back.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use peerloom_wire::DeviceId;
use rand_core::Rng;

use crate::{Config, Now};

/// Where a device stands on the way to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// No link; the next attempt waits.
    Disconnected,
    /// Its address is being looked up.
    Discovering,
    /// An offer is on its way to it.
    Signaling,
    /// It is being dialed.
    Connecting,
    /// A link is up.
    Connected,
}

/// First and longest wait between attempts to reach a device.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A link that lived this long was a good one.
const STEADY: Duration = Duration::from_secs(10);
/// A wanted device isn't dialed again sooner than this after its last attempt.
const PAUSE: Duration = Duration::from_millis(500);

/// Attempts that are young at once, for wanted devices and for all others. Who can be reached mostly
/// answers while an attempt is young; an older one goes on without a slot, so that the dead cost the
/// living nothing.
const SLOTS: usize = 32;
const YOUNG: Duration = Duration::from_secs(1);
/// Attempts at once in all; wanted devices may have as many again.
const ATTEMPTS: usize = 256;
/// Between two further attempts to reach devices that nobody wants: any number of dead devices costs no
/// more than this.
const SPACING: Duration = Duration::from_millis(250);

/// The ways to all devices of contacts: for each of them attempts with doubling waits, for as long as it
/// is a contact's. Devices that are wanted, because something waits to be sent to them, come first and
/// have slots of their own; among them those with the fewest attempts since they were wanted, then the one
/// wanted last.
///
/// Call order: what happened ([`insert`](ConnectionMachine::insert), [`want`](ConnectionMachine::want), the
/// `on_…`), then [`next`](ConnectionMachine::next) until it gives none, then wait for
/// [`next_deadline`](ConnectionMachine::next_deadline).
#[derive(Debug, Default)]
pub struct ConnectionMachine {
    devices: HashMap<DeviceId, Peer>,
    /// Devices that wait for their next attempt, by its time.
    wanted: BTreeSet<(Duration, DeviceId)>,
    /// Wanted devices whose time has come, in their order.
    due: BTreeSet<(Urgency, DeviceId)>,
    others: BTreeSet<(Duration, DeviceId)>,
    /// Attempts that run, and those of them that hold slots, by their beginning.
    attempts: usize,
    young_wanted: BTreeSet<(Duration, DeviceId)>,
    young_others: BTreeSet<(Duration, DeviceId)>,
    /// When the next further attempt at an unwanted device may begin.
    spaced: Duration,
    wants: u64,
}

/// Attempts since the device was last wanted; then the newest want.
type Urgency = (u32, Reverse<u64>);

#[derive(Debug)]
struct Peer {
    state: State,
    wanted: Option<Urgency>,
    failures: u32,
    /// When the last attempt ended.
    tried: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Until the next attempt.
    Waiting(Duration),
    /// The next attempt is due, and the device is wanted.
    Due(Urgency),
    /// Since when, and whether it was wanted then.
    Attempting(Duration, bool),
    /// Since when a link is up.
    Connected(Duration),
}

impl ConnectionMachine {
    /// A device to be reached at once; known ones stay as they are.
    pub fn insert(&mut self, device: DeviceId, now: Now) {
        self.devices.entry(device).or_insert_with(|| {
            self.others.insert((now.mono, device));
            Peer { state: State::Waiting(now.mono), wanted: None, failures: 0, tried: None }
        });
    }

    /// A device that is no contact's any more.
    pub fn remove(&mut self, device: &DeviceId) {
        if let Some(peer) = self.devices.get(device) {
            let state = peer.state;
            self.leave(*device, state);
            self.devices.remove(device);
        }
    }

    /// Whether a device is known.
    pub fn contains(&self, device: &DeviceId) -> bool {
        self.devices.contains_key(device)
    }

    /// Something waits to be sent to the device, until a link is up.
    pub fn want(&mut self, device: &DeviceId, now: Now) {
        let Some(peer) = self.devices.get_mut(device) else { return };
        if matches!(peer.state, State::Connected(_)) {
            return;
        }
        self.wants += 1;
        peer.wanted = Some((0, Reverse(self.wants)));
        let sooner = peer.tried.map_or(now.mono, |tried| tried + PAUSE).max(now.mono);
        match peer.state {
            State::Waiting(at) => self.change(*device, State::Waiting(at.min(sooner))),
            State::Due(_) => self.change(*device, State::Waiting(now.mono)),
            State::Attempting(..) | State::Connected(_) => {}
        }
    }

    /// The device may be reachable now, or elsewhere than before: it is worth a first attempt.
    pub fn on_found(&mut self, device: &DeviceId, now: Now) {
        let Some(peer) = self.devices.get_mut(device) else { return };
        if let State::Waiting(at) = peer.state {
            peer.failures = 0;
            let sooner = peer.tried.map_or(now.mono, |tried| tried + PAUSE).max(now.mono);
            self.change(*device, State::Waiting(at.min(sooner)));
        }
    }

    /// The network changed: everything is worth a first attempt.
    pub fn on_moved(&mut self, now: Now) {
        let waiting: Vec<DeviceId> = self.wanted.iter().chain(&self.others).map(|(_, device)| *device).collect();
        for device in waiting {
            if let Some(peer) = self.devices.get_mut(&device) {
                peer.failures = 0;
                self.change(device, State::Waiting(now.mono));
            }
        }
    }

    /// A link came up, whichever side dialed. An attempt of ours may still run: its end is reported as
    /// any other.
    pub fn on_link_up(&mut self, device: &DeviceId, now: Now) {
        let Some(peer) = self.devices.get_mut(device) else { return };
        peer.wanted = None;
        if !matches!(peer.state, State::Connected(_)) {
            self.change(*device, State::Connected(now.mono));
        }
    }

    /// The last link went down: the first attempt comes soon, unless links keep dying young.
    pub fn on_link_down(&mut self, device: &DeviceId, now: Now, config: &Config, rng: &mut dyn Rng) {
        let Some(peer) = self.devices.get_mut(device) else { return };
        let State::Connected(since) = peer.state else { return };
        if now.mono.saturating_sub(since) >= STEADY {
            peer.failures = 0;
        }
        self.wait(device, FIRST_WAIT / 5, now, config, rng);
    }

    /// An attempt that [`next`](ConnectionMachine::next) asked for failed.
    pub fn on_failed(&mut self, device: &DeviceId, now: Now, config: &Config, rng: &mut dyn Rng) {
        let Some(peer) = self.devices.get_mut(device) else { return };
        if matches!(peer.state, State::Attempting(..)) {
            peer.tried = Some(now.mono);
            self.wait(device, FIRST_WAIT, now, config, rng);
        }
    }

    fn wait(&mut self, device: &DeviceId, first: Duration, now: Now, config: &Config, rng: &mut dyn Rng) {
        let Some(peer) = self.devices.get_mut(device) else { return };
        let wait = first.saturating_mul(1 << peer.failures.min(10)).min(LONGEST_WAIT);
        peer.failures = peer.failures.saturating_add(1);
        self.change(*device, State::Waiting(now.mono + config.jittered(wait, rng)));
    }

    /// The device to be dialed now, if any; its attempt has begun.
    pub fn next(&mut self, now: Now) -> Option<DeviceId> {
        self.age(now);
        let room = |young: &BTreeSet<_>, attempts, most| young.len() < SLOTS && attempts < most;
        if room(&self.young_wanted, self.attempts, 2 * ATTEMPTS)
            && let Some((_, device)) = self.due.first().copied()
        {
            if let Some((tries, _)) = self.devices.get_mut(&device).and_then(|peer| peer.wanted.as_mut()) {
                *tries += 1;
            }
            self.change(device, State::Attempting(now.mono, true));
            return Some(device);
        }
        if room(&self.young_others, self.attempts, ATTEMPTS)
            && let Some((at, device)) = self.others.first().copied()
            && self.spaced(at, &device) <= now.mono
        {
            if self.is_retry(&device) {
                self.spaced = now.mono + SPACING;
            }
            self.change(device, State::Attempting(now.mono, false));
            return Some(device);
        }
        None
    }

    /// When [`next`](ConnectionMachine::next) is to be asked again, if nothing happens before; never in the past,
    /// if it was asked until it gave none.
    pub fn next_deadline(&self) -> Option<Duration> {
        // While all slots are taken, a device waits until the oldest attempt is young no more. While there
        // are too many attempts in all, the end of one is waited for.
        let when = |due: Option<Duration>, young: &BTreeSet<(Duration, DeviceId)>, most| {
            let slot = young.first().filter(|_| young.len() >= SLOTS).map_or(Duration::ZERO, |(at, _)| *at + YOUNG);
            due.filter(|_| self.attempts < most).map(|due| due.max(slot))
        };
        let wanted = match self.due.is_empty() {
            true => self.wanted.first().map(|(at, _)| *at),
            false => Some(Duration::ZERO),
        };
        let wanted = when(wanted, &self.young_wanted, 2 * ATTEMPTS);
        let other = self.others.first().map(|(at, device)| self.spaced(*at, device));
        let other = when(other, &self.young_others, ATTEMPTS);
        wanted.into_iter().chain(other).min()
    }

    fn is_retry(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|peer| peer.failures > 0)
    }

    /// When a device that nobody wants may be dialed.
    fn spaced(&self, at: Duration, device: &DeviceId) -> Duration {
        if self.is_retry(device) { at.max(self.spaced) } else { at }
    }

    /// Attempts that are young no more give their slots back, and the time of wanted devices comes.
    fn age(&mut self, now: Now) {
        while let Some((_, device)) = self.wanted.first().copied().filter(|(at, _)| *at <= now.mono) {
            let urgency = self.devices.get(&device).and_then(|peer| peer.wanted).unwrap_or_default();
            self.change(device, State::Due(urgency));
        }
        for young in [&mut self.young_wanted, &mut self.young_others] {
            while young.first().is_some_and(|(since, _)| *since + YOUNG <= now.mono) {
                young.pop_first();
            }
        }
    }

    fn change(&mut self, device: DeviceId, state: State) {
        let Some(peer) = self.devices.get_mut(&device) else { return };
        let (before, wanted) = (std::mem::replace(&mut peer.state, state), peer.wanted);
        self.leave(device, before);
        match state {
            State::Waiting(at) if wanted.is_some() => drop(self.wanted.insert((at, device))),
            State::Waiting(at) => drop(self.others.insert((at, device))),
            State::Due(urgency) => drop(self.due.insert((urgency, device))),
            State::Attempting(since, wanted) => {
                self.attempts += 1;
                let young = if wanted { &mut self.young_wanted } else { &mut self.young_others };
                young.insert((since, device));
            }
            State::Connected(_) => {}
        }
    }

    fn leave(&mut self, device: DeviceId, state: State) {
        match state {
            State::Waiting(at) => {
                self.wanted.remove(&(at, device));
                self.others.remove(&(at, device));
            }
            State::Due(urgency) => drop(self.due.remove(&(urgency, device))),
            State::Attempting(since, wanted) => {
                self.attempts -= 1;
                let young = if wanted { &mut self.young_wanted } else { &mut self.young_others };
                young.remove(&(since, device));
            }
            State::Connected(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;

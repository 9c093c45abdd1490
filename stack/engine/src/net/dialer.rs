//! Reaching for the devices that may have a link.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerloom_core::names::race;
use peerloom_core::wire::store::ContactDevice;
use peerloom_core::wire::{Address, DeviceId, DiscoveryKey, OpenItem, PublicKey};
use peerloom_core::{Error, ErrorKind, Link, Result, Retry, Signaling};
use peerloom_delivery::{ConnectionMachine, ConnectionState, Now};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::task::JoinSet;
use tracing::debug;

use super::lookup::{ask, cheapest_first};
use super::{Shared, handshake, link};
use crate::contacts::addresses;
use crate::event::Event;

/// Addresses of one device that are tried.
const ADDRESSES: usize = 8;

type Outcome = (DeviceId, Result<(Arc<dyn Link>, handshake::Ready)>);

/// Keeps a link to every device of every contact, to this user's other devices and to services in use, as far as they
/// can be reached. Who is dialed when is the machine's business; a device costs nothing here while it waits.
pub(super) async fn run(shared: Arc<Shared>) {
    let start = Instant::now();
    let now = || Now { mono: start.elapsed(), wall_ms: 0 };
    // Only jitter comes out of it.
    let mut rng =
        StdRng::try_from_rng(&mut SysRng).unwrap_or_else(|_| StdRng::seed_from_u64(start.elapsed().as_nanos() as u64));
    let mut machine = ConnectionMachine::default();
    shared.contacts.device_ids().into_iter().for_each(|device| machine.insert(device, now()));
    let mut dials: JoinSet<Outcome> = JoinSet::new();
    // What was reported of devices that refuse links, until one is up.
    let mut refusals = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        hear(&shared, &mut machine, now(), &mut rng);
        let left = shared.links.notice().is_some();
        while let Some(device) = machine.next(now()).filter(|_| !left) {
            let of_contact = || shared.contacts.device(&device).map(|(_, known)| known);
            let Some(known) = shared.contacts.other(&device).or_else(of_contact) else {
                machine.remove(&device);
                continue;
            };
            shared.links.set_state(device, ConnectionState::Discovering, shared.links.reason(&device));
            dials.spawn(reach(shared.clone(), known));
        }
        let due = async {
            match machine.next_deadline().filter(|_| !left) {
                Some(at) => tokio::time::sleep(at.saturating_sub(now().mono)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = shared.links.news() => {}
            Some(_) = running.join_next() => {}
            Some(Ok((device, outcome))) = dials.join_next() => match outcome {
                Ok((link, ready)) => {
                    // When the link ends, before it is registered even, there is news.
                    machine.on_link_up(&device, now());
                    refusals.remove(&device);
                    running.spawn(link::run(shared.clone(), link, ready, None));
                }
                Err(error) => {
                    debug!(?device, %error, "a device can't be reached");
                    machine.on_failed(&device, now(), &shared.delivery, &mut rng);
                    report_refusal(&shared, &mut refusals, device, &error);
                    shared.links.set_state(device, ConnectionState::Disconnected, Some(error.for_people()));
                }
            },
        }
    }
}

/// Reports a refusal that no waiting mends, once for each reason.
fn report_refusal(shared: &Arc<Shared>, reported: &mut HashMap<DeviceId, String>, device: DeviceId, error: &Error) {
    let reason = error.for_people();
    let lasting = error.kind() == ErrorKind::Refused && error.retryable() != Retry::Later;
    let Some(user) = shared.contacts.user_of(&device).filter(|_| lasting) else { return };
    if reported.insert(device, reason.clone()).as_ref() == Some(&reason) {
        return;
    }
    let event = Event::PeerRefused { user, device, reason };
    let shared = shared.clone();
    // Beside the dials, which a slow store must not hold up.
    tokio::spawn(async move {
        let report = shared.driver.call(move |turn| {
            turn.effects.event_of_link(event);
            Ok(())
        });
        // Fails only where the node ends or its store does, which is reported by itself.
        let _ = report.await;
    });
}

/// Takes in what happened meanwhile.
fn hear(shared: &Shared, machine: &mut ConnectionMachine, now: Now, rng: &mut StdRng) {
    let news = shared.links.take_news();
    for device in news.wanted.iter().chain(&news.found).filter(|device| shared.contacts.knows(device)) {
        machine.insert(*device, now);
    }
    for device in &news.changed {
        match shared.links.is_up(device) {
            true => machine.on_link_up(device, now),
            false => machine.on_link_down(device, now, &shared.delivery, rng),
        }
    }
    news.found.iter().for_each(|device| machine.on_found(device, now));
    news.wanted.iter().for_each(|device| machine.want(device, now));
    if news.moved {
        machine.on_moved(now);
    }
}

pub(super) async fn wait_registered(shared: &Shared, device: &DeviceId) {
    for _ in 0..50 {
        if shared.links.is_up(device) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Finds, dials and greets one device.
async fn reach(shared: Arc<Shared>, device: ContactDevice) -> Outcome {
    let id = device.device;
    let attempt = async {
        let Some(key) = shared.contacts.key(&id) else {
            return Err(Error::new(ErrorKind::NotFound, "engine", "dial", "the device's certificate is damaged"));
        };
        let link = dial_any(&shared, &device, &key).await?;
        match handshake::initiate(&shared, &link, id).await {
            Ok(ready) => Ok((link, ready)),
            Err(error) => {
                link.close("the handshake failed");
                Err(error)
            }
        }
    };
    (id, attempt.await)
}

/// Dials the known addresses; then those that discoveries find,
/// the cheapest discovery first.
async fn dial_any(shared: &Shared, device: &ContactDevice, expected: &PublicKey) -> Result<Arc<dyn Link>> {
    let known = addresses(device);
    let mut last = match dial_all(shared, device.device, &known, expected).await {
        Ok(link) => return Ok(link),
        Err(error) => error,
    };
    shared.links.set_state(device.device, ConnectionState::Discovering, Some(last.to_string()));
    let key = DiscoveryKey::Record(device.device);
    for discovery in cheapest_first(&shared.discoveries, key) {
        let answers = ask(discovery, shared.own.network, key).await;
        let addresses = answers.into_iter().filter_map(|answer| match answer.open {
            OpenItem::Record(record, _) => Some(record.addresses),
            _ => None,
        });
        let mut fresh: Vec<Address> = addresses.flatten().collect();
        fresh.retain(|address| !known.contains(address));
        if fresh.is_empty() {
            continue;
        }
        match dial_all(shared, device.device, &fresh, expected).await {
            Ok(link) => return Ok(link),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Dials the device's first addresses that a transport of this node is for, as RFC 8305 has it.
async fn dial_all(shared: &Shared, device: DeviceId, addresses: &[Address], key: &PublicKey) -> Result<Arc<dyn Link>> {
    let transport = |address: &Address| shared.transports.iter().find(|t| t.scheme() == address.scheme());
    let first = addresses.iter().take(ADDRESSES);
    let candidates = first.filter_map(|address| Some((address, transport(address)?))).collect();
    let dialed = race(candidates, |(address, transport)| async move {
        let signaling = transport.caps().needs_signaling.then(|| shared.signals.clone() as Arc<dyn Signaling>);
        shared.links.advance(
            device,
            if signaling.is_some() { ConnectionState::Signaling } else { ConnectionState::Connecting },
        );
        transport.dial(address, Some(key), signaling).await
    });
    let message = "no address of the device is known; it has to dial first";
    dialed.await.unwrap_or_else(|| Err(Error::new(ErrorKind::Unreachable, "engine", "dial", message)))
}

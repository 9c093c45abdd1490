//! Links to the devices of contacts: dialing, accepting, and what is said on them.

pub(crate) mod by_hand;
mod dialer;
mod gate;
mod handshake;
mod link;
mod links;
mod machine;
mod signals;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_core::wire::{Address, DeviceId, PeerRecord, Signed, SuiteId, UserId};
use peerloom_core::{Discovery, Link, Listener, Place, Result, Signal, Signaling, Transport};
use peerloom_delivery::Config;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::contacts::Contacts;
use crate::driver::{DriverHandle, Own};
use gate::Gate;
pub(crate) use gate::SignalGate;

pub(crate) use dialer::find;
pub(crate) use links::{Held, Links};
pub use links::{LinkInfo, PeerStatus};
pub(crate) use signals::LinkCarrier;
pub use signals::Switchboard;

/// How long our record is valid; it is told again at every link.
const RECORD_LIFETIME_MS: u64 = 7 * 24 * 3600 * 1000;

/// What the network side works with.
pub(crate) struct Shared {
    pub(crate) own: Arc<Own>,
    pub(crate) suites: Vec<SuiteId>,
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) discoveries: Vec<Arc<dyn Discovery>>,
    pub(crate) contacts: Contacts,
    pub(crate) links: Links,
    pub(crate) signals: Arc<Switchboard>,
    /// What carries signals over links, which brings it their frames.
    pub(crate) carrier: Arc<LinkCarrier>,
    pub(crate) driver: DriverHandle,
    pub(crate) delivery: Config,
    pub(crate) max_links: usize,
}

/// The running network side.
pub(crate) struct Network {
    pub(crate) shared: Arc<Shared>,
    tasks: JoinSet<()>,
    addresses: Arc<Addresses>,
}

/// Where each transport listens, as it last said.
struct Addresses {
    by_transport: Mutex<Vec<Vec<Address>>>,
    changed: Notify,
}

impl Addresses {
    fn all(&self) -> Vec<Address> {
        let book = self.by_transport.lock().unwrap_or_else(PoisonError::into_inner);
        book.iter().flatten().take(peerloom_wire::limits::ADDRESSES).cloned().collect()
    }

    fn set(&self, transport: usize, addresses: Vec<Address>) {
        let mut book = self.by_transport.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = book.get_mut(transport).filter(|known| **known != addresses) {
            *known = addresses;
            self.changed.notify_one();
        }
    }
}

impl Network {
    /// Listens on every transport, announces where, and begins to reach for contacts.
    pub(crate) async fn start(shared: Shared) -> Result<Self> {
        let shared = Arc::new(shared);
        let gate = Arc::new(Gate::new(shared.contacts.clone(), shared.links.clone()));
        let mut listeners = Vec::new();
        for transport in &shared.transports {
            let signaling = transport.caps().needs_signaling.then(|| shared.signals.clone() as Arc<dyn Signaling>);
            transport.set_admission(gate.clone());
            listeners.push(transport.listen(signaling).await?);
        }
        let addresses = Arc::new(Addresses {
            by_transport: Mutex::new(listeners.iter().map(|l| l.addresses()).collect()),
            changed: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        for discovery in &shared.discoveries {
            tasks.spawn(take_records(shared.clone(), discovery.watch()));
        }
        tasks.spawn(shared.signals.clone().run());
        announce(&shared, addresses.all()).await?;

        let moved = watch::Sender::new(());
        for (transport, listener) in listeners.into_iter().enumerate() {
            let news = Moved { machine: moved.subscribe(), addresses: addresses.clone(), transport };
            tasks.spawn(accept(shared.clone(), listener, gate.clone(), news));
        }
        tasks.spawn(machine::watch(shared.clone(), moved));
        tasks.spawn(dialer::run(shared.clone()));
        tasks.spawn(renew(shared.clone(), addresses.clone()));
        Ok(Self { shared, tasks, addresses })
    }

    /// Where this node listens.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.addresses.all()
    }

    /// Makes an offer for a device, to be carried by people.
    pub(crate) async fn offer_by_hand(shared: Arc<Shared>, user: UserId, device: DeviceId) -> Result<by_hand::Offer> {
        by_hand::offer(shared, user, device).await
    }

    /// Answers an offer that people carried here.
    pub(crate) async fn answer_by_hand(shared: &Shared, offer: &Signal) -> Result<Signed> {
        by_hand::answer(shared, offer).await
    }

    /// Closes all links and stops listening.
    pub(crate) async fn shutdown(mut self) {
        self.tasks.abort_all();
        self.shared.links.close_all("shutting down");
        for transport in &self.shared.transports {
            transport.shutdown().await;
        }
        for discovery in &self.shared.discoveries {
            discovery.shutdown().await;
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Takes in records of contacts' devices that a discovery comes to know, and dials those devices.
async fn take_records(shared: Arc<Shared>, mut records: BoxStream<'static, Signed>) {
    while let Some(signed) = records.next().await {
        // Whose it says it is; whether that is true is checked only for those who matter.
        let Ok((_, certificate)) = PeerRecord::open(&signed, |_, _, _| true) else {
            continue;
        };
        let device = certificate.device;
        if shared.contacts.certificate(&device).is_none() {
            continue;
        }
        match shared.driver.call(move |turn| turn.on_record(device, signed)).await {
            Ok(()) => shared.links.want(device),
            Err(error) => debug!(?device, %error, "a record that was found is of no use"),
        }
    }
}

/// Announces again well before the record expires, and when the addresses in it change.
async fn renew(shared: Arc<Shared>, addresses: Arc<Addresses>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(RECORD_LIFETIME_MS / 4)) => {}
            () = addresses.changed.notified() => {}
        }
        if let Err(error) = announce(&shared, addresses.all()).await {
            warn!(%error, "the record could not be renewed");
        }
    }
}

/// Makes this device's record and gives it to the discoveries.
async fn announce(shared: &Shared, addresses: Vec<Address>) -> Result<()> {
    let record = PeerRecord {
        network: shared.own.network,
        certificate: shared.own.certificate.clone(),
        addresses,
        capabilities: 0,
        suites: shared.suites.clone(),
        key_packages: Vec::new(),
        sequence: 0,
        expires_at_ms: crate::clock::system_ms() + RECORD_LIFETIME_MS,
    };
    let signed = shared.driver.call(move |turn| turn.set_record(record)).await?;
    for discovery in &shared.discoveries {
        if let Err(error) = discovery.announce(signed.clone()).await {
            warn!(%error, "the record could not be announced");
        }
    }
    Ok(())
}

/// What a listener hears of the machine's addresses, and where it says its own.
struct Moved {
    machine: watch::Receiver<()>,
    addresses: Arc<Addresses>,
    transport: usize,
}

/// Takes in links; those who ask for one hold places at the gate meanwhile.
async fn accept(shared: Arc<Shared>, mut listener: Box<dyn Listener>, gate: Arc<Gate>, mut moved: Moved) {
    let mut running = JoinSet::new();
    loop {
        let link: Arc<dyn Link> = tokio::select! {
            link = listener.accept() => match link {
                Some(link) => link,
                None => return,
            },
            // Finished ones are collected as they end.
            Some(_) = running.join_next() => continue,
            Ok(()) = moved.machine.changed() => {
                moved.addresses.set(moved.transport, listener.addresses());
                continue;
            }
        };
        let Some(place) = gate.place(&*link) else {
            shared.links.count_refused();
            link.close("this device has links enough");
            continue;
        };
        running.spawn(greet(shared.clone(), gate.clone(), link, place));
    }
}

/// Finds out who made a link, and runs it if the device may stay.
async fn greet(shared: Arc<Shared>, gate: Arc<Gate>, link: Arc<dyn Link>, place: Place) {
    let from = link.remote_address();
    let greeted = tokio::select! {
        greeted = handshake::respond(&shared, &link, &place) => greeted,
        () = place.lost() => {
            shared.links.count_refused();
            debug!(%from, "a link gave way to a newer one before its handshake was done");
            return link.close("busy");
        }
    };
    match greeted {
        Ok(ready) => {
            let known = gate.known(ready.device);
            drop(place);
            link::run(shared, link, ready, Some(known)).await;
        }
        Err(error) => {
            shared.links.count_refused();
            debug!(%from, %error, "a link was refused");
            // Time for the verdict to arrive before the link closes under it.
            tokio::select! {
                _ = tokio::time::timeout(handshake::LINGER, link.closed()) => {}
                () = place.lost() => {}
            }
            link.close("refused");
        }
    }
}

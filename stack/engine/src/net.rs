//! Links to other devices: dialing, accepting, and the frames on them.

mod announce;
mod dialer;
mod gate;
mod handshake;
mod interfaces;
mod link;
mod links;
mod lookup;
pub(crate) mod manual;
mod reach;
mod signals;
mod status;
mod trouble;

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use peerloom_core::wire::{Address, DeviceCertificate, DeviceId, DiscoveryItem, OpenItem, Signed, SuiteId};
use peerloom_core::{Diagnostic, Discovery, Found, Link, Listener, Place, Result, Signal, Signaling, Transport};
use peerloom_crypto_primitives::verify;
use peerloom_delivery::Config;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use crate::contacts::Contacts;
use crate::driver::{DriverHandle, LocalIdentity};
pub(crate) use announce::Addresses;
use announce::Announcer;
use gate::Gate;
pub(crate) use gate::SignalGate;

pub(crate) use links::{Held, Links};
pub(crate) use lookup::{Answer, find};
pub(crate) use signals::LinkCarrier;
pub use signals::SignalingRouter;
pub use status::{LinkInfo, PeerStatus};
pub(crate) use trouble::Trouble;

/// What the network side works with.
pub(crate) struct Shared {
    pub(crate) own: Arc<LocalIdentity>,
    pub(crate) suites: Vec<SuiteId>,
    pub(crate) transports: Vec<Arc<dyn Transport>>,
    pub(crate) discoveries: Vec<Arc<dyn Discovery>>,
    pub(crate) contacts: Contacts,
    pub(crate) links: Links,
    pub(crate) signals: Arc<SignalingRouter>,
    /// What carries signals over links, which brings it their frames.
    pub(crate) carrier: Arc<LinkCarrier>,
    pub(crate) driver: DriverHandle,
    pub(crate) delivery: Config,
    pub(crate) max_links: usize,
}

/// The running network side.
pub(crate) struct Network {
    pub(crate) shared: Arc<Shared>,
    /// Ends the tasks.
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    pub(crate) addresses: Arc<Addresses>,
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
        let places = listeners.iter().map(|listener| listener.addresses()).collect();
        let addresses = Arc::new(Addresses::new(places, &shared.own, &shared.suites));
        let mut tasks = JoinSet::new();
        let moved = watch::Sender::new(());
        if shared.links.notice().is_none() {
            for discovery in &shared.discoveries {
                tasks.spawn(until_left(shared.clone(), take_found(shared.clone(), discovery.watch())));
            }
            tasks.spawn(until_left(shared.clone(), shared.signals.clone().run()));
            let announcer = Announcer::new(&shared, addresses.clone()).await?;
            tasks.spawn(until_left(shared.clone(), announcer.run(moved.subscribe())));
        }
        tasks.spawn(leave_discoveries(shared.clone()));
        for (transport, listener) in listeners.into_iter().enumerate() {
            let news = Moved { machine: moved.subscribe(), addresses: addresses.clone(), transport };
            tasks.spawn(accept(shared.clone(), listener, gate.clone(), news));
        }
        tasks.spawn(interfaces::watch(shared.clone(), moved));
        tasks.spawn(dialer::run(shared.clone()));
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(watch_over(tasks, stopped, shared.driver.clone()));
        Ok(Self { shared, stop, running, addresses })
    }

    /// Where others can dial this node, as its record says.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.addresses.choose().announced
    }

    /// Who can reach this node, and whom it can't reach.
    pub(crate) async fn diagnose(shared: &Shared, addresses: &Addresses) -> Vec<Diagnostic> {
        reach::diagnose(shared, addresses).await
    }

    /// Why most others can't come to this node by an address.
    pub(crate) fn cut_off(&self) -> Option<Diagnostic> {
        reach::cut_off(&self.shared, &self.addresses)
    }

    /// Makes an offer for a device, to be carried by people.
    pub(crate) async fn offer_manual(shared: Arc<Shared>, device: DeviceId) -> Result<manual::Offer> {
        manual::offer(shared, device).await
    }

    /// Answers an offer that people carried here.
    pub(crate) async fn answer_manual(shared: &Shared, offer: &Signal) -> Result<Signed> {
        manual::answer(shared, offer).await
    }

    /// Closes all links and stops listening.
    pub(crate) async fn shutdown(self) {
        let _ = self.stop.send(());
        self.shared.links.close_all("shutting down");
        let transports = join_all(self.shared.transports.iter().map(|transport| transport.shutdown()));
        let discoveries = join_all(self.shared.discoveries.iter().map(|discovery| discovery.shutdown()));
        tokio::join!(transports, discoveries);
        let _ = self.running.await;
    }
}

/// Runs the network side's tasks until it is stopped. One that panics ends the node: without it the others would go on
/// as if nothing had happened.
async fn watch_over(mut tasks: JoinSet<()>, mut stopped: oneshot::Receiver<()>, driver: DriverHandle) {
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(ended) = tasks.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    driver.fail("network side").await;
                }
            }
        }
    }
    tasks.shutdown().await;
}

/// Runs until this node leaves the network.
async fn until_left(shared: Arc<Shared>, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = shared.links.left() => {}
    }
}

/// A node that leaves the network isn't found any more, and takes no signals: they are for the newest copy.
async fn leave_discoveries(shared: Arc<Shared>) {
    shared.links.left().await;
    join_all(shared.discoveries.iter().map(|discovery| discovery.shutdown())).await;
}

/// Takes in what a discovery comes to know of contacts' devices, and dials those devices.
async fn take_found(shared: Arc<Shared>, mut news: BoxStream<'static, Found>) {
    while let Some(found) = news.next().await {
        // Whose it says it is; whether that is true is checked only for those who matter.
        let Ok(OpenItem::Record(_, certificate)) = found.item.open(|_, _, _| true) else { continue };
        let device = certificate.device;
        let known = shared.contacts.knows(&device)
            // A new device: its certificate is checked here, so that made-up ones don't reach the delivery thread.
            || (is_expected(&shared, &certificate) && found.item.open(verify).is_ok());
        let (true, DiscoveryItem::Record(signed)) = (known, found.item) else { continue };
        match shared.driver.call(move |turn| turn.on_record(device, signed, false)).await {
            Ok(()) => shared.links.found(device),
            Err(error) => debug!(?device, source = %found.source, %error, "a record that was found is of no use"),
        }
    }
}

/// Whether a device that isn't known would be a contact's or this user's, as its certificate says.
fn is_expected(shared: &Shared, certificate: &DeviceCertificate) -> bool {
    shared.contacts.has(&certificate.user)
        || (certificate.user == shared.own.user && certificate.device != shared.own.device)
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
        // `doctor` looks whether an announced address leads here.
        if link.remote_key().is_some_and(|key| key == *shared.own.key.public()) {
            link.close("this node itself");
            continue;
        }
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

//! The transport: who offers, who answers, and what strangers may cost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use peerloom_core::sync::lock;
use peerloom_core::wire::{Address, Allowance, DeviceId, PublicKey, SessionId, limits};
use peerloom_core::{
    Admission, Diagnostic, Error, ErrorKind, IceServer, Link, Listener, Places, Result, Retry, Signal, Signaling,
    Source, Standing, Transport, TransportCaps,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{debug, warn};

use crate::WebRtcConfig;
use crate::guard::{Budget, Budgets, Guard};
use crate::ice::{self, Servers};
use crate::link::{Shared, WebRtcLink};
use crate::peer::{Binding, Peer};
use crate::sdp::CandidateRules;
use crate::session::Session;
use crate::signal::SignalBody;
use crate::{diagnose, runtime};

/// Offers of contacts' devices that are answered at once, and of one of them.
const ANSWERS: usize = 64;
const ANSWERS_OF_ONE: usize = 4;
/// The same of strangers, while an invitation is open: they take nothing from contacts.
const STRANGERS: usize = 64;
const STRANGERS_OF_ONE: usize = 2;
/// Offers of strangers that are answered in a burst, and after how long one more: each costs a connection. At this rate
/// one that is answered keeps its place long enough for a link, whatever comes behind it.
const STRANGERS_BURST: u32 = 64;
const STRANGERS_EVERY: Duration = Duration::from_millis(25);
/// Offers that people carried here and that wait for them to carry the answer back.
const MANUAL: usize = 16;
/// Most bytes that SCTP keeps for a stranger.
const STRANGERS_WINDOW: u32 = 256 * 1024;
/// Signals that wait for a session.
const SIGNALS: usize = 64;
/// Links that wait for the engine.
const BACKLOG: usize = 64;
/// How long a new connection is in a hurry before its descriptions are known.
const HURRY: Duration = Duration::from_secs(5);
/// How long shutting down waits for the peers to hear of it.
const LINGER: Duration = Duration::from_secs(1);

/// The `webrtc` transport.
pub struct WebRtcTransport(Arc<Inner>);

struct Inner {
    own: DeviceId,
    config: WebRtcConfig,
    binding: Binding,
    rules: CandidateRules,
    servers: Servers,
    /// Sessions by the other device and their name.
    sessions: Mutex<HashMap<(DeviceId, SessionId), Known>>,
    /// What listening got, for links that were made by hand, and where links go.
    listening: Mutex<Option<Arc<dyn Signaling>>>,
    accepting: Mutex<Option<mpsc::Sender<Arc<dyn Link>>>>,
    admission: Mutex<Option<Arc<dyn Admission>>>,
    /// For offers that are answered now, by who made them.
    contacts: Places,
    strangers: Places,
    /// For strangers' offers that wait to be answered, and when the next one may be.
    strangers_waiting: Places,
    strangers_rate: Mutex<Allowance<Instant>>,
    manual: Places,
    /// What checks of addresses may cost: of contacts' devices, of strangers.
    budgets: [Mutex<Budgets>; 2],
    moved: watch::Sender<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A session that gets signals.
struct Known {
    signals: mpsc::Sender<SignalBody>,
    /// It has become a link.
    up: bool,
}

impl WebRtcTransport {
    /// A transport of the device `own`. It binds nothing before it is used.
    pub fn new(config: WebRtcConfig, own: DeviceId) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, "webrtc", "configure", message);
        let ip = config.ip().map_err(|e| invalid(e.message))?;
        let ports = config.port_range().map_err(|e| invalid(e.message))?;
        let servers = config.ice_servers.iter().map(|text| ice::parse(text)).collect::<Result<Vec<_>, _>>();
        let (relay_only, keep_alive) = (config.relay_only, config.keep_alive.0);
        let binding = Binding { ip, ports, relay_only, window: runtime::window(), keep_alive };
        Ok(Self(Arc::new(Inner {
            own,
            rules: CandidateRules { loopback: ip.is_loopback() },
            binding,
            servers: Servers::new(servers.map_err(invalid)?),
            config,
            sessions: Mutex::default(),
            listening: Mutex::default(),
            accepting: Mutex::default(),
            admission: Mutex::default(),
            contacts: Places::new(ANSWERS, ANSWERS_OF_ONE),
            strangers: Places::new(STRANGERS, STRANGERS_OF_ONE),
            strangers_waiting: Places::new(STRANGERS, STRANGERS_OF_ONE),
            strangers_rate: Mutex::new(Allowance::full(STRANGERS_BURST)),
            manual: Places::new(MANUAL, MANUAL),
            budgets: [Budgets::of_contacts(), Budgets::of_strangers()].map(Mutex::new),
            moved: watch::Sender::new(()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })))
    }
}

/// A session's place among those that get signals; dropping it gives it up.
struct Place {
    inner: Arc<Inner>,
    key: (DeviceId, SessionId),
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.inner.sessions).remove(&self.key);
    }
}

impl Inner {
    /// A place for a session: signals for it are kept from now on.
    fn place(self: &Arc<Self>, device: DeviceId, id: SessionId) -> (Place, mpsc::Receiver<SignalBody>) {
        let (signals, received) = mpsc::channel(SIGNALS);
        let key = (device, id);
        lock(&self.sessions).insert(key, Known { signals, up: false });
        (Place { inner: self.clone(), key }, received)
    }

    /// How a device stands; where nothing can be asked, all are known.
    fn standing(&self, device: &DeviceId) -> Standing {
        lock(&self.admission).as_ref().map_or(Standing::Known, |admission| admission.standing(device))
    }

    /// What the sessions with a device may cost together before it answers.
    fn budget(&self, device: DeviceId, stranger: bool) -> Budget {
        let [contacts, strangers] = &self.budgets;
        lock(if stranger { strangers } else { contacts }).take(device, Instant::now())
    }

    /// Makes the connection of a session.
    async fn session(
        self: &Arc<Self>,
        place: &Place,
        signals: mpsc::Receiver<SignalBody>,
        (offerer, stranger): (bool, bool),
        signaling: Arc<dyn Signaling>,
    ) -> Result<Session> {
        let (device, id) = place.key;
        let guard = Guard::new(self.budget(device, stranger));
        guard.set_patient(!signaling.caps().trickles);
        let prepared = self.servers.prepare(signaling.ice_servers().await, self.binding.ip, guard).await;
        let mut binding = self.binding.clone();
        if stranger {
            binding.window = binding.window.min(STRANGERS_WINDOW);
        }
        // On a task of its own: the crate leaks what it has begun of a connection where this call is dropped.
        let made = tokio::spawn(async move { Peer::new(&binding, prepared).await });
        let failed =
            |e| Error::new(ErrorKind::Internal, "webrtc", "connect", "making a connection panicked").with_source(e);
        let (peer, events) = made.await.map_err(failed)??;
        peer.runtime.heat(HURRY);
        Ok(Session {
            id,
            link: Shared::new(peer, device, offerer, self.tasks.clone()),
            events,
            signals,
            trickles: signaling.caps().trickles,
            signaling,
            rules: self.rules,
            moved: self.moved.subscribe(),
            keep_alive: self.config.keep_alive.0,
            idle_timeout: self.config.idle_timeout.0,
            early: Vec::new(),
            taken: 0,
            awaits: None,
            serial: 0,
            restarted: None,
        })
    }

    /// Runs a link that is up.
    fn keep(self: &Arc<Self>, mut session: Session, place: Place) -> WebRtcLink {
        // By hand nothing more can be said; what listens may carry a restart.
        if !session.trickles
            && let Some(listening) = lock(&self.listening).clone()
        {
            session.trickles = listening.caps().trickles;
            session.signaling = listening;
        }
        if let Some(known) = lock(&self.sessions).get_mut(&place.key) {
            known.up = true;
        }
        session.link.peer.runtime.guard().set_patient(false);
        let link = WebRtcLink(session.link.clone());
        let (shared, stop) = (session.link.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let _place = place;
            let watch = session.watch();
            tokio::pin!(watch);
            tokio::select! {
                () = &mut watch => return,
                () = stop.cancelled() => shared.end(crate::lane::closed("the transport was shut down")),
            }
            watch.await;
        });
        link
    }

    /// Waits until one more stranger's offer may be answered.
    async fn strangers_turn(&self) {
        loop {
            let wait = {
                let mut rate = lock(&self.strangers_rate);
                let now = Instant::now();
                if rate.spend(now, STRANGERS_EVERY) {
                    return;
                }
                rate.wait(now, STRANGERS_EVERY).unwrap_or_default()
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Gives a signal to its session; an offer of a new session is answered. `manual`: a person brought it, who
    /// answers for it.
    fn on_signal(
        self: &Arc<Self>,
        signal: &Signal,
        signaling: &Arc<dyn Signaling>,
        links: &mpsc::Sender<Arc<dyn Link>>,
        manual: bool,
    ) {
        let body = match SignalBody::decode(&signal.payload) {
            Ok(body) => body,
            Err(error) => return debug!(from = ?signal.from, %error, "refused a signal"),
        };
        let key = (signal.from, signal.session);
        if let Some(known) = lock(&self.sessions).get(&key) {
            // A full queue loses it, as the way here might have.
            let _ = known.signals.try_send(body);
            return;
        }
        let SignalBody::Offer { sdp, complete, serial } = body else {
            return;
        };
        let (inner, signaling, links, from) = (self.clone(), signaling.clone(), links.clone(), signal.from);
        let standing = if manual { Standing::Known } else { self.standing(&from) };
        let pool = match standing {
            Standing::Known if manual => &self.manual,
            Standing::Known => &self.contacts,
            Standing::Stranger => &self.strangers,
            Standing::Unwelcome => {
                debug!(?from, "refused an offer of a device that may have no link");
                self.tasks.spawn(async move { refuse(&*signaling, key, "busy").await });
                return;
            }
        };
        // A newer offer may take it away again.
        let stranger = standing == Standing::Stranger;
        let first = if stranger { &self.strangers_waiting } else { pool }.take(Source::device(from));
        // Before anything else is done: candidates follow at once.
        let (place, signals) = self.place(from, key.1);
        self.tasks.spawn(async move {
            let turn = if stranger {
                tokio::select! {
                    () = inner.strangers_turn() => inner.strangers.take(Source::device(from)),
                    () = first.lost() => return debug!(?from, "an offer gave way to a newer one"),
                    () = inner.stop.cancelled() => return,
                }
            } else {
                first
            };
            let answered = async {
                let mut session = inner.session(&place, signals, (false, stranger), signaling).await?;
                session.answer_offer(&sdp, complete, serial).await?;
                session.await_link().await?;
                Ok::<_, Error>(session)
            };
            let answered = tokio::select! {
                answered = answered => answered,
                () = turn.lost() => return debug!(?from, "an offer gave way to a newer one"),
                () = inner.stop.cancelled() => return,
            };
            drop(turn);
            match answered {
                Ok(session) => {
                    if links.try_send(Arc::new(inner.keep(session, place))).is_err() {
                        warn!(?from, "the node is busy; closed a new link");
                    }
                }
                Err(error) => debug!(?from, %error, "an offer came to nothing"),
            }
        });
    }
}

async fn refuse(signaling: &dyn Signaling, (device, session): (DeviceId, SessionId), reason: &str) {
    // The offering device gives up by itself otherwise.
    let _ = signaling.send(device, session, SignalBody::Refused { reason: reason.into() }.encode()).await;
}

#[async_trait]
impl Transport for WebRtcTransport {
    fn scheme(&self) -> &'static str {
        "webrtc"
    }

    fn caps(&self) -> TransportCaps {
        TransportCaps {
            authenticates: false,
            nat_traversal: true,
            needs_signaling: true,
            max_frame: limits::CHAT_FRAME,
        }
    }

    async fn listen(&self, signaling: Option<Arc<dyn Signaling>>) -> Result<Box<dyn Listener>> {
        let (sender, links) = mpsc::channel(BACKLOG);
        *lock(&self.0.accepting) = Some(sender.clone());
        if let Some(signaling) = signaling {
            *lock(&self.0.listening) = Some(signaling.clone());
            let (inner, mut signals) = (self.0.clone(), signaling.receive());
            self.0.tasks.spawn(async move {
                loop {
                    let signal = tokio::select! {
                        signal = signals.next() => signal,
                        () = inner.stop.cancelled() => None,
                    };
                    let Some(signal) = signal else { return };
                    inner.on_signal(&signal, &signaling, &sender, false);
                }
            });
        } else {
            warn!("no discovery of this node carries signals; links over webrtc can be made by hand only");
        }
        let address = format!("webrtc://{}", self.0.own).parse()?;
        Ok(Box::new(WebRtcListener { address, links, stop: self.0.stop.clone() }))
    }

    async fn dial(
        &self,
        address: &Address,
        _expected: Option<&PublicKey>,
        signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>> {
        let wrong = || {
            let message = format!("`{address}` is no WebRTC address; it is webrtc:// and a device's id");
            Error::new(ErrorKind::Invalid, "webrtc", "dial", message)
        };
        let device: DeviceId = address.rest().parse().map_err(|_| wrong())?;
        let nothing = "nothing carries signals to the device; add a [[discovery]] of kind registry to the file";
        let signaling = signaling.ok_or_else(|| {
            Error::new(ErrorKind::Unreachable, "webrtc", "dial", nothing).with_retry(Retry::AfterChange)
        })?;
        let random = peerloom_crypto_primitives::random();
        let id = random.map(SessionId::from_bytes);
        let id = id.map_err(|e| Error::new(ErrorKind::System, "webrtc", "dial", "no randomness").with_source(e))?;
        let patience = signaling.caps().patience;
        let listens = lock(&self.0.listening).as_ref().is_some_and(|listening| Arc::ptr_eq(listening, &signaling));
        // A transport that listens gives the answers to their sessions already.
        let _pump = (!listens).then(|| self.pump(&signaling));
        let (place, signals) = self.0.place(device, id);
        let mut session = self.0.session(&place, signals, (true, false), signaling).await?;
        tokio::select! {
            dialed = session.dial(patience) => dialed?,
            () = self.0.stop.cancelled() => {
                return Err(Error::new(ErrorKind::Closed, "webrtc", "dial", "the transport was shut down"));
            }
        }
        Ok(Arc::new(self.0.keep(session, place)))
    }

    fn answer(&self, offer: &Signal, signaling: Arc<dyn Signaling>) -> Result<()> {
        let deaf = || Error::new(ErrorKind::NotStarted, "webrtc", "answer", "the node isn't started; start it first");
        let links = lock(&self.0.accepting).clone().ok_or_else(deaf)?;
        match SignalBody::decode(&offer.payload)? {
            SignalBody::Offer { .. } => {}
            _ => return Err(Error::new(ErrorKind::Malformed, "webrtc", "answer", "this is no offer")),
        }
        if lock(&self.0.sessions).contains_key(&(offer.from, offer.session)) {
            let message = "this offer was answered already; ask for a new one if no link comes of it";
            return Err(Error::new(ErrorKind::AlreadyExists, "webrtc", "answer", message));
        }
        self.0.on_signal(offer, &signaling, &links, true);
        Ok(())
    }

    fn set_admission(&self, admission: Arc<dyn Admission>) {
        *lock(&self.0.admission) = Some(admission);
    }

    fn network_changed(&self) {
        self.0.moved.send_replace(());
    }

    fn set_ice_servers(&self, servers: Vec<IceServer>) -> Result<()> {
        let read = ice::read(&servers);
        let read = read.map_err(|message| Error::new(ErrorKind::Invalid, "webrtc", "set ice servers", message))?;
        self.0.servers.set(read);
        Ok(())
    }

    async fn diagnose(&self) -> Vec<Diagnostic> {
        let signaling = lock(&self.0.listening).clone();
        let offered = match signaling {
            Some(signaling) => signaling.ice_servers().await,
            None => Vec::new(),
        };
        diagnose::run(&self.0.servers, offered, self.0.binding.ip).await
    }

    async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        let _ = tokio::time::timeout(LINGER, self.0.tasks.wait()).await;
    }
}

impl WebRtcTransport {
    /// Gives what a signaling receives to its sessions; no new ones are answered.
    fn pump(&self, signaling: &Arc<dyn Signaling>) -> AbortOnDropHandle<()> {
        let (inner, mut signals) = (self.0.clone(), signaling.receive());
        AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                let Ok(body) = SignalBody::decode(&signal.payload) else {
                    continue;
                };
                if let Some(known) = lock(&inner.sessions).get(&(signal.from, signal.session)) {
                    let _ = known.signals.try_send(body);
                }
            }
        }))
    }
}

struct WebRtcListener {
    address: Address,
    links: mpsc::Receiver<Arc<dyn Link>>,
    stop: CancellationToken,
}

#[async_trait]
impl Listener for WebRtcListener {
    fn addresses(&self) -> Vec<Address> {
        vec![self.address.clone()]
    }

    async fn accept(&mut self) -> Option<Arc<dyn Link>> {
        tokio::select! {
            link = self.links.recv() => link,
            () = self.stop.cancelled() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_that_became_a_contact_has_a_contacts_budget() {
        let transport = WebRtcTransport::new(WebRtcConfig::default(), DeviceId::from_bytes([1; 32])).unwrap();
        let device = DeviceId::from_bytes([2; 32]);
        let costs = |stranger| {
            let guard = Guard::new(transport.0.budget(device, stranger));
            crate::guard::tests::checks(&guard, 32, Instant::now(), 12).iter().sum::<u32>()
        };
        let (first, second) = (costs(true), costs(true));
        assert!(second < first, "a stranger's sessions share one: {first}, {second}");
        let as_contact = costs(false);
        assert!(as_contact > first, "{first} as a stranger, {as_contact} as a contact");
    }
}

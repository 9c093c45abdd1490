//! The engine's handle: what the facade and its users call.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::future::join_all;
use peerloom_core::wire::store::{Contact, ContactDevice, ConversationInfo};
use peerloom_core::wire::{
    Address, ConversationId, DeviceCertificate, DeviceId, DiscoveryKey, Invitation, MessageId, Signed, UserId,
};
use peerloom_core::{Diagnostic, Error, ErrorKind, IceServer, Result};
use peerloom_crypto_primitives::{SigningKey, verify};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::{Mutex, oneshot};

use crate::clock::Clock;
use crate::config::{EngineConfig, INVITATION_LIFETIME, Layers, check_ttl};
use crate::contacts::{Contacts, suites};
use crate::directory::Directory;
use crate::driver::{
    self, COPIED, DriverHandle, Input, LocalIdentity, PEER_RESTORED, QueuedEntry, RESTORED, SendRequest, State,
    StoreStanding, Turn,
};
use crate::event::{EventSource, EventStream, Message};
use crate::history::{Cursor, Reader, blocking};
use crate::net::manual::Offer;
use crate::net::{self, LinkCarrier, Links, Network, PeerStatus, Shared, SignalGate, SignalingRouter};
use crate::store;

/// Offers by hand that wait for answers, at most.
const MAX_OFFERS: usize = 16;

/// A message that was handed over ([`Engine::submit`]). It completes once the message is durable, or says
/// why it was not accepted. Dropping it takes nothing back.
#[must_use = "only its completion says that the message was accepted"]
pub struct Sending(BoxFuture<'static, Result<MessageId>>);

impl Future for Sending {
    type Output = Result<MessageId>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

/// A node: its layers, its delivery thread, its links.
pub struct Engine {
    driver: DriverHandle,
    own: Arc<LocalIdentity>,
    contacts: Contacts,
    directory: Directory,
    links: Links,
    events: EventSource,
    reader: Reader,
    config: EngineConfig,
    cryptos: Vec<Arc<dyn peerloom_core::Crypto>>,
    transports: Vec<Arc<dyn peerloom_core::Transport>>,
    discoveries: Vec<Arc<dyn peerloom_core::Discovery>>,
    signals: Arc<SignalingRouter>,
    carrier: Arc<LinkCarrier>,
    network: Mutex<Option<Network>>,
    /// Set while `network` is locked: nothing starts any more.
    ended: AtomicBool,
    /// Offers that people carry, by the device they are for.
    offers: Mutex<HashMap<DeviceId, Offer>>,
}

impl Engine {
    /// Takes the layers into use: reads the store, starts the delivery thread. Binds nothing yet, so
    /// messages can be read and queued, and [`Engine::start`] brings them on their way.
    pub async fn open(layers: Layers, config: EngineConfig) -> Result<Self> {
        blocking(move || Self::open_now(layers, config)).await
    }

    fn open_now(layers: Layers, config: EngineConfig) -> Result<Self> {
        config.check()?;
        let Layers { transports, discoveries, storage, cryptos, identity } = layers;
        if identity.network != config.network {
            let message = "the folder's identity belongs to another network; set `network` back, or use another folder";
            return Err(Error::new(ErrorKind::Invalid, "engine", "open", message));
        }
        let certificate = DeviceCertificate::open(&identity.certificate, verify)?;
        let own = Arc::new(LocalIdentity {
            user: certificate.user,
            device: certificate.device,
            key: SigningKey::from_seed(&identity.device_seed),
            certificate: identity.certificate.clone(),
            network: identity.network,
            name: identity.name.clone(),
        });
        let opened = store::open(&*storage, store::MIGRATIONS, peerloom_wire::store::SCHEMA_VERSION)?;
        let no_randomness =
            |_| Error::new(ErrorKind::System, "engine", "open", "the operating system gives no randomness");
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(no_randomness)?;
        let (contacts, links, events) = (Contacts::default(), Links::default(), EventSource::new());
        let directory = Directory::default();
        let state = State::new(
            config.clone(),
            own.clone(),
            cryptos.clone(),
            contacts.clone(),
            directory.clone(),
            links.clone(),
            events.clone(),
            rng,
        );
        let carrier = Arc::new(LinkCarrier::new(own.device, links.clone()));
        let mut carriers: Vec<_> = discoveries.iter().filter_map(|discovery| discovery.signaling()).collect();
        carriers.push(carrier.clone());
        let gate = Arc::new(SignalGate(contacts.clone()));
        let key = SigningKey::from_seed(&identity.device_seed);
        let signals = Arc::new(SignalingRouter::new(key, identity.network, gate, carriers));
        let reader = Reader::new(&storage, own.device);
        let driver = driver::start(state, storage, Clock::new(opened.last_seen_ms))?;
        Ok(Self {
            driver,
            own,
            contacts,
            directory,
            links,
            events,
            reader,
            config,
            cryptos,
            transports,
            discoveries,
            signals,
            carrier,
            network: Mutex::new(None),
            ended: AtomicBool::new(false),
            offers: Mutex::default(),
        })
    }

    /// Listens, announces, and begins to reach for contacts. Does nothing when started already; fails once the node
    /// is shut down. Until it succeeds, nothing that waits expires.
    pub async fn start(&self) -> Result<()> {
        let mut network = self.network.lock().await;
        if self.ended.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "engine", "start", "the node is shut down"));
        }
        if network.is_none() {
            let shared = Shared {
                own: self.own.clone(),
                suites: self.cryptos.iter().map(|c| c.suite()).collect(),
                transports: self.transports.clone(),
                discoveries: self.discoveries.clone(),
                contacts: self.contacts.clone(),
                links: self.links.clone(),
                signals: self.signals.clone(),
                carrier: self.carrier.clone(),
                driver: self.driver.clone(),
                delivery: self.config.delivery.clone(),
                max_links: self.config.max_links,
            };
            let started = Network::start(shared).await?;
            let start = |turn: &mut Turn<'_>| {
                turn.start();
                Ok(())
            };
            if let Err(error) = self.driver.call(start).await {
                started.shutdown().await;
                return Err(error);
            }
            *network = Some(started);
        }
        Ok(())
    }

    /// This node's user.
    pub fn user(&self) -> UserId {
        self.own.user
    }

    /// This node's device.
    pub fn device(&self) -> DeviceId {
        self.own.device
    }

    /// What this node's user is called.
    pub fn name(&self) -> &str {
        &self.own.name
    }

    /// Where others can dial this node; empty until it is started.
    pub async fn addresses(&self) -> Vec<Address> {
        self.network.lock().await.as_ref().map(Network::addresses).unwrap_or_default()
    }

    /// Hands over a message; waits while 8 MiB of messages wait for the delivery thread. Messages are sent in the
    /// order in which these calls return. Once what it returns completes, the message is durably in the log and will
    /// be delivered, or visibly fail when `ttl` (the configured one by default) is over: from [`TTL`](crate::TTL),
    /// else `Invalid`.
    ///
    /// Cancel safe: a call that is dropped before it returns hands nothing over.
    pub async fn submit(
        &self,
        conversation: ConversationId,
        content_type: String,
        body: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Sending> {
        ttl.map_or(Ok(()), |ttl| check_ttl(ttl, "send"))?;
        let room = self.driver.room(body.len() + content_type.len()).await?;
        let (reply, answer) = oneshot::channel();
        let ttl = ttl.unwrap_or(self.config.ttl);
        self.driver.input(Input::Send(SendRequest { conversation, content_type, body, ttl, reply, room })).await?;
        let driver = self.driver.clone();
        Ok(Sending(Box::pin(async move { driver.answer(answer).await? })))
    }

    /// Sends a message. Once this returns, the message is durably in the log; see [`Engine::submit`].
    ///
    /// Not cancel safe: a call that is dropped before it returns may have sent the message. Who has to know uses
    /// [`Engine::submit`].
    pub async fn send(
        &self,
        conversation: ConversationId,
        content_type: String,
        body: Bytes,
        ttl: Option<Duration>,
    ) -> Result<MessageId> {
        self.submit(conversation, content_type, body, ttl).await?.await
    }

    /// Makes an invitation that lets `uses` contacts in during `lifetime`: within
    /// [`INVITATION_LIFETIME`](crate::INVITATION_LIFETIME), else `Invalid`. The node must be started.
    pub async fn invite(&self, lifetime: Duration, uses: u32) -> Result<Invitation> {
        if !INVITATION_LIFETIME.contains(&lifetime) {
            let message = format!("an invitation may be good for from 1ms to 365d, and not {lifetime:?}");
            return Err(Error::new(ErrorKind::Invalid, "engine", "invite", message));
        }
        let ttl_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        self.driver.call(move |turn| turn.invite(ttl_ms, uses)).await
    }

    /// Why an invitation leads to this node only from this machine, by hand, or not at all, and what to do about it;
    /// `None` where it leads here, and while the node isn't started. Nothing is dialed for it.
    pub async fn cut_off(&self) -> Option<Diagnostic> {
        self.network.lock().await.as_ref().and_then(Network::cut_off)
    }

    /// Adds the contact that an invitation comes from, durably.
    pub async fn add_contact(&self, invitation: Invitation) -> Result<Contact> {
        self.driver.call(move |turn| turn.add_contact(invitation)).await
    }

    /// Adds the user whose records a discovery finds by this key, durably. There is no invitation in it: the two
    /// talk once each has added the other.
    pub async fn add_contact_by_id(&self, key: DiscoveryKey) -> Result<Contact> {
        let found = net::find(&self.discoveries, self.own.network, key).await?;
        self.driver.call(move |turn| turn.add_found(&found)).await
    }

    /// Makes an offer for a contact's device, which people carry there; the answer goes to
    /// [`Engine::complete_manual`]. The node must be started. An earlier offer is given up.
    pub async fn offer_manual(&self, contact: &Contact) -> Result<Signed> {
        let fail = |message: &str| Error::new(ErrorKind::NotFound, "engine", "connect by hand", message);
        let mut devices = contact.devices.iter();
        let device = devices.clone().find(|d| d.certificate.is_some()).or_else(|| devices.next());
        let device = device.ok_or_else(|| fail("nothing is known of a device of the contact"))?.device;
        let shared = self.shared_of_the_newest().await?;
        let offer = Network::offer_manual(shared, device).await?;
        let signed = offer.signed.clone();
        let mut offers = self.offers.lock().await;
        if offers.len() >= MAX_OFFERS {
            offers.clear();
        }
        offers.insert(device, offer);
        Ok(signed)
    }

    /// Takes an offer that somebody carried here, and returns the answer to be carried back. The link
    /// comes up by itself once the answer has arrived. The node must be started.
    pub async fn answer_manual(&self, offer: &Signed) -> Result<Signed> {
        let offer = self.signals.open_manual(offer)?;
        Network::answer_manual(&*self.shared_of_the_newest().await?, &offer).await
    }

    /// Takes the answer to an offer of [`Engine::offer_manual`]; returns once the link is up.
    pub async fn complete_manual(&self, answer: &Signed) -> Result<()> {
        let answer = self.signals.open_manual(answer)?;
        let from = answer.from;
        let none = "no offer waits for this answer; make a new offer, and use the answer within ten minutes";
        let offer = self.offers.lock().await.remove(&from);
        let mut offer = offer.ok_or_else(|| Error::new(ErrorKind::NotFound, "engine", "connect by hand", none))?;
        let done = offer.complete(answer).await;
        if done.is_err() && offer.waits() {
            self.offers.lock().await.entry(from).or_insert(offer);
        }
        done
    }

    /// The network side of a node that is started, and whose store is its device's newest.
    async fn shared_of_the_newest(&self) -> Result<Arc<Shared>> {
        self.driver.call(|turn| turn.refuse_if_restored("connect by hand")).await?;
        let stopped =
            || Error::new(ErrorKind::NotStarted, "engine", "connect by hand", "the node isn't started; start it first");
        self.network.lock().await.as_ref().map(|network| network.shared.clone()).ok_or_else(stopped)
    }

    /// The STUN and TURN servers that transports use from now on, until the node ends; returns how
    /// many transports took them.
    pub fn set_ice_servers(&self, servers: &[IceServer]) -> Result<usize> {
        let mut taken = 0;
        for transport in self.transports.iter().filter(|t| t.caps().nat_traversal) {
            transport.set_ice_servers(servers.to_vec())?;
            taken += 1;
        }
        if taken == 0 {
            let message = "no transport of this node uses STUN or TURN servers; add one such as webrtc to the file";
            return Err(Error::new(ErrorKind::Invalid, "engine", "set ice servers", message));
        }
        Ok(taken)
    }

    /// What the network allows each transport and discovery, and who can reach this node; takes up to 10 s. The node
    /// must be started. Fails if it ends meanwhile: what a node that ends can't do says nothing.
    pub async fn diagnose(&self) -> Result<Vec<Diagnostic>> {
        let ended = || match self.ended.load(Ordering::Acquire) {
            true => Error::new(ErrorKind::Closed, "engine", "diagnose", "the node is shut down"),
            false => Error::new(ErrorKind::NotStarted, "engine", "diagnose", "the node isn't started; start it first"),
        };
        let network = self.network.lock().await.as_ref().map(|n| (n.shared.clone(), n.addresses.clone()));
        let (shared, addresses) = network.ok_or_else(ended)?;
        let (standing, damage) = (self.standing().await?, self.damage().await?);
        let folders = self.diagnose_folders(standing, damage);
        if standing == StoreStanding::Restored {
            // It left the network: what that would allow it says nothing.
            return Ok(folders);
        }
        let transports = join_all(self.transports.iter().map(|t| t.diagnose()));
        let discoveries = join_all(self.discoveries.iter().map(|d| d.diagnose()));
        let (transports, reach, discoveries) =
            tokio::join!(transports, Network::diagnose(&shared, &addresses), discoveries);
        if self.network.lock().await.is_none() {
            return Err(ended());
        }
        let network = transports.into_iter().flatten().chain(reach).chain(discoveries.into_iter().flatten());
        Ok(folders.into_iter().chain(network).collect())
    }

    /// What is wrong with this node's store and with those of contacts, and what helps.
    fn diagnose_folders(&self, standing: StoreStanding, damage: Option<String>) -> Vec<Diagnostic> {
        let own = own_notice(standing).map(|detail| {
            let remedy = match standing {
                StoreStanding::Copied => "end the other copy, and delete it; ask for what only that one has",
                _ => "use the newest copy alone; or make a new folder with `peerloom init`, and invite again",
            };
            Diagnostic::bad("folder", detail, remedy)
        });
        let theirs = self.restored_contacts().into_iter().map(|name| {
            let remedy = format!("ask {name} for an invitation to the new folder, should nothing come any more");
            Diagnostic::note("folder", format!("{name}: {PEER_RESTORED}"), remedy)
        });
        let damage = damage.map(|damage| {
            let remedy =
                "`peerloom db check` lists the rows; a contact who is missing is added again by a new invitation";
            Diagnostic::bad("store", damage, remedy)
        });
        own.into_iter().chain(damage).chain(theirs).collect()
    }

    /// What was damaged when the store was read; rows that could be made again are among it until the next opening.
    async fn damage(&self) -> Result<Option<String>> {
        let damaged = self.driver.call(|turn| Ok(turn.state.damaged.clone())).await?;
        let detail = || format!("damaged rows are left out, and what stood there is missing: {}", damaged.join(", "));
        Ok((!damaged.is_empty()).then(detail))
    }

    /// Gives a contact another name; returns the one it got, which looks like no other contact's: perhaps the one
    /// asked for with a number behind it.
    pub async fn rename_contact(&self, user: UserId, alias: String) -> Result<String> {
        self.driver.call(move |turn| turn.rename(&user, &alias)).await
    }

    /// All contacts, by name.
    pub fn contacts(&self) -> Vec<Contact> {
        self.contacts.all()
    }

    /// The contact that a person means: a contact's exact name, a whole user id, or [`ID_MARK`](crate::ID_MARK) and at
    /// least [`ID_PREFIX`](crate::ID_PREFIX) characters of one. Otherwise an error that lists who may be meant.
    pub fn find_contact(&self, name: &str) -> Result<Contact> {
        self.contacts.find(name)
    }

    /// The contact whose name a contact's would be, were there no number behind it.
    pub fn namesake(&self, contact: &Contact) -> Option<Contact> {
        self.contacts.namesake(contact)
    }

    /// The contact with this user id.
    pub fn contact(&self, user: &UserId) -> Option<Contact> {
        self.contacts.by_user(user)
    }

    /// All conversations, in the order of their ids.
    pub fn conversations(&self) -> Vec<(ConversationId, Arc<ConversationInfo>)> {
        self.directory.all()
    }

    /// What is known of a conversation.
    pub fn conversation(&self, id: &ConversationId) -> Option<Arc<ConversationInfo>> {
        self.directory.get(id)
    }

    /// The direct conversation with a user: there is one with each contact. Its id is the same on both sides.
    pub fn direct_with(&self, user: &UserId) -> ConversationId {
        ConversationId::direct(&self.own.network, &self.own.user, user)
    }

    /// Adds a conversation, or gives it another roster or title, durably. Users that are new are let in; for those that
    /// left nothing more is sealed, and what only they lacked fails. Only devices of contacts take part, and each of
    /// them that has the same conversation: making the users agree on it is the caller's part.
    ///
    /// Fails as `Invalid` where it has too many users, or is direct and not between two.
    pub async fn put_conversation(&self, id: ConversationId, info: ConversationInfo) -> Result<()> {
        self.driver.call(move |turn| turn.put_conversation(id, info)).await
    }

    /// Events from now on, and messages after `after`.
    pub fn events(&self, after: Cursor) -> EventStream {
        self.events.subscribe(self.reader.clone(), after)
    }

    /// The place after the newest message.
    pub async fn now(&self) -> Result<Cursor> {
        self.driver.call(|turn| Ok(Cursor::end_of(turn.state.history))).await
    }

    /// A page of received messages after a place, in order of arrival: at most `limit` messages, and none
    /// further once their bodies make up 1 MiB. None at all means that there are no more; otherwise the next
    /// page begins after the last one's cursor.
    pub async fn messages_after(&self, after: Cursor, limit: usize) -> Result<Vec<Message>> {
        self.reader.page(after, limit, None).await
    }

    /// The same, of one conversation.
    pub async fn messages_of(&self, only: ConversationId, after: Cursor, limit: usize) -> Result<Vec<Message>> {
        self.reader.page(after, limit, Some(only)).await
    }

    /// The place before the newest `count` received messages, of one conversation or all: a page after it
    /// begins with them. It looks at the newest 64 MiB of history, so of a rare contact it may find fewer.
    pub async fn before_newest(&self, count: usize, only: Option<ConversationId>) -> Result<Cursor> {
        self.reader.before_newest(count, only).await
    }

    /// Messages that wait to be delivered.
    pub async fn queue(&self) -> Result<Vec<QueuedEntry>> {
        self.driver.call(|turn| turn.queue()).await
    }

    /// What is wrong with this node's store or a contact's, for people; empty when nothing is.
    pub async fn notices(&self) -> Result<Vec<String>> {
        let theirs = self.restored_contacts().into_iter().map(|name| format!("{name}: {PEER_RESTORED}"));
        let damage = self.damage().await?.map(|damage| format!("the folder's store: {damage}; see `peerloom doctor`"));
        Ok(own_notice(self.standing().await?).into_iter().chain(damage).chain(theirs).collect())
    }

    /// The names of contacts whose folder was put back, or is used twice.
    fn restored_contacts(&self) -> Vec<String> {
        let restored = |contact: &Contact| contact.devices.iter().any(|d| d.restored.is_some());
        self.contacts.all().into_iter().filter(restored).map(|contact| contact.alias).collect()
    }

    /// Whether this node's store is the newest of its device.
    pub async fn standing(&self) -> Result<StoreStanding> {
        self.driver.call(|turn| Ok(turn.state.standing.get())).await
    }

    /// Wakes stalled devices, of one conversation or all; returns how many.
    pub async fn retry(&self, only: Option<ConversationId>) -> Result<usize> {
        self.driver.call(move |turn| turn.retry(only)).await
    }

    /// How the devices of all contacts stand.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut devices = self.contacts.devices();
        let status = |(user, d): (UserId, ContactDevice)| {
            let offered = suites(&d);
            let common = self.cryptos.iter().find(|c| offered.contains(&c.suite()));
            PeerStatus {
                suite: common.map(|c| c.name().to_owned()),
                restored: d.restored.is_some(),
                ..self.links.status(user, d.device, d.last_seen_ms)
            }
        };
        let name = |(user, d): &(UserId, ContactDevice)| (self.contacts.by_user(user).map(|c| c.alias), d.device);
        devices.sort_by_cached_key(name);
        devices.into_iter().map(status).collect()
    }

    /// Links and frames from outside that were refused since the node was opened.
    pub fn refused(&self) -> u64 {
        self.links.refused()
    }

    /// How many frames of unknown kinds and versions were skipped since the start.
    pub fn skipped(&self) -> u64 {
        self.links.skipped()
    }

    /// Why the engine ended by itself, if it did: a bug ended one of its threads. What was accepted before is
    /// durable. Events end then, and every call fails with this error.
    pub fn failure(&self) -> Option<Error> {
        self.driver.failure()
    }

    /// Closes links, writes what was accepted, and ends.
    pub async fn shutdown(&self) {
        self.offers.lock().await.clear();
        let network = {
            let mut network = self.network.lock().await;
            self.ended.store(true, Ordering::Release);
            network.take()
        };
        if let Some(network) = network {
            network.shutdown().await;
        }
        let (done, wait) = oneshot::channel();
        if self.driver.input(Input::Stop(done)).await.is_ok() {
            // Fails only when the thread has ended already.
            let _ = wait.await;
        }
    }
}

/// What is wrong with a node's own store, for people.
fn own_notice(standing: StoreStanding) -> Option<String> {
    match standing {
        StoreStanding::Newest => None,
        StoreStanding::Copied => Some(COPIED.to_owned()),
        StoreStanding::Restored => Some(format!("this node sends nothing any more: {RESTORED}")),
    }
}

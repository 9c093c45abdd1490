//! The engine's handle: what the facade and its users call.

mod diagnosis;
mod people;
mod services;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use peerloom_core::wire::store::{Contact, ContactDevice, ConversationInfo};
use peerloom_core::wire::{Address, ConversationId, DeviceCertificate, DeviceId, MessageId, Signed, UserId};
use peerloom_core::{Error, ErrorKind, IceServer, Result};
use peerloom_crypto_primitives::{SigningKey, verify};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::{Mutex, oneshot};

use crate::clock::Clock;
use crate::config::{EngineConfig, Layers, check_ttl};
use crate::contacts::{Contacts, suites};
use crate::directory::Directory;
use crate::driver::{self, DriverHandle, Input, LocalIdentity, QueuedEntry, SendRequest, State, Turn};
use crate::event::{EventSource, EventStream};
use crate::history::{HistoryPage, Reader, blocking};
use crate::message::{Cursor, HistoryMessage, Message};
use crate::net::manual::Offer;
use crate::net::{LinkCarrier, Links, Network, PeerStatus, Shared, SignalGate, SignalingRouter};
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
            keys: certificate.keys,
            device: certificate.device,
            key: SigningKey::from_seed(&identity.device_seed),
            user_key: identity.user_seed.as_ref().map(SigningKey::from_seed),
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
        let reader = Reader::new(&storage, own.user, own.device);
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

    /// Takes an offer that its user carried here, and returns the answer to be carried back. The link
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
    /// begins with them. Of all, it looks at the newest 64 MiB of history, so it may find fewer.
    pub async fn before_newest(&self, count: usize, only: Option<ConversationId>) -> Result<Cursor> {
        self.reader.before_newest(count, only).await
    }

    /// A page of a conversation's history, own messages beside those of others, in the order in which this node stored
    /// them: at most `limit` messages, and none further once their bodies make up 1 MiB. Own messages that wait for a
    /// first session come last. The next page begins before the first one's cursor, or after the last one's.
    pub async fn history(&self, id: ConversationId, page: HistoryPage, limit: usize) -> Result<Vec<HistoryMessage>> {
        self.write_states().await?;
        self.reader.conversation(id, page, limit).await
    }

    /// A message of a conversation, and what became of it. It looks at what is known of each message of the
    /// conversation, newest first.
    pub async fn message(&self, id: ConversationId, message: MessageId) -> Result<Option<HistoryMessage>> {
        self.write_states().await?;
        self.reader.find(id, message).await
    }

    /// What events reported of own messages is in the store.
    async fn write_states(&self) -> Result<()> {
        self.driver
            .call(|turn| {
                turn.write_lazy();
                Ok(())
            })
            .await
    }

    /// Deletes messages of a conversation after one place and through another, in this node's store alone; returns how
    /// many there were. One that a device still needs is shown no more, and its bytes go once none needs it. Messages
    /// that wait for a first session stay.
    ///
    /// Not cancel safe: a call that is dropped before it returns may have deleted some.
    pub async fn delete_history(&self, id: ConversationId, after: Cursor, through: Cursor) -> Result<usize> {
        let (mut all, mut next) = (0, Some(after));
        while let Some(after) = next {
            let deleted;
            (deleted, next) = self.driver.call(move |turn| turn.delete_history(id, after, through)).await?;
            all += deleted;
        }
        Ok(all)
    }

    /// Messages that wait to be delivered.
    pub async fn queue(&self) -> Result<Vec<QueuedEntry>> {
        self.driver.call(|turn| turn.queue()).await
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

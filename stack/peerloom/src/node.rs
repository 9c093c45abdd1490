//! The node that users hold.

use std::borrow::Borrow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::kinds::{AnyTransport, CryptoContext, DiscoveryContext, TransportContext};
use peerloom_core::wire::pasted::read_id;
use peerloom_core::wire::{
    Address, ConversationId, DeviceCertificate, DeviceId, DiscoveryKey, MessageId, NetworkId, UserId, store,
};
use peerloom_core::{DeviceSecret, Diagnostic, Error, ErrorKind, IceServer, Kinds, Layer, Result, Transport};
use peerloom_discovery_invite as invite;
use peerloom_engine::{
    Cursor, Engine, EventStream, HistoryMessage, HistoryPage, Layers, Message, PeerStatus, QueuedEntry, Sending,
    StoreStanding,
};
use peerloom_secured::Secured;
use zeroize::Zeroizing;

use crate::config::{Choice, Config};
use crate::manual::Carried;
use crate::{builtin, folder, manual, recovery};

/// A node assembled from a configuration. Dropping it ends it; [`Node::shutdown`] ends it cleanly.
#[derive(Clone)]
pub struct Node {
    engine: Arc<Engine>,
}

/// Someone this node talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The user.
    pub user: UserId,
    /// What this node calls them: one word that looks like no other contact's.
    pub alias: String,
    /// The 1:1 conversation with them.
    pub conversation: ConversationId,
}

/// What came of a text that people carried ([`Node::take_manual`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manual {
    /// It was an offer: this answer goes back to the contact who made it.
    Answer(String),
    /// It was an answer: the link is up.
    Connected,
}

impl Manual {
    /// Whether a text that people carried is an offer rather than an answer; an error if it is neither.
    pub fn is_offer(text: &str) -> Result<bool> {
        manual::decode(text).map(|carried| matches!(carried, Carried::Offer(_)))
    }
}

/// A conversation of a node.
pub struct Conversation<'a> {
    node: &'a Node,
    id: ConversationId,
}

impl Conversation<'_> {
    /// Sends a text. Once this returns, the message is durably stored and will be delivered, or
    /// visibly fail when the configured `delivery.ttl` is over. Not cancel safe: a call that is dropped before it
    /// returns may have sent the message; [`submit`](Self::submit) is.
    pub async fn send(&self, text: impl Into<String>) -> Result<MessageId> {
        self.send_bytes("", Bytes::from(text.into()), None).await
    }

    /// Sends a body of at most 1 MiB with a media type (RFC 6838; empty means plain text), and
    /// perhaps another lifetime than the configured one, within [`TTL`](crate::TTL). Cancelled, it is like [`send`](Self::send).
    pub async fn send_bytes(&self, content_type: &str, body: Bytes, ttl: Option<Duration>) -> Result<MessageId> {
        self.submit(content_type, body, ttl).await?.await
    }

    /// Hands a message over without waiting for the disk: many that are handed over one after the other are
    /// sent in that order, and share commits. Each is accepted once what this returns completes. Waits while 8 MiB
    /// of messages wait to be accepted. Cancel safe: a call that is dropped before it returns hands nothing over.
    pub async fn submit(&self, content_type: &str, body: Bytes, ttl: Option<Duration>) -> Result<Sending> {
        if body.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "node", "send", "the message is empty"));
        }
        self.node.engine.submit(self.id, content_type.into(), body, ttl).await
    }

    /// A page of the history: this user's messages beside the others', in the order in which this node stored them, each
    /// own one with what became of it. At most `limit` messages, and none further once their bodies make up 1 MiB. Own
    /// messages that wait for a first session come last. An empty page means that there are no more in that direction;
    /// the next one begins before the first message's cursor, or after the last one's. Cancel safe.
    pub async fn history(&self, page: HistoryPage, limit: usize) -> Result<Vec<HistoryMessage>> {
        self.node.engine.history(self.id, page, limit).await
    }

    /// A message by its id, and what became of it; `None` if the history doesn't have it. It looks at a few bytes of each
    /// message of the conversation, newest first. Cancel safe.
    pub async fn message(&self, id: MessageId) -> Result<Option<HistoryMessage>> {
        self.node.engine.message(self.id, id).await
    }

    /// Deletes messages after one place and through another, in this node's store alone; returns how many there were. A
    /// message that a recipient still needs is shown no more, arrives all the same, and goes then. Messages that wait for a
    /// first session stay. Not cancel safe: a call that is dropped before it returns may have deleted some.
    pub async fn delete_history(&self, after: Cursor, through: Cursor) -> Result<usize> {
        self.node.engine.delete_history(self.id, after, through).await
    }
}

impl Node {
    /// Assembles a node from a file and starts it. A folder without an identity gets a new one.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let config = Config::load(path.as_ref(), &[], &builtin::kinds()?)?;
        let node = Self::open(&config).await?;
        node.start().await?;
        Ok(node)
    }

    /// Assembles a node without starting it: it reads and queues, but binds no port and dials nobody.
    pub async fn open(config: &Config) -> Result<Self> {
        let kinds = config.kinds();
        let network = NetworkId::from_name(&config.general.network);
        let storage = crate::store::open(config)?;
        let (opened, name, folder) = (storage.clone(), config.general.name.clone(), config.folder.clone());
        let kind = config.of(Layer::Storage).next().map(Choice::full_kind).unwrap_or_default();
        let identity = blocking(move || {
            let identity = match peerloom_engine::open_store(&*opened)? {
                Some(identity) => identity,
                None => peerloom_engine::create_identity(&opened, network, &name)?,
            };
            folder::check_instance(&folder, &kind, &*opened)?;
            Ok(identity)
        })
        .await?;

        let secret = DeviceSecret::new(identity.device_seed);
        // The engine verifies it.
        let device = DeviceCertificate::open(&identity.certificate, |_, _, _| true)?.device;
        let transport = TransportContext { secret: secret.clone(), device, network };
        let discovery = DiscoveryContext {
            signer: peerloom_engine::device_signer(&identity),
            network,
            folder: config.folder.clone(),
            addresses: Vec::new(),
        };
        let crypto = CryptoContext { secret, certificate: identity.certificate.clone() };
        let layers = Layers {
            transports: build(config, Layer::Transport, |c| build_transport(kinds, c, &transport))?,
            discoveries: build(config, Layer::Discovery, |c| {
                kinds.discoveries.build(&c.kind, &c.settings, &discovery)
            })?,
            cryptos: build(config, Layer::Crypto, |c| kinds.cryptos.build(&c.kind, &c.settings, &crypto))?,
            storage,
            identity,
        };
        Ok(Self { engine: Arc::new(Engine::open(layers, config.engine()).await?) })
    }

    /// Listens, announces, and begins to reach for contacts. Does nothing when started already.
    pub async fn start(&self) -> Result<()> {
        self.engine.start().await
    }

    /// This node's user.
    pub fn user(&self) -> UserId {
        self.engine.user()
    }

    /// This node's device.
    pub fn device(&self) -> DeviceId {
        self.engine.device()
    }

    /// What this node's user is called.
    pub fn name(&self) -> &str {
        self.engine.name()
    }

    /// Where others can dial this node; empty until it is started.
    pub async fn addresses(&self) -> Vec<Address> {
        self.engine.addresses().await
    }

    /// Makes an invitation link that lets `uses` contacts in during `lifetime`: within
    /// [`INVITATION_LIFETIME`](crate::INVITATION_LIFETIME), else `Invalid`. The node must be started, since the link says where it listens.
    pub async fn invite(&self, lifetime: Duration, uses: u32) -> Result<String> {
        Ok(invite::encode(&self.engine.invite(lifetime, uses).await?))
    }

    /// Why an invitation leads to this node only from this machine, by hand, or not at all, and what to do about it;
    /// `None` where it leads here, and while the node isn't started. Nothing is dialed for it.
    pub async fn cut_off(&self) -> Option<Diagnostic> {
        self.engine.cut_off().await
    }

    /// Adds the contact that an invitation link comes from, durably. They learn of it at the first
    /// link between the two nodes.
    pub async fn add_contact(&self, link: impl AsRef<str>) -> Result<Contact> {
        let invitation = invite::decode(link.as_ref())?;
        Ok(self.known(self.engine.add_contact(invitation).await?))
    }

    /// Adds the user or the device whom a discovery knows by this id, durably. The two nodes talk once
    /// each has added the other.
    pub async fn add_contact_by_id(&self, id: &str) -> Result<Contact> {
        let wrong = || Error::new(ErrorKind::Invalid, "node", "add a contact", "this is neither a link nor an id");
        let user: UserId = read_id(id).ok_or_else(wrong)?;
        // Both kinds of id look alike.
        match self.engine.add_contact_by_id(DiscoveryKey::Records(user)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let device = DeviceId::from_bytes(*user.as_bytes());
                self.engine.add_contact_by_id(DiscoveryKey::Record(device)).await.map(|contact| self.known(contact))
            }
            added => added.map(|contact| self.known(contact)),
        }
    }

    /// Makes an offer to a contact, as a text that people carry: chat, e-mail, a QR code. The contact's
    /// node answers it ([`Node::take_manual`]), and the answer comes back here the same way, within ten
    /// minutes. It takes a transport such as `webrtc`, and no server.
    pub async fn offer_manual(&self, contact: &Contact) -> Result<String> {
        let gone = || Error::new(ErrorKind::NotFound, "node", "connect by hand", "there is no such contact");
        let contact = self.engine.contact(&contact.user).ok_or_else(gone)?;
        manual::encode(&Carried::Offer(self.engine.offer_manual(&contact).await?))
    }

    /// Takes an offer or an answer that people carried here.
    pub async fn take_manual(&self, text: &str) -> Result<Manual> {
        match manual::decode(text)? {
            Carried::Offer(offer) => {
                let answer = self.engine.answer_manual(&offer).await?;
                Ok(Manual::Answer(manual::encode(&Carried::Answer(answer))?))
            }
            Carried::Answer(answer) => {
                self.engine.complete_manual(&answer).await?;
                Ok(Manual::Connected)
            }
        }
    }

    /// Uses these STUN and TURN servers from now on, until the node ends; returns how many transports
    /// took them.
    pub fn set_ice_servers(&self, servers: &[IceServer]) -> Result<usize> {
        self.engine.set_ice_servers(servers)
    }

    /// What the network allows each transport and discovery, and who can reach this node; takes up to 10 s. The
    /// node must be started; fails if it is shut down meanwhile.
    pub async fn diagnose(&self) -> Result<Vec<Diagnostic>> {
        self.engine.diagnose().await
    }

    /// The phrase of the user's recovery key, 24 words (BIP 39), as long as the key is in the store. What the key signs
    /// outranks all devices of the user: the words belong on paper.
    pub async fn recovery_phrase(&self) -> Result<Option<Zeroizing<String>>> {
        self.engine.recovery_seed().await?.map(|seed| recovery::phrase(&seed)).transpose()
    }

    /// `Invalid` for what is no phrase, `Unauthenticated` for that of another user.
    pub fn check_recovery_phrase(&self, phrase: &str) -> Result<()> {
        let seed = recovery::seed(phrase)?;
        if self.engine.is_recovery_seed(&seed) {
            return Ok(());
        }
        let message = "the phrase is good, but another user's";
        Err(Error::new(ErrorKind::Unauthenticated, "node", "check the recovery phrase", message))
    }

    /// Deletes the user's recovery key from the store, for good: the phrase is its only copy from now on. Not cancel
    /// safe: it may have been deleted.
    pub async fn forget_recovery_key(&self) -> Result<()> {
        self.engine.forget_recovery_seed().await
    }

    /// Gives a contact another name; returns the one it got. It looks like no other contact's: it may be the one asked
    /// for with a number behind it. `Invalid` if characters of the name don't show.
    pub async fn rename_contact(&self, contact: &Contact, alias: &str) -> Result<String> {
        self.engine.rename_contact(contact.user, alias.into()).await
    }

    /// All contacts, by name.
    pub fn contacts(&self) -> Vec<Contact> {
        self.engine.contacts().into_iter().map(|contact| self.known(contact)).collect()
    }

    /// The contact that a person means: a contact's exact name, a whole user id, or [`ID_MARK`](crate::ID_MARK) and at
    /// least [`ID_PREFIX`](crate::ID_PREFIX) characters of one. Otherwise an error that lists who may be meant.
    pub fn find_contact(&self, name: &str) -> Result<Contact> {
        self.engine.find_contact(name).map(|contact| self.known(contact))
    }

    /// The other contact whose name looks like this one's, which got a number behind its name for that.
    pub fn namesake(&self, contact: &Contact) -> Option<Contact> {
        let contact = self.engine.contact(&contact.user)?;
        self.engine.namesake(&contact).map(|contact| self.known(contact))
    }

    fn known(&self, contact: store::Contact) -> Contact {
        let conversation = self.engine.direct_with(&contact.user);
        Contact { user: contact.user, alias: contact.alias, conversation }
    }

    /// The contact with this user id.
    pub fn contact(&self, user: &UserId) -> Option<Contact> {
        self.engine.contact(user).map(|contact| self.known(contact))
    }

    /// The conversation with a contact.
    pub fn conversation(&self, contact: impl Borrow<Contact>) -> Conversation<'_> {
        Conversation { node: self, id: contact.borrow().conversation }
    }

    /// Events from now on.
    pub async fn events(&self) -> Result<EventStream> {
        Ok(self.engine.events(self.engine.now().await?))
    }

    /// Messages after a place, and then events as they come. A program that remembers the cursor of
    /// the last message it handled gets every message once, across restarts.
    pub fn events_after(&self, after: Cursor) -> EventStream {
        self.engine.events(after)
    }

    /// A page of received messages after a place, in order of arrival: at most `limit` messages, and none
    /// further once their bodies make up 1 MiB. None at all means that there are no more; otherwise the next
    /// page begins after the last one's cursor.
    pub async fn messages_after(&self, after: Cursor, limit: usize) -> Result<Vec<Message>> {
        self.engine.messages_after(after, limit).await
    }

    /// The same, of one contact.
    pub async fn messages_of(&self, contact: &Contact, after: Cursor, limit: usize) -> Result<Vec<Message>> {
        self.engine.messages_of(contact.conversation, after, limit).await
    }

    /// The place before the newest `count` received messages, of one contact or all: a page after it begins
    /// with them. Of all contacts, it looks at the newest 64 MiB of history, so it may find fewer.
    pub async fn before_newest(&self, count: usize, only: Option<&Contact>) -> Result<Cursor> {
        self.engine.before_newest(count, only.map(|contact| contact.conversation)).await
    }

    /// Messages that wait to be delivered.
    pub async fn queue(&self) -> Result<Vec<QueuedEntry>> {
        self.engine.queue().await
    }

    /// What is wrong with this node's store or a contact's, for people; empty when nothing is.
    pub async fn notices(&self) -> Result<Vec<String>> {
        self.engine.notices().await
    }

    /// Whether this node's store is the newest of its device: one that isn't sends nothing any more.
    pub async fn standing(&self) -> Result<StoreStanding> {
        self.engine.standing().await
    }

    /// Tries stalled contacts again, one or all; returns how many were stalled.
    pub async fn retry(&self, only: Option<&Contact>) -> Result<usize> {
        self.engine.retry(only.map(|c| c.conversation)).await
    }

    /// How the devices of all contacts stand.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.engine.peers()
    }

    /// Links and frames from outside that were refused since the node was opened.
    pub fn refused(&self) -> u64 {
        self.engine.refused()
    }

    /// Frames of kinds and versions that this version doesn't know, skipped since the node was opened.
    pub fn skipped(&self) -> u64 {
        self.engine.skipped()
    }

    /// Why the node ended by itself, if it did: a bug ended one of its threads. What was accepted before is
    /// durable. Events end then, and every call fails with this error.
    pub fn failure(&self) -> Option<Error> {
        self.engine.failure()
    }

    /// Closes links, writes what was accepted, and ends.
    pub async fn shutdown(&self) {
        self.engine.shutdown().await;
    }
}

/// Builds a transport; one that only gives byte streams is secured by the stack.
fn build_transport(kinds: &Kinds, choice: &Choice, context: &TransportContext) -> Result<Arc<dyn Transport>> {
    Ok(match kinds.transports.build(&choice.kind, &choice.settings, context)? {
        AnyTransport::Links(transport) => transport,
        AnyTransport::Streams(streams) => Arc::new(Secured::new(streams, &context.secret)?),
    })
}

fn build<T: ?Sized>(config: &Config, layer: Layer, one: impl Fn(&Choice) -> Result<Arc<T>>) -> Result<Vec<Arc<T>>> {
    config.of(layer).map(one).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let failed = |e| Error::new(ErrorKind::Internal, "node", "open", "opening the store panicked").with_source(e);
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

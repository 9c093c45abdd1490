//! The discovery contract over a registry.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use peerloom_core::kinds::KindConfig;
use peerloom_core::sync::lock;
use peerloom_core::wire::{DiscoveryItem, DiscoveryKey, EntryId, NetworkId, OpenItem, Signed};
use peerloom_core::{
    CostTier, DeviceSigner, Diagnostic, Discovery, DiscoveryCaps, Error, ErrorKind, Found, ItemKinds, Result,
    SignalCarrier,
};
use peerloom_crypto_primitives::verify;
use peerloom_registry_protocol::http::{Device, DeviceAnswer, ItemsAnswer, UserAnswer};
use peerloom_registry_protocol::{limits, text};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::RegistryConfig;
use crate::cache::{Aged, Lookup, Verified};
use crate::connect::Connector;
use crate::endpoint::Endpoint;
use crate::health::Part;
use crate::http::{Answer, Caller};
use crate::shared::Shared;
use crate::signaling::RegistrySignaling;
use crate::{diagnosis, now_ms, reconnect};

/// Watchers that lag further than this lose the oldest records.
const WATCH_BUFFER: usize = 64;
/// How long publishing waits for the socket before it goes on in the background.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Look-ups of different targets at a time; those of one target wait for each other.
const AT_ONCE: usize = 16;
/// How long ending may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Finds devices over a registry, makes this one findable there, and carries signals.
///
/// The registry can hide a device but never forge one: records are verified here too, so that a false
/// one doesn't take the place of a true one. It is asked at most once in a while about each user.
pub struct RegistryDiscovery {
    shared: Arc<Shared>,
    signaling: Arc<RegistrySignaling>,
    asking: [tokio::sync::Mutex<()>; AT_ONCE],
    source: Arc<str>,
    /// Gone once shut down, which ends all watches.
    news: Mutex<Option<broadcast::Sender<Found>>>,
    reconnect: Mutex<Option<JoinHandle<()>>>,
}

impl RegistryDiscovery {
    /// A discovery for devices of one network, which speaks for the device that signs. It connects to
    /// nothing before it is used.
    pub fn new(config: RegistryConfig, network: NetworkId, signer: DeviceSigner) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, "registry", "configure", message);
        config.validate().map_err(|e| invalid(format!("{}: {}", e.path, e.message)))?;
        let endpoint: Endpoint = config.url.parse().map_err(invalid)?;
        let name = endpoint.name.clone();
        let connector = Connector::new(endpoint, config.ca.as_deref())?;
        let caller = Caller::new(connector, name.clone(), config.token.clone());
        let source = format!("registry {name}").into();
        let shared = Shared::new(config, network, signer, caller);
        Ok(Self {
            signaling: Arc::new(RegistrySignaling::new(shared.clone())),
            shared,
            asking: Default::default(),
            source,
            news: Mutex::new(Some(broadcast::channel(WATCH_BUFFER).0)),
            reconnect: Mutex::default(),
        })
    }

    /// How many calls over HTTP were made.
    pub fn calls(&self) -> u64 {
        self.shared.caller.calls()
    }

    fn open(&self, operation: &'static str) -> Result<()> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::new(ErrorKind::Closed, "registry", operation, "the node is shut down"));
        }
        Ok(())
    }

    /// Keeps a session from now on.
    fn keep(&self) {
        let mut reconnect = lock(&self.reconnect);
        if reconnect.is_none() {
            *reconnect = Some(tokio::spawn(reconnect::run(self.shared.clone())));
        }
    }

    /// Asks the registry about a key. Only genuine, valid items that answer it come back.
    async fn ask(&self, key: DiscoveryKey) -> Result<Vec<Verified>> {
        let mut found: Vec<Verified> = Vec::new();
        let (mut unasked, mut forged) = (0, None);
        for (item, age) in self.call(key).await? {
            let opened = item.and_then(|item| Ok((item.open(verify)?, item)));
            match opened {
                Ok((open, _)) if !open.answers(&key) => unasked += 1,
                // Device lists are united; of all else there is one.
                Ok((open, _))
                    if found.iter().any(|known| known.slot == open.slot())
                        && !matches!(open, OpenItem::DeviceList(_)) =>
                {
                    unasked += 1;
                }
                Ok((open, item)) => match open.check(None, &self.shared.network, now_ms()) {
                    Ok(()) => found.push(verified(item, &open, age)),
                    Err(error) => debug!(kind = %item.kind(), %error, "an item from the registry is of no use"),
                },
                Err(error) => {
                    forged.get_or_insert(error);
                }
            }
        }
        // One of each, however many lies there are.
        let registry = &self.shared.caller.name;
        if unasked > 0 {
            warn!(registry, items = unasked, "the registry gives items that weren't asked for");
        }
        if let Some(error) = forged {
            warn!(registry, %error, "the registry gives an item that is not genuine");
        }
        Ok(found)
    }

    /// What the registry answers, unverified, and how old it is by its own account.
    async fn call(&self, key: DiscoveryKey) -> Result<Vec<(Result<DiscoveryItem>, Duration)>> {
        let network = self.shared.network;
        let path = match key {
            DiscoveryKey::Record(device) => format!("/network/{network}/device/{device}"),
            DiscoveryKey::Records(user) => format!("/network/{network}/peer/{user}"),
            DiscoveryKey::DeviceList(user) => format!("/network/{network}/device-list/{user}"),
            DiscoveryKey::KeyPackage(hash) => format!("/network/{network}/key-package/{}", EntryId::from_bytes(hash)),
            DiscoveryKey::Service(kind) => format!("/network/{network}/service/{}", kind.0),
        };
        let devices = |devices: Vec<Device>| devices.into_iter().take(limits::DEVICES).map(record).collect();
        let caller = &self.shared.caller;
        let answer = match key {
            DiscoveryKey::Record(_) => {
                caller.get::<DeviceAnswer>("device", &path).await?.map(|answer| devices(vec![answer.device]))
            }
            DiscoveryKey::Records(_) => {
                caller.get::<UserAnswer>("user", &path).await?.map(|answer| devices(answer.devices))
            }
            _ => caller.get::<ItemsAnswer>("items", &path).await?.map(|answer| {
                let items = answer.items.into_iter().take(limits::ITEMS);
                // A kind of a later version is skipped.
                items.filter_map(|item| Some((decoded(&item.item)?, Duration::from_millis(item.age_ms)))).collect()
            }),
        };
        match answer {
            Answer::Found(items) => Ok(items),
            Answer::Failed(failure) => match caller.refusal("look up", &failure) {
                error if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                error => Err(error),
            },
        }
    }

    /// Why no call is made now, if so.
    fn pause(&self) -> Option<Error> {
        if lock(&self.shared.pause).is_over() && self.shared.caller.rest().is_zero() {
            return None;
        }
        let trouble = [Part::Calls, Part::Socket].into_iter().find_map(|part| self.shared.health.trouble(part));
        Some(trouble.unwrap_or_else(|| {
            let message = format!("the registry {} wants to be left alone for a while", self.shared.caller.name);
            Error::new(ErrorKind::Overloaded, "registry", "look up", message)
        }))
    }

    fn failed(&self, key: DiscoveryKey, error: &Error) {
        self.shared.health.failed(Part::Calls, error);
        lock(&self.shared.cache).failed(key);
        lock(&self.shared.pause).failed(self.shared.caller.rest());
    }

    fn stripe(&self, key: DiscoveryKey) -> &tokio::sync::Mutex<()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let [first, ..] = &self.asking;
        self.asking.get(hash as usize % AT_ONCE).unwrap_or(first)
    }
}

impl RegistryDiscovery {
    /// Fails where the registry refuses the record. Where it can't be reached, the record is announced once
    /// it can.
    async fn announce(&self, record: Signed) -> Result<()> {
        let before = self.shared.status.borrow().clone();
        self.shared.record.send_replace(Some(record));
        self.keep();
        if !before.connected && !self.is_connected(before.attempts).await? {
            return Ok(());
        }
        match self.shared.announce().await {
            Err(error) if error.kind() == ErrorKind::Refused => Err(error),
            Err(error) => {
                debug!(%error, "the record is announced later");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The same for other items, which the registry takes once it has the record.
    async fn publish_item(&self, item: DiscoveryItem, open: &OpenItem) -> Result<()> {
        let slot = open.slot();
        self.shared.add_item(slot, item, open.expires_at_ms())?;
        let before = self.shared.status.borrow().clone();
        if !before.connected {
            let waits = self.shared.record.borrow().is_some();
            if !waits || !self.is_connected(before.attempts).await? {
                return Ok(());
            }
        }
        if let Err(error) = self.shared.publish_items().await {
            debug!(%error, "the item is published later");
        }
        self.shared.refusal_of(slot).map_or(Ok(()), Err)
    }

    /// Waits a moment for the socket, or for an attempt after so many; an error says that the registry refuses this
    /// device.
    async fn is_connected(&self, attempts: u64) -> Result<bool> {
        let mut status = self.shared.status.subscribe();
        let settled = status.wait_for(|status| status.connected || status.attempts > attempts);
        let Ok(Ok(status)) = tokio::time::timeout(FIRST_ANSWER, settled).await else { return Ok(false) };
        match &status.refused {
            Some(error) => Err(error.clone()),
            None => Ok(status.connected),
        }
    }

    async fn look(&self, key: DiscoveryKey) -> Result<Vec<Aged>> {
        self.open("look up")?;
        let look = || lock(&self.shared.cache).look(key, now_ms());
        let asked = match look() {
            Lookup::Known(items) => return Ok(items),
            Lookup::Ask(key) => key,
        };
        let _one = self.stripe(asked).lock().await;
        // Another look-up may have asked meanwhile.
        let asked = match look() {
            Lookup::Known(items) => return Ok(items),
            Lookup::Ask(key) => key,
        };
        let answer = match self.pause() {
            Some(error) => Err(error),
            None => {
                let mut call = Unanswered { discovery: self, key, waiting: true };
                let answer = self.ask(asked).await;
                call.waiting = false;
                answer.inspect_err(|error| self.failed(key, error))
            }
        };
        match answer {
            Ok(items) => {
                self.shared.health.works(Part::Calls, &self.shared.caller.name);
                lock(&self.shared.pause).reset();
                let news = lock(&self.shared.cache).answered(asked, key, items);
                if let Some(watchers) = &*lock(&self.news) {
                    let found = |item| Found { item, source: self.source.clone(), age: Duration::ZERO };
                    // Fails only when nobody watches.
                    news.into_iter().for_each(|item| drop(watchers.send(found(item))));
                }
                Ok(lock(&self.shared.cache).known(key, now_ms()))
            }
            Err(error) => match lock(&self.shared.cache).known(key, now_ms()) {
                known if known.is_empty() => Err(error),
                known => Ok(known),
            },
        }
    }
}

/// A device's record, unverified; one that isn't the device's is an error.
fn record(device: Device) -> (Result<DiscoveryItem>, Duration) {
    let signed = text::decode_record(&device.record).map_err(Error::from);
    let item = signed.and_then(|signed| {
        let item = DiscoveryItem::Record(signed);
        if !item.open(|_, _, _| true)?.answers(&DiscoveryKey::Record(device.peer_id)) {
            let message = "the record belongs to another device";
            return Err(Error::new(ErrorKind::Malformed, "registry", "look up", message));
        }
        Ok(item)
    });
    (item, Duration::from_millis(device.age_ms))
}

fn decoded(text: &str) -> Option<Result<DiscoveryItem>> {
    text::decode_item(text).map_err(Error::from).transpose()
}

fn verified(item: DiscoveryItem, open: &OpenItem, age: Duration) -> Verified {
    let user = match open {
        OpenItem::Record(_, certificate) => Some(certificate.user),
        _ => None,
    };
    let expires_at_ms = open.expires_at_ms().unwrap_or(u64::MAX);
    Verified { item, slot: open.slot(), user, sequence: open.sequence(), expires_at_ms, age, at: Instant::now() }
}

/// A call whose answer is waited for. When nobody waits any more it has failed.
struct Unanswered<'a> {
    discovery: &'a RegistryDiscovery,
    key: DiscoveryKey,
    waiting: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.waiting {
            let message = "nobody waited for the registry's answer any longer";
            self.discovery.failed(self.key, &Error::new(ErrorKind::Timeout, "registry", "look up", message));
        }
    }
}

#[async_trait]
impl Discovery for RegistryDiscovery {
    fn caps(&self) -> DiscoveryCaps {
        DiscoveryCaps { cost: CostTier::Server, carries: ItemKinds::ALL }
    }

    async fn publish(&self, item: DiscoveryItem) -> Result<()> {
        self.open("publish")?;
        let open = item.open(|_, _, _| true)?;
        let of_another = open.network().is_some_and(|network| *network != self.shared.network);
        let device = match &open {
            OpenItem::Record(_, certificate) | OpenItem::Service(_, certificate) => Some(certificate.device),
            OpenItem::KeyPackage(package, _) => Some(package.device()),
            OpenItem::DeviceList(_) => None,
        };
        if of_another || device.is_some_and(|device| device != self.shared.device) {
            let message = "the item belongs to another network or device than this node's";
            return Err(Error::new(ErrorKind::Invalid, "registry", "publish", message));
        }
        match item {
            DiscoveryItem::Record(record) => self.announce(record).await,
            item => self.publish_item(item, &open).await,
        }
    }

    fn find(&self, key: DiscoveryKey) -> BoxStream<'_, Result<Found>> {
        let look = async move {
            let (found, error) = match self.look(key).await {
                Ok(found) => (found, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            let found = found.into_iter().map(|(item, age)| Ok(Found { item, source: self.source.clone(), age }));
            stream::iter(found.chain(error.map(Err)))
        };
        stream::once(look).flatten().boxed()
    }

    /// Items that look-ups find: the registry sends none by itself.
    fn watch(&self) -> BoxStream<'static, Found> {
        match lock(&self.news).as_ref().map(broadcast::Sender::subscribe) {
            Some(news) => peerloom_core::discovery::watch_stream(news),
            None => stream::empty().boxed(),
        }
    }

    fn signaling(&self) -> Option<Arc<dyn SignalCarrier>> {
        Some(self.signaling.clone())
    }

    fn network_changed(&self) {
        self.shared.network_changed();
    }

    async fn diagnose(&self) -> Vec<Diagnostic> {
        diagnosis::diagnose(&self.shared).await
    }

    /// Closes the socket, so that the registry knows at once that the device is gone.
    async fn shutdown(&self) {
        lock(&self.news).take();
        self.shared.close();
        let reconnect = lock(&self.reconnect).take();
        if let Some(reconnect) = reconnect {
            // Fails only when it panicked or takes too long; then it ends by itself.
            let _ = tokio::time::timeout(FAREWELL, reconnect).await;
        }
    }
}

impl Drop for RegistryDiscovery {
    fn drop(&mut self) {
        self.shared.close();
    }
}

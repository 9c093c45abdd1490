//! The discovery contract over a registry.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_core::kinds::KindConfig;
use peerloom_core::wire::{NetworkId, PeerRecord, Signed};
use peerloom_core::{
    CostTier, DeviceSecret, Diagnostic, Discovery, DiscoveryCaps, Error, ErrorKind, Result, SignalCarrier, Target,
};
use peerloom_crypto_primitives::{SigningKey, verify};
use peerloom_registry_protocol::http::{Device, DeviceAnswer, UserAnswer};
use peerloom_registry_protocol::{limits, text};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::RegistryConfig;
use crate::cache::{Lookup, Verified};
use crate::connect::Connector;
use crate::endpoint::Endpoint;
use crate::health::Part;
use crate::http::{Answer, Caller};
use crate::shared::{Shared, lock};
use crate::signaling::RegistrySignaling;
use crate::{diagnosis, now_ms, reconnect};

/// Watchers that lag further than this lose the oldest records.
const WATCH_BUFFER: usize = 64;
/// How long an announcement waits for the socket before it goes on in the background.
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
    /// Gone once shut down, which ends all watches.
    news: Mutex<Option<broadcast::Sender<Signed>>>,
    reconnect: Mutex<Option<JoinHandle<()>>>,
}

impl RegistryDiscovery {
    /// A discovery for devices of one network, which speaks for the device with this key. It connects to
    /// nothing before it is used.
    pub fn new(config: RegistryConfig, network: NetworkId, secret: &DeviceSecret) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, "registry", "configure", message);
        config.validate().map_err(|e| invalid(format!("{}: {}", e.path, e.message)))?;
        let endpoint: Endpoint = config.url.parse().map_err(invalid)?;
        let name = endpoint.name.clone();
        let connector = Connector::new(endpoint, config.ca.as_deref())?;
        let caller = Caller::new(connector, name, config.token.clone());
        let shared = Shared::new(config, network, SigningKey::from_seed(secret.expose()), caller);
        Ok(Self {
            signaling: Arc::new(RegistrySignaling::new(shared.clone())),
            shared,
            asking: Default::default(),
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

    /// Asks the registry about a target. Only genuine, valid records that match it come back.
    async fn ask(&self, target: Target) -> Result<Vec<Verified>> {
        let network = self.shared.network;
        let (devices, failure) = match target {
            Target::User(user) => {
                let path = format!("/network/{network}/peer/{user}");
                match self.shared.caller.get::<UserAnswer>("user", &path).await? {
                    Answer::Found(answer) => (answer.devices, None),
                    Answer::Failed(failure) => (Vec::new(), Some(failure)),
                }
            }
            Target::Device(device) => {
                let path = format!("/network/{network}/device/{device}");
                match self.shared.caller.get::<DeviceAnswer>("device", &path).await? {
                    Answer::Found(answer) => (vec![answer.device], None),
                    Answer::Failed(failure) => (Vec::new(), Some(failure)),
                }
            }
        };
        match failure.map(|failure| self.shared.caller.refusal("look up", &failure)) {
            Some(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let matches = |record: &Verified| match target {
            Target::User(user) => record.user == user,
            Target::Device(device) => record.device == device,
        };
        let mut found: Vec<Verified> = Vec::new();
        let (mut unasked, mut forged) = (0, None);
        for device in devices.into_iter().take(limits::DEVICES) {
            match self.verify(&device) {
                Ok(record) if !matches(&record) || found.iter().any(|known| known.device == record.device) => {
                    unasked += 1;
                }
                Ok(record) if record.expires_at_ms <= now_ms() => {
                    debug!(device = ?record.device, "a record from the registry has expired")
                }
                Ok(record) => found.push(record),
                Err(error) => {
                    forged.get_or_insert(error);
                }
            }
        }
        // One of each, however many lies there are.
        let registry = &self.shared.caller.name;
        if unasked > 0 {
            warn!(registry, records = unasked, "the registry gives records that weren't asked for");
        }
        if let Some(error) = forged {
            warn!(registry, %error, "the registry gives a record that is not genuine");
        }
        Ok(found)
    }

    fn verify(&self, device: &Device) -> Result<Verified> {
        let signed = text::decode_record(&device.record)?;
        let (record, certificate) = PeerRecord::open(&signed, verify)?;
        if record.network != self.shared.network || certificate.device != device.peer_id {
            let message = "it belongs to another network or device";
            return Err(Error::new(ErrorKind::Malformed, "registry", "look up", message));
        }
        Ok(Verified {
            signed,
            user: certificate.user,
            device: certificate.device,
            sequence: record.sequence,
            expires_at_ms: record.expires_at_ms,
        })
    }

    /// Why no call is made now, if so.
    fn pause(&self) -> Option<Error> {
        if lock(&self.shared.pause).is_due() && self.shared.caller.rest().is_zero() {
            return None;
        }
        let trouble = [Part::Calls, Part::Socket].into_iter().find_map(|part| self.shared.health.trouble(part));
        Some(trouble.unwrap_or_else(|| {
            let message = format!("the registry {} wants to be left alone for a while", self.shared.caller.name);
            Error::new(ErrorKind::Overloaded, "registry", "look up", message)
        }))
    }

    fn failed(&self, target: Target, error: &Error) {
        self.shared.health.failed(Part::Calls, error);
        lock(&self.shared.cache).failed(target);
        lock(&self.shared.pause).failed(self.shared.caller.rest());
    }

    fn stripe(&self, target: Target) -> &tokio::sync::Mutex<()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(target);
        let [first, ..] = &self.asking;
        self.asking.get(hash as usize % AT_ONCE).unwrap_or(first)
    }
}

/// A call whose answer is waited for. When nobody waits any more it has failed.
struct Unanswered<'a> {
    discovery: &'a RegistryDiscovery,
    target: Target,
    waiting: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.waiting {
            let message = "nobody waited for the registry's answer any longer";
            self.discovery.failed(self.target, &Error::new(ErrorKind::Timeout, "registry", "look up", message));
        }
    }
}

#[async_trait]
impl Discovery for RegistryDiscovery {
    fn caps(&self) -> DiscoveryCaps {
        DiscoveryCaps { cost: CostTier::Server }
    }

    /// Fails where the registry refuses the record. Where it can't be reached, the record is announced once
    /// it can.
    async fn announce(&self, record: Signed) -> Result<()> {
        self.open("announce")?;
        let (opened, certificate) = PeerRecord::open(&record, |_, _, _| true)?;
        if opened.network != self.shared.network || certificate.device != self.shared.device {
            let message = "the record belongs to another network or device than this node's";
            return Err(Error::new(ErrorKind::Invalid, "registry", "announce", message));
        }
        let mut status = self.shared.status.subscribe();
        let before = status.borrow_and_update().clone();
        self.shared.record.send_replace(Some(record));
        self.keep();
        if !before.connected {
            let settled = status.wait_for(|status| status.connected || status.attempts > before.attempts);
            // Whoever waits is the node's start: it goes on without the registry.
            let Ok(Ok(status)) = tokio::time::timeout(FIRST_ANSWER, settled).await else { return Ok(()) };
            match (&status.refused, status.connected) {
                (Some(error), _) => return Err(error.clone()),
                (None, false) => return Ok(()),
                (None, true) => {}
            }
        }
        match self.shared.announce().await {
            Err(error) if matches!(error.kind(), ErrorKind::Refused) => Err(error),
            Err(error) => {
                debug!(%error, "the record is announced later");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn resolve(&self, target: Target) -> Result<Vec<Signed>> {
        self.open("look up")?;
        let look = || lock(&self.shared.cache).look(target, now_ms());
        let asked = match look() {
            Lookup::Known(records) => return Ok(records),
            Lookup::Ask(target) => target,
        };
        let _one = self.stripe(asked).lock().await;
        // Somebody else may have asked meanwhile.
        let asked = match look() {
            Lookup::Known(records) => return Ok(records),
            Lookup::Ask(target) => target,
        };
        let answer = match self.pause() {
            Some(error) => Err(error),
            None => {
                let mut call = Unanswered { discovery: self, target, waiting: true };
                let answer = self.ask(asked).await;
                call.waiting = false;
                answer.inspect_err(|error| self.failed(target, error))
            }
        };
        match answer {
            Ok(records) => {
                self.shared.health.works(Part::Calls, &self.shared.caller.name);
                lock(&self.shared.pause).reset();
                let news = lock(&self.shared.cache).answered(asked, target, records);
                if let Some(watchers) = &*lock(&self.news) {
                    // Fails only when nobody watches.
                    news.into_iter().for_each(|record| drop(watchers.send(record)));
                }
                Ok(lock(&self.shared.cache).known(target, now_ms()))
            }
            Err(error) => match lock(&self.shared.cache).known(target, now_ms()) {
                known if known.is_empty() => Err(error),
                known => Ok(known),
            },
        }
    }

    /// Records that look-ups find: the registry tells nothing by itself.
    fn watch(&self) -> BoxStream<'static, Signed> {
        match lock(&self.news).as_ref().map(broadcast::Sender::subscribe) {
            Some(news) => peerloom_core::discovery::watch_stream(news),
            None => futures_util::stream::empty().boxed(),
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

//! Announcing and browsing.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use mdns_sd::{IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};
use peerloom_core::discovery::not_carried;
use peerloom_core::sync::lock;
use peerloom_core::wire::{DeviceId, DiscoveryItem, DiscoveryKey, ItemKind, NetworkId, OpenItem, PeerRecord, Signed};
use peerloom_core::{CostTier, Diagnostic, Discovery, DiscoveryCaps, Error, ErrorKind, Found, ItemKinds, Result};
use peerloom_crypto_primitives::verify;
use tokio::sync::broadcast;
use tracing::{debug, warn};

use crate::MdnsConfig;
use crate::txt::{self, SERVICE};

/// Most devices remembered; of more, the longest unheard goes.
const MAX_DEVICES: usize = 1024;
/// Watchers that lag further than this lose the oldest records.
const WATCH_BUFFER: usize = 64;
/// Answers come within this time of the first question; only until then a look-up waits for them.
const FIRST_ANSWERS: Duration = Duration::from_millis(1500);
/// How long the responder may be too busy to take an announcement.
const BUSY: Duration = Duration::from_secs(5);

/// Finds devices on the local network, and makes this one findable there.
///
/// Records are verified here too: otherwise anyone on the network could put a forged one in the
/// place of a device's own, and so hide the device.
pub struct MdnsDiscovery {
    config: MdnsConfig,
    seen: Arc<Seen>,
    running: Mutex<Running>,
}

#[derive(Default)]
enum Running {
    /// Nothing is bound yet.
    #[default]
    NotYet,
    Yes {
        daemon: ServiceDaemon,
        since: Instant,
    },
    Ended,
}

/// What was heard.
struct Seen {
    network: NetworkId,
    devices: Mutex<HashMap<DeviceId, Heard>>,
    /// Gone once shut down, which ends all watches.
    news: Mutex<Option<broadcast::Sender<Found>>>,
    source: Arc<str>,
}

struct Heard {
    item: DiscoveryItem,
    open: OpenItem,
    /// The instance that says so.
    instance: String,
    at: Instant,
}

impl MdnsDiscovery {
    /// A discovery for devices of one network. It binds nothing before it is used.
    pub fn new(config: MdnsConfig, network: NetworkId) -> Self {
        let news = Mutex::new(Some(broadcast::channel(WATCH_BUFFER).0));
        let seen = Seen { network, devices: Mutex::default(), news, source: "mdns".into() };
        Self { config, seen: Arc::new(seen), running: Mutex::default() }
    }

    /// Binds the port and begins to browse, at the first use.
    fn daemon(&self) -> Result<(ServiceDaemon, Instant)> {
        let mut running = lock(&self.running);
        match &*running {
            Running::Yes { daemon, since } => return Ok((daemon.clone(), *since)),
            Running::Ended => return Err(Error::new(ErrorKind::Closed, "mdns", "start", "the node is shut down")),
            Running::NotYet => {}
        }
        let failed = |e: mdns_sd::Error| {
            let advice = format!("UDP port {} can't be used for multicast DNS; see the cause", self.config.port);
            Error::new(ErrorKind::Unreachable, "mdns", "start", advice).with_source(e)
        };
        let daemon = ServiceDaemon::new_with_port(self.config.port).map_err(failed)?;
        if !self.config.interfaces.is_empty() {
            daemon.disable_interface(IfKind::All).map_err(failed)?;
            let chosen: Vec<IfKind> = self.config.interfaces.iter().cloned().map(IfKind::Name).collect();
            daemon.enable_interface(chosen).map_err(failed)?;
        }
        let events = daemon.browse(SERVICE).map_err(failed)?;
        let seen = self.seen.clone();
        let thread = std::thread::Builder::new().name("peerloom-mdns".into()).spawn(move || seen.listen(&events));
        thread.map_err(|e| Error::new(ErrorKind::System, "mdns", "start", "no thread can be made").with_source(e))?;
        let since = Instant::now();
        *running = Running::Yes { daemon: daemon.clone(), since };
        Ok((daemon, since))
    }
}

/// The instance that announces a device.
fn service(signed: &Signed) -> Result<ServiceInfo> {
    let (record, certificate) = PeerRecord::open(signed, |_, _, _| true)?;
    let name = HEXLOWER.encode(certificate.device.as_bytes().get(..16).unwrap_or_default());
    let places: Vec<SocketAddr> = record.addresses.iter().filter_map(|a| a.rest().parse().ok()).collect();
    // DNS-SD wants a port and this host's addresses; those that count stand in the record.
    let port = places.first().map_or(9, SocketAddr::port);
    let pairs = txt::encode(signed, &record, &certificate);
    let properties: Vec<TxtPair> = pairs.into_iter().map(|(key, value)| TxtPair { key, value }).collect();
    let host = format!("{name}.local.");
    let failed = |e: mdns_sd::Error| {
        Error::new(ErrorKind::TooLarge, "mdns", "announce", "the record doesn't fit into a TXT record").with_source(e)
    };
    let info = ServiceInfo::new(SERVICE, &name, &host, "", port, properties.as_slice()).map_err(failed)?;
    Ok(info.enable_addr_auto())
}

struct TxtPair {
    key: String,
    value: Vec<u8>,
}

impl From<&TxtPair> for mdns_sd::TxtProperty {
    fn from(pair: &TxtPair) -> Self {
        Self::from((&pair.key, &pair.value))
    }
}

impl Seen {
    /// Takes in what the responder hears, until it ends.
    fn listen(&self, events: &Receiver<ServiceEvent>) {
        while let Ok(event) = events.recv() {
            match event {
                ServiceEvent::ServiceResolved(found) => {
                    let get = |key: &str| found.get_property_val(key).flatten();
                    match txt::decode(&self.network, get) {
                        Some(signed) => self.hear(signed, found.get_fullname()),
                        None => debug!(instance = found.get_fullname(), "not a device of this network"),
                    }
                }
                ServiceEvent::ServiceRemoved(_, instance) => {
                    lock(&self.devices).retain(|_, heard| heard.instance != instance);
                }
                _ => {}
            }
        }
    }

    fn hear(&self, signed: Signed, instance: &str) {
        let item = DiscoveryItem::Record(signed);
        let (device, open) = match item.open(verify) {
            Ok(open) if open.network() != Some(&self.network) => return,
            Ok(OpenItem::Record(record, certificate)) => (certificate.device, OpenItem::Record(record, certificate)),
            Ok(_) => return,
            Err(error) => {
                warn!(instance, %error, "a record heard on the local network is forged or damaged");
                return;
            }
        };
        let mut devices = lock(&self.devices);
        if devices.get(&device).is_some_and(|known| known.open.sequence() > open.sequence()) {
            return;
        }
        if devices.len() >= MAX_DEVICES && !devices.contains_key(&device) {
            let oldest = devices.iter().min_by_key(|(_, heard)| heard.at).map(|(device, _)| *device);
            oldest.map(|device| devices.remove(&device));
        }
        let heard = Heard { item: item.clone(), open, instance: instance.to_owned(), at: Instant::now() };
        let before = devices.insert(device, heard);
        if before.is_none_or(|before| before.item != item)
            && let Some(news) = &*lock(&self.news)
        {
            // Fails only when nobody watches.
            let _ = news.send(Found { item, source: self.source.clone(), age: Duration::ZERO });
        }
    }

    fn find(&self, key: DiscoveryKey) -> Vec<Found> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let wanted = |heard: &&Heard| heard.open.check(Some(&key), &self.network, now_ms).is_ok();
        let found =
            |heard: &Heard| Found { item: heard.item.clone(), source: self.source.clone(), age: heard.at.elapsed() };
        lock(&self.devices).values().filter(wanted).map(found).collect()
    }
}

impl MdnsDiscovery {
    /// Waits for the first answers, where nothing is known yet.
    async fn look(&self, key: DiscoveryKey) -> Result<Vec<Found>> {
        if key.kind() != ItemKind::Record {
            return Ok(Vec::new());
        }
        let (_, since) = self.daemon()?;
        loop {
            let found = self.seen.find(key);
            if !found.is_empty() || since.elapsed() >= FIRST_ANSWERS {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn announce(&self, record: &Signed) -> Result<()> {
        let info = service(record)?;
        let (daemon, _) = self.daemon()?;
        let begin = Instant::now();
        loop {
            match daemon.register(info.clone()) {
                Ok(()) => return Ok(()),
                // Its queue is full for the moment.
                Err(mdns_sd::Error::Again) if begin.elapsed() < BUSY => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(e) => {
                    let message = "the record can't be announced on the local network";
                    return Err(Error::new(ErrorKind::Unreachable, "mdns", "announce", message).with_source(e));
                }
            }
        }
    }
}

#[async_trait]
impl Discovery for MdnsDiscovery {
    fn caps(&self) -> DiscoveryCaps {
        // A TXT record has room for a record, and for nothing longer.
        DiscoveryCaps { cost: CostTier::Lan, carries: ItemKinds::RECORDS }
    }

    async fn publish(&self, item: DiscoveryItem) -> Result<()> {
        match item {
            DiscoveryItem::Record(record) => self.announce(&record).await,
            other => Err(not_carried("mdns", &other)),
        }
    }

    fn find(&self, key: DiscoveryKey) -> BoxStream<'_, Result<Found>> {
        let look = async move {
            let (found, error) = match self.look(key).await {
                Ok(found) => (found, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            stream::iter(found.into_iter().map(Ok).chain(error.map(Err)))
        };
        stream::once(look).flatten().boxed()
    }

    fn watch(&self) -> BoxStream<'static, Found> {
        let news = lock(&self.seen.news).as_ref().map(broadcast::Sender::subscribe);
        if let Err(error) = self.daemon() {
            warn!(%error, "the local network can't be watched");
        }
        match news {
            Some(news) => peerloom_core::discovery::watch_stream(news),
            None => stream::empty().boxed(),
        }
    }

    /// Whether anybody is heard: any service's name will do.
    async fn diagnose(&self) -> Vec<Diagnostic> {
        const EVERY_SERVICE: &str = "_services._dns-sd._udp.local.";
        let browsed = self.daemon().and_then(|(daemon, _)| {
            let failed =
                |e| Error::new(ErrorKind::Unreachable, "mdns", "browse", "the responder is busy").with_source(e);
            Ok((daemon.browse(EVERY_SERVICE).map_err(failed)?, daemon))
        });
        let (events, daemon) = match browsed {
            Ok(browsed) => browsed,
            Err(error) => {
                let remedy = "end the program that holds UDP port 5353 for itself, or set another discovery.port";
                return vec![Diagnostic::bad("mDNS", format!("can't be used: {}", error.for_people()), remedy)];
            }
        };
        tokio::time::sleep(FIRST_ANSWERS).await;
        let name = |event| match event {
            ServiceEvent::ServiceFound(_, name) => Some(name),
            _ => None,
        };
        let names: BTreeSet<String> = events.try_iter().filter_map(name).collect();
        // It ends with the daemon otherwise.
        let _ = daemon.stop_browse(EVERY_SERVICE);
        let devices = lock(&self.seen.devices).len();
        if names.is_empty() && devices == 0 {
            let remedy = "on a network that carries no multicast, such as a guest network, use a registry";
            return vec![Diagnostic::note("mDNS", "nothing was heard on the local network", remedy)];
        }
        let detail = format!("{} kinds of services heard, {devices} devices of this network", names.len());
        vec![Diagnostic::good("mDNS", detail)]
    }

    /// Says goodbye to the network, so that others forget the device at once.
    async fn shutdown(&self) {
        lock(&self.seen.news).take();
        let ended = std::mem::replace(&mut *lock(&self.running), Running::Ended);
        if let Running::Yes { daemon, .. } = ended
            && let Ok(done) = daemon.shutdown()
        {
            let wait = move || drop(done.recv_timeout(Duration::from_secs(1)));
            // Fails only when it panicked; the daemon ends by itself.
            let _ = tokio::task::spawn_blocking(wait).await;
        }
    }
}

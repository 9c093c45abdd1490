//! Announcing this device: which addresses its record has, and giving the record to the discoveries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use peerloom_core::backoff::Backoff;
use peerloom_core::interfaces::{Scope, reachable, scope};
use peerloom_core::names::{HostPort, canonical};
use peerloom_core::wire::{
    Address, DiscoveryItem, ItemKind, PeerRecord, SuiteId, WIRE_VERSION, WIRE_VERSION_MIN, context, limits,
};
use peerloom_core::{Discovery, Error, ErrorKind, Result};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::Shared;
use crate::clock::system_ms;
use crate::driver::{DriverHandle, LocalIdentity, Turn};

/// How long our record is valid; it is announced again at every link.
const LIFETIME_MS: u64 = 7 * 24 * 3600 * 1000;
/// A record is renewed when this part of its life is over.
const RENEWED_AFTER_MS: u64 = LIFETIME_MS / 4;
/// How often that is looked at: timers stand still while a machine sleeps, and clocks leap.
const LOOK: Duration = Duration::from_secs(60);
/// The first wait after an announcement failed.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest such wait.
const LONGEST_WAIT: Duration = LOOK;
/// How long one discovery may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What an address takes in a record beside its own length, in bytes, at most.
const FRAME_BYTES: usize = 3;

/// Where each transport listens, as it last reported.
pub(crate) struct Addresses {
    by_transport: Mutex<Vec<Vec<Address>>>,
    /// What a record has left for them, in bytes.
    room: usize,
    changed: Notify,
}

/// What becomes of the transports' addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Those in the record, best first.
    pub(super) announced: Vec<Address>,
    /// Those that a record has no room for.
    pub(super) left_out: Vec<Address>,
}

impl Addresses {
    pub(super) fn new(by_transport: Vec<Vec<Address>>, own: &LocalIdentity, suites: &[SuiteId]) -> Self {
        Self { by_transport: Mutex::new(by_transport), room: room(own, suites), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Address>>> {
        self.by_transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, transport: usize, addresses: Vec<Address>) {
        if let Some(known) = self.lock().get_mut(transport).filter(|known| **known != addresses) {
            *known = addresses;
            self.changed.notify_one();
        }
    }

    pub(super) fn choose(&self) -> Chosen {
        choose(&self.lock(), self.room)
    }
}

/// This device's record.
fn record(own: &LocalIdentity, suites: &[SuiteId], addresses: Vec<Address>, expires_at_ms: u64) -> PeerRecord {
    PeerRecord {
        versions: (WIRE_VERSION_MIN, WIRE_VERSION),
        network: own.network,
        certificate: own.certificate.clone(),
        addresses,
        capabilities: 0,
        suites: suites.to_vec(),
        key_packages: Vec::new(),
        sequence: 0,
        expires_at_ms,
    }
}

/// How many bytes of addresses fit into this device's record.
fn room(own: &LocalIdentity, suites: &[SuiteId]) -> usize {
    let bare = PeerRecord { sequence: u64::MAX, ..record(own, suites, Vec::new(), u64::MAX) };
    let bare = own.key.sign_object(context::PEER_RECORD, bare.encode()).encode().len();
    // The lengths of what is around the addresses grow with them.
    limits::RECORD.saturating_sub(bare + 2)
}

/// The transports take turns, each with its best one first: none displaces another. `room` is for all of them, in
/// bytes.
fn choose(by_transport: &[Vec<Address>], room: usize) -> Chosen {
    let longest = by_transport.iter().map(Vec::len).max().unwrap_or_default();
    let turns = (0..longest).flat_map(|turn| by_transport.iter().filter_map(move |addresses| addresses.get(turn)));
    let mut chosen = Chosen::default();
    let mut bytes = 0;
    for address in turns.filter_map(presentable) {
        if chosen.announced.contains(&address) || chosen.left_out.contains(&address) {
            continue;
        }
        let longer = bytes + address.to_string().len() + FRAME_BYTES;
        if chosen.announced.len() < limits::ADDRESSES && longer <= room {
            bytes = longer;
            chosen.announced.push(address);
        } else {
            chosen.left_out.push(address);
        }
    }
    chosen
}

/// An address in the form that all nodes understand; `None` for one that leads no other node anywhere, whatever the
/// transport says.
fn presentable(address: &Address) -> Option<Address> {
    let Ok(place) = address.rest().parse::<SocketAddr>() else { return Some(address.clone()) };
    let zone = place.is_ipv6() && scope(place.ip()) == Scope::Link;
    if zone || place.port() == 0 || scope(place.ip()) == Scope::Nowhere {
        warn!(%address, "an address of a transport leads nowhere; it is not announced");
        return None;
    }
    format!("{}://{}", address.scheme(), canonical(place)).parse().ok()
}

/// How far an address leads. A name may lead everywhere, and so may what only its transport understands.
pub(super) fn leads(address: &Address) -> Scope {
    match address.rest().parse() {
        Ok(HostPort::Ip(place)) => scope(place.ip()),
        Ok(HostPort::Name(name, _)) if name.eq_ignore_ascii_case("localhost") => Scope::Loopback,
        _ => Scope::Public,
    }
}

/// Keeps this device announced.
pub(super) struct Announcer {
    own: Arc<LocalIdentity>,
    suites: Vec<SuiteId>,
    driver: DriverHandle,
    addresses: Arc<Addresses>,
    deliveries: Deliveries,
    /// When the newest record was made, by the wall clock; `None` if the last attempt failed.
    made_at_ms: Option<u64>,
}

impl Announcer {
    /// Makes what is to be announced, and waits for no discovery. Fails only where no record can be made: then there
    /// is no store to work with.
    pub(super) async fn new(shared: &Shared, addresses: Arc<Addresses>) -> Result<Self> {
        let (own, suites, driver) = (shared.own.clone(), shared.suites.clone(), shared.driver.clone());
        let deliveries = Deliveries::new(shared.discoveries.clone());
        let mut announcer = Self { own, suites, driver, addresses, deliveries, made_at_ms: None };
        announcer.make().await?;
        Ok(announcer)
    }

    /// Announces again well before the record expires, when the addresses in it change, and where it failed.
    pub(super) async fn run(mut self, mut moved: watch::Receiver<()>) {
        self.deliveries.attempt().await;
        loop {
            let mut changed = false;
            tokio::select! {
                () = tokio::time::sleep(self.deliveries.wait().unwrap_or(LOOK)) => {}
                () = self.addresses.changed.notified() => changed = true,
                // What failed on the old network may work on the new one.
                Ok(()) = moved.changed() => self.deliveries.hurry(),
            }
            if (changed || self.is_due(system_ms()))
                && let Err(error) = self.make().await
            {
                self.made_at_ms = None;
                self.deliveries.failed();
                warn!(%error, "the record could not be renewed; trying again");
                continue;
            }
            self.deliveries.attempt().await;
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        // A clock that was set back makes the record's life look longer than it is.
        self.made_at_ms.is_none_or(|made| now_ms < made || now_ms - made >= RENEWED_AFTER_MS)
    }

    /// Makes this device's record, to be given to the discoveries.
    async fn make(&mut self) -> Result<()> {
        let Chosen { announced, left_out } = self.addresses.choose();
        if !left_out.is_empty() {
            info!(?left_out, "a record has no room for all addresses");
        }
        self.warn_of_silence(&announced);
        let now = system_ms();
        let record = record(&self.own, &self.suites, announced, now + LIFETIME_MS);
        // The devices are those that are known here: others may know more, and readers unite what they find.
        let set = move |turn: &mut Turn<'_>| Ok((turn.set_record(record)?, turn.state.devices.clone()));
        let (signed, devices) = self.driver.call(set).await?;
        self.made_at_ms = Some(now);
        self.deliveries.begin(DiscoveryItem::Record(signed));
        self.deliveries.begin(DiscoveryItem::of_devices(&devices));
        Ok(())
    }

    fn warn_of_silence(&self, announced: &[Address]) {
        let beyond = announced.iter().any(|address| leads(address) > Scope::Loopback);
        // Loopback addresses are announced where they were asked for, or where there is nothing else.
        if announced.is_empty() || !beyond && reachable().is_ok_and(|ips| ips.is_empty()) {
            warn!("no address leads to this node, so others can't dial it; see `peerloom doctor`");
        }
    }
}

/// Gives items to every discovery that carries them, again and again to those that fail.
struct Deliveries {
    discoveries: Vec<Arc<dyn Discovery>>,
    /// The newest of each kind.
    items: BTreeMap<ItemKind, DiscoveryItem>,
    /// Discoveries, by number, that don't have an item yet.
    open: BTreeSet<(ItemKind, usize)>,
    backoff: Backoff,
    /// Warned of, and not given since.
    failing: bool,
}

impl Deliveries {
    fn new(discoveries: Vec<Arc<dyn Discovery>>) -> Self {
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        Self { discoveries, items: BTreeMap::new(), open: BTreeSet::new(), backoff, failing: false }
    }

    /// A new item takes the place of the one before.
    fn begin(&mut self, item: DiscoveryItem) {
        let kind = item.kind();
        let able = self.discoveries.iter().enumerate().filter(|(_, d)| d.caps().carries.contains(kind));
        self.open.extend(able.map(|(number, _)| (kind, number)));
        self.items.insert(kind, item);
        self.hurry();
    }

    /// How long to wait before the next attempt; `None` where none is needed.
    fn wait(&self) -> Option<Duration> {
        self.backoff.wait()
    }

    /// Something changed, by which the next attempt may work: an attempt follows at once.
    fn hurry(&mut self) {
        self.backoff.reset();
    }

    fn failed(&mut self) {
        self.backoff.failed();
        self.failing = true;
    }

    fn worked(&mut self) {
        self.backoff.reset();
        self.failing = false;
    }

    /// Asks all at once those that lack an item.
    async fn attempt(&mut self) {
        let give = |open: (ItemKind, usize)| {
            let (item, discovery) = (self.items.get(&open.0).cloned(), self.discoveries.get(open.1).cloned());
            async move {
                let (Some(item), Some(discovery)) = (item, discovery) else { return (open, Ok(())) };
                let late = |_| Error::new(ErrorKind::Timeout, "engine", "announce", "the discovery takes too long");
                let given = tokio::time::timeout(TIMEOUT, discovery.publish(item)).await;
                (open, given.map_err(late).and_then(|given| given))
            }
        };
        let outcomes = join_all(self.open.iter().copied().map(give)).await;
        let mut failed = false;
        for (open, outcome) in outcomes {
            let Err(error) = outcome else {
                self.open.remove(&open);
                continue;
            };
            failed = true;
            let kind = open.0;
            // Warned of once, until it works again.
            match self.failing {
                false => warn!(%kind, %error, "an item could not be announced; trying again"),
                true => debug!(%kind, %error, "an item could still not be announced"),
            }
        }
        match failed {
            true => self.failed(),
            false => self.worked(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures_util::stream::BoxStream;
    use peerloom_core::memory::{MemoryDirectory, MemoryDiscovery};
    use peerloom_core::wire::{DeviceCertificate, DiscoveryKey, NetworkId, Roles, UserKeys};
    use peerloom_core::{DiscoveryCaps, Found};
    use peerloom_crypto_primitives::{SigningKey, verify};
    use tokio::time::Instant;

    use super::*;
    use crate::driver::Input;

    fn addresses(scheme: &str, places: impl IntoIterator<Item = String>) -> Vec<Address> {
        places.into_iter().map(|place| format!("{scheme}://{place}").parse().unwrap()).collect()
    }

    #[test]
    fn no_transport_displaces_another() {
        let many = addresses("quic", (1..=20).map(|n| format!("192.0.2.{n}:1")));
        let one = addresses("webrtc", ["device".into()]);
        let chosen = choose(&[many.clone(), one.clone()], limits::RECORD);
        assert_eq!(chosen.announced.len(), limits::ADDRESSES);
        assert_eq!(chosen.announced[..3], [many[0].clone(), one[0].clone(), many[1].clone()]);
        assert_eq!(chosen.left_out, many[7..]);
    }

    #[test]
    fn what_leads_nowhere_is_not_announced_and_the_rest_is_normal() {
        let nowhere = ["0.0.0.0:1", "[::]:1", "192.0.2.1:0", "224.0.0.1:1", "[fe80::1]:1", "[fe80::1%2]:1"];
        let good = ["[::ffff:192.0.2.1]:1", "192.0.2.1:1", "[2001:db8::1]:1", "host.example:1"];
        let all = nowhere.iter().chain(&good).map(ToString::to_string);
        let chosen = choose(&[addresses("tcp", all)], limits::RECORD);
        assert_eq!(
            chosen.announced,
            addresses("tcp", ["192.0.2.1:1", "[2001:db8::1]:1", "host.example:1"].map(String::from))
        );
        assert_eq!(chosen.left_out, []);
    }

    fn own() -> LocalIdentity {
        let [user, recovery, device] = [1, 2, 3].map(|seed| SigningKey::from_seed(&[seed; 32]));
        let keys = UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
        let certificate = DeviceCertificate::new(keys, device.public().clone(), Roles::ALL, u64::MAX);
        LocalIdentity {
            user: certificate.user,
            keys: certificate.keys.clone(),
            device: certificate.device,
            certificate: certificate.sign(|m| user.sign(m), |m| device.sign(m)),
            network: NetworkId::from_name("lab"),
            name: String::new(),
            key: device,
            user_key: None,
        }
    }

    #[test]
    fn a_record_with_the_longest_addresses_is_taken_by_others() {
        let own = own();
        let suites: Vec<SuiteId> = (0..limits::SUITES as u16).map(|n| SuiteId(u16::MAX - n)).collect();
        let long = addresses("quic", (0..20).map(|n| format!("{}{n}.example:65535", "a".repeat(90))));
        let short = addresses("tcp", (10..30).map(|n| format!("[2001:db8:1111:2222:3333:4444:5555:66{n}]:65535")));
        for lists in [vec![long.clone()], vec![short.clone()], vec![long, short]] {
            let announced = choose(&lists, room(&own, &suites)).announced;
            assert!(announced.len() > 1, "{announced:?}");
            let record = PeerRecord { sequence: u64::MAX, ..record(&own, &suites, announced, u64::MAX) };
            let signed = own.key.sign_object(context::PEER_RECORD, record.encode());
            assert!(signed.encode().len() <= limits::RECORD, "{} bytes", signed.encode().len());
            assert!(PeerRecord::open(&signed, verify).is_ok());
        }
    }

    /// Fails a number of times, and then works.
    struct Failing {
        inner: MemoryDiscovery,
        failures: usize,
        /// It doesn't answer, where it fails.
        silent: bool,
        attempts: AtomicUsize,
    }

    #[async_trait]
    impl Discovery for Failing {
        fn caps(&self) -> DiscoveryCaps {
            self.inner.caps()
        }

        async fn publish(&self, _item: DiscoveryItem) -> Result<()> {
            if self.attempts.fetch_add(1, Ordering::Relaxed) >= self.failures {
                return Ok(());
            }
            if self.silent {
                std::future::pending::<()>().await;
            }
            Err(Error::new(ErrorKind::Unreachable, "test", "announce", "not yet"))
        }

        fn find(&self, key: DiscoveryKey) -> BoxStream<'_, Result<Found>> {
            self.inner.find(key)
        }

        fn watch(&self) -> BoxStream<'static, Found> {
            self.inner.watch()
        }

        async fn shutdown(&self) {
            self.inner.shutdown().await;
        }
    }

    fn failing(failures: usize, silent: bool) -> Arc<Failing> {
        let inner = MemoryDiscovery::new(&MemoryDirectory::default());
        Arc::new(Failing { inner, failures, silent, attempts: AtomicUsize::new(0) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_announcement_is_tried_again_by_itself_and_holds_up_no_other() {
        let (good, failing, silent) = (failing(0, false), failing(5, false), failing(2, true));
        let all: [Arc<Failing>; 3] = [silent.clone(), failing.clone(), good.clone()];
        let mut deliveries = Deliveries::new(all.iter().map(|one| one.clone() as Arc<dyn Discovery>).collect());
        assert_eq!(deliveries.wait(), None);
        let key = SigningKey::from_seed(&[1; 32]);
        deliveries.begin(DiscoveryItem::Record(key.sign_object(b"test", bytes::Bytes::from_static(b"record"))));
        let begin = Instant::now();
        deliveries.attempt().await;
        while let Some(wait) = deliveries.wait() {
            assert!(begin.elapsed() < Duration::from_secs(300), "it never works");
            tokio::time::sleep(wait).await;
            deliveries.attempt().await;
        }
        let attempts = all.map(|discovery| discovery.attempts.load(Ordering::Relaxed));
        assert_eq!(attempts, [3, 6, 1], "each until it worked, and no more");
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_are_bounded_and_a_new_record_begins_again() {
        let never = failing(usize::MAX, false);
        let mut deliveries = Deliveries::new(vec![never.clone()]);
        let key = SigningKey::from_seed(&[1; 32]);
        let record = |text: &'static str| {
            DiscoveryItem::Record(key.sign_object(b"test", bytes::Bytes::from_static(text.as_bytes())))
        };
        deliveries.begin(record("first"));
        for _ in 0..20 {
            deliveries.attempt().await;
        }
        assert_eq!(deliveries.wait(), Some(LONGEST_WAIT));
        deliveries.begin(record("second"));
        deliveries.attempt().await;
        assert_eq!(deliveries.wait(), Some(FIRST_WAIT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_cannot_be_made_is_tried_again_after_growing_waits() {
        let (driver, mut inputs) = DriverHandle::without_thread();
        let (own, suites) = (Arc::new(own()), Vec::new());
        let addresses = Arc::new(Addresses::new(Vec::new(), &own, &suites));
        let deliveries = Deliveries::new(Vec::new());
        let announcer = Announcer { own, suites, driver, addresses, deliveries, made_at_ms: None };
        let (moved, news) = watch::channel(());
        let running = tokio::spawn(announcer.run(news));
        let full = Error::new(ErrorKind::Full, "test", "write", "the disk is full");
        let mut last = None;
        let mut waits = Vec::new();
        for attempt in 0..11 {
            let Some(Input::Call(call)) = inputs.recv().await else { panic!("no call for a record") };
            waits.extend(last.replace(Instant::now()).map(|last: Instant| last.elapsed().as_secs()));
            call(Err(&full));
            // A turn for the announcer to take that in.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if attempt == 8 {
                moved.send(()).unwrap();
            }
        }
        assert_eq!(
            waits,
            [1, 2, 4, 8, 16, 32, 60, 60, 0, 1],
            "at once on another network, and then from the first wait on"
        );
        running.abort();
    }
}

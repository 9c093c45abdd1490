//! Presence in one SQLite database, owned by one thread that commits what waits together.

mod items;
mod queries;
mod sightings;
mod values;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use peerloom_core::private;
use peerloom_core::wire::{DeviceId, DiscoveryKey, NetworkId, UserId};
use peerloom_core::{Error, ErrorKind, Result};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{Announcement, Beat, Helper, ItemOutcome, KeptItem, Known, Outcome, Publication, Seen, Since, Store};

/// Calls that wait for the thread; beyond, they are refused: a second's worth or less.
const WAITING: usize = 4096;
/// Most calls in one transaction.
const GROUP: usize = 512;
/// How long another program may hold the database before a call fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a call waits for its answer. What was to be written may be written all the same.
const SLOW: Duration = Duration::from_secs(8);
/// Rows looked at in one call of [`Store::forget`], so that other calls come in between.
const STRIDE: i64 = 10_000;
/// How much longer than a device a sighting of its user by a coordinator is kept.
const SIGHTINGS_STAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Devices in one call of [`Store::touch`], for the same reason.
const TOUCHED: usize = 1000;

/// The store of one machine.
pub(crate) struct SqliteStore {
    calls: mpsc::Sender<Box<dyn Call>>,
    devices: Arc<AtomicU64>,
    most: u64,
    item_bytes: Arc<AtomicU64>,
    most_item_bytes: u64,
}

impl SqliteStore {
    /// Opens the database, or makes it, for at most `most` devices and `most_item_bytes` of items.
    pub(crate) fn open(path: &Path, most: u64, most_item_bytes: u64) -> Result<Self> {
        let unusable = || {
            let advice = format!("{} can't be used as the registry's database; see the cause", path.display());
            Error::new(ErrorKind::Storage, "registry", "open", advice)
        };
        let failed = |cause: rusqlite::Error| unusable().with_source(cause);
        if path != Path::new(":memory:") {
            // Made here: nobody else need read who is where. SQLite gives its mode to those beside it.
            private::open(path)?;
            ["-journal", "-wal", "-shm"]
                .into_iter()
                .try_for_each(|suffix| private::check(&private::beside(path, suffix)))?;
        }
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        queries::prepare(&connection).map_err(failed)?;
        let devices = Arc::new(AtomicU64::new(queries::count(&connection).map_err(failed)?));
        let item_bytes = Arc::new(AtomicU64::new(items::bytes(&connection).map_err(failed)?));
        let (calls, waiting) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new().name("registry-store".into());
        let spawned = thread.spawn(move || serve(&connection, waiting));
        spawned
            .map_err(|e| Error::new(ErrorKind::System, "registry", "open", "no thread can be made").with_source(e))?;
        Ok(Self { calls, devices, most, item_bytes, most_item_bytes })
    }

    /// Runs something on the store's thread, in a transaction with whatever else waits.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let call = Work { work: Some(work), result: None, answer: Some(answer) };
        let overloaded = |_| Error::new(ErrorKind::Overloaded, "registry", "store", "too many calls wait; try again");
        self.calls.try_send(Box::new(call)).map_err(overloaded)?;
        let ended = || Error::new(ErrorKind::Closed, "registry", "store", "the registry is being stopped");
        let failed = || Error::new(ErrorKind::Storage, "registry", "store", "the database failed; look at its disk");
        let slow = |_| Error::new(ErrorKind::Overloaded, "registry", "store", "the database is too slow; try again");
        let answer = tokio::time::timeout(SLOW, answered).await.map_err(slow)?;
        let result = answer.map_err(|_| ended())?.ok_or_else(failed)?;
        result.map_err(|cause| failed().with_source(cause))
    }
}

/// Something to do in a transaction. The answer goes out when that has ended.
trait Call: Send {
    fn run(&mut self, connection: &Connection);
    fn end(&mut self, committed: bool);
}

struct Work<T, F> {
    work: Option<F>,
    result: Option<rusqlite::Result<T>>,
    /// Gets nothing when the transaction didn't come about.
    answer: Option<oneshot::Sender<Option<rusqlite::Result<T>>>>,
}

impl<T: Send, F: FnOnce(&Connection) -> rusqlite::Result<T> + Send> Call for Work<T, F> {
    fn run(&mut self, connection: &Connection) {
        self.result = self.work.take().map(|work| work(connection));
    }

    fn end(&mut self, committed: bool) {
        let result = if committed { self.result.take() } else { None };
        if let Some(answer) = self.answer.take() {
            // Fails only when the caller has gone.
            let _ = answer.send(result);
        }
    }
}

/// Serves calls until all handles are gone.
fn serve(connection: &Connection, mut waiting: mpsc::Receiver<Box<dyn Call>>) {
    let mut group = Vec::new();
    while let Some(first) = waiting.blocking_recv() {
        group.push(first);
        while group.len() < GROUP
            && let Ok(next) = waiting.try_recv()
        {
            group.push(next);
        }
        let committed = commit(connection, &mut group);
        if let Err(cause) = &committed {
            error!(%cause, calls = group.len(), "the database doesn't commit");
        }
        group.drain(..).for_each(|mut call| call.end(committed.is_ok()));
    }
}

fn commit(connection: &Connection, group: &mut [Box<dyn Call>]) -> rusqlite::Result<()> {
    if !connection.is_autocommit() {
        // The last one could be neither committed nor rolled back.
        connection.execute_batch("ROLLBACK")?;
    }
    connection.prepare_cached("BEGIN")?.execute([])?;
    group.iter_mut().for_each(|call| call.run(connection));
    let committed = connection.prepare_cached("COMMIT")?.execute([]).map(drop);
    if committed.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    committed
}

#[async_trait]
impl Store for SqliteStore {
    async fn announce(&self, announcement: Announcement) -> Result<Outcome> {
        let (devices, most) = (self.devices.clone(), self.most);
        self.run(move |connection| queries::announce(connection, &announcement, &devices, most)).await
    }

    async fn device(&self, network: NetworkId, device: DeviceId, now_ms: u64) -> Result<Option<Known>> {
        self.run(move |connection| queries::device(connection, &network, &device, now_ms)).await
    }

    async fn user(&self, network: NetworkId, user: UserId, limit: usize, now_ms: u64) -> Result<Vec<Known>> {
        self.run(move |connection| queries::user(connection, &network, &user, limit, now_ms)).await
    }

    async fn seen(
        &self,
        network: NetworkId,
        after: Option<DeviceId>,
        limit: u32,
        since_ms: u64,
        now_ms: u64,
    ) -> Result<Seen> {
        self.run(move |connection| queries::seen(connection, &network, after, limit, since_ms, now_ms)).await
    }

    async fn beat(&self, beat: Beat) -> Result<bool> {
        self.run(move |connection| queries::beat(connection, &beat)).await
    }

    async fn saw(
        &self,
        network: NetworkId,
        user: UserId,
        limit: usize,
        since: Since,
        now_ms: u64,
    ) -> Result<Vec<Helper>> {
        let since = (since.beat_ms, since.seen_ms);
        self.run(move |connection| sightings::find(connection, &network, &user, limit, since, now_ms)).await
    }

    async fn coordinators(&self, network: NetworkId, limit: usize, since: Since, now_ms: u64) -> Result<Vec<Helper>> {
        self.run(move |connection| {
            let reported = queries::coordinators(connection, &network, limit, since.beat_ms, now_ms)?;
            match reported.is_empty() {
                true => queries::ablest(connection, &network, limit, since.seen_ms, now_ms),
                false => Ok(reported),
            }
        })
        .await
    }

    async fn publish(&self, publication: Publication) -> Result<ItemOutcome> {
        let (bytes, most) = (self.item_bytes.clone(), self.most_item_bytes);
        self.run(move |connection| items::publish(connection, &publication, &bytes, most)).await
    }

    async fn items(&self, network: NetworkId, key: DiscoveryKey, now_ms: u64) -> Result<Vec<KeptItem>> {
        self.run(move |connection| items::find(connection, &network, &key, now_ms)).await
    }

    async fn left(&self, network: NetworkId, device: DeviceId, now_ms: u64) -> Result<()> {
        self.run(move |connection| queries::left(connection, &network, &device, now_ms)).await
    }

    async fn touch(&self, devices: Vec<(NetworkId, DeviceId)>, now_ms: u64) -> Result<()> {
        for some in devices.chunks(TOUCHED) {
            let some = some.to_vec();
            self.run(move |connection| queries::touch(connection, &some, now_ms)).await?;
        }
        Ok(())
    }

    async fn forget(&self, since_ms: u64, now_ms: u64) -> Result<u64> {
        let (mut row, last) = self.run(queries::rows).await?;
        let mut gone = 0;
        while row <= last {
            let next = row + STRIDE;
            let most = self.most;
            gone += self.run(move |connection| queries::forget(connection, row..next, since_ms, now_ms, most)).await?;
            row = next;
        }
        let (devices, item_bytes) = (self.devices.clone(), self.item_bytes.clone());
        self.run(move |connection| {
            queries::forget_beats(connection, since_ms)?;
            queries::forget_expired(connection, now_ms)?;
            sightings::forget(connection, since_ms.saturating_sub(SIGHTINGS_STAY_MS))?;
            items::forget(connection, now_ms)?;
            item_bytes.store(items::bytes(connection)?, Ordering::Relaxed);
            // Counted on the thread that also adds, so that none is missed.
            queries::count(connection).map(|count| devices.store(count, Ordering::Relaxed))
        })
        .await?;
        Ok(gone)
    }

    fn devices(&self) -> u64 {
        self.devices.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(devices: u64) -> SqliteStore {
        SqliteStore::open(Path::new(":memory:"), devices, 1 << 20).unwrap()
    }

    fn announcement(device: u8, sequence: u64, now_ms: u64) -> Announcement {
        Announcement {
            network: NetworkId::from_bytes([1; 32]),
            device: DeviceId::from_bytes([device; 32]),
            user: UserId::from_bytes([2; 32]),
            sequence,
            record: sequence.to_be_bytes().to_vec(),
            signal_address: None,
            capabilities: device.into(),
            expires_ms: u64::MAX,
            now_ms,
            fresh: false,
            add: true,
            coordinators: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_highest_sequence_counts_over_all_of_u64() {
        let store = store(10);
        for (sequence, expected) in [
            (5, Outcome::Stored),
            (4, Outcome::Outdated),
            (5, Outcome::Same),
            (1 << 63, Outcome::Stored),
            (u64::MAX, Outcome::Stored),
            (1 << 63, Outcome::Outdated),
        ] {
            assert_eq!(store.announce(announcement(1, sequence, 1)).await.unwrap(), expected, "{sequence}");
        }
        let mut other = announcement(1, u64::MAX, 1);
        other.record = b"another record".to_vec();
        assert_eq!(store.announce(other).await.unwrap(), Outcome::Outdated, "one sequence, one record");
        assert_eq!(store.devices(), 1);
    }

    #[tokio::test]
    async fn a_forgotten_record_comes_back_with_a_proof_only() {
        let store = store(10);
        let network = NetworkId::from_bytes([1; 32]);
        let until_100 = |device, sequence, now_ms| Announcement {
            expires_ms: 100,
            signal_address: Some("wss://192.0.2.1/".into()),
            ..announcement(device, sequence, now_ms)
        };
        for device in [1, 2] {
            assert_eq!(store.announce(until_100(device, 5, 1)).await.unwrap(), Outcome::Stored);
        }
        assert_eq!(store.forget(50, 50).await.unwrap(), 2);
        for (sequence, expected) in [(4, Outcome::Outdated), (5, Outcome::Same)] {
            assert_eq!(store.announce(until_100(1, sequence, 51)).await.unwrap(), expected, "{sequence}");
        }
        assert_eq!(store.devices(), 0);
        let fresh = |sequence| Announcement { fresh: true, ..until_100(1, sequence, 52) };
        assert_eq!(store.announce(fresh(4)).await.unwrap(), Outcome::Outdated);
        assert_eq!(store.announce(fresh(5)).await.unwrap(), Outcome::Stored);
        assert_eq!(store.announce(until_100(2, 6, 52)).await.unwrap(), Outcome::Stored, "a newer one is no replay");
        assert!(store.device(network, DeviceId::from_bytes([1; 32]), 60).await.unwrap().is_some());
        // Once nobody can use the record any more, its sequence goes too.
        store.forget(99, 99).await.unwrap();
        store.forget(200, 200).await.unwrap();
        assert_eq!(store.announce(announcement(1, 1, 200)).await.unwrap(), Outcome::Stored);
    }

    #[tokio::test]
    async fn sequences_of_the_forgotten_are_bounded() {
        let store = store(3);
        for device in 0..6 {
            assert_eq!(store.announce(announcement(device, 5, device.into())).await.unwrap(), Outcome::Stored);
            store.forget(100, 100).await.unwrap();
        }
        let replay = async |device| store.announce(announcement(device, 5, 200)).await.unwrap();
        assert_eq!(replay(5).await, Outcome::Same);
        assert_eq!(replay(3).await, Outcome::Same);
        assert_eq!(replay(0).await, Outcome::Stored, "the one forgotten for longest");
    }

    #[tokio::test]
    async fn a_full_store_takes_known_devices_only() {
        let store = store(2);
        for device in [1, 2] {
            assert_eq!(store.announce(announcement(device, 1, 1)).await.unwrap(), Outcome::Stored);
        }
        assert_eq!(store.announce(announcement(3, 1, 1)).await.unwrap(), Outcome::Full);
        assert_eq!(store.announce(announcement(2, 2, 5)).await.unwrap(), Outcome::Stored);
        assert_eq!(store.forget(5, 5).await.unwrap(), 1, "device 1 wasn't seen lately");
        assert_eq!(store.announce(announcement(3, 1, 5)).await.unwrap(), Outcome::Stored);
    }

    #[tokio::test]
    async fn a_page_looks_at_so_many_devices_and_says_where_to_go_on() {
        let store = store(10_000);
        let network = NetworkId::from_bytes([1; 32]);
        let number = |device: &Known| u16::from_be_bytes([device.device.as_bytes()[0], device.device.as_bytes()[1]]);
        let many = u16::try_from(queries::LOOKED + 100).unwrap();
        for device in 0..many {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&device.to_be_bytes());
            // The last one alone was seen lately.
            let mut new = announcement(0, 1, if device + 1 == many { 100 } else { 1 });
            (new.device, new.user) = (DeviceId::from_bytes(id), UserId::from_bytes(id));
            store.announce(new).await.unwrap();
        }
        let first = store.seen(network, None, 10, 50, 100).await.unwrap();
        assert!(first.devices.is_empty() && first.next.is_some());
        let second = store.seen(network, first.next, 10, 50, 100).await.unwrap();
        assert_eq!(second.devices.iter().map(number).collect::<Vec<_>>(), [many - 1]);
        assert_eq!(second.next, None);
        let all = store.seen(network, None, 10, 0, 100).await.unwrap();
        assert_eq!(all.devices.iter().map(number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(all.next, Some(all.devices[9].device));
    }

    #[tokio::test]
    async fn a_user_has_so_many_devices() {
        let store = store(1000);
        let (network, user) = (NetworkId::from_bytes([1; 32]), UserId::from_bytes([2; 32]));
        for device in 0..100 {
            assert_eq!(store.announce(announcement(device, 1, device.into())).await.unwrap(), Outcome::Stored);
        }
        // A device that comes over from another user counts, too.
        let mut moved = announcement(200, 1, 200);
        moved.user = UserId::from_bytes([3; 32]);
        store.announce(moved).await.unwrap();
        store.announce(announcement(200, 2, 201)).await.unwrap();
        let known = store.user(network, user, 1000, 300).await.unwrap();
        let numbers: Vec<u8> = known.iter().map(|known| known.device.as_bytes()[0]).collect();
        let newest: Vec<u8> = std::iter::once(200).chain((100 - 63..100).rev()).collect();
        assert_eq!(numbers, newest, "the longest unseen made room");
        assert_eq!(store.devices(), 64);
    }

    #[tokio::test]
    async fn the_ablest_help_where_nobody_coordinates() {
        let store = &store(10);
        for device in [1, 3, 2] {
            let expires_ms = if device == 1 { 100 } else { u64::MAX };
            store.announce(Announcement { expires_ms, ..announcement(device, 1, 10) }).await.unwrap();
        }
        let network = NetworkId::from_bytes([1; 32]);
        let helpers = |now| async move {
            let found = store.coordinators(network, 2, Since { beat_ms: 5, seen_ms: 5 }, now).await.unwrap();
            found.into_iter().map(|helper| (helper.device.as_bytes()[0], helper.capacity)).collect::<Vec<_>>()
        };
        assert_eq!(helpers(50).await, [(3, None), (2, None)]);
        let device = DeviceId::from_bytes([1; 32]);
        let beat = |at_ms| Beat { network, device, active_peers: 0, capacity: 7, at_ms, received_ms: 20 };
        assert!(store.beat(beat(1000)).await.unwrap());
        assert!(!store.beat(beat(1000)).await.unwrap(), "a heartbeat counts once");
        assert_eq!(helpers(50).await, [(1, Some(7))]);
        let found = store.coordinators(network, 2, Since { beat_ms: 5, seen_ms: 5 }, 50).await.unwrap();
        assert_eq!(found[0].seen_ms, 20, "by the registry's clock");
        let late = store.coordinators(network, 2, Since { beat_ms: 30, seen_ms: 5 }, 50).await.unwrap();
        assert!(late.iter().all(|helper| helper.capacity.is_none()), "a clock that is ahead makes it last no longer");
        assert_eq!(helpers(100).await, [(3, None), (2, None)], "its record has expired");
    }
}

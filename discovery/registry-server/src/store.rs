//! What a registry remembers, behind a trait: a store of one machine today, of several another day.

mod sqlite;

use async_trait::async_trait;
use peerloom_core::Result;
use peerloom_core::wire::{DeviceId, DiscoveryKey, NetworkId, UserId};

pub(crate) use sqlite::SqliteStore;

/// Presence: which devices were announced, when they were seen, who coordinates.
///
/// All of it is soft state: what is lost is announced again within minutes. Times are milliseconds
/// since the Unix epoch. A call waits until its writes are in the store, and fails with
/// [`Overloaded`](peerloom_core::ErrorKind::Overloaded) when too many wait already.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// Takes in a record whose signatures are checked.
    async fn announce(&self, announcement: Announcement) -> Result<Outcome>;

    /// One device, unless its record has expired at `now_ms`.
    async fn device(&self, network: NetworkId, device: DeviceId, now_ms: u64) -> Result<Option<Known>>;

    /// At most `limit` of a user's devices whose records are valid, last seen first.
    async fn user(&self, network: NetworkId, user: UserId, limit: usize, now_ms: u64) -> Result<Vec<Known>>;

    /// At most `limit` devices after one, by id, that were seen since `since_ms`. Only so many are looked
    /// at in one call.
    async fn seen(
        &self,
        network: NetworkId,
        after: Option<DeviceId>,
        limit: u32,
        since_ms: u64,
        now_ms: u64,
    ) -> Result<Seen>;

    /// Notes a heartbeat; false when a later one is known.
    async fn beat(&self, beat: Beat) -> Result<bool>;

    /// At most `limit` coordinators that saw a user, as its devices say, the last one first: those whose records are
    /// valid.
    async fn saw(
        &self,
        network: NetworkId,
        user: UserId,
        limit: usize,
        since: Since,
        now_ms: u64,
    ) -> Result<Vec<Helper>>;

    /// At most `limit` coordinators whose records are valid, most capacity first; where there is none, devices that were
    /// seen, most capabilities first. Only those of either that were heard last are looked at.
    async fn coordinators(&self, network: NetworkId, limit: usize, since: Since, now_ms: u64) -> Result<Vec<Helper>>;

    /// Keeps an item that is checked, in place of the one that its device published under the same key.
    async fn publish(&self, publication: Publication) -> Result<ItemOutcome>;

    /// The items under a key, those published last, as far as an answer has room.
    async fn items(&self, network: NetworkId, key: DiscoveryKey, now_ms: u64) -> Result<Vec<KeptItem>>;

    /// Notes that a device was here until now and has gone: what it announced doesn't make it online.
    async fn left(&self, network: NetworkId, device: DeviceId, now_ms: u64) -> Result<()>;

    /// Notes that these devices are here.
    async fn touch(&self, devices: Vec<(NetworkId, DeviceId)>, now_ms: u64) -> Result<()>;

    /// Forgets what wasn't seen since `since_ms` or has expired; says how many devices went. Of a record
    /// that is still valid the sequence stays, so that nobody can bring it back by a replay.
    async fn forget(&self, since_ms: u64, now_ms: u64) -> Result<u64>;

    /// How many devices are known.
    fn devices(&self) -> u64;
}

/// A verified record, and what stands beside it.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    pub(crate) network: NetworkId,
    pub(crate) device: DeviceId,
    pub(crate) user: UserId,
    pub(crate) sequence: u64,
    /// The signed record's bytes.
    pub(crate) record: Vec<u8>,
    pub(crate) signal_address: Option<String>,
    pub(crate) capabilities: u64,
    pub(crate) expires_ms: u64,
    pub(crate) now_ms: u64,
    /// Whether the device proved just now that it is there. Without that a record that is known
    /// already, or was before it was forgotten, may be a replay: it says nothing about when the device was
    /// seen or where it takes signals.
    pub(crate) fresh: bool,
    /// Whether a device that isn't known may be added.
    pub(crate) add: bool,
    /// The coordinators that the device says it is linked to.
    pub(crate) coordinators: Vec<DeviceId>,
}

/// Since when something counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    /// A coordinator's heartbeat.
    pub(crate) beat_ms: u64,
    /// That a device, or a coordinator by a device, was seen.
    pub(crate) seen_ms: u64,
}

/// An item that is checked, and who publishes it.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) network: NetworkId,
    /// What it is asked for by.
    pub(crate) key: DiscoveryKey,
    pub(crate) device: DeviceId,
    pub(crate) user: UserId,
    /// 0: it has none, and the last one counts.
    pub(crate) sequence: u64,
    /// The item's bytes.
    pub(crate) item: Vec<u8>,
    pub(crate) expires_ms: u64,
    pub(crate) now_ms: u64,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemOutcome {
    /// It is the newest.
    Stored,
    /// This very item was known, and stays for longer.
    Same,
    /// A newer one was known, or another one with the same sequence.
    Outdated,
    /// The store has as many bytes of items as it may.
    Full,
}

/// An item that is kept.
#[derive(Debug, Clone)]
pub(crate) struct KeptItem {
    pub(crate) item: Vec<u8>,
    pub(crate) published_ms: u64,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is the newest.
    Stored,
    /// This very record was known; or its sequence is that of a device that was forgotten.
    Same,
    /// A newer one was known, or another one with the same sequence.
    Outdated,
    /// The device isn't known, and wasn't to be added.
    Unknown,
    /// The store has as many devices as it may.
    Full,
}

/// A device.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) device: DeviceId,
    pub(crate) user: UserId,
    pub(crate) record: Vec<u8>,
    pub(crate) signal_address: Option<String>,
    /// When it was announced; 0 once it has left.
    pub(crate) announced_ms: u64,
    pub(crate) seen_ms: u64,
    /// When its last heartbeat came; 0 for none.
    pub(crate) beat_ms: u64,
}

/// Devices in the order of their ids.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) devices: Vec<Known>,
    /// After which one to go on; `None` when all were looked at.
    pub(crate) next: Option<DeviceId>,
}

/// A heartbeat whose signature is checked.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    pub(crate) network: NetworkId,
    pub(crate) device: DeviceId,
    pub(crate) active_peers: u32,
    pub(crate) capacity: u32,
    /// When it was sent, by the device's clock: no earlier or equal one counts after it.
    pub(crate) at_ms: u64,
    /// When it came.
    pub(crate) received_ms: u64,
}

/// Somebody who may help to meet.
#[derive(Debug, Clone)]
pub(crate) struct Helper {
    pub(crate) device: DeviceId,
    pub(crate) signal_address: Option<String>,
    pub(crate) seen_ms: u64,
    pub(crate) capacity: Option<u32>,
}

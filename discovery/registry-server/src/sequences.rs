//! Which announcements may be replays.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;
use peerloom_core::sync::lock;
use peerloom_core::wire::{DeviceId, NetworkId};

use crate::store::Announcement;

/// Devices whose sequence is remembered, at about 150 bytes each.
const SEQUENCES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(32_767);

/// The newest sequences that were announced lately. They tell a replay from what only the device itself
/// can have made, so that no other client uses up a device's rate by announcing its records again and again.
pub(crate) struct Sequences(Mutex<LruCache<(NetworkId, DeviceId), u64>>);

impl Sequences {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(SEQUENCES)))
    }

    /// Whether an announcement may be a replay; if not, it is remembered.
    pub(crate) fn may_be_replay(&self, new: &Announcement) -> bool {
        let mut known = lock(&self.0);
        let newest = known.get_or_insert_mut((new.network, new.device), || 0);
        let replay = new.sequence <= *newest;
        *newest = new.sequence.max(*newest);
        replay
    }
}

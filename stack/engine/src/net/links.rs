//! The links that are up, and how devices without one stand.

mod budget;
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::Link;
use peerloom_core::wire::{ConversationId, DeviceId, Negotiated, Restored, Stated, UserId};
use peerloom_delivery::ConnectionState;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub(super) use budget::Budget;
use budget::Budgets;
pub(crate) use budget::Held;

use super::status::{LinkInfo, PeerStatus};
use super::trouble::{Trouble, Troubles};
use crate::metrics;
use crate::roles::LinkRole;

/// Frames that wait to be written to a link. The delivery windows keep below that.
const WAITING: usize = 1024;

/// Links of one device: one each way of a crossing dial, and one that takes over from a dead one.
const OF_ONE: usize = 3;
/// A device with all of them gets another one, in place of its oldest, once that is this old.
const YOUNG: Duration = Duration::from_secs(5);

/// The links of this node. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Inner>);

#[derive(Default)]
struct Inner {
    book: Mutex<Book>,
    refused: AtomicU64,
    skipped: AtomicU64,
    dialer: Notify,
    /// The notice of a store that isn't its device's newest, and that it is known.
    notice: OnceLock<Stated<Restored>>,
    left: CancellationToken,
}

#[derive(Default)]
struct Book {
    /// Newest last: that one is written to.
    up: HashMap<DeviceId, Vec<Entry>>,
    budgets: Budgets,
    /// What the dialer hasn't heard of yet.
    news: News,
    /// How devices without a link stand.
    states: HashMap<DeviceId, (ConnectionState, Option<String>)>,
    /// What is wrong with devices, whether they have a link or not.
    troubles: Troubles,
    next: u64,
}

/// What happened since the dialer looked last.
#[derive(Default)]
pub(super) struct News {
    /// Devices to which something waits to be sent.
    pub(super) wanted: HashSet<DeviceId>,
    /// Devices that may be reachable now.
    pub(super) found: HashSet<DeviceId>,
    /// Devices whose links came or went.
    pub(super) changed: HashSet<DeviceId>,
    /// The machine's addresses changed.
    pub(super) moved: bool,
}

struct Entry {
    id: u64,
    since: Instant,
    initiated: bool,
    role: LinkRole,
    negotiated: Negotiated,
    link: Arc<dyn Link>,
    control: mpsc::Sender<Bytes>,
    chat: mpsc::Sender<Bytes>,
    /// Cancelled once the delivery thread took in what the other side holds of a log of ours.
    shown: CancellationToken,
    /// The conversations of those logs.
    shown_in: HashSet<ConversationId>,
}

/// The queues of a new link, to be written from.
pub(super) struct Registered {
    pub(super) id: u64,
    pub(super) control: mpsc::Receiver<Bytes>,
    pub(super) chat: mpsc::Receiver<Bytes>,
    pub(super) budget: Budget,
    /// Cancelled once the delivery thread took in what the other side holds of our log.
    pub(super) shown: CancellationToken,
    /// Links that this one makes redundant; it may be one of them.
    pub(super) redundant: Vec<Arc<dyn Link>>,
}

impl Entry {
    fn info(&self) -> LinkInfo {
        let stats = self.link.stats();
        LinkInfo {
            role: self.role,
            address: self.link.remote_address(),
            path: self.link.path(),
            negotiated: self.negotiated,
            rtt_us: stats.rtt_us,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
        }
    }
}

impl Links {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a link. Of links dialed by both sides the lower device's survives: the higher
    /// device closes its own. A side that dials again has lost its older links. `None`: the device has
    /// as many links as it may, and all of them are young.
    pub(super) fn register(
        &self,
        own: &DeviceId,
        device: DeviceId,
        (initiated, role): (bool, LinkRole),
        negotiated: Negotiated,
        link: &Arc<dyn Link>,
    ) -> Option<Registered> {
        if !self.has_room_for(&device) {
            return None;
        }
        let (control, control_queue) = mpsc::channel(WAITING);
        let (chat, chat_queue) = mpsc::channel(WAITING);
        let mut book = self.book();
        book.next += 1;
        let id = book.next;
        book.states.remove(&device);
        book.news.changed.insert(device);
        let budget = book.budgets.of(device);
        let entries = book.up.entry(device).or_default();
        while entries.len() >= OF_ONE {
            entries.remove(0).link.close("the device has links enough");
            metrics::link_down();
        }
        let shown = CancellationToken::new();
        if role != LinkRole::Contact {
            // The two share no conversation, so nothing of a log is shown.
            shown.cancel();
        }
        let since = Instant::now();
        entries.push(Entry {
            id,
            since,
            initiated,
            role,
            negotiated,
            link: link.clone(),
            control,
            chat,
            shown: shown.clone(),
            shown_in: HashSet::new(),
        });
        metrics::link_up();
        self.0.dialer.notify_one();
        let ours_yields = own > &device && entries.iter().any(|e| !e.initiated);
        let yields = |e: &&Entry| e.id != id && e.initiated == initiated || e.initiated && ours_yields;
        let redundant = entries.iter().filter(yields).map(|e| e.link.clone()).collect();
        Some(Registered { id, control: control_queue, chat: chat_queue, budget, shown, redundant })
    }

    /// Removes a link. `true`: another one is left and takes over.
    pub(super) fn unregister(&self, device: &DeviceId, id: u64) -> bool {
        let mut book = self.book();
        let Some(entries) = book.up.get_mut(device) else {
            return false;
        };
        let before = entries.len();
        entries.retain(|e| e.id != id);
        if entries.len() < before {
            metrics::link_down();
        }
        let left = !entries.is_empty();
        if !left {
            book.up.remove(device);
        }
        left
    }

    /// Whether one more device would be too many.
    pub(super) fn is_full(&self, max: usize, device: &DeviceId) -> bool {
        let book = self.book();
        book.up.len() >= max && !book.up.contains_key(device)
    }

    /// Whether a device may have one more link, perhaps in place of its oldest.
    pub(crate) fn has_room_for(&self, device: &DeviceId) -> bool {
        let book = self.book();
        let entries = book.up.get(device).map_or(&[][..], Vec::as_slice);
        entries.len() < OF_ONE || entries.first().is_some_and(|oldest| oldest.since.elapsed() >= YOUNG)
    }

    /// Devices with a link.
    pub(crate) fn up(&self) -> HashSet<DeviceId> {
        self.book().up.keys().copied().collect()
    }

    pub(crate) fn is_up(&self, device: &DeviceId) -> bool {
        self.book().up.contains_key(device)
    }

    /// The delivery thread takes in what the other side of a link holds of our log in a conversation. Returns whether
    /// that is the first time on this link; `None`: the link is gone.
    pub(crate) fn note_shown(&self, device: &DeviceId, id: u64, conversation: ConversationId) -> Option<bool> {
        let mut book = self.book();
        let entry = book.up.get_mut(device)?.iter_mut().find(|entry| entry.id == id)?;
        entry.shown.cancel();
        Some(entry.shown_in.insert(conversation))
    }

    /// Whether a link to a device is up on which it has shown what it holds of our log in a conversation.
    pub(crate) fn has_shown(&self, device: &DeviceId, conversation: &ConversationId) -> bool {
        self.book().up.get(device).is_some_and(|entries| entries.iter().any(|e| e.shown_in.contains(conversation)))
    }

    /// Queues a frame on the control channel; lost if there is no link, and then sent again by the
    /// delivery rules.
    pub(crate) fn send_control(&self, device: &DeviceId, frame: Bytes) {
        self.send(device, frame, |entry| &entry.control);
    }

    /// Queues a frame on the chat channel; lost if there is no link, and then sent again.
    pub(crate) fn send_chat(&self, device: &DeviceId, frame: Bytes) {
        self.send(device, frame, |entry| &entry.chat);
    }

    /// Queues a frame on the control channel of every link to a device.
    pub(crate) fn send_everywhere(&self, device: &DeviceId, frame: &Bytes) {
        for entry in self.book().up.get(device).into_iter().flatten() {
            // A queue that is full or closed: the next link says it again.
            let _ = entry.control.try_send(frame.clone());
        }
    }

    fn send(&self, device: &DeviceId, frame: Bytes, queue: impl FnOnce(&Entry) -> &mpsc::Sender<Bytes>) {
        let book = self.book();
        if let Some(entry) = book.up.get(device).and_then(|entries| entries.last())
            && queue(entry).try_send(frame).is_err()
        {
            debug!(?device, "a link's queue is full or closed; the frame is sent again later");
        }
    }

    /// Closes the links to a device.
    pub(crate) fn reset(&self, device: &DeviceId) {
        if let Some(entries) = self.book().up.get(device) {
            entries.iter().for_each(|e| e.link.close("reset"));
        }
    }

    /// This node's store isn't its device's newest: it leaves the network for good, so that it doesn't come between
    /// the newest one and the contacts. Links that are up end once the notice is through.
    pub(crate) fn leave(&self, notice: Stated<Restored>) {
        // The first one counts; it says the same.
        let _ = self.0.notice.set(notice);
        self.0.left.cancel();
    }

    /// What a node that left the network has to say.
    pub(super) fn notice(&self) -> Option<Stated<Restored>> {
        self.0.notice.get().cloned()
    }

    /// Completes when this node leaves the network.
    pub(super) async fn left(&self) {
        self.0.left.cancelled().await;
    }

    pub(super) fn close_all(&self, reason: &str) {
        self.book().up.values().flatten().for_each(|e| e.link.close(reason));
    }

    /// Asks for a link to a device, to which something waits to be sent.
    pub(crate) fn want(&self, device: DeviceId) {
        if !self.is_up(&device) {
            self.tell(|news| news.wanted.extend([device]));
        }
    }

    /// A device may be reachable now.
    pub(super) fn found(&self, device: DeviceId) {
        self.tell(|news| news.found.extend([device]));
    }

    /// A device's links came or went.
    pub(super) fn changed(&self, device: DeviceId) {
        self.tell(|news| news.changed.extend([device]));
    }

    /// The machine's addresses changed.
    pub(super) fn moved(&self) {
        self.tell(|news| news.moved = true);
    }

    fn tell(&self, what: impl FnOnce(&mut News)) {
        what(&mut self.book().news);
        self.0.dialer.notify_one();
    }

    /// What happened since the last call.
    pub(super) fn take_news(&self) -> News {
        std::mem::take(&mut self.book().news)
    }

    /// Completes when there is news for the dialer.
    pub(super) async fn news(&self) {
        self.0.dialer.notified().await;
    }

    pub(super) fn set_state(&self, device: DeviceId, state: ConnectionState, reason: Option<String>) {
        let mut book = self.book();
        if !book.up.contains_key(&device) {
            book.states.insert(device, (state, reason));
        }
    }

    /// The same attempt goes on; the reason of the last one stays.
    pub(super) fn advance(&self, device: DeviceId, state: ConnectionState) {
        if let Some((known, _)) = self.book().states.get_mut(&device) {
            *known = state;
        }
    }

    /// Says what is wrong with a device that may well have a link; `None`: nothing any more.
    pub(crate) fn set_trouble(&self, device: DeviceId, kind: Trouble, trouble: Option<String>) {
        self.book().troubles.set(device, kind, trouble);
    }

    /// Why there is no link to a device.
    pub(crate) fn reason(&self, device: &DeviceId) -> Option<String> {
        self.book().states.get(device).and_then(|(_, reason)| reason.clone())
    }

    pub(crate) fn status(&self, user: UserId, device: DeviceId, last_seen_ms: u64) -> PeerStatus {
        let book = self.book();
        let link = book.up.get(&device).and_then(|entries| entries.last()).map(Entry::info);
        let (state, reason) = match &link {
            Some(_) => (ConnectionState::Connected, None),
            None => book.states.get(&device).cloned().unwrap_or((ConnectionState::Disconnected, None)),
        };
        let reason = book.troubles.gravest(&device).or(reason);
        PeerStatus { user, device, state, link, reason, suite: None, restored: false, last_seen_ms }
    }

    /// The links that are up, one for each device.
    pub(crate) fn infos(&self) -> Vec<(DeviceId, LinkInfo)> {
        let book = self.book();
        book.up.iter().filter_map(|(device, entries)| Some((*device, entries.last()?.info()))).collect()
    }

    /// A frame of a kind or version that is unknown here.
    pub(crate) fn count_skipped(&self) {
        self.0.skipped.fetch_add(1, Ordering::Relaxed);
        metrics::skipped();
    }

    /// Frames of kinds and versions that are unknown here, since the start.
    pub(crate) fn skipped(&self) -> u64 {
        self.0.skipped.load(Ordering::Relaxed)
    }

    /// Something from outside was refused.
    pub(crate) fn count_refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        metrics::refused();
    }

    /// Links and frames refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

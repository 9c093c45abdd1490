//! The links that are up, and how devices without one stand.

mod budget;

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
        initiated: bool,
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
        let since = Instant::now();
        entries.push(Entry {
            id,
            since,
            initiated,
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
        let link = book.up.get(&device).and_then(|entries| entries.last()).map(|entry| {
            let stats = entry.link.stats();
            LinkInfo {
                address: entry.link.remote_address(),
                path: entry.link.path(),
                negotiated: entry.negotiated,
                rtt_us: stats.rtt_us,
                bytes_sent: stats.bytes_sent,
                bytes_received: stats.bytes_received,
            }
        });
        let (state, reason) = match &link {
            Some(_) => (ConnectionState::Connected, None),
            None => book.states.get(&device).cloned().unwrap_or((ConnectionState::Disconnected, None)),
        };
        let reason = book.troubles.gravest(&device).or(reason);
        PeerStatus { user, device, state, link, reason, suite: None, restored: false, last_seen_ms }
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use peerloom_core::Transport;
    use peerloom_core::memory::{MemoryNetwork, MemoryTransport};
    use peerloom_core::wire::PublicKey;

    use tokio::task::unconstrained;

    use super::budget::{DEVICE_BUDGET_KIB, NODE_BUDGET_KIB};
    use super::*;

    const OWN: DeviceId = DeviceId::from_bytes([0; 32]);
    const MIB: usize = 1024 * 1024;
    const AGREED: Negotiated = Negotiated { version: 1, features: 0, policy: 0 };

    fn device(number: u8) -> DeviceId {
        DeviceId::from_bytes([number; 32])
    }

    /// Links that came in, as many as are asked for.
    async fn incoming(count: usize) -> Vec<Arc<dyn Link>> {
        let network = MemoryNetwork::default();
        let transport = |name: &str, key| {
            MemoryTransport::new(&network, format!("memory://{name}").parse().unwrap(), PublicKey::ed25519([key; 32]))
        };
        let (near, far) = (transport("near", 1), transport("far", 2));
        let mut listener = near.listen(None).await.unwrap();
        let mut links = Vec::new();
        for _ in 0..count {
            let dialed = far.dial(&"memory://near".parse().unwrap(), None, None).await.unwrap();
            links.push(listener.accept().await.unwrap());
            // It lives as long as the test.
            std::mem::forget(dialed);
        }
        links
    }

    fn open(links: &[Arc<dyn Link>]) -> usize {
        links.iter().filter(|link| link.closed().now_or_never().is_none()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_has_few_links_however_fast_it_dials() {
        let (links, made) = (Links::default(), incoming(20).await);
        let mut registered = Vec::new();
        let mut register = |link| registered.extend(links.register(&OWN, device(1), false, AGREED, link));
        // All at once: the first few are taken, and no young one gives way.
        made[..10].iter().for_each(&mut register);
        assert_eq!(open(&made[..10]), 10, "those that weren't registered are their owner's to close");
        assert!(!links.has_room_for(&device(1)));
        // Later, each takes the oldest's place.
        tokio::time::advance(YOUNG).await;
        made[10..].iter().for_each(&mut register);
        assert_eq!(registered.len(), 2 * OF_ONE);
        assert_eq!(open(&made[..OF_ONE]), 0, "the oldest gave way");
        assert_eq!(links.book().up[&device(1)].len(), OF_ONE);
        // Another device isn't kept out.
        assert!(links.has_room_for(&device(2)));
    }

    /// What a device holds that sends without end, frame by frame over two links, until it has to wait.
    fn fill(budgets: [&Budget; 2], frame: usize) -> Vec<Held> {
        let frames = budgets.into_iter().cycle().map_while(|budget| unconstrained(budget.hold(frame)).now_or_never());
        frames.map(|held| held.expect("the node runs")).take(10_000).collect()
    }

    #[tokio::test]
    async fn frames_of_one_device_wait_for_themselves_and_all_for_the_nodes_sum() {
        let links = Links::default();
        let made = incoming(2).await;
        let budget = |number: u8, link| links.register(&OWN, device(number), false, AGREED, link).expect("room").budget;
        let budgets = |number: u8| [budget(number, &made[0]), budget(number, &made[1])];
        let [first, second] = budgets(1);
        let frame = MIB - 1;
        let held = fill([&first, &second], frame);
        assert_eq!(held.len() * MIB, DEVICE_BUDGET_KIB * 1024, "both links of a device have one budget");
        assert!(unconstrained(first.hold(0)).now_or_never().is_none());
        // Others don't wait for it, until all of them hold what the node may.
        let mut all = held.len();
        let mut kept = vec![held];
        for number in 2..20 {
            let [first, second] = budgets(number);
            kept.push(fill([&first, &second], frame));
            all += kept.last().map_or(0, Vec::len);
        }
        assert_eq!(all * MIB, NODE_BUDGET_KIB * 1024);
        // What is done is given back.
        kept[0].pop();
        assert!(unconstrained(first.hold(frame)).now_or_never().is_some());
        // A new link of the device doesn't bring it a new budget while frames of old ones wait.
        drop([first, second]);
        links.unregister(&device(1), 1);
        links.unregister(&device(1), 2);
        kept.drain(2..);
        let later = budget(1, &made[0]);
        assert_eq!(fill([&later, &later], frame).len(), DEVICE_BUDGET_KIB / 1024 - 7);
    }

    const ROOM: ConversationId = ConversationId::from_bytes([8; 32]);

    /// What is shown counts for the link on which it was, as long as that is up, and for one conversation.
    #[tokio::test]
    async fn what_is_shown_counts_for_its_link_alone() {
        let made = incoming(2).await;
        let (links, device) = (Links::default(), device(1));
        let first = links.register(&OWN, device, false, AGREED, &made[0]).unwrap();
        assert!(!links.has_shown(&device, &ROOM));
        assert_eq!([(); 2].map(|()| links.note_shown(&device, first.id, ROOM)), [Some(true), Some(false)]);
        let second = links.register(&OWN, device, false, AGREED, &made[1]).unwrap();
        assert!(links.has_shown(&device, &ROOM) && first.shown.is_cancelled() && !second.shown.is_cancelled());
        assert!(links.unregister(&device, first.id));
        assert!(!links.has_shown(&device, &ROOM), "the link on which it was shown is gone");
        assert_eq!(links.note_shown(&device, first.id, ROOM), None, "a frame of a link that is gone came late");
        assert!(!links.has_shown(&device, &ROOM));
        assert_eq!(links.note_shown(&device, second.id, ROOM), Some(true));
        assert!(!links.has_shown(&device, &ConversationId::from_bytes([9; 32])));
        assert!(
            links.has_shown(&device, &ROOM)
                && !links.unregister(&device, second.id)
                && !links.has_shown(&device, &ROOM)
        );
    }
}

//! One peer connection as a link.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use peerloom_core::wire::{DeviceId, PublicKey, context};
use peerloom_core::{Channel, ChannelClass, Error, ErrorKind, Link, LinkPath, LinkStats, Result};
use peerloom_crypto_primitives::sha256;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio_util::task::TaskTracker;
use webrtc::data_channel::{DataChannel, RTCDataChannelInit};
use webrtc::peer_connection::RTCIceCandidateType;

use crate::lane::{Lane, LaneGroup, Waiting, closed};
use crate::peer::{Peer, failed};
use crate::traffic::Traffic;

/// Data channels of one side.
const LANES: usize = 32;
/// How long a data channel may take to open.
const OPENING: Duration = Duration::from_secs(10);
/// What the last word on a link is given to go out.
const PARTING: Duration = Duration::from_millis(50);
/// The name of every data channel.
pub(crate) const LABEL: &str = "peerloom";

/// What the link, its lanes and its session share.
pub(crate) struct Shared {
    pub(crate) peer: Peer,
    pub(crate) device: DeviceId,
    /// Whether we made the offer.
    offerer: bool,
    binding: OnceLock<[u8; 32]>,
    lanes: Mutex<Vec<Arc<Lane>>>,
    group: Arc<LaneGroup>,
    waiting: AsyncMutex<mpsc::Receiver<Waiting>>,
    /// Data channels of our own, made or being made; held while one is.
    own_lanes: AtomicUsize,
    making: AsyncMutex<()>,
    /// Our own data channels that the crate took for the other side's.
    mistaken: Mutex<Vec<Arc<dyn DataChannel>>>,
    ended: watch::Sender<Option<Error>>,
    tasks: TaskTracker,
    way: Mutex<Way>,
}

/// The path in use.
struct Way {
    path: LinkPath,
    remote: String,
    /// The address of this machine that it begins at.
    local: Option<IpAddr>,
}

impl Shared {
    pub(crate) fn new(peer: Peer, device: DeviceId, offerer: bool, tasks: TaskTracker) -> Arc<Self> {
        let (group, waiting) = LaneGroup::new(Traffic::new(peer.runtime.clone()));
        Arc::new(Self {
            peer,
            device,
            offerer,
            binding: OnceLock::new(),
            lanes: Mutex::default(),
            group,
            waiting: AsyncMutex::new(waiting),
            own_lanes: AtomicUsize::new(0),
            making: AsyncMutex::new(()),
            mistaken: Mutex::default(),
            ended: watch::Sender::new(None),
            tasks,
            way: Mutex::new(Way { path: LinkPath::Direct, remote: format!("webrtc://{device}"), local: None }),
        })
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted of the link.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.group.traffic
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a data channel of our own.
    pub(crate) async fn new_lane(self: &Arc<Self>) -> Result<Arc<Lane>> {
        let room = |made: usize| (made < LANES).then_some(made + 1);
        if self.own_lanes.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            return Err(too_many_lanes());
        }
        let _making = self.making.lock().await;
        let init = RTCDataChannelInit { ordered: true, ..RTCDataChannelInit::default() };
        let channel = self.peer.connection.create_data_channel(LABEL, Some(init)).await;
        self.add_lane(channel.map_err(|e| failed("open a channel", e))?, true)
    }

    /// A data channel that the other side opened; `None` if it is our own. The crate announces our own,
    /// too, if it opens before the crate has noted whose it is. What it then announces must be kept:
    /// dropping it would cut off the true one.
    pub(crate) async fn on_lane(self: &Arc<Self>, channel: Arc<dyn DataChannel>) -> Result<Option<Arc<Lane>>> {
        let _making = self.making.lock().await;
        if self.lanes().iter().any(|lane| lane.is_our(&*channel)) {
            self.mistaken.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
            return Ok(None);
        }
        self.add_lane(channel, false).map(Some)
    }

    /// Takes a data channel into use.
    fn add_lane(self: &Arc<Self>, channel: Arc<dyn DataChannel>, ours: bool) -> Result<Arc<Lane>> {
        let lane = Lane::new(channel, ours);
        let mut lanes = self.lanes();
        if !ours && lanes.iter().filter(|lane| !lane.is_ours()).count() >= LANES {
            return Err(too_many_lanes());
        }
        lanes.push(lane.clone());
        drop(lanes);
        let (running, link, group) = (lane.clone(), Arc::downgrade(self), Arc::downgrade(&self.group));
        self.tasks.spawn(async move {
            let error = running.run(group).await;
            if let Some(link) = link.upgrade() {
                link.end(error);
            }
        });
        Ok(lane)
    }

    /// The link is over; the first reason counts.
    pub(crate) fn end(&self, reason: Error) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(reason);
            first
        });
    }

    /// Completes when the link is over.
    pub(crate) async fn ended(&self) -> Error {
        let mut ended = self.ended.subscribe();
        // The sender is in `self`: it can't be gone.
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| closed("the link was dropped"))
    }

    /// The other side may stay: windows and channels grow.
    fn admit(&self) {
        // Before the lanes are looked at: one that is taken into use meanwhile sees it.
        self.group.admit();
        self.lanes().iter().for_each(|lane| lane.admitted(&self.group));
    }

    /// Asks the other side whether it is there.
    pub(crate) fn ping(&self) {
        if let Some(lane) = self.lanes().first() {
            lane.ping(self.traffic().ping());
        }
    }

    /// Says that the link is over, and gives that a moment to go out: what the crate says at its end goes over no relay.
    pub(crate) async fn part(&self) {
        let Some(lane) = self.lanes().first().cloned().filter(|lane| lane.is_open()) else { return };
        lane.bye();
        self.peer.runtime.heat(PARTING);
        tokio::time::sleep(PARTING).await;
    }

    /// Whether we made the session's first offer.
    pub(crate) fn is_offerer(&self) -> bool {
        self.offerer
    }

    /// Both certificates are known: binds the handshake to this very connection.
    pub(crate) async fn bind(&self) -> Result<()> {
        let (ours, theirs) = (self.peer.fingerprint, self.peer.remote_fingerprint().await?);
        let (offerer, answerer) = if self.offerer { (ours, theirs) } else { (theirs, ours) };
        let _ = self.binding.set(sha256(&[context::WEBRTC_BINDING, &offerer, &answerer]));
        Ok(())
    }

    /// Looks which path is in use.
    pub(crate) async fn look_at_path(&self) {
        let Some(sctp) = self.peer.connection.sctp().await else {
            return;
        };
        let Ok(Some(pair)) = sctp.transport().ice_transport().get_selected_candidate_pair().await else {
            return;
        };
        let (local, remote) = (pair.local(), pair.remote());
        let kinds = [local.typ, remote.typ];
        let has = |kind: RTCIceCandidateType| kinds.contains(&kind);
        let path = if has(RTCIceCandidateType::Relay) {
            LinkPath::Turn
        } else if has(RTCIceCandidateType::Srflx) {
            LinkPath::Punched("srflx")
        } else if has(RTCIceCandidateType::Prflx) {
            LinkPath::Punched("prflx")
        } else {
            LinkPath::Direct
        };
        // Of others than host candidates the base is the related address.
        let base = if local.related_address.is_empty() { &local.address } else { &local.related_address };
        self.traffic().set_relayed(path == LinkPath::Turn);
        *self.way() = Way { path, remote: format!("{}:{}", remote.address, remote.port), local: base.parse().ok() };
    }

    /// Whether this machine still has the address that the path begins at.
    pub(crate) fn is_at_home(&self) -> bool {
        self.way().local.is_some_and(peerloom_core::interfaces::is_own)
    }
}

fn too_many_lanes() -> Error {
    Error::new(ErrorKind::Overloaded, "webrtc", "open a channel", "the link has as many data channels as it may")
}

/// A peer connection in use. Dropping it closes it.
pub(crate) struct WebRtcLink(pub(crate) Arc<Shared>);

#[async_trait]
impl Link for WebRtcLink {
    /// The device's key isn't in DTLS: the handshake proves it.
    fn remote_key(&self) -> Option<PublicKey> {
        None
    }

    fn channel_binding(&self) -> Result<[u8; 32]> {
        let unknown = || Error::new(ErrorKind::Closed, "webrtc", "bind", "the connection isn't made yet");
        self.0.binding.get().copied().ok_or_else(unknown)
    }

    fn admit(&self) {
        self.0.admit();
    }

    async fn open(&self, class: ChannelClass) -> Result<Channel> {
        if let Some(error) = &*self.0.ended.borrow() {
            return Err(error.clone());
        }
        loop {
            let free = self.0.lanes().iter().find_map(|lane| lane.open(class, &self.0.group));
            if let Some(channel) = free {
                return Ok(channel);
            }
            // Another task may take it meanwhile; then once more.
            let lane = self.0.new_lane().await?;
            let late = |_| Error::new(ErrorKind::Timeout, "webrtc", "open a channel", "the other side doesn't answer");
            tokio::select! {
                opened = tokio::time::timeout(OPENING, lane.opened()) => opened.map_err(late)?,
                error = self.0.ended() => return Err(error),
            }
        }
    }

    async fn accept(&self) -> Result<Channel> {
        let mut waiting = self.0.waiting.lock().await;
        tokio::select! {
            biased;
            error = self.0.ended() => Err(error),
            waiting = waiting.recv() => {
                Ok(self.0.group.accept(waiting.ok_or_else(|| closed("the link is over"))?))
            }
        }
    }

    fn remote_address(&self) -> String {
        self.0.way().remote.clone()
    }

    fn path(&self) -> LinkPath {
        self.0.way().path
    }

    fn stats(&self) -> LinkStats {
        self.0.traffic().stats()
    }

    fn close(&self, reason: &str) {
        self.0.end(closed(&format!("closed: {reason}")));
    }

    async fn closed(&self) -> Error {
        self.0.ended().await
    }
}

impl Drop for WebRtcLink {
    fn drop(&mut self) {
        self.close("dropped");
    }
}

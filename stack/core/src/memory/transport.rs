//! Links between nodes of one process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::SinkExt;
use peerloom_wire::{Address, PublicKey};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::PollSender;

use crate::sync::lock;
use crate::{
    Channel, ChannelClass, Error, ErrorKind, FrameReceiver, FrameSender, Link, LinkStats, Listener, Result, Signaling,
    Transport, TransportCaps,
};

/// Links that wait to be accepted, and channels on a link.
const BACKLOG: usize = 16;
/// Frames in flight on one channel.
const FRAMES: usize = 16;
/// Unread bytes of a link, and channels opened by the other side, until it is admitted.
const FOR_STRANGERS: usize = 64 * 1024;
const CHANNELS_FIRST: usize = 2;

/// Where all [`MemoryTransport`]s of a test meet.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<NetworkState>);

#[derive(Default)]
struct NetworkState {
    /// By the addresses with which the transports were made.
    listeners: Mutex<HashMap<Address, (PublicKey, mpsc::Sender<Arc<dyn Link>>)>>,
    links: AtomicU64,
    /// How often all have moved.
    moves: AtomicU64,
}

impl MemoryNetwork {
    /// Moves all transports to other addresses, as a machine whose addresses change.
    pub fn move_on(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Where a transport that was made with this address is now.
    fn place(&self, made_with: &Address) -> Option<Address> {
        match self.0.moves.load(Ordering::Relaxed) {
            0 => Some(made_with.clone()),
            moves => format!("{made_with}.{moves}").parse().ok(),
        }
    }
}

/// A transport whose addresses are `memory://name` on a [`MemoryNetwork`]. It counts as secured:
/// nobody else is on the wire.
pub struct MemoryTransport {
    network: MemoryNetwork,
    address: Address,
    key: PublicKey,
    closed: watch::Sender<bool>,
}

impl MemoryTransport {
    /// A transport that listens at `address` with the device key `key`.
    pub fn new(network: &MemoryNetwork, address: Address, key: PublicKey) -> Self {
        Self { network: network.clone(), address, key, closed: watch::Sender::new(false) }
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn scheme(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> TransportCaps {
        TransportCaps {
            authenticates: true,
            nat_traversal: false,
            needs_signaling: false,
            max_frame: peerloom_wire::limits::CHAT_FRAME,
        }
    }

    async fn listen(&self, _signaling: Option<Arc<dyn Signaling>>) -> Result<Box<dyn Listener>> {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        lock(&self.network.0.listeners).insert(self.address.clone(), (self.key.clone(), sender));
        let (network, address) = (self.network.clone(), self.address.clone());
        Ok(Box::new(MemoryListener { network, address, incoming, closed: self.closed.subscribe() }))
    }

    async fn dial(
        &self,
        address: &Address,
        expected: Option<&PublicKey>,
        _signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>> {
        let error = |kind, message: &str| Error::new(kind, "memory", "dial", message);
        let there = |made_with: &Address| self.network.place(made_with).as_ref() == Some(address);
        let found = lock(&self.network.0.listeners)
            .iter()
            .find(|(made_with, _)| there(made_with))
            .map(|(_, found)| found.clone());
        let (key, listener) = found.ok_or_else(|| error(ErrorKind::Unreachable, "nobody listens at this address"))?;
        if expected.is_some_and(|expected| *expected != key) {
            return Err(error(ErrorKind::Unauthenticated, "another device listens at this address"));
        }
        let number = self.network.0.links.fetch_add(1, Ordering::Relaxed);
        let binding: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
        let (near, far) = MemoryLink::pair(binding, self.key.clone(), key, self.closed.subscribe());
        let gone = |_| error(ErrorKind::Unreachable, "the listener at this address is gone");
        listener.send(Arc::new(far)).await.map_err(gone)?;
        Ok(Arc::new(near))
    }

    async fn shutdown(&self) {
        lock(&self.network.0.listeners).remove(&self.address);
        self.closed.send_replace(true);
    }
}

struct MemoryListener {
    network: MemoryNetwork,
    address: Address,
    incoming: mpsc::Receiver<Arc<dyn Link>>,
    closed: watch::Receiver<bool>,
}

#[async_trait]
impl Listener for MemoryListener {
    fn addresses(&self) -> Vec<Address> {
        self.network.place(&self.address).into_iter().collect()
    }

    async fn accept(&mut self) -> Option<Arc<dyn Link>> {
        tokio::select! {
            link = self.incoming.recv() => link,
            _ = self.closed.wait_for(|closed| *closed) => None,
        }
    }
}

struct MemoryLink {
    binding: [u8; 32],
    remote: PublicKey,
    channels: mpsc::Sender<Channel>,
    accepted: AsyncMutex<mpsc::Receiver<Channel>>,
    /// What this end takes in, and what the far one does.
    here: Intake,
    there: Intake,
    /// Why the link was closed, by either end.
    closed: watch::Sender<Option<String>>,
    /// Whether the dialing transport was shut down.
    transport_closed: watch::Receiver<bool>,
}

/// What one end takes in until it admits the other. The semaphores are closed by that.
#[derive(Clone)]
struct Intake {
    bytes: Arc<Semaphore>,
    channels: Arc<Semaphore>,
    /// All bytes so far.
    carried: Arc<AtomicU64>,
}

/// A frame on its way, with what it holds of the receiver's intake.
type Sent = (Bytes, Option<OwnedSemaphorePermit>);

impl Intake {
    fn new() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { bytes: semaphore(FOR_STRANGERS), channels: semaphore(CHANNELS_FIRST), carried: Arc::default() }
    }

    fn open(&self) {
        self.bytes.close();
        self.channels.close();
    }

    async fn frame(&self, frame: Bytes) -> Sent {
        let size = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let room = self.bytes.clone().acquire_many_owned(size).await.ok();
        self.carried.fetch_add(size.into(), Ordering::Relaxed);
        (frame, room)
    }

    async fn channel(&self) {
        if let Ok(permit) = self.channels.acquire().await {
            permit.forget();
        }
    }
}

impl MemoryLink {
    fn pair(
        binding: [u8; 32],
        near_key: PublicKey,
        far_key: PublicKey,
        transport_closed: watch::Receiver<bool>,
    ) -> (Self, Self) {
        let (near_channels, far_accepted) = mpsc::channel(BACKLOG);
        let (far_channels, near_accepted) = mpsc::channel(BACKLOG);
        let closed = watch::Sender::new(None);
        let (near, far) = (Intake::new(), Intake::new());
        let link = |remote, channels, accepted, here: &Intake, there: &Intake| Self {
            binding,
            remote,
            channels,
            accepted: AsyncMutex::new(accepted),
            here: here.clone(),
            there: there.clone(),
            closed: closed.clone(),
            transport_closed: transport_closed.clone(),
        };
        (
            link(far_key, near_channels, near_accepted, &near, &far),
            link(near_key, far_channels, far_accepted, &far, &near),
        )
    }
}

fn closed_error(reason: &str) -> Error {
    Error::new(ErrorKind::Closed, "memory", "link", format!("closed: {reason}"))
}

/// Ends with the link.
fn frames(receiver: mpsc::Receiver<Sent>, closed: watch::Receiver<Option<String>>) -> FrameReceiver {
    let frames = futures_util::stream::unfold((receiver, closed), |(mut receiver, mut closed)| async move {
        let next = tokio::select! {
            biased;
            frame = receiver.recv() => frame.map(|(frame, _)| Ok(frame)),
            reason = closed.wait_for(Option::is_some) => {
                let reason = reason.ok().and_then(|r| r.clone()).unwrap_or_default();
                Some(Err(closed_error(&reason)))
            }
        };
        next.map(|frame| (frame, (receiver, closed)))
    });
    Box::pin(frames)
}

fn sink(sender: mpsc::Sender<Sent>, class: ChannelClass, intake: Intake) -> FrameSender {
    let sink = PollSender::new(sender).sink_map_err(|_| closed_error("by the other side"));
    Box::pin(sink.with(move |frame: Bytes| {
        let intake = intake.clone();
        async move {
            if frame.len() > class.max_frame() {
                let message = "the frame is longer than its class allows";
                return Err(Error::new(ErrorKind::TooLarge, "memory", "send", message));
            }
            Ok(intake.frame(frame).await)
        }
    }))
}

#[async_trait]
impl Link for MemoryLink {
    fn remote_key(&self) -> Option<PublicKey> {
        Some(self.remote.clone())
    }

    fn channel_binding(&self) -> Result<[u8; 32]> {
        Ok(self.binding)
    }

    fn admit(&self) {
        self.here.open();
    }

    async fn open(&self, class: ChannelClass) -> Result<Channel> {
        if let Some(reason) = &*self.closed.borrow() {
            return Err(closed_error(reason));
        }
        tokio::select! {
            () = self.there.channel() => {}
            error = self.closed() => return Err(error),
        }
        let (near_sender, far_receiver) = mpsc::channel(FRAMES);
        let (far_sender, near_receiver) = mpsc::channel(FRAMES);
        let channel = |sender, receiver, intake: &Intake| Channel {
            class,
            sender: sink(sender, class, intake.clone()),
            receiver: frames(receiver, self.closed.subscribe()),
        };
        let far = channel(far_sender, far_receiver, &self.here);
        self.channels.send(far).await.map_err(|_| closed_error("by the other side"))?;
        Ok(channel(near_sender, near_receiver, &self.there))
    }

    async fn accept(&self) -> Result<Channel> {
        let mut accepted = self.accepted.lock().await;
        tokio::select! {
            channel = accepted.recv() => channel.ok_or_else(|| closed_error("by the other side")),
            error = self.closed() => Err(error),
        }
    }

    fn remote_address(&self) -> String {
        "memory".into()
    }

    fn stats(&self) -> LinkStats {
        LinkStats {
            rtt_us: 0,
            bytes_sent: self.there.carried.load(Ordering::Relaxed),
            bytes_received: self.here.carried.load(Ordering::Relaxed),
        }
    }

    fn close(&self, reason: &str) {
        // Nobody waits for room any more.
        self.here.open();
        self.there.open();
        self.closed.send_if_modified(|closed| {
            let open = closed.is_none();
            closed.get_or_insert_with(|| reason.into());
            open
        });
    }

    async fn closed(&self) -> Error {
        let mut closed = self.closed.subscribe();
        let mut transport = self.transport_closed.clone();
        tokio::select! {
            reason = closed.wait_for(Option::is_some) => {
                closed_error(reason.ok().and_then(|r| r.clone()).unwrap_or_default().as_str())
            }
            () = shut_down(&mut transport) => {
                self.close("the transport was shut down");
                closed_error("the transport was shut down")
            }
        }
    }
}

/// Completes when a transport is shut down; dropping it leaves its links alone.
async fn shut_down(closed: &mut watch::Receiver<bool>) {
    if closed.wait_for(|closed| *closed).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.close("dropped");
    }
}

//! A stream transport as a transport.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use peerloom_core::windows::{Window, Windows};
use peerloom_core::wire::{Address, DeviceId, PublicKey, limits};
use peerloom_core::{
    Admission, ByteStream, DeviceSecret, Error, ErrorKind, Link, Listener, Places, Result, Retry, Signaling, Source,
    Standing, StreamListener, StreamTransport, Transport, TransportCaps,
};
use peerloom_crypto_primitives::SigningKey;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::link::{LEAST_WINDOW, SecuredLink, Side};
use crate::noise::{self, Identity};
use crate::traffic::{Counted, Traffic};

/// How long a dial or a handshake may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the links' ends may take at a shutdown.
const LINGER: Duration = Duration::from_secs(1);
/// Handshakes that run at once, and of one address; the oldest gives way to a newer one.
const HANDSHAKES: usize = 64;
const HANDSHAKES_OF_ONE: usize = 32;
/// Links that may wait to be accepted.
const WAITING: usize = 64;

/// Secures the streams of a transport that doesn't itself.
pub struct Secured {
    inner: Arc<dyn StreamTransport>,
    own: Arc<Identity>,
    windows: Windows,
    /// Set by an engine.
    admission: Arc<OnceLock<Arc<dyn Admission>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Secured {
    /// Over these streams, as the device with this key.
    pub fn new(inner: Arc<dyn StreamTransport>, secret: &DeviceSecret) -> Result<Self> {
        let own = Arc::new(Identity::new(&SigningKey::from_seed(secret.expose()))?);
        let (windows, admission) = (Windows::new(LEAST_WINDOW), Arc::default());
        Ok(Self { inner, own, windows, admission, stop: CancellationToken::new(), tasks: TaskTracker::new() })
    }

    fn handshakes(&self) -> Handshakes {
        Handshakes {
            own: self.own.clone(),
            windows: self.windows.clone(),
            admission: self.admission.clone(),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        }
    }
}

/// What it takes to make a link of a stream.
#[derive(Clone)]
struct Handshakes {
    own: Arc<Identity>,
    windows: Windows,
    admission: Arc<OnceLock<Arc<dyn Admission>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Handshakes {
    async fn dialed(
        &self,
        stream: Box<dyn ByteStream>,
        to: String,
        expected: Option<&PublicKey>,
    ) -> Result<SecuredLink> {
        let traffic = Arc::new(Traffic::default());
        let encrypted = noise::initiate(Counted { stream, traffic: traffic.clone() }, &self.own, expected).await?;
        let window = self.windows.take();
        Ok(SecuredLink::new(encrypted, traffic, Side::Dialed, to, window, self.stop.child_token(), &self.tasks))
    }

    async fn accepted(&self, stream: Box<dyn ByteStream>, from: String) -> Result<SecuredLink> {
        let traffic = Arc::new(Traffic::default());
        let encrypted = noise::respond(Counted { stream, traffic: traffic.clone() }, &self.own).await?;
        let window = self.window(&encrypted.remote_key);
        Ok(SecuredLink::new(encrypted, traffic, Side::Accepted, from, window, self.stop.child_token(), &self.tasks))
    }

    /// yamux takes the size of a link's windows once, before the link is admitted: strangers leave the shares to
    /// devices that are known.
    fn window(&self, remote: &PublicKey) -> Window {
        let standing = self.admission.get().map(|gate| gate.standing(&DeviceId::from_key(remote)));
        match standing {
            None | Some(Standing::Known) => self.windows.take(),
            Some(Standing::Stranger | Standing::Unwelcome) => self.windows.least(),
        }
    }
}

#[async_trait]
impl Transport for Secured {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    fn caps(&self) -> TransportCaps {
        TransportCaps {
            authenticates: true,
            nat_traversal: false,
            needs_signaling: false,
            max_frame: limits::CHAT_FRAME,
        }
    }

    fn set_admission(&self, admission: Arc<dyn Admission>) {
        // An engine sets it once.
        let _ = self.admission.set(admission);
    }

    async fn listen(&self, _signaling: Option<Arc<dyn Signaling>>) -> Result<Box<dyn Listener>> {
        let listener: Arc<dyn StreamListener> = self.inner.listen().await?.into();
        let (links, accepted) = mpsc::channel(WAITING);
        self.tasks.spawn(accept(listener.clone(), self.handshakes(), links));
        Ok(Box::new(SecuredListener { listener, links: accepted }))
    }

    async fn dial(
        &self,
        address: &Address,
        expected: Option<&PublicKey>,
        _signaling: Option<Arc<dyn Signaling>>,
    ) -> Result<Arc<dyn Link>> {
        let dial = async {
            let stream = self.inner.dial(address).await?;
            self.handshakes().dialed(stream, address.to_string(), expected).await
        };
        let late = |_| {
            let message = format!("{address}: nobody answers; is the other node running, and its port open?");
            Error::new(ErrorKind::Unreachable, "secured", "dial", message).with_retry(Retry::Later)
        };
        Ok(Arc::new(timeout(TIMEOUT, dial).await.map_err(late)??))
    }

    async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = timeout(LINGER, self.tasks.wait()).await;
    }
}

/// Takes in streams until the transport ends or nobody wants links any more.
async fn accept(listener: Arc<dyn StreamListener>, handshakes: Handshakes, links: mpsc::Sender<Arc<dyn Link>>) {
    let places = Places::new(HANDSHAKES, HANDSHAKES_OF_ONE);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = links.closed() => None,
            () = handshakes.stop.cancelled() => None,
        };
        let Some((stream, from)) = accepted else { return };
        let place = places.take(Source::from(from.as_str()));
        let (links, handshakes) = (links.clone(), handshakes.clone());
        tokio::spawn(async move {
            let accepted = tokio::select! {
                accepted = timeout(TIMEOUT, handshakes.accepted(stream, from.clone())) => accepted,
                () = place.lost() => return debug!(%from, "a handshake gave way to a newer one"),
            };
            match accepted {
                // Its key is known: from here on the engine decides.
                Ok(Ok(link)) => tokio::select! {
                    _ = links.send(Arc::new(link)) => {}
                    () = place.lost() => debug!(%from, "the node is busy; closed a new link"),
                },
                Ok(Err(error)) => debug!(%from, %error, "a handshake failed"),
                Err(_) => debug!(%from, "a handshake took too long"),
            }
        });
    }
}

struct SecuredListener {
    listener: Arc<dyn StreamListener>,
    links: mpsc::Receiver<Arc<dyn Link>>,
}

#[async_trait]
impl Listener for SecuredListener {
    fn addresses(&self) -> Vec<Address> {
        self.listener.addresses()
    }

    async fn accept(&mut self) -> Option<Arc<dyn Link>> {
        self.links.recv().await
    }
}

#[cfg(test)]
mod tests {
    use peerloom_core::ChannelClass;
    use peerloom_core::memory::MemoryStreams;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn handshakes(seed: u8) -> (Handshakes, PublicKey) {
        let key = SigningKey::from_seed(&[seed; 32]);
        let secured =
            Secured::new(Arc::new(MemoryStreams::default()), &DeviceSecret::new([seed; 32])).expect("a transport");
        (secured.handshakes(), key.public().clone())
    }

    async fn pair() -> (SecuredLink, SecuredLink) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let ((dialer, _), (listener, key)) = (handshakes(1), handshakes(2));
        let (near, far) = tokio::join!(
            dialer.dialed(Box::new(near), "far".into(), Some(&key)),
            listener.accepted(Box::new(far), "near".into())
        );
        (near.expect("a link"), far.expect("a link"))
    }

    /// Passes bytes on, with one of them changed.
    async fn flip(mut from: tokio::io::ReadHalf<DuplexStream>, mut to: tokio::io::WriteHalf<DuplexStream>, at: usize) {
        let (mut seen, mut buffer) = (0, [0; 4096]);
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if (seen..seen + read).contains(&at) {
                buffer[at - seen] ^= 1;
            }
            seen += read;
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn every_changed_byte_of_a_handshake_is_noticed() {
        // The responder's only message, and all but the first of the initiator's two.
        for (to_dialer, at) in [true, false].into_iter().flat_map(|side| (0..194).step_by(7).map(move |at| (side, at)))
        {
            let (near, middle_near) = tokio::io::duplex(4096);
            let (far, middle_far) = tokio::io::duplex(4096);
            let (near_read, near_write) = tokio::io::split(middle_near);
            let (far_read, far_write) = tokio::io::split(middle_far);
            tokio::spawn(flip(near_read, far_write, if to_dialer { usize::MAX } else { at }));
            tokio::spawn(flip(far_read, near_write, if to_dialer { at } else { usize::MAX }));
            let ((dialer, _), (listener, key)) = (handshakes(1), handshakes(2));
            let dial = timeout(Duration::from_millis(200), dialer.dialed(Box::new(near), "far".into(), Some(&key)));
            let accept = timeout(Duration::from_millis(200), listener.accepted(Box::new(far), "near".into()));
            let (near, far) = tokio::join!(dial, accept);
            let both = matches!((near, far), (Ok(Ok(_)), Ok(Ok(_))));
            assert!(!both, "byte {at} was changed, and nobody noticed");
        }
    }

    #[tokio::test]
    async fn a_changed_byte_ends_the_link() {
        let (near, middle) = tokio::io::duplex(64 * 1024);
        let (far, end) = tokio::io::duplex(64 * 1024);
        let (middle_read, middle_write) = tokio::io::split(middle);
        let (end_read, end_write) = tokio::io::split(end);
        tokio::spawn(flip(middle_read, end_write, 5000));
        tokio::spawn(flip(end_read, middle_write, usize::MAX));
        let ((dialer, _), (listener, key)) = (handshakes(1), handshakes(2));
        let (near, far) = tokio::join!(
            dialer.dialed(Box::new(near), "far".into(), Some(&key)),
            listener.accepted(Box::new(far), "near".into())
        );
        let (near, far) = (near.expect("a link"), far.expect("a link"));
        let mut channel = near.open(ChannelClass::Chat).await.expect("a channel");
        let frame = bytes::Bytes::from(vec![1; 16 * 1024]);
        let _ = futures_util::SinkExt::send(&mut channel.sender, frame).await;
        assert_eq!(timeout(TIMEOUT, far.closed()).await.expect("an end").kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn a_stranger_can_send_little_before_the_link_is_admitted() {
        let (near, far) = pair().await;
        let mut channel = near.open(ChannelClass::Control).await.expect("a channel");
        let flood = async {
            let frame = bytes::Bytes::from(vec![1; 8 * 1024]);
            while futures_util::SinkExt::send(&mut channel.sender, frame.clone()).await.is_ok() {}
        };
        let _ = timeout(Duration::from_millis(500), flood).await;
        // One read may overshoot.
        assert!(far.stats().bytes_received < 256 * 1024, "{} bytes were taken in", far.stats().bytes_received);
        let before = far.stats().bytes_received;
        far.admit();
        let mut control = far.accept().await.expect("a channel");
        let frame = timeout(TIMEOUT, futures_util::StreamExt::next(&mut control.receiver)).await;
        assert!(frame.is_ok_and(|f| f.is_some_and(|f| f.is_ok())));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(far.stats().bytes_received > before, "the rest follows");
    }

    struct Gate(Standing);

    impl Admission for Gate {
        fn standing(&self, _device: &DeviceId) -> Standing {
            self.0
        }
    }

    /// A link from one to another.
    async fn link((dialer, listener): (&Handshakes, &Handshakes)) -> (SecuredLink, SecuredLink) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let dial = dialer.dialed(Box::new(near), "far".into(), None);
        let (near, far) = tokio::join!(dial, listener.accepted(Box::new(far), "near".into()));
        (near.expect("a link"), far.expect("a link"))
    }

    #[tokio::test]
    async fn what_links_hold_unread_has_a_sum() {
        let ((dialer, _), (listener, _)) = (handshakes(1), handshakes(2));
        assert!(listener.admission.set(Arc::new(Gate(Standing::Stranger))).is_ok());
        let mut strangers = Vec::new();
        for _ in 0..40 {
            strangers.push(link((&dialer, &listener)).await);
        }
        // Not a single one of all that has taken from what known devices share.
        assert_eq!(listener.windows.take().bytes(), peerloom_core::windows::MOST);
        // Admitted, such a link holds what it is granted, however many channels are filled.
        let (near, far) = strangers.remove(0);
        near.admit();
        far.admit();
        let mut filled = 0;
        let fill = async {
            while let Ok(mut channel) = near.open(ChannelClass::Bulk).await {
                filled += 1;
                let frame = bytes::Bytes::from(vec![1; 32 * 1024]);
                let flood =
                    async { while futures_util::SinkExt::send(&mut channel.sender, frame.clone()).await.is_ok() {} };
                let _ = timeout(Duration::from_millis(100), flood).await;
                std::mem::forget(channel);
            }
        };
        assert!(timeout(TIMEOUT, fill).await.is_ok(), "any number of channels may be opened");
        let held = far.stats().bytes_received;
        assert!(filled > 2 && held < u64::from(LEAST_WINDOW) * 3 / 2, "{filled} channels hold {held} bytes");

        // Devices that are known share a sum, which comes back.
        let known = handshakes(2).0;
        assert!(known.admission.set(Arc::new(Gate(Standing::Known))).is_ok());
        let mut links = Vec::new();
        for _ in 0..40 {
            links.push(link((&dialer, &known)).await);
        }
        assert!(known.windows.take().bytes() < 2 * LEAST_WINDOW, "40 links have left all of it");
        drop(links);
        assert_eq!(known.windows.take().bytes(), peerloom_core::windows::MOST);
    }

    #[tokio::test]
    async fn the_wrong_device_learns_nothing_of_the_dialer() {
        let (near, mut far) = tokio::io::duplex(4096);
        let ((dialer, own), (listener, _)) = (handshakes(1), handshakes(2));
        let wrong = handshakes(3).1;
        let relay = async {
            // The listener's side by hand, to see all that the dialer says.
            let (mut inner, outer) = tokio::io::duplex(4096);
            let answering = tokio::spawn(async move { listener.accepted(Box::new(outer), "x".into()).await.map(drop) });
            let mut said = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                tokio::select! {
                    read = far.read(&mut buffer) => match read {
                        Ok(0) | Err(_) => break,
                        Ok(read) => { said.extend_from_slice(&buffer[..read]); let _ = inner.write_all(&buffer[..read]).await; }
                    },
                    read = async { let mut b = [0; 4096]; inner.read(&mut b).await.map(|n| b[..n].to_vec()) } => match read {
                        Ok(bytes) if !bytes.is_empty() => { let _ = far.write_all(&bytes).await; }
                        _ => break,
                    },
                }
            }
            drop(inner);
            let _ = answering.await;
            said
        };
        let (dialed, said) = tokio::join!(dialer.dialed(Box::new(near), "far".into(), Some(&wrong)), relay);
        assert_eq!(dialed.map(drop).unwrap_err().kind(), ErrorKind::Unauthenticated);
        assert_eq!(said.len(), 2 + 32, "only an ephemeral key was said");
        assert!(!said.windows(8).any(|part| own.as_bytes().windows(8).any(|key| key == part)));
    }
}

//! Links made by hand: one offer and one answer, carried by people.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use peerloom_core::signaling::received;
use peerloom_core::wire::{Address, DeviceId, SessionId, Signed};
use peerloom_core::{Error, ErrorKind, IceServer, Result, Signal, Signaling, SignalingCaps};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::{Shared, SignalingRouter, dialer, handshake, link};

/// How long a transport may gather all its candidates.
pub(super) const GATHERING: Duration = Duration::from_secs(20);
/// How long a link may take once the answer is here.
const CONNECTING: Duration = Duration::from_secs(30);
/// How long people may take to carry the offer there and the answer back.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// An offer that waits for its answer. Dropping it gives the attempt up.
pub(crate) struct Offer {
    /// For the other device, signed.
    pub(crate) signed: Signed,
    answer: mpsc::Sender<Signal>,
    attempt: JoinHandle<Result<()>>,
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.attempt.abort();
    }
}

impl Offer {
    /// Takes the other device's answer; returns once the link is up. Without success the offer goes on
    /// waiting for the right one, as long as [`Offer::waits`].
    pub(crate) async fn complete(&mut self, answer: Signal) -> Result<()> {
        let over = || Error::new(ErrorKind::Closed, "engine", "connect by hand", "the offer is no longer waiting");
        self.answer.send(answer).await.map_err(|_| over())?;
        let message = "no link comes of this answer; is it the one to the last offer? It can be tried again";
        let late = |_| Error::new(ErrorKind::Timeout, "engine", "connect by hand", message);
        tokio::time::timeout(CONNECTING, &mut self.attempt).await.map_err(late)?.map_err(|_| over())?
    }

    /// Whether an answer can still be taken.
    pub(crate) fn waits(&self) -> bool {
        !self.attempt.is_finished()
    }
}

/// Takes an offer that its user carried here, and returns the answer.
pub(super) async fn answer(shared: &Shared, offer: &Signal) -> Result<Signed> {
    let (sender, mut said) = mpsc::channel(1);
    let servers = shared.signals.ice_servers().await;
    let fail = |kind, message: &str| Error::new(kind, "engine", "connect by hand", message);
    let mut last =
        fail(ErrorKind::Invalid, "no transport of this node takes offers by hand; add one such as webrtc to the file");
    for transport in shared.transports.iter().filter(|t| t.caps().needs_signaling) {
        let signer = shared.signals.clone();
        let signaling = Manual { signer, signed: sender.clone(), answers: Mutex::new(None), servers: servers.clone() };
        match transport.answer(offer, Arc::new(signaling)) {
            Ok(()) => {
                let silent = "the offer isn't answered in time; run `peerloom doctor`";
                let answer = tokio::time::timeout(GATHERING, said.recv()).await;
                return answer.ok().flatten().ok_or_else(|| fail(ErrorKind::Timeout, silent));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes an offer for a contact's device, with the first transport that takes signals.
pub(super) async fn offer(shared: Arc<Shared>, device: DeviceId) -> Result<Offer> {
    let fail = |kind, message: &str| Error::new(kind, "engine", "connect by hand", message);
    let transport = shared.transports.iter().find(|t| t.caps().needs_signaling).cloned().ok_or_else(|| {
        fail(ErrorKind::Invalid, "no transport of this node takes offers by hand; add one such as webrtc to the file")
    })?;
    let key = shared.contacts.key(&device);
    let key = key.ok_or_else(|| fail(ErrorKind::NotFound, "the device's certificate is damaged"))?;
    let address: Address = format!("{}://{device}", transport.scheme()).parse()?;
    let (sender, mut offers) = mpsc::channel(1);
    let (answer, answers) = mpsc::channel(1);
    let servers = shared.signals.ice_servers().await;
    let signer = shared.signals.clone();
    let signaling = Arc::new(Manual { signer, signed: sender, answers: Mutex::new(Some(answers)), servers });
    let attempt = tokio::spawn(async move {
        let link = transport.dial(&address, Some(&key), Some(signaling)).await?;
        match handshake::initiate(&shared, &link, device).await {
            Ok(ready) => {
                tokio::spawn(link::run(shared.clone(), link, ready, None));
                dialer::wait_registered(&shared, &device).await;
                Ok(())
            }
            Err(error) => {
                link.close("the handshake failed");
                Err(error)
            }
        }
    });
    match tokio::time::timeout(GATHERING, offers.recv()).await {
        Ok(Some(signed)) => Ok(Offer { signed, answer, attempt }),
        // The dial ended before it made an offer.
        Ok(None) => Err(match attempt.await {
            Ok(Err(error)) => error,
            _ => fail(ErrorKind::Internal, "the transport made no offer"),
        }),
        Err(_) => {
            attempt.abort();
            Err(fail(ErrorKind::Timeout, "the transport found no candidates in time; run `peerloom doctor`"))
        }
    }
}

/// One offer out, one answer in.
struct Manual {
    signer: Arc<SignalingRouter>,
    signed: mpsc::Sender<Signed>,
    answers: Mutex<Option<mpsc::Receiver<Signal>>>,
    servers: Vec<IceServer>,
}

#[async_trait]
impl Signaling for Manual {
    fn caps(&self) -> SignalingCaps {
        SignalingCaps { trickles: false, patience: PATIENCE }
    }

    async fn send(&self, to: DeviceId, session: SessionId, payload: Bytes) -> Result<()> {
        let taken = |_| Error::new(ErrorKind::Closed, "engine", "connect by hand", "one offer was made already");
        self.signed.try_send(self.signer.sign_manual(to, session, payload)?).map_err(taken)
    }

    fn receive(&self) -> BoxStream<'static, Signal> {
        let answers = self.answers.try_lock().ok().and_then(|mut answers| answers.take());
        answers.map_or_else(|| stream::empty().boxed(), received)
    }

    async fn ice_servers(&self) -> Vec<IceServer> {
        self.servers.clone()
    }
}

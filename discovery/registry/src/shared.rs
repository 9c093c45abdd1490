//! What the parts of the client share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerloom_core::backoff::Backoff;
use peerloom_core::sync::lock;
use peerloom_core::wire::{DeviceId, NetworkId, Signed};
use peerloom_core::{Carried, DeviceSigner, Error, ErrorKind, Result};
use peerloom_registry_protocol::http::{Announce, Announced};
use peerloom_registry_protocol::proof::Work;
use peerloom_registry_protocol::{code, limits};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::RegistryConfig;
use crate::cache::Cache;
use crate::health::{Health, Part};
use crate::http::{Answer, Caller};
use crate::items::Items;
use crate::pause::Pause;

/// The first wait after an announcement over HTTP failed.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// After a look-up failed, none is made for this part of an answer's lifetime; then for twice as long.
const PAUSE: u32 = 6;
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 60);
/// Signals that wait for one receiver; beyond, the newest are dropped.
const RECEIVED: usize = 64;

/// The client's state.
pub(crate) struct Shared {
    pub(crate) config: RegistryConfig,
    pub(crate) network: NetworkId,
    pub(crate) device: DeviceId,
    pub(crate) signer: DeviceSigner,
    pub(crate) caller: Caller,
    pub(crate) health: Health,
    /// This device's newest record.
    pub(crate) record: watch::Sender<Option<Signed>>,
    /// The record that the registry has, as far as is known.
    announced: Mutex<Option<Signed>>,
    /// Held while a record is being announced over HTTP.
    announcing: tokio::sync::Mutex<()>,
    attempts: Mutex<Attempts>,
    /// This device's other items.
    pub(crate) items: Mutex<Items>,
    /// Held while items are being published.
    pub(crate) publishing: tokio::sync::Mutex<()>,
    /// When items are published again after that failed.
    pub(crate) item_pause: Mutex<Pause>,
    /// What the registry answered.
    pub(crate) cache: Mutex<Cache>,
    /// When look-ups are made again after one failed.
    pub(crate) pause: Mutex<Pause>,
    pub(crate) status: watch::Sender<Status>,
    /// Where signals go while there is a socket.
    outbox: Mutex<Option<mpsc::Sender<Outgoing>>>,
    receivers: Mutex<Vec<mpsc::Sender<Carried>>>,
    /// The work that the registry wanted last, in bits, and the one that was done.
    work_bits: AtomicU32,
    work_done: Mutex<Option<(Signed, u32, u64)>>,
    /// Counts changes of the machine's addresses.
    pub(crate) network_changes: watch::Sender<u64>,
    pub(crate) closing: CancellationToken,
}

/// A signal on its way out.
pub(crate) struct Outgoing {
    pub(crate) to: DeviceId,
    pub(crate) payload: String,
    pub(crate) answer: oneshot::Sender<Result<()>>,
}

/// How it went with announcing over HTTP.
struct Attempts {
    /// The record that the registry didn't take, and why: trying again doesn't help.
    refused: Option<(Signed, Error)>,
    pause: Pause,
}

/// How it stands with the socket.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    pub(crate) connected: bool,
    /// How many attempts have ended, well or not.
    pub(crate) attempts: u64,
    /// Why the registry doesn't want this device, if that is so.
    pub(crate) refused: Option<Error>,
}

impl Shared {
    pub(crate) fn new(config: RegistryConfig, network: NetworkId, signer: DeviceSigner, caller: Caller) -> Arc<Self> {
        let cache = config.cache.0;
        Arc::new(Self {
            cache: Mutex::new(Cache::new(cache)),
            pause: Mutex::new(Pause::new(Backoff::new(cache / PAUSE, LONGEST_PAUSE))),
            config,
            network,
            device: signer.device(),
            signer,
            caller,
            health: Health::default(),
            record: watch::Sender::new(None),
            announced: Mutex::default(),
            announcing: tokio::sync::Mutex::default(),
            attempts: Mutex::new(Attempts { refused: None, pause: Pause::new(Backoff::new(FIRST_WAIT, LONGEST_WAIT)) }),
            items: Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            item_pause: Mutex::new(Pause::new(Backoff::new(FIRST_WAIT, LONGEST_WAIT))),
            status: watch::Sender::default(),
            outbox: Mutex::default(),
            receivers: Mutex::default(),
            work_bits: AtomicU32::new(0),
            work_done: Mutex::default(),
            network_changes: watch::Sender::default(),
            closing: CancellationToken::new(),
        })
    }

    /// The registry is back: what it didn't answer may be asked for again.
    pub(crate) fn recovered(&self) {
        lock(&self.cache).recovered();
        lock(&self.pause).reset();
    }

    /// The machine's addresses changed: what failed may work now, and a registry that couldn't be reached may
    /// know more.
    pub(crate) fn network_changed(&self) {
        self.recovered();
        lock(&self.cache).forget_misses();
        self.retry_announcing();
        self.network_changes.send_modify(|changes| *changes += 1);
    }

    /// The record to announce, unless the registry has it.
    fn to_announce(&self) -> Option<Signed> {
        let newest = self.record.borrow().clone();
        newest.filter(|record| lock(&self.announced).as_ref() != Some(record))
    }

    /// Whether the newest record is to be announced now.
    pub(crate) fn announcement_is_due(&self) -> bool {
        let attempts = lock(&self.attempts);
        let refused = attempts.refused.as_ref().map(|(record, _)| record);
        attempts.pause.is_over() && self.to_announce().is_some_and(|record| refused != Some(&record))
    }

    /// Notes which record the registry has.
    pub(crate) fn has_announced(&self, record: Option<Signed>) {
        match record {
            Some(_) => {
                self.retry_announcing();
                self.health.works(Part::Record, &self.caller.name);
            }
            None => lock(&self.items).reopen(),
        }
        *lock(&self.announced) = record;
    }

    /// What was refused may be taken now.
    pub(crate) fn retry_announcing(&self) {
        let mut attempts = lock(&self.attempts);
        attempts.refused = None;
        attempts.pause.reset();
        lock(&self.item_pause).reset();
    }

    /// Announces the newest record over HTTP, unless the registry has it or has refused it.
    pub(crate) async fn announce(&self) -> Result<()> {
        let _one = self.announcing.lock().await;
        let Some(record) = self.to_announce() else { return Ok(()) };
        if let Some((refused, error)) = &lock(&self.attempts).refused
            && *refused == record
        {
            return Err(error.clone());
        }
        match self.post(&record).await {
            Ok(()) => {
                self.has_announced(Some(record));
                Ok(())
            }
            Err(error) => {
                self.health.failed(Part::Record, &error);
                let mut attempts = lock(&self.attempts);
                match error.kind() {
                    ErrorKind::Refused => attempts.refused = Some((record, error.clone())),
                    _ => attempts.pause.failed(self.caller.rest()),
                }
                Err(error)
            }
        }
    }

    async fn post(&self, record: &Signed) -> Result<()> {
        let path = format!("/network/{}/announce", self.network);
        for _ in 0..2 {
            let body = Announce {
                peer_id: self.device,
                signal_address: self.config.signal_address.clone(),
                capabilities: None,
                record: record.clone(),
                work: self.work(record, self.work_bits.load(Ordering::Relaxed)).await?,
                // No node knows coordinators yet.
                coordinators: Vec::new(),
            };
            match self.caller.post::<Announced>("announce", &path, &body).await? {
                Answer::Found(_) => return Ok(()),
                Answer::Failed(failure) if failure.code == code::WORK_REQUIRED => {
                    self.work_bits.store(failure.work_bits.unwrap_or_default(), Ordering::Relaxed);
                }
                Answer::Failed(failure) => return Err(self.caller.refusal("announce", &failure)),
            }
        }
        let message = format!("the registry {} takes none of the work done for it", self.caller.name);
        Err(Error::new(ErrorKind::Refused, "registry", "announce", message))
    }

    /// Does the work for a record. It depends on the record alone, and is done once.
    pub(crate) async fn work(&self, record: &Signed, bits: u32) -> Result<Option<u64>> {
        self.work_bits.store(bits, Ordering::Relaxed);
        if bits == 0 {
            return Ok(None);
        }
        if bits > limits::WORK_BITS {
            let message = format!(
                "the registry {} wants {bits} bits of work, and at most {} are done; use another registry",
                self.caller.name,
                limits::WORK_BITS
            );
            return Err(Error::new(ErrorKind::Refused, "registry", "announce", message));
        }
        if let Some((of, done, number)) = &*lock(&self.work_done)
            && of == record
            && *done >= bits
        {
            return Ok(Some(*number));
        }
        let work = Work::new(record, bits);
        let failed = || Error::new(ErrorKind::Internal, "registry", "announce", "the work couldn't be done");
        let number = tokio::task::spawn_blocking(move || work.find())
            .await
            .map_err(|e| failed().with_source(e))?
            .ok_or_else(failed)?;
        *lock(&self.work_done) = Some((record.clone(), bits, number));
        Ok(Some(number))
    }

    /// The way out, while there is a socket.
    pub(crate) fn outbox(&self) -> Option<mpsc::Sender<Outgoing>> {
        lock(&self.outbox).clone()
    }

    /// Opens or closes the way out.
    pub(crate) fn connected(&self, outbox: Option<mpsc::Sender<Outgoing>>) {
        let connected = outbox.is_some();
        *lock(&self.outbox) = outbox;
        self.status.send_modify(|status| {
            status.connected = connected;
            if connected {
                status.refused = None;
                status.attempts += 1;
            }
        });
        if connected {
            self.health.works(Part::Socket, &self.caller.name);
        }
    }

    /// Gives a signal to all who receive.
    pub(crate) fn deliver(&self, from: DeviceId, signal: Signed) {
        // A device that signals is there, and has announced itself.
        lock(&self.cache).heard(from);
        let carried = Carried { from: Some(from), signal };
        lock(&self.receivers).retain(|receiver| {
            // A full one drops this signal; only a closed one goes.
            !matches!(receiver.try_send(carried.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        });
    }

    /// Signals from now on.
    pub(crate) fn receive(&self) -> mpsc::Receiver<Carried> {
        let (sender, receiver) = mpsc::channel(RECEIVED);
        let mut receivers = lock(&self.receivers);
        receivers.retain(|receiver| !receiver.is_closed());
        if !self.closing.is_cancelled() {
            receivers.push(sender);
        }
        receiver
    }

    /// Ends everything.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        lock(&self.receivers).clear();
    }
}

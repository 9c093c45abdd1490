//! The delivery thread: the only writer of the store and the only caller of the crypto.
//!
//! It takes what waits, handles all of it in one *turn*, and hands the turn's writes to the
//! committer together with the effects of the turn, let go once they are durable. While the disk works, the next
//! turn gathers: that makes group commits and bundles without making a lone message wait.

mod accepting;
mod contact;
mod conversation;
mod damage;
mod devices;
mod effects;
mod expiry;
mod history;
mod incoming;
mod key_packages;
mod loading;
mod mending;
mod outgoing;
mod parked;
mod patience;
mod pending;
mod quarantine;
mod queue;
mod receipts;
mod recent;
mod resealing;
mod session;
mod standing;
mod state;
mod status;
#[cfg(test)]
mod testing;
mod timers;
mod transmitting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use peerloom_core::wire::store::{META, meta};
use peerloom_core::wire::{ConversationId, DeviceId, Frame, MessageId};
use peerloom_core::{Error, ErrorKind, Result, Storage};
use peerloom_delivery::Now;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{error, info};

use crate::clock::Clock;
use crate::event::Notice;
use crate::net::Held;
use crate::store::{Committer, Txn, View};

pub(crate) use effects::Effects;
use queue::{FairQueue, Lane};
pub use standing::StoreStanding;
pub(crate) use standing::{COPIED, PEER_RESTORED, RESTORED};
pub(crate) use state::{LocalIdentity, State};
pub use status::QueuedEntry;

/// Inputs, and bytes in them, handled in one turn, at most: a turn that is too long leaves the disk
/// and the links idle meanwhile.
const TURN: usize = 2048;
const TURN_BYTES: usize = 1024 * 1024;
/// Time after which a turn takes no more inputs.
const TURN_TIME: Duration = Duration::from_millis(50);
/// Bytes of messages that waited for a session, sealed in one turn beside what is accepted in it.
const SEALED_IN_A_TURN: usize = 2 * TURN_BYTES;
/// Inputs that wait for the thread.
const WAITING: usize = 2048;
/// Bytes of messages of this node's own that wait for their turn, and what each counts beside its text.
const SENDS: u32 = 8 * 1024 * 1024;
const SEND: usize = 256;
/// How long acknowledgements of others may stay unwritten: losing them costs a duplicate, no more.
const LAZY: Duration = Duration::from_millis(100);
/// How long an answer that doesn't come waits to hear why.
const ENDING: Duration = Duration::from_secs(1);
/// How often a store that failed is tried again, and how often the clock is checked.
const RECOVERY: Duration = Duration::from_secs(1);
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// How old the recorded time may be when something is written, in milliseconds.
const TIME_RECORDED_EVERY_MS: u64 = 60_000;

/// Something for the delivery thread.
pub(crate) enum Input {
    /// A message to send.
    Send(SendRequest),
    /// A frame from a device, with the number of its link and what it holds of the budgets. The link's task
    /// has checked the signatures in it.
    Frame { device: DeviceId, link: u64, frame: Box<Frame>, _held: Held },
    /// A link came up, or another one took over.
    LinkUp(DeviceId),
    /// The last link went down.
    LinkDown(DeviceId, String),
    /// Anything else.
    Call(Call),
    /// A commit failed.
    StoreFailed,
    /// Finish what was accepted and end.
    Stop(oneshot::Sender<()>),
}

impl Input {
    fn lane(&self) -> Lane {
        match self {
            // In one lane, so that a link comes up before its frames and goes down after them.
            Self::Frame { device, .. } | Self::LinkUp(device) | Self::LinkDown(device, _) => Some(*device),
            _ => None,
        }
    }

    /// The bytes that handling it moves.
    fn size(&self) -> usize {
        match self {
            Self::Send(request) => request.body.len(),
            Self::Frame { frame, .. } => match &**frame {
                Frame::Envelope(envelope) => envelope.payload.len(),
                _ => 0,
            },
            _ => 0,
        }
    }
}

/// Work for a turn, or why there is none.
type Call = Box<dyn FnOnce(Result<&mut Turn<'_>, &Error>) + Send>;

/// A message to send.
pub(crate) struct SendRequest {
    pub(crate) conversation: ConversationId,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
    pub(crate) ttl: Duration,
    pub(crate) reply: oneshot::Sender<Result<MessageId>>,
    /// Its share of what may wait, until it has its turn.
    pub(crate) room: OwnedSemaphorePermit,
}

/// The way to the delivery thread.
#[derive(Clone)]
pub(crate) struct DriverHandle {
    inputs: mpsc::Sender<Input>,
    sends: Arc<Semaphore>,
    /// Why the thread ended by itself, once it did.
    failure: Arc<OnceLock<Error>>,
}

impl DriverHandle {
    /// Waits while the thread has too much to do.
    pub(crate) async fn input(&self, input: Input) -> Result<()> {
        self.inputs.send(input).await.map_err(|_| self.ended())
    }

    /// Waits while too many bytes wait to be sent, in the order of the calls; then there is room for a message with so
    /// many.
    pub(crate) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        // One that is too long has its turn, too, to hear so.
        let share = u32::try_from(bytes.saturating_add(SEND)).unwrap_or(SENDS).min(SENDS);
        self.sends.clone().acquire_many_owned(share).await.map_err(|_| self.ended())
    }

    /// Ends the thread, and the node with it: a part of it was ended by a bug.
    pub(crate) async fn fail(&self, part: &str) {
        let error = dead(part);
        error!(%error, "the node ends");
        let _ = self.failure.set(error);
        let (done, _) = oneshot::channel();
        // Fails only where the thread has ended already.
        let _ = self.input(Input::Stop(done)).await;
    }

    /// Waits for the answer to an input.
    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<T>) -> Result<T> {
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                // The thread is ending. Once it lets go of its inputs, it is known why.
                let _ = tokio::time::timeout(ENDING, self.inputs.closed()).await;
                Err(self.ended())
            }
        }
    }

    /// Why the thread ended by itself, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    fn ended(&self) -> Error {
        let shut_down =
            || Error::new(ErrorKind::Closed, "engine", "deliver", "the node is shut down; nothing was accepted");
        self.failure().unwrap_or_else(shut_down)
    }

    /// Runs something in a turn; the answer comes once what it wrote is durable.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Turn<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        // The caller may be gone; then the answer goes nowhere.
        let run = move |turn: Result<&mut Turn<'_>, &Error>| match turn.map(|turn| (work(turn), turn)) {
            Ok((Ok(value), turn)) => {
                turn.effects.reply(move |outcome| drop(reply.send(outcome.map(|()| value))));
            }
            Ok((Err(error), _)) => drop(reply.send(Err(error))),
            Err(error) => drop(reply.send(Err(error.clone()))),
        };
        self.input(Input::Call(Box::new(run))).await?;
        self.answer(answer).await?
    }
}

/// Starts the thread.
pub(crate) fn start(mut state: State, storage: Arc<dyn Storage>, clock: Clock) -> Result<DriverHandle> {
    let (sender, inputs) = mpsc::channel(WAITING);
    let weak = sender.downgrade();
    let on_failure = move || {
        // A full queue means that a turn is coming anyway.
        if let Some(sender) = weak.upgrade() {
            let _ = sender.try_send(Input::StoreFailed);
        }
    };
    let mut view = View::new(storage.clone());
    state.load(&view.begin(0), clock.now())?;
    state.refresh_timers(clock.now());
    let committer = Committer::start(storage, on_failure)?;
    let driver = Driver {
        inputs,
        waiting: FairQueue::new(),
        state,
        view,
        committer,
        clock,
        broken: false,
        look_at_links: false,
        lazy_since: None,
        clock_checked: Duration::ZERO,
        time_recorded_ms: 0,
        other_time: false,
    };
    let failed =
        |e: std::io::Error| Error::new(ErrorKind::System, "engine", "start", "no thread can be made").with_source(e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
    let failure = Arc::new(OnceLock::new());
    let sends = Arc::new(Semaphore::new(SENDS as usize));
    let handle = DriverHandle { inputs: sender, sends, failure: failure.clone() };
    let run = move || {
        let mut driver = driver;
        let events = driver.state.events.clone();
        let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(driver.run())));
        let done = match ran.unwrap_or_else(|_| Err(dead("delivery thread"))) {
            Ok(done) => done,
            Err(error) => {
                // Known before anybody hears of the end, which the drop of the inputs is.
                error!(%error, "the node ends");
                let _ = failure.set(error);
                None
            }
        };
        // Waits for the disk and lets go of the store.
        drop(driver);
        events.send(Notice::End);
        done.map(|done| done.send(()));
    };
    std::thread::Builder::new().name("peerloom-deliver".into()).spawn(run).map_err(failed)?;
    Ok(handle)
}

/// A part of the node ended by a bug; what it held in memory can't be trusted.
fn dead(part: &str) -> Error {
    let message = format!(
        "the {part} ended by a bug; what was accepted is safe: run the node again, and report the panic in its log"
    );
    Error::new(ErrorKind::Internal, "engine", "deliver", message)
}

struct Driver {
    inputs: mpsc::Receiver<Input>,
    /// Received, and not handled yet. Its bounds are those of the budgets that frames and messages to send hold; any
    /// other call has a caller that waits for the answer.
    waiting: FairQueue<Input>,
    state: State,
    view: View,
    committer: Committer<Effects>,
    clock: Clock,
    /// The store failed and its state could not be read again yet.
    broken: bool,
    /// The store works again: what was decided and reported of links may be lost.
    look_at_links: bool,
    /// Since when changes wait that may be written later.
    lazy_since: Option<Duration>,
    clock_checked: Duration,
    /// The time that the store has last recorded.
    time_recorded_ms: u64,
    /// Another time counts from the next turn on.
    other_time: bool,
}

impl Driver {
    /// Runs until it is stopped, whose sender it returns, or every handle is gone.
    async fn run(&mut self) -> Result<Option<oneshot::Sender<()>>> {
        let mut received = Vec::new();
        loop {
            if self.waiting.is_empty() {
                let wait = self.deadline().saturating_sub(self.clock.now().mono);
                let count = tokio::time::timeout(wait, self.inputs.recv_many(&mut received, TURN)).await;
                if let Ok(0) = count {
                    // Every handle is gone.
                    self.turn(true);
                    return Ok(None);
                }
            }
            // Whatever came meanwhile takes part, too: a call doesn't wait for the frames before it.
            received.extend(std::iter::from_fn(|| self.inputs.try_recv().ok()).take(TURN));
            for input in received.drain(..) {
                if let Input::Frame { device, frame, .. } = &input
                    && let Frame::Held(held) = &**frame
                    && let Some(user) = self.state.contacts.user_of(device)
                {
                    // Before anything is sent to the device that says so.
                    self.other_time |= self.clock.hear(user, self.state.contacts.count(), held.time_ms);
                }
                self.waiting.push(input.lane(), input);
            }
            if let Some(done) = self.turn(false) {
                // Whatever came later hears that the node is closed.
                return Ok(Some(done));
            }
            if self.committer.is_gone() {
                return Err(dead("store's thread"));
            }
        }
    }

    fn deadline(&self) -> Duration {
        let housekeeping = self.clock_checked + CLOCK_CHECK;
        let lazy = self.lazy_since.map(|since| since + LAZY);
        let broken = self.broken.then(|| self.clock.now().mono + RECOVERY);
        let known = self.state.time_unknown && !self.broken && self.clock.now().wall_ms > 0;
        let due = [self.state.timers.next(), lazy, broken, known.then_some(Duration::ZERO)].into_iter().flatten();
        due.fold(housekeeping, Duration::min)
    }

    /// Handles what waits, as far as a turn goes; returns the sender of [`Input::Stop`] once that has its turn.
    fn turn(&mut self, last: bool) -> Option<oneshot::Sender<()>> {
        let mut other_time = std::mem::take(&mut self.other_time);
        let clock_due = self.clock.now().mono >= self.clock_checked + CLOCK_CHECK;
        if clock_due {
            other_time |= self.clock.check();
            self.clock_checked = self.clock.now().mono;
        }
        let mut now = self.clock.now();
        let wall_ms = now.wall_ms;
        if !self.state.started {
            // A node that isn't started decides no expiry: no subscriber listens yet.
            now.wall_ms = 0;
        }
        if (self.broken || self.committer.has_failed()) && !self.recover(now) {
            let error = Error::new(
                ErrorKind::Storage,
                "engine",
                "deliver",
                "the store fails; free space or repair it, then try again",
            );
            while let Some((_, input)) = self.waiting.pop() {
                match input {
                    Input::Stop(done) => return Some(done),
                    input => refuse(input, &error),
                }
            }
            return None;
        }
        let mut turn = Turn {
            state: &mut self.state,
            txn: self.view.begin(self.committer.done()),
            effects: Effects::default(),
            now,
            latest_ms: self.clock.latest_ms(),
            told_ms: self.clock.told_ms(),
            may_seal: SEALED_IN_A_TURN,
        };
        if other_time || (now.wall_ms > 0 && std::mem::take(&mut turn.state.time_unknown)) {
            turn.state.touch_outboxes();
        }
        if clock_due {
            turn.record_time(wall_ms);
            self.time_recorded_ms = wall_ms;
        }
        if std::mem::take(&mut self.look_at_links) {
            turn.look_at_links();
        }
        let (mut outcome, mut stop) = (Ok(()), None);
        let (mut count, mut bytes, mut at) = (0, 0, now.mono);
        while outcome.is_ok() && count < TURN && bytes < TURN_BYTES && at < now.mono + TURN_TIME {
            let Some((lane, input)) = self.waiting.pop() else { break };
            if let Input::Stop(done) = input {
                stop = Some(done);
                break;
            }
            count += 1;
            bytes += input.size();
            outcome = turn.handle(input);
            let done = self.clock.now().mono;
            self.waiting.charge(lane, done.saturating_sub(at));
            at = done;
        }
        let last = last || stop.is_some();
        let outcome = outcome.and_then(|()| turn.on_timers()).and_then(|()| turn.finish());
        let lazy_due = last || self.lazy_since.is_some_and(|since| now.mono >= since + LAZY);
        if outcome.is_ok() && (lazy_due || !turn.txn.is_empty()) {
            turn.write_lazy();
        }
        if !turn.txn.is_empty() && wall_ms > self.time_recorded_ms + TIME_RECORDED_EVERY_MS {
            // With whatever is written anyway: the next start tells by it whether the clock leapt.
            turn.record_time(wall_ms);
            self.time_recorded_ms = wall_ms;
        }
        let waits = turn.state.has_lazy();
        let (mut effects, writes) = (turn.effects, turn.txn.into_writes());
        effects.attach(&self.state.links, &self.state.events);
        if let Err(error) = outcome {
            // Reading failed in the middle: nothing of this turn happened.
            error!(%error, "a turn was abandoned");
            effects.abandon(&error);
            self.broken = true;
            return stop;
        }
        self.lazy_since = if waits { self.lazy_since.or(Some(now.mono)) } else { None };
        if !writes.is_empty() || !effects.is_empty() {
            let batch = self.view.submit(self.committer.next_sequence(), writes);
            let lone = self.inputs.is_empty() && self.waiting.is_empty();
            self.committer.submit(batch, effects, lone);
        }
        stop
    }

    /// Drops all state that was not committed and reads it again.
    fn recover(&mut self, now: Now) -> bool {
        if self.committer.has_failed() {
            self.view.reset();
            self.committer.begin_epoch();
        }
        self.lazy_since = None;
        // Whatever was submitted and didn't fail is still on its way to the disk, and counts.
        let loaded = self.state.load(&self.view.begin(self.committer.done()), now);
        self.broken = loaded.is_err();
        match loaded {
            Ok(()) => {
                self.look_at_links = true;
                info!("the store answers; state was read again");
            }
            Err(error) => error!(%error, "the store still fails"),
        }
        !self.broken
    }
}

/// Says no to an input. Frames are just dropped: their senders send them again. News of links is taken from the links
/// once the store works.
fn refuse(input: Input, error: &Error) {
    match input {
        Input::Send(request) => drop(request.reply.send(Err(error.clone()))),
        Input::Call(work) => work(Err(error)),
        Input::Frame { .. } | Input::LinkUp(_) | Input::LinkDown(..) | Input::StoreFailed | Input::Stop(_) => {}
    }
}

/// One turn: the state, the transaction it writes to, and its effects.
pub(crate) struct Turn<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) txn: Txn<'a>,
    pub(crate) effects: Effects,
    pub(crate) now: Now,
    /// The time from which lifetimes count.
    pub(crate) latest_ms: u64,
    /// What to tell peers of the time.
    pub(crate) told_ms: u64,
    /// Bytes of messages that waited for a session that may still be sealed.
    may_seal: usize,
}

impl Turn<'_> {
    /// An error means that the store can't be read: the turn is abandoned.
    fn handle(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Send(request) => {
                self.on_send(request);
                Ok(())
            }
            Input::Frame { device, link, frame, _held } => {
                let outcome = self.on_frame(device, link, *frame);
                self.contain(outcome)
            }
            Input::LinkUp(device) => {
                self.on_link_up(device);
                Ok(())
            }
            Input::LinkDown(device, reason) => {
                self.on_link_down(device, &reason);
                Ok(())
            }
            Input::Call(work) => {
                work(Ok(self));
                Ok(())
            }
            Input::StoreFailed | Input::Stop(_) => Ok(()),
        }
    }

    /// What follows from the turn's inputs taken together.
    fn finish(&mut self) -> Result<()> {
        self.write_mended();
        self.seal_queues()?;
        self.transmit()?;
        self.acknowledge();
        self.send_held();
        self.state.refresh_timers(self.now);
        self.state.queued_bytes = None;
        if self.state.started && self.now.wall_ms == 0 {
            // Started in this turn, or the clock isn't confirmed: the next turn may know the time.
            self.state.time_unknown = true;
        }
        Ok(())
    }

    /// From now on a subscriber may receive what expires.
    pub(crate) fn start(&mut self) {
        self.state.started = true;
    }

    fn record_time(&mut self, wall_ms: u64) {
        if wall_ms > 0 {
            self.txn.put(META, Bytes::from_static(meta::LAST_SEEN_TIME), wall_ms.to_be_bytes().to_vec());
        }
    }
}

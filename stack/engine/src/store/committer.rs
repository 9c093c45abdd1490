//! Group commit: batches become durable in order, and only then their effects are let go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use peerloom_core::{Batch, Error, ErrorKind, Result, Storage};
use tracing::{debug, debug_span, error};

use crate::metrics;

/// Batches that wait for the one being committed. With one waiting, the next is made while the disk
/// works; more would only make batches smaller.
const WAITING: usize = 1;

/// What a batch makes true, let go once it is durable.
pub(crate) trait AfterCommit: Send + 'static {
    /// The batch is durable.
    fn committed(self);
    /// It isn't, and never will be.
    fn failed(self, error: &Error);
}

struct Job<C> {
    sequence: u64,
    epoch: u64,
    batch: Batch,
    after: C,
}

#[derive(Default)]
struct Progress {
    /// Every batch up to this sequence is done, durable or failed.
    done: AtomicU64,
    /// The same, and its `AfterCommit` ran: effects must leave in order, too.
    released: AtomicU64,
    /// Batches of this epoch and before fail.
    failed_epoch: AtomicU64,
    /// The thread has ended.
    gone: AtomicBool,
}

/// Says that the thread has ended, by a panic too.
struct Going {
    progress: Arc<Progress>,
    on_failure: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.progress.gone.store(true, Ordering::Release);
        (self.on_failure)();
    }
}

/// The store's writing. Batches go to a thread of their own while there is more to do, so that the
/// next is made while the disk works; a lone one is committed at once, which saves it two hand-overs.
pub(crate) struct Committer<C: AfterCommit> {
    storage: Arc<dyn Storage>,
    on_failure: Arc<dyn Fn() + Send + Sync>,
    jobs: Option<mpsc::SyncSender<Job<C>>>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
    next: u64,
    epoch: u64,
}

impl<C: AfterCommit> Committer<C> {
    /// Starts the thread. `on_failure` is called when a commit failed.
    pub(crate) fn start(storage: Arc<dyn Storage>, on_failure: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        let (sender, jobs) = mpsc::sync_channel::<Job<C>>(WAITING);
        let progress = Arc::new(Progress::default());
        let on_failure: Arc<dyn Fn() + Send + Sync> = Arc::new(on_failure);
        let (shared, store, failure) = (progress.clone(), storage.clone(), on_failure.clone());
        let going = Going { progress: progress.clone(), on_failure: on_failure.clone() };
        let run = move || {
            let _going = going;
            while let Ok(first) = jobs.recv() {
                let mut group = vec![first];
                group.extend(jobs.try_iter());
                commit(&*store, group, &shared, &*failure);
            }
        };
        let failed = |e| Error::new(ErrorKind::System, "store", "start", "no thread can be made").with_source(e);
        let thread = std::thread::Builder::new().name("peerloom-commit".into()).spawn(run).map_err(failed)?;
        Ok(Self { storage, on_failure, jobs: Some(sender), progress, thread: Some(thread), next: 0, epoch: 1 })
    }

    /// Every batch up to this sequence is done.
    pub(crate) fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Acquire)
    }

    /// Whether a batch of the current epoch failed: everything submitted since then fails too, until
    /// [`Committer::begin_epoch`].
    pub(crate) fn has_failed(&self) -> bool {
        self.progress.failed_epoch.load(Ordering::Acquire) >= self.epoch
    }

    /// Whether the thread has ended, which only a panic inside the store or its follow-up does: nothing is
    /// committed any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.progress.gone.load(Ordering::Acquire)
    }

    /// The caller has dropped all state that failed batches made.
    pub(crate) fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// The sequence that the next batch gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next + 1
    }

    /// Hands over a batch; waits while one is being committed and another waits. `lone`: nothing
    /// else is to be done meanwhile.
    pub(crate) fn submit(&mut self, batch: Batch, after: C, lone: bool) {
        let idle = self.progress.released.load(Ordering::Acquire) == self.next;
        self.next += 1;
        let job = Job { sequence: self.next, epoch: self.epoch, batch, after };
        if idle && (lone || job.batch.is_empty()) {
            commit(&*self.storage, vec![job], &self.progress, &*self.on_failure);
            return;
        }
        if let Some(Err(mpsc::SendError(job))) = self.jobs.as_ref().map(|jobs| jobs.send(job)) {
            let error =
                Error::new(ErrorKind::Storage, "store", "commit", "the store's thread is gone; restart the node");
            self.progress.failed_epoch.store(job.epoch, Ordering::Release);
            job.after.failed(&error);
        }
    }
}

impl<C: AfterCommit> Drop for Committer<C> {
    /// Waits until everything submitted is done.
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            error!("the store's thread panicked");
        }
    }
}

fn commit<C: AfterCommit>(storage: &dyn Storage, group: Vec<Job<C>>, progress: &Progress, on_failure: &dyn Fn()) {
    let last = group.last().map_or(0, |job| job.sequence);
    let failed_epoch = progress.failed_epoch.load(Ordering::Acquire);
    let (late, mut good): (Vec<_>, Vec<_>) = group.into_iter().partition(|job| job.epoch <= failed_epoch);
    let follows = Error::new(ErrorKind::Storage, "store", "commit", "an earlier write failed; try again");
    late.into_iter().for_each(|job| job.after.failed(&follows));

    let mut batch = Batch::default();
    good.iter_mut().for_each(|job| batch.append(std::mem::take(&mut job.batch)));
    let span = debug_span!("commit", batch = last).entered();
    match if batch.is_empty() { Ok(()) } else { write(storage, &batch) } {
        Ok(()) => {
            // First the mark, then the effects: their receivers may look at the mark.
            progress.done.store(last, Ordering::Release);
            good.into_iter().for_each(|job| job.after.committed());
            progress.released.store(last, Ordering::Release);
            if let Err(error) = storage.settle() {
                error!(%error, "the store failed after a commit; it is read again");
            }
        }
        Err(error) => {
            error!(%error, "the store failed; nothing of this was accepted");
            metrics::commit_failed();
            if let Some(epoch) = good.iter().map(|job| job.epoch).max() {
                progress.failed_epoch.store(epoch, Ordering::Release);
            }
            good.into_iter().for_each(|job| job.after.failed(&error));
            progress.done.store(last, Ordering::Release);
            progress.released.store(last, Ordering::Release);
            on_failure();
        }
    }
    drop(span);
}

fn write(storage: &dyn Storage, batch: &Batch) -> Result<()> {
    let begin = Instant::now();
    storage.commit(batch)?;
    let (rows, took) = (batch.writes().len(), begin.elapsed());
    metrics::committed(rows, took);
    debug!(rows, bytes = batch.size(), took_us = took.as_micros(), "durable");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use peerloom_core::memory::MemoryStorage;
    use peerloom_core::wire::store::META;

    use super::*;

    /// Takes its time to say that it is durable.
    struct Slow(u64, Duration, Arc<Mutex<Vec<u64>>>);

    impl AfterCommit for Slow {
        fn committed(self) {
            std::thread::sleep(self.1);
            self.2.lock().unwrap().push(self.0);
        }

        fn failed(self, _: &Error) {}
    }

    #[test]
    fn consequences_are_let_go_in_order() {
        let said = Arc::default();
        let mut committer = Committer::start(Arc::new(MemoryStorage::new()), || {}).unwrap();
        for (number, wait) in [(1, 50), (2, 0)] {
            let mut batch = Batch::default();
            batch.put(META, &b"key"[..], vec![number as u8]);
            // The second one is lone as soon as the first is durable.
            committer.submit(batch, Slow(number, Duration::from_millis(wait), Arc::clone(&said)), number == 2);
            while committer.done() < number {
                std::thread::yield_now();
            }
        }
        drop(committer);
        assert_eq!(*said.lock().unwrap(), [1, 2]);
    }
}

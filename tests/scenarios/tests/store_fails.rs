//! A store that fails or is full: no false "sent", nothing acknowledged that isn't kept, and the node
//! goes on by itself once the store works again.
#![allow(clippy::print_stdout)]

#[path = "common/engines.rs"]
mod engines;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engines::{PATIENCE, engine, eventually, meet, send, texts};
use peerloom_core::memory::{Faults, MemoryNetwork, MemoryStorage};
use peerloom_core::{Batch, ErrorKind, Snapshot, Storage, StorageCaps};
use peerloom_engine::Cursor;
use peerloom_storage_redb::RedbStorage;
use peerloom_storage_sqlite::SqliteStorage;

async fn story(mls: bool, kind: ErrorKind) {
    let links = MemoryNetwork::default();
    let (a, b) = (MemoryStorage::new(), MemoryStorage::new());
    let (faults_a, faults_b): (Faults, Faults) = (a.faults(), b.faults());
    let alice = engine(1, &links, Arc::new(a), mls).await;
    let bob = engine(2, &links, Arc::new(b), mls).await;
    let to_alice = meet(&alice, &bob).await;
    send(&bob, &to_alice, "one").await.expect("accepted");
    eventually("the first", &alice, &["one"]).await;

    // The sender's store fails: no message is accepted, and none leaves.
    faults_b.fail_commits(Some(kind));
    for _ in 0..3 {
        let refused = send(&bob, &to_alice, "refused").await.expect_err("not sent");
        assert!(matches!(refused.kind(), ErrorKind::Full | ErrorKind::Storage), "{refused}");
    }
    faults_b.fail_commits(None);
    let begin = Instant::now();
    while let Err(error) = send(&bob, &to_alice, "two").await {
        assert!(begin.elapsed() < PATIENCE, "it doesn't resume: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("the second", &alice, &["one", "two"]).await;

    // The receiver's store fails: nothing is acknowledged or shown; later it arrives once.
    faults_a.fail_commits(Some(kind));
    send(&bob, &to_alice, "three").await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(texts(&alice).await, ["one", "two"]);
    assert_eq!(bob.queue().await.expect("a queue").len(), 1, "unacknowledged, it waits");
    faults_a.fail_commits(None);
    eventually("the third", &alice, &["one", "two", "three"]).await;
    let begin = Instant::now();
    while !bob.queue().await.expect("a queue").is_empty() {
        assert!(begin.elapsed() < PATIENCE, "it is never acknowledged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    alice.shutdown().await;
    bob.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_resumes() {
    story(false, ErrorKind::Full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_store_resumes_and_mls_stays_in_step() {
    story(true, ErrorKind::Storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_resumes_with_redb() {
    full_disk(|folder| Arc::new(RedbStorage::open(folder.join("store.redb"), 1 << 20).expect("a store"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_resumes_with_sqlite() {
    full_disk(|folder| Arc::new(SqliteStorage::open(folder.join("store.sqlite"), 1).expect("a store"))).await;
}

/// A real full disk: a file system of 4 MiB. Needs to mount one; says so where it can't.
async fn full_disk(open: impl FnOnce(&std::path::Path) -> Arc<dyn Storage>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mount =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).output();
    if !mount.is_ok_and(|m| m.status.success()) {
        println!("skipped: this user can't mount a small file system");
        return;
    }
    let unmount = Unmount(folder.path().to_path_buf());
    let links = MemoryNetwork::default();
    let small = open(folder.path());
    let alice = engine(1, &links, Arc::new(MemoryStorage::new()), true).await;
    let bob = engine(2, &links, small, true).await;
    let to_alice = meet(&alice, &bob).await;
    send(&bob, &to_alice, "first").await.expect("accepted");
    // Something else fills the disk.
    let filler = folder.path().join("filler");
    let mut size = 4 << 20;
    while size > 1024 {
        let filled = std::fs::OpenOptions::new().append(true).create(true).open(&filler);
        if filled.and_then(|mut f| std::io::Write::write_all(&mut f, &vec![0; size])).is_err() {
            size /= 2;
        }
    }
    let mut accepted = vec!["first".to_owned()];
    let mut refused = 0;
    for number in 0..40 {
        let text = format!("{number} {}", "x".repeat(200_000));
        match send(&bob, &to_alice, &text).await {
            Ok(()) => accepted.push(text),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Storage), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the disk never filled");
    std::fs::remove_file(&filler).expect("room");
    let begin = Instant::now();
    while let Err(error) = send(&bob, &to_alice, "last").await {
        assert!(begin.elapsed() < PATIENCE, "it doesn't resume: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    accepted.push("last".into());
    let begin = Instant::now();
    loop {
        let shown = texts(&alice).await;
        let missing = accepted.iter().filter(|text| !shown.contains(text)).count();
        if missing == 0 {
            let mut unique = shown.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), shown.len(), "something was shown twice");
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{missing} accepted messages are missing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bob.shutdown().await;
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A store with a bug that shows on one thread.
struct Buggy {
    inner: MemoryStorage,
    thread: &'static str,
    armed: Arc<AtomicBool>,
}

impl Storage for Buggy {
    fn caps(&self) -> StorageCaps {
        self.inner.caps()
    }

    fn snapshot(&self) -> peerloom_core::Result<Box<dyn Snapshot>> {
        self.inner.snapshot()
    }

    fn commit(&self, batch: &Batch) -> peerloom_core::Result<()> {
        if self.armed.load(Ordering::Relaxed) {
            // Time for others to wait for the committer's thread.
            std::thread::sleep(Duration::from_millis(20));
            assert!(std::thread::current().name() != Some(self.thread), "as a bug would");
        }
        self.inner.commit(batch)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_dies_ends_the_node_with_an_error() {
    for thread in ["peerloom-deliver", "peerloom-commit"] {
        let links = MemoryNetwork::default();
        let armed = Arc::new(AtomicBool::new(false));
        let alice = engine(1, &links, Arc::new(MemoryStorage::new()), false).await;
        let store = Buggy { inner: MemoryStorage::new(), thread, armed: armed.clone() };
        let bob = engine(2, &links, Arc::new(store), false).await;
        let contact = meet(&alice, &bob).await;
        let mut events = bob.events(Cursor::START);
        assert!(bob.failure().is_none());
        armed.store(true, Ordering::Relaxed);
        // Whoever waits for an answer gets one.
        let mut errors = Vec::new();
        for _ in 0..100 {
            let sends = (0..50).map(|_| tokio::time::timeout(PATIENCE, send(&bob, &contact, "?")));
            let sent = futures_util::future::join_all(sends).await;
            errors.extend(sent.into_iter().filter_map(|sent| sent.expect("an answer").err()));
            if !errors.is_empty() {
                break;
            }
        }
        let kinds: Vec<ErrorKind> = errors.iter().map(|error| error.kind()).collect();
        assert!(kinds.contains(&ErrorKind::Internal), "{thread}: {errors:?}");
        let ended = async { while events.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("events end");
        assert_eq!(bob.failure().expect("a failure").kind(), ErrorKind::Internal);
        assert_eq!(bob.queue().await.expect_err("no more").kind(), ErrorKind::Internal);
        tokio::time::timeout(PATIENCE, bob.shutdown()).await.expect("an end");
        alice.shutdown().await;
    }
}

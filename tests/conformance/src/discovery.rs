//! What every discovery must do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use peerloom_core::wire::Signed;
use peerloom_core::{CostTier, Discovery, Target};

use crate::identity::{identity, record};

/// Runs the suite. `first` and `second` are two nodes' access to one and the same place; where an
/// implementation has only one side, they are the same object.
pub async fn run(first: Arc<dyn Discovery>, second: Arc<dyn Discovery>) {
    let (alice, bob) = (identity(1), identity(2));
    let unknown = identity(3);
    assert!(second.resolve(Target::Device(unknown.device)).await.expect("a look-up").is_empty());

    let mut watch = second.watch();
    let address = "quic://192.0.2.1:4433".parse().expect("an address");
    let record_1 = record(&alice, 1, &[address]);
    first.announce(record_1.clone()).await.expect("an announcement");
    // A server that had to tell everybody of everything would soon have too much to do: there, what comes
    // to be known is what somebody looks up.
    let looking = async {
        if second.caps().cost == CostTier::Server {
            finds(&*second, Target::Device(alice.device), &record_1).await;
        }
    };
    let seeing = tokio::time::timeout(Duration::from_secs(10), watch.next());
    let (seen, ()) = futures_util::future::join(seeing, looking).await;
    let seen = seen.expect("news in time");
    assert_eq!(seen.as_ref(), Some(&record_1), "a watch tells of records, byte for byte");
    finds(&*second, Target::Device(alice.device), &record_1).await;
    finds(&*second, Target::User(alice.user), &record_1).await;
    assert!(second.resolve(Target::User(bob.user)).await.expect("a look-up").is_empty());

    let record_2 = record(&alice, 2, &[]);
    first.announce(record_2.clone()).await.expect("an announcement");
    // The newer one replaces it.
    finds(&*second, Target::Device(alice.device), &record_2).await;

    // A watcher that doesn't look must not hold anything up, nor grow without bound.
    let idle = second.watch();
    let many = if second.caps().cost == CostTier::Local { 500 } else { 20 };
    for sequence in 3..many {
        first.announce(record(&alice, sequence, &[])).await.expect("an announcement");
    }
    drop(idle);
    first.shutdown().await;
    second.shutdown().await;
}

/// Looks up until exactly this is found: what is announced travels.
async fn finds(discovery: &dyn Discovery, target: Target, expected: &Signed) {
    let begin = std::time::Instant::now();
    loop {
        let found = discovery.resolve(target).await.expect("a look-up");
        if found == std::slice::from_ref(expected) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{target:?} is not found, but {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

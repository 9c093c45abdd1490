//! What every discovery must do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use peerloom_core::wire::{DiscoveryItem, DiscoveryKey, ItemKind, ServiceKind, Signed};
use peerloom_core::{CostTier, Discovery, ErrorKind, Found, Result};

use crate::identity::{Identity, identity, record};

/// Long enough for what travels.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes a record.
pub async fn announce(discovery: &dyn Discovery, record: Signed) -> Result<()> {
    discovery.publish(DiscoveryItem::Record(record)).await
}

/// Everything that a discovery finds.
pub async fn find(discovery: &dyn Discovery, key: DiscoveryKey) -> Result<Vec<Found>> {
    discovery.find(key).try_collect().await
}

/// The records that a discovery finds.
pub async fn records(discovery: &dyn Discovery, key: DiscoveryKey) -> Result<Vec<Signed>> {
    let found = find(discovery, key).await?;
    let record = |found: Found| match found.item {
        DiscoveryItem::Record(signed) => signed,
        other => panic!("no record, but {other:?}"),
    };
    Ok(found.into_iter().map(record).collect())
}

/// An item of each kind, of this identity, and what it is asked for by. Those with a higher number take the place of
/// those with a lower one.
fn item(kind: ItemKind, of: &Identity, number: u64) -> (DiscoveryItem, DiscoveryKey) {
    match kind {
        ItemKind::Record => (DiscoveryItem::Record(record(of, number, &[])), DiscoveryKey::Record(of.device)),
        ItemKind::DeviceList => (DiscoveryItem::of_devices(&of.devices()), DiscoveryKey::DeviceList(of.user)),
        ItemKind::KeyPackage => {
            let package = of.key_package(&number.to_be_bytes());
            let hash = package.hash();
            (DiscoveryItem::KeyPackage(package), DiscoveryKey::KeyPackage(hash))
        }
        ItemKind::Service => {
            let kind = ServiceKind::MAILBOX;
            (DiscoveryItem::Service(of.service(kind, number)), DiscoveryKey::Service(kind))
        }
    }
}

/// Runs the suite. `first` and `second` are two nodes' access to one and the same place, for the identities 1 and 2;
/// where an implementation has only one side, they are the same object.
pub async fn run(first: Arc<dyn Discovery>, second: Arc<dyn Discovery>) {
    let (alice, bob) = (identity(1), identity(2));
    let unknown = identity(3);
    assert!(find(&*second, DiscoveryKey::Record(unknown.device)).await.expect("a look-up").is_empty());

    let mut watch = second.watch();
    let address = "quic://192.0.2.1:4433".parse().expect("an address");
    let record_1 = record(&alice, 1, &[address]);
    announce(&*first, record_1.clone()).await.expect("an announcement");
    // A server that had to send everybody everything would soon have too much to do: there, what comes
    // to be known is what somebody looks up.
    let looking = async {
        if second.caps().cost == CostTier::Server {
            finds(&*second, DiscoveryKey::Record(alice.device), &DiscoveryItem::Record(record_1.clone())).await;
        }
    };
    let seeing = tokio::time::timeout(PATIENCE, watch.next());
    let (seen, ()) = futures_util::future::join(seeing, looking).await;
    let seen = seen.expect("news in time").expect("a record");
    assert_eq!(seen.item, DiscoveryItem::Record(record_1.clone()), "a watch gives records, byte for byte");
    assert!(!seen.source.is_empty());
    for key in [DiscoveryKey::Record(alice.device), DiscoveryKey::Records(alice.user)] {
        finds(&*second, key, &DiscoveryItem::Record(record_1.clone())).await;
    }
    assert!(find(&*second, DiscoveryKey::Records(bob.user)).await.expect("a look-up").is_empty());

    // The newer one replaces it.
    let record_2 = record(&alice, 2, &[]);
    announce(&*first, record_2.clone()).await.expect("an announcement");
    finds(&*second, DiscoveryKey::Record(alice.device), &DiscoveryItem::Record(record_2)).await;

    for kind in ItemKind::ALL {
        carries_or_refuses(&*first, &*second, kind, &alice).await;
    }

    // A watcher that doesn't look must not hold anything up, nor grow without bound.
    let idle = second.watch();
    let many = if second.caps().cost == CostTier::Local { 500 } else { 20 };
    for sequence in 10..many {
        announce(&*first, record(&alice, sequence, &[])).await.expect("an announcement");
    }
    drop(idle);
    first.shutdown().await;
    second.shutdown().await;
}

/// What its caps promise of a kind of items.
async fn carries_or_refuses(first: &dyn Discovery, second: &dyn Discovery, kind: ItemKind, of: &Identity) {
    let (old, key) = item(kind, of, 3);
    let before = find(second, key).await.expect("a look-up");
    assert!(kind == ItemKind::Record || before.is_empty(), "{kind}: nothing was published, but {before:?}");
    if !first.caps().carries.contains(kind) {
        let refused = first.publish(old).await.expect_err("it isn't carried");
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        assert!(find(second, key).await.expect("a look-up").is_empty(), "{kind}");
        return;
    }
    let begin = std::time::Instant::now();
    first.publish(old.clone()).await.expect("a publication");
    let found = finds(second, key, &old).await;
    assert!(!found.source.is_empty() && found.age <= begin.elapsed(), "{kind}: {:?} old", found.age);
    // A newer one takes the place, where there is a newer one under the same key.
    let (new, same) = item(kind, of, 4);
    first.publish(new.clone()).await.expect("a publication");
    finds(second, same, &new).await;
    if same != key {
        finds(second, key, &old).await;
    }
    // An item lasts until it is replaced: it grows old.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let found = finds(second, same, &new).await;
    assert!(found.age <= begin.elapsed(), "{kind}: {:?} old", found.age);
}

/// Looks up until exactly this is found: what is published travels.
async fn finds(discovery: &dyn Discovery, key: DiscoveryKey, expected: &DiscoveryItem) -> Found {
    let begin = std::time::Instant::now();
    loop {
        let mut found = find(discovery, key).await.expect("a look-up");
        if let ([_], Some(last)) = (&found[..], found.last().cloned())
            && last.item == *expected
        {
            return found.remove(0);
        }
        assert!(begin.elapsed() < PATIENCE, "{key:?} is not found, but {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

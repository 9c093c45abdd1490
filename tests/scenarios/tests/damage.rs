//! One damaged row of the store, whichever it is: what depends on it may suffer, everything else goes on.
#![allow(clippy::print_stdout)]

#[path = "common/engines.rs"]
mod engines;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engines::{config, crypto, eventually, meet, send, start, texts, until};
use peerloom_core::memory::{MemoryNetwork, MemoryStorage};
use peerloom_core::storage::{Checked, scan_all};
use peerloom_core::wire::store::{
    CONTACTS, CONVERSATIONS, IN_PARKED, META, OUT_ENTRIES, OUT_SEALED, QUARANTINE, TABLES, Table, VAULT, meta,
};
use peerloom_core::wire::store::{
    GivenKeyPackage, KEY_PACKAGES, PENDING, PENDING_BODIES, Quarantined, Record, ordered_key,
};
use peerloom_core::wire::{CannotOpenReason, EntryId, SuiteId};
use peerloom_core::{Batch, KeyRange, Storage};
use peerloom_engine::{Cursor, Engine, Event, MessageState};

type Rows = Vec<(Table, Bytes, Bytes)>;

/// Every row of a store.
fn rows(storage: &MemoryStorage) -> Rows {
    let snapshot = storage.snapshot().expect("a snapshot");
    let mut rows = Vec::new();
    for table in TABLES.into_iter().filter(|table| *table != VAULT) {
        scan_all(&*snapshot, table, KeyRange::all(), |row| {
            rows.push((table, row.key, row.value));
            Ok(())
        })
        .expect("rows");
    }
    rows
}

/// A store with these rows, some of which have another byte.
fn store(rows: &Rows, damaged: &[usize]) -> MemoryStorage {
    let (copy, mut batch) = (MemoryStorage::new(), Batch::default());
    for (at, (table, key, value)) in rows.iter().enumerate() {
        let mut value = value.to_vec();
        if damaged.contains(&at) {
            let middle = value.len() / 2;
            value[middle] ^= 0x10;
        }
        batch.put(*table, key.clone(), value);
    }
    copy.commit(&batch).expect("a copy");
    copy
}

async fn node(number: u8, links: &MemoryNetwork, storage: &MemoryStorage) -> Engine {
    start(number, links, Checked::over(Arc::new(storage.clone())), vec![crypto(number, true)], config()).await
}

/// Whether messages get through in both directions.
async fn talk(alice: &Engine, other: &Engine, name: &str, text: &str) -> bool {
    let (Ok(to_other), Some(to_alice)) = (alice.find_contact(name), other.contacts().into_iter().next()) else {
        return false;
    };
    if send(alice, &to_other, text).await.is_err() || send(other, &to_alice, text).await.is_err() {
        return false;
    }
    for _ in 0..2000 {
        let arrived = async |engine: &Engine| texts(engine).await.iter().any(|t| t == text);
        if arrived(other).await && arrived(alice).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// The stores of Alice, Bob and Carol after they talked. Alice's has rows in every table: two messages wait for Bob,
/// who was away, one for Dave, who never came, and there are traces of things that went wrong.
async fn stores() -> [Rows; 3] {
    let links = MemoryNetwork::default();
    let stores = [(); 3].map(|()| MemoryStorage::new());
    let alice = node(1, &links, &stores[0]).await;
    let (bob, carol) = (node(2, &links, &stores[1]).await, node(3, &links, &stores[2]).await);
    for (other, name) in [(&bob, "node-2"), (&carol, "node-3")] {
        meet(&alice, other).await;
        until("the contact", async || alice.find_contact(name).is_ok()).await;
        let to_other = alice.find_contact(name).expect("a contact");
        let text = format!("hello {name}");
        send(&alice, &to_other, &text).await.expect("accepted");
        eventually("the first message", other, &[&text]).await;
    }
    let dave = node(4, &links, &MemoryStorage::new()).await;
    let invitation = dave.invite(Duration::from_secs(600), 1).await.expect("an invitation");
    dave.shutdown().await;
    bob.shutdown().await;
    until("bob's end", async || alice.peers().iter().any(|peer| peer.link.is_none())).await;
    let to_dave = alice.add_contact(invitation).await.expect("a contact");
    let to_bob = alice.find_contact("node-2").expect("a contact");
    for (to, text) in [(&to_bob, "while you were away"), (&to_bob, "twice"), (&to_dave, "are you there?")] {
        send(&alice, to, text).await.expect("accepted");
    }
    alice.invite(Duration::from_secs(600), 1).await.expect("an invitation");
    let with_bob = alice.direct_with(&to_bob.user);
    alice.shutdown().await;
    carol.shutdown().await;

    let device = to_bob.devices[0].device;
    let of_bob = ordered_key(&[device.as_bytes(), with_bob.as_bytes()], 900);
    let (reason, since_ms) = (CannotOpenReason::Damaged, 1);
    let mut batch = Batch::default();
    let quarantined = Quarantined { reason, since_ms, id: EntryId::from_bytes([7; 32]) };
    batch.put(QUARANTINE, of_bob.clone(), quarantined.encode());
    batch.put(IN_PARKED, of_bob, &b"an entry that came too early"[..]);
    // Given out for a suite that isn't used any more.
    let holder = Some((device, with_bob));
    let package = Bytes::from_static(&[1; 40]);
    let given = GivenKeyPackage { suite: SuiteId(9), package, expires_at_ms: u64::MAX, holder };
    batch.put(KEY_PACKAGES, vec![9; 32], given.encode());
    Checked::over(Arc::new(stores[0].clone())).commit(&batch).expect("rows");
    stores.map(|store| rows(&store))
}

/// A message that waits for a session has a head and a body. Without the head it is sent all the same; without the body it
/// fails, and says so. The others arrive in their order.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_message_that_waits_arrives_or_fails() {
    let links = MemoryNetwork::default();
    let stores = [(); 2].map(|()| MemoryStorage::new());
    let bob = node(2, &links, &stores[1]).await;
    let invitation = bob.invite(Duration::from_secs(600), 100).await.expect("an invitation");
    bob.shutdown().await;
    let alice = node(1, &links, &stores[0]).await;
    let to_bob = alice.add_contact(invitation).await.expect("a contact");
    let sent = ["one", "two", "three"];
    for text in sent {
        send(&alice, &to_bob, text).await.expect("accepted");
    }
    alice.shutdown().await;
    let [of_alice, of_bob] = stores.map(|store| rows(&store));
    let waits = |table: &Table| [PENDING, PENDING_BODIES].contains(table);
    let damaged: Vec<usize> = (0..of_alice.len()).filter(|at| waits(&of_alice[*at].0)).collect();
    assert_eq!(damaged.len(), 6);
    for (number, at) in damaged.into_iter().enumerate() {
        let links = MemoryNetwork::default();
        let alice = node(1, &links, &store(&of_alice, &[at])).await;
        let mut events = alice.events(Cursor::START);
        assert_eq!(alice.queue().await.expect("a queue").len(), 3, "all of them wait");
        let bob = node(2, &links, &store(&of_bob, &[])).await;
        let lost = (of_alice[at].0 == PENDING_BODIES).then(|| sent[number % 3]);
        let expected: Vec<&str> = sent.into_iter().filter(|text| Some(*text) != lost).collect();
        eventually("the others", &bob, &expected).await;
        if lost.is_some() {
            let failed = async {
                loop {
                    if let Some(Event::Receipt { state: MessageState::Failed(why), messages, .. }) = events.next().await
                    {
                        return (why, messages.len());
                    }
                }
            };
            let (why, count) = tokio::time::timeout(engines::PATIENCE, failed).await.expect("a failure");
            assert!(why.contains("damaged") && count == 1, "{why}");
        }
        until("the end", async || alice.queue().await.expect("a queue").is_empty()).await;
        alice.shutdown().await;
        bob.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_row_stops_nothing_else() {
    let [of_alice, of_bob, of_carol] = stores().await;
    let tables: BTreeSet<&str> = of_alice.iter().map(|(table, ..)| table.name).collect();
    println!("{} rows in {tables:?}", of_alice.len());
    let missing: Vec<_> = TABLES.iter().filter(|t| **t != VAULT && !tables.contains(t.name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (number, (table, key, _)) in of_alice.iter().enumerate() {
        // Without them there is no node.
        if *table == META && [meta::SCHEMA, meta::IDENTITY].iter().any(|fact| key[..] == fact[..]) {
            continue;
        }
        let links = MemoryNetwork::default();
        let alice = node(1, &links, &store(&of_alice, &[number])).await;
        let (bob, carol) = (node(2, &links, &store(&of_bob, &[])).await, node(3, &links, &store(&of_carol, &[])).await);
        let text = format!("past row {number}");
        let works = [talk(&alice, &carol, "node-3", &text).await, talk(&alice, &bob, "node-2", &text).await];
        println!("{number} {}: {works:?}", table.name);
        if [OUT_ENTRIES, CONTACTS, CONVERSATIONS].contains(table) {
            // What was accepted before is delivered, or still shows as waiting.
            let mut missing = Vec::new();
            let begin = Instant::now();
            loop {
                let (there, queue) = (texts(&bob).await, alice.queue().await.expect("a queue"));
                let waits =
                    |count: usize| queue.iter().map(|entry| entry.message).collect::<BTreeSet<_>>().len() >= count;
                missing.clear();
                missing.extend(["while you were away", "twice"].into_iter().filter(|t| !there.iter().any(|x| x == t)));
                // One more waits for Dave, who never came.
                if waits(missing.len() + 1) || begin.elapsed() > Duration::from_secs(20) {
                    assert!(waits(missing.len() + 1), "{missing:?} of row {number} of {} are gone", table.name);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        // A contact's own row can't be made up for; everything else heals.
        let expected = if *table == CONTACTS { works.contains(&true) } else { works == [true, true] };
        assert!(expected, "a row of {} stopped what doesn't depend on it: {works:?}", table.name);
        for engine in [alice, bob, carol] {
            engine.shutdown().await;
        }
    }
}

/// All that says what an own entry was is damaged, but for the history: what it carried arrives all the same, once.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_whose_rows_are_all_damaged_is_sealed_again() {
    let [of_alice, of_bob, _] = stores().await;
    let sealed: Vec<usize> = (0..of_alice.len()).filter(|at| of_alice[*at].0 == OUT_SEALED).collect();
    let expected = ["hello node-2", "while you were away", "twice"];
    assert!(sealed.len() >= 2);
    for at in sealed {
        let row = |(table, key, _): &(Table, Bytes, Bytes)| *table == OUT_ENTRIES && *key == of_alice[at].1;
        let damaged = [at, of_alice.iter().position(row).expect("its other row")];
        let links = MemoryNetwork::default();
        let alice = node(1, &links, &store(&of_alice, &damaged)).await;
        let bob = node(2, &links, &store(&of_bob, &[])).await;
        until("both", async || {
            let there = texts(&bob).await;
            expected.iter().all(|text| there.iter().any(|t| t == text))
        })
        .await;
        let mut there = texts(&bob).await;
        there.sort();
        there.dedup();
        assert_eq!(there.len(), texts(&bob).await.len(), "nothing twice");
        alice.shutdown().await;
        bob.shutdown().await;
    }
}

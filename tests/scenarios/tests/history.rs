//! A conversation's history: both sides in one order, what became of each own message, and what is deleted.

#[path = "common/engines.rs"]
mod engines;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engines::{config, crypto, engine, eventually, layers, meet, send, start, transport, until};
use peerloom_core::memory::{MemoryNetwork, MemoryStorage};
use peerloom_core::wire::store::{HISTORY, HISTORY_HEADS, OUT_SEALED, Table};
use peerloom_core::wire::{ConversationId, MessageId};
use peerloom_core::{Batch, KeyRange, Order, Page, Storage};
use peerloom_engine::{Cursor, Engine, HistoryMessage, HistoryPage, MessageState};

/// A page as texts, own ones with what became of them.
fn lines(page: &[HistoryMessage]) -> Vec<String> {
    let line = |message: &HistoryMessage| {
        let text = message.message.text().expect("text");
        match &message.state {
            Some(state) => format!("{text} ({state:?})"),
            None => text.to_owned(),
        }
    };
    page.iter().map(line).collect()
}

async fn newest(engine: &Engine, id: ConversationId) -> Vec<HistoryMessage> {
    engine.history(id, HistoryPage::Before(Cursor::END), 1000).await.expect("a page")
}

fn rows(store: &MemoryStorage, table: Table) -> Vec<(Bytes, Bytes)> {
    let (mut rows, mut range) = (Vec::new(), KeyRange::all());
    let snapshot = store.snapshot().expect("a snapshot");
    loop {
        let page = snapshot.scan(table, &range, Order::Ascending, Page::DEFAULT).expect("a page");
        let Some(last) = page.last() else { return rows };
        range = range.after(&last.key);
        rows.extend(page.into_iter().map(|row| (row.key, row.value)));
    }
}

/// Whether a text stands anywhere in a table.
fn holds(store: &MemoryStorage, table: Table, text: &str) -> bool {
    rows(store, table).iter().any(|(_, value)| value.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_stand_in_one_order_and_states_last() {
    let links = MemoryNetwork::default();
    let (a, b) = (MemoryStorage::new(), MemoryStorage::new());
    let alice = engine(1, &links, Arc::new(a.clone()), true).await;
    let bob = engine(2, &links, Arc::new(b.clone()), true).await;
    meet(&alice, &bob).await;
    until("the contact", async || alice.find_contact("node-2").is_ok()).await;
    let (to_bob, to_alice) = (alice.find_contact("node-2").unwrap(), bob.find_contact("node-1").unwrap());
    let id = alice.direct_with(&to_bob.user);
    for round in 0..3 {
        send(&alice, &to_bob, &format!("alice {round}")).await.unwrap();
        until("its receipt", async || alice.queue().await.unwrap().is_empty()).await;
        send(&bob, &to_alice, &format!("bob {round}")).await.unwrap();
        until("its receipt", async || bob.queue().await.unwrap().is_empty()).await;
    }
    let at = |own: &str| -> Vec<String> {
        let line = |who: &str, round| {
            let text = format!("{who} {round}");
            if who == own { format!("{text} (Delivered)") } else { text }
        };
        (0..3).flat_map(|round| [line("alice", round), line("bob", round)]).collect()
    };
    assert_eq!(lines(&newest(&alice, id).await), at("alice"));
    assert_eq!(lines(&newest(&bob, id).await), at("bob"));
    assert!(newest(&alice, id).await.iter().filter(|m| m.state.is_some()).all(|m| m.state_at_ms > 0));

    // Bob is gone: what is sent now waits, across a restart.
    bob.shutdown().await;
    until("bob's end", async || alice.peers().iter().all(|peer| peer.link.is_none())).await;
    send(&alice, &to_bob, "while you are away").await.unwrap();
    let short = Some(Duration::from_secs(1));
    let brief = alice.send(id, String::new(), Bytes::from_static(b"briefly"), short).await.unwrap();
    let waits = ["while you are away (Queued)", "briefly (Queued)"];
    assert_eq!(lines(&newest(&alice, id).await)[6..], waits);
    until("its end", async || {
        let found = alice.message(id, brief).await.unwrap().expect("it is known");
        matches!(found.state, Some(MessageState::Failed(_)))
    })
    .await;
    alice.shutdown().await;
    let alice = engine(1, &links, Arc::new(a), true).await;
    let found = lines(&newest(&alice, id).await);
    assert_eq!(found[..7], [at("alice"), vec!["while you are away (Queued)".into()]].concat());
    assert!(found[7].starts_with("briefly (Failed(\"it expired"), "{found:?}");

    let bob = engine(2, &links, Arc::new(b), true).await;
    until("the rest", async || {
        let found = lines(&newest(&alice, id).await);
        found[6] == "while you are away (Delivered)"
    })
    .await;
    drop(bob);
    assert_eq!(alice.message(id, MessageId::from_bytes([9; 16])).await.unwrap(), None);
}

/// What waits for a first session comes last; without one, its end is in the history, too.
#[tokio::test(flavor = "multi_thread")]
async fn messages_without_a_session_are_in_the_history() {
    let links = MemoryNetwork::default();
    let bob = engine(2, &links, Arc::new(MemoryStorage::new()), true).await;
    let invitation = bob.invite(Duration::from_secs(60), 1).await.unwrap();
    bob.shutdown().await;
    let a = MemoryStorage::new();
    let alice = engine(1, &links, Arc::new(a.clone()), true).await;
    let to_bob = alice.add_contact(invitation).await.unwrap();
    let id = alice.direct_with(&to_bob.user);
    send(&alice, &to_bob, "first").await.unwrap();
    let brief =
        alice.send(id, String::new(), Bytes::from_static(b"second"), Some(Duration::from_secs(1))).await.unwrap();
    let page = newest(&alice, id).await;
    assert_eq!(lines(&page), ["first (Queued)", "second (Queued)"]);
    let before = alice.history(id, HistoryPage::Before(page[1].message.cursor), 10).await.unwrap();
    assert_eq!(lines(&before), ["first (Queued)"]);
    let after = alice.history(id, HistoryPage::After(page[0].message.cursor), 10).await.unwrap();
    assert_eq!(lines(&after), ["second (Queued)"]);
    until("its end", async || {
        matches!(alice.message(id, brief).await.unwrap().unwrap().state, Some(MessageState::Failed(_)))
    })
    .await;
    let found = lines(&newest(&alice, id).await);
    assert!(found[0].starts_with("second (Failed"), "{found:?}");
    assert_eq!(found[1], "first (Queued)");
    assert_eq!(alice.delete_history(id, Cursor::START, Cursor::END).await.unwrap(), 1);
    assert_eq!(lines(&newest(&alice, id).await), ["first (Queued)"], "what waits stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_meet_in_both_directions() {
    let links = MemoryNetwork::default();
    let alice = engine(1, &links, Arc::new(MemoryStorage::new()), true).await;
    let bob = engine(2, &links, Arc::new(MemoryStorage::new()), true).await;
    meet(&alice, &bob).await;
    until("the contact", async || alice.find_contact("node-2").is_ok()).await;
    let (to_bob, to_alice) = (alice.find_contact("node-2").unwrap(), bob.find_contact("node-1").unwrap());
    let id = alice.direct_with(&to_bob.user);
    // Sent without waiting, so that entries hold several messages.
    let mut sent = Vec::new();
    for number in 0..300 {
        let body = Bytes::from(format!("{number}"));
        sent.push(alice.submit(id, String::new(), body, None).await.unwrap());
        if number % 10 == 0 {
            send(&bob, &to_alice, &format!("bob {number}")).await.unwrap();
        }
    }
    for one in sent {
        one.await.unwrap();
    }
    until("all of it", async || newest(&alice, id).await.len() == 330).await;
    let all = newest(&alice, id).await;
    for size in [1, 7, 64] {
        let (mut forward, mut after) = (Vec::new(), Cursor::START);
        loop {
            let page = alice.history(id, HistoryPage::After(after), size).await.unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.len() <= size);
            after = last.message.cursor;
            forward.extend(page);
        }
        let (mut backward, mut before) = (Vec::new(), Cursor::END);
        loop {
            let page = alice.history(id, HistoryPage::Before(before), size).await.unwrap();
            let Some(first) = page.first() else { break };
            before = first.message.cursor;
            backward.splice(0..0, page);
        }
        let ids = |page: &[HistoryMessage]| page.iter().map(|m| m.message.id).collect::<Vec<_>>();
        assert_eq!(ids(&forward), ids(&all), "{size} at once");
        assert_eq!(ids(&backward), ids(&all), "{size} at once");
    }
    // A large page ends by its bytes.
    let large = Bytes::from(vec![7; 200 * 1024]);
    for _ in 0..8 {
        alice.send(id, "application/octet-stream".into(), large.clone(), None).await.unwrap();
    }
    let page = alice.history(id, HistoryPage::Before(Cursor::END), 1000).await.unwrap();
    assert_eq!(page.len(), 6, "1 MiB, and the one that reaches it");
}

/// What a recipient still needs arrives although it was deleted, and then nothing is left of it.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_loses_nothing_that_a_recipient_needs() {
    let links = MemoryNetwork::default();
    let (a, b) = (MemoryStorage::new(), MemoryStorage::new());
    let alice = engine(1, &links, Arc::new(a.clone()), true).await;
    let bob = engine(2, &links, Arc::new(b.clone()), true).await;
    meet(&alice, &bob).await;
    until("the contact", async || alice.find_contact("node-2").is_ok()).await;
    let (to_bob, to_alice) = (alice.find_contact("node-2").unwrap(), bob.find_contact("node-1").unwrap());
    let id = alice.direct_with(&to_bob.user);
    send(&alice, &to_bob, "delivered secret").await.unwrap();
    send(&bob, &to_alice, "received secret").await.unwrap();
    until("both", async || newest(&alice, id).await.len() == 2).await;
    until("the receipt", async || alice.queue().await.unwrap().is_empty()).await;
    bob.shutdown().await;
    until("bob's end", async || alice.peers().iter().all(|peer| peer.link.is_none())).await;
    // Two messages of one entry: one of them is deleted.
    let bodies = ["kept word", "waiting secret"].map(|text| alice.submit(id, String::new(), Bytes::from(text), None));
    let [kept, secret] = bodies;
    let (kept, secret) = (kept.await.unwrap(), secret.await.unwrap());
    kept.await.unwrap();
    let secret = secret.await.unwrap();
    let place = alice.message(id, secret).await.unwrap().unwrap().message.cursor;
    let last_kept = newest(&alice, id).await[2].message.cursor;
    assert_eq!(alice.delete_history(id, last_kept, place).await.unwrap(), 1);
    assert_eq!(lines(&newest(&alice, id).await).last().unwrap(), "kept word (Queued)");
    assert_eq!(alice.delete_history(id, last_kept, place).await.unwrap(), 0, "it is gone already");
    // All others go at once.
    let second = newest(&alice, id).await[1].message.cursor;
    assert_eq!(alice.delete_history(id, Cursor::START, second).await.unwrap(), 2);
    assert!(!holds(&a, HISTORY, "delivered secret") && !holds(&a, HISTORY, "received secret"));
    assert!(holds(&a, HISTORY, "waiting secret"), "bob needs it");
    alice.shutdown().await;

    let alice = engine(1, &links, Arc::new(a.clone()), true).await;
    assert_eq!(lines(&newest(&alice, id).await), ["kept word (Queued)"]);
    let bob = engine(2, &links, Arc::new(b), true).await;
    eventually("what was deleted at alice's", &bob, &["delivered secret", "kept word", "waiting secret"]).await;
    until("the receipts", async || alice.queue().await.unwrap().is_empty()).await;
    assert_eq!(lines(&newest(&alice, id).await), ["kept word (Delivered)"]);
    assert!(!holds(&a, HISTORY, "waiting secret"), "nobody needs it any more");
    assert!(holds(&a, HISTORY, "kept word"));
    assert_eq!(alice.delete_history(id, Cursor::START, Cursor::END).await.unwrap(), 1);
    assert_eq!((rows(&a, HISTORY).len(), rows(&a, HISTORY_HEADS).len(), rows(&a, OUT_SEALED).len()), (0, 0, 0));

    // Nothing takes the place of what was deleted, across a restart.
    alice.shutdown().await;
    let alice = engine(1, &links, Arc::new(a), true).await;
    send(&alice, &to_bob, "after all").await.unwrap();
    let page = newest(&alice, id).await;
    assert_eq!(page.len(), 1);
    assert!(page[0].message.cursor > place, "cursors of deleted messages mean nothing later");
}

/// A damaged head is made again of its row; what became of the messages is unknown until more is heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_head_hides_no_message() {
    let links = MemoryNetwork::default();
    let (a, b) = (MemoryStorage::new(), MemoryStorage::new());
    let alice = start(1, &links, Arc::new(a.clone()), vec![crypto(1, true)], config()).await;
    let bob = engine(2, &links, Arc::new(b.clone()), true).await;
    meet(&alice, &bob).await;
    until("the contact", async || alice.find_contact("node-2").is_ok()).await;
    let (to_bob, to_alice) = (alice.find_contact("node-2").unwrap(), bob.find_contact("node-1").unwrap());
    let id = alice.direct_with(&to_bob.user);
    for (from, to, text) in [(&alice, &to_bob, "one"), (&bob, &to_alice, "two"), (&alice, &to_bob, "three")] {
        send(from, to, text).await.unwrap();
        until("its receipt", async || from.queue().await.unwrap().is_empty()).await;
    }
    assert_eq!(newest(&alice, id).await.len(), 3);
    alice.shutdown().await;
    let mut batch = Batch::default();
    for (key, mut value) in rows(&a, HISTORY_HEADS) {
        value = value.slice(..value.len() - 1);
        batch.put(HISTORY_HEADS, key, value);
    }
    a.commit(&batch).unwrap();
    let layers = layers(1, vec![Arc::new(transport(1, &links))], Vec::new(), Arc::new(a), vec![crypto(1, true)]);
    let alice = Engine::open(layers, config()).await.unwrap();
    let expected = ["one (Unknown)", "two", "three (Unknown)"];
    assert_eq!(lines(&newest(&alice, id).await), expected);
    let mut one_by_one = Vec::new();
    let mut after = Cursor::START;
    while let Some(next) = alice.history(id, HistoryPage::After(after), 1).await.unwrap().pop() {
        after = next.message.cursor;
        one_by_one.extend(lines(&[next]));
    }
    assert_eq!(one_by_one, expected);
}

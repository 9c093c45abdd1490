//! Conversations of several users, and many of them on one link.
#![allow(clippy::print_stdout)]

#[path = "common/engines.rs"]
mod engines;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engines::{engine, meet, until};
use peerloom_core::memory::{MemoryNetwork, MemoryStorage};
use peerloom_core::wire::store::{ConversationInfo, ConversationKind};
use peerloom_core::wire::{ConversationId, Role, Roster};
use peerloom_engine::{Cursor, Engine, Event, MessageState};

fn group(version: u64, users: &[&Engine]) -> ConversationInfo {
    let roster = Roster { version, ..Roster::first(users.iter().map(|engine| engine.user()), Role::Member) };
    ConversationInfo { kind: ConversationKind::Group, roster, created_at_ms: 1, title: "a group".into() }
}

fn id(number: u8) -> ConversationId {
    ConversationId::from_bytes([number; 32])
}

async fn say(engine: &Engine, conversation: ConversationId, text: &str) {
    engine.send(conversation, String::new(), Bytes::from(text.to_owned()), None).await.expect("accepted");
}

/// What an engine shows, by conversation.
async fn shown(engine: &Engine) -> BTreeMap<ConversationId, Vec<String>> {
    let mut shown: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let mut after = Cursor::START;
    loop {
        let page = engine.messages_after(after, 10_000).await.expect("messages");
        let Some(last) = page.last() else { return shown };
        after = last.cursor;
        for message in page {
            shown.entry(message.conversation).or_default().push(message.text().expect("text").to_owned());
        }
    }
}

async fn everybody_meets(engines: &[&Engine]) {
    for (number, a) in engines.iter().enumerate() {
        for b in &engines[..number] {
            meet(a, b).await;
        }
    }
    for engine in engines {
        until("the links", async || engine.peers().iter().filter(|p| p.link.is_some()).count() + 1 == engines.len())
            .await;
    }
}

fn stores<const N: usize>() -> [MemoryStorage; N] {
    [(); N].map(|()| MemoryStorage::new())
}

/// Fifty conversations, each with its own order, over one link; in half of them is a third user, who sees nothing of the
/// others.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_in_fifty_conversations() {
    let links = MemoryNetwork::default();
    let [a, b, c] = stores();
    let alice = engine(1, &links, Arc::new(a), true).await;
    let bob = engine(2, &links, Arc::new(b), true).await;
    let carol = engine(3, &links, Arc::new(c), true).await;
    everybody_meets(&[&alice, &bob, &carol]).await;
    for number in 0..50 {
        let users = if number % 2 == 0 { vec![&alice, &bob] } else { vec![&alice, &bob, &carol] };
        for engine in &users {
            engine.put_conversation(id(number), group(0, &users)).await.expect("a conversation");
        }
    }
    for round in 0..5 {
        for number in 0..50 {
            say(&alice, id(number), &format!("{number}: alice {round}")).await;
            say(&bob, id(number), &format!("{number}: bob {round}")).await;
        }
    }
    let from = |number: u8, who: &str| (0..5).map(|round| format!("{number}: {who} {round}")).collect::<Vec<_>>();
    until("everything at bob's", async || shown(&bob).await.values().map(Vec::len).sum::<usize>() == 250).await;
    until("everything at carol's", async || shown(&carol).await.values().map(Vec::len).sum::<usize>() == 250).await;
    let (at_bob, at_carol) = (shown(&bob).await, shown(&carol).await);
    for number in 0..50u8 {
        assert_eq!(at_bob[&id(number)], from(number, "alice"));
        let Some(texts) = at_carol.get(&id(number)) else {
            assert!(number % 2 == 0);
            continue;
        };
        assert!(number % 2 == 1, "carol sees what isn't hers");
        for who in ["alice", "bob"] {
            let of_one: Vec<_> = texts.iter().filter(|text| text.contains(who)).cloned().collect();
            assert_eq!(of_one, from(number, who));
        }
    }
    until("the receipts", async || alice.queue().await.expect("a queue").is_empty()).await;
}

/// A roster changes while entries are out: one that left needs nothing any more and gets nothing new; one that is new
/// begins with what comes; one that returns doesn't get what was written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_roster_changes_while_entries_are_out() {
    let links = MemoryNetwork::default();
    let [a, b, c, d] = stores();
    let alice = engine(1, &links, Arc::new(a), true).await;
    let bob = engine(2, &links, Arc::new(b), true).await;
    let carol = engine(3, &links, Arc::new(c.clone()), true).await;
    let dave = engine(4, &links, Arc::new(d), true).await;
    everybody_meets(&[&alice, &bob, &carol, &dave]).await;
    let room = id(7);
    for engine in [&alice, &bob, &carol] {
        engine.put_conversation(room, group(0, &[&alice, &bob, &carol])).await.expect("a conversation");
    }
    say(&alice, room, "to all").await;
    for engine in [&bob, &carol] {
        until("the first", async || shown(engine).await.get(&room).is_some_and(|texts| texts.len() == 1)).await;
    }
    until("its receipts", async || alice.queue().await.expect("a queue").is_empty()).await;
    let (carols, daves) = (carol.user(), dave.user());
    let without = ConversationInfo {
        roster: Roster { version: 1, ..Roster::first([alice.user(), bob.user()], Role::Member) },
        ..group(1, &[])
    };
    let with_dave = group(2, &[&alice, &bob, &dave]);
    let with_all = group(3, &[&alice, &bob, &carol, &dave]);
    carol.shutdown().await;
    until("carol's end", async || alice.peers().iter().any(|peer| peer.user == carols && peer.link.is_none())).await;

    let mut events = alice.events(alice.now().await.expect("a place"));
    say(&alice, room, "while carol is away").await;
    until("bob's", async || shown(&bob).await[&room].len() == 2).await;
    until("its receipt", async || {
        let queue = alice.queue().await.expect("a queue");
        queue.len() == 1 && queue[0].conversation == room
    })
    .await;
    for engine in [&alice, &bob] {
        engine.put_conversation(room, without.clone()).await.expect("without carol");
    }
    until("the end of what only carol lacked", async || alice.queue().await.expect("a queue").is_empty()).await;
    let receipt = async {
        loop {
            if let Some(Event::Receipt { state, .. }) = events.next().await {
                return state;
            }
        }
    };
    let state = tokio::time::timeout(Duration::from_secs(10), receipt).await.expect("a receipt");
    assert_eq!(state, MessageState::Delivered, "all that are left have it");
    say(&alice, room, "without carol").await;

    for engine in [&alice, &bob, &dave] {
        engine.put_conversation(room, with_dave.clone()).await.expect("with dave");
    }
    say(&alice, room, "hello dave").await;
    until("dave's first", async || shown(&dave).await.get(&room).is_some_and(|texts| texts == &["hello dave"])).await;

    let carol = engine(3, &links, Arc::new(c), true).await;
    until("carol's link", async || carol.peers().iter().all(|peer| peer.link.is_some())).await;
    for engine in [&alice, &bob, &carol, &dave] {
        engine.put_conversation(room, with_all.clone()).await.expect("with all");
    }
    say(&alice, room, "all again").await;
    for engine in [&bob, &carol, &dave] {
        until("the last", async || shown(engine).await[&room].last().is_some_and(|text| text == "all again")).await;
    }
    assert_eq!(shown(&carol).await[&room], ["to all", "all again"]);
    let at_bob = ["to all", "while carol is away", "without carol", "hello dave", "all again"];
    assert_eq!(shown(&bob).await[&room], at_bob);
    assert!(shown(&dave).await.get(&room).is_some_and(|texts| texts.len() == 2) && daves == dave.user());
}

/// One who was never there when others wrote gets it once it comes: what was sealed without it was kept.
#[tokio::test(flavor = "multi_thread")]
async fn one_who_comes_late_to_a_conversation_misses_nothing() {
    let links = MemoryNetwork::default();
    let [a, b, c] = stores();
    let alice = engine(1, &links, Arc::new(a.clone()), true).await;
    let bob = engine(2, &links, Arc::new(b), true).await;
    let carol = engine(3, &links, Arc::new(c.clone()), true).await;
    everybody_meets(&[&alice, &bob, &carol]).await;
    let (room, info) = (id(5), group(0, &[&alice, &bob, &carol]));
    carol.shutdown().await;
    for engine in [&alice, &bob] {
        engine.put_conversation(room, info.clone()).await.expect("a conversation");
    }
    for text in ["one", "two"] {
        say(&alice, room, text).await;
    }
    until("bob's", async || shown(&bob).await.get(&room).is_some_and(|texts| texts.len() == 2)).await;
    alice.shutdown().await;
    let alice = engine(1, &links, Arc::new(a), true).await;
    assert_eq!(alice.queue().await.expect("a queue").len(), 2, "carol lacks them");
    let carol = engine(3, &links, Arc::new(c), true).await;
    carol.put_conversation(room, info).await.expect("a conversation");
    until("carol's", async || shown(&carol).await.get(&room).is_some_and(|texts| texts == &["one", "two"])).await;
    until("the receipts", async || alice.queue().await.expect("a queue").is_empty()).await;
    assert_eq!(shown(&bob).await[&room], ["one", "two"], "nothing twice");
}

/// One side learns of a conversation long after the other has begun to write, and after a restart it is still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_learns_late_of_a_conversation_misses_nothing() {
    let links = MemoryNetwork::default();
    let [a, b] = stores();
    let alice = engine(1, &links, Arc::new(a.clone()), true).await;
    let bob = engine(2, &links, Arc::new(b), true).await;
    everybody_meets(&[&alice, &bob]).await;
    let (room, info) = (id(9), group(0, &[&alice, &bob]));
    alice.put_conversation(room, info.clone()).await.expect("a conversation");
    say(&alice, room, "early").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(shown(&bob).await.is_empty());
    bob.put_conversation(room, info).await.expect("a conversation");
    until("what was early", async || shown(&bob).await.get(&room).is_some_and(|texts| texts == &["early"])).await;
    say(&bob, room, "late").await;
    until("the answer", async || shown(&alice).await.get(&room).is_some_and(|texts| texts == &["late"])).await;
    alice.shutdown().await;
    let alice = engine(1, &links, Arc::new(a), true).await;
    assert_eq!(alice.conversation(&room).expect("it is stored").roster.members.len(), 2);
    say(&alice, room, "again").await;
    until("the next", async || shown(&bob).await[&room] == ["early", "again"]).await;
}

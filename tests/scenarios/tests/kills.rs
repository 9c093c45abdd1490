//! SIGKILL at random points across send, receive and acknowledge: nothing acknowledged is lost,
//! nothing is shown twice. `PEERLOOM_KILLS` sets how many (default 200 with redb, fewer with others), `PEERLOOM_SEED` the moments.
#![allow(clippy::print_stdout)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Control, PATIENCE, Registry, Running, SEALED, STORES, inbox_ids, init_with, introduce, ok};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Sends from one folder's node to a contact, several at once, until told to stop; notes what was
/// accepted.
fn sender(folder: PathBuf, contact: &'static str, stop: Arc<AtomicBool>, accepted: Arc<Mutex<BTreeSet<String>>>) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut control) = Control::connect(&folder) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        'connected: while !stop.load(Ordering::Relaxed) {
            for number in 0..8 {
                let text = "x".repeat(number * 300);
                if control.ask(json!({ "op": "send", "contact": contact, "text": text })).is_err() {
                    break 'connected;
                }
            }
            for _ in 0..8 {
                let Some(answer) = control.answer() else {
                    break 'connected;
                };
                if let Some(id) = answer["ok"]["id"].as_str() {
                    accepted.lock().expect("the list").insert(id.to_owned());
                }
            }
        }
    }
}

fn shown(folder: &Path) -> BTreeMap<String, usize> {
    let mut shown = BTreeMap::new();
    for id in inbox_ids(folder) {
        *shown.entry(id).or_default() += 1;
    }
    shown
}

#[test]
fn nothing_is_lost_or_shown_twice_with_redb() {
    story(STORES[0], number("PEERLOOM_KILLS").unwrap_or(200));
}

#[test]
fn nothing_is_lost_or_shown_twice_with_sqlite() {
    story(STORES[1], number("PEERLOOM_KILLS").unwrap_or(60));
}

#[test]
fn nothing_is_lost_or_shown_twice_with_a_vault() {
    story(STORES[2], number("PEERLOOM_KILLS").unwrap_or(40));
}

#[test]
fn nothing_is_lost_or_shown_twice_with_sealed_crypto() {
    story(SEALED, number("PEERLOOM_KILLS").unwrap_or(40));
}

#[test]
fn nothing_is_lost_or_shown_twice_over_webrtc() {
    let base = tempfile::tempdir().expect("a folder");
    let registry = Registry::start(base.path());
    let set = registry.webrtc();
    story(&set.iter().map(String::as_str).collect::<Vec<_>>(), number("PEERLOOM_KILLS").unwrap_or(40));
}

fn story(store: &[&str], kills: u64) {
    let seed = number("PEERLOOM_SEED").unwrap_or_else(rand::random);
    println!("{kills} kills; replay the moments with PEERLOOM_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let base = tempfile::tempdir().expect("a folder");
    let folders = ["alice", "bob"].map(|name| init_with(base.path(), name, store));
    let mut nodes = folders.each_ref().map(|folder| Some(Running::start(folder)));
    introduce(&folders[0], &folders[1]);
    // The inviter knows the other side from their first link on; kills that come faster than that would be all there is.
    let begin = Instant::now();
    while !ok(&folders[0], &["contacts"]).contains("bob") {
        assert!(begin.elapsed() < PATIENCE, "the two never met");
        std::thread::sleep(Duration::from_millis(20));
    }

    let stop = Arc::new(AtomicBool::new(false));
    let accepted: [Arc<Mutex<BTreeSet<String>>>; 2] = Default::default();
    let senders = [(0, "bob"), (1, "alice")].map(|(from, contact)| {
        let (folder, stop, accepted) = (folders[from].clone(), stop.clone(), accepted[from].clone());
        std::thread::spawn(move || sender(folder, contact, stop, accepted))
    });
    for _ in 0..kills {
        std::thread::sleep(Duration::from_micros(rng.random_range(0..250_000)));
        // Mostly one, now and then both.
        let first = rng.random_range(0..2);
        let victims = if rng.random_range(0..8) == 0 { vec![0, 1] } else { vec![first] };
        for victim in &victims {
            nodes[*victim].take().expect("it runs").kill();
        }
        for victim in victims {
            nodes[victim] = Some(Running::start(&folders[victim]));
        }
    }
    stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().expect("the sender"));

    for (from, to) in [(0, 1), (1, 0)] {
        let accepted = accepted[from].lock().expect("the list").clone();
        assert!(accepted.len() as u64 > kills, "only {} messages were accepted", accepted.len());
        let begin = Instant::now();
        loop {
            let shown = shown(&folders[to]);
            let twice: Vec<_> = shown.iter().filter(|(_, count)| **count > 1).collect();
            assert!(twice.is_empty(), "shown twice (seed {seed}): {twice:?}");
            let lost = accepted.iter().filter(|id| !shown.contains_key(*id)).count();
            if lost == 0 {
                println!("{} accepted, {} shown", accepted.len(), shown.len());
                break;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{lost} of {} acknowledged messages are lost (seed {seed})",
                accepted.len()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

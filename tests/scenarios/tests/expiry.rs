//! Messages whose time is over: they fail, once and visibly, and nobody is shown them.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Control, Running, command, eventually, init, introduce, ok, ok_json, ok_lines};
use serde_json::Value;

/// A node that writes its events to a file.
struct Telling {
    child: Child,
    events: PathBuf,
}

impl Telling {
    fn start(folder: &Path) -> Self {
        let events = folder.with_extension("events");
        let out = std::fs::File::create(&events).expect("a file");
        let child = command(folder, &["run", "--json"]).stdout(out).stderr(Stdio::null()).spawn().expect("a process");
        eventually("the node to answer", || Control::connect(folder).is_some());
        Self { child, events }
    }

    /// The messages that it called failed, with the reasons.
    fn failed(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.events).expect("the events");
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let failed = events.filter(|event| event["event"] == "failed");
        failed
            .flat_map(|event| {
                let reason = event["reason"].as_str().unwrap_or_default().to_owned();
                let ids = event["messages"].as_array().cloned().unwrap_or_default();
                ids.into_iter().map(move |id| (id.as_str().unwrap_or_default().to_owned(), reason.clone()))
            })
            .collect()
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(folder: &Path, arguments: &[&str]) -> String {
    ok_json(folder, &[&["send"], arguments].concat())["id"].as_str().expect("an id").to_owned()
}

fn acquainted(base: &Path) -> (PathBuf, PathBuf) {
    let (alice, bob) = (init(base, "alice"), init(base, "bob"));
    let (running_alice, running_bob) = (Running::start(&alice), Running::start(&bob));
    introduce(&alice, &bob);
    eventually("each to know the other", || ok(&alice, &["contacts"]).contains("bob"));
    ok(&alice, &["send", "bob", "first"]);
    eventually("the first", || ok_lines(&bob, &["inbox"]).len() == 1);
    eventually("its acknowledgement", || ok_json(&alice, &["queue"]).as_array().expect("a list").is_empty());
    running_alice.interrupt();
    running_bob.interrupt();
    (alice, bob)
}

/// Sealed or not: what expires while no node runs fails at the next start, once, and isn't sent.
#[test]
fn a_lifetime_that_passes_while_no_node_runs_is_reported_once() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = acquainted(base.path());
    let stranger = init(base.path(), "carol");
    let running = Running::start(&stranger);
    introduce(&stranger, &alice);
    running.interrupt();
    // One for a session that exists, one for a contact without any.
    let mut short = [send(&alice, &["bob", "short", "--ttl", "1s"]), send(&alice, &["carol", "short", "--ttl", "1s"])];
    let long = send(&alice, &["bob", "long"]);
    std::thread::sleep(Duration::from_millis(1500));
    // A command decides nothing, since the failure needs a node that reports it; but the command says what it sees.
    let over = |entry: &&Value| entry["reason"].as_str().is_some_and(|why| why.contains("its lifetime is over"));
    let queue = ok_json(&alice, &["queue"]);
    let mut ended: Vec<_> = queue.as_array().expect("a list").iter().filter(over).map(|e| e["id"].clone()).collect();
    ended.sort_by_key(ToString::to_string);

    let telling = Telling::start(&alice);
    eventually("both to fail", || telling.failed().len() == 2);
    let mut failed: Vec<String> = telling.failed().into_iter().map(|(id, _)| id).collect();
    failed.sort();
    short.sort();
    assert_eq!(failed, short);
    assert_eq!(ended, short);
    let queue = ok_json(&alice, &["queue"]);
    let waiting: Vec<&str> = queue.as_array().expect("a list").iter().filter_map(|e| e["id"].as_str()).collect();
    assert_eq!(waiting, [long.as_str()], "only what has time is waited for");

    let _bob = Running::start(&bob);
    eventually("the long one", || ok_lines(&bob, &["inbox"]).len() == 2);
    eventually("an empty queue", || ok_json(&alice, &["queue"]).as_array().expect("a list").is_empty());
    assert!(!ok(&bob, &["inbox"]).contains("short"));
    drop(telling);
    let again = Telling::start(&alice);
    send(&alice, &["bob", "last"]);
    eventually("the last one", || ok_lines(&bob, &["inbox"]).len() == 3);
    assert_eq!(again.failed(), [], "said once");
}

/// What failed while no node ran is said by whatever runs next, though it shows no other events.
#[test]
fn each_command_that_runs_a_node_says_what_failed() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, _) = acquainted(base.path());
    for arguments in [&["run", "--quiet"][..], &["inbox", "--follow"], &["chat", "bob"], &["run"]] {
        send(&alice, &["bob", "too late", "--ttl", "1s"]);
        std::thread::sleep(Duration::from_millis(1500));
        let output = base.path().join("output");
        let out = std::fs::File::create(&output).expect("a file");
        let mut running = command(&alice, arguments)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a file"))
            .stderr(out)
            .spawn()
            .expect("a process");
        eventually("the failure", || {
            std::fs::read_to_string(&output).expect("the output").contains("bob: 1 failed: it expired")
        });
        drop(running.stdin.take());
        let _ = running.kill();
        let _ = running.wait();
    }
}

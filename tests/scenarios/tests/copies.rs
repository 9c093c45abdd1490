//! A folder that was put back from a copy, and a copy beside the original: nothing is called delivered
//! that wasn't, and both sides say what happened.

mod common;

use std::path::Path;

use common::{Running, STORES, eventually, fails, init, init_with, introduce, ok, ok_json, ok_lines};

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.expect("cp runs").success());
}

fn texts(folder: &Path) -> Vec<String> {
    let text = |message: &serde_json::Value| message["text"].as_str().expect("a text").to_owned();
    ok_lines(folder, &["inbox"]).iter().map(text).collect()
}

fn waits(folder: &Path) -> usize {
    ok_json(folder, &["queue"]).as_array().expect("a list").len()
}

/// Two nodes that have talked; alice isn't running.
fn acquainted(base: &Path) -> (std::path::PathBuf, std::path::PathBuf, Running) {
    acquainted_with(base, &[])
}

/// The same, with more for alice's configuration.
fn acquainted_with(base: &Path, more: &[&str]) -> (std::path::PathBuf, std::path::PathBuf, Running) {
    let (alice, bob) = (init_with(base, "alice", more), init(base, "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let running_bob = Running::start(&bob);
    eventually("each to know the other", || ok(&alice, &["contacts"]).contains("bob"));
    ok(&alice, &["send", "bob", "first"]);
    ok(&bob, &["send", "alice", "welcome"]);
    eventually("both to arrive", || texts(&bob) == ["first"] && texts(&alice) == ["welcome"]);
    eventually("the acknowledgement", || waits(&alice) + waits(&bob) == 0);
    running.interrupt();
    (alice, bob, running_bob)
}

#[test]
fn a_folder_put_back_sends_nothing_and_both_sides_say_so() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob, running_bob) = acquainted(base.path());
    let (older, newest) = (base.path().join("older"), base.path().join("newest"));
    copy(&alice, &older);

    let running = Running::start(&alice);
    for text in ["2", "3", "4"] {
        ok(&alice, &["send", "bob", text]);
    }
    eventually("three more", || texts(&bob) == ["first", "2", "3", "4"] && waits(&alice) == 0);
    running.interrupt();
    std::fs::rename(&alice, &newest).expect("a place");
    copy(&older, &alice);

    // Accepted before anybody can know.
    for text in ["5", "6", "7", "8"] {
        ok(&alice, &["send", "bob", text]);
    }
    let running = Running::start(&alice);
    eventually("the node to notice", || {
        ok(&alice, &["peers"]).contains("sends nothing any more") || {
            let told = common::peerloom(&alice, &["peers"]);
            common::text(&told.stderr).contains("sends nothing any more")
        }
    });
    let queue = ok_json(&alice, &["queue"]);
    let reasons: Vec<&str> = queue.as_array().expect("a list").iter().filter_map(|e| e["reason"].as_str()).collect();
    assert_eq!(reasons.len(), 4, "nothing unsent is lost: {queue}");
    assert!(reasons.iter().all(|reason| reason.contains("older copy")), "{reasons:?}");
    let (_, complaint) = fails(&alice, &["send", "bob", "9"]);
    assert!(complaint.contains("older copy") && complaint.contains("new folder"), "{complaint}");
    let diagnostics = ok_doctor(&alice);
    assert!(diagnostics.contains("sends nothing any more") && diagnostics.contains("peerloom init"), "{diagnostics}");
    eventually("the contact to hear of it", || ok_json(&bob, &["peers"])[0]["restored"] == true);
    assert!(ok_doctor(&bob).contains("put back from an older copy"));

    // It takes nothing, either: what is for this device waits for the newest folder.
    ok(&bob, &["send", "alice", "are you there?"]);
    assert_eq!(texts(&bob), ["first", "2", "3", "4"]);
    eventually("a dial to be answered by the notice", || {
        ok(&bob, &["peers", "--json"]).contains("isn't its newest, and takes no links")
    });

    // After a restart it is the same, without a contact to prove it again.
    running.interrupt();
    drop(running_bob);
    let refused = common::peerloom(&alice, &["--json", "send", "bob", "9"]);
    let said: serde_json::Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert!(said["error"]["message"].as_str().is_some_and(|text| text.contains("older copy")), "{said}");
    assert_eq!(said["error"]["kind"], "Refused", "a program need not read the text: {said}");
    assert_eq!(waits(&alice), 4);

    // The newest folder goes on.
    std::fs::rename(&alice, older.with_extension("again")).expect("a place");
    std::fs::rename(&newest, &alice).expect("the folder back");
    let (running, _bob) = (Running::start(&alice), Running::start(&bob));
    ok(&alice, &["send", "bob", "back"]);
    eventually("the newest to go on", || texts(&bob).last().is_some_and(|text| text == "back"));
    eventually("its acknowledgement", || waits(&alice) == 0);
    eventually("the question", || texts(&alice) == ["welcome", "are you there?"] && waits(&bob) == 0);
    drop(running);
}

fn ok_doctor(folder: &Path) -> String {
    // Its code says that something is wrong.
    common::text(&common::peerloom(folder, &["doctor"]).stdout)
}

#[test]
fn copies_side_by_side_each_say_that_another_runs() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob, running_bob) = acquainted(base.path());
    let other = base.path().join("other");
    copy(&alice, &other);

    let first = Running::start(&alice);
    let second = Running::start_with(&other, &["--set", "transport.0.listen=127.0.0.1:0"]);
    ok(&alice, &["send", "bob", "from the original"]);
    eventually("the original's", || texts(&bob).contains(&"from the original".to_owned()));
    // Accepted or not, it is not called delivered and doesn't arrive.
    let accepted = common::peerloom(&other, &["send", "bob", "from the copy"]).status.success();
    let says = |folder: &Path, what: &str| {
        let told = common::peerloom(folder, &["peers"]);
        common::text(&told.stderr).contains(what)
    };
    eventually("the copy to say so", || says(&other, "two copies of it are used"));
    eventually("the original to say so", || says(&alice, "another copy of this folder was used"));
    eventually("the contact to say so", || says(&bob, "two copies of it are used"));
    assert_eq!(waits(&other), usize::from(accepted));

    // The copy leaves the network, and the original has its link to itself.
    let state = |folder: &Path| ok_json(folder, &["peers"])[0]["state"].clone();
    eventually("the copy to be gone", || state(&other) != "connected");
    let exchange = |there: &str, back: &str| {
        ok(&alice, &["send", "bob", there]);
        ok(&bob, &["send", "alice", back]);
        eventually("both to arrive", || {
            texts(&bob).contains(&there.to_owned()) && texts(&alice).contains(&back.to_owned())
        });
        eventually("their receipts", || waits(&alice) + waits(&bob) == 0);
    };
    let attempts = || logged(&other, "a link is up") + logged(&other, "a device can't be reached");
    let before = attempts();
    for round in 0..20 {
        exchange(&format!("there {round}"), &format!("back {round}"));
        ok(&other, &["queue", "retry"]);
    }
    assert_eq!(attempts(), before, "the copy disturbs the original's link");
    assert_ne!(state(&other), "connected");

    // Its commands work, and say what is the matter; what others would hear of is refused.
    assert_eq!(texts(&other), ["welcome"]);
    assert!(ok(&other, &["contacts"]).contains("bob"));
    let queue = ok_json(&other, &["queue"]);
    assert!(queue.as_array().expect("a list").iter().all(|entry| entry["next_try_ms"].is_null()), "{queue}");
    assert!(ok_doctor(&other).contains("has left the network"));
    for refused in [&["send", "bob", "more"][..], &["invite"]] {
        let (_, complaint) = fails(&other, refused);
        assert!(complaint.contains("new folder"), "{refused:?}: {complaint}");
    }
    // So it is after a restart.
    second.interrupt();
    let second = Running::start_with(&other, &["--set", "transport.0.listen=127.0.0.1:0"]);
    exchange("still here", "here as well");
    assert_eq!(attempts(), before, "the copy disturbs the original's link");
    assert!(!texts(&bob).contains(&"from the copy".to_owned()));
    assert_eq!(texts(&other), ["welcome"]);
    drop((first, second, running_bob));
}

/// How often a node has logged something.
fn logged(folder: &Path, what: &str) -> usize {
    let log = std::fs::read_to_string(folder.with_extension("log")).expect("a log");
    log.lines().filter(|line| line.contains(what)).count()
}

/// A copy from before the two met knows nothing of the contact: a new invitation reaches it all the same,
/// and then it learns that it is a copy.
#[test]
fn a_contact_that_was_lost_with_a_folder_takes_a_new_invitation() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let older = base.path().join("older");
    copy(&alice, &older);
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let _bob = Running::start(&bob);
    eventually("each to know the other", || ok(&alice, &["contacts"]).contains("bob"));
    ok(&alice, &["send", "bob", "first"]);
    eventually("it to arrive", || texts(&bob) == ["first"] && waits(&alice) == 0);
    running.interrupt();
    std::fs::remove_dir_all(&alice).expect("it goes");
    copy(&older, &alice);

    let _alice = Running::start(&alice);
    introduce(&alice, &bob);
    eventually("the contact", || ok(&alice, &["contacts"]).contains("bob"));
    let says = || common::text(&common::peerloom(&alice, &["send", "bob", "more"]).stderr);
    eventually("the node to notice", || says().contains("put back"));
}

/// A folder that is older in what it received alone has written nothing since: its own acknowledgements show it.
#[test]
fn a_receivers_folder_put_back_is_recognised_by_its_own_acknowledgement() {
    for store in STORES {
        let base = tempfile::tempdir().expect("a folder");
        let (alice, bob, running_bob) = acquainted_with(base.path(), store);
        let (older, newest) = (base.path().join("older"), base.path().join("newest"));
        copy(&alice, &older);
        let running = Running::start(&alice);
        for text in ["2", "3"] {
            ok(&bob, &["send", "alice", text]);
        }
        eventually("two more", || texts(&alice) == ["welcome", "2", "3"] && waits(&bob) == 0);
        running.interrupt();
        std::fs::rename(&alice, &newest).expect("a place");
        copy(&older, &alice);
        // What is kept for the proof outlives the contact's node.
        running_bob.interrupt();
        let running_bob = Running::start(&bob);
        // It isn't acknowledged by the older folder, nor shown there.
        ok(&bob, &["send", "alice", "4"]);

        let running = Running::start(&alice);
        let notices = |folder: &Path| common::text(&common::peerloom(folder, &["peers"]).stderr);
        eventually("the node to notice", || notices(&alice).contains("put back from an older copy"));
        eventually("the contact to hear of it", || notices(&bob).contains("put back from an older copy"));
        assert!(ok_doctor(&alice).contains("has left the network"));
        let (_, complaint) = fails(&alice, &["send", "bob", "more"]);
        assert!(complaint.contains("older copy") && complaint.contains("new folder"), "{complaint}");
        assert_eq!(texts(&alice), ["welcome"], "{store:?}");
        assert_eq!(waits(&bob), 1, "{store:?}");
        running.interrupt();

        // The newest goes on.
        std::fs::rename(&alice, older.with_extension("again")).expect("a place");
        std::fs::rename(&newest, &alice).expect("the folder back");
        let running = Running::start(&alice);
        eventually("the newest to go on", || texts(&alice) == ["welcome", "2", "3", "4"] && waits(&bob) == 0);
        drop((running, running_bob));
    }
}

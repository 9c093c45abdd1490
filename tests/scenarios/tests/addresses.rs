//! Where nodes are: ports that come back, and what `doctor` says of announced addresses.

mod common;

use common::{Running, eventually, init_with, introduce, ok, ok_json, peerloom, text};
use serde_json::Value;

const ANY_PORT: [&str; 2] = ["--set", "transport.0.listen=127.0.0.1:0"];

/// Neither is told where the other is, and no discovery follows them.
#[test]
fn nodes_that_leave_their_ports_to_the_system_find_each_other_after_both_have_restarted() {
    let base = tempfile::tempdir().expect("a folder");
    let [alice, bob] = ["alice", "bob"].map(|name| init_with(base.path(), name, &ANY_PORT));
    {
        let _nodes = (Running::start(&alice), Running::start(&bob));
        introduce(&alice, &bob);
        ok(&bob, &["send", "alice", "before"]);
        eventually("the first message", || ok(&alice, &["inbox"]).contains("before"));
    }
    let _nodes = (Running::start(&alice), Running::start(&bob));
    ok(&bob, &["send", "alice", "after"]);
    eventually("the second message", || ok(&alice, &["inbox"]).contains("after"));
}

fn diagnostics(folder: &std::path::Path, more: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let output = peerloom(folder, &[&["doctor", "--json"], more].concat());
    let diagnostics = serde_json::from_slice(&output.stdout).expect("JSON");
    (output.status.code(), diagnostics, text(&output.stderr))
}

fn status(diagnostics: &[Value], check: &str, detail: &str) -> Option<String> {
    let of = |diagnostic: &&Value| {
        diagnostic["check"] == check && diagnostic["detail"].as_str().is_some_and(|d| d.contains(detail))
    };
    diagnostics.iter().find(of).and_then(|diagnostic| diagnostic["status"].as_str()).map(Into::into)
}

#[test]
fn doctor_dials_what_is_announced() {
    let base = tempfile::tempdir().expect("a folder");
    let [alice, bob] = ["alice", "bob"].map(|name| init_with(base.path(), name, &[]));
    let (code, seen, _) = diagnostics(&alice, &[]);
    assert_eq!((code, status(&seen, "addresses", "to this node").as_deref()), (Some(0), Some("good")), "{seen:?}");
    assert_eq!(status(&seen, "reach", "only nodes on this machine").as_deref(), Some("note"), "{seen:?}");
    let said = text(&peerloom(&alice, &["doctor"]).stderr);
    assert!(!said.contains("nothing is wrong"), "nobody elsewhere can dial it: {said}");

    let _bob = Running::start(&bob);
    let listen = ok_json(&bob, &["doctor"]);
    let listen = listen[0]["detail"].as_str().expect("a place").trim_start_matches("listens at ").to_owned();
    for (place, why) in [(listen.as_str(), "leads to another device"), ("127.0.0.1:9", "doesn't lead to this node")] {
        let advertise = format!("transport.0.advertise=[\"{place}\"]");
        let (code, seen, _) = diagnostics(&alice, &["--set", &advertise]);
        assert_eq!((code, status(&seen, "addresses", why).as_deref()), (Some(1), Some("bad")), "{place}: {seen:?}");
        assert_eq!(status(&seen, "reach", ""), None, "it doesn't say that others can dial it: {seen:?}");
    }
}

//! Two nodes on one local network find each other, though neither has an address of the other's.

mod common;

use common::{Running, eventually, init_with, introduce, ok, ok_json, ok_lines};

/// mDNS on loopback alone, on a port of this test.
const MDNS: [&str; 6] =
    ["--set", "discovery.1.kind=mdns", "--set", "discovery.1.interfaces=[\"lo\"]", "--set", "discovery.1.port=25354"];

#[test]
fn moved_nodes_find_each_other_by_mdns() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init_with(base.path(), "alice", &[]), init_with(base.path(), "bob", &[]));
    let running = (Running::start(&alice), Running::start(&bob));
    introduce(&alice, &bob);
    eventually("both to be connected", || {
        ok(&alice, &["contacts"]).contains("bob") && ok_json(&alice, &["peers"])[0]["state"] == "connected"
    });
    drop(running);

    // Both come up at other ports, so that no record they have of each other is right.
    let moved = ["--set", "transport.0.listen=127.0.0.1:0"];
    let lost = (Running::start_with(&alice, &moved), Running::start_with(&bob, &moved));
    ok(&bob, &["send", "alice", "where are you?"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(ok_lines(&alice, &["inbox"]).is_empty(), "without mDNS they have no way to each other");
    drop(lost);

    let arguments = [moved.as_slice(), &MDNS].concat();
    let _found = (Running::start_with(&alice, &arguments), Running::start_with(&bob, &arguments));
    eventually("the message", || ok(&alice, &["inbox"]).contains("where are you?"));
}

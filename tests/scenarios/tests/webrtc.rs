//! Nodes over WebRTC: they find each other by a registry, by a common contact, or by hand.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{
    Registry, Running, command, eventually, fails, init_webrtc, init_with, introduce, ok, ok_json, peerloom, text,
};
use serde_json::Value;

/// Two folders whose files name a registry know nothing of each other but an id.
#[test]
fn two_nodes_find_each_other_by_their_ids() {
    let base = tempfile::tempdir().expect("a folder");
    let registry = Registry::start(base.path());
    let [alice, bob] = ["alice", "bob"].map(|name| init_webrtc(base.path(), name, &registry));
    let _running = [&alice, &bob].map(|folder| Running::start(folder));
    let id = |folder, kind: &str| {
        common::Control::connect(folder).and_then(|mut c| {
            let status = c.request(serde_json::json!({ "op": "status" }))?;
            Some(status["ok"][kind].as_str()?.to_owned())
        })
    };
    // One by the user's id, the other by the device's.
    let (user, device) = (id(&bob, "user").expect("an id"), id(&alice, "device").expect("an id"));
    eventually("bob to be found", || peerloom(&alice, &["add", &user, "--alias", "bob"]).status.success());
    eventually("alice to be found", || peerloom(&bob, &["add", &device, "--alias", "alice"]).status.success());
    ok(&alice, &["send", "bob", "found you"]);
    eventually("the message", || ok(&bob, &["inbox"]).contains("alice: found you"));
    ok(&bob, &["send", "alice", "and you"]);
    eventually("the answer", || ok(&alice, &["inbox"]).contains("bob: and you"));
    let peers = ok_json(&alice, &["peers"]);
    assert_eq!((&peers[0]["state"], &peers[0]["path"]), (&"connected".into(), &"direct".into()), "{peers}");
    let (code, complaint) = fails(&alice, &["add", &id(&alice, "user").expect("an id")]);
    assert!(code == 2 && complaint.contains("your own"), "{complaint}");
}

/// Two who share a third connect while the registry is gone: the third carries their signals.
#[test]
fn a_common_contact_carries_signals_without_the_registry() {
    let base = tempfile::tempdir().expect("a folder");
    let registry = Registry::start(base.path());
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| init_webrtc(base.path(), name, &registry));
    let _running = [&alice, &bob, &carol].map(|folder| Running::start(folder));
    introduce(&alice, &carol);
    introduce(&bob, &carol);
    let up = |folder| {
        let peers = ok_json(folder, &["peers"]);
        peers.as_array().into_iter().flatten().filter(|p| p["state"] == "connected").count()
    };
    eventually("carol's links", || up(&carol) == 2);
    drop(registry);
    ok(&alice, &["send", "carol", "still here"]);
    eventually("what was connected to go on", || ok(&carol, &["inbox"]).contains("alice: still here"));
    introduce(&alice, &bob);
    ok(&bob, &["send", "alice", "over carol"]);
    eventually("the message", || ok(&alice, &["inbox"]).contains("bob: over carol"));
    assert_eq!((up(&alice), up(&bob)), (2, 2));
}

#[test]
fn two_people_connect_by_hand() {
    let base = tempfile::tempdir().expect("a folder");
    let [alice, bob] = ["alice", "bob"].map(|name| init_with(base.path(), name, &["--set", "transport.0.kind=webrtc"]));
    let _running = [&alice, &bob].map(|folder| Running::start(folder));
    introduce(&alice, &bob);
    let mut offering = command(&bob, &["connect", "--manual"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    let mut said = BufReader::new(offering.stdout.take().expect("its output")).lines();
    let offer = said.next().expect("a line").expect("an offer");
    assert!(offer.starts_with("peerloom://offer/") && offer.len() < 2000, "{offer}");
    // Only the one it was made for can answer.
    let (code, complaint) = fails(&bob, &["connect", "--manual", "--offer", &offer]);
    assert!(code == 2 && complaint.contains("another device"), "{complaint}");
    let answer = ok(&alice, &["connect", "--manual", "--offer", &offer]);
    let (_, complaint) = fails(&alice, &["connect", "--manual", "--offer", &offer]);
    assert!(complaint.contains("answered already"), "{complaint}");
    // People take their time: longer than any wait for a connection.
    std::thread::sleep(Duration::from_secs(16));
    // As a terminal breaks it.
    let broken = answer.trim().to_owned() + "\n";
    offering.stdin.take().expect("its input").write_all(broken.as_bytes()).expect("it listens");
    let connected = said.next().expect("a line").expect("a line");
    assert!(connected.starts_with("connected to alice: 127.0.0.1:") && connected.ends_with("direct"), "{connected}");
    assert!(offering.wait().expect("an end").success());
    ok(&bob, &["send", "alice", "by hand"]);
    eventually("the message", || ok(&alice, &["inbox"]).contains("bob: by hand"));
    let (_, complaint) = fails(&bob, &["connect", "--manual", "--offer", "peerloom://answer/AAAA"]);
    assert!(complaint.contains("cut off"), "{complaint}");
}

#[test]
fn doctor_says_what_works_and_what_to_do() {
    let base = tempfile::tempdir().expect("a folder");
    let registry = Registry::start(base.path());
    let folder = init_webrtc(base.path(), "alice", &registry);
    let diagnostics = ok_json(&folder, &["doctor"]);
    let of = |check: &str| diagnostics.as_array().expect("diagnostics").iter().find(|f| f["check"] == check).cloned();
    assert_eq!(of("UDP").expect("UDP")["status"], "good", "{diagnostics}");
    assert!(!of("STUN").expect("STUN")["remedy"].as_str().expect("a remedy").is_empty(), "{diagnostics}");
    assert_eq!(of("registry").expect("the registry")["status"], "good", "{diagnostics}");
    drop(registry);
    // A server that doesn't answer, and no registry.
    let closed = "transport.0.ice_servers=[\"stun:127.0.0.1:1\"]";
    let output = peerloom(&folder, &["doctor", "--json", "--set", closed]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let diagnostics: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let bad: Vec<&Value> =
        diagnostics.as_array().expect("diagnostics").iter().filter(|f| f["status"] == "bad").collect();
    assert!(bad.iter().any(|f| f["check"] == "STUN") && bad.iter().any(|f| f["check"] == "registry"), "{diagnostics}");
    assert!(bad.iter().all(|f| !f["remedy"].as_str().unwrap_or_default().is_empty()), "{diagnostics}");
}

#[test]
fn servers_change_while_a_node_runs() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init_with(base.path(), "alice", &["--set", "transport.0.kind=webrtc"]);
    let (_, complaint) = fails(&folder, &["ice", "set", "stun:127.0.0.1:1"]);
    assert!(complaint.contains("no node runs"), "{complaint}");
    let running = Running::start(&folder);
    // It says who can reach this node: nobody, as long as nothing carries signals to it.
    let seen = peerloom(&folder, &["doctor"]);
    assert!(text(&seen.stdout).contains("nobody reaches this node by itself"), "{}", text(&seen.stdout));
    assert!(!text(&seen.stderr).contains("nothing is wrong"), "{}", text(&seen.stderr));
    ok(&folder, &["ice", "set", "stun:127.0.0.1:1"]);
    assert!(ok_json_even_if_bad(&folder).to_string().contains("stun:127.0.0.1:1 doesn't answer"));
    let (_, complaint) = fails(&folder, &["ice", "set", "turn:somebody:secret@host:1?transport=x"]);
    assert!(complaint.contains("transport=tcp") && !complaint.contains("secret"), "{complaint}");
    drop(running);
}

fn ok_json_even_if_bad(folder: &std::path::Path) -> Value {
    serde_json::from_slice(&peerloom(folder, &["doctor", "--json"]).stdout).expect("JSON")
}

/// A contact that is gone is looked for, and costs the registry next to nothing.
#[test]
fn an_absent_contact_costs_few_calls() {
    let base = tempfile::tempdir().expect("a folder");
    let registry = Registry::start(base.path());
    let [alice, bob] = ["alice", "bob"].map(|name| init_webrtc(base.path(), name, &registry));
    let _alice = Running::start(&alice);
    let bob_runs = Running::start(&bob);
    introduce(&alice, &bob);
    let linked = || ok_json(&alice, &["peers"])[0]["state"] == "connected";
    eventually("a link", linked);
    bob_runs.kill();
    eventually("bob to be missed", || !linked());
    let before = calls(&registry);
    assert!(before > 0, "calls are counted");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let made = calls(&registry) - before;
    assert!(made <= 2, "{made} calls while a contact was looked for");
}

/// Look-ups and announcements that a registry has answered.
fn calls(registry: &Registry) -> u64 {
    let address = registry.url.strip_prefix("http://").expect("an address");
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    stream
        .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
        .expect("sent");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let counted =
        lines.filter(|line| line.starts_with("peerloom_registry_requests_total") && !line.contains("metrics"));
    counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

//! The README's walk: two folders, two processes, and every command.

mod common;

use common::{Control, Running, SEALED, eventually, fails, init, init_with, introduce, ok, ok_json, ok_lines};

#[test]
fn two_nodes_talk() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running_alice = Running::start(&alice);
    introduce(&alice, &bob);
    // Nobody runs on bob's folder: the message is accepted and waits.
    ok(&bob, &["send", "alice", "written offline"]);
    assert_eq!(ok_json(&bob, &["queue"]).as_array().expect("a list").len(), 1);

    let running_bob = Running::start(&bob);
    eventually("the first message", || ok(&alice, &["inbox"]).contains("bob: written offline"));
    ok(&alice, &["send", "bob", "hello\u{1b}[31m bob"]);
    eventually("the answer", || ok(&bob, &["inbox"]).contains("alice: hello␛[31m bob"));
    eventually("the acknowledgements", || ok_json(&alice, &["queue"]).as_array().expect("a list").is_empty());
    let peers = ok_json(&bob, &["peers"]);
    assert_eq!((&peers[0]["state"], &peers[0]["contact"]), (&"connected".into(), &"alice".into()));

    let message = &ok_lines(&bob, &["inbox"])[0];
    let user = message["user"].as_str().expect("a user").to_owned();
    ok(&bob, &["contacts", "--rename", "alice=mum"]);
    ok(&bob, &["send", "mum", "by name"]);
    ok(&bob, &["send", &format!("@{}", &user[..16]), "by id"]);
    let (_, complaint) = fails(&bob, &["send", &user[..16], "unmarked"]);
    assert!(complaint.contains("perhaps: mum (@"), "{complaint}");
    eventually("both", || ok_lines(&alice, &["inbox"]).len() == 3);
    let (code, complaint) = fails(&bob, &["send", "nobody", "x"]);
    assert_eq!(code, 2);
    assert!(complaint.contains("known: mum"), "{complaint}");

    // Alice goes away; what bob says waits, visibly, and arrives when she is back.
    running_alice.kill();
    ok(&bob, &["send", "mum", "while you were away"]);
    let queue = ok_json(&bob, &["queue"]);
    assert!(!queue[0]["reason"].as_str().expect("a reason").is_empty());
    ok(&bob, &["queue", "retry"]);
    let running_alice = Running::start(&alice);
    eventually("the late one", || ok(&alice, &["inbox"]).contains("bob: while you were away"));
    assert_eq!(ok(&alice, &["inbox"]).lines().count(), 4);

    // Ctrl-C ends it cleanly, and the folder can be read without it.
    let pid = running_bob.pid().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
    eventually("bob to end", || !Control::socket(&bob).exists());
    assert!(ok(&bob, &["inbox"]).contains("mum: hello"));
    drop(running_alice);
}

/// Each conversation uses the first suite that both sides have; where there is none, the sender is told.
#[test]
fn each_conversation_chooses_its_suite() {
    let base = tempfile::tempdir().expect("a folder");
    let both = ["--set", "crypto.0.kind=mls-classical", "--set", "crypto.1.kind=sealed-classical"];
    let alice = init_with(base.path(), "alice", &both);
    let bob = init_with(base.path(), "bob", SEALED);
    let carol = init(base.path(), "carol");
    let _running = [&alice, &carol].map(|folder| Running::start(folder));
    let running_bob = Running::start(&bob);
    introduce(&alice, &bob);
    introduce(&alice, &carol);
    for (folder, name) in [(&bob, "bob"), (&carol, "carol")] {
        ok(folder, &["send", "alice", "hello"]);
        eventually("the message", || ok(&alice, &["inbox"]).contains(&format!("{name}: hello")));
        ok(&alice, &["send", name, "and back"]);
        eventually("the answer", || ok(folder, &["inbox"]).contains("alice: and back"));
    }

    introduce(&bob, &carol);
    ok(&carol, &["send", "bob", "in no common language"]);
    eventually("a reason", || {
        ok(&carol, &["peers"]).contains("share no crypto suite")
            && ok(&carol, &["queue"]).contains("share no crypto suite")
    });

    // Bob learns the other one; what waited goes out, sealed already or not.
    drop(running_bob);
    let backlog: Vec<String> = (0..80).map(|number| format!("backlog {number}")).collect();
    backlog.iter().for_each(|text| drop(ok(&alice, &["send", "bob", text])));
    let file = std::fs::read_to_string(bob.join("peerloom.toml")).expect("a file");
    let file = file.replace("[[crypto]]", "[[crypto]]\nkind = \"mls-classical\"\n\n[[crypto]]");
    std::fs::write(bob.join("peerloom.toml"), file).expect("a file");
    let _running_bob = Running::start(&bob);
    eventually("what waited", || ok(&bob, &["inbox"]).contains("carol: in no common language"));
    // Alice's node, which never stopped, now seals to bob with MLS: both have it, and she prefers it.
    eventually("the record", || {
        let peers = ok_json(&alice, &["peers"]);
        peers.as_array().expect("a list").iter().any(|p| p["contact"] == "bob" && p["suite"] == "mls-classical")
    });
    ok(&alice, &["send", "bob", "in MLS"]);
    eventually("the answer", || ok(&bob, &["inbox", "--limit", "1000"]).contains("alice: in MLS\n"));
    let inbox = ok_lines(&bob, &["inbox", "--limit", "1000"]);
    let texts: Vec<&str> =
        inbox.iter().filter_map(|m| m["text"].as_str()).filter(|t| t.starts_with("backlog")).collect();
    assert_eq!(texts, backlog, "each once, in order");
    eventually("the acknowledgements", || ok_json(&alice, &["queue"]).as_array().expect("a list").is_empty());
}

/// A command that needs no network answers on the folder's socket; whoever asks it for an invitation
/// gets one all the same.
#[test]
fn an_invitation_needs_no_waiting_for_the_node() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let mut follow = common::command(&alice, &["inbox", "--follow"]).spawn().expect("a process");
    eventually("its socket", || Control::connect(&alice).is_some());
    assert!(ok(&alice, &["invite"]).starts_with("peerloom://invite/"));
    follow.kill().expect("a signal");
    follow.wait().expect("an end");
}

#[test]
fn an_inbox_can_be_followed() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _alice = Running::start(&alice);
    introduce(&alice, &bob);
    let _bob = Running::start(&bob);
    ok(&bob, &["send", "alice", "before"]);
    eventually("the first", || ok(&alice, &["inbox"]).contains("before"));
    let mut follow =
        common::command(&alice, &["inbox", "--follow", "--json"]).stdout(Stdio::piped()).spawn().expect("a process");
    let mut lines = BufReader::new(follow.stdout.take().expect("its output")).lines();
    let mut next = || {
        let line = lines.next().expect("a line").expect("a line");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")["text"].as_str().expect("a text").to_owned()
    };
    assert_eq!(next(), "before");
    for text in ["one", "two", "three"] {
        ok(&bob, &["send", "alice", text]);
        assert_eq!(next(), text);
    }
    follow.kill().expect("a signal");
    follow.wait().expect("an end");
}

#[test]
fn the_demo_counts_right() {
    let base = tempfile::tempdir().expect("a folder");
    for choice in common::STORES.into_iter().chain([SEALED]) {
        let arguments = ["demo", "--messages", "600", "--set", "delivery.ttl=1d"];
        let summary = ok_json(base.path(), &[&arguments, choice].concat());
        assert_eq!(summary["sent"], 600);
        assert_eq!(summary["delivered"], 600);
        assert_eq!((&summary["lost"], &summary["duplicates"]), (&0.into(), &0.into()));
        for key in ["p50_ms", "p99_ms"] {
            assert!(summary[key].as_f64().expect("a number") > 0.0);
        }
    }
    let (_, complaint) = fails(base.path(), &["demo", "--set", "storage.kind=rebd"]);
    assert!(complaint.contains("did you mean `redb`"), "{complaint}");
}

#[test]
fn kinds_and_help_tell_everything() {
    let base = tempfile::tempdir().expect("a folder");
    let kinds = ok(base.path(), &["kinds"]);
    for word in ["quic", "invite", "redb", "mls-classical", "keep_alive", "cache_mib", "default", "ttl"] {
        assert!(kinds.contains(word), "{word}");
    }
    let listed = ok_json(base.path(), &["kinds"]);
    for kind in listed["kinds"].as_array().expect("kinds") {
        for key in kind["keys"].as_array().expect("keys") {
            assert!(!key["documentation"].as_str().expect("text").is_empty(), "{key}");
            assert!(!key["default"].as_str().expect("text").is_empty(), "{key}");
        }
    }
    for command in [
        "init",
        "run",
        "invite",
        "add",
        "contacts",
        "send",
        "inbox",
        "queue",
        "peers",
        "check",
        "kinds",
        "demo",
        "bench",
        "db",
        "connect",
        "doctor",
        "ice",
        "id",
        "registry",
        "completions",
        "man",
    ] {
        assert!(ok(base.path(), &[command, "--help"]).contains("Example"), "{command} --help has no example");
    }
}

#[test]
fn the_documents_are_what_the_code_says() {
    let base = tempfile::tempdir().expect("a folder");
    let document = include_str!("../../../docs/config.md");
    let (_, rest) = document.split_once("<!-- peerloom kinds --markdown -->\n\n").expect("a beginning");
    let (written, _) = rest.split_once("<!-- end -->").expect("an end");
    let generated = ok(base.path(), &["kinds", "--markdown"]);
    if written.trim_end() != generated.trim_end() && std::env::var_os("PEERLOOM_WRITE").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
        std::fs::write(path, document.replace(written.trim_end(), generated.trim_end())).expect("config.md is written");
    } else {
        assert_eq!(written.trim_end(), generated.trim_end(), "PEERLOOM_WRITE=1 with this test writes docs/config.md");
    }

    // Editors get the same, and it fits the file that `init` writes.
    let schema: serde_json::Value = serde_json::from_str(&ok(base.path(), &["kinds", "--schema"])).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let alice = init(base.path(), "alice");
    let file = std::fs::read_to_string(alice.join("peerloom.toml")).expect("a file");
    let valid = |text: &str| validator.is_valid(&toml::from_str(text).expect("TOML"));
    assert!(valid(&file));
    assert!(valid(&file.replace("kind = \"redb\"", "kind = \"vault\"\n[storage.inner]\nkind = \"sqlite\"")));
    for (before, after) in [
        ("kind = \"redb\"", "kind = \"rebd\""),
        ("kind = \"redb\"", "kind = \"redb\"\ncash_mib = 3"),
        ("kind = \"redb\"", "kind = \"vault\""),
        ("ttl = \"7d\"", "ttl = 7"),
        ("[storage]", "[store]"),
    ] {
        assert!(!valid(&file.replace(before, after)), "{after}");
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    let base = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = ok(base.path(), &["completions", shell]);
        assert!(script.contains("invite") && !script.contains("bench-peer"), "{shell}");
        assert!(script.contains("--lifetime") || script.contains("-l lifetime"), "{shell}: options of commands");
        assert!(script.contains("--json") || script.contains("-l json"), "{shell}: options of all commands");
    }
    ok(base.path(), &["man", &base.path().to_string_lossy()]);
    for page in std::fs::read_dir(base.path()).expect("a folder") {
        let path = page.expect("a page").path();
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(!path.ends_with("peerloom-bench-peer.1") && !text.contains("bench-peer"), "{}", path.display());
    }
    let page = std::fs::read_to_string(base.path().join("peerloom-invite.1")).expect("a page");
    assert!(page.contains("lifetime"), "{page}");
}

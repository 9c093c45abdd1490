//! What an operator can do wrong: one clear error each, with the place and the remedy.

mod common;

use std::fs;

use serde_json::{Value, json};

use common::{Control, Running, eventually, fails, init, introduce, ok, peerloom, text};

#[test]
fn files_are_checked_with_their_lines() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    let path = folder.join("peerloom.toml");
    let good = fs::read_to_string(&path).expect("the file");
    assert!(ok(&folder, &["check"]).contains("good"));
    let cases = [
        ("kind = \"redb\"", "kind = \"rebd\"", &["unknown storage kind `rebd`", "did you mean `redb`"][..]),
        ("listen =", "lisen =", &["has no key `lisen`", "did you mean `listen`"]),
        ("ttl = \"7d\"", "ttl = \"7 parsecs\"", &["delivery", "ttl", "not a duration"]),
        ("ttl = \"7d\"", "ttl = 7", &["ttl", "expected"]),
        ("[storage]", "[storag]", &["storag", "storage"]),
        ("network =", "network", &[]),
        ("kind = \"quic\"", "kind = \"quic\"\nkeep_alive = \"20s\"", &["keep_alive", "at most half of idle_timeout"]),
    ];
    for (from, to, expected) in cases {
        assert!(good.contains(from), "{from}");
        fs::write(&path, good.replace(from, to)).expect("the file");
        let (code, complaint) = fails(&folder, &["check"]);
        assert_eq!(code, 2, "{complaint}");
        // The line at fault, whichever it is in the changed file.
        let changed = good.replace(from, to);
        let last = to.lines().next_back().unwrap_or(to);
        let line = changed.lines().position(|l| l.starts_with(last)).expect("the changed line") + 1;
        assert!(complaint.contains(&format!("peerloom.toml:{line}:")), "line {line}: {complaint}");
        for part in expected {
            assert!(complaint.contains(part), "{to}: expected `{part}` in: {complaint}");
        }
    }
    fs::write(&path, &good).expect("the file");
    // However many are wrong, they are told in the order of their lines; overrides last.
    fs::write(&path, format!("zeta = 1\nalpha = 2\n{}\nmore = 3\n", good.replace("\"redb\"", "\"rebd\"")))
        .expect("the file");
    let (_, complaint) = fails(&folder, &["check", "--set", "middle=1"]);
    let told = ["`zeta`", "`alpha`", "`rebd`", "`more`", "`middle`"].map(|key| complaint.find(key).expect(key));
    assert!(told.is_sorted(), "{complaint}");
    fs::write(&path, &good).expect("the file");
    let (_, complaint) = fails(&folder, &["check", "--set", "transport.0.listen=4433"]);
    assert!(complaint.contains("a string in quotes, such as \"0.0.0.0:"), "{complaint}");
    for change in ["transport.0=quic", "transport=quic"] {
        let (_, complaint) = fails(&folder, &["check", "--set", change]);
        assert!(complaint.contains("write [[transport]]") && complaint.contains("transport.0.KEY"), "{complaint}");
    }
    for change in [".=1", "a..b=1", "storage.=1"] {
        let (code, complaint) = fails(&folder, &["check", "--set", change]);
        assert!(code == 2 && complaint.contains("KEY=VALUE"), "{complaint}");
    }
    let (_, complaint) = fails(&folder, &["check", "--set", "storage.cache_mib=big"]);
    assert!(complaint.contains("storage.cache_mib=big") && complaint.contains("expected"), "{complaint}");
    // Nothing is left of a folder that was to be made with a wrong key.
    let fresh = base.path().join("fresh");
    let (code, complaint) = fails(&fresh, &["init", "--set", "storag.kind=redb"]);
    assert!(code == 2 && complaint.contains("storag.kind=redb: the file has no key `storag`"), "{complaint}");
    assert!(complaint.contains("did you mean `storage`?") && !fresh.exists(), "{complaint}");
    let (code, complaint) = fails(base.path(), &["demo", "--set", "foo.bar=1"]);
    assert!(code == 2 && complaint.contains("foo.bar=1: the file has no key `foo`"), "{complaint}");
    let failed = peerloom(&folder, &["check", "--set", "storage.kind=rebd", "--json"]);
    let said: Value = serde_json::from_slice(&failed.stdout).expect("JSON");
    assert_eq!((failed.status.code(), &said["error"]["kind"]), (Some(2), &"Invalid".into()), "{said}");
    let (_, complaint) = fails(&base.path().join("nowhere"), &["run"]);
    assert!(complaint.contains("no such file") && complaint.contains("peerloom init"), "{complaint}");
    let (_, complaint) = fails(&folder, &["init"]);
    assert!(complaint.contains("there already"), "{complaint}");
}

#[test]
fn ports_stores_and_folders_in_use() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    let running = Running::start(&folder);
    let (_, complaint) = fails(&folder, &["run"]);
    assert!(complaint.contains("a node runs on this folder already"), "{complaint}");
    // Another folder, the same port.
    let other = init(base.path(), "bob");
    let file = fs::read_to_string(folder.join("peerloom.toml")).expect("the file");
    let line = file.lines().find(|l| l.starts_with("listen")).expect("a line").to_owned();
    let listen = line.split('"').nth(1).expect("an address");
    let (_, complaint) = fails(&other, &["run", "--set", &format!("transport.0.listen={listen}")]);
    assert!(complaint.contains(listen) && complaint.contains("another program uses this port"), "{complaint}");
    // Another folder, the same store.
    let store = folder.join("store.redb");
    let (_, complaint) = fails(&other, &["run", "--set", &format!("storage.path={}", store.display())]);
    assert!(complaint.contains("another program has the store open"), "{complaint}");
    drop(running);
}

#[test]
fn stores_that_are_not_ours() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    let other = init(base.path(), "bob");
    let store = folder.join("store.redb");
    let good = fs::read(&store).expect("the store");

    fs::copy(other.join("store.redb"), &store).expect("a copy");
    let (_, complaint) = fails(&folder, &["inbox"]);
    assert!(complaint.contains("not the one that belongs to this folder"), "{complaint}");

    fs::write(&store, "this is not a store, but a text that is long enough to be one").expect("the file");
    let (_, complaint) = fails(&folder, &["inbox"]);
    assert!(complaint.contains("not a redb file") && complaint.contains("storage.path"), "{complaint}");

    fs::write(&store, &good[..good.len() / 2]).expect("the file");
    let (_, complaint) = fails(&folder, &["inbox"]);
    assert!(complaint.contains("damaged"), "{complaint}");

    fs::write(&store, &good).expect("the file");
    ok(&folder, &["inbox"]);
    let (_, complaint) = fails(&folder, &["inbox", "--set", "network=another"]);
    assert!(complaint.contains("belongs to another network"), "{complaint}");
    fs::write(folder.join("store.id"), "sqlite\n00\n").expect("the note");
    let (_, complaint) = fails(&folder, &["inbox"]);
    assert!(complaint.contains("holds a store of kind \"sqlite\""), "{complaint}");
}

#[test]
fn links_are_checked() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _running = Running::start(&alice);
    let link = ok(&alice, &["invite"]).trim().to_owned();
    let mut forged = link.clone().into_bytes();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'a' { b'b' } else { b'a' };
    for (bad, expected) in [
        (text(&forged), "cut off or has been changed"),
        ("hello".into(), "this is no invitation"),
        (link[..link.len() / 2].to_owned(), ""),
        ("https://example.org".into(), "another kind of link"),
        (String::new(), "empty"),
    ] {
        let (_, complaint) = fails(&bob, &["add", &bad]);
        assert!(complaint.contains(expected), "{bad:.30}: {complaint}");
    }
    let (_, complaint) = fails(&alice, &["add", &link]);
    assert!(complaint.contains("your own invitation"), "{complaint}");
    let (_, complaint) =
        fails(&bob, &["add", &link, "--set", "network=test", "--set", "delivery.ttl=1s", "--set", "nonsense=1"]);
    assert!(complaint.contains("nonsense"), "{complaint}");

    let short = ok(&alice, &["invite", "--lifetime", "1ms"]).trim().to_owned();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let (_, complaint) = fails(&bob, &["add", &short]);
    assert!(complaint.contains("has expired"), "{complaint}");
    let elsewhere = base.path().join("elsewhere");
    ok(&elsewhere, &["init", "--network", "another", "--listen", "127.0.0.1:0"]);
    let (_, complaint) = fails(&elsewhere, &["add", &link]);
    assert!(complaint.contains("another network"), "{complaint}");

    // Pasted with a line break, it still works; used once, it lets nobody else in.
    let broken = format!("{}\n  {}", &link[..50], &link[50..]);
    ok(&bob, &["add", &broken]);
    let _bob = Running::start(&bob);
    eventually("bob to be in", || ok(&alice, &["contacts"]).contains("bob"));
    let carol = init(base.path(), "carol");
    ok(&carol, &["add", &link]);
    let _carol = Running::start(&carol);
    eventually("carol to hear why not", || ok(&carol, &["peers"]).contains("not a contact there"));
    assert!(!ok(&alice, &["contacts"]).contains("carol"));
}

#[test]
fn lifetimes_have_limits() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    introduce(&alice, &bob);
    for ttl in ["0s", "999ms", "366d", "99999999d", "18446744073709551615s"] {
        let (code, complaint) = fails(&bob, &["send", "alice", "hello", "--ttl", ttl]);
        assert!(code == 2 && complaint.contains("from 1s to 365d"), "{ttl}: {complaint}");
    }
    for lifetime in ["0s", "366d", "99999999d"] {
        let (code, complaint) = fails(&alice, &["invite", "--lifetime", lifetime]);
        assert!(code == 2 && complaint.contains("from 1ms to 365d"), "{lifetime}: {complaint}");
    }
    assert!(!ok(&bob, &["queue"]).contains("alice"), "nothing was accepted");
    // Another program on the socket gets no more than the command.
    let _running = Running::start(&bob);
    let mut control = Control::connect(&bob).expect("a node");
    let invite = |lifetime_ms: u64| json!({ "op": "invite", "lifetime_ms": lifetime_ms, "uses": 1 });
    let send = |ttl_ms: u64| json!({ "op": "send", "contact": "alice", "text": "hello", "ttl_ms": ttl_ms });
    const YEAR: u64 = 365 * 24 * 3600 * 1000;
    for request in [invite(0), invite(YEAR + 1), invite(u64::MAX), send(0), send(999), send(YEAR + 1), send(u64::MAX)] {
        let answer = control.request(request.clone()).expect("an answer");
        assert_eq!(answer["error"]["kind"], "Invalid", "{request}: {answer}");
    }
    for request in [invite(1), invite(YEAR), send(1000), send(YEAR)] {
        let answer = control.request(request.clone()).expect("an answer");
        assert!(answer["error"].is_null() && !answer["ok"].is_null(), "{request}: {answer}");
    }
}

#[test]
fn messages_have_limits() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    drop(running);
    let send = |text: &[u8]| {
        use std::io::Write;
        let mut child = common::command(&bob, &["send", "alice", "-", "--set", "delivery.max_queued_messages=2"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("a process");
        // It may refuse before it has read everything.
        let _ = child.stdin.take().expect("its input").write_all(text);
        child.wait_with_output().expect("an end")
    };
    assert!(send(&vec![b'x'; 1024 * 1024]).status.success());
    let long = send(&vec![b'x'; 1024 * 1024 + 1]);
    assert!(!long.status.success() && text(&long.stderr).contains("at most 1048576 bytes"), "{}", text(&long.stderr));
    let binary = send(&[0xff, 0xfe]);
    assert!(!binary.status.success() && text(&binary.stderr).contains("not UTF-8"), "{}", text(&binary.stderr));
    assert!(send(b"second").status.success());
    let full = send(b"third");
    assert_eq!(full.status.code(), Some(3), "a full queue may have room later");
    assert!(text(&full.stderr).contains("wait already"), "{}", text(&full.stderr));
    assert!(peerloom(&bob, &["queue"]).status.success());
}

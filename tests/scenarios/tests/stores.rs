//! Stores by themselves: moving a folder from one kind to another, and stores that were damaged.
//! `PEERLOOM_FLIPS` sets how many damages each kind gets, `PEERLOOM_SEED` where.
#![allow(clippy::print_stdout)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ::peerloom::config::FILE_NAME;
use ::peerloom::core::Passphrase;
use ::peerloom::{Config, Node, Store, builtin};
use common::{Running, STORES, eventually, fails, init, init_with, introduce, ok, ok_json, ok_lines, peerloom};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn texts(folder: &Path) -> Vec<String> {
    let lines = ok_lines(folder, &["inbox"]);
    lines.iter().map(|line| line["text"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_folder_moves_through_every_kind_of_store() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let first = Running::start(&bob);
    eventually("bob to be known", || ok(&alice, &["contacts"]).contains("bob"));
    drop(first);
    let (code, complaint) = fails(&alice, &["db"]);
    assert!(code == 1 || code == 3, "{code}");
    assert!(complaint.contains("a node runs on this folder"), "{complaint}");

    let mut expected = Vec::new();
    for (number, kind) in ["sqlite", "vault/redb", "vault/sqlite", "redb"].into_iter().enumerate() {
        let running = Running::start(&bob);
        ok(&alice, &["send", "bob", &format!("message {number}")]);
        expected.push(format!("message {number}"));
        eventually("the message", || texts(&bob) == expected);
        running.kill();
        let moved = ok_json(&bob, &["db", "copy", "--to", kind]);
        assert!(moved["rows"].as_u64().expect("a number") > 5, "{moved}");
        let shown = ok_json(&bob, &["db"]);
        assert_eq!((&shown["kind"], &texts(&bob)), (&kind.into(), &expected));
        assert_eq!(ok_json(&bob, &["db", "check"])["problems"].as_array().map(Vec::len), Some(0));
        let file = fs::read_to_string(bob.join(FILE_NAME)).expect("a file");
        assert!(file.contains("# Peerloom") && file.contains("[[transport]]"), "the rest of the file stays: {file}");
    }
    // It still speaks, with the keys it has always had.
    let again = Running::start(&bob);
    ok(&bob, &["send", "alice", "still me"]);
    eventually("the answer", || texts(&alice) == ["still me"]);
    drop(again);

    // The note keeps the old stores from being used again.
    let (_, complaint) = fails(&bob, &["--set", "storage.kind=sqlite", "inbox"]);
    assert!(complaint.contains("db copy"), "{complaint}");
    let (code, complaint) = fails(&bob, &["db", "copy", "--to", "sqlight"]);
    assert!(code == 2 && complaint.contains("did you mean `sqlite`"), "{complaint}");
    drop(running);
}

#[test]
fn a_vault_wants_its_passphrase() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init_with(base.path(), "alice", STORES[2]);
    let with = |passphrase: Option<&str>, arguments: &[&str]| {
        let mut command = common::command(&alice, arguments);
        command.env_remove("PEERLOOM_PASSPHRASE");
        let output = passphrase.into_iter().fold(&mut command, |c, p| c.env("PEERLOOM_PASSPHRASE", p)).output();
        let output = output.expect("the command runs");
        (output.status.code(), common::text(&output.stderr))
    };
    assert_eq!(with(Some("of the tests"), &["contacts"]), (Some(0), String::new()));
    let (code, complaint) = with(Some("of the test"), &["contacts"]);
    assert_eq!(code, Some(2));
    assert!(complaint.contains("the passphrase is wrong"), "{complaint}");
    let (code, complaint) = with(None, &["contacts"]);
    assert_eq!(code, Some(2));
    assert!(complaint.contains("PEERLOOM_PASSPHRASE") && complaint.contains("passphrase_file"), "{complaint}");

    // From a file, which only its owner may read.
    use std::os::unix::fs::PermissionsExt;
    let file = alice.join("passphrase");
    let set = ["--set", "storage.passphrase_file=passphrase", "contacts"];
    let (code, complaint) = with(None, &set);
    assert!(code == Some(2) && complaint.contains("can't be used"), "{complaint}");
    fs::write(&file, "of the tests\n").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permissions");
    let (code, complaint) = with(None, &set);
    assert!(code == Some(2) && complaint.contains("chmod 600"), "{complaint}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("permissions");
    assert_eq!(with(None, &set), (Some(0), String::new()));

    // Changed, by one line on standard input; the old one is worth nothing then.
    let mut change = common::command(&alice, &["db", "passphrase"]);
    let mut child = change.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), b"another one\n").expect("a line");
    assert!(child.wait().expect("an end").success());
    assert_eq!(with(Some("another one"), &["contacts"]), (Some(0), String::new()));
    assert_eq!(with(Some("of the tests"), &["contacts"]).0, Some(2));

    let (code, complaint) = fails(&alice, &["--set", "storage={kind=\"vault\"}", "check"]);
    assert!(code == 2 && complaint.contains("[storage.inner]"), "{complaint}");
}

/// A move that fails leaves everything as it was, and nothing behind.
#[test]
fn a_move_that_fails_changes_nothing() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let before = store_files(&alice);
    let mut copy = common::command(&alice, &["db", "copy", "--to", "vault/sqlite"]);
    let output = copy.env_remove("PEERLOOM_PASSPHRASE").output().expect("it runs");
    assert!(!output.status.success() && common::text(&output.stderr).contains("PEERLOOM_PASSPHRASE"));
    assert_eq!(store_files(&alice), before);
    assert!(ok(&alice, &["db", "check"]).contains("all is well"));
    let line = base.path().join("line");
    fs::write(&line, "a new one\n").expect("a file");
    let mut change = common::command(&alice, &["db", "passphrase"]);
    let output = change.stdin(fs::File::open(&line).expect("a file")).output().expect("it runs");
    let complaint = common::text(&output.stderr);
    assert!(output.status.code() == Some(2) && complaint.contains("isn't encrypted"), "{complaint}");

    // A folder with a file and no identity yet: looking at its store decides nothing.
    let fresh = base.path().join("fresh");
    fs::create_dir(&fresh).expect("a folder");
    fs::copy(alice.join("peerloom.toml"), fresh.join("peerloom.toml")).expect("a file");
    ok(&fresh, &["db"]);
    ok(&fresh, &["contacts"]);

    // Broken off in the middle, here by hand: the half is no store, and the folder doesn't take it.
    ok(&alice, &["db", "copy", "--to", "sqlite"]);
    let whole = fs::read(alice.join("store.sqlite")).expect("a file");
    fs::write(alice.join("store.sqlite"), &whole[..whole.len() / 2]).expect("a file");
    let (_, complaint) = fails(&alice, &["contacts"]);
    assert!(complaint.contains("store.sqlite") || complaint.contains("the store"), "{complaint}");
    fs::write(alice.join("store.sqlite"), whole).expect("a file");
    assert!(ok(&alice, &["db", "check"]).contains("all is well"));
}

/// Somebody holds SQLite's write lock: what is sent meanwhile is refused, and later it works again.
#[test]
fn sqlite_locked_by_another_program() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init_with(base.path(), "alice", STORES[1]);
    let bob = init(base.path(), "bob");
    let _running = [&alice, &bob].map(|folder| Running::start(folder));
    introduce(&bob, &alice);
    let other = rusqlite::Connection::open(alice.join("store.sqlite")).expect("a database");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let (_, complaint) = fails(&alice, &["send", "bob", "nowhere to write"]);
    assert!(complaint.contains("lock") || complaint.contains("store"), "{complaint}");
    other.execute_batch("ROLLBACK").expect("the end of it");
    eventually("the store to answer", || peerloom(&alice, &["send", "bob", "written"]).status.success());
    eventually("the message", || texts(&bob).contains(&"written".to_owned()));
    assert_eq!(texts(&bob), ["written"], "what was refused was not sent");
}

#[test]
fn environment_variables_override_keys() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let check = |name: &str, value: &str, more: &[&str]| {
        let output = common::command(&alice, &[more, &["check"]].concat()).env(name, value).output().expect("it runs");
        (output.status.code(), common::text(&output.stderr))
    };
    assert_eq!(check("PEERLOOM__STORAGE__CACHE_MIB", "16", &[]), (Some(0), String::new()));
    let (code, complaint) = check("PEERLOOM__STORAGE__CACHE_MIB", "0", &[]);
    assert!(code == Some(2) && complaint.contains("cache_mib"), "{complaint}");
    assert_eq!(check("PEERLOOM__STORAGE__CACHE_MIB", "0", &["--set", "storage.cache_mib=4"]).0, Some(0));
    assert_eq!(check("PEERLOOM__TRANSPORT__0__LISTEN", "127.0.0.1:0", &[]).0, Some(0));
}

/// What came of a damaged folder.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// `db check`, or opening or reading it, says so.
    Detected,
    /// Everything is as it was.
    Harmless,
    /// Messages were shown that nobody wrote, or some went missing without a word.
    Missed(String),
}

/// Reads everything of a folder as a node would, and as `db check` does.
fn examine(folder: &Path, whole: &[String]) -> Outcome {
    let kinds = builtin::kinds().expect("kinds");
    let mut config = Config::load(&folder.join(FILE_NAME), &[], &kinds).expect("the file is whole");
    config.passphrase = Some(Passphrase::new("of the tests"));
    let checked = Store::open(&config).and_then(|store| store.check(|_| {}));
    let sound = checked.is_ok_and(|(_, problems)| problems.is_empty());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let shown = runtime.block_on(async {
        let node = Node::open(&config).await?;
        let messages = node.messages_after(peerloom::Cursor::START, 1000).await;
        node.shutdown().await;
        messages
    });
    match shown {
        Err(_) => Outcome::Detected,
        Ok(messages) => {
            let texts: Vec<_> = messages.iter().map(|m| String::from_utf8_lossy(&m.body).into_owned()).collect();
            if let Some(forged) = texts.iter().find(|text| !whole.contains(text)) {
                return Outcome::Missed(format!("it shows {forged:?}"));
            }
            match (sound, texts == whole) {
                (true, true) => Outcome::Harmless,
                (true, false) => Outcome::Missed(format!("{} messages are gone", whole.len() - texts.len())),
                (false, _) => Outcome::Detected,
            }
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

/// The files of a store with something in them.
fn store_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let of_store = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        name.starts_with("store.") && name != "store.id" && path.metadata().is_ok_and(|m| m.len() > 0)
    };
    files.filter(of_store).collect()
}

/// Changes bits, or cuts files off, one damage at a time.
fn damage(store: &[&str], default: u64) {
    let number = |name| std::env::var(name).ok().and_then(|n: String| n.parse().ok());
    let seed = number("PEERLOOM_SEED").unwrap_or_else(rand::random);
    let count = number("PEERLOOM_FLIPS").unwrap_or(default);
    println!("{count} damages to {store:?}; replay them with PEERLOOM_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init_with(base.path(), "bob", store));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let running_bob = Running::start(&bob);
    eventually("bob to be known", || ok(&alice, &["contacts"]).contains("bob"));
    let whole: Vec<String> = (0..60).map(|n| format!("message {n} {}", "x".repeat(n * 40))).collect();
    for text in &whole {
        ok(&alice, &["send", "bob", text]);
    }
    eventually("all messages", || ok_lines(&bob, &["inbox", "--limit", "99"]).len() == 60);
    drop(running);
    // Its store is closed when the process has ended; its socket goes before.
    running_bob.interrupt();
    assert_eq!(examine_copy(&bob, base.path(), &whole, |_| {}), Outcome::Harmless, "without any damage");

    let mut detected = 0;
    for round in 0..count {
        let files = store_files(&bob);
        let file = files[rng.random_range(0..files.len())].file_name().expect("a name").to_owned();
        let (place, bit, cut) = (rng.random::<f64>(), rng.random_range(0..8), rng.random_range(0..10) == 0);
        let outcome = examine_copy(&bob, base.path(), &whole, |folder| {
            let path = folder.join(&file);
            let mut bytes = fs::read(&path).expect("a file");
            let at = (bytes.len() as f64 * place) as usize;
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            fs::write(&path, bytes).expect("a file");
        });
        if let Outcome::Missed(what) = &outcome {
            panic!("damage {round} (seed {seed}) to {file:?} at {place}, bit {bit}, cut {cut}, went unnoticed: {what}");
        }
        detected += u64::from(outcome == Outcome::Detected);
    }
    println!("{detected} detected, {} harmless", count - detected);
    assert!(detected > 0, "no damage was ever found");
}

fn examine_copy(folder: &Path, base: &Path, whole: &[String], change: impl FnOnce(&Path)) -> Outcome {
    let copy = base.join("copy");
    copy_folder(folder, &copy);
    change(&copy);
    let outcome = examine(&copy, whole);
    fs::remove_dir_all(&copy).expect("the copy goes");
    outcome
}

#[test]
fn damage_to_redb_is_noticed() {
    damage(STORES[0], 150);
}

#[test]
fn damage_to_sqlite_is_noticed() {
    damage(STORES[1], 150);
}

#[test]
fn damage_to_a_vault_is_noticed() {
    damage(STORES[2], 25);
}

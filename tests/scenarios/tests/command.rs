//! The command line itself: what is typed is what happens, and every failure says what to do.

mod common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Output, Stdio};

use common::{Running, command, eventually, fails, init, introduce, ok, ok_json, ok_lines, peerloom, text};
use serde_json::Value;

/// Two nodes that know each other; the first one runs.
fn pair(base: &Path) -> (std::path::PathBuf, std::path::PathBuf, Running) {
    let (alice, bob) = (init(base, "alice"), init(base, "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    (alice, bob, running)
}

/// The command with this on its standard input.
fn with_input(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(folder, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    // It may refuse before it has read everything.
    let _ = child.stdin.take().expect("its input").write_all(input);
    child.wait_with_output().expect("an end")
}

/// The error object of a failed command with `--json`.
fn refusal(output: &Output) -> Value {
    let said = text(&output.stdout);
    assert!(!output.status.success() && !text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
    let mut lines = said.lines();
    let object: Value =
        serde_json::from_str(lines.next().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(lines.next(), None, "one object: {said}");
    for key in ["kind", "retry", "component", "operation", "message"] {
        assert!(object["error"][key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {said}");
    }
    object["error"].clone()
}

#[test]
fn a_text_is_sent_as_it_is_or_refused() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob, _alice) = pair(base.path());
    let mut sent = Vec::new();
    for text in [
        "-hello",
        "-hi",
        "--helpful",
        "-V",
        "-v1",
        "--no-such-option",
        "--ttl-is-no-option",
        "-1",
        "—",
        "héllo\nworld ",
    ] {
        ok(&bob, &["send", "alice", text]);
        sent.push(text.to_owned());
    }
    for text in ["--json", "-v", "--help", "-", "--"].into_iter().filter(|text| *text != "-") {
        ok(&bob, &["send", "--", "alice", text]);
        sent.push(text.to_owned());
    }
    // What an option takes instead is missing, and said to be.
    for text in ["--json", "-v", "--ttl", "--", "-h", "--help"] {
        let (code, complaint) = fails(&bob, &["send", "alice", text]);
        assert!(code == 2 && complaint.contains("`--`") == (text != "--ttl"), "{text}: {complaint}");
    }
    let (code, complaint) = fails(&bob, &["send", "alice", "hello", "world"]);
    assert!(code == 2 && complaint.contains("in quotes"), "{complaint}");
    for (input, text) in
        [("one\n", "one"), ("two\r\n", "two"), ("three\n\n", "three\n"), ("four", "four"), ("\n-h\n", "\n-h")]
    {
        let output = with_input(&bob, &["send", "alice", "-"], input.as_bytes());
        assert!(output.status.success(), "{}", common::text(&output.stderr));
        sent.push(text.to_owned());
    }
    let longest = "x".repeat(1024 * 1024);
    assert!(with_input(&bob, &["send", "alice", "-"], format!("{longest}\r\n").as_bytes()).status.success());
    sent.push(longest.clone());
    for empty in ["", "\n", "\r\n", " \n\t\n", "\u{2063}", "\u{200b}\u{2063}", "\u{2800}", "\u{3164} \u{a0}"] {
        let (code, complaint) = fails(&bob, &["send", "alice", &format!("{empty} ")]);
        assert!(code == 2 && complaint.contains("the message is empty"), "{empty:?}: {complaint}");
        let output = with_input(&bob, &["send", "alice", "-", "--json"], empty.as_bytes());
        let message = refusal(&output)["message"].to_string();
        assert!(message.contains("the message is empty"), "{empty:?}: {message}");
    }
    for long in [1024 * 1024 + 1, 1024 * 1024 + 2, 3 * 1024 * 1024] {
        let error = refusal(&with_input(&bob, &["send", "alice", "-", "--json"], &vec![b'x'; long]));
        let message = error["message"].as_str().expect("a message");
        assert!(
            error["kind"] == "TooLarge" && !message.contains("1048577") && message.contains("1048576"),
            "{message}"
        );
    }
    let _bob = Running::start(&bob);
    eventually("all messages", || ok_lines(&alice, &["inbox", "--limit", "1000"]).len() == sent.len());
    let received = ok_lines(&alice, &["inbox", "--limit", "1000"]);
    for (received, sent) in received.iter().zip(&sent) {
        assert_eq!(received["text"].as_str(), Some(sent.as_str()));
    }
}

#[test]
fn values_of_options_may_begin_with_a_hyphen_and_hold_anything_that_shows() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob, _alice) = pair(base.path());
    let carol = base.path().join("carol");
    ok(&carol, &["init", "--name", "-h", "--network", "test", "--listen", "127.0.0.1:0"]);
    assert_eq!(ok_json(&carol, &["id"])["name"], "-h");
    let rename = |change: &str| ok(&bob, &["contacts", "--rename", change]).trim().to_owned();
    assert_eq!(rename("alice=a-b=c"), "a-b=c");
    assert_eq!(rename("a-b=c=--json"), "--json");
    assert_eq!(rename("--json==="), "==");
    let id = ok_json(&bob, &["contacts"])[0]["user"].as_str().expect("an id").to_owned();
    assert_eq!(rename(&format!("@{}=x=y", &id[..16])), "x=y");
    assert_eq!(rename("x=y=alice"), "alice");
    for wrong in ["alice", "alice=", "=alice", "nobody=x", "alice=\u{1b}[31m", &format!("alice={}", "x".repeat(65))] {
        let (_, complaint) = fails(&bob, &["contacts", "--rename", wrong]);
        assert!(!complaint.contains('\u{1b}') && complaint.len() < 500, "{complaint}");
    }
    // A name that can't be had isn't given in silence.
    let link = ok(&alice, &["invite"]);
    let added = peerloom(&carol, &["add", link.trim(), "--alias", "Alice of old"]);
    assert!(text(&added.stdout).contains("added Alice-of-old"), "{}", text(&added.stdout));
    assert!(text(&added.stderr).contains("is called Alice-of-old"), "{}", text(&added.stderr));
    let (_, complaint) = fails(&carol, &["add", link.trim(), "--alias", "a\nb"]);
    assert!(complaint.contains("U+000A"), "{complaint}");
}

/// What a hint prints can be pasted into a shell, whatever the other side is called.
#[test]
fn hints_run_as_they_stand() {
    let base = tempfile::tempdir().expect("a folder");
    let bob = base.path().join("bob's folder!\n\u{1b}[31m\u{202e} $(touch pwned)");
    ok(&bob, &["init", "--name", "bob", "--network", "test", "--listen", "127.0.0.1:0"]);
    for (number, name) in
        ["$(touch${IFS}pwned)", "-h", "'; touch pwned; '", "`touch pwned`", "!!", "a*", "~"].iter().enumerate()
    {
        let other = base.path().join(number.to_string());
        ok(&other, &["init", "--name", name, "--network", "test", "--listen", "127.0.0.1:0"]);
        let running = Running::start(&other);
        let added = ok(&bob, &["add", ok(&other, &["invite"]).trim()]);
        let hint = added.split_once("send with: ").expect("a hint").1;
        let shell = std::process::Command::new("bash")
            .args(["-c", &format!("set -eu; peerloom() {{ \"$COMMAND\" \"$@\"; }}; {hint}")])
            .env("COMMAND", env!("CARGO_BIN_EXE_peerloom-under-test"))
            .current_dir(base.path())
            .output()
            .expect("bash runs");
        assert!(text(&shell.stdout).contains("accepted"), "{hint}: {}", text(&shell.stderr));
        drop(running);
    }
    assert!(!base.path().join("pwned").exists());
    assert_eq!(ok_json(&bob, &["queue"]).as_array().map(Vec::len), Some(7));
}

/// One wrong letter in a name can't choose another contact, in any command.
#[test]
fn every_command_finds_contacts_the_same_way() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob, _alice) = pair(base.path());
    let id = ok_json(&alice, &["id"])["user"].as_str().expect("an id").to_owned();
    let prefix = format!("@{}", &id[..16]);
    for wrong in ["", "a", "alic", "alice2", "ALICE", " alice", "@", "@a", &id[..1], &id[..16], &prefix[..16]] {
        let rename = format!("{wrong}=other");
        for arguments in [
            &["send", "--", wrong, "x"][..],
            &["chat", "--", wrong],
            &["queue", "retry", "--", wrong],
            &["contacts", "--rename", &rename],
            &["connect", "--manual", "--", wrong],
        ] {
            let (code, complaint) = fails(&bob, arguments);
            assert!([1, 2].contains(&code) && complaint.contains("alice (@"), "{arguments:?}: {complaint}");
        }
    }
    for good in ["alice", &id, &prefix, &format!("@{id}")] {
        ok(&bob, &["send", good, "x"]);
        ok(&bob, &["queue", "retry", good]);
        assert!(with_input(&bob, &["chat", good], b"").status.success());
    }
    assert_eq!(ok_json(&bob, &["queue"]).as_array().map(Vec::len), Some(4));
}

#[test]
fn every_failure_is_an_object_where_json_was_asked_for() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    let strange = base.path().join(OsStr::from_bytes(b"not \xff utf-8"));
    for (arguments, code) in [
        (&["--json"][..], 2),
        (&["--json", "no-such-command"], 2),
        (&["--json", "send"], 2),
        (&["send", "alice", "--json"], 2),
        (&["inbox", "--limit", "many", "--json"], 2),
        (&["--set", "nonsense", "--json", "check"], 2),
        (&["invite", "--lifetime", "7 parsecs", "--json"], 2),
        (&["check", "--json", "nowhere.toml"], 2),
        (&["add", "--json", "https://example.org"], 2),
        (&["add", "--json", "peerloom://invite/AAAA"], 2),
        (&["add", "--json", "--qr", "nowhere.png"], 2),
        (&["send", "--json", "nobody", "x"], 2),
        (&["queue", "--json", "retry", "nobody"], 2),
        (&["contacts", "--json", "--rename", "nobody=x"], 2),
        (&["connect", "--json", "--manual", "nobody"], 2),
        (&["connect", "--json", "--manual", "--offer", "hello"], 2),
        (&["init", "--json"], 2),
        (&["invite", "--json", "--uses", "0"], 2),
        (&["invite", "--json", "--lifetime", "0s"], 2),
        (&["invite", "--json", "--lifetime", "366d"], 2),
        (&["invite", "--json", "--png", "peerloom.toml/x.png"], 2),
        (&["bench", "--json", "--runs", "0"], 2),
        (&["run", "--json", "--metrics", "192.0.2.1:1"], 2),
        (&["chat", "--json", "nobody"], 2),
        (&["db", "--json", "copy", "--to", "nothing"], 2),
        (&["registry", "--json", "--listen", "nowhere"], 2),
        (&["registry", "--json", "--turn-secret-file", "nowhere"], 2),
        (&["connect", "--json"], 2),
        (&["ice", "--json", "set", "stun:x"], 1),
        (&["demo", "--json", "--messages", "0"], 2),
        (&["run", "--json", "--metrics", "999.0.0.1:1"], 2),
    ] {
        let output = peerloom(&folder, arguments);
        refusal(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stdout));
    }
    // Arguments and paths that are not UTF-8: an object in any case, and never a panic.
    let bytes = OsString::from_vec(b"\xff\xfe".to_vec());
    for arguments in [&["send"][..], &["add"], &["contacts", "--rename"], &["init", "--name"], &["chat"], &["--set"]] {
        refusal(&command(&folder, arguments).arg(&bytes).arg("--json").output().expect("it runs"));
    }
    for arguments in
        [&["init", "--listen", "127.0.0.1:0"][..], &["check"], &["id"], &["contacts"], &["db"], &["db", "check"]]
    {
        let output = peerloom(&strange, &[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        let _: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    }
    for arguments in [&["check"][..], &["init"], &["add", "--qr"], &["man"]] {
        let output = command(&strange, arguments).arg(strange.join("peerloom.toml/x")).arg("--json").output();
        refusal(&output.expect("it runs"));
    }
}

/// What is wrong is found before anything is done, and in words that aren't the program's own.
#[test]
fn arguments_are_checked_before_work_begins() {
    let base = tempfile::tempdir().expect("a folder");
    let (folder, file) = (init(base.path(), "alice"), base.path().join("file"));
    fs::write(&file, "").expect("a file");
    let taken = folder.join("peerloom.toml").to_string_lossy().into_owned();
    for (arguments, says) in [
        (&["connect", "nobody", "--manual"][..], "no contact is called `nobody`"),
        (&["connect", "nobody", "--manual", "--offer", "hello"], "no contact is called `nobody`"),
        (&["connect", "--manual", "--offer", "hello"], "an offer begins with peerloom://offer/"),
        (&["send", "nobody", "-"], "no contact is called `nobody`"),
        (&["chat", "nobody"], "no contact is called `nobody`"),
        (&["invite", "--png", &taken], "there already"),
        (&["invite", "--uses", "0"], "a whole number from 1 on"),
        (&["demo", "--messages", "0"], "a whole number from 1 on"),
        (&["run", "--metrics", "x"], "such as 127.0.0.1:9464"),
        (&["check", "--set", "network=a", "--set", "network=b"], "two values"),
    ] {
        let (code, complaint) = fails(&folder, arguments);
        assert!(code == 2 && complaint.contains(says), "{arguments:?}: {complaint}");
        assert!(!complaint.contains("finding out"), "{arguments:?}: {complaint}");
        // Which part of the program failed is for those who ask.
        assert!(!complaint.contains("contacts: find") && !complaint.contains("config: "), "{complaint}");
    }
    assert!(fails(&folder, &["-v", "send", "nobody", "x"]).1.contains("contacts: find: no contact"));
    for arguments in [&["init"][..], &["id"], &["run"], &["check"], &["db"], &["send", "x", "y"], &["doctor"]] {
        let (code, complaint) = fails(&file, arguments);
        assert!(code == 2 && complaint.contains("folder is expected"), "{arguments:?}: {complaint}");
    }
    let fresh = base.path().join("fresh");
    for arguments in [
        ["--network", "a", "--set", "network=b"],
        ["--name", "a", "--set", "name=b"],
        ["--listen", "127.0.0.1:0", "--set", "transport.0.listen=127.0.0.1:1"],
        ["--listen", "127.0.0.1:0", "--set", "transport.0={}"],
    ] {
        let (code, complaint) = fails(&fresh, &[&["init"][..], &arguments].concat());
        assert!(code == 2 && complaint.contains("give one") && !fresh.exists(), "{complaint}");
    }
}

/// A name that is changed isn't changed in silence.
#[test]
fn changes_of_names_are_mentioned() {
    let base = tempfile::tempdir().expect("a folder");
    let made = |name: &str, number: usize| {
        let folder = base.path().join(number.to_string());
        text(&peerloom(&folder, &["init", "--name", name, "--listen", "127.0.0.1:0", "--network", "test"]).stderr)
    };
    for (number, (name, says)) in [
        ("ａｌｉｃｅ", "the name is alice, since"),
        ("@bob", "call you bob,"),
        ("Zoë M", "call you Zoë-M,"),
        ("zoë", ""),
    ]
    .iter()
    .enumerate()
    {
        let notes = made(name, number);
        assert!(if says.is_empty() { notes.is_empty() } else { notes.contains(says) }, "{name}: {notes}");
    }
    let (code, complaint) = fails(&base.path().join("emoji"), &["init", "--name", "👩\u{200d}👧"]);
    assert!(code == 2 && complaint.contains("emoji of one character"), "{complaint}");
    let (_alice, bob, _running) = pair(base.path());
    let mut old = "alice".to_owned();
    for (asked, got, why) in [
        ("@carl", "carl", "names a user by id"),
        ("ｄｏｒａ", "dora", "plain letters"),
        ("Emil the First", "Emil-the-First", "one word"),
    ] {
        let renamed = peerloom(&bob, &["contacts", "--rename", &format!("{old}={asked}")]);
        assert_eq!(text(&renamed.stdout).trim(), got);
        assert!(text(&renamed.stderr).contains(why), "{asked}: {}", text(&renamed.stderr));
        old = got.to_owned();
    }
}

/// Contacts are listed by name, whatever their ids are.
#[test]
fn lists_of_contacts_are_in_the_order_of_names() {
    let base = tempfile::tempdir().expect("a folder");
    let hub = init(base.path(), "hub");
    for name in ["dora", "carl", "anna", "emil", "bert"] {
        let other = init(base.path(), name);
        let _running = Running::start(&other);
        introduce(&other, &hub);
        ok(&hub, &["send", name, "hello"]);
    }
    for list in [&["contacts"][..], &["peers"], &["queue"]] {
        let listed = ok_json(&hub, list);
        let names: Vec<&str> =
            listed.as_array().expect("a list").iter().filter_map(|c| c["contact"].as_str()).collect();
        assert_eq!(names, ["anna", "bert", "carl", "dora", "emil"], "{list:?}");
    }
}

#[test]
fn guesses_are_near() {
    let base = tempfile::tempdir().expect("a folder");
    for (written, meant) in [("rename", "contacts --rename OLD=NEW"), ("history", "inbox"), ("status", "peers")] {
        assert!(fails(base.path(), &[written]).1.contains(&format!("see `peerloom {meant}`")), "{written}");
    }
    // Commands of commands are for nobody.
    for arguments in [&["--json"][..], &["bench-per"], &["benchpeer"], &["help"]] {
        let output = peerloom(base.path(), arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains("bench-peer"), "{arguments:?}: {said:.300}");
    }
    for (written, meant) in [("invte", "invite"), ("conatcts", "contacts"), ("inbx", "inbox"), ("--jsn", "--json")] {
        assert!(fails(base.path(), &[written]).1.contains(meant), "{written}");
    }
    for written in ["remove", "history", "delete", "list", "status", "--foo"] {
        let (code, complaint) = fails(base.path(), &[written]);
        assert!(code == 2 && !complaint.contains("similar"), "{written}: {complaint}");
    }
}

#[test]
fn no_override_is_ignored_in_silence() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    for (name, value, said) in [
        ("PEERLOOM_STORAGE_KIND", &b"sqlite"[..], "PEERLOOM__STORAGE__KIND"),
        ("PEERLOOM_DELIVERY_TTL", b"1d", "PEERLOOM__DELIVERY__TTL"),
        ("PEERLOOM__STORAGE__PATH", b"\xff", "not UTF-8"),
        ("PEERLOOM_PASSPHRASE", b"\xff", "not UTF-8"),
    ] {
        for arguments in [&["check", "--json"][..], &["inbox", "--json"]] {
            let output = command(&folder, arguments).env(name, OsStr::from_bytes(value)).output().expect("it runs");
            let message = refusal(&output)["message"].as_str().expect("a message").to_owned();
            assert!(output.status.code() == Some(2) && message.contains(name) && message.contains(said), "{message}");
        }
    }
}

#[test]
fn a_file_with_overrides_keeps_its_comments_and_order() {
    let base = tempfile::tempdir().expect("a folder");
    let [plain, set] = ["plain", "set"].map(|name| base.path().join(name));
    let arguments = ["init", "--name", "a", "--listen", "127.0.0.1:0"];
    let changes = ["--set", "storage.cache_mib=3", "--set", "delivery.ttl=1d", "--set", "discovery.1.kind=mdns"];
    ok(&plain, &arguments);
    ok(&set, &[&arguments[..], &changes].concat());
    let read = |folder: &Path| fs::read_to_string(folder.join("peerloom.toml")).expect("a file");
    let added = ["cache_mib = 3", "ttl = \"1d\"", "[[discovery]]", "kind = \"mdns\"", ""];
    let (plain, set) = (read(&plain), read(&set));
    let mut lines = set.lines();
    for line in plain.lines().filter(|line| !line.starts_with("ttl")) {
        let skipped: Vec<&str> = lines.by_ref().take_while(|l| *l != line).collect();
        assert!(skipped.iter().all(|line| added.contains(line)), "before `{line}`: {skipped:?}\n{set}");
    }
    assert!(added.iter().all(|line| set.contains(line)), "{set}");
}

#[test]
fn passphrases_are_read_whole_or_refused() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = base.path().join("vault");
    let vault = ["--set", "storage.kind=vault", "--set", "storage.inner.kind=redb"];
    ok(&folder, &[&["init", "--listen", "127.0.0.1:0"], &vault[..]].concat());
    let long = "long ".repeat(1000) + "end";
    let change = |from: &str, input: &str| {
        let mut child = command(&folder, &["db", "passphrase"])
            .env("PEERLOOM_PASSPHRASE", from)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
        child.wait_with_output().expect("an end")
    };
    for wrong in ["", "\n", "one\ntwo\n", &"x".repeat(100_000)] {
        assert!(!change("of the tests", wrong).status.success(), "{wrong:.20}");
    }
    assert!(change("of the tests", &format!("{long}\n")).status.success());
    let opens = |passphrase: &str| command(&folder, &["inbox"]).env("PEERLOOM_PASSPHRASE", passphrase).status();
    assert!(opens(&long).expect("it runs").success());
    assert!(!opens(&long[..1024]).expect("it runs").success());
    let file = base.path().join("secret");
    let write = |text: &str| {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&file);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
    };
    let from_file = format!("storage.passphrase_file={}", file.display());
    write(&format!("{long}\r\n"));
    ok(&folder, &["inbox", "--set", &from_file]);
    write(&format!("{long}\nmore\n"));
    assert!(fails(&folder, &["inbox", "--set", &from_file]).1.contains("several"));
}

#[test]
fn what_can_not_run_is_not_made() {
    let base = tempfile::tempdir().expect("a folder");
    // No socket's address is that long.
    let deep = base.path().join("deep");
    let long = deep.join("x".repeat(60)).join("y".repeat(60));
    let (code, complaint) = fails(&long, &["init"]);
    assert!(code == 2 && complaint.contains("too long") && !deep.exists(), "{complaint}");
    for arguments in [
        &["init", "--name", "a\nb"][..],
        &["init", "--name", ""],
        &["init", "--name", "\u{1b}[31m"],
        &["init", "--name", "al\u{2063}ice"],
        &["init", "--network", ""],
        &["init", "--network", "a\u{200b}b"],
        &["init", "--listen", "nowhere"],
        &["init", "--set", "storage.kind=vault"],
        &["init", "--set", "storage.path=../nowhere/store"],
    ] {
        let (_, complaint) = fails(&deep, arguments);
        assert!(!complaint.contains(['\u{1b}', '\u{2063}']) && !deep.exists(), "{arguments:?}: {complaint}");
    }
    let (code, complaint) = fails(&deep, &["init", "--name", &"x".repeat(5000)]);
    assert!(code == 2 && complaint.len() < 200 && complaint.contains("5000"), "{complaint}");
    // What was there before stays.
    fs::create_dir(&deep).expect("a folder");
    fs::write(deep.join("notes"), "mine").expect("a file");
    fails(&deep, &["init", "--set", "storage.path=../nowhere/store"]);
    let left: Vec<_> =
        fs::read_dir(&deep).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["notes"]);
    // The folder's own name may be anything.
    let odd = base.path().join("\u{1b}[31m\u{200b}");
    ok(&odd, &["init", "--listen", "127.0.0.1:0"]);
    assert_eq!(ok_json(&odd, &["id"])["name"], "[31m");
}

/// A full disk is called by its name, and nothing stands in the way of the next attempt.
#[test]
fn a_full_disk_is_no_missing_permission() {
    let base = tempfile::tempdir().expect("a folder");
    let run = |size: &str| {
        let script = "mount -t tmpfs -o size=$SIZE none \"$DISK\" || exit 77
            \"$COMMAND\" -C \"$DISK/node\" init --listen 127.0.0.1:0; code=$?
            find \"$DISK\" -mindepth 1 | grep . && [ $code != 0 ] && exit 99; exit $code";
        std::process::Command::new("unshare")
            .args(["-rm", "sh", "-c", script])
            .env("COMMAND", env!("CARGO_BIN_EXE_peerloom-under-test"))
            .env("DISK", base.path())
            .env("SIZE", size)
            .output()
    };
    let Some(output) = run("64m").ok().filter(|output| output.status.success()) else {
        peerloom_conformance::lab::skip("`unshare` gives no disk of the test's own");
        return;
    };
    assert!(text(&output.stdout).contains("peerloom.toml"));
    // No room for the file, for the store, for what the store writes first.
    for size in ["4k", "8k", "16k", "64k", "256k"] {
        let output = run(size).expect("it runs");
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{size}: {complaint}{}", text(&output.stdout));
        assert!(complaint.contains("full") && !complaint.contains("permission"), "{size}: {complaint}");
    }
}

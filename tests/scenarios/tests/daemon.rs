//! A daemon's manners: outputs that fail, files that run out, signals, silence, and commands side by side.

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Control, Running, command, eventually, init, introduce, ok, ok_json, ok_lines, peak, text};
use serde_json::{Value, json};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("/dev/full").into()
}

/// A pipe whose reader has gone.
fn broken() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(sent.expect("the command runs").success());
}

/// A command with other limits and signals than the test's.
fn in_shell(preparation: &str, folder: &Path, arguments: &[&str]) -> Command {
    let program = command(folder, arguments);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{preparation}; exec \"$0\" \"$@\"")).arg(program.get_program());
    shell.args(program.get_args()).env_remove("RUST_LOG").env("PEERLOOM_PASSPHRASE", "of the tests");
    shell
}

/// Ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every command that prints a result, with and without JSON.
const COMMANDS: [&[&str]; 19] = [
    &["--help"],
    &["--version"],
    &["send", "--help"],
    &["id"],
    &["check"],
    &["contacts"],
    &["peers"],
    &["queue"],
    &["queue", "retry"],
    &["inbox"],
    &["inbox", "--after", "0.0"],
    &["invite"],
    &["invite", "--qr"],
    &["send", "bob", "hello"],
    &["kinds"],
    &["kinds", "--schema"],
    &["kinds", "--markdown"],
    &["completions", "bash"],
    &["doctor"],
];

#[test]
fn a_result_that_cannot_be_printed_is_a_failure() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _nodes = (Running::start(&alice), Running::start(&bob));
    introduce(&alice, &bob);
    eventually("the contact", || ok(&alice, &["contacts"]).contains("bob"));
    ok(&bob, &["send", "alice", "something to show"]);
    eventually("the message", || !ok(&alice, &["inbox"]).is_empty());
    for arguments in COMMANDS {
        for more in [&[][..], &["--json"]] {
            let arguments = [arguments, more].concat();
            let output = command(&alice, &arguments).stdout(full()).output().expect("it runs");
            let complaint = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?} on a full disk: {complaint}");
            let said = ["standard output can't be written to", "No space left"].iter().all(|s| complaint.contains(s));
            assert!(said, "{arguments:?}: {complaint}");

            let whole = command(&alice, &arguments).output().expect("it runs");
            let output = command(&alice, &arguments).stdout(broken()).output().expect("it runs");
            let complaint = text(&output.stderr);
            assert_eq!(output.status.code(), whole.status.code(), "{arguments:?} without a reader: {complaint}");
            assert!(!complaint.contains("standard output") && !complaint.contains("panicked"), "{complaint}");
        }
    }
    // Those without a node, and with one of their own.
    let carol = base.path().join("carol");
    let output = command(&carol, &["init"]).stdout(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    for arguments in [&["db"][..], &["db", "check"], &["id"], &["check"]] {
        let output = command(&carol, arguments).stdout(full()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stderr));
        // What it can't complain about either, it does not panic about.
        let output = command(&carol, arguments).stdout(full()).stderr(full()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn a_node_outlives_its_outputs() {
    let base = tempfile::tempdir().expect("a folder");
    let bob = init(base.path(), "bob");
    let _bob = Running::start(&bob);
    let outputs: [(&str, fn() -> Stdio, fn() -> Stdio, &[i32]); 4] = [
        ("full", full, full, &[1]),
        ("broken", broken, broken, &[0]),
        // Nobody reads, and the pipe holds 64 KiB.
        ("unread", Stdio::piped, Stdio::null, &[0]),
        ("unread-log", Stdio::null, Stdio::piped, &[0]),
    ];
    for (name, stdout, stderr, codes) in outputs {
        let alice = init(base.path(), name);
        let child = command(&alice, &["run", "--json"])
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(stdout())
            .stderr(stderr())
            .spawn();
        let mut alice_runs = Ended(child.expect("a process"));
        eventually("the node to answer", || Control::connect(&alice).is_some());
        introduce(&alice, &bob);
        eventually("the contact", || ok(&bob, &["contacts"]).contains(name));
        let long = "x".repeat(100 * 1024);
        let mut control = Control::connect(&bob).expect("a node");
        for text in [&long, &long, "the last one"] {
            control.request(json!({ "op": "send", "contact": name, "text": text })).expect("an answer");
        }
        eventually("the messages", || ok(&alice, &["inbox"]).contains("the last one"));
        assert!(alice_runs.0.try_wait().expect("a status").is_none(), "{name}: the node has ended");
        signal("TERM", alice_runs.0.id());
        let mut status = None;
        eventually("the end", || {
            status = alice_runs.0.try_wait().expect("a status");
            status.is_some()
        });
        let code = status.and_then(|status| status.code());
        assert!(codes.iter().any(|wanted| code == Some(*wanted)), "{name}: {status:?}");
    }
}

/// Lines of a log that is still written.
fn lines(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().lines().count()
}

/// What an HTTP server answers; `None` if it doesn't.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

const FEW: &str = "ulimit -n 64";

#[test]
fn listeners_live_with_few_files() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let metrics = format!("127.0.0.1:{port}");
    let log = base.path().join("few.log");
    let child = in_shell(FEW, &alice, &["run", "--quiet", "--metrics", &metrics])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a log"))
        .spawn();
    let _alice = Ended(child.expect("a process"));
    eventually("the node to answer", || Control::connect(&alice).is_some());
    introduce(&alice, &bob);
    let _bob = Running::start(&bob);
    eventually("the contact", || ok(&alice, &["contacts"]).contains("bob"));

    let commands: Vec<_> = (0..100).filter_map(|_| UnixStream::connect(Control::socket(&alice)).ok()).collect();
    let figures: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(&metrics).ok()).collect();
    assert!(commands.len() > 64 && figures.len() > 64, "all were taken in or wait");
    eventually("a refusal", || {
        let output = command(&alice, &["id"]).output().expect("it runs");
        output.status.code() == Some(3) && text(&output.stderr).contains("too many commands")
    });
    // Others are none the worse.
    ok(&bob, &["send", "alice", "in the crowd"]);
    eventually("the delivery", || ok_json(&bob, &["queue"]).as_array().is_some_and(Vec::is_empty));
    // Connections to the figures that say nothing end by themselves.
    eventually("the figures", || get(&metrics, "/metrics").is_some_and(|text| text.contains("peerloom_links")));
    drop(commands);
    eventually("an answer", || command(&alice, &["id"]).output().expect("it runs").status.success());
    assert!(ok(&alice, &["inbox"]).contains("in the crowd"));
    drop(figures);
    assert!(lines(&log) < 50, "{}", fs::read_to_string(&log).unwrap_or_default());
}

#[test]
fn a_registry_lives_with_few_files() {
    let base = tempfile::tempdir().expect("a folder");
    let log = base.path().join("few.log");
    let child = in_shell(FEW, base.path(), &["registry", "--listen", "127.0.0.1:0", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).expect("a log"))
        .spawn();
    let mut registry = Ended(child.expect("a process"));
    let mut line = String::new();
    BufReader::new(registry.0.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let said: Value = serde_json::from_str(&line).expect("JSON");
    let address = said["listen"].as_str().expect("an address").to_owned();
    let crowd: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(&address).ok()).collect();
    assert!(crowd.len() > 64);
    // Each is closed after some seconds of silence, or at once.
    eventually("an answer in the crowd", || get(&address, "/openapi.json").is_some());
    drop(crowd);
    eventually("an answer", || get(&address, "/openapi.json").is_some());
    assert!(lines(&log) < 50, "{}", fs::read_to_string(&log).unwrap_or_default());
}

#[test]
fn a_node_that_does_not_answer_is_mentioned() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let running = Running::start(&alice);
    signal("STOP", running.pid());
    let child = command(&alice, &["id"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut asking = Ended(child.expect("a process"));
    let mut line = String::new();
    BufReader::new(asking.0.stderr.take().expect("its output")).read_line(&mut line).expect("a line");
    assert!(line.contains("doesn't answer"), "{line}");
    assert!(asking.0.try_wait().expect("a status").is_none(), "it still waits");
    signal("CONT", running.pid());
    assert!(asking.0.wait().expect("an end").success());
    // One that waits for events hears of it, too.
    let child = command(&alice, &["inbox", "--follow"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut following = Ended(child.expect("a process"));
    signal("STOP", running.pid());
    let mut line = String::new();
    BufReader::new(following.0.stderr.take().expect("its output")).read_line(&mut line).expect("a line");
    signal("CONT", running.pid());
    assert!(line.contains("doesn't answer"), "{line}");
}

#[test]
fn commands_side_by_side_need_no_node() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    drop(running);
    for round in 0..4 {
        let commands: Vec<Child> = (0..12)
            .map(|number| {
                let message = format!("{round}-{number}");
                let arguments: &[&str] = match number % 4 {
                    0 => &["contacts"],
                    1 => &["inbox"],
                    _ => &["send", "alice", &message],
                };
                let mut command = command(&bob, arguments);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process")
            })
            .collect();
        for child in commands {
            let output = child.wait_with_output().expect("an end");
            assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
        }
    }
    let waiting = ok_json(&bob, &["queue"]);
    let ids: HashSet<&str> = waiting.as_array().expect("a list").iter().filter_map(|e| e["id"].as_str()).collect();
    assert_eq!(ids.len(), 4 * 6, "each was accepted once: {waiting}");
    // A node takes over from commands that are about to end.
    let commands: Vec<Child> =
        (0..6).map(|_| command(&bob, &["id"]).stdout(Stdio::null()).spawn().expect("a process")).collect();
    let _bob = Running::start(&bob);
    commands.into_iter().for_each(|mut child| assert!(child.wait().expect("an end").success()));
}

#[test]
fn what_was_made_for_a_while_goes_with_a_signal() {
    let base = tempfile::tempdir().expect("a folder");
    for (name, arguments) in
        [("INT", &["demo", "--messages", "100000"][..]), ("TERM", &["demo"]), ("HUP", &["bench"]), ("TERM", &["bench"])]
    {
        if name == "HUP" && hangups_are_ignored() {
            continue;
        }
        let folder = base.path().join(format!("{name}-{}", arguments[0]));
        fs::create_dir(&folder).expect("a folder");
        let child = command(&folder, arguments)
            .current_dir(&folder)
            .env("TMPDIR", &folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = Ended(child.expect("a process"));
        // Something is in the folder that it made.
        let made = || fs::read_dir(&folder).expect("a folder").filter_map(Result::ok).next();
        eventually("its folder", || {
            made().is_some_and(|made| fs::read_dir(made.path()).is_ok_and(|mut inside| inside.next().is_some()))
        });
        signal(name, child.0.id());
        assert_eq!(child.0.wait().expect("an end").code(), Some(130), "{name} {arguments:?}");
        assert!(made().is_none(), "{name} {arguments:?}: {:?} is left", made());
    }
}

/// Whether these tests run under `nohup`, whose wish every child heeds.
fn hangups_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count()
}

#[test]
fn followers_that_have_gone_leave_nothing_open() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let running = Running::start(&alice);
    ok(&alice, &["id"]);
    let before = descriptors(running.pid());
    let mut followers: Vec<Control> = (0..30).map(|_| Control::connect(&alice).expect("a node")).collect();
    for follower in &mut followers {
        assert_eq!(follower.request(json!({ "op": "follow", "after": "0.0" })).expect("an answer")["ok"], Value::Null);
    }
    assert!(descriptors(running.pid()) >= before + 30);
    drop(followers);
    // Nothing happens meanwhile that would show the node that they have gone.
    eventually("the descriptors", || descriptors(running.pid()) <= before + 1);
}

/// However a client uses a connection, it takes a bounded part of the node, and hears why it gets no more.
#[test]
fn one_client_takes_no_more_than_its_part() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let running = Running::start(&alice);
    ok(&alice, &["id"]);
    let mut follower = Control::connect(&alice).expect("a node");
    let outcomes: Vec<Value> = (0..20)
        .map(|_| {
            follower.request(json!({ "op": "follow", "after": "0.0" })).expect("an answer")["error"]["kind"].clone()
        })
        .collect();
    assert_eq!(outcomes.iter().filter(|kind| kind.is_null()).count(), 8, "{outcomes:?}");
    assert!(outcomes[8..].iter().all(|kind| kind == "Overloaded"), "{outcomes:?}");

    // What is no request is answered, and ends its connection alone.
    for line in ["nonsense", r#"{"id":1,"op":"unheard-of"}"#, r#"{"id":1,"op":"inbox","limit":-1}"#] {
        let mut stream = UnixStream::connect(Control::socket(&alice)).expect("a node");
        stream.write_all(format!("{line}\n").as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the end");
        let answer: Value = serde_json::from_str(&answer).expect("one line");
        assert!(answer["id"].is_null() && answer["error"]["kind"] == "Malformed", "{line}: {answer}");
    }

    // Long lines that never end hold little, and end.
    let before = peak(running.pid());
    let begun: Vec<UnixStream> = (0..30)
        .map(|_| {
            let mut stream = UnixStream::connect(Control::socket(&alice)).expect("a node");
            stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            // Those that have no place are not read.
            let _ = stream.write_all(&vec![b'x'; 7 << 20]);
            stream
        })
        .collect();
    let grown = peak(running.pid()).saturating_sub(before);
    assert!(grown < 100, "30 clients take {grown} MiB");
    ok(&alice, &["id"]);
    let text = "x".repeat(500_000);
    let mut sender = Control::connect(&alice).expect("a node");
    let answer = sender.request(json!({ "op": "send", "contact": "nobody", "text": text })).expect("an answer");
    assert_eq!(answer["error"]["kind"], "NotFound", "it had its turn");
    drop(begun);
}

/// Aliases change: what became of a message says by id whose it was.
#[test]
fn events_of_messages_name_the_user() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _alice = Running::start(&alice);
    let bob_runs = Running::start(&bob);
    introduce(&alice, &bob);
    eventually("the contact", || ok(&alice, &["contacts"]).contains("bob"));
    let user = ok_json(&bob, &["id"])["user"].clone();
    let mut follower = Control::connect(&alice).expect("a node");
    follower.request(json!({ "op": "follow", "after": "0.0" })).expect("an answer");
    let mut becomes = |what: &str| loop {
        let event = follower.answer().expect("an event")["event"].clone();
        if event["event"] == what {
            return event;
        }
    };
    ok(&alice, &["send", "bob", "hello"]);
    assert_eq!(becomes("delivered")["user"], user);
    bob_runs.kill();
    ok(&alice, &["send", "bob", "too late", "--ttl", "1s"]);
    assert_eq!(becomes("failed")["user"], user);
}

#[test]
fn what_is_sent_on_one_connection_keeps_its_order() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _nodes = (Running::start(&alice), Running::start(&bob));
    introduce(&alice, &bob);
    eventually("the contact", || ok(&alice, &["contacts"]).contains("bob"));
    const COUNT: usize = 10_100;
    let mut control = Control::connect(&alice).expect("a node");
    let (mut asked, mut answered) = (0, 0);
    while answered < COUNT {
        while asked < COUNT && asked - answered < 1000 {
            control.ask(json!({ "op": "send", "contact": "bob", "text": asked.to_string() })).expect("a node");
            asked += 1;
        }
        assert!(control.answer().expect("an answer")["ok"]["id"].is_string());
        answered += 1;
    }
    let limit = "100000";
    eventually("all of them", || ok_json(&alice, &["queue"]).as_array().is_some_and(Vec::is_empty));
    // More than one answer of the node holds.
    let texts: Vec<String> = ok_lines(&bob, &["inbox", "--limit", limit])
        .iter()
        .map(|message| message["text"].as_str().expect("a text").to_owned())
        .collect();
    let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    assert!(texts == expected, "{} messages, or another order", texts.len());
    let newest = ok_lines(&bob, &["inbox", "--limit", "3"]);
    let newest: Vec<&str> = newest.iter().filter_map(|message| message["text"].as_str()).collect();
    assert_eq!(newest, ["10097", "10098", "10099"]);
}

#[test]
fn reading_long_messages_costs_a_page() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let sender = Running::start(&bob);
    eventually("the contact", || ok(&alice, &["contacts"]).contains("bob"));
    // Each byte takes six in JSON.
    const COUNT: usize = 40;
    let long = format!("x{}", "\u{1}".repeat(1024 * 1024 - 1));
    let mut control = Control::connect(&bob).expect("a node");
    for _ in 0..COUNT {
        let answer = control.request(json!({ "op": "send", "contact": "alice", "text": long })).expect("an answer");
        assert!(answer["ok"].is_object(), "{answer}");
    }
    eventually("the deliveries", || ok_json(&bob, &["queue"]).as_array().is_some_and(Vec::is_empty));
    drop((control, sender, running));
    let running = Running::start(&alice);
    let before = peak(running.pid());
    assert_eq!(ok_lines(&alice, &["inbox", "--limit", "100"]).len(), COUNT);
    // And one that catches up.
    let mut follower = Control::connect(&alice).expect("a node");
    follower.request(json!({ "op": "follow", "after": "0.0" })).expect("an answer");
    for _ in 0..COUNT {
        assert_eq!(follower.answer().expect("an event")["event"]["event"], "message");
    }
    let grown = peak(running.pid()) - before;
    assert!(grown < 100, "reading {COUNT} MiB took {grown} MiB more");
}

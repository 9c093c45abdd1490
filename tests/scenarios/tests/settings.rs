//! Values that `check` calls good run: for each number and duration of each kind, at the ends of its range and
//! beyond.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Registry, command, fails, init, ok};
use peerloom::config::{self, Delivery, FILE_NAME, General};
use peerloom::core::kinds::Range;
use peerloom::{Config, Event, Kinds, Layer, MessageState, Node, Override, builtin};
use serde_json::Value;

/// A number or a duration that a file may have.
struct Key {
    /// Overrides that choose its kind.
    kind: Vec<Override>,
    path: String,
    list: bool,
    range: Range,
}

fn set(path: &str, value: &str) -> Override {
    Override { path: path.into(), value: value.into() }
}

/// How a kind is chosen beside what the file has, and its table's path.
fn chosen(layer: Layer, kind: &str, registry: &str) -> (Vec<Override>, String) {
    let (place, mut overrides) = match (layer, kind) {
        (Layer::Storage, _) => ("storage".to_owned(), Vec::new()),
        (Layer::Transport, "quic") | (Layer::Discovery, "invite") | (Layer::Crypto, _) => {
            (format!("{layer}.0"), Vec::new())
        }
        _ => (format!("{layer}.1"), Vec::new()),
    };
    overrides.push(set(&format!("{place}.kind"), kind));
    match kind {
        "registry" => overrides.push(set(&format!("{place}.url"), registry)),
        "vault" => overrides.push(set(&format!("{place}.inner.kind"), "redb")),
        _ => {}
    }
    (overrides, place)
}

/// Every key with a range; one that should have a range and has none is a fault.
fn all_keys(kinds: &Kinds, registry: &str) -> Vec<Key> {
    let mut tables = vec![
        (Vec::new(), String::new(), config::schema_of::<General>()),
        (Vec::new(), "delivery".to_owned(), config::schema_of::<Delivery>()),
    ];
    for kind in kinds.describe() {
        let (overrides, place) = chosen(kind.layer, kind.name, registry);
        tables.push((overrides, place, kind.schema.clone()));
    }
    let mut keys = Vec::new();
    for (kind, place, schema) in tables {
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{place}.{name}");
            let range = Range::of(property);
            assert!(range.is_some() || !Range::is_needed(property), "{path} has no range: {property}");
            let list = property["type"] == "array";
            keys.extend(range.map(|range| Key { kind: kind.clone(), path, list, range }));
        }
    }
    keys
}

impl Key {
    fn value(&self, value: &str) -> Override {
        set(&self.path, &if self.list { format!("[{value}]") } else { value.to_owned() })
    }

    /// The ends of its range.
    fn ends(&self) -> Vec<String> {
        match self.range {
            Range::Number { lowest, highest } => vec![lowest.to_string(), highest.to_string()],
            Range::Duration { shortest, longest } => vec![format!("\"{shortest}\""), format!("\"{longest}\"")],
        }
    }

    /// Values that are none.
    fn beyond(&self) -> Vec<String> {
        match self.range {
            Range::Number { lowest, highest } => vec![
                (lowest - 1).to_string(),
                (highest + 1).to_string(),
                i64::MIN.to_string(),
                i64::MAX.to_string(),
                "18446744073709551615".into(),
                "99999999999999999999999999".into(),
                "0.5".into(),
                "nan".into(),
                "\"7\"".into(),
            ],
            Range::Duration { shortest, longest } => vec![
                format!("\"{}ms\"", shortest.0.as_millis() as u64 - 1),
                format!("\"{}ms\"", longest.0.as_millis() as u64 + 1),
                "\"0s\"".into(),
                "\"18446744073709551615s\"".into(),
                "\"18446744073709551615ms\"".into(),
                "\"99999999999999999999999999y\"".into(),
                "\"-1s\"".into(),
                "7".into(),
            ],
        }
    }
}

/// A node with these overrides, on the network.
async fn node(folder: &Path, overrides: &[Override], kinds: &Kinds) -> Node {
    let config = Config::load(&folder.join(FILE_NAME), overrides, kinds).expect("a configuration");
    let node = Node::open(&config).await.expect("a node");
    node.start().await.expect("a network");
    node
}

#[test]
fn values_beyond_their_range_are_refused_with_their_place() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let kinds = builtin::kinds().expect("kinds");
    let keys = all_keys(&kinds, "http://127.0.0.1:1");
    assert!(keys.len() >= 12, "only {} keys", keys.len());
    for key in &keys {
        for value in key.beyond() {
            let change = key.value(&value);
            let overrides = [key.kind.clone(), vec![change.clone()]].concat();
            let refused = Config::load(&alice.join(FILE_NAME), &overrides, &kinds);
            let error = refused.expect_err(&format!("{}={}", change.path, change.value));
            let place = format!("{}={}", change.path, change.value);
            assert!(error.message().contains(&place[..place.len().min(60)]), "{place}: {}", error.message());
        }
    }
    let set = "delivery.ack_timeout=18446744073709551615s";
    let (code, complaint) = fails(&alice, &["check", "--set", set]);
    assert!(code == 2 && complaint.contains("it takes from 100ms to 1h"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_at_the_ends_of_their_range_run() {
    let base = tempfile::tempdir().expect("a folder");
    let registry = Registry::start(base.path());
    let kinds = builtin::kinds().expect("kinds");
    let bob_folder = init(base.path(), "bob");
    let bob = node(&bob_folder, &[], &kinds).await;
    for (number, key) in all_keys(&kinds, &registry.url).into_iter().enumerate() {
        for (end, value) in key.ends().into_iter().enumerate() {
            let change = key.value(&value);
            let case = format!("{}={}", change.path, change.value);
            let mut overrides = [key.kind.clone(), vec![change]].concat();
            // No key's range may depend on another's value, but for this rule.
            if key.path.ends_with("keep_alive") {
                overrides.push(set(&key.path.replace("keep_alive", "idle_timeout"), "10m"));
            }
            if key.path.ends_with("idle_timeout") {
                overrides.push(set(&key.path.replace("idle_timeout", "keep_alive"), "100ms"));
            }
            let folder = base.path().join(format!("{number}-{end}"));
            let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port();
            let listen = format!("127.0.0.1:{port}");
            let mut arguments = vec!["init".to_owned(), "--network".into(), "test".into(), "--listen".into(), listen];
            arguments.extend(overrides.iter().flat_map(|o| ["--set".to_owned(), format!("{}={}", o.path, o.value)]));
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            ok(&folder, &arguments);
            assert!(ok(&folder, &["check"]).contains("good"), "{case}");
            let alice = node(&folder, &[], &kinds).await;
            let contact =
                alice.add_contact(bob.invite(Duration::from_secs(3600), 1).await.expect(&case)).await.expect(&case);
            let mut events = alice.events().await.expect(&case);
            let sent = alice.conversation(&contact).send("hello").await.expect(&case);
            let delivery = async {
                loop {
                    match events.next().await {
                        Some(Event::Receipt { messages, state: MessageState::Delivered, .. })
                            if messages.contains(&sent) =>
                        {
                            return;
                        }
                        Some(_) => {}
                        None => panic!("{case}: the node has ended: {:?}", alice.failure()),
                    }
                }
            };
            tokio::time::timeout(common::PATIENCE, delivery).await.unwrap_or_else(|_| panic!("{case}: no delivery"));
            alice.retry(None).await.expect(&case);
            assert!(alice.failure().is_none(), "{case}");
            alice.shutdown().await;
        }
    }
}

#[test]
fn what_is_wrong_is_told_within_bounds() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let path = alice.join(FILE_NAME);
    let good = std::fs::read_to_string(&path).expect("the file");
    let lines = good.lines().count();
    let deep =
        |before: &str, inner: &str, after: &str| format!("{}1{}", before.repeat(5000), after.repeat(5000)) + inner;
    let cases = [
        // However a table is nested too deeply, the line is told.
        format!("x = {}", deep("[", "", "]")),
        format!("x = {}", deep("{a=", "", "}")),
        format!("x{} = 1", ".x".repeat(20_000)),
        format!("[x{}]", ".x".repeat(20_000)),
        format!("[storage.inner{}]\nkind = \"redb\"", ".inner".repeat(70)),
    ];
    for case in cases {
        std::fs::write(&path, format!("{good}\n{case}\n")).expect("the file");
        let (code, complaint) = fails(&alice, &["check"]);
        assert_eq!(code, 2, "{complaint}");
        assert!(complaint.contains(&format!("{FILE_NAME}:")), "{complaint}");
        let line = complaint.split(&format!("{FILE_NAME}:")).nth(1).and_then(|rest| rest.split(':').next());
        let line: usize = line.and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("no line: {complaint}"));
        assert!(line > 1 && line <= lines + 3, "{complaint}");
    }
    // Many problems, and values that are long.
    let many: String = (0..20_000).map(|number| format!("key{number} = {number}\n")).collect();
    std::fs::write(&path, format!("{many}{good}")).expect("the file");
    let (_, complaint) = fails(&alice, &["check"]);
    assert!(complaint.contains("… and 19980 more problems") && complaint.lines().count() < 30, "{complaint}");
    for (from, to) in [
        ("\"redb\"", format!("\"{}\"", "r".repeat(300_000))),
        ("\"7d\"", format!("\"{}\"", "7".repeat(300_000))),
        ("network =", format!("{} = 1\nnetwork =", "k".repeat(300_000))),
    ] {
        std::fs::write(&path, good.replace(from, &to)).expect("the file");
        let (_, complaint) = fails(&alice, &["check"]);
        assert!(complaint.len() < 3000, "{} bytes: {complaint:.500}", complaint.len());
    }
    std::fs::write(&path, &good).expect("the file");
    for change in [
        format!("storage.kind={}", "r".repeat(100_000)),
        format!("{}=1", "a.".repeat(30_000)),
        format!("storage.path={}", "[".repeat(50_000)),
    ] {
        let (_, complaint) = fails(&alice, &["check", "--set", &change]);
        assert!(complaint.len() < 3000, "{} bytes: {complaint:.500}", complaint.len());
    }
    for name in ["storage", "transport", "discovery", "crypto", "delivery"] {
        for value in ["", "3", "[]", "[{}]", "true"] {
            let (code, complaint) = fails(&alice, &["check", "--set", &format!("{name}={value}")]);
            assert!(code == 2 && complaint.contains(&format!("[{name}]")), "{name}={value}: {complaint}");
        }
    }
    for taken in ["node.sock", "peerloom.toml", "./store.id", "STORE.ID", "node.sock.lock", "store.redb-journal"] {
        let (code, complaint) = fails(&alice, &["check", "--set", &format!("storage.path={taken}")]);
        assert!(code == 2 && complaint.contains("a file that the node makes itself"), "{complaint}");
    }
}

/// Each wrong value and each unknown key has a line, whatever else is wrong in its table.
#[test]
fn check_says_everything_that_is_wrong() {
    let base = tempfile::tempdir().expect("a folder");
    let file = base.path().join("several.toml");
    let text = r#"name = "x"
network = "n"
[[transport]]
kind = "quic"
listen = "x"
keep_alive = "x"
idle_timeout = "0s"
unheard = 1
[[discovery]]
kind = "invite"
[storage]
kind = "redb"
path = 3
cache_mib = "8"
[[crypto]]
kind = "mls-classical"
[delivery]
ttl = "0s"
max_links = 1979-05-27
retry_delays = [1, "2s", "x"]
max_queued_bytes = inf
other = 1
"#;
    std::fs::write(&file, text).expect("a file");
    let output = command(base.path(), &["check", &file.to_string_lossy()]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    let lines: Vec<usize> = (1..=text.lines().count()).filter(|n| said.contains(&format!(".toml:{n}:"))).collect();
    assert_eq!(lines, [5, 6, 7, 8, 13, 14, 18, 19, 20, 21, 22], "{said}");
}

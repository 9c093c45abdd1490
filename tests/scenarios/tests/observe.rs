//! What a node tells of itself: logs that follow a message, and figures.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use common::{Control, eventually, fails, init, introduce, ok, ok_json};
use serde_json::Value;

struct Observed {
    child: Child,
    log: std::path::PathBuf,
    metrics: String,
}

impl Observed {
    fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let metrics = format!("127.0.0.1:{port}");
        let log = folder.join("log");
        let child = common::command(folder, &["run", "--quiet", "--log", "json", "--metrics", &metrics])
            .env("RUST_LOG", "peerloom=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a file"))
            .spawn()
            .expect("a process");
        eventually("the node to answer", || Control::connect(folder).is_some());
        Self { child, log, metrics }
    }

    /// Every line of the log; each must be JSON.
    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).expect("a log");
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The first line with this message about this id.
    fn about(&self, id: &str, what: &str) -> Option<Value> {
        let fits = |line: &Value| line["fields"]["message"] == what && line.to_string().contains(id);
        self.lines().into_iter().find(fits)
    }

    fn figure(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(&self.metrics).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_message_can_be_followed_and_is_counted() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let (sender, receiver) = (Observed::start(&alice), Observed::start(&bob));
    introduce(&bob, &alice);
    let id = ok_json(&alice, &["send", "bob", "follow me"])["id"].as_str().expect("an id").to_owned();
    eventually("the delivery", || sender.about(&id, "delivered").is_some());

    // The same id and position lead through both nodes.
    for step in ["accepted", "sealed"] {
        assert!(sender.about(&id, step).is_some(), "{step}");
    }
    let sealed = sender.about(&id, "sealed").expect("a line");
    let opened = receiver.about(&id, "opened").expect("a line");
    let place = |line: &Value| {
        let spans = line["spans"].as_array().expect("spans").clone();
        let entry = spans.into_iter().find(|span| span["name"] == "entry").expect("an entry");
        (entry["conversation"].clone(), entry["position"].clone())
    };
    assert_eq!(place(&sealed), place(&opened));
    let says = |node: &Observed, what: &str| node.lines().iter().any(|line| line["fields"]["message"] == what);
    assert!(says(&sender, "goes out") && says(&sender, "durable"));
    assert!(says(&receiver, "acknowledges") && says(&receiver, "durable"));
    // What was said stays between the two.
    assert!(sender.lines().iter().all(|line| !line.to_string().contains("follow me")));

    assert_eq!(sender.figure("peerloom_messages_accepted_total"), Some(1.0));
    assert_eq!(receiver.figure("peerloom_messages_received_total"), Some(1.0));
    eventually("the figure", || sender.figure("peerloom_messages_delivered_total") == Some(1.0));
    assert_eq!(sender.figure("peerloom_links"), Some(1.0));
    assert!(sender.figure("peerloom_commit_seconds_count").expect("a figure") > 0.0);
    assert_eq!(sender.figure("peerloom_commit_failures_total"), Some(0.0));

    let carol = init(base.path(), "carol");
    let (code, complaint) = fails(&carol, &["run", "--metrics", &sender.metrics]);
    assert!(code == 2 && complaint.contains("give --metrics another one"), "{complaint}");
}

#[test]
fn text_logs_have_no_colours_where_there_is_no_terminal() {
    let base = tempfile::tempdir().expect("a folder");
    let alice = init(base.path(), "alice");
    let output = common::command(&alice, &["invite", "-vv"]).env_remove("NO_COLOR").output().expect("it runs");
    let log = common::text(&output.stderr);
    assert!(log.contains("DEBUG") && !log.contains('\u{1b}'), "{log}");
    assert!(!ok(&alice, &["kinds"]).contains('\u{1b}'));
}

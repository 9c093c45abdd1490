//! Running the command.
#![allow(dead_code, unreachable_pub)]

pub mod by_hand;
pub mod stranger;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use peerloom_core::wire::Invitation;
pub use peerloom_test_control::Control;
use serde_json::{Value, json};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The command on a folder.
pub fn peerloom(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the command runs")
}

pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerloom-under-test"));
    command.arg("-C").arg(folder).args(arguments).env_remove("RUST_LOG").env("NO_COLOR", "1");
    command.env("PEERLOOM_PASSPHRASE", "of the tests");
    command
}

/// The command's result; panics with its complaint when it fails.
pub fn ok(folder: &Path, arguments: &[&str]) -> String {
    let output = peerloom(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The command's JSON result.
pub fn ok_json(folder: &Path, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&ok(folder, &arguments)).expect("JSON")
}

/// The command's JSON results, one a line.
pub fn ok_lines(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let arguments = [arguments, &["--json"]].concat();
    ok(folder, &arguments).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The complaint and exit code of a command that must fail.
pub fn fails(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = peerloom(folder, arguments);
    assert!(!output.status.success(), "{arguments:?} should fail: {}", text(&output.stdout));
    let complaint = text(&output.stderr);
    assert!(!complaint.contains("panicked"), "{complaint}");
    (output.status.code().expect("an exit code"), complaint)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a node that listens on loopback.
pub fn init(base: &Path, name: &str) -> PathBuf {
    init_with(base, name, &[])
}

/// The `--set` arguments that choose each store.
pub const STORES: [&[&str]; 3] = [
    &["--set", "storage.kind=redb"],
    &["--set", "storage.kind=sqlite"],
    &["--set", "storage.kind=vault", "--set", "storage.inner.kind=redb"],
];

/// The `--set` arguments that choose the stateless crypto.
pub const SEALED: &[&str] = &["--set", "crypto.0.kind=sealed-classical"];

/// A registry in a process of its own; killed when dropped.
pub struct Registry {
    child: Child,
    pub url: String,
}

impl Registry {
    pub fn start(base: &Path) -> Self {
        Self::start_at(base, "127.0.0.1:0", &[])
    }

    pub fn start_at(base: &Path, listen: &str, more: &[&str]) -> Self {
        let arguments = [&["registry", "--listen", listen, "--json"], more].concat();
        let mut child =
            command(base, &arguments).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("a process");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("JSON");
        let url = format!("http://{}", said["listen"].as_str().expect("an address"));
        Self { child, url }
    }

    /// The `--set` arguments that choose WebRTC and this registry.
    pub fn webrtc(&self) -> Vec<String> {
        let url = format!("discovery.1.url={}", self.url);
        let set = ["transport.0.kind=webrtc", "discovery.1.kind=registry", &url];
        set.into_iter().flat_map(|set| ["--set".to_owned(), set.to_owned()]).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a node over WebRTC.
pub fn init_webrtc(base: &Path, name: &str, registry: &Registry) -> PathBuf {
    let set = registry.webrtc();
    init_with(base, name, &set.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same with more arguments.
pub fn init_with(base: &Path, name: &str, more: &[&str]) -> PathBuf {
    let folder = base.join(name);
    let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port();
    let listen = format!("127.0.0.1:{port}");
    // Where it listens is said once.
    let set = more.iter().any(|argument| argument.starts_with("transport.0.listen="));
    let listen: &[&str] = if set { &[] } else { &["--listen", &listen] };
    ok(&folder, &[&["init", "--name", name, "--network", "test"], listen, more].concat());
    folder
}

/// What a node of a test logs, to a file beside its folder.
const LOGGED: &str = "info,peerloom_engine=debug,peerloom_transport_webrtc=debug,peerloom_discovery_registry=debug";
/// Lines of it that a failing test shows.
const SHOWN: usize = 100;

/// A node in a process of its own; killed when dropped, and then it shows its log if the test fails.
pub struct Running {
    pub folder: PathBuf,
    child: Child,
}

impl Running {
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    pub fn start_with(folder: &Path, more: &[&str]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(folder.with_extension("log"));
        let child = command(folder, &[&["run", "--quiet"], more].concat())
            .env("RUST_LOG", LOGGED)
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("a process");
        let mut running = Self { folder: folder.to_path_buf(), child };
        eventually("the node to answer", || {
            assert!(running.child.try_wait().expect("a status").is_none(), "the node ended at once");
            Control::connect(folder).is_some()
        });
        running
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGINT, as by Ctrl-C, and then its end.
    pub fn interrupt(mut self) {
        let sent = Command::new("kill").arg("-INT").arg(self.pid().to_string()).status();
        assert!(sent.expect("the command runs").success());
        self.child.wait().expect("an end");
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("an end");
    }
}

impl Drop for Running {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.with_extension("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            eprintln!("what {} logged last:\n{last}\n", self.folder.display());
        }
    }
}

/// The most memory that a process has had, in MiB.
pub fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).expect("a number") / 1024
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes two nodes contacts of each other; `first` must be running.
pub fn introduce(first: &Path, second: &Path) {
    let link = ok(first, &["invite"]);
    ok(second, &["add", link.trim()]);
}

/// An invitation of a running node.
pub fn invitation(folder: &Path) -> Invitation {
    peerloom_discovery_invite::decode(&ok(folder, &["invite"])).expect("an invitation")
}

/// The ids of everything a node has received.
pub fn inbox_ids(folder: &Path) -> Vec<String> {
    let mut control = Control::connect(folder).expect("a running node");
    let mut ids = Vec::new();
    let mut after = "0.0".to_owned();
    loop {
        let answer = control.request(json!({ "op": "inbox", "after": after, "limit": 5000 })).expect("an answer");
        let page = answer["ok"].as_array().expect("messages").clone();
        let Some(last) = page.last() else { return ids };
        after = last["cursor"].as_str().expect("a cursor").to_owned();
        ids.extend(page.iter().map(|m| m["id"].as_str().expect("an id").to_owned()));
    }
}

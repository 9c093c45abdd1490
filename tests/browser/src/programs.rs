//! The guests' programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use peerloom_netlab::{Process, say, skip};

/// Names that Chromium and its like have.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// A guest's process, killed when dropped, and the folder it works in.
pub struct Program {
    // Dropped before the folder is removed.
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Program {
    fn start(name: &str, command: Command, folder: tempfile::TempDir) -> Self {
        let log = folder.path().join("log");
        Self { _process: Process::start(name, command, &log), _folder: folder }
    }
}

/// Opens a page in a headless browser, in a fresh profile. It may use the microphone, and so is told its addresses.
/// `None`, with a line on stderr, where there is no browser.
pub fn browser(url: &str) -> Option<Program> {
    open(url, &["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"])
}

/// The same for a page that gets names of multicast DNS in place of its addresses.
pub fn browser_that_hides(url: &str) -> Option<Program> {
    // Such a page is given the address towards the default route and no other.
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    if !routes.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000")) {
        say("skipped: without a default route the browser finds no way to anywhere");
        return None;
    }
    open(url, &[])
}

fn open(url: &str, more: &[&str]) -> Option<Program> {
    let Some(browser) = BROWSERS.into_iter().find(|name| answers(Path::new(name))) else {
        skip("there is no Chromium; tests/setup-lab.sh installs it");
        return None;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-quic", "--enable-logging=stderr"]);
    command.arg("--allow-loopback-in-peer-connection").args(more);
    command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
    command.arg(url);
    Some(Program::start("the browser", command, folder))
}

/// Runs the guest in Python. `None`, with a line on stderr, where its packages are missing.
pub fn python(url: &str) -> Option<Program> {
    let python = environment().join("bin/python");
    let there = answers(&python) && imports(&python);
    if !there {
        skip("there is no Python with aiortc; tests/setup-lab.sh installs it");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(python);
    // No traces in the repository.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/aiortc/main.py")).arg(url);
    Some(Program::start("the guest in Python", command, folder))
}

/// Where `tests/setup-lab.sh` puts the Python packages.
fn environment() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("PEERLOOM_LAB_VENV").unwrap_or_else(|| {
        let home = || variable("HOME").unwrap_or_else(|| "/tmp".into()).join(".cache");
        variable("XDG_CACHE_HOME").unwrap_or_else(home).join("peerloom-lab/venv")
    })
}

fn answers(program: &Path) -> bool {
    let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

fn imports(python: &Path) -> bool {
    let tried = Command::new(python).args(["-c", "import aiortc, websockets"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

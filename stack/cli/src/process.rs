//! Nodes in processes of their own, for `demo` and `bench`.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use peerloom::{Error, ErrorKind, Result};
use tokio::process::{Child, Command};

use crate::control::Client;
use crate::output::{lost, note};
use crate::signals::interrupted;

/// How long a node may take to answer.
const READY: Duration = Duration::from_secs(20);

/// How often a folder is tried to be removed, and the pause between.
const REMOVALS: usize = 40;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(50);

/// A node in a process of its own; killed when dropped.
pub(crate) struct NodeProcess {
    child: Child,
    pub(crate) client: Client,
    /// From the start of the process until it answered.
    pub(crate) ready_after: Duration,
}

impl NodeProcess {
    /// Runs this program's `run` on a folder.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let begin = Instant::now();
        let mut child = program()?
            .arg("-C")
            .arg(folder)
            .args(["run", "--quiet"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(ErrorKind::System, "the program can't be started").with_source(e))?;
        loop {
            if let Some(client) = Client::connect(folder).await? {
                return Ok(Self { child, client, ready_after: begin.elapsed() });
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(failed(
                    ErrorKind::Closed,
                    &format!("a node ended at once ({status}); its message stands above"),
                ));
            }
            if begin.elapsed() > READY {
                return Err(failed(ErrorKind::Timeout, "a node doesn't answer"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills it as a crash would: SIGKILL, no clean-up.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.map_err(|e| failed(ErrorKind::System, "a node can't be killed").with_source(e))
    }
}

/// A folder of its own for a demonstration or a measurement, removed with all that is in it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(inside: &Path, prefix: &str) -> Result<Self> {
        let made = tempfile::Builder::new().prefix(prefix).disable_cleanup(true).tempdir_in(inside);
        let failed =
            |e| failed(ErrorKind::Storage, &format!("no folder can be made in {}", inside.display())).with_source(e);
        made.map(|folder| Self(folder.path().to_path_buf())).map_err(failed)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nodes that were killed a moment ago may still be making files in it.
        for _ in 0..REMOVALS {
            match std::fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(BETWEEN_REMOVALS),
                _ => return,
            }
        }
        note(&format!("note: {} can't be removed", self.0.display()));
    }
}

/// Does something until it is done, a signal ends it, or nobody reads what it prints.
pub(crate) async fn until_ended(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::select! {
        biased;
        () = interrupted() => Ok(ExitCode::from(130)),
        () = lost() => Ok(ExitCode::SUCCESS),
        done = work => done,
    }
}

/// This very program.
pub(crate) fn program() -> Result<Command> {
    let path = std::env::current_exe()
        .map_err(|e| failed(ErrorKind::System, "the program doesn't find itself").with_source(e))?;
    Ok(Command::new(path))
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Processor time a process has used, in clock ticks of 10 ms.
pub(crate) fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th after it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
}

fn failed(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, "process", "run a node", message)
}

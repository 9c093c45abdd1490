//! Nodes in processes of their own, for `demo` and `bench`.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use peerloom::{Error, ErrorKind, Result};
use tokio::process::{Child, Command};

use crate::control::Client;

/// How long a node may take to answer.
const READY: Duration = Duration::from_secs(20);

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
            .map_err(|e| failed("the program can't be started").source(e))?;
        loop {
            if let Some(client) = Client::connect(folder).await {
                return Ok(Self { child, client, ready_after: begin.elapsed() });
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(failed(&format!("a node ended at once ({status}); its message stands above")));
            }
            if begin.elapsed() > READY {
                return Err(failed("a node doesn't answer"));
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
        self.child.kill().await.map_err(|e| failed("a node can't be killed").source(e))
    }
}

/// This very program.
pub(crate) fn program() -> Result<Command> {
    let path = std::env::current_exe().map_err(|e| failed("the program doesn't find itself").source(e))?;
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

fn failed(message: &str) -> Error {
    Error::new(ErrorKind::Bug, "process", "run a node", message)
}

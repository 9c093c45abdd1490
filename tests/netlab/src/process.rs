//! Programs that run in a namespace.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{eventually, say};

/// Lines of a log that are shown when a test fails.
const TAIL: usize = 80;

/// A running program. It is killed when dropped, with the processes it has started. If that is because a test failed,
/// the end of what it wrote is shown.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program that writes to a file.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log");
        let again = file.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(file).stderr(again).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { name: name.into(), child, log: log.into() }
    }

    /// Waits until it listens at an address, over UDP or TCP.
    pub fn wait_listening(&mut self, protocol: &str, address: SocketAddr) {
        let SocketAddr::V4(v4) = address else { panic!("the lab has IPv4 addresses only") };
        // The kernel shows the address's bytes as one number, in the machine's order (proc_net_tcp(5)).
        let place = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
        let what = format!("{} to listen at {address}", self.name);
        let table = format!("/proc/{}/net/{protocol}", self.child.id());
        eventually(&what, || {
            self.assert_running();
            let sockets = fs::read_to_string(&table).unwrap_or_default();
            sockets.lines().any(|line| line.split_whitespace().nth(1) == Some(place.as_str()))
        });
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        eventually(&format!("{} to end", self.name), || self.child.try_wait().is_ok_and(|ended| ended.is_some()));
    }

    /// Panics with the end of its log if it has ended.
    pub fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("a status");
        assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
    }

    /// Shows the end of what it wrote.
    pub fn show(&self) {
        let written = fs::read(&self.log).unwrap_or_default();
        let written = String::from_utf8_lossy(&written);
        let lines: Vec<&str> = written.lines().collect();
        say(&format!("--- the end of what {} wrote", self.name));
        lines[lines.len().saturating_sub(TAIL)..].iter().for_each(|line| say(line));
    }

    /// SIGKILL.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It was started as the leader of a group. It may have ended by itself.
        let group = format!("kill -KILL -{}", self.child.id());
        let _ = Command::new("sh").args(["-c", &group]).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.show();
        }
    }
}

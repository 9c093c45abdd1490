//! Network namespaces.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// What the names of all our namespaces begin with.
const PREFIX: &str = "peerloom-";

/// A network namespace: a machine, as far as networks are concerned. Removed when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with its loopback up.
    pub fn new(role: &str) -> Self {
        let namespace = Self { name: format!("{PREFIX}{}-{role}", std::process::id()) };
        run(Command::new("ip").args(["netns", "add", &namespace.name]));
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on its interfaces, with these arguments.
    pub fn ip(&self, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_ascii_whitespace()));
    }

    /// A program to be run in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Loads firewall rules, in the language of `nft -f`.
    pub fn firewall(&self, rules: &str) {
        self.load(rules).unwrap_or_else(|why| panic!("{why}"));
    }

    fn load(&self, rules: &str) -> Result<(), String> {
        let mut nft = self.command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn().map_err(|e| format!("ip: {e}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // If it ends before it has read them, its complaint says more than this error.
            let _ = stdin.write_all(rules.as_bytes());
        }
        check(&child.wait_with_output().map_err(|e| format!("nft: {e}"))?, rules)
    }

    /// Sets one of the kernel's variables, by its path below `/proc/sys`.
    pub fn set(&self, variable: &str, value: &str) {
        run(self.command("sh").arg("-c").arg(format!("echo {value} > /proc/sys/{variable}")));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its processes were ended before; whatever remains is removed by the next run.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Joins two namespaces by a cable; the ends have these names.
pub(crate) fn join(one: (&Namespace, &str), other: (&Namespace, &str)) {
    let ends = ["link", "add", one.1, "netns", one.0.name(), "type", "veth"];
    run(Command::new("ip").args(ends).args(["peer", "name", other.1, "netns", other.0.name()]));
}

/// Removes the namespaces of runs that were killed, and ends what still runs in them. No lab may be in use.
pub(crate) fn sweep() {
    let listed = Command::new("ip").args(["netns", "list"]).output().expect("ip runs");
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()).filter(|n| n.starts_with(PREFIX)) {
        let inside = Command::new("ip").args(["netns", "pids", name]).output().expect("ip runs");
        for process in String::from_utf8_lossy(&inside.stdout).split_whitespace() {
            // It may have ended by itself.
            let _ = Command::new("kill").args(["-KILL", process]).output();
        }
        let _ = Command::new("ip").args(["netns", "del", name]).output();
    }
}

/// Whether what a lab is made of can be made here; if not, why.
pub(crate) fn possible() -> Result<(), String> {
    let probe = Namespace { name: format!("{PREFIX}{}-probe", std::process::id()) };
    let why = |why: String| format!("there can be no network lab here; it takes root and a capable kernel ({why})");
    attempt(Command::new("ip").args(["netns", "add", &probe.name])).map_err(why)?;
    for arguments in ["link add one type veth peer name other", "link add bridge type bridge"] {
        let mut ip = Command::new("ip");
        attempt(ip.args(["-n", &probe.name]).args(arguments.split_ascii_whitespace())).map_err(why)?;
    }
    let rules = "table ip nat {\nchain c { type nat hook postrouting priority 100; masquerade fully-random; }\n}\n";
    probe.load(rules).map_err(why)
}

fn run(command: &mut Command) {
    attempt(command).unwrap_or_else(|why| panic!("{why}"));
}

fn attempt(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    check(&output, &format!("{command:?}"))
}

fn check(output: &Output, what: &str) -> Result<(), String> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{what}: {}", complaint.trim())) }
}

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
        let mut nft = self.command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn().expect("nft runs");
        child.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("nft reads its rules");
        let output = child.wait_with_output().expect("nft ends");
        check(&output, rules);
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

/// Whether this process may make namespaces at all; if not, why.
pub(crate) fn possible() -> Result<(), String> {
    let name = format!("{PREFIX}{}-probe", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    let made = made.map_err(|e| format!("`ip` can't be run: {e}"))?;
    let _ = Command::new("ip").args(["netns", "del", &name]).output();
    if made.status.success() {
        Ok(())
    } else {
        let why = String::from_utf8_lossy(&made.stderr);
        Err(format!("network namespaces can't be made here: {}", why.trim().lines().next().unwrap_or_default()))
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program runs");
    check(&output, &format!("{command:?}"));
}

fn check(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

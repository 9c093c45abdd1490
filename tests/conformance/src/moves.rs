//! What every transport must do when the machine's addresses change.

use std::process::Command;
use std::sync::Arc;

use peerloom_core::interfaces::{Scope, scope};
use peerloom_core::names::canonical;
use peerloom_core::wire::Address;
use peerloom_core::{Listener, StreamTransport};

use crate::lab::skip;
use crate::stream::secured;
use crate::transport::{Side, connect};

/// How often the machine moves.
const MOVES: usize = 2;

/// Runs the suite over two transports that can reach each other; `move_on` changes the addresses of the machine that
/// both are on.
pub async fn run(dialer: Side, listener: Side, mut move_on: impl FnMut()) {
    let mut accepting = listener.transport.listen(listener.signaling.clone()).await.expect("it listens");
    let _dialer_listens = match &dialer.signaling {
        Some(signaling) => Some(dialer.transport.listen(Some(signaling.clone())).await.expect("it listens")),
        None => None,
    };
    let mut before: Vec<Address> = Vec::new();
    for _ in 0..=MOVES {
        let now = accepting.addresses();
        assert!(!now.is_empty(), "it listens, and announces nothing");
        now.iter().for_each(can_be_meant);
        // A transport that goes by signals stays where it is, for those who dial.
        if listener.signaling.is_none() {
            let stale: Vec<_> = now.iter().filter(|address| before.contains(address)).collect();
            assert!(stale.is_empty(), "the machine has moved, and {stale:?} are announced still");
        }
        for address in &now {
            reaches(&dialer, &listener, address, &mut *accepting).await;
        }
        before = now;
        move_on();
        for side in [&dialer, &listener] {
            side.transport.network_changed();
        }
    }
    dialer.transport.shutdown().await;
    listener.transport.shutdown().await;
}

/// As [`run`], for a transport of plain byte streams; `make` makes transports that can reach each other.
pub async fn streams(make: impl Fn() -> Arc<dyn StreamTransport>, move_on: impl FnMut()) {
    run(secured(make(), 1), secured(make(), 2), move_on).await;
}

async fn reaches(dialer: &Side, listener: &Side, address: &Address, accepting: &mut dyn Listener) {
    let (near, far) = connect(dialer, listener, address, accepting).await;
    near.close("done");
    far.closed().await;
}

/// Where an address has an IP address, it is one that others may use, in the form that all understand.
fn can_be_meant(address: &Address) {
    if let Ok(place) = address.rest().parse::<std::net::SocketAddr>() {
        assert_ne!(scope(place.ip()), Scope::Nowhere, "{address} leads to no device");
        assert_ne!(place.port(), 0, "{address} has no port");
        assert_eq!(place, canonical(place), "{address} hides an IPv4 address");
    }
}

/// Says to a test's own process that it is the inner one.
const INSIDE: &str = "PEERLOOM_MACHINE";

/// A machine of a test's own, whose addresses it may change: a network namespace (Linux). It has one interface, with an
/// IPv4 and an IPv6 address, both with a default route.
pub struct Machine {
    moves: u8,
}

impl Machine {
    /// Runs the test with this name once more, in a process on a machine of its own. That process gets the machine;
    /// the outer one gets `None` once the inner one has passed. Where there can be no such machine, the test says so and
    /// passes, or fails if `PEERLOOM_REQUIRE_LAB` is 1.
    pub fn enter(test: &str) -> Option<Self> {
        if std::env::var_os(INSIDE).is_some() {
            let mut machine = Self { moves: 0 };
            ip("link set lo up");
            ip("link add lan type veth peer name port");
            ip("link set port up");
            machine.move_on();
            return Some(machine);
        }
        // Root needs no namespace for users, and some systems allow none.
        let probe = ["ip", "link", "add", "x", "type", "veth", "peer", "name", "y"];
        let works = |flags: &&str| {
            Command::new("unshare").arg(flags).args(probe).output().is_ok_and(|probe| probe.status.success())
        };
        let Some(flags) = ["-n", "-rn"].into_iter().find(works) else {
            skip(&format!("{test}: `unshare` makes no network namespace here"));
            return None;
        };
        let mut command = Command::new("unshare");
        command.arg(flags).arg(std::env::current_exe().expect("the test's program"));
        let inner = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().expect("unshare runs");
        let written = [inner.stdout, inner.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let ran = inner.status.success() && written[0].contains("1 passed");
        assert!(ran, "{test}, on a machine of its own: {}\n{}\n{}", inner.status, written[0], written[1]);
        None
    }

    /// Gives it other addresses, in other networks.
    pub fn move_on(&mut self) {
        self.moves += 1;
        let number = self.moves;
        ip("link set lan down");
        ip("address flush dev lan");
        ip("link set lan up");
        ip(&format!("address add 10.7.{number}.2/24 dev lan"));
        ip(&format!("route add default via 10.7.{number}.1"));
        // Where the kernel has no IPv6, there is IPv4 only.
        if std::path::Path::new("/proc/net/if_inet6").exists() {
            ip(&format!("address add fd00:{number}::2/64 dev lan nodad"));
            ip(&format!("-6 route add default via fd00:{number}::1"));
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

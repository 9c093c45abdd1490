//! Two nodes in networks behind NATs meet over a registry, directly where the NATs allow it and through TURN where
//! they don't.

use std::time::Duration;

use peerloom_netlab::{Host, Lab, Nat, Node, say};

/// How long a link should take from the second node's start, and what a busy machine is granted.
const AIM: Duration = Duration::from_secs(5);
const LINK: Duration = Duration::from_secs(15);

fn lab() -> Option<Lab> {
    Lab::new(env!("CARGO_BIN_EXE_peerloom-in-lab"))
}

/// Two contacts on two hosts meet and talk; gives the path as each end sees it.
fn meet(lab: &mut Lab, what: &str, first: &Host, second: &Host) -> [String; 2] {
    let mut alice = Node::new(lab, "alice", "");
    let mut bob = Node::new(lab, "bob", "");
    alice.start(first);
    let link = alice.invite(1);
    bob.run(second, &["add", &link]);

    bob.start(second);
    let path = bob.connected("alice", LINK);
    let paths = [alice.connected("bob", LINK), path];
    say(&format!("{what}: {}, {:.1} s after the second node's start", paths.join(" / "), bob.age().as_secs_f64()));
    if bob.age() > AIM {
        say("that is too long; the logs may say why");
        alice.show_log();
        bob.show_log();
    }

    bob.send("alice", "over there?");
    alice.expect("over there?", LINK);
    alice.send("bob", "over here");
    bob.expect("over here", LINK);
    lab.assert_running();
    paths
}

fn behind(first: Nat, second: Nat) -> Option<[String; 2]> {
    let mut lab = lab()?;
    let (mut one, mut other) = (lab.site(first), lab.site(second));
    let (first_host, second_host) = (one.host(), other.host());
    Some(meet(&mut lab, &format!("{first:?} to {second:?}"), &first_host, &second_host))
}

/// Each end names the kind of candidate that it sees.
fn assert_punched(paths: &[String; 2]) {
    let punched = |path: &String| path == "direct via srflx" || path == "direct via prflx";
    assert!(paths.iter().all(punched), "{paths:?}");
}

fn assert_relayed(paths: &[String; 2]) {
    assert_eq!(paths, &["relayed by TURN", "relayed by TURN"]);
}

#[test]
fn cone_to_cone_is_direct() {
    let Some(paths) = behind(Nat::Cone, Nat::Cone) else { return };
    assert_punched(&paths);
}

#[test]
fn full_cone_to_symmetric_is_direct() {
    let Some(paths) = behind(Nat::Full, Nat::Symmetric) else { return };
    assert_punched(&paths);
}

#[test]
fn symmetric_to_full_cone_is_direct() {
    let Some(paths) = behind(Nat::Symmetric, Nat::Full) else { return };
    assert_punched(&paths);
}

#[test]
fn cone_to_symmetric_is_relayed() {
    let Some(paths) = behind(Nat::Cone, Nat::Symmetric) else { return };
    assert_relayed(&paths);
}

#[test]
fn symmetric_to_symmetric_is_relayed() {
    let Some(paths) = behind(Nat::Symmetric, Nat::Symmetric) else { return };
    assert_relayed(&paths);
}

/// Nothing but TCP leaves the second network.
#[test]
fn without_udp_turn_over_tcp_relays() {
    let Some(mut lab) = lab() else { return };
    let (mut one, mut other) = (lab.site(Nat::Cone), lab.site(Nat::Cone));
    other.block_udp();
    let (first, second) = (one.host(), other.host());
    let paths = meet(&mut lab, "Cone to a network without UDP", &first, &second);
    assert_relayed(&paths);
}

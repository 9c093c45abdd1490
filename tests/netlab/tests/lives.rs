//! Links that live longer than what servers and NATs keep.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use peerloom_netlab::{Host, Lab, Nat, Node, Site, eventually};

const LINK: Duration = Duration::from_secs(30);
/// How long a relay is watched, and how long the server's nonces live meanwhile, in seconds.
const WATCHED: u64 = 120;
const NONCE_LIFE: u32 = 15;

/// How often a node said so.
fn said(node: &Node, what: &str) -> usize {
    fs::read_to_string(node.folder().join("log")).expect("a log").matches(what).count()
}

/// Two nodes that only TURN joins talk for two minutes, without the registry: whatever was lost would stay lost.
fn relays_for_long(lab: &mut Lab, sites: [&mut Site; 2]) {
    let [first, second]: [Host; 2] = sites.map(Site::host);
    let mut alice = Node::new(lab, "alice", "");
    let mut bob = Node::new(lab, "bob", "");
    alice.start(&first);
    let link = alice.invite(1);
    bob.run(&second, &["add", &link]);
    bob.start(&second);
    assert_eq!(bob.connected("alice", LINK), "relayed by TURN");
    assert_eq!(alice.connected("bob", LINK), "relayed by TURN");
    bob.send("alice", "first");
    alice.expect("first", LINK);
    let said = |node: &Node| ["a link is up", "a link ended"].map(|what| said(node, what));
    // Both may have dialed; of two links one is closed soon.
    sleep(Duration::from_secs(5));
    eventually("one link to be left", || [&alice, &bob].iter().all(|node| said(node)[0] == said(node)[1] + 1));
    lab.kill_registry();
    let before = [said(&alice), said(&bob)];

    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(WATCHED) {
        let text = format!("after {} s", begin.elapsed().as_secs());
        alice.send("bob", &text);
        bob.expect(&text, LINK);
        assert_eq!(alice.path("bob").as_deref(), Some("relayed by TURN"), "{text}");
        sleep(Duration::from_secs(1));
    }
    // It is the same link as in the beginning: nothing had to be made again.
    assert_eq!([said(&alice), said(&bob)], before, "a link ended or was made again");
}

#[test]
fn a_relay_outlives_its_servers_nonces() {
    let Some(mut lab) = Lab::with_nonces(env!("CARGO_BIN_EXE_peerloom-in-lab"), NONCE_LIFE) else { return };
    let (mut one, mut other) = (lab.site(Nat::Symmetric), lab.site(Nat::Symmetric));
    relays_for_long(&mut lab, [&mut one, &mut other]);
}

/// The same where nothing but TCP leaves one of the networks.
#[test]
fn a_relay_over_tcp_outlives_its_servers_nonces() {
    let Some(mut lab) = Lab::with_nonces(env!("CARGO_BIN_EXE_peerloom-in-lab"), NONCE_LIFE) else { return };
    let (mut one, mut other) = (lab.site(Nat::Cone), lab.site(Nat::Cone));
    other.block_udp();
    relays_for_long(&mut lab, [&mut one, &mut other]);
}

/// Of two nodes that dial each other at once one closes a link, and the other hears of it although it is relayed: it would
/// hold that link for its best one, and write to it, until the silence is too long.
#[test]
fn the_end_of_a_relayed_link_is_heard() {
    let Some(mut lab) = Lab::with_nonces(env!("CARGO_BIN_EXE_peerloom-in-lab"), NONCE_LIFE) else { return };
    let (mut one, mut other) = (lab.site(Nat::Symmetric), lab.site(Nat::Symmetric));
    let [first, second]: [Host; 2] = [&mut one, &mut other].map(Site::host);
    let relayed = format!("relay_only = true\nice_servers = [\"{}\"]", lab.turn_url());
    let mut alice = Node::new(&lab, "alice", &relayed);
    let mut bob = Node::new(&lab, "bob", &relayed);
    alice.start(&first);
    let link = alice.invite(1);
    bob.run(&second, &["add", &link]);
    bob.start(&second);
    assert_eq!(bob.connected("alice", LINK), "relayed by TURN");
    assert_eq!(alice.connected("bob", LINK), "relayed by TURN");
    alice.stop();
    bob.stop();
    // Both look for the other from the beginning.
    for round in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| alice.start(&first));
            scope.spawn(|| bob.start(&second));
        });
        assert_eq!(bob.connected("alice", LINK), "relayed by TURN");
        // Longer than a link may be silent.
        for part in 0..16 {
            let text = format!("{round}, {part}");
            alice.send("bob", &text);
            bob.send("alice", &text);
            sleep(Duration::from_millis(500));
        }
        for part in 0..16 {
            bob.expect(&format!("{round}, {part}"), LINK);
            alice.expect(&format!("{round}, {part}"), LINK);
        }
        alice.stop();
        bob.stop();
    }
    for node in [&alice, &bob] {
        assert_eq!(said(node, "nothing was heard"), 0, "a link that had ended was held for a good one");
    }
}

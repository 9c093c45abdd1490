//! The registry is gone: who knows each other goes on, and who has a contact in common still meets.

use peerloom_netlab::{Lab, Nat, Node, PATIENCE, say};

#[test]
fn a_common_contact_carries_signals_when_the_registry_is_down() {
    let Some(mut lab) = Lab::new(env!("CARGO_BIN_EXE_peerloom-in-lab")) else { return };
    let mut site = lab.site(Nat::Cone);
    let hosts = [site.host(), site.host(), site.host()];
    let [mut alice, mut bob, mut carol] = ["alice", "bob", "carol"].map(|name| Node::new(&lab, name, ""));
    for (node, host) in [&mut alice, &mut bob, &mut carol].into_iter().zip(&hosts) {
        node.start(host);
    }
    let link = alice.invite(2);
    for (node, name) in [(&mut bob, "bob"), (&mut carol, "carol")] {
        node.add(&link);
        node.connected("alice", PATIENCE);
        alice.connected(name, PATIENCE);
    }
    assert!(bob.path("carol").is_none(), "they don't know each other yet");

    lab.kill_registry();
    bob.send("alice", "still there?");
    alice.expect("still there?", PATIENCE);
    alice.send("bob", "yes");
    bob.expect("yes", PATIENCE);

    let begin = std::time::Instant::now();
    carol.add(&bob.invite(1));
    let path = carol.connected("bob", PATIENCE);
    say(&format!("without a registry: {path}, {:.1} s after the invitation", begin.elapsed().as_secs_f64()));
    bob.connected("carol", PATIENCE);
    carol.send("bob", "by alice's help");
    bob.expect("by alice's help", PATIENCE);
    bob.send("carol", "indeed");
    carol.expect("indeed", PATIENCE);
}

//! `peerloom doctor` tells what each kind of NAT allows.

use peerloom_netlab::{Lab, Nat, Node, say};

#[test]
fn doctor_tells_the_mapping_and_which_servers_answer() {
    let Some(mut lab) = Lab::new(env!("CARGO_BIN_EXE_peerloom-in-lab")) else { return };
    let kinds = [
        (Nat::Cone, "endpoint-independent mapping"),
        (Nat::Full, "endpoint-independent mapping"),
        (Nat::Symmetric, "symmetric mapping"),
    ];
    for (nat, mapping) in kinds {
        let mut site = lab.site(nat);
        let host = site.host();
        let node = Node::new(&lab, &format!("behind-{nat:?}").to_lowercase(), "");
        let diagnostics = node.doctor(&host);
        let of = |check: &str| -> Vec<_> { diagnostics.iter().filter(|diagnostic| diagnostic.0 == check).collect() };

        let [(_, _, told)] = of("NAT")[..] else { panic!("{diagnostics:?}") };
        say(&format!("{nat:?}: {told}"));
        assert!(told.contains(mapping), "{nat:?}: {told}");
        assert!(of("STUN").len() >= 2, "two addresses were asked: {diagnostics:?}");
        assert!(of("TURN").len() >= 2, "over UDP and over TCP: {diagnostics:?}");
        let reachable = |diagnostic: &&(String, String, String)| diagnostic.1 == "good";
        assert!(of("STUN").iter().all(reachable) && of("TURN").iter().all(reachable), "{diagnostics:?}");
    }
}

#[test]
fn doctor_tells_that_udp_is_blocked_and_what_still_works() {
    let Some(mut lab) = Lab::new(env!("CARGO_BIN_EXE_peerloom-in-lab")) else { return };
    let mut site = lab.site(Nat::Cone);
    site.block_udp();
    let host = site.host();
    let diagnostics = Node::new(&lab, "behind-a-wall", "").doctor(&host);
    let stands = |check: &str, status: &str| {
        diagnostics.iter().filter(|diagnostic| diagnostic.0 == check && diagnostic.1 == status).collect::<Vec<_>>()
    };
    assert!(stands("STUN", "good").is_empty() && !stands("STUN", "bad").is_empty(), "{diagnostics:?}");
    let turn = stands("TURN", "good");
    assert!(turn.len() == 1 && turn[0].2.contains("transport=tcp"), "{diagnostics:?}");
}

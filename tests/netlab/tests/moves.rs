//! A host changes its network in the middle of a conversation.

use std::time::{Duration, Instant};

use peerloom_netlab::{Lab, Nat, Node, PATIENCE, say, within};

/// Between two messages of one side.
const PACE: Duration = Duration::from_millis(50);
/// How many messages each side sends before the move.
const BEFORE: usize = 20;
/// How long after the move nothing may arrive. The aim is 10 s; this is what a busy machine is granted.
const BACK: Duration = Duration::from_secs(30);

/// Two who talk to each other: messages are numbers.
struct Talk {
    alice: Node,
    bob: Node,
    sent: usize,
}

impl Talk {
    /// Each sends its next message.
    fn go_on(&mut self) {
        let text = self.sent.to_string();
        self.alice.send("bob", &text);
        self.bob.send("alice", &text);
        self.sent += 1;
        std::thread::sleep(PACE);
    }

    /// Whether each has received this message or a later one.
    fn have_heard(&mut self, number: usize) -> bool {
        let later = |text: &String| text.parse::<usize>().expect("a number") >= number;
        self.alice.received().keys().any(later) && self.bob.received().keys().any(later)
    }
}

/// Moves one of two hosts to a network of this kind while they talk; gives the path that they find then.
fn move_to(nat: Nat) -> Option<String> {
    let mut lab = Lab::new(env!("CARGO_BIN_EXE_peerloom-in-lab"))?;
    let (mut home, mut away, mut other) = (lab.site(Nat::Cone), lab.site(nat), lab.site(Nat::Cone));
    let (mut phone, desk) = (home.host(), other.host());
    let mut alice = Node::new(&lab, "alice", "");
    let mut bob = Node::new(&lab, "bob", "");
    alice.start(&phone);
    bob.start(&desk);
    bob.add(&alice.invite(1));
    let before = bob.connected("alice", PATIENCE);
    alice.connected("bob", PATIENCE);
    let mut talk = Talk { alice, bob, sent: 0 };
    while talk.sent < BEFORE {
        talk.go_on();
    }

    let first = talk.sent;
    let begin = Instant::now();
    phone.move_to(&mut away);
    let moved = begin.elapsed();
    let back = within(BACK, "a message of each side from after the move", || {
        talk.go_on();
        talk.have_heard(first)
    });
    for _ in 0..BEFORE {
        talk.go_on();
    }

    let Talk { mut alice, mut bob, sent } = talk;
    for node in [&mut alice, &mut bob] {
        within(PATIENCE, "everything to arrive", || node.received().len() == sent);
        let received = node.received();
        assert!((0..sent).all(|number| received.get(&number.to_string()) == Some(&1)), "each once: {received:?}");
    }
    let after = bob.connected("alice", PATIENCE);
    say(&format!(
        "to {nat:?}: {before}, then {after}: back {:.1} s after the move (which took {:.1} s), {sent} messages each way, \
         none lost, none twice",
        back.as_secs_f64(),
        moved.as_secs_f64()
    ));
    lab.assert_running();
    Some(after)
}

#[test]
fn a_conversation_survives_a_change_of_network() {
    let Some(path) = move_to(Nat::Cone) else { return };
    assert_ne!(path, "relayed by TURN", "there is a direct path");
}

/// From home into a mobile network.
#[test]
fn a_conversation_survives_a_change_to_a_stricter_network() {
    let Some(path) = move_to(Nat::Symmetric) else { return };
    assert_eq!(path, "relayed by TURN");
}

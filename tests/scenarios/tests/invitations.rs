//! Invitations are not signed: what comes of changed ones, whose checksum was corrected, and of several that
//! contradict each other.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::by_hand::{address, node};
use common::stranger::{greet, hear, hello, key, network, say};
use common::{Running, eventually, fails, init, init_with, invitation, ok, ok_json};
use futures_util::SinkExt;
use peerloom_conformance::identity::{Identity, identity};
use peerloom_core::memory::{MemoryNetwork, MemoryTransport};
use peerloom_core::wire::handshake::{Role, auth_input};
use peerloom_core::wire::{Auth, DeviceCertificate, Hello, Invitation, Refusal, Roles, UserId, UserKeys, Verdict};
use peerloom_core::{ChannelClass, Transport};
use peerloom_crypto_primitives::SigningKey;
use peerloom_discovery_invite::encode;
use serde_json::Value;

fn peers(folder: &Path) -> Vec<Value> {
    ok_json(folder, &["peers"]).as_array().expect("a list").clone()
}

/// Waits until one of a node's contacts can't be reached for this reason.
fn is_refused(folder: &Path, user: &UserId, reason: &str) {
    eventually(&format!("`{reason}`"), || {
        let peers = peers(folder);
        assert!(peers.iter().all(|p| p["user"] != user.to_string() || p["state"] != "connected"), "{peers:?}");
        peers.iter().any(|p| p["user"] == user.to_string() && p["reason"].as_str().is_some_and(|r| r.contains(reason)))
    });
}

/// A message to the user arrives there.
fn speaks(from: &Path, to: &Path, user: &UserId, text: &str) {
    ok(from, &["send", &format!("@{user}"), text]);
    eventually("the message", || ok(to, &["inbox"]).contains(text));
}

fn one_of_three(base: &Path, name: &str) -> (PathBuf, Running, Invitation) {
    let folder = init(base, name);
    let running = Running::start(&folder);
    let link = ok(&folder, &["invite", "--uses", "9"]);
    (folder, running, peerloom_discovery_invite::decode(&link).expect("an invitation"))
}

#[test]
fn a_changed_invitation_lets_nobody_in_and_keeps_nobody_out() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, _alice, good) = one_of_three(base.path(), "alice");
    let (mallory, _mallory, hers) = one_of_three(base.path(), "mallory");
    let changed = |change: &dyn Fn(&mut Invitation)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    // What is noticed before anything is dialed.
    let carol = init(base.path(), "carol");
    for (change, complaint) in
        [(changed(&|i| i.network[0] ^= 1), "another network"), (changed(&|i| i.expires_at_s = 1), "has expired")]
    {
        assert!(fails(&carol, &["add", &encode(&change)]).1.contains(complaint));
        assert!(
            fails(&alice, &["add", &encode(&Invitation { user: hers.user, ..good.clone() })]).1.contains("your own")
        );
    }
    assert!(ok_json(&carol, &["contacts"]).as_array().is_some_and(Vec::is_empty));

    let stranger = UserId::from_bytes([7; 32]);
    for (number, (change, reason)) in [
        (changed(&|i| i.user = hers.user), "another user's than the invitation says"),
        (changed(&|i| i.user = stranger), "another user's than the invitation says"),
        (changed(&|i| i.key = hers.key), "another device answers there"),
        (changed(&|i| i.key = [9; 32]), "another device answers there"),
        (changed(&|i| i.addresses = hers.addresses.clone()), "another device answers there"),
        (changed(&|i| i.token[3] ^= 1), "not a contact there"),
    ]
    .into_iter()
    .enumerate()
    {
        let bob = init(base.path(), &format!("bob-{number}"));
        ok(&bob, &["add", &encode(&change)]);
        let _bob = Running::start(&bob);
        is_refused(&bob, &change.user, reason);
        for other in [&alice, &mallory] {
            assert!(!ok(other, &["contacts"]).contains(&format!("bob-{number}")), "{reason}");
        }
        // The true one works, and what waits for the false user goes to nobody.
        if change.user != good.user {
            ok(&bob, &["send", &format!("@{}", change.user), "for her alone"]);
        }
        ok(&bob, &["add", &encode(&good)]);
        speaks(&bob, &alice, &good.user, &format!("hello {number}"));
        assert!(!ok(&alice, &["inbox"]).contains("for her alone"));
        assert!(ok(&mallory, &["inbox"]).is_empty());
        let users: Vec<Value> = peers(&bob).into_iter().map(|peer| peer["user"].clone()).collect();
        assert!(
            change.user == good.user || users == [good.user.to_string()],
            "the device is whose it proved: {users:?}"
        );
    }
    // A name is what its inviter calls itself, and nothing hangs on it.
    let dave = init(base.path(), "dave");
    ok(&dave, &["add", &encode(&changed(&|i| i.name = "al\u{202e}bert".into()))]);
    assert_eq!(ok_json(&dave, &["contacts"])[0]["contact"], "albert");
}

#[test]
fn a_link_takes_no_device_from_a_contact() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, alice_runs, good) = one_of_three(base.path(), "alice");
    let (_, _mallory, hers) = one_of_three(base.path(), "mallory");
    let bob = init(base.path(), "bob");
    let false_one = Invitation { user: hers.user, name: "mallory".into(), ..good.clone() };
    // Before anything was proved, the newest link counts.
    for link in [&good, &false_one, &good] {
        ok(&bob, &["add", &encode(link)]);
    }
    let running = Running::start(&bob);
    speaks(&bob, &alice, &good.user, "first");
    // Afterwards none does, whether the node runs or not.
    let refused = |bob: &Path| {
        let before = ok(bob, &["contacts"]);
        let (_, complaint) = fails(bob, &["add", &encode(&false_one)]);
        assert!(complaint.contains("is that of your contact alice"), "{complaint}");
        assert_eq!(ok(bob, &["contacts"]), before);
    };
    refused(&bob);
    drop((running, alice_runs));
    refused(&bob);
    let _nodes = (Running::start(&alice), Running::start(&bob));
    speaks(&bob, &alice, &good.user, "second");
    // Of links that say where her device is, the true addresses are still dialed.
    ok(&bob, &["add", &encode(&Invitation { addresses: hers.addresses, token: [0; 16], ..good.clone() })]);
    speaks(&bob, &alice, &good.user, "third");
}

#[test]
fn adding_again_finds_an_inviter_that_moved() {
    let base = tempfile::tempdir().expect("a folder");
    let [alice, bob] = ["alice", "bob"].map(|name| init_with(base.path(), name, &[]));
    let alice_runs = Running::start(&alice);
    let first = invitation(&alice);
    ok(&bob, &["add", &encode(&first)]);
    let bob_runs = Running::start(&bob);
    speaks(&bob, &alice, &first.user, "before");
    drop((alice_runs, bob_runs));
    // Both at other ports, so neither finds the other.
    for folder in [&alice, &bob] {
        let file = folder.join("peerloom.toml");
        let text = std::fs::read_to_string(&file).expect("the file");
        let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("a port").port();
        let (head, tail) = text.split_once("listen = \"127.0.0.1:").expect("an address");
        let (_, tail) = tail.split_once('"').expect("its end");
        std::fs::write(&file, format!("{head}listen = \"127.0.0.1:{port}\"{tail}")).expect("the file");
    }
    let (_alice, bob_runs) = (Running::start(&alice), Running::start(&bob));
    let second = invitation(&alice);
    assert_ne!(first.addresses, second.addresses);
    ok(&bob, &["send", "alice", "after"]);
    ok(&bob, &["add", &encode(&second)]);
    eventually("the second message", || ok(&alice, &["inbox"]).contains("after"));
    assert_eq!(ok_json(&bob, &["contacts"]).as_array().map(Vec::len), Some(1), "the contact stays the same");
    // An older link, found in a chat, costs nothing.
    ok(&bob, &["add", &encode(&first)]);
    drop(bob_runs);
    let _bob = Running::start(&bob);
    speaks(&bob, &alice, &first.user, "and later");
}

/// An invitation to a node that others can't dial says so where it is made.
#[test]
fn an_invitation_that_leads_nowhere_says_so() {
    let base = tempfile::tempdir().expect("a folder");
    let alone = init(base.path(), "alone");
    let by_hand = init_with(base.path(), "by-hand", &["--set", "transport.0.kind=webrtc"]);
    let everywhere = init(base.path(), "everywhere");
    let set = ["--set", "transport.listen=0.0.0.0:0", "--set", "transport.advertise=[\"192.0.2.1:4433\"]"];
    for (folder, more, why) in [
        (&alone, &[][..], Some("only nodes on this machine can dial this node")),
        (&by_hand, &[], Some("links are made by hand")),
        (&everywhere, &set, None),
    ] {
        let output = common::peerloom(folder, &[&["invite", "--json"], more].concat());
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let cut_off = answer["cut_off"].as_str();
        assert!(cut_off.is_some() == why.is_some() && cut_off.unwrap_or_default().contains(why.unwrap_or_default()));
        let notes = common::text(&common::peerloom(folder, &[&["invite"], more].concat()).stderr);
        assert!(why.is_none_or(|why| notes.contains(why)), "{notes}");
    }
}

/// Who comes with an invitation that somebody else used hears so, whichever command runs.
#[test]
fn a_used_invitation_is_refused_aloud() {
    let base = tempfile::tempdir().expect("a folder");
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| init(base.path(), name));
    let _alice = Running::start(&alice);
    let link = ok(&alice, &["invite"]).trim().to_owned();
    ok(&bob, &["add", &link]);
    let _bob = Running::start(&bob);
    eventually("bob to be in", || ok(&alice, &["contacts"]).contains("bob"));

    ok(&carol, &["add", &link]);
    let output = base.path().join("output");
    let file = std::fs::File::create(&output).expect("a file");
    let run = common::command(&carol, &["run"]).stdout(file).spawn();
    let mut run = run.expect("a process");
    eventually("the refusal", || {
        std::fs::read_to_string(&output)
            .expect("the output")
            .contains("alice takes no link from this node: not a contact")
    });
    let doctor = common::text(&common::peerloom(&carol, &["doctor"]).stdout);
    assert!(doctor.contains("alice (not a contact there; ask them for an invitation"), "{doctor}");
    let chat = common::command(&carol, &["chat", "alice"]).stdin(std::process::Stdio::null()).output().expect("a chat");
    assert!(common::text(&chat.stderr).contains("not a contact there"), "{chat:?}");
    let _ = run.kill();
    let _ = run.wait();
    // A link that is added again is no new contact.
    assert!(ok(&carol, &["add", &link]).contains("added alice again"));
}

/// The device of one identity, certified for the user of another one.
fn hello_as(device: &Identity, user: u8) -> Hello {
    let [user, recovery] = [user, user ^ 0x40].map(|seed| SigningKey::from_seed(&[seed; 32]));
    let keys = UserKeys { user: user.public().clone(), recovery: recovery.public().clone() };
    let certificate = DeviceCertificate::new(keys, device.key.clone(), Roles::ALL, 1);
    Hello { certificate: certificate.sign(|m| user.sign(m), |m| key(device).sign(m)), ..hello(device) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_nobody_but_the_user_that_the_invitation_names() {
    let links = MemoryNetwork::default();
    let bob = node(1, &links).await;
    let mallory = identity(66);
    let invitation = Invitation {
        user: identity(50).user,
        key: mallory.key.as_bytes().try_into().expect("32 bytes"),
        token: [5; 16],
        expires_at_s: u32::MAX,
        network: Invitation::network_of(&network()),
        addresses: vec![address(66)],
        name: "carol".into(),
    };
    let place = MemoryTransport::new(&links, address(66), mallory.key.clone());
    let mut door = place.listen(None).await.expect("a listener");
    let contact = bob.add_contact(invitation.clone()).await.expect("a contact");
    // What comes after the other side's hello and signature: nothing, if the user isn't the right one.
    for (user, expected) in [(66, false), (50, true)] {
        let link = tokio::time::timeout(common::PATIENCE, door.accept()).await.expect("a dial").expect("a link");
        let mut control = link.accept().await.expect("a channel");
        let theirs = hear(&mut control).await.expect("a hello");
        let ours = hello_as(&mallory, user).encode();
        say(&mut control, ours.clone()).await;
        let input = auth_input(Role::Responder, &theirs, &ours, &link.channel_binding().expect("a binding"));
        let auth = Auth { signature: key(&mallory).sign(&input), token: None, name: String::new() };
        // The dialer may have read enough already.
        let _ = control.sender.send(auth.encode()).await;
        let auth = hear(&mut control).await.map(|bytes| Auth::decode(bytes).expect("a signature"));
        assert_eq!(auth.and_then(|auth| auth.token), expected.then_some([5; 16]), "{user}");
        assert_eq!(bob.contact(&contact.user).expect("a contact").devices[0].certificate, None);
        if expected {
            say(&mut control, Verdict::Accepted.encode()).await;
            common::stranger::eventually(|| {
                bob.contact(&contact.user).is_some_and(|c| c.devices[0].certificate.is_some())
            })
            .await;
        }
    }
    // Another user's certificate for that device changes nothing any more.
    let other = Invitation { user: mallory.user, ..invitation };
    assert!(bob.add_contact(other).await.is_err());
    let dialer = MemoryTransport::new(&links, address(200), mallory.key.clone());
    for (user, expected) in [(66, Verdict::Refused(Refusal::NotAContact)), (50, Verdict::Accepted)] {
        let link = dialer.dial(&address(1), None, None).await.expect("a link");
        let mut control = link.open(ChannelClass::Control).await.expect("a channel");
        let token = bob.invite(Duration::from_secs(60), 1).await.expect("an invitation").token;
        let verdict = greet(&link, &mut control, &mallory, &hello_as(&mallory, user), Some(token)).await;
        assert_eq!(verdict, Some(expected), "{user}");
    }
    assert_eq!(bob.contacts().len(), 1);
}

/// Both invited each other: who was named by a link alone comes in without a token.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_a_link_names_may_dial_first() {
    let links = MemoryNetwork::default();
    let bob = node(1, &links).await;
    let carol = identity(50);
    let invitation = Invitation {
        user: carol.user,
        key: carol.key.as_bytes().try_into().expect("32 bytes"),
        token: [5; 16],
        expires_at_s: u32::MAX,
        network: Invitation::network_of(&network()),
        addresses: Vec::new(),
        name: "carol".into(),
    };
    bob.add_contact(invitation).await.expect("a contact");
    let dialer = MemoryTransport::new(&links, address(200), carol.key.clone());
    for (user, expected) in [(66, Verdict::Refused(Refusal::NotAContact)), (50, Verdict::Accepted)] {
        let link = dialer.dial(&address(1), None, None).await.expect("a link");
        let mut control = link.open(ChannelClass::Control).await.expect("a channel");
        let verdict = greet(&link, &mut control, &carol, &hello_as(&carol, user), None).await;
        assert_eq!(verdict, Some(expected), "{user}");
    }
    let [contact] = &bob.contacts()[..] else { panic!("one contact") };
    assert!(contact.user == carol.user && contact.devices[0].certificate.is_some());
}

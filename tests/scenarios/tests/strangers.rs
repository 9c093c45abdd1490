//! What strangers may try against a node: each attempt is refused and counted, and the node goes on.

mod common;

use common::by_hand::{knock, node, open_invitation, refused_grows, still_works};
use common::stranger::{greet, hear, hello, key, say};
use futures_util::SinkExt;
use peerloom_conformance::identity::identity;
use peerloom_core::memory::{MemoryCrypto, MemoryNetwork};
use peerloom_core::wire::handshake::{Role, auth_input};
use peerloom_core::wire::{Auth, Hello, NetworkId, Refusal, SuiteId, Verdict};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_and_told_why() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let mallory = identity(66);
    let cases: [(Hello, Refusal); 6] = [
        (hello(&mallory), Refusal::NotAContact),
        (Hello { network: NetworkId::from_name("another"), ..hello(&mallory) }, Refusal::Network),
        (Hello { version_min: 2, version_max: 9, ..hello(&mallory) }, Refusal::Version),
        (Hello { suites: vec![SuiteId(1)], ..hello(&mallory) }, Refusal::Suite),
        // Whoever insists on post-quantum is refused, never quietly downgraded.
        (Hello { policy: 1, ..hello(&mallory) }, Refusal::Suite),
        (Hello { certificate: identity(5).certificate, ..hello(&mallory) }, Refusal::Unauthenticated),
    ];
    for (hello, expected) in cases {
        let before = alice.refused();
        let (link, mut control) = knock(&links, &mallory).await;
        let verdict = greet(&link, &mut control, &mallory, &hello, Some([9; 16])).await;
        assert_eq!(verdict, Some(Verdict::Refused(expected)));
        refused_grows(&alice, before).await;
    }
    assert!(alice.contacts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_replay_and_role_confusion_fail() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let mallory = identity(66);
    // Reflection: alice's own hello and signature, sent back to her.
    let (_link, mut control) = knock(&links, &mallory).await;
    let (_other, mut second) = knock(&links, &mallory).await;
    say(&mut second, hello(&mallory).encode()).await;
    let hers = hear(&mut second).await.expect("her hello");
    let her_auth = hear(&mut second).await.expect("her signature");
    say(&mut control, hers).await;
    hear(&mut control).await.expect("her hello");
    hear(&mut control).await.expect("her signature");
    // She may have recognized herself already.
    let _ = control.sender.send(her_auth).await;
    let verdict = hear(&mut control).await.and_then(|v| Verdict::decode(v).ok());
    assert_eq!(verdict, Some(Verdict::Refused(Refusal::Unauthenticated)));

    // A signature of the other role, one over another link's binding, and one over a changed offer.
    let token = open_invitation(&alice).await;
    for variant in 0..3 {
        let (link, mut control) = knock(&links, &mallory).await;
        let ours = hello(&mallory);
        say(&mut control, ours.encode()).await;
        let theirs = hear(&mut control).await.expect("her hello");
        hear(&mut control).await.expect("her signature");
        let binding = link.channel_binding().expect("a binding");
        let stronger = Hello { suites: vec![SuiteId(1), MemoryCrypto::SUITE], ..ours.clone() };
        let input = match variant {
            0 => auth_input(Role::Responder, &ours.encode(), &theirs, &binding),
            1 => auth_input(Role::Initiator, &ours.encode(), &theirs, &[0; 32]),
            _ => auth_input(Role::Initiator, &stronger.encode(), &theirs, &binding),
        };
        let auth = Auth { signature: key(&mallory).sign(&input), token: Some(token), name: String::new() };
        say(&mut control, auth.encode()).await;
        let verdict = hear(&mut control).await.and_then(|v| Verdict::decode(v).ok());
        assert_eq!(verdict, Some(Verdict::Refused(Refusal::Unauthenticated)), "variant {variant}");
    }
    assert!(alice.contacts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_before_the_handshake_is_harmless() {
    let links = MemoryNetwork::default();
    let alice = node(1, &links).await;
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..40 {
        let before = alice.refused();
        let (_link, mut control) = knock(&links, &identity(66)).await;
        let mut noise = vec![0; rng.random_range(0..6000)];
        rng.fill_bytes(&mut noise);
        if round % 3 == 0 {
            noise = hello(&identity(66)).encode().to_vec();
            let at = rng.random_range(0..noise.len());
            noise[at] ^= 1 << rng.random_range(0..8);
            noise.truncate(noise.len() - round % 7);
        }
        say(&mut control, noise.into()).await;
        // Whatever she answers, nothing more comes of it.
        drop(control);
        refused_grows(&alice, before).await;
    }
    assert!(alice.contacts().is_empty());
    still_works(&links, &alice).await;
}

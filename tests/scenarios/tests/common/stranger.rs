//! The other side of a handshake, played by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use peerloom_conformance::identity::Identity;
use peerloom_core::memory::MemoryCrypto;
use peerloom_core::wire::handshake::{Role, auth_input};
use peerloom_core::wire::{Auth, Hello, NetworkId, Verdict};
use peerloom_core::{Channel, Link};
use peerloom_crypto_primitives::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub fn network() -> NetworkId {
    NetworkId::from_name("conformance")
}

pub fn key(who: &Identity) -> SigningKey {
    SigningKey::from_seed(who.secret.expose())
}

pub fn hello(who: &Identity) -> Hello {
    Hello {
        nonce: StdRng::seed_from_u64(7).random(),
        version_min: 1,
        version_max: 1,
        network: network(),
        certificate: who.certificate.clone(),
        suites: vec![MemoryCrypto::SUITE],
        policy: 0,
        features: 0,
    }
}

pub async fn say(channel: &mut Channel, bytes: Bytes) {
    channel.sender.send(bytes).await.expect("a frame");
}

pub async fn hear(channel: &mut Channel) -> Option<Bytes> {
    let heard =
        tokio::time::timeout(Duration::from_secs(15), channel.receiver.next()).await.expect("an answer in time");
    heard.and_then(Result::ok)
}

/// Waits until something holds.
pub async fn eventually(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < super::PATIENCE, "it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same of what has to be asked.
pub async fn eventually_async(mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < super::PATIENCE, "it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Goes through the handshake with a hello, a signature over it and perhaps a token; returns the
/// verdict.
pub async fn greet(
    link: &Arc<dyn Link>,
    control: &mut Channel,
    who: &Identity,
    hello: &Hello,
    token: Option<[u8; 16]>,
) -> Option<Verdict> {
    say(control, hello.encode()).await;
    prove(link, control, who, hello, token).await
}

/// The handshake after the hello.
pub async fn prove(
    link: &Arc<dyn Link>,
    control: &mut Channel,
    who: &Identity,
    hello: &Hello,
    token: Option<[u8; 16]>,
) -> Option<Verdict> {
    let theirs = hear(control).await?;
    let _their_auth = hear(control).await?;
    let input = auth_input(Role::Initiator, &hello.encode(), &theirs, &link.channel_binding().expect("a binding"));
    let auth = Auth { signature: key(who).sign(&input), token, name: "mallory".into() };
    // She may have made up her mind before she hears it.
    let _ = control.sender.send(auth.encode()).await;
    Verdict::decode(hear(control).await?).ok()
}

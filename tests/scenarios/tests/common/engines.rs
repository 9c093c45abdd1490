//! Engines in this process, over a network in memory.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerloom_conformance::identity::identity;
use peerloom_core::memory::{MemoryCrypto, MemoryNetwork, MemoryTransport};
use peerloom_core::wire::NetworkId;
use peerloom_core::wire::store::Contact;
use peerloom_core::{Crypto, DeviceSecret, Discovery, Result, Storage, Transport};
use peerloom_crypto_mls::MlsCrypto;
use peerloom_engine::{Cursor, Engine, EngineConfig, Layers};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub fn network() -> NetworkId {
    NetworkId::from_name("engines")
}

/// The crypto of the identity with this number.
pub fn crypto(number: u8, mls: bool) -> Arc<dyn Crypto> {
    let made = identity(number);
    if mls {
        Arc::new(MlsCrypto::new(&DeviceSecret::new([number ^ 0x80; 32]), made.certificate).expect("a crypto"))
    } else {
        Arc::new(MemoryCrypto::new(made.device))
    }
}

/// Short waits.
pub fn config() -> EngineConfig {
    let mut config = EngineConfig::new(network());
    config.delivery.ack_timeout = Duration::from_millis(300);
    config
}

/// What an engine of the identity with this number is made of.
pub fn layers(
    number: u8,
    transports: Vec<Arc<dyn Transport>>,
    discoveries: Vec<Arc<dyn Discovery>>,
    storage: Arc<dyn Storage>,
    cryptos: Vec<Arc<dyn Crypto>>,
) -> Layers {
    let identity = identity(number).stored(number, network());
    Layers { transports, discoveries, storage, cryptos, identity }
}

/// A transport of the identity with this number.
pub fn transport(number: u8, links: &MemoryNetwork) -> MemoryTransport {
    let address = format!("memory://{number}").parse().expect("an address");
    MemoryTransport::new(links, address, identity(number).key)
}

/// An engine of the identity with this number that listens.
pub async fn start(
    number: u8,
    links: &MemoryNetwork,
    storage: Arc<dyn Storage>,
    cryptos: Vec<Arc<dyn Crypto>>,
    config: EngineConfig,
) -> Engine {
    let layers = layers(number, vec![Arc::new(transport(number, links))], Vec::new(), storage, cryptos);
    let engine = Engine::open(layers, config).await.expect("an engine");
    engine.start().await.expect("a network");
    engine
}

pub async fn engine(number: u8, links: &MemoryNetwork, storage: Arc<dyn Storage>, mls: bool) -> Engine {
    start(number, links, storage, vec![crypto(number, mls)], config()).await
}

/// The second adds the first.
pub async fn meet(alice: &Engine, bob: &Engine) -> Contact {
    let invitation = alice.invite(Duration::from_secs(60), 1).await.expect("an invitation");
    bob.add_contact(invitation).await.expect("a contact")
}

pub async fn send(from: &Engine, to: &Contact, text: &str) -> Result<()> {
    from.send(from.direct_with(&to.user), String::new(), Bytes::from(text.to_owned()), None).await.map(drop)
}

pub async fn texts(engine: &Engine) -> Vec<String> {
    let (mut texts, mut after) = (Vec::new(), Cursor::START);
    loop {
        let page = engine.messages_after(after, 10_000).await.expect("messages");
        let Some(last) = page.last() else { return texts };
        after = last.cursor;
        texts.extend(page.iter().map(|m| m.text().expect("text").to_owned()));
    }
}

/// Waits until the engine shows these texts.
pub async fn eventually(what: &str, engine: &Engine, expected: &[&str]) {
    let mut found = Vec::new();
    until(what, async || {
        found = texts(engine).await;
        found == expected
    })
    .await;
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "{what} never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

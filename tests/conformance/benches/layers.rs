//! `cargo bench -p peerloom-conformance`: figures of single layers. Prints one JSON object; times are
//! medians, or the 95th percentile where it says so.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use peerloom_conformance::discovery::announce;
use peerloom_conformance::identity::{Identity, identity, record};
use peerloom_core::wire::{ConversationId, DiscoveryItem, EntryClass, LogId, NetworkId};
use peerloom_core::{Crypto, Discovery, Member, Opened, Result, Sealing, Serves, StateTxn};
use peerloom_crypto_mls::MlsCrypto;
use peerloom_crypto_sealed::SealedCrypto;
use peerloom_discovery_mdns::{MdnsConfig, MdnsDiscovery};
use rand::SeedableRng;
use rand::rngs::StdRng;

const RUNS: usize = 20;
const RECIPIENTS: u8 = 16;

fn percentile(mut times: Vec<Duration>, share: f64) -> f64 {
    times.sort();
    let index = ((times.len() as f64 - 1.0) * share).round() as usize;
    times[index].as_secs_f64()
}

#[derive(Default)]
struct State(BTreeMap<Vec<u8>, Bytes>);

impl StateTxn for State {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.0.insert(key.to_vec(), value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

/// From key packages never seen before to a sealed 100-byte message, for each recipient.
fn sealed_first_contact() -> f64 {
    let crypto = |number: u8| {
        let identity = identity(number);
        SealedCrypto::new(&identity.secret, identity.certificate)
    };
    let mut rng = StdRng::seed_from_u64(1);
    let roster: Vec<Member> = (2..2 + RECIPIENTS)
        .map(|number| {
            let package = crypto(number).expect("a crypto").key_package(&mut State::default(), &mut rng, Serves::Once);
            let key_package = Some(package.expect("a key package"));
            Member { device: identity(number).device, key_package, rejoin: false }
        })
        .collect();
    let alice = crypto(1).expect("a crypto");
    let times = (0..200u8).map(|run| {
        let (mut state, conversation) = (State::default(), ConversationId::from_bytes([run; 32]));
        let begin = Instant::now();
        alice.prepare(&mut state, &mut rng, conversation, &roster).expect("a session");
        let sealing = Sealing { conversation, associated_data: b"", plaintext: &[7; 100] };
        alice.seal(&mut state, &mut rng, sealing).expect("an entry");
        begin.elapsed() / u32::from(RECIPIENTS)
    });
    percentile(times.collect(), 0.5) * 1e6
}

/// Sealing and opening a 1 KiB message in a session that stands, in microseconds.
fn ratchet() -> (f64, f64) {
    let [alice, bob] = [1, 2].map(identity);
    let crypto = |of: &Identity| MlsCrypto::new(&of.secret, of.certificate.clone()).expect("a crypto");
    let (sender, receiver) = (crypto(&alice), crypto(&bob));
    let (mut sending, mut receiving) = (State::default(), State::default());
    let (mut rng, conversation) = (StdRng::seed_from_u64(1), ConversationId::from_bytes([1; 32]));
    let log = LogId { device: alice.device, conversation };
    let key_package = receiver.key_package(&mut receiving, &mut rng, Serves::Once).expect("a key package");
    let roster = [Member { device: bob.device, key_package: Some(key_package), rejoin: false }];
    let prepared = sender.prepare(&mut sending, &mut rng, conversation, &roster).expect("a session");
    for outgoing in prepared.outgoing {
        let class = EntryClass::Handshake;
        receiver.open(&mut receiving, &mut rng, log, class, b"", &outgoing.welcome).expect("a session");
    }
    let (mut sealing, mut opening) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        let begin = Instant::now();
        let message = Sealing { conversation, associated_data: b"", plaintext: &[7; 1024] };
        let sealed = sender.seal(&mut sending, &mut rng, message).expect("an entry");
        sealing.push(begin.elapsed());
        let begin = Instant::now();
        let class = EntryClass::Application;
        let opened = receiver.open(&mut receiving, &mut rng, log, class, b"", &sealed.payload).expect("an entry");
        opening.push(begin.elapsed());
        assert!(matches!(opened, Opened::Content(_)), "{opened:?}");
    }
    (percentile(sealing, 0.5) * 1e6, percentile(opening, 0.5) * 1e6)
}

fn discovery() -> MdnsDiscovery {
    let config = MdnsConfig { interfaces: vec!["lo".into()], port: 25356 };
    MdnsDiscovery::new(config, NetworkId::from_name("conformance"))
}

/// Until a device that announces itself appears to one that browses; and to one that begins to.
async fn mdns() -> (f64, f64) {
    let (mut appears, mut found) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (browsing, announcing, late) = (discovery(), discovery(), discovery());
        let mut watch = browsing.watch();
        // Its own first question is over.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begin = Instant::now();
        let record = record(&identity(run as u8 + 1), 1, &[]);
        announce(&announcing, record.clone()).await.expect("an announcement");
        while watch.next().await.expect("news").item != DiscoveryItem::Record(record.clone()) {}
        appears.push(begin.elapsed());
        // The announcements are over, too (RFC 6762, section 8.3), and so is the second in which nobody
        // may answer again (section 6).
        tokio::time::sleep(Duration::from_secs(4)).await;
        let begin = Instant::now();
        let mut watch = late.watch();
        while watch.next().await.expect("news").item != DiscoveryItem::Record(record.clone()) {}
        found.push(begin.elapsed());
        for discovery in [browsing, announcing, late] {
            discovery.shutdown().await;
        }
    }
    (percentile(appears, 0.95), percentile(found, 0.95))
}

fn main() {
    let sealed = sealed_first_contact();
    let (seal, open) = ratchet();
    if std::env::args().any(|argument| argument == "crypto") {
        println!("{{\"mls_seal_us\":{seal:.1},\"mls_open_us\":{open:.1}}}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let (appears, found) = runtime.block_on(mdns());
    println!(
        "{{\"sealed_first_contact_us_per_recipient\":{sealed:.1},\"mdns_appears_p95_s\":{appears:.3},\"mdns_found_p95_s\":{found:.3}}}"
    );
}

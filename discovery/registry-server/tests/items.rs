//! Device lists, key packages and services: published by announced devices, bounded, and forgotten.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{base64url, config, get, now_ms, post, sign, start, until};
use peerloom_conformance::identity::{Identity, identity, record};
use peerloom_core::wire::{DiscoveryItem, EntryId, NetworkId, ServiceKind, limits as wire_limits};
use peerloom_registry_protocol::http::ItemsAnswer;
use peerloom_registry_protocol::limits;
use peerloom_registry_protocol::proof::item_input;
use peerloom_registry_protocol::text::{decode_item, encode_record};
use peerloom_registry_server::{Limits, RegistryConfig, Times};
use serde_json::{Value, json};

fn network() -> NetworkId {
    NetworkId::from_name("conformance")
}

fn path(of: &str) -> String {
    format!("/network/{}/{of}", network())
}

async fn announce(at: SocketAddr, identity: &Identity) {
    let record = encode_record(&record(identity, 1, &[]));
    let body = json!({"peerId": identity.device.to_string(), "record": record});
    assert_eq!(post(at, &path("announce"), &body).await.status, 200);
}

/// What an honest client posts.
fn publication(at: SocketAddr, identity: &Identity, item: &[u8]) -> Value {
    let at_ms = now_ms();
    let signature = sign(identity, &item_input(&at.to_string(), &network(), &identity.device, item, at_ms));
    json!({"peerId": identity.device.to_string(), "item": base64url(item), "atMs": at_ms, "signature": base64url(&signature)})
}

async fn publish(at: SocketAddr, identity: &Identity, item: &DiscoveryItem) -> common::Answer {
    post(at, &path("item"), &publication(at, identity, &item.encode())).await
}

async fn found(at: SocketAddr, of: &str) -> Vec<DiscoveryItem> {
    let answer = get(at, &path(of)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.text.len() <= limits::RESPONSE, "{} bytes", answer.text.len());
    let answer: ItemsAnswer = serde_json::from_str(&answer.text).expect("an answer");
    assert!(answer.items.iter().all(|item| item.age_ms < 60_000));
    answer.items.iter().map(|item| decode_item(&item.item).expect("an item").expect("a known kind")).collect()
}

fn package(identity: &Identity, body: &[u8]) -> (DiscoveryItem, String) {
    let signed = identity.key_package(body);
    let hash = EntryId::from_bytes(signed.hash()).to_string();
    (DiscoveryItem::KeyPackage(signed), format!("key-package/{hash}"))
}

#[tokio::test]
async fn items_are_kept_under_what_they_are_asked_for_by() {
    let registry = start(config()).await;
    let (at, alice, bob) = (registry.local_addr(), identity(1), identity(2));
    let list = DiscoveryItem::of_devices(&alice.devices());
    assert_eq!(publish(at, &alice, &list).await.status, 404, "it isn't announced");
    announce(at, &alice).await;
    announce(at, &bob).await;
    let (package, by_hash) = package(&alice, b"package");
    let service =
        |identity: &Identity, sequence| DiscoveryItem::Service(identity.service(ServiceKind::MAILBOX, sequence));
    for item in [&list, &package, &service(&alice, 5)] {
        assert_eq!(publish(at, &alice, item).await.json()["changed"], true);
        assert_eq!(publish(at, &alice, item).await.json()["changed"], false);
    }
    assert_eq!(found(at, &format!("device-list/{}", alice.user)).await, [list]);
    assert_eq!(found(at, &by_hash).await, [package]);
    assert_eq!(found(at, "service/2").await, [service(&alice, 5)]);
    for nothing in [format!("device-list/{}", bob.user), format!("key-package/{}", bob.user), "service/1".into()] {
        assert!(found(at, &nothing).await.is_empty(), "{nothing}");
    }
    // The newest of each device.
    assert_eq!(publish(at, &alice, &service(&alice, 4)).await.code(), "outdated");
    assert_eq!(publish(at, &bob, &service(&bob, 1)).await.status, 200);
    assert_eq!(publish(at, &alice, &service(&alice, 6)).await.status, 200);
    let mut offers = found(at, "service/2").await;
    offers.sort_by_key(|item| item.encode());
    let mut expected = [service(&alice, 6), service(&bob, 1)];
    expected.sort_by_key(|item| item.encode());
    assert_eq!(offers, expected);
}

#[tokio::test]
async fn what_is_not_the_devices_own_is_refused() {
    let registry = start(config()).await;
    let (at, alice, mallory) = (registry.local_addr(), identity(1), identity(2));
    announce(at, &alice).await;
    announce(at, &mallory).await;
    for stolen in [
        DiscoveryItem::of_devices(&alice.devices()),
        package(&alice, b"package").0,
        DiscoveryItem::Service(alice.service(ServiceKind::MAILBOX, 1)),
        // A record has its own call.
        DiscoveryItem::Record(record(&mallory, 2, &[])),
    ] {
        assert_eq!(publish(at, &mallory, &stolen).await.code(), "badItem", "{:?}", stolen.kind());
    }
    let good = package(&alice, b"package").0.encode();
    let mut forged = good.to_vec();
    forged[good.len() - 1] ^= 1;
    // Of a later version, nothing at all, and longer than any item.
    for bad in [&forged[..], &[0x4a, 1, 7], b"", &vec![0; wire_limits::DISCOVERY_ITEM + 1]] {
        assert_eq!(post(at, &path("item"), &publication(at, &alice, bad)).await.code(), "badItem");
    }
    let mut large = publication(at, &alice, &good);
    large["item"] = json!("A".repeat(limits::ITEM_BODY));
    assert_eq!(post(at, &path("item"), &large).await.code(), "tooLarge");
    assert_eq!(post(at, &path("announce"), &large).await.code(), "tooLarge");
    // Not signed by the device, for another registry or another time.
    let honest = publication(at, &alice, &good);
    let elsewhere = publication("192.0.2.1:1".parse().expect("an address"), &alice, &good);
    let mut of_another = publication(at, &mallory, &good);
    of_another["peerId"] = json!(alice.device.to_string());
    let mut later = honest.clone();
    later["atMs"] = json!(now_ms() + 1);
    for bad in [elsewhere, of_another, later] {
        assert_eq!(post(at, &path("item"), &bad).await.code(), "badSignature");
    }
    let mut old = honest.clone();
    old["atMs"] = json!(now_ms() - 10 * 60_000);
    assert_eq!(post(at, &path("item"), &old).await.code(), "clockSkew");
    assert_eq!(post(at, &path("item"), &honest).await.status, 200);
    for bad in ["device-list/nobody", "key-package/0", "service/-1", "service/mailbox"] {
        assert_eq!(get(at, &path(bad)).await.code(), "invalidId", "{bad}");
    }
}

#[tokio::test]
async fn items_are_bounded_for_each_device_and_in_all() {
    let limits_of_all = Limits { item_bytes: 150_000, ..config().limits };
    let registry = start(RegistryConfig { limits: limits_of_all, ..config() }).await;
    let at = registry.local_addr();
    let alice = identity(1);
    announce(at, &alice).await;
    // Many small ones.
    let many = u8::try_from(limits::ITEMS_OF_DEVICE).expect("few") + 3;
    for number in 0..many {
        assert_eq!(publish(at, &alice, &package(&alice, &[number]).0).await.status, 200);
    }
    let kept = async |numbers: std::ops::Range<u8>, size| {
        let mut kept = Vec::new();
        for number in numbers {
            if !found(at, &package(&alice, &vec![number; size]).1).await.is_empty() {
                kept.push(number);
            }
        }
        kept
    };
    assert_eq!(kept(0..many, 1).await, (3..many).collect::<Vec<_>>(), "those published longest ago go");
    // Few large ones: those of one device make up so many bytes.
    for number in 0..20 {
        assert_eq!(publish(at, &alice, &package(&alice, &[number; 4000]).0).await.status, 200);
    }
    let left = kept(0..20, 4000).await;
    let most = limits::BYTES_OF_DEVICE / 4000;
    assert!(left.len() <= most && left.len() + 2 >= most && left.last() == Some(&19), "{left:?}");
    assert!(kept(0..many, 1).await.is_empty());
    // The sum of all devices.
    let mut refused = 0;
    for number in 2..5 {
        let other = identity(number);
        announce(at, &other).await;
        for body in 0..15 {
            let answer = publish(at, &other, &package(&other, &[body; 4000]).0).await;
            refused += usize::from(answer.status == 503);
        }
    }
    assert!(refused > 15, "{refused}");
    assert_eq!(publish(at, &alice, &package(&alice, &[99; 3000]).0).await.status, 200, "its own make room");
}

#[tokio::test]
async fn items_outlast_their_device_and_end() {
    let short = Duration::from_millis(300);
    let times =
        Times { stale: Duration::from_millis(50), clean: Duration::from_millis(50), items: short, ..Times::default() };
    let registry = start(RegistryConfig { times, ..config() }).await;
    let (at, alice) = (registry.local_addr(), identity(1));
    announce(at, &alice).await;
    let (item, by_hash) = package(&alice, b"package");
    assert_eq!(publish(at, &alice, &item).await.status, 200);
    let device = path(&format!("device/{}", alice.device));
    until("alice is forgotten", async || get(at, &device).await.status == 404).await;
    until("the package is forgotten", async || found(at, &by_hash).await.is_empty()).await;
}

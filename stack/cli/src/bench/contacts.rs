//! What many contacts cost, most of whom are never there.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use peerloom::config::FILE_NAME;
use peerloom::core::wire::{Invitation, NetworkId, UserId};
use peerloom::{Address, ErrorKind, Node, Result};
use peerloom_crypto_primitives::sha256;
use serde_json::{Map, Value, json};

use super::idle::{spawn_peers, wait_connected};
use super::{Setup, failed};
use crate::control::{Client, Request};
use crate::folder::{free_port, init_folder};
use crate::process::{NodeProcess, resident_kib, ticks};

const CONTACTS: usize = 1_000;
/// Those of them that are there.
const ONLINE: usize = 100;
/// Until every contact was dialed once, and how long the node is then watched.
const FIRST_ROUND: Duration = Duration::from_secs(45);
const WATCH: Duration = Duration::from_secs(20);
/// A message to a contact that is online takes no longer.
const PATIENCE: Duration = Duration::from_secs(120);
const NETWORK: &str = "peerloom-bench";

pub(super) async fn measure(setup: &mut Setup) -> Result<Map<String, Value>> {
    let hub = setup.folder.join("contacts-hub");
    let listen = format!("127.0.0.1:{}", free_port("127.0.0.1")?);
    let node = init_folder(&hub, &setup.overrides, "hub", NETWORK, &listen).await?;
    // It takes what is sent to it, and never answers.
    let silent = UdpSocket::bind("127.0.0.1:0")
        .map_err(|e| failed(ErrorKind::System, "no socket can be bound").with_source(e))?;
    let address =
        silent.local_addr().map_err(|e| failed(ErrorKind::System, "the socket has no address").with_source(e))?;
    add_absent(&node, &format!("quic://{address}"), setup).await?;
    node.shutdown().await;

    let node = NodeProcess::start(&hub).await?;
    let invite = Request::Invite { lifetime_ms: 3_600_000, uses: ONLINE as u32 };
    let link = node.client.request(invite).await?["link"].as_str().unwrap_or_default().to_owned();
    let _peers = spawn_peers(&setup.folder.join("contacts-online"), ONLINE, &link).await?;
    wait_connected(&node.client, ONLINE, setup).await?;
    node.kill().await?;

    // At another port, which the others don't know: it has to dial.
    let file = hub.join(FILE_NAME);
    let unreadable = |e| failed(ErrorKind::Storage, "the node's file can't be changed").with_source(e);
    let text = std::fs::read_to_string(&file).map_err(unreadable)?;
    let moved = format!("127.0.0.1:{}", free_port("127.0.0.1")?);
    std::fs::write(&file, text.replace(&listen, &moved)).map_err(unreadable)?;

    let mut figures = Map::new();
    let node = NodeProcess::start(&hub).await?;
    figures.insert("contacts_start_ms".into(), json!(node.ready_after.as_secs_f64() * 1000.0));
    figures.insert("contacts_send_ms".into(), json!(send(&node.client).await?.as_secs_f64() * 1000.0));
    setup.progress.set("every contact is dialed once");
    tokio::time::sleep(FIRST_ROUND).await;
    wait_connected(&node.client, ONLINE, setup).await?;
    setup.progress.set("an idle node with many contacts");
    let before = ticks(node.pid());
    tokio::time::sleep(WATCH).await;
    let used = (ticks(node.pid()) - before) as f64 / 100.0;
    figures.insert("contacts_idle_percent_of_core".into(), json!(used / WATCH.as_secs_f64() * 100.0));
    figures.insert("contacts_node_mib".into(), json!(resident_kib(node.pid()) as f64 / 1024.0));
    node.kill().await?;
    Ok(figures)
}

/// Adds contacts that exist nowhere, at an address that never answers.
async fn add_absent(node: &Node, address: &str, setup: &Setup) -> Result<()> {
    let address: Address = address.parse()?;
    for number in 0..CONTACTS - ONLINE {
        setup.progress.set(&format!("{number} absent contacts"));
        node.add_contact(made_up(number, &address)).await?;
    }
    Ok(())
}

/// An invitation of a made-up user.
fn made_up(number: usize, address: &Address) -> String {
    let made = |role: &str| sha256(&[role.as_bytes(), &number.to_be_bytes()]);
    let invitation = Invitation {
        user: UserId::from_bytes(made("user")),
        key: made("device"),
        token: [7; 16],
        expires_at_s: u32::MAX,
        network: Invitation::network_of(&NetworkId::from_name(NETWORK)),
        addresses: vec![address.clone()],
        name: format!("absent-{number}"),
    };
    peerloom_discovery_invite::encode(&invitation)
}

/// How long a message to a contact that is online takes right after the start.
async fn send(client: &Client) -> Result<Duration> {
    let begin = Instant::now();
    let contact = format!("peer-{}", ONLINE - 1);
    client.request(Request::Send { contact, text: "there?".into(), ttl_ms: None }).await?;
    while client.request(Request::Queue).await?.as_array().is_none_or(|queue| !queue.is_empty()) {
        if begin.elapsed() > PATIENCE {
            return Err(failed(ErrorKind::Timeout, "the message to a contact that is there is never delivered"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(begin.elapsed())
}

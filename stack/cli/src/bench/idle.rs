//! What a node costs while nothing happens.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use peerloom::{Config, ErrorKind, Node, Result};
use serde_json::{Map, Value, json};
use tokio::process::Child;

use super::{Setup, failed};
use crate::control::{Client, Request};
use crate::folder::{free_port, init_folder};
use crate::process::{NodeProcess, program, resident_kib, ticks};

/// How long an idle node is watched.
const WATCH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn measure(setup: &mut Setup, peers: usize) -> Result<Map<String, Value>> {
    let mut figures = Map::new();
    let hub = setup.folder.join("hub");
    let listen = format!("127.0.0.1:{}", free_port("127.0.0.1")?);
    init_folder(&hub, &setup.overrides, "hub", "peerloom-bench", &listen).await?.shutdown().await;
    let node = NodeProcess::start(&hub).await?;
    figures.insert("process_to_listening_ms".into(), json!(node.ready_after.as_secs_f64() * 1000.0));
    setup.progress.set("an idle node");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = ticks(node.pid());
    tokio::time::sleep(WATCH).await;
    let used = (ticks(node.pid()) - before) as f64 / 100.0;
    figures.insert("idle_percent_of_core".into(), json!(used / WATCH.as_secs_f64() * 100.0));
    figures.insert("idle_node_mib".into(), json!(resident_kib(node.pid()) as f64 / 1024.0));

    // The slope between half and all of them: what the first ones warm up doesn't count.
    let (first, second) = (peers / 2, peers - peers / 2);
    let uses = u32::try_from(peers).unwrap_or(u32::MAX);
    let answer = node.client.request(Request::Invite { lifetime_ms: 3_600_000, uses }).await?;
    let link = answer["link"].as_str().unwrap_or_default().to_owned();
    let _some = spawn_peers(&setup.folder.join("first"), first, &link).await?;
    wait_connected(&node.client, first, setup).await?;
    let before = settled(node.pid()).await;
    let _more = spawn_peers(&setup.folder.join("second"), second, &link).await?;
    wait_connected(&node.client, peers, setup).await?;
    let after = settled(node.pid()).await;
    figures.insert("kib_per_idle_peer".into(), json!(after.saturating_sub(before) as f64 / second.max(1) as f64));
    node.kill().await?;
    Ok(figures)
}

async fn settled(pid: u32) -> u64 {
    tokio::time::sleep(Duration::from_secs(2)).await;
    resident_kib(pid)
}

pub(super) async fn spawn_peers(folder: &Path, count: usize, link: &str) -> Result<Child> {
    program()?
        .arg("-C")
        .arg(folder)
        .args(["bench-peer", "idle-peers", &count.to_string(), link])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(ErrorKind::System, "the peers' process can't be started").with_source(e))
}

pub(super) async fn wait_connected(client: &Client, wanted: usize, setup: &Setup) -> Result<()> {
    let begin = Instant::now();
    loop {
        let peers = client.request(Request::Peers).await?;
        let up = peers.as_array().into_iter().flatten().filter(|p| p["state"] == "connected").count();
        setup.progress.set(&format!("{up} of {wanted} idle peers"));
        if up >= wanted {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(failed(ErrorKind::Timeout, &format!("only {up} of {wanted} peers connected")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The other process: many nodes that connect and then do nothing.
pub(super) async fn be_peers(folder: &Path, count: usize, link: &str) -> Result<()> {
    let kinds = crate::kinds()?;
    let mut nodes = Vec::new();
    for number in 0..count {
        let folder = folder.join(number.to_string());
        init_folder(&folder, &[], &format!("peer-{number}"), "peerloom-bench", "127.0.0.1:0").await?.shutdown().await;
        let config = Config::load(&folder.join(peerloom::config::FILE_NAME), &[], &kinds)?;
        let node = Node::open(&config).await?;
        node.start().await?;
        node.add_contact(link).await?;
        nodes.push(node);
    }
    std::future::pending().await
}

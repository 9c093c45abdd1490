//! Durable, encrypted messages between two processes.

use std::time::{Duration, Instant};

use peerloom::config::FILE_NAME;
use peerloom::{Config, Contact, ErrorKind, Event, EventStream, MessageState, Node, Result};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::{PAUSE, Setup, failed, percentile};
use crate::control::Request;
use crate::folder::{free_port, init_folder};
use crate::process::NodeProcess;

/// Messages sent and not yet acknowledged by the other process.
const WINDOW: usize = 1024;
/// Single messages for the latency figure.
const SINGLE: usize = 300;
/// Without progress for this long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes in two processes, with a link and keys between them.
struct Pair {
    node: Node,
    contact: Contact,
    events: EventStream,
    receiver: NodeProcess,
    start_ms: f64,
}

impl Pair {
    async fn start(setup: &Setup) -> Result<Self> {
        let (here, there) = (setup.folder.join("sender"), setup.folder.join("receiver"));
        for (name, folder) in [("sender", &here), ("receiver", &there)] {
            let listen = format!("127.0.0.1:{}", free_port("127.0.0.1")?);
            init_folder(folder, &setup.overrides, name, "peerloom-bench", &listen).await?.shutdown().await;
        }
        let receiver = NodeProcess::start(&there).await?;
        let invite = Request::Invite { lifetime_ms: 3_600_000, uses: 1 };
        let link = receiver.client.request(invite).await?["link"].as_str().unwrap_or_default().to_owned();

        let kinds = crate::kinds()?;
        let config = Config::load(&here.join(FILE_NAME), &[], &kinds)?;
        let begin = Instant::now();
        let node = Node::open(&config).await?;
        node.start().await?;
        let start_ms = begin.elapsed().as_secs_f64() * 1000.0;
        let contact = node.add_contact(&link).await?;
        let mut events = node.events().await?;
        // The first message waits for the link and the keys.
        flow(&node, &contact, &mut events, 1, 64).await?;
        Ok(Self { node, contact, events, receiver, start_ms })
    }

    async fn end(self) -> Result<()> {
        self.node.shutdown().await;
        self.receiver.kill().await
    }
}

/// Messages for a long time: how many, and the longest wait.
pub(super) async fn steady(setup: &mut Setup, time: Duration) -> Result<Map<String, Value>> {
    let mut pair = Pair::start(setup).await?;
    let Pair { node, contact, events, .. } = &mut pair;
    let (begin, mut count, mut longest) = (Instant::now(), 0usize, Duration::ZERO);
    while begin.elapsed() < time {
        setup.progress.set(&format!(
            "{count} messages in {} of {} s; longest wait {} ms",
            begin.elapsed().as_secs(),
            time.as_secs(),
            longest.as_millis()
        ));
        let part = WINDOW * 16;
        longest = longest.max(flow(node, contact, events, part, 1024).await?);
        count += part;
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    pair.end().await?;
    Ok(Map::from_iter([
        ("steady_messages_per_s".to_owned(), json!(rate)),
        ("steady_seconds".to_owned(), json!(time.as_secs())),
        ("longest_wait_ms".to_owned(), json!(longest.as_secs_f64() * 1000.0)),
    ]))
}

pub(super) async fn measure(setup: &mut Setup, rates: bool, latency: bool) -> Result<Map<String, Value>> {
    let mut pair = Pair::start(setup).await?;
    let mut figures = Map::from_iter([("start_ms".to_owned(), json!(pair.start_ms))]);
    let Pair { node, contact, events, .. } = &mut pair;
    if latency {
        setup.progress.set("single messages on an idle link");
        let body = bytes::Bytes::from(vec![b'x'; 1024]);
        let mut times = Vec::with_capacity(SINGLE);
        for _ in 0..SINGLE {
            let begin = Instant::now();
            node.conversation(&*contact).send_bytes("application/octet-stream", body.clone(), None).await?;
            acknowledged(events).await?;
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
            // Idle again before the next.
            tokio::time::sleep(PAUSE).await;
        }
        times.sort_by(f64::total_cmp);
        figures.insert("message_and_ack_p50_ms".into(), json!(percentile(&times, 0.50)));
        figures.insert("message_and_ack_p99_ms".into(), json!(percentile(&times, 0.99)));
    }
    if rates {
        for (name, size, count) in [
            ("messages_per_s", 1024, 200_000),
            ("messages_16k_per_s", 16 * 1024, 20_000),
            ("messages_64k_per_s", 64 * 1024, 5_000),
        ] {
            setup.progress.set(&format!("{count} messages of {size} bytes"));
            flow(node, contact, events, count / 10, size).await?;
            let begin = Instant::now();
            flow(node, contact, events, count, size).await?;
            figures.insert(name.into(), json!(count as f64 / begin.elapsed().as_secs_f64()));
        }
    }
    pair.end().await?;
    Ok(figures)
}

/// Waits for an acknowledgement; says how many messages it is about.
async fn acknowledged(events: &mut EventStream) -> Result<usize> {
    loop {
        match tokio::time::timeout(PATIENCE, events.next()).await {
            Ok(Some(Event::Receipt { messages, state: MessageState::Delivered, .. })) => return Ok(messages.len()),
            Ok(Some(_)) => {}
            Ok(None) => return Err(failed(ErrorKind::Closed, "the node ended")),
            Err(_) => return Err(failed(ErrorKind::Timeout, "no acknowledgement for a minute")),
        }
    }
}

/// Sends `count` messages, at most [`WINDOW`] of them unacknowledged, and waits for the last
/// acknowledgement; returns the longest wait for one.
async fn flow(node: &Node, contact: &Contact, events: &mut EventStream, count: usize, size: usize) -> Result<Duration> {
    let body = bytes::Bytes::from(vec![b'x'; size]);
    let (mut sent, mut delivered) = (0, 0);
    let mut sends = JoinSet::new();
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while delivered < count {
        while sent < count && sent - delivered < WINDOW {
            let (node, contact, body) = (node.clone(), contact.clone(), body.clone());
            sends.spawn(
                async move { node.conversation(&contact).send_bytes("application/octet-stream", body, None).await },
            );
            sent += 1;
        }
        tokio::select! {
            count = acknowledged(events) => {
                delivered += count?;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Some(outcome) = sends.join_next() => drop(outcome.map_err(|e| failed(ErrorKind::Internal, "a send panicked").with_source(e))??),
        }
    }
    while let Some(outcome) = sends.join_next().await {
        outcome.map_err(|e| failed(ErrorKind::Internal, "a send panicked").with_source(e))??;
    }
    Ok(longest)
}

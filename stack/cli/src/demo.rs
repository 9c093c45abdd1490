//! Three nodes in three processes, one of them killed, and a count of what arrived.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use peerloom::config::FILE_NAME;
use peerloom::{Error, ErrorKind, Override, Result};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::args::count;
use crate::control::{Client, MessageView, Request};
use crate::folder::{free_port, init_folder};
use crate::output::{Progress, note, say, say_json};
use crate::process::{NodeProcess, Scratch, until_ended};
use crate::testbed::signaling;

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many messages to send in all.
    #[arg(long, default_value = "3000", value_parser = count::<NonZeroUsize>)]
    pub(crate) messages: NonZeroUsize,
    /// Keep the three folders here instead of removing them.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keep: Option<PathBuf>,
}

const NAMES: [&str; 3] = ["alice", "bob", "carol"];
/// The one that is killed.
const VICTIM: usize = 1;
/// Requests of one stream that run at once.
const WINDOW: usize = 16;
/// How long the victim stays dead.
const DEAD: Duration = Duration::from_millis(700);
/// How long links and the last deliveries may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The demo's figures.
#[derive(Debug, Serialize)]
struct Summary {
    /// Messages that a node accepted.
    sent: usize,
    /// Accepted messages that were shown at their receiver.
    delivered: usize,
    /// Accepted messages that were not.
    lost: usize,
    /// Messages shown more than once.
    duplicates: usize,
    /// Messages shown whose acceptance the crash kept from being heard.
    in_doubt: usize,
    /// Delivery time: from `send` at the sender to the message stored at the receiver.
    p50_ms: f64,
    p99_ms: f64,
}

/// The clients of the running nodes; the victim's changes.
type Clients = Arc<Mutex<Vec<Option<Client>>>>;

/// Runs the demonstration; a signal ends its nodes and removes what it made.
pub(crate) async fn run(overrides: &[Override], json: bool, demo: Demo) -> Result<ExitCode> {
    until_ended(show(overrides, json, demo)).await
}

async fn show(overrides: &[Override], json: bool, demo: Demo) -> Result<ExitCode> {
    let temporary = Scratch::new(&std::env::temp_dir(), "peerloom-demo-")?;
    let base = demo.keep.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    let folders: Vec<PathBuf> = NAMES.iter().map(|name| base.join(name)).collect();
    let (_registry, overrides) = signaling(overrides).await?;
    for (name, folder) in NAMES.iter().zip(&folders) {
        let listen = format!("127.0.0.1:{}", free_port("127.0.0.1")?);
        let node = init_folder(folder, &overrides, name, "peerloom-demo", &listen).await?;
        node.shutdown().await;
        if !json {
            show_file(name, folder);
        }
    }
    let progress = Progress::new();
    progress.set("starting three nodes");
    let mut nodes = Vec::new();
    for folder in &folders {
        nodes.push(Some(NodeProcess::start(folder).await?));
    }
    let clients: Clients = Arc::new(Mutex::new(nodes.iter().map(|n| n.as_ref().map(|n| n.client.clone())).collect()));
    introduce(&clients).await?;
    wait_for_links(&clients, &progress).await?;

    let begin = Instant::now();
    let sent = Arc::new(AtomicUsize::new(0));
    let mut streams = JoinSet::new();
    let messages = demo.messages.get();
    for (from, to) in pairs() {
        let each = messages.div_ceil(pairs().count());
        streams.spawn(stream(clients.clone(), from, to, each, sent.clone()));
    }
    // In the middle of the stream: no warning, no clean-up.
    let half = messages / 2;
    while sent.load(Ordering::Relaxed) < half && !streams.is_empty() {
        progress.set(&format!("{} of {messages} messages accepted", sent.load(Ordering::Relaxed)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    clients.lock().await[VICTIM] = None;
    if let Some(victim) = nodes[VICTIM].take() {
        progress.set("");
        let pid = victim.pid();
        victim.kill().await?;
        if !json {
            say(&format!("killed {} (process {pid}, SIGKILL) after {half} messages", NAMES[VICTIM]));
        }
    }
    tokio::time::sleep(DEAD).await;
    let restarted = NodeProcess::start(&folders[VICTIM]).await?;
    progress.set("");
    if !json {
        say(&format!("started {} again; it answered after {} ms", NAMES[VICTIM], restarted.ready_after.as_millis()));
    }
    clients.lock().await[VICTIM] = Some(restarted.client.clone());
    nodes[VICTIM] = Some(restarted);

    let mut accepted: HashMap<String, usize> = HashMap::new();
    while let Some(stream) = streams.join_next().await {
        accepted.extend(stream.map_err(|e| failed(ErrorKind::Internal, "a stream panicked").with_source(e))??);
        progress.set(&format!("{} of {messages} messages accepted", accepted.len()));
    }
    let summary = collect(&clients, &accepted, &progress).await?;
    drop(progress);
    report(&summary, json, begin.elapsed());
    if demo.keep.is_some() {
        note(&format!("the three folders are in {}", base.display()));
    }
    let good = summary.sent == summary.delivered && summary.lost == 0 && summary.duplicates == 0 && summary.sent > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..NAMES.len()).flat_map(|from| (0..NAMES.len()).filter(move |to| *to != from).map(move |to| (from, to)))
}

fn show_file(name: &str, folder: &Path) {
    say(&format!("--- {name}/{FILE_NAME}"));
    let text = std::fs::read_to_string(folder.join(FILE_NAME)).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).for_each(say);
}

async fn client(clients: &Clients, node: usize) -> Option<Client> {
    clients.lock().await[node].clone()
}

/// Makes everybody a contact of everybody, by invitation links.
async fn introduce(clients: &Clients) -> Result<()> {
    for inviter in 0..NAMES.len() {
        for invited in inviter + 1..NAMES.len() {
            let (Some(a), Some(b)) = (client(clients, inviter).await, client(clients, invited).await) else {
                continue;
            };
            let answer = a.request(Request::Invite { lifetime_ms: 3_600_000, uses: 1 }).await?;
            let link = answer["link"].as_str().unwrap_or_default().to_owned();
            b.request(Request::Add { link, alias: None }).await?;
        }
    }
    Ok(())
}

async fn wait_for_links(clients: &Clients, progress: &Progress) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut up = 0;
        for node in 0..NAMES.len() {
            let Some(client) = client(clients, node).await else {
                continue;
            };
            let peers = client.request(Request::Peers).await?;
            up += peers.as_array().into_iter().flatten().filter(|p| p["state"] == "connected").count();
        }
        progress.set(&format!("{up} of 6 links are up"));
        if up == pairs().count() {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(Error::new(
                ErrorKind::Timeout,
                "demo",
                "connect",
                "the three nodes don't find each other; run again with -v",
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends `count` messages from one node to another, a few at once; returns the ids of those that were
/// accepted, with their receiver.
async fn stream(
    clients: Clients,
    from: usize,
    to: usize,
    count: usize,
    sent: Arc<AtomicUsize>,
) -> Result<Vec<(String, usize)>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..WINDOW {
        let (clients, next, sent) = (clients.clone(), next.clone(), sent.clone());
        workers.spawn(async move {
            let mut accepted = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                accepted.push((send_one(&clients, from, to).await?, to));
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Error>(accepted)
        });
    }
    let mut accepted = Vec::new();
    while let Some(worker) = workers.join_next().await {
        accepted.extend(worker.map_err(|e| failed(ErrorKind::Internal, "a worker panicked").with_source(e))??);
    }
    Ok(accepted)
}

/// Sends one message; while the sender is dead, a new attempt is a new message.
async fn send_one(clients: &Clients, from: usize, to: usize) -> Result<String> {
    let begin = Instant::now();
    loop {
        let answer = match client(clients, from).await {
            Some(client) => {
                let text = format!("from {} to {}", NAMES[from], NAMES[to]);
                let sending = client.request(Request::Send { contact: NAMES[to].into(), text, ttl_ms: None });
                // A node that takes a message and says nothing is a fault to be seen, not waited for.
                let silent =
                    |_| failed(ErrorKind::Timeout, &format!("{} doesn't say whether it took a message", NAMES[from]));
                tokio::time::timeout(PATIENCE, sending).await.map_err(silent)?
            }
            None => Err(failed(ErrorKind::Closed, "the sender is dead")),
        };
        match answer {
            Ok(answer) => return Ok(answer["id"].as_str().unwrap_or_default().to_owned()),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until everything accepted was shown, then counts what every node shows.
async fn collect(clients: &Clients, accepted: &HashMap<String, usize>, progress: &Progress) -> Result<Summary> {
    let begin = Instant::now();
    loop {
        let mut shown: HashMap<(usize, String), usize> = HashMap::new();
        let mut times = Vec::new();
        for node in 0..NAMES.len() {
            let Some(client) = client(clients, node).await else {
                continue;
            };
            for message in inbox(&client).await? {
                times.push(message.received_at_ms.saturating_sub(message.sent_at_ms) as f64);
                *shown.entry((node, message.id)).or_default() += 1;
            }
        }
        let delivered = accepted.iter().filter(|(id, to)| shown.contains_key(&(**to, (*id).clone()))).count();
        progress.set(&format!("{delivered} of {} messages delivered", accepted.len()));
        if delivered < accepted.len() && begin.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        times.sort_by(f64::total_cmp);
        let percentile = |p: f64| {
            times.get(((times.len() as f64 * p) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or(0.0)
        };
        let ids: HashSet<&String> = accepted.keys().collect();
        return Ok(Summary {
            sent: accepted.len(),
            delivered,
            lost: accepted.len() - delivered,
            duplicates: shown.values().filter(|count| **count > 1).count(),
            in_doubt: shown.keys().filter(|(_, id)| !ids.contains(id)).count(),
            p50_ms: percentile(0.50),
            p99_ms: percentile(0.99),
        });
    }
}

/// Everything a node has received.
async fn inbox(client: &Client) -> Result<Vec<MessageView>> {
    let mut all: Vec<MessageView> = Vec::new();
    loop {
        let after = all.last().map_or_else(|| "0.0".to_owned(), |m| m.cursor.clone());
        let page = client.request(Request::Inbox { after: Some(after), limit: 5000, contact: None }).await?;
        let page: Vec<MessageView> = serde_json::from_value(page)
            .map_err(|e| failed(ErrorKind::UnsupportedVersion, "an inbox can't be read").with_source(e))?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn report(summary: &Summary, json: bool, took: Duration) {
    if json {
        say_json(summary);
        return;
    }
    let Summary { sent, delivered, lost, duplicates, in_doubt, p50_ms, p99_ms } = summary;
    say("");
    say(&format!("sent         {sent:>8}   accepted by a node, in {:.1} s", took.as_secs_f64()));
    say(&format!("delivered    {delivered:>8}   shown at the receiver"));
    say(&format!("shown twice  {duplicates:>8}"));
    say(&format!("lost         {lost:>8}"));
    say(&format!("in doubt     {in_doubt:>8}   shown, though the crash swallowed the sender's answer"));
    say(&format!("delivery     p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms (those to and from a dead node included)"));
}

fn failed(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, "demo", "run", message)
}

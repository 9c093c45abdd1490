//! Figures of this machine, each with a ceiling beside it in the same run.

mod contacts;
mod disk;
mod history;
mod idle;
mod messages;
mod quic;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use peerloom::{Error, ErrorKind, Override, Result};
use serde_json::{Map, Value, json};

use crate::args::{count, number};
use crate::output::{Progress, say, say_json};
use crate::process::{Scratch, until_ended};

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// How often each figure is taken; the median counts.
    #[arg(long, default_value = "3", value_parser = count::<NonZeroUsize>)]
    pub(crate) runs: NonZeroUsize,
    /// How long the figure `steady` is taken, in seconds.
    #[arg(long, default_value = "60", value_parser = number::<u64>)]
    pub(crate) seconds: u64,
    /// Idle peers to connect for the memory figure.
    #[arg(long, default_value = "100", value_parser = number::<usize>)]
    pub(crate) peers: usize,
    /// Only these figures (by default all).
    #[arg(long, value_enum)]
    pub(crate) only: Vec<Figure>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPeer {
    #[command(subcommand)]
    pub(crate) role: Role,
}

/// Between single messages, and between single commits of the raw disk: long enough to be idle.
const PAUSE: Duration = Duration::from_millis(3);

/// A figure that can be asked for alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Figure {
    /// 1 KiB, 16 KiB and 64 KiB messages per second, window 1,024.
    Messages,
    /// One message and its acknowledgement on an idle link.
    Latency,
    /// Memory of each idle connected peer; the idle node itself; its start.
    Idle,
    /// Raw QUIC and raw disk.
    Ceilings,
    /// A node with 1,000 contacts, 900 of them never there: its start, a message to one that is there right after it,
    /// its processor time and memory when idle. Only when asked for.
    Contacts,
    /// A node with 10,000 conversations of 100 messages each, and no links: its start, the first page of a conversation,
    /// its memory for each contact. Only when asked for.
    History,
    /// 1 KiB messages for as long as `--seconds` says: the rate, and the longest wait for an
    /// acknowledgement. Only when asked for.
    Steady,
}

/// What the other process does.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Role {
    /// Swallow 1 KiB frames on a QUIC stream.
    RawQuic,
    /// Be many idle nodes that add one invitation.
    IdlePeers {
        /// How many.
        count: usize,
        /// An invitation with as many uses.
        link: String,
    },
}

/// Shared by the figures.
struct Setup {
    folder: PathBuf,
    overrides: Vec<Override>,
    progress: Progress,
}

/// Takes the figures; a signal ends it and removes what it made.
pub(crate) async fn run(overrides: &[Override], json: bool, bench: Bench) -> Result<ExitCode> {
    until_ended(measure(overrides, json, bench)).await
}

async fn measure(overrides: &[Override], json: bool, bench: Bench) -> Result<ExitCode> {
    // Here, and not where temporary files are: that may be memory.
    let temporary = Scratch::new(Path::new("."), "peerloom-bench-")?;
    let (_registry, overrides) = crate::testbed::signaling(overrides).await?;
    let setup = Setup { folder: temporary.path().to_path_buf(), overrides, progress: Progress::new() };
    let wanted = |figure| bench.only.is_empty() || bench.only.contains(&figure);
    let mut figures = Map::new();
    figures.insert("machine".into(), machine());
    let mut runs: Vec<Map<String, Value>> = Vec::new();
    for number in 0..bench.runs.get() {
        let mut figures = Map::new();
        let mut one = setup.clone_for(number);
        // The ceilings first and in the same run: machines drift.
        if wanted(Figure::Ceilings) || wanted(Figure::Messages) {
            figures.extend(quic::measure(&mut one).await?);
        }
        if wanted(Figure::Ceilings) || wanted(Figure::Messages) || wanted(Figure::Latency) {
            figures.extend(disk::measure(&mut one).await?);
        }
        if wanted(Figure::Messages) || wanted(Figure::Latency) {
            figures.extend(messages::measure(&mut one, wanted(Figure::Messages), wanted(Figure::Latency)).await?);
        }
        if bench.only.contains(&Figure::Steady) {
            figures.extend(messages::steady(&mut one, Duration::from_secs(bench.seconds)).await?);
        }
        if bench.only.contains(&Figure::Contacts) {
            figures.extend(contacts::measure(&mut one).await?);
        }
        if bench.only.contains(&Figure::History) {
            figures.extend(history::measure(&mut one).await?);
        }
        if wanted(Figure::Idle) {
            figures.extend(idle::measure(&mut one, bench.peers).await?);
        }
        runs.push(figures);
    }
    figures.extend(medians(&runs));
    share(&mut figures);
    drop(setup);
    if json {
        say_json(&figures);
    } else {
        figures.iter().for_each(|(name, value)| say(&format!("{name:32} {value}")));
    }
    Ok(ExitCode::SUCCESS)
}

impl Setup {
    fn clone_for(&self, number: usize) -> Self {
        Self {
            folder: self.folder.join(format!("run-{number}")),
            overrides: self.overrides.clone(),
            progress: Progress::new(),
        }
    }
}

/// What the child process does.
pub(crate) async fn peer(folder: &Path, role: Role) -> Result<()> {
    match role {
        Role::RawQuic => quic::serve().await,
        Role::IdlePeers { count, link } => idle::be_peers(folder, count, &link).await,
    }
}

/// The median of every figure over the runs.
fn medians(runs: &[Map<String, Value>]) -> Map<String, Value> {
    let mut medians = Map::new();
    for name in runs.first().into_iter().flat_map(Map::keys) {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(name)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        if let Some(median) = values.get(values.len() / 2) {
            medians.insert(name.clone(), rounded(*median));
        }
    }
    medians.insert("runs".into(), json!(runs.len()));
    medians
}

/// Ratios, which stay when the machine's speed drifts.
fn share(figures: &mut Map<String, Value>) {
    let get = |name: &str| figures.get(name).and_then(Value::as_f64);
    let of_quinn = get("messages_per_s").zip(get("raw_quinn_messages_per_s")).map(|(ours, raw)| ours / raw);
    // Both processes write every message to the same disk.
    let of_disk = get("messages_64k_per_s").zip(get("disk_stream_mib_per_s")).map(|(ours, raw)| ours / 8.0 / raw);
    // Each message is two commits; the rest is ours.
    let alone = get("message_and_ack_p50_ms").zip(get("disk_commit_idle_p50_ms"));
    let beside_disk = alone.map(|(ours, commit)| ours - 2.0 * commit);
    for (name, share) in [
        ("share_of_raw_quinn", of_quinn),
        ("share_of_disk_64k", of_disk),
        ("message_and_ack_beside_disk_ms", beside_disk),
    ] {
        figures.extend(share.map(|share| (name.to_owned(), rounded(share))));
    }
}

/// Three digits are all that a noisy machine says.
fn rounded(value: f64) -> Value {
    if value.abs() >= 100.0 { json!(value.round()) } else { json!((value * 1000.0).round() / 1000.0) }
}

fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map(|m| m.trim_start_matches([' ', '\t', ':']).to_owned());
    json!({
        "cpu": model.unwrap_or_else(|| "unknown".into()),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "system": std::env::consts::OS,
        "debug_build": cfg!(debug_assertions),
    })
}

/// The value below which a share of the sorted values lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

fn failed(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, "bench", "measure", message)
}

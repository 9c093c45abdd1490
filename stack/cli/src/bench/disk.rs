//! The disk's own speed: of one commit, busy and idle, and of a stream of large ones.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use peerloom::{ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::{PAUSE, Setup, failed, percentile};

const COMMITS: usize = 300;
const STREAM_MIB: usize = 256;

/// `write` and `fdatasync` to the end of a new file: 4 KiB at a time, one after the other and with the
/// pause that the single messages have, for a disk that slept is slower; then 1 MiB at a time.
pub(super) async fn measure(setup: &mut Setup) -> Result<Map<String, Value>> {
    setup.progress.set("raw disk");
    std::fs::create_dir_all(&setup.folder)
        .map_err(|e| failed(ErrorKind::Storage, "no folder can be made").with_source(e))?;
    let path = setup.folder.join("raw");
    let busy = appends(&path, 4096, COMMITS, Duration::ZERO).await?;
    let idle = appends(&path, 4096, COMMITS, PAUSE).await?;
    let stream: f64 = appends(&path, 1024 * 1024, STREAM_MIB, Duration::ZERO).await?.iter().sum();
    let _ = std::fs::remove_file(path);
    Ok(Map::from_iter([
        ("disk_commit_p50_ms".to_owned(), json!(percentile(&busy, 0.5))),
        ("disk_commit_idle_p50_ms".to_owned(), json!(percentile(&idle, 0.5))),
        ("disk_stream_mib_per_s".to_owned(), json!(STREAM_MIB as f64 / stream * 1000.0)),
    ]))
}

/// Milliseconds of each append, sorted.
async fn appends(path: &std::path::Path, size: usize, count: usize, pause: Duration) -> Result<Vec<f64>> {
    let broken = |e| failed(ErrorKind::Storage, "the raw file can't be written").with_source(e);
    let mut file = File::create(path).map_err(broken)?;
    let block = vec![7; size];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let begin = Instant::now();
        file.write_all(&block).map_err(broken)?;
        file.sync_data().map_err(broken)?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        // A signal gets its turn.
        tokio::task::yield_now().await;
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

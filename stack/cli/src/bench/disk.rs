//! The disk's own speed: of one commit, and of a stream of large ones.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use peerloom::Result;
use serde_json::{Map, Value, json};

use super::{Setup, failed, percentile};

const COMMITS: usize = 300;
const STREAM_MIB: usize = 256;

/// `write` and `fdatasync`, one after the other, to the end of a new file: 4 KiB at a time, then
/// 1 MiB at a time.
pub(super) fn measure(setup: &mut Setup) -> Result<Map<String, Value>> {
    setup.progress.set("raw disk");
    std::fs::create_dir_all(&setup.folder).map_err(|e| failed("no folder can be made").source(e))?;
    let path = setup.folder.join("raw");
    let times = appends(&path, 4096, COMMITS)?;
    let stream: f64 = appends(&path, 1024 * 1024, STREAM_MIB)?.iter().sum();
    let _ = std::fs::remove_file(path);
    Ok(Map::from_iter([
        ("disk_commit_p50_ms".to_owned(), json!(percentile(&times, 0.5))),
        ("disk_stream_mib_per_s".to_owned(), json!(STREAM_MIB as f64 / stream * 1000.0)),
    ]))
}

/// Milliseconds of each append, sorted.
fn appends(path: &std::path::Path, size: usize, count: usize) -> Result<Vec<f64>> {
    let broken = |e| failed("the raw file can't be written").source(e);
    let mut file = File::create(path).map_err(broken)?;
    let block = vec![7; size];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        file.write_all(&block).map_err(broken)?;
        file.sync_data().map_err(broken)?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

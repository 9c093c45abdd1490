//! The disk's own commit time, and the store's.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use peerloom::Result;
use serde_json::{Map, Value, json};

use super::{Setup, failed, percentile};

const COMMITS: usize = 300;

/// `write` of 4 KiB and `fdatasync`, one after the other.
pub(super) fn measure(setup: &mut Setup) -> Result<Map<String, Value>> {
    setup.progress.set("raw disk");
    std::fs::create_dir_all(&setup.folder).map_err(|e| failed("no folder can be made").source(e))?;
    let path = setup.folder.join("raw");
    let broken = |e| failed("the raw file can't be written").source(e);
    let mut file = File::create(&path).map_err(broken)?;
    let block = [7; 4096];
    let mut times = Vec::with_capacity(COMMITS);
    for _ in 0..COMMITS {
        let begin = Instant::now();
        file.write_all(&block).map_err(broken)?;
        file.sync_data().map_err(broken)?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let _ = std::fs::remove_file(path);
    Ok(Map::from_iter([("disk_commit_p50_ms".to_owned(), json!(percentile(&times, 0.5)))]))
}

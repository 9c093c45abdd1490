//! Signals that end a command, which then cleans up.

use tokio::signal::unix::{SignalKind, signal};

/// Completes at SIGINT (Ctrl-C), SIGTERM or SIGHUP; at SIGHUP not where it is ignored, as `nohup` does. What comes
/// after the call counts, even before the first poll.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    if !hangup_is_ignored() {
        kinds.push(SignalKind::hangup());
    }
    let waiting = kinds.into_iter().filter_map(|kind| signal(kind).ok()).map(|mut signal| {
        Box::pin(async move {
            signal.recv().await;
        })
    });
    let any = futures_util::future::select_all(waiting);
    async { drop(any.await) }
}

/// Whether the process began with SIGHUP ignored. Only Linux says so.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

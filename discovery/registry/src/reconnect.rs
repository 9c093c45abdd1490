//! Keeps a session with the registry, and begins it anew when it ends.

use std::sync::Arc;
use std::time::Duration;

use peerloom_core::backoff::Backoff;
use peerloom_core::{Error, ErrorKind};
use peerloom_crypto_primitives::random;

use crate::health::Part;
use crate::session::{self, End};
use crate::shared::Shared;

/// The first wait after a session ended; doubled each time that none comes about, or not for long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait, and the wait after the registry has refused this device.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 60);

/// How long a session has to last for the next wait to be the first one again: a registry that takes a hello
/// and closes is no better than one that doesn't.
const SETTLED: Duration = Duration::from_secs(60);

/// Runs until the client is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut changes = shared.network_changes.subscribe();
    let mut records = shared.record.subscribe();
    while !shared.closing.is_cancelled() {
        // Before the session: what changes while it is made counts.
        changes.mark_unchanged();
        records.mark_unchanged();
        let (lived, end) = session::run(&shared, &mut changes).await;
        shared.connected(None);
        shared.has_announced(None);
        if let Some(lived) = lived {
            if lived >= SETTLED {
                backoff.reset();
            }
            // What was made meanwhile is announced over HTTP, and the next hello takes the newest.
            records.mark_unchanged();
        }
        match end {
            End::Closed => return,
            End::NetworkChanged => {
                backoff.reset();
                continue;
            }
            End::Failed(error) => {
                let refused = error.kind() == ErrorKind::Refused;
                failed(&shared, error, refused);
                let next = backoff.failed();
                let this = if refused { LONGEST_WAIT } else { next };
                tokio::select! {
                    () = shared.closing.cancelled() => return,
                    () = tokio::time::sleep(jittered(this).max(shared.caller.rest())) => {}
                    // Both may have changed what was wrong.
                    _ = changes.changed() => drop(backoff.reset()),
                    _ = records.changed() => {}
                }
            }
        }
    }
}

fn failed(shared: &Shared, error: Error, refused: bool) {
    shared.health.failed(Part::Socket, &error);
    shared.status.send_modify(|status| {
        status.attempts += 1;
        status.refused = refused.then_some(error);
    });
}

/// Between half of a wait and the whole of it, so that not all clients of a registry that was restarted
/// come at once.
fn jittered(wait: Duration) -> Duration {
    let [byte] = random::<1>().unwrap_or([128]);
    wait.mul_f64(0.5 + f64::from(byte) / 512.0)
}

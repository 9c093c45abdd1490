//! Accepting connections: a listener that fails pauses, and leaves files for the rest of the process.

use std::io;
use std::time::Duration;

use tracing::{info, warn};

use crate::backoff::Backoff;

/// The first pause after a failure. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause: how long a listener may stay deaf once files are free again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Paces a listener.
///
/// Accepting fails for as long as the process has no file descriptor left (`EMFILE`), while the connection
/// stays in the system's queue: a loop that tries again at once burns a core and fills the log. Every
/// listener of the stack accepts through this type.
#[derive(Debug)]
pub struct Accepting {
    what: &'static str,
    pauses: Backoff,
}

impl Accepting {
    /// For a listener that log lines call `what`.
    pub const fn new(what: &'static str) -> Self {
        Self { what, pauses: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE) }
    }

    /// The next connection that `accept` gives. It waits through failures, with pauses of 10 ms to 1 s, and
    /// logs the first of several. Dropping the future loses no connection.
    pub async fn next<T, F: Future<Output = io::Result<T>>>(&mut self, mut accept: impl FnMut() -> F) -> T {
        loop {
            match accept().await {
                Ok(accepted) => {
                    if self.pauses.reset() {
                        info!(listener = self.what, "connections can be accepted again");
                    }
                    return accepted;
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if self.pauses.wait().is_none() {
                        warn!(listener = self.what, %error, "no connection can be accepted; trying again");
                    }
                    tokio::time::sleep(self.pauses.failed()).await;
                }
            }
        }
    }
}

/// Whether a failure took its connection from the queue, so that the next one may be accepted at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// How many connections a listener takes in at once: `most`, but at most one in `share` of the files that the
/// process may open, and at least one. The rest is for the store, links and other listeners.
pub fn connections(most: usize, share: usize) -> usize {
    #[cfg(unix)]
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    let files: Option<u64> = None;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    most.min(files / share.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listener_without_files_pauses() {
        let (begin, attempts) = (tokio::time::Instant::now(), Cell::new(0));
        let mut accepting = Accepting::new("test");
        let accept = || async {
            attempts.set(attempts.get() + 1);
            // EMFILE.
            if begin.elapsed() < Duration::from_secs(60) { Err(io::Error::from_raw_os_error(24)) } else { Ok(7) }
        };
        assert_eq!(accepting.next(accept).await, 7);
        assert!(attempts.get() < 80, "{} attempts in a minute", attempts.get());
        assert!(begin.elapsed() <= Duration::from_secs(61), "deaf for a second at most");
        assert_eq!(accepting.pauses.wait(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_aborted_delays_no_other() {
        let (begin, attempts) = (tokio::time::Instant::now(), Cell::new(0));
        let accept = || async {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 100 { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
        };
        Accepting::new("test").next(accept).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_listener_leaves_files_for_others() {
        assert_eq!(connections(1, 4), 1);
        assert_eq!(connections(0, 4), 1);
        let most = connections(usize::MAX, 4);
        assert!(most >= 1 && connections(most + 1, 4) == most);
    }
}

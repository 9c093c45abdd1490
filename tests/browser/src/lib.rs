//! Peerloom's WebRTC transport against WebRTC stacks that aren't ours: a page in a real browser, and
//! aiortc in Python. Signals go over a real registry, in this process.
//!
//! The *guest* is the other stack, in a process of its own. It gets its task from a small HTTP server
//! of the test ([`Guest`]), which also signs the registry's challenge for it, and reports there what
//! it sees. `page/link.js` and `aiortc/link.py` are complete and small implementations of what is said
//! in a link's data channels, `page/signal.js` and `aiortc/signing.py` of signed signals.
//!
//! Where the other stack isn't installed the tests say so and pass, or fail if `PEERLOOM_REQUIRE_LAB`
//! is set to 1.

mod exchange;
mod guest;
mod programs;
mod stage;

use std::time::Duration;

pub use exchange::exchange;
pub use guest::{Guest, Role, Task};
pub use programs::{Program, browser, browser_that_hides, python};
pub use stage::Stage;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something; panics with `what` if it takes too long.
async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

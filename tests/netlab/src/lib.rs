//! A network lab on one machine: Linux network namespaces with NATs between them, a TURN server and a
//! registry on a public segment, and real nodes behind the NATs.
//!
//! ```text
//!  host ─┐                          ┌─ internet ─────────────┐
//!  host ─┴─ router 1 (NAT) ─────────┤ coturn, at 2 addresses │
//!  host ─── router 2 (NAT) ─────────┤ peerloom registry      │
//!                                   └────────────────────────┘
//! ```
//!
//! It takes root, and the programs of `tests/setup-lab.sh`. Where they are missing the tests say so and
//! pass, or fail if `PEERLOOM_REQUIRE_LAB` is set to 1. There is one lab at a time on a machine: a lock on a file
//! sees to that. Namespaces and processes go with the [`Lab`]; what a killed run left is removed by
//! the next.

mod lab;
mod namespace;
mod node;
mod process;
mod site;

use std::time::{Duration, Instant};

pub use lab::Lab;
pub use namespace::Namespace;
pub use node::Node;
pub use peerloom_conformance::lab::{say, skip};
pub use process::Process;
pub use site::{Host, Nat, Site};

/// How long anything may take that no test measures.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds; panics with `what` if it never does.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

/// Waits until something holds, and says how long that took; panics with `what` if it takes longer than
/// `patience`.
pub fn within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < patience, "waited for {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begin.elapsed()
}

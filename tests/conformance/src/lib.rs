//! One suite for each contract of `peerloom-core`. An implementation passes when the suite's function
//! returns; a violation panics with what was expected. An implementation runs them in a test of
//! its own, `tests/conformance.rs`; `tests/all.rs` here runs them over the in-memory ones of `peerloom-core`.

pub mod crypto;
pub mod discovery;
pub mod identity;
pub mod lab;
pub mod moves;
pub mod signaling;
pub mod storage;
pub mod stream;
pub mod tcp;
pub mod transport;

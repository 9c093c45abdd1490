//! One suite for each contract of `peerloom-core`. An implementation passes when the suite's function
//! returns; a violation panics with what was expected. `tests/all.rs` runs them over every
//! implementation of this repository, the in-memory ones included; an implementation elsewhere does
//! the same in a test of its own.

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

//! The store as the engine uses it: its layout, transactions, and the committer.

mod committer;
mod layout;
pub(crate) mod tools;
mod txn;

pub(crate) use committer::{AfterCommit, Committer};
pub(crate) use layout::{MIGRATIONS, open};
pub(crate) use txn::{Txn, View, stored};

//! The local control socket: a running node answers commands of the same user.
//!
//! One JSON object a line. A request has an `id` and an `op`; answers carry the same `id`. Requests of one
//! connection take effect in the order in which they come. The socket's file is 0600 in the node's folder.

mod answers;
mod client;
mod connection;
mod protocol;
mod server;

pub(crate) use client::Client;
pub(crate) use protocol::{EventView, Failure, MessageView, Request, event_view};
pub(crate) use server::{Owner, Server, execute};

/// The socket's name in the node's folder.
pub(crate) const SOCKET: &str = "node.sock";

//! How the contacts' devices stand.

use std::sync::Arc;

use peerloom::Result;
use serde_json::Value;

use super::answers::{rows, show_notices, text};
use crate::control::Request;
use crate::output::{note, printable, say_json, table};
use crate::session::Session;

pub(super) async fn run(session: Arc<Session>, json: bool) -> Result<()> {
    let answer = session.request(Request::Peers).await?;
    if json {
        say_json(&answer);
        return Ok(());
    }
    let row = |peer: &Value| {
        let rtt = peer["rtt_us"].as_u64().map_or_else(|| "-".into(), |us| format!("{:.1}ms", us as f64 / 1000.0));
        let device: String = text(peer, "device").chars().take(10).collect();
        let detail = match text(peer, "address") {
            address if address.is_empty() => printable(&text(peer, "reason")),
            address => {
                let trouble = Some(text(peer, "reason")).filter(|reason| !reason.is_empty());
                let trouble = trouble.map(|reason| format!("; {}", printable(&reason))).unwrap_or_default();
                format!("{address} {}, {}{trouble}", text(peer, "path"), traffic(peer))
            }
        };
        vec![printable(&text(peer, "contact")), device, text(peer, "state"), rtt, detail]
    };
    table(&["contact", "device", "state", "rtt", "where, or why not"], &rows(&answer).map(row).collect::<Vec<_>>());
    if session.is_alone() {
        note("note: no node runs on this folder, so it has no links; start `peerloom run`");
    }
    show_notices(&session.request(Request::Status).await?);
    Ok(())
}

/// What went over a peer's link, for people.
fn traffic(peer: &Value) -> String {
    let size = |key: &str| match peer[key].as_u64().unwrap_or(0) {
        bytes if bytes < 10_000 => format!("{bytes} B"),
        bytes if bytes < 10_000_000 => format!("{} kB", bytes / 1000),
        bytes => format!("{} MB", bytes / 1_000_000),
    };
    format!("{} out, {} in", size("bytes_sent"), size("bytes_received"))
}

//! Messages that wait to be delivered.

use std::sync::Arc;

use clap::{Args, Subcommand};
use peerloom::Result;
use serde_json::Value;

use super::answers::{rows, show_notices, text};
use crate::control::Request;
use crate::output::{printable, say, say_json, table};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Queue {
    #[command(subcommand)]
    pub(crate) action: Option<QueueAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueAction {
    /// Try stalled messages again now.
    #[command(after_help = "Example: peerloom -C bob queue retry alice")]
    Retry {
        /// Only those for this contact.
        contact: Option<String>,
    },
}

pub(super) async fn run(session: Arc<Session>, json: bool, queue: Queue) -> Result<()> {
    if let Some(QueueAction::Retry { contact }) = queue.action {
        let answer = session.request(Request::Retry { contact }).await?;
        if json {
            say_json(&answer);
        } else {
            match answer["woken"].as_u64() {
                Some(0) => say("nothing is stalled; what waits is tried by itself"),
                Some(1) => say("1 stalled device is tried again"),
                woken => say(&format!("{} stalled devices are tried again", woken.unwrap_or_default())),
            }
        }
        return Ok(());
    }
    let answer = session.request(Request::Queue).await?;
    if json {
        say_json(&answer);
        return Ok(());
    }
    let row = |entry: &Value| {
        let next = match entry["next_try_ms"].as_u64() {
            Some(0) => "now".into(),
            Some(ms) => format!("{:.1}s", ms as f64 / 1000.0),
            None => "-".into(),
        };
        vec![
            text(entry, "id"),
            printable(&text(entry, "contact")),
            entry["attempts"].to_string(),
            next,
            printable(&text(entry, "reason")),
        ]
    };
    table(&["message", "contact", "attempts", "next try", "reason"], &rows(&answer).map(row).collect::<Vec<_>>());
    show_notices(&session.request(Request::Status).await?);
    Ok(())
}

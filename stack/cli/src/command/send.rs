//! Sending a message.

use std::sync::Arc;

use clap::Args;
use peerloom::Result;

use super::answers::text;
use super::stdin::read_message;
use crate::args::duration;
use crate::control::Request;
use crate::output::{note, printable, say, say_json};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The contact's name, their user id, or @ and at least 16 characters of it.
    pub(crate) contact: String,
    /// The text; `-` reads it from standard input, without the line break at its end. Text that is an option itself, such
    /// as --json or --help, goes after `--`.
    #[arg(allow_hyphen_values = true)]
    pub(crate) text: String,
    /// How long the message may wait to be delivered, instead of the configured time.
    #[arg(long, value_parser = duration)]
    pub(crate) ttl: Option<std::time::Duration>,
}

pub(super) async fn run(session: Arc<Session>, json: bool, send: Send) -> Result<()> {
    let body = match send.text.as_str() {
        "-" => {
            // Nobody shall type a message for a contact that isn't there.
            session.request(Request::Find { contact: send.contact.clone() }).await?;
            read_message()?
        }
        _ => send.text,
    };
    let ttl_ms = send.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let answer = session.request(Request::Send { contact: send.contact, text: body, ttl_ms }).await?;
    if json {
        say_json(&answer);
    } else {
        say(&format!("accepted {} for {}", text(&answer, "id"), printable(&text(&answer, "contact"))));
        if session.is_alone() {
            note("note: no node runs on this folder; the message goes out once `peerloom run` does");
        }
    }
    Ok(())
}

//! This device's part in its user.

use std::io::{BufRead, IsTerminal};

use clap::{Args, Subcommand};
use peerloom::{Error, ErrorKind, Result};
use serde_json::json;

use super::answers::text;
use super::stdin::read_message;
use crate::control::Request;
use crate::output::{is_lost, note, say, say_json};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Device {
    #[command(subcommand)]
    pub(crate) action: DeviceAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceAction {
    /// Show the recovery phrase, 24 words to write down, and delete its key from the folder.
    #[command(
        after_help = "Examples: peerloom -C alice device recovery\n          peerloom -C alice device recovery --check < words"
    )]
    Recovery(Recovery),
}

#[derive(Debug, Args)]
pub(crate) struct Recovery {
    /// Delete the key without asking; without a terminal it is kept otherwise.
    #[arg(long, conflicts_with = "check")]
    pub(crate) delete: bool,
    /// Tell whether a phrase on standard input is that of this folder's user.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Words of a phrase in one line.
const WORDS: usize = 6;

/// Shows the recovery phrase, and deletes the key once the user has it; or checks what was written down.
pub(super) async fn recovery(session: &Session, json: bool, recovery: Recovery) -> Result<()> {
    if recovery.check {
        let phrase = read_message()?;
        session.request(Request::CheckRecovery { phrase }).await?;
        match json {
            true => say_json(&json!({ "good": true })),
            false => say("the phrase is that of this folder's user"),
        }
        return Ok(());
    }
    let answer = session.request(Request::Recovery).await?;
    let phrase = text(&answer, "phrase");
    if phrase.is_empty() {
        let message = "the recovery key isn't in this folder: it was deleted, or never was on this device. `device recovery \
                       --check` tells whether what you wrote down is right";
        return Err(Error::new(ErrorKind::NotFound, "device", "show the recovery phrase", message));
    }
    if json {
        say_json(&answer);
    } else {
        let words: Vec<&str> = phrase.split(' ').collect();
        for (line, words) in words.chunks(WORDS).enumerate() {
            let numbered =
                words.iter().enumerate().map(|(at, word)| format!("{:>2}. {word:<9}", line * WORDS + at + 1));
            say(numbered.collect::<String>().trim_end());
        }
    }
    let delete = recovery.delete || (!json && std::io::stdin().is_terminal() && asked());
    if is_lost() || !delete {
        note(
            "note: the recovery key stays in this folder, where a thief of the folder finds it; write the words down, then \
             run `device recovery --delete`",
        );
        return Ok(());
    }
    session.request(Request::ForgetRecovery).await?;
    note("the recovery key is deleted from this folder; the words are the only copy now");
    Ok(())
}

/// Whether the user has the words.
fn asked() -> bool {
    note(
        "Write these words down, on paper: they outrank all your devices, and bring you back should all be lost or stolen.",
    );
    note("Type `written` to delete the key from this folder; anything else keeps it.");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).is_ok() && line.trim().eq_ignore_ascii_case("written")
}

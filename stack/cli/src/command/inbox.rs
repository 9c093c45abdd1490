//! Received messages.

use clap::Args;
use peerloom::Result;

use super::answers::{rows, text};
use super::show::{once_only, show_message};
use crate::args::number;
use crate::control::Request;
use crate::output::{is_lost, lost, note};
use crate::session::Session;
use crate::signals::interrupted;

#[derive(Debug, Args)]
pub(crate) struct Inbox {
    /// Go on showing messages as they come.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only messages after this cursor (the `cursor` of `--json`).
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// How many messages: the newest, or with --after the next.
    #[arg(long, default_value = "50", value_parser = number::<usize>)]
    pub(crate) limit: usize,
}

pub(super) async fn run(session: Session, json: bool, inbox: Inbox) -> Result<()> {
    // Page by page: neither the node nor this command holds more than one.
    let (mut after, mut left) = (inbox.after, inbox.limit);
    while left > 0 && !is_lost() {
        let page = session.request(Request::Inbox { after: after.clone(), limit: left, contact: None }).await?;
        let Some(last) = rows(&page).last() else { break };
        after = Some(text(last, "cursor"));
        rows(&page).for_each(|message| show_message(message, json));
        left = left.saturating_sub(rows(&page).count());
    }
    let mut done = Ok(());
    if inbox.follow {
        session.start().await?;
        // After the last one shown; with none, from the beginning of what was asked for.
        let after = after.unwrap_or_else(|| "0.0".into());
        done = tokio::select! {
            done = session.follow(Some(after), |event| {
                if event["event"] == "message" {
                    show_message(&event, json);
                } else {
                    once_only(&event).iter().for_each(|line| note(line));
                }
            }) => done,
            () = interrupted() => Ok(()),
            // Nobody reads any more.
            () = lost() => Ok(()),
        };
    }
    session.close().await;
    done
}

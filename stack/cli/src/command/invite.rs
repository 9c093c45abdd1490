//! Making an invitation.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use peerloom::Result;

use super::answers::text;
use super::qr;
use crate::args::{count, lifetime};
use crate::control::Request;
use crate::output::{note, printable, say, say_json};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// How long the link can be used.
    #[arg(long, default_value = "7d", value_parser = lifetime)]
    pub(crate) lifetime: std::time::Duration,
    /// How many contacts it lets in: at most 4,294,967,295.
    #[arg(long, default_value = "1", value_parser = count::<NonZeroU32>)]
    pub(crate) uses: NonZeroU32,
    /// Draw the link as a QR code, too.
    #[arg(long)]
    pub(crate) qr: bool,
    /// Write the link as a QR code to a new picture, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) png: Option<PathBuf>,
}

pub(super) async fn run(session: &Session, json: bool, invite: Invite) -> Result<()> {
    if let Some(picture) = &invite.png {
        qr::check_free(picture)?;
    }
    session.start().await?;
    let lifetime_ms = u64::try_from(invite.lifetime.as_millis()).unwrap_or(u64::MAX);
    let answer = session.request(Request::Invite { lifetime_ms, uses: invite.uses.get() }).await?;
    let link = text(&answer, "link");
    if let Some(picture) = &invite.png {
        qr::write(&peerloom_discovery_invite::for_qr(&peerloom_discovery_invite::decode(&link)?), picture)?;
    }
    if json {
        say_json(&answer);
        return Ok(());
    }
    match printable(&text(&answer, "cut_off")) {
        cut_off if cut_off.is_empty() => {}
        cut_off => note(&format!("note: {cut_off}")),
    }
    say(&link);
    if session.is_alone() {
        note("note: no node runs on this folder; start `peerloom run` so that the link leads somewhere");
    }
    if invite.qr {
        // The last thing that is printed, so that a small terminal shows all of it.
        qr::show(&peerloom_discovery_invite::for_terminal(&peerloom_discovery_invite::decode(&link)?))?;
    }
    Ok(())
}

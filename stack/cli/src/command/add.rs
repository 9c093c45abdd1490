//! Adding a contact.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use peerloom::Result;

use super::answers::text;
use super::names::warn_of_names;
use super::qr;
use super::stdin::read_message;
use crate::control::Request;
use crate::output::{hint, printable, say, say_json};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The link that `peerloom invite` printed, `-` for one on standard input; or the id of a user or a device, for two
    /// who know each other's ids and have a discovery such as a registry in common.
    #[arg(required_unless_present = "qr")]
    pub(crate) link: Option<String>,
    /// Read the link from a picture of its QR code instead.
    #[arg(long, value_name = "PICTURE", conflicts_with = "link")]
    pub(crate) qr: Option<PathBuf>,
    /// What to call the contact.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) alias: Option<String>,
}

pub(super) async fn run(session: Arc<Session>, dir: &Path, json: bool, add: Add) -> Result<()> {
    let link = match add.qr {
        Some(picture) => qr::read(&picture)?,
        None if add.link.as_deref() == Some("-") => read_message()?,
        None => add.link.unwrap_or_default(),
    };
    let answer = session.request(Request::Add { link, alias: add.alias.clone() }).await?;
    if json {
        say_json(&answer);
    } else {
        let contact = text(&answer, "contact");
        let next = hint(dir, &["send", "--", &contact, "hello"]);
        match answer["known"] == true {
            true => {
                say(&format!("added {} again, a contact that you have already; send with: {next}", printable(&contact)))
            }
            false => say(&format!("added {}; send with: {next}", printable(&contact))),
        }
        warn_of_names(&answer, add.alias.as_deref());
    }
    Ok(())
}

//! The contacts, and their names.

use std::sync::Arc;

use clap::Args;
use peerloom::core::wire::limits;
use peerloom::{Error, ErrorKind, Result};
use serde_json::Value;

use super::answers::{rows, show_notices, text};
use super::names::warn_of_names;
use crate::control::Request;
use crate::output::{printable, say, say_json, table};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Contacts {
    /// Give a contact another name.
    #[arg(long, value_name = "OLD=NEW", allow_hyphen_values = true)]
    pub(crate) rename: Option<String>,
}

pub(super) async fn run(session: Arc<Session>, json: bool, contacts: Contacts) -> Result<()> {
    if let Some(rename) = contacts.rename {
        let (contact, alias) = names(&session, &rename).await?;
        let answer = session.request(Request::Rename { contact, alias: alias.clone() }).await?;
        if json {
            say_json(&answer)
        } else {
            say(&printable(&text(&answer, "contact")));
            warn_of_names(&answer, Some(&alias));
        }
        return Ok(());
    }
    let answer = session.request(Request::Contacts).await?;
    if json {
        say_json(&answer);
    } else {
        let like = |c: &Value| match printable(&text(c, "like")) {
            like if like.is_empty() => like,
            like => format!("looks like {like}"),
        };
        let row = |c: &Value| vec![printable(&text(c, "contact")), text(c, "user"), like(c)];
        table(&["contact", "user", ""], &rows(&answer).map(row).collect::<Vec<_>>());
        show_notices(&session.request(Request::Status).await?);
    }
    Ok(())
}

/// Whom `OLD=NEW` renames and to what; names may contain `=` themselves.
async fn names(session: &Session, rename: &str) -> Result<(String, String)> {
    let wrong = |message: &str| Error::new(ErrorKind::Invalid, "contacts", "rename", message);
    let splits = rename.match_indices('=').map(|(at, _)| rename.split_at(at));
    let mut splits: Vec<_> = splits.filter(|(old, _)| old.len() <= 2 * limits::NAME).collect();
    let Some(first) = splits.first().copied() else {
        return Err(wrong("write --rename OLD=NEW"));
    };
    if splits.len() > 1 {
        let contacts = session.request(Request::Contacts).await?;
        splits.retain(|(old, _)| rows(&contacts).any(|c| c["contact"] == *old));
    }
    match splits.as_slice() {
        // The node's error says who may be meant.
        [] => Ok(first),
        [one] => Ok(*one),
        _ => Err(wrong("several contacts may be meant; name the contact by its id, as @ID=NEW")),
    }
    .map(|(old, new)| (old.to_owned(), new.strip_prefix('=').unwrap_or(new).to_owned()))
}

//! What is said of contacts' names.

use peerloom::{ID_MARK, UserId};
use serde_json::Value;

use super::answers::text;
use crate::output::{note, printable};

/// Notes that a contact isn't called as asked for, or that its name looks like another contact's.
pub(super) fn warn_of_names(contact: &Value, asked: Option<&str>) {
    let (name, like) = (printable(&text(contact, "contact")), printable(&text(contact, "like")));
    match asked.filter(|asked| asked.trim() != name) {
        Some(asked) if like.is_empty() => {
            note(&format!("note: the contact is called {name}, since {}", why_changed(asked)));
        }
        Some(_) => note(&format!("note: the contact is called {name}, since another one is called {like}")),
        None if like.is_empty() => {}
        None => note(&format!("note: {name} has a name that looks like that of your contact {like}")),
    }
}

/// Why a name that was asked for isn't taken as it is.
pub(super) fn why_changed(asked: &str) -> &'static str {
    match asked.trim() {
        asked if asked.starts_with(ID_MARK) => "what begins with @ names a user by id",
        asked if asked.parse::<UserId>().is_ok() => "this is a user id",
        asked if asked.contains(char::is_whitespace) => "a name is one word",
        _ => "names are written in plain letters",
    }
}

//! Events and messages as lines for people.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use serde_json::Value;

use crate::control::{EventView, MessageView};
use crate::output::{printable, say, say_json, set_in};

pub(super) fn show_event(event: &Value, json: bool) {
    if json {
        say_json(event);
        return;
    }
    match serde_json::from_value::<EventView>(event.clone()) {
        Ok(EventView::Message(message)) => say(&line_of(&message)),
        Ok(view) => say(&line_of_event(view)),
        Err(_) => {}
    }
}

/// The line for a person of an event that is sent once and can't be read anywhere later: a command that shows no other
/// events has to show these all the same.
pub(super) fn once_only(event: &Value) -> Option<String> {
    let view = serde_json::from_value::<EventView>(event.clone()).ok()?;
    let once = matches!(
        view,
        EventView::Failed { .. }
            | EventView::StoreRestored
            | EventView::StoreCopied
            | EventView::PeerRestored { .. }
            | EventView::PeerRefused { .. }
            | EventView::DevicesChanged { .. }
    );
    once.then(|| line_of_event(view))
}

fn line_of_event(view: EventView) -> String {
    let line = match view {
        EventView::Message(message) => return line_of(&message),
        EventView::Delivered { contact, messages, .. } => {
            format!("{contact}: {} delivered", messages.len())
        }
        EventView::Failed { contact, messages, reason, .. } => {
            format!("{contact}: {} failed: {reason}", messages.len())
        }
        EventView::PeerUp { contact, .. } => format!("{contact} is connected"),
        EventView::PeerDown { contact, reason, .. } => format!("{contact} is gone: {reason}"),
        EventView::Online => "online".into(),
        EventView::Offline => "offline".into(),
        EventView::Stalled { contact, .. } => {
            format!("{contact}: can't be reached; messages wait until it appears")
        }
        EventView::ContactAdded { contact, like, .. } => {
            let like =
                like.map(|like| format!("; its name looks like that of your contact {like}")).unwrap_or_default();
            format!("{contact} accepted an invitation of yours and is a contact now{like}")
        }
        EventView::Gap { contact, first, last } => format!("{contact}: entries {first} to {last} are missing"),
        EventView::StoreRestored => "this node sends and receives nothing any more, and has left the network: its \
                                     folder was put back from an older copy, or two copies of it are used. Go on with \
                                     the newest copy alone; or make a new folder with `peerloom init`, and invite again"
            .into(),
        EventView::StoreCopied => "another copy of this folder runs, or ran, and sends nothing any more; delete it. \
                                   What it received is in it alone"
            .into(),
        EventView::PeerRestored { contact, .. } => format!(
            "{contact}: the contact's folder was put back from an older copy, or two copies of it are used; what was \
             delivered may be in the other one alone. If nothing comes from there any more, ask for a new invitation"
        ),
        EventView::PeerRefused { contact, reason, .. } => format!("{contact} takes no link from this node: {reason}"),
        EventView::DevicesChanged { contact, new, gone, .. } => {
            let new = match new.len() {
                0 => None,
                1 => Some("has a new device".to_owned()),
                more => Some(format!("has {more} new devices")),
            };
            let gone = match gone.len() {
                0 => None,
                1 => Some("revoked a device, which gets nothing more".to_owned()),
                more => Some(format!("revoked {more} devices, which get nothing more")),
            };
            format!("{contact} {}", new.into_iter().chain(gone).collect::<Vec<_>>().join(", and "))
        }
        EventView::Lagged { missed } => format!("{missed} events were missed"),
    };
    format!("* {}", printable(&line))
}

pub(super) fn show_message(message: &Value, json: bool) {
    if json {
        say_json(message);
    } else if let Some(line) = message_line(message) {
        say(&line);
    }
}

/// A message for a person.
pub(super) fn message_line(message: &Value) -> Option<String> {
    serde_json::from_value::<MessageView>(message.clone()).ok().map(|view| line_of(&view))
}

fn line_of(message: &MessageView) -> String {
    let body = match (&message.text, &message.body) {
        (Some(text), _) => set_in(text),
        (None, body) => {
            let kind = if message.content_type.is_empty() { "bytes" } else { &message.content_type };
            format!("[{}, {} characters of base64]", printable(kind), body.as_ref().map_or(0, String::len))
        }
    };
    format!("{} {}: {body}", time(message.received_at_ms), printable(&message.from))
}

/// The time of day now.
pub(super) fn time_now() -> String {
    ZonedDateTime::now().strftime("%H:%M").to_string()
}

/// When something happened, in this machine's time zone; the day only if it isn't today.
pub(super) fn time(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    let (at, now) = (at.to_zoned_datetime(TimeZone::system()), ZonedDateTime::now());
    at.strftime(if at.date() == now.date() { "%H:%M" } else { "%Y-%m-%d %H:%M" }).to_string()
}

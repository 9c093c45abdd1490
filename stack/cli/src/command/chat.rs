//! A conversation, line by line: works on a narrow terminal, and on none.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use peerloom::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::sync::mpsc;

use super::screen::{Screen, Typed};
use super::{message_line, rows, text};
use crate::args::Chat;
use crate::control::Request;
use crate::output::{lost, note, printable};
use crate::session::Session;
use crate::signals::interrupted;

/// Characters of a message that a mark repeats: with the mark they fit 40 columns.
const REPEATED: usize = 24;
/// Messages shown at the beginning.
const BEFORE: usize = 10;

/// Own messages on their way, by id, and marks that came before the id was known.
#[derive(Default)]
struct Marks {
    sending: HashMap<String, String>,
    early: HashSet<String>,
}

pub(super) async fn run(session: &Session, chat: Chat) -> Result<()> {
    session.start().await?;
    let contacts = session.request(Request::Contacts).await?;
    let wanted = |c: &&Value| text(c, "contact") == chat.contact || text(c, "user").starts_with(&chat.contact);
    let Some(contact) = rows(&contacts).find(wanted).map(|c| text(c, "contact")) else {
        let known: Vec<_> = rows(&contacts).map(|c| printable(&text(c, "contact"))).collect();
        let message = format!("no contact is called `{}`; known: {}", chat.contact, known.join(", "));
        return Err(Error::new(ErrorKind::NotFound, "chat", "begin", message));
    };
    // What comes after this place is followed.
    let newest = session.request(Request::Inbox { after: None, limit: 1, contact: None }).await?;
    let after = rows(&newest).last().map_or_else(|| "0.0".to_owned(), |m| text(m, "cursor"));
    let request = Request::Inbox { after: None, limit: BEFORE, contact: Some(contact.clone()) };
    let before = session.request(request).await?;
    let (screen, lines) = Screen::open();
    rows(&before).filter_map(message_line).for_each(|line| screen.say(&line));
    // Some may come on both ways.
    let shown: HashSet<String> = rows(&before).map(|message| text(message, "id")).collect();
    if std::io::stdin().is_terminal() {
        screen
            .note(&format!("chatting with {}; an empty line does nothing, Ctrl-C or Ctrl-D ends", printable(&contact)));
    }

    let marks = Mutex::new(Marks::default());
    tokio::select! {
        ended = session.follow(Some(after), |event| {
            if !shown.contains(&text(&event, "id")) {
                show_event(&event, &contact, &marks, &screen);
            }
        }) => ended,
        sent = send_lines(session, &contact, &marks, lines, &screen) => sent,
        () = interrupted() => Ok(()),
        // Nobody sees it any more.
        () = lost() => Ok(()),
    }?;
    drop(screen);
    let waiting = lock(&marks).sending.len();
    if waiting > 0 {
        note(&format!("{waiting} messages are not delivered yet; `peerloom run` delivers them"));
    }
    Ok(())
}

fn show_event(event: &Value, contact: &str, marks: &Mutex<Marks>, screen: &Screen) {
    let about = |key| text(event, key) == contact;
    match event["event"].as_str().unwrap_or_default() {
        "message" if about("from") => message_line(event).into_iter().for_each(|line| screen.say(&line)),
        "delivered" if about("contact") => finish(event, marks, "✓ delivered", screen),
        "failed" if about("contact") => finish(event, marks, &format!("✗ failed ({})", text(event, "reason")), screen),
        "peer_up" if about("contact") => screen.note(&format!("· {} is here", printable(contact))),
        "peer_down" if about("contact") => screen.note(&format!("· {} is gone", printable(contact))),
        _ => {}
    }
}

/// Marks messages whose fate is known.
fn finish(event: &Value, marks: &Mutex<Marks>, mark: &str, screen: &Screen) {
    let mut marks = lock(marks);
    for id in event["messages"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        match marks.sending.remove(id) {
            Some(beginning) => screen.say(&format!("  {mark}: {beginning}")),
            None => drop(marks.early.insert(id.to_owned())),
        }
    }
}

/// Sends what is typed until the input ends, and waits for those messages a moment.
async fn send_lines(
    session: &Session,
    contact: &str,
    marks: &Mutex<Marks>,
    mut lines: mpsc::Receiver<Result<Typed>>,
    screen: &Screen,
) -> Result<()> {
    while let Some(typed) = lines.recv().await {
        let Typed::Line(line) = typed? else { return Ok(()) };
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            continue;
        }
        let request = Request::Send { contact: contact.into(), text: line.into(), ttl_ms: None };
        match session.request(request).await {
            Ok(answer) => {
                let (id, beginning) = (text(&answer, "id"), line.chars().take(REPEATED).collect::<String>());
                let mut marks = lock(marks);
                if marks.early.remove(&id) {
                    screen.say(&format!("  ✓ delivered: {beginning}"));
                } else {
                    screen.say(&format!("  … sending: {beginning}"));
                    marks.sending.insert(id, beginning);
                }
            }
            // The person can shorten it, or wait for room.
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Overloaded) => {
                screen.note(&format!("  ✗ not sent: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    for _ in 0..50 {
        if lock(marks).sending.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Ok(())
}

fn lock(marks: &Mutex<Marks>) -> std::sync::MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A conversation, line by line: works on a narrow terminal, and on none.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, IsTerminal, Read};
use std::sync::{Mutex, PoisonError};

use peerloom::core::wire::limits;
use peerloom::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{interrupted, rows, show_message, text};
use crate::args::Chat;
use crate::control::Request;
use crate::output::{note, printable, say};
use crate::session::Session;

/// Lines typed ahead of the node.
const TYPED_AHEAD: usize = 16;
/// Characters of a message that a mark repeats: with the mark they fit 40 columns.
const REPEATED: usize = 28;
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
    let inbox = session.request(Request::Inbox { after: None, limit: 1000 }).await?;
    let theirs: Vec<_> = rows(&inbox).filter(|m| text(m, "from") == contact).collect();
    theirs.iter().skip(theirs.len().saturating_sub(BEFORE)).for_each(|message| show_message(message, false));
    if std::io::stdin().is_terminal() {
        note(&format!("chatting with {}; an empty line does nothing, Ctrl-C or Ctrl-D ends", printable(&contact)));
    }

    let after = rows(&inbox).last().map_or_else(|| "0.0".to_owned(), |m| text(m, "cursor"));
    let marks = Mutex::new(Marks::default());
    tokio::select! {
        ended = session.follow(Some(after), |event| show_event(&event, &contact, &marks)) => ended,
        sent = send_lines(session, &contact, &marks) => sent,
        () = interrupted() => Ok(()),
    }?;
    let waiting = lock(&marks).sending.len();
    if waiting > 0 {
        note(&format!("{waiting} messages are not delivered yet; `peerloom run` delivers them"));
    }
    Ok(())
}

fn show_event(event: &Value, contact: &str, marks: &Mutex<Marks>) {
    let about = |key| text(event, key) == contact;
    match event["event"].as_str().unwrap_or_default() {
        "message" if about("from") => show_message(event, false),
        "delivered" if about("contact") => finish(event, marks, "✓ delivered"),
        "failed" if about("contact") => finish(event, marks, &format!("✗ failed ({})", text(event, "reason"))),
        "peer_up" if about("contact") => note(&format!("· {} is here", printable(contact))),
        "peer_down" if about("contact") => note(&format!("· {} is gone", printable(contact))),
        _ => {}
    }
}

/// Marks messages whose fate is known.
fn finish(event: &Value, marks: &Mutex<Marks>, mark: &str) {
    let mut marks = lock(marks);
    for id in event["messages"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        match marks.sending.remove(id) {
            Some(beginning) => say(&format!("  {mark}: {beginning}")),
            None => drop(marks.early.insert(id.to_owned())),
        }
    }
}

/// Sends what is typed until the input ends, and waits for those messages a moment.
async fn send_lines(session: &Session, contact: &str, marks: &Mutex<Marks>) -> Result<()> {
    let mut lines = typed();
    while let Some(line) = lines.recv().await {
        let line = line?;
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
                    say(&format!("  ✓ delivered: {beginning}"));
                } else {
                    say(&format!("  … sending: {beginning}"));
                    marks.sending.insert(id, beginning);
                }
            }
            // The person can shorten it, or wait for room.
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Overloaded) => {
                note(&format!("  ✗ not sent: {error}"));
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

/// Lines of standard input. The thread ends with the program: nothing else ends a read.
fn typed() -> mpsc::Receiver<Result<String>> {
    let (sender, lines) = mpsc::channel(TYPED_AHEAD);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = String::new();
            // One byte more than allowed, so that too long a line is refused rather than cut.
            let read = input.by_ref().take(limits::MESSAGE_BODY as u64 + 1).read_line(&mut line);
            let outcome = match read {
                Ok(0) => return,
                Ok(_) => Ok(line),
                Err(e) => Err(Error::new(ErrorKind::Invalid, "chat", "read a line", "it is not UTF-8").source(e)),
            };
            if sender.blocking_send(outcome).is_err() {
                return;
            }
        }
    });
    lines
}

fn lock(marks: &Mutex<Marks>) -> std::sync::MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

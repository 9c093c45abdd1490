//! A conversation, line by line: works on a narrow terminal, and on none.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use peerloom::core::wire::limits;
use peerloom::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::sync::mpsc;

use super::answers::{notices, rows, text};
use super::screen::{Screen, Typed};
use super::show::{message_line, once_only};
use crate::control::Request;
use crate::output::{lost, note, printable};
use crate::session::Session;
use crate::signals::interrupted;

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The contact's name, their user id, or @ and at least 16 characters of it.
    pub(crate) contact: String,
}

/// Messages shown at the beginning.
const BEFORE: usize = 10;
/// Receipts kept that came before the answer of their message's `send`.
const EARLY: usize = 1024;
const HELP: &str =
    "/help shows this, /quit ends as Ctrl-D and Ctrl-C do. A text that begins with a slash is sent after another, \
                    as //help.
An empty line does nothing. Marks: … on its way, ✓ delivered, ✗ failed.";

/// Whom the chat is with; the user id, since names change.
struct With {
    user: String,
    name: String,
}

/// What is known of the contact and of own messages.
#[derive(Default)]
struct State {
    /// Connected devices of the contact.
    devices: HashSet<String>,
    /// Own messages on their way, by id.
    sending: HashMap<String, String>,
    /// Outcomes that came before the id was known.
    early: HashMap<String, Outcome>,
}

impl State {
    /// The line of a message whose outcome is known; what isn't known as sent yet is kept for its answer.
    fn outcome(&mut self, id: &str, outcome: &Outcome) -> Option<String> {
        let line = self.sending.remove(id);
        if line.is_none() {
            // Sent elsewhere; what overtakes its answer does so by a moment.
            if self.early.len() >= EARLY {
                self.early.clear();
            }
            self.early.insert(id.to_owned(), outcome.clone());
        }
        line
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Delivered,
    Failed(String),
}

pub(super) async fn run(session: &Session, chat: Chat) -> Result<()> {
    let interrupted = interrupted();
    let found = session.request(Request::Find { contact: chat.contact }).await?;
    session.start().await?;
    let with = With { user: text(&found, "user"), name: printable(&text(&found, "contact")) };
    // What comes after this place is followed.
    let newest = session.request(Request::Inbox { after: None, limit: 1, contact: None }).await?;
    let after = rows(&newest).last().map_or_else(|| "0.0".to_owned(), |m| text(m, "cursor"));
    let request = Request::Inbox { after: None, limit: BEFORE, contact: Some(with.user.clone()) };
    let before = session.request(request).await?;
    let peers = session.request(Request::Peers).await?;
    let connected = rows(&peers).filter(|p| p["user"] == *with.user && p["state"] == "connected");
    let state = State { devices: connected.map(|p| text(p, "device")).collect(), ..State::default() };
    let reason =
        rows(&peers).filter(|p| p["user"] == *with.user).map(|p| printable(&text(p, "reason"))).find(|r| !r.is_empty());

    let (screen, lines) = Screen::open();
    rows(&before).filter_map(message_line).for_each(|line| screen.say(&line));
    // Some may come on both ways.
    let shown: HashSet<String> = rows(&before).map(|message| text(message, "id")).collect();
    let like = printable(&text(&found, "like"));
    let like = if like.is_empty() { like } else { format!(" not to be confused with {like},") };
    screen.note(&format!("chatting with {},{like} user {}; /help says more", with.name, with.user));
    let status = session.request(Request::Status).await?;
    // Of a folder that sends nothing any more the notice says what is to be said.
    if status["restored"] != true {
        screen.note(&presence(&with, &state));
        reason.filter(|_| state.devices.is_empty()).iter().for_each(|reason| screen.note(&format!("  {reason}")));
    }
    notices(&status).for_each(|notice| screen.note(&notice));

    let state = Mutex::new(state);
    tokio::select! {
        ended = session.follow(Some(after), |event| {
            if !shown.contains(&text(&event, "id")) {
                on_event(&event, &with, &state, &screen);
            }
        }) => ended,
        sent = send_lines(session, &with, &state, lines, &screen) => sent,
        () = interrupted => Ok(()),
        // Nobody sees it any more.
        () = lost() => Ok(()),
    }?;
    drop(screen);
    let waiting = match lock(&state).sending.len() {
        0 => return Ok(()),
        1 => "1 message is not delivered yet and goes".to_owned(),
        waiting => format!("{waiting} messages are not delivered yet and go"),
    };
    let connected = !lock(&state).devices.is_empty();
    note(&match (session.is_alone(), connected) {
        (true, _) => format!("{waiting} out once `peerloom run` runs on this folder"),
        (false, true) => format!("{waiting} out by the node that runs on this folder"),
        (false, false) => format!("{waiting} out when {} appears", with.name),
    });
    Ok(())
}

fn presence(with: &With, state: &State) -> String {
    match state.devices.is_empty() {
        true => format!("· {} is offline: what you send waits until they appear", with.name),
        false => format!("· {} is connected", with.name),
    }
}

fn on_event(event: &Value, with: &With, state: &Mutex<State>, screen: &Screen) {
    let theirs = event["user"] == *with.user;
    match event["event"].as_str().unwrap_or_default() {
        "message" if theirs => message_line(event).into_iter().for_each(|line| screen.say(&line)),
        "delivered" if theirs => settle(event, &Outcome::Delivered, state, screen),
        "failed" if theirs => {
            if !is_of(event, state) {
                once_only(event).iter().for_each(|line| screen.note(line));
            }
            settle(event, &Outcome::Failed(text(event, "reason")), state, screen);
        }
        "peer_up" if theirs => {
            let mut state = lock(state);
            let first = state.devices.is_empty();
            state.devices.insert(text(event, "device"));
            if first {
                screen.note(&presence(with, &state));
            }
        }
        "peer_down" if theirs => {
            let mut state = lock(state);
            if state.devices.remove(&text(event, "device")) && state.devices.is_empty() {
                screen.note(&presence(with, &state));
            }
        }
        _ => once_only(event).iter().for_each(|line| screen.note(line)),
    }
}

/// Whether an event is about messages that were sent here.
fn is_of(event: &Value, state: &Mutex<State>) -> bool {
    let state = lock(state);
    let mut ids = event["messages"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ids.any(|id| state.sending.contains_key(id))
}

/// Marks messages whose outcome is known.
fn settle(event: &Value, outcome: &Outcome, state: &Mutex<State>, screen: &Screen) {
    let mut state = lock(state);
    for id in event["messages"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if let Some(line) = state.outcome(id, outcome) {
            mark(id, &line, outcome, screen);
        }
    }
}

fn mark(id: &str, line: &str, outcome: &Outcome, screen: &Screen) {
    match outcome {
        Outcome::Delivered => screen.mark(id, '✓', "delivered", line),
        Outcome::Failed(reason) => {
            screen.mark(id, '✗', "failed", line);
            screen.note(&format!("  it failed: {}", printable(reason)));
        }
    }
}

/// Sends what is typed until the input ends, and waits for those messages a moment.
async fn send_lines(
    session: &Session,
    with: &With,
    state: &Mutex<State>,
    mut lines: mpsc::Receiver<Result<Typed>>,
    screen: &Screen,
) -> Result<()> {
    let mut refused = 0;
    while let Some(typed) = lines.recv().await {
        let (number, line) = match typed? {
            Typed::Line(number, line) => (number, line),
            Typed::TooLong => {
                screen.note(&format!("  ✗ not sent: a message has at most {} bytes", limits::MESSAGE_BODY));
                refused += 1;
                continue;
            }
            Typed::Leave => return all_sent(refused, screen),
        };
        let line = match line.trim_end_matches(['\r', '\n']) {
            line if line.trim().is_empty() => continue,
            "/help" => {
                screen.note(HELP);
                continue;
            }
            line if line.starts_with("//") => line.get(1..).unwrap_or_default(),
            line if line.starts_with('/') => {
                let word: String = line.split_whitespace().next().unwrap_or_default().chars().take(20).collect();
                screen.note(&format!("  ✗ not sent: {word} is no command; see /help, or send it with another slash"));
                refused += 1;
                continue;
            }
            line => line,
        };
        let request = Request::Send { contact: with.user.clone(), text: line.into(), ttl_ms: None };
        match session.request(request).await {
            Ok(answer) => {
                let id = text(&answer, "id");
                let mut state = lock(state);
                screen.sent(number, &id, line);
                match state.early.remove(&id) {
                    Some(outcome) => mark(&id, line, &outcome, screen),
                    None => drop(state.sending.insert(id, line.to_owned())),
                }
            }
            // The person can shorten it, or wait for room.
            Err(error) if may_go_on(error.kind()) => {
                screen.note(&format!("  ✗ not sent: {}", error.for_people()));
                refused += 1;
            }
            Err(error) => return Err(error),
        }
    }
    for _ in 0..50 {
        if lock(state).sending.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    all_sent(refused, screen)
}

/// Complains where lines were not sent and no person saw that: a script has the exit code alone.
fn all_sent(refused: usize, screen: &Screen) -> Result<()> {
    if refused == 0 || screen.is_terminal() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, "chat", "send", "not every line was sent; see above"))
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a message was refused and the chat may go on.
fn may_go_on(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TooLarge | ErrorKind::Overloaded | ErrorKind::Invalid | ErrorKind::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_of_others_messages_are_kept_in_bounded_number() {
        let mut state = State::default();
        state.sending.insert("ours".into(), "a line".into());
        for number in 0..5 * EARLY {
            let id = number.to_string();
            assert_eq!(state.outcome(&id, &Outcome::Delivered), None);
            assert!(state.early.len() <= EARLY, "{}", state.early.len());
            assert_eq!(state.early.get(&id), Some(&Outcome::Delivered), "the newest is there for its answer");
        }
        assert_eq!(state.outcome("ours", &Outcome::Delivered).as_deref(), Some("a line"));
    }

    /// Each message is refused by itself: a chat that ended would lose what was typed behind it.
    #[test]
    fn a_refused_message_ends_no_chat() {
        for kind in [ErrorKind::TooLarge, ErrorKind::Overloaded, ErrorKind::Invalid, ErrorKind::Refused] {
            assert!(may_go_on(kind), "{kind:?}");
        }
        assert!(!may_go_on(ErrorKind::Closed) && !may_go_on(ErrorKind::Internal));
    }
}

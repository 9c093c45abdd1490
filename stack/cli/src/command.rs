//! The commands, one after the other; `demo` and `bench` have files of their own.

mod chat;
mod connect;
mod db;
mod doctor;
mod init;
mod kinds;
mod manual;
mod qr;
mod registry;
mod screen;

use std::io::Read;
use std::process::ExitCode;

use peerloom::config::FILE_NAME;
use peerloom::{Config, Error, ErrorKind, IceServer, Result};
use serde_json::{Value, json};

use crate::args::{
    Add, Arguments, Check, Command, Contacts, Ice, IceAction, Inbox, Invite, LogFormat, Queue, QueueAction, Run, Send,
};
use crate::control::{EventView, MessageView, Request};
use crate::output::{is_lost, lost, note, printable, say, say_json, set_in, table};
use crate::session::Session;
use crate::signals::interrupted;
use crate::{bench, demo, metrics};

pub(crate) use init::{free_port, init_folder};
pub(crate) use registry::temporary as temporary_registry;

/// Runs the command that the arguments ask for.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { dir, overrides: set, json, log, command, .. } = arguments;
    // What is said here counts more than what the environment says.
    let mut overrides = peerloom::config::overrides_from(std::env::vars_os());
    overrides.extend(set);
    let opened = || Session::open(&dir, &overrides);
    let done = match command {
        Command::Init(init) => init::run(&dir, &overrides, json, init).await,
        Command::Run(run) => serve(Session::own(&dir, &overrides).await?, json, log, run).await,
        Command::Invite(invite) => {
            let session = opened().await?;
            let done = self::invite(&session, json, invite).await;
            session.close().await;
            done
        }
        Command::Add(add) => with(opened().await?, |s| self::add(s, json, add)).await,
        Command::Contacts(contacts) => with(opened().await?, |s| self::contacts(s, json, contacts)).await,
        Command::Send(send) => with(opened().await?, |s| self::send(s, json, send)).await,
        Command::Chat(chat) => {
            let session = opened().await?;
            let done = chat::run(&session, chat).await;
            session.close().await;
            done
        }
        Command::Inbox(inbox) => self::inbox(opened().await?, json, inbox).await,
        Command::Queue(queue) => with(opened().await?, |s| self::queue(s, json, queue)).await,
        Command::Peers => with(opened().await?, |s| peers(s, json)).await,
        Command::Id => with(opened().await?, |s| id(s, json)).await,
        Command::Connect(connect) => {
            let session = opened().await?;
            let done = connect::run(&session, json, connect).await;
            session.close().await;
            done
        }
        Command::Doctor => return doctor::run(opened().await?, json).await,
        Command::Ice(ice) => with(opened().await?, |s| self::ice(s, json, ice)).await,
        Command::Registry(arguments) => registry::run(&dir, json, *arguments).await,
        Command::Check(check) => self::check(&dir, &overrides, json, check),
        Command::Kinds(kinds) => kinds::run(json, &kinds),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(&folder),
        Command::Db(db) => return db::run(&dir, &overrides, json, db).await,
        Command::Demo(demo) => return demo::run(&overrides, json, demo).await,
        Command::Bench(bench) => return bench::run(&overrides, json, bench).await,
        Command::BenchPeer(peer) => bench::peer(&dir, peer.role).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Does something with a session and closes it, whatever came of it.
async fn with<F>(session: Session, work: impl FnOnce(std::sync::Arc<Session>) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let session = std::sync::Arc::new(session);
    let done = work(session.clone()).await;
    if let Some(session) = std::sync::Arc::into_inner(session) {
        session.close().await;
    }
    done
}

async fn serve(session: Session, json: bool, log: LogFormat, run: Run) -> Result<()> {
    if let Some(address) = run.metrics {
        metrics::serve(address).await?;
    }
    session.start().await?;
    let status = session.request(Request::Status).await?;
    if json {
        say_json(&status);
    } else if !run.quiet && log == LogFormat::Text {
        let addresses: Vec<&str> =
            status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        note(&format!("{} listens at {}; Ctrl-C ends it", text(&status, "name"), addresses.join(", ")));
    }
    // On a thread of its own: a reader that stops reading must hold up neither signals nor the node.
    let session = std::sync::Arc::new(session);
    let showing = session.clone();
    let follow = move || {
        let shown = showing.follow(None, |event| {
            if !run.quiet {
                show_event(&event, json)
            }
        });
        tokio::runtime::Handle::current().block_on(shown)
    };
    let panicked = |e| Error::new(ErrorKind::Bug, "run", "show", "showing events panicked").source(e);
    let ended = tokio::select! {
        ended = tokio::task::spawn_blocking(follow) => ended.map_err(panicked).flatten(),
        () = interrupted() => Ok(()),
    };
    session.end().await;
    ended
}

async fn invite(session: &Session, json: bool, invite: Invite) -> Result<()> {
    session.start().await?;
    let lifetime_ms = u64::try_from(invite.lifetime.as_millis()).unwrap_or(u64::MAX);
    let answer = session.request(Request::Invite { lifetime_ms, uses: invite.uses }).await?;
    if json {
        say_json(&answer);
    } else {
        let link = text(&answer, "link");
        if invite.qr {
            qr::show(&link)?;
        }
        say(&link);
        if let Session::Local { .. } = session {
            note("note: no node runs on this folder; start `peerloom run` so that the link leads somewhere");
        }
    }
    Ok(())
}

async fn add(session: std::sync::Arc<Session>, json: bool, add: Add) -> Result<()> {
    let link = match add.qr {
        Some(picture) => qr::read(&picture)?,
        None => add.link.unwrap_or_default(),
    };
    let answer = session.request(Request::Add { link, alias: add.alias }).await?;
    if json {
        say_json(&answer);
    } else {
        let contact = printable(&text(&answer, "contact"));
        say(&format!("added {contact}; send with: peerloom send {contact} hello"));
    }
    Ok(())
}

async fn contacts(session: std::sync::Arc<Session>, json: bool, contacts: Contacts) -> Result<()> {
    if let Some(rename) = contacts.rename {
        let wrong = || Error::new(ErrorKind::Invalid, "contacts", "rename", "write --rename OLD=NEW");
        let (contact, alias) = rename.split_once('=').ok_or_else(wrong)?;
        let request = Request::Rename { contact: contact.into(), alias: alias.into() };
        let answer = session.request(request).await?;
        if json {
            say_json(&answer)
        } else {
            say(&printable(&text(&answer, "contact")))
        }
        return Ok(());
    }
    let answer = session.request(Request::Contacts).await?;
    if json {
        say_json(&answer);
    } else {
        let rows: Vec<_> = rows(&answer).map(|c| vec![printable(&text(c, "contact")), text(c, "user")]).collect();
        table(&["contact", "user"], &rows);
    }
    Ok(())
}

async fn send(session: std::sync::Arc<Session>, json: bool, send: Send) -> Result<()> {
    let text = if send.text == "-" { read_stdin()? } else { send.text };
    let ttl_ms = send.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let answer = session.request(Request::Send { contact: send.contact, text, ttl_ms }).await?;
    if json {
        say_json(&answer);
    } else {
        say(&format!("accepted {} for {}", self::text(&answer, "id"), printable(&self::text(&answer, "contact"))));
        if let Session::Local { .. } = *session {
            note("note: no node runs on this folder; the message goes out once `peerloom run` does");
        }
    }
    Ok(())
}

/// Standard input up to its end: one message.
fn read_stdin() -> Result<String> {
    let limit = peerloom::core::wire::limits::MESSAGE_BODY as u64;
    let mut text = String::new();
    let failed = |e| Error::new(ErrorKind::Invalid, "send", "read standard input", "the text is not UTF-8").source(e);
    // One byte more than allowed, so that too long a text is refused rather than cut.
    std::io::stdin().take(limit + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

async fn inbox(session: Session, json: bool, inbox: Inbox) -> Result<()> {
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

async fn queue(session: std::sync::Arc<Session>, json: bool, queue: Queue) -> Result<()> {
    if let Some(QueueAction::Retry { contact }) = queue.action {
        let answer = session.request(Request::Retry { contact }).await?;
        if json {
            say_json(&answer);
        } else {
            match answer["woken"].as_u64() {
                Some(0) => say("nothing is stalled; what waits is tried by itself"),
                Some(1) => say("1 stalled device is tried again"),
                woken => say(&format!("{} stalled devices are tried again", woken.unwrap_or_default())),
            }
        }
        return Ok(());
    }
    let answer = session.request(Request::Queue).await?;
    if json {
        say_json(&answer);
        return Ok(());
    }
    let row = |entry: &Value| {
        let next = match entry["next_try_ms"].as_u64() {
            Some(ms) => format!("{:.1}s", ms as f64 / 1000.0),
            None => "-".into(),
        };
        vec![
            text(entry, "id"),
            printable(&text(entry, "contact")),
            entry["attempts"].to_string(),
            next,
            printable(&text(entry, "reason")),
        ]
    };
    table(&["message", "contact", "attempts", "next try", "reason"], &rows(&answer).map(row).collect::<Vec<_>>());
    Ok(())
}

async fn id(session: std::sync::Arc<Session>, json: bool) -> Result<()> {
    let status = session.request(Request::Status).await?;
    if json {
        say_json(&json!({ "name": status["name"], "user": status["user"], "device": status["device"] }));
    } else {
        say(&text(&status, "user"));
    }
    Ok(())
}

async fn peers(session: std::sync::Arc<Session>, json: bool) -> Result<()> {
    let answer = session.request(Request::Peers).await?;
    if json {
        say_json(&answer);
        return Ok(());
    }
    let row = |peer: &Value| {
        let rtt = peer["rtt_us"].as_u64().map_or_else(|| "-".into(), |us| format!("{:.1}ms", us as f64 / 1000.0));
        let device: String = text(peer, "device").chars().take(10).collect();
        let detail = match text(peer, "address") {
            address if address.is_empty() => printable(&text(peer, "reason")),
            address => {
                let trouble = Some(text(peer, "reason")).filter(|reason| !reason.is_empty());
                let trouble = trouble.map(|reason| format!("; {}", printable(&reason))).unwrap_or_default();
                format!("{address} {}, {}{trouble}", text(peer, "path"), traffic(peer))
            }
        };
        vec![printable(&text(peer, "contact")), device, text(peer, "state"), rtt, detail]
    };
    table(&["contact", "device", "state", "rtt", "where, or why not"], &rows(&answer).map(row).collect::<Vec<_>>());
    Ok(())
}

/// What went over a peer's link, for people.
fn traffic(peer: &Value) -> String {
    let size = |key: &str| match peer[key].as_u64().unwrap_or(0) {
        bytes if bytes < 10_000 => format!("{bytes} B"),
        bytes if bytes < 10_000_000 => format!("{} kB", bytes / 1000),
        bytes => format!("{} MB", bytes / 1_000_000),
    };
    format!("{} out, {} in", size("bytes_sent"), size("bytes_received"))
}

async fn ice(session: std::sync::Arc<Session>, json: bool, ice: Ice) -> Result<()> {
    let IceAction::Set { servers } = ice.action;
    if let Session::Local { .. } = *session {
        let message = "no node runs on this folder; write the servers into its file, at transport.ice_servers";
        return Err(Error::new(ErrorKind::NotFound, "ice", "set", message));
    }
    let none = servers.is_empty();
    let servers = servers.into_iter().map(|url| IceServer { urls: vec![url], username: None, credential: None });
    let answer = session.request(Request::SetIceServers { servers: servers.collect() }).await?;
    if json {
        say_json(&answer);
    } else {
        say(match none {
            true => "new links use no servers but those that a registry names; for the next time empty the file's, too",
            false => "new links use these servers; write them into the file, too, for the next time",
        });
    }
    Ok(())
}

fn check(dir: &std::path::Path, overrides: &[peerloom::Override], json: bool, check: Check) -> Result<()> {
    let path = check.file.unwrap_or_else(|| dir.join(FILE_NAME));
    let config = Config::load(&path, overrides, &crate::kinds())?;
    let chosen = config.layers.iter().map(|c| format!("{} {}", c.layer, c.full_kind()));
    if json {
        let layers: Vec<_> = config.layers.iter().map(|c| json!({ "layer": c.layer, "kind": c.full_kind() })).collect();
        say_json(&json!({ "ok": true, "file": path, "layers": layers }));
    } else {
        say(&format!("{}: good ({})", path.display(), chosen.collect::<Vec<_>>().join(", ")));
    }
    Ok(())
}

fn show_event(event: &Value, json: bool) {
    if json {
        say_json(event);
        return;
    }
    let Ok(view) = serde_json::from_value::<EventView>(event.clone()) else {
        return;
    };
    let line = match view {
        EventView::Message(message) => return say(&line_of(&message)),
        EventView::Delivered { contact, messages } => {
            format!("{contact}: {} delivered", messages.len())
        }
        EventView::Failed { contact, messages, reason } => format!("{contact}: {} failed: {reason}", messages.len()),
        EventView::PeerUp { contact, .. } => format!("{contact} is connected"),
        EventView::PeerDown { contact, reason, .. } => format!("{contact} is gone: {reason}"),
        EventView::Online => "online".into(),
        EventView::Offline => "offline".into(),
        EventView::Stalled { contact, .. } => {
            format!("{contact}: can't be reached; messages wait until it appears")
        }
        EventView::ContactAdded { contact, .. } => {
            format!("{contact} used an invitation and is a contact now")
        }
        EventView::Gap { contact, first, last } => format!("{contact}: entries {first} to {last} are missing"),
        EventView::Lagged { missed } => format!("{missed} events were missed"),
    };
    say(&format!("* {}", printable(&line)));
}

fn show_message(message: &Value, json: bool) {
    if json {
        say_json(message);
    } else if let Some(line) = message_line(message) {
        say(&line);
    }
}

/// A message for a person.
fn message_line(message: &Value) -> Option<String> {
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
    format!("{}: {body}", printable(&message.from))
}

/// A string of an answer; empty where there is none.
fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn rows(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

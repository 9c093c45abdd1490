//! The commands, one after the other; `demo` and `bench` have files of their own.

mod chat;
mod connect;
mod db;
mod device;
mod doctor;
mod init;
mod kinds;
mod manual;
mod qr;
mod registry;
mod screen;
mod show;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use peerloom::config::FILE_NAME;
use peerloom::core::wire::limits;
use peerloom::{Config, Error, ErrorKind, ID_MARK, IceServer, Result, UserId};
use serde_json::{Value, json};

use crate::args::{
    Add, Arguments, Check, Command, Contacts, Device, DeviceAction, Ice, IceAction, Inbox, Invite, LogFormat, Queue,
    QueueAction, Run, Send,
};
use crate::control::Request;
use crate::output::{hint, is_lost, lost, note, printable, say, say_json, table};
use crate::session::Session;
use crate::signals::interrupted;
use crate::{bench, demo, metrics};

pub(crate) use init::{free_port, init_folder};
pub(crate) use registry::temporary as temporary_registry;
use show::{once_only, show_event, show_message};

/// Runs the command that the arguments ask for.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { dir, overrides: set, json, log, command, .. } = arguments;
    // An argument counts more than the environment.
    let mut overrides = peerloom::config::overrides_from(std::env::vars_os())?;
    if let Some(twice) = set.iter().enumerate().find(|(at, one)| set[..*at].iter().any(|other| other.path == one.path))
    {
        let message = format!("--set gives `{}` two values; give it one", twice.1.path);
        return Err(Error::new(ErrorKind::Invalid, "command", "read the arguments", message));
    }
    overrides.extend(set);
    let opened = || Session::open(&dir, &overrides);
    if json {
        check_json(&command)?;
    }
    let done = match command {
        Command::Init(init) => init::run(&dir, &overrides, json, init).await,
        Command::Run(run) => {
            let figures = match run.metrics {
                Some(address) => Some(metrics::listen(address).await?),
                None => None,
            };
            let session = Session::own(&dir, &overrides).await?;
            figures.map_or(Ok(()), metrics::serve)?;
            serve(session, json, log, run).await
        }
        Command::Invite(invite) => {
            let session = opened().await?;
            let done = self::invite(&session, json, invite).await;
            session.close().await;
            done
        }
        Command::Add(add) => with(opened().await?, |s| self::add(s, &dir, json, add)).await,
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
        Command::Device(Device { action: DeviceAction::Recovery(recovery) }) => {
            let session = opened().await?;
            let done = device::recovery(&session, json, recovery).await;
            session.close().await;
            done
        }
        Command::Db(db) => return db::run(&dir, &overrides, json, db).await,
        Command::Demo(demo) => return demo::run(&overrides, json, demo).await,
        Command::Bench(bench) => return bench::run(&overrides, json, bench).await,
        Command::BenchPeer(peer) => bench::peer(&dir, peer.role).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Refuses commands whose answer is no data.
fn check_json(command: &Command) -> Result<()> {
    let instead = match command {
        Command::Chat(_) => "`chat` is for people; use `send` and `inbox --follow`",
        Command::Completions { .. } => "`completions` prints a script",
        Command::Man { .. } => "`man` writes pages",
        Command::Kinds(kinds) if kinds.markdown => "`kinds --markdown` prints a page",
        _ => return Ok(()),
    };
    Err(Error::new(
        ErrorKind::Invalid,
        "command",
        "read the arguments",
        format!("--json can't be used here: {instead}"),
    ))
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
    session.start().await?;
    let status = session.request(Request::Status).await?;
    if json {
        say_json(&status);
    } else if !run.quiet && log == LogFormat::Text {
        let addresses: Vec<&str> =
            status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let place = match addresses.is_empty() {
            true => "runs, and no address leads to it".to_owned(),
            false => format!("listens at {}", addresses.join(", ")),
        };
        note(&format!("{} {place}; Ctrl-C ends it", text(&status, "name")));
        show_notices(&status);
    }
    // On a thread of its own: a reader that stops reading must hold up neither signals nor the node.
    let session = std::sync::Arc::new(session);
    let showing = session.clone();
    let follow = move || {
        let shown = showing.follow(None, |event| {
            if run.quiet || is_lost() {
                once_only(&event).iter().for_each(|line| note(line));
            } else {
                show_event(&event, json)
            }
        });
        tokio::runtime::Handle::current().block_on(shown)
    };
    let panicked = |e| Error::new(ErrorKind::Internal, "run", "show", "showing events panicked").with_source(e);
    let ended = tokio::select! {
        ended = tokio::task::spawn_blocking(follow) => ended.map_err(panicked).flatten(),
        () = interrupted() => Ok(()),
    };
    session.end().await;
    ended
}

async fn invite(session: &Session, json: bool, invite: Invite) -> Result<()> {
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

async fn add(session: std::sync::Arc<Session>, dir: &Path, json: bool, add: Add) -> Result<()> {
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

/// Notes that a contact isn't called as asked for, or that its name looks like another contact's.
fn warn_of_names(contact: &Value, asked: Option<&str>) {
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
fn why_changed(asked: &str) -> &'static str {
    match asked.trim() {
        asked if asked.starts_with(ID_MARK) => "what begins with @ names a user by id",
        asked if asked.parse::<UserId>().is_ok() => "this is a user id",
        asked if asked.contains(char::is_whitespace) => "a name is one word",
        _ => "names are written in plain letters",
    }
}

async fn contacts(session: std::sync::Arc<Session>, json: bool, contacts: Contacts) -> Result<()> {
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

async fn send(session: std::sync::Arc<Session>, json: bool, send: Send) -> Result<()> {
    let text = match send.text.as_str() {
        "-" => {
            // Nobody shall type a message for a contact that isn't there.
            session.request(Request::Find { contact: send.contact.clone() }).await?;
            read_message()?
        }
        _ => send.text,
    };
    let ttl_ms = send.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let answer = session.request(Request::Send { contact: send.contact, text, ttl_ms }).await?;
    if json {
        say_json(&answer);
    } else {
        say(&format!("accepted {} for {}", self::text(&answer, "id"), printable(&self::text(&answer, "contact"))));
        if session.is_alone() {
            note("note: no node runs on this folder; the message goes out once `peerloom run` does");
        }
    }
    Ok(())
}

/// Standard input up to its end: one text, without the line break at its end.
fn read_message() -> Result<String> {
    let error = |kind, message: String| Error::new(kind, "send", "read standard input", message);
    let mut text = Vec::new();
    // Room for the line break, and one byte more, so that too long a text is refused rather than cut.
    let read = std::io::stdin().lock().take(limits::MESSAGE_BODY as u64 + 3).read_to_end(&mut text);
    read.map_err(|e| error(ErrorKind::Invalid, "standard input can't be read".into()).with_source(e))?;
    let line = text.strip_suffix(b"\n").map(|text| text.strip_suffix(b"\r").unwrap_or(text));
    let text = line.unwrap_or(&text);
    if text.len() > limits::MESSAGE_BODY {
        let message = format!("a message has at most {} bytes, and standard input has more", limits::MESSAGE_BODY);
        return Err(error(ErrorKind::TooLarge, message));
    }
    let not_text = |e| error(ErrorKind::Invalid, "the text is not UTF-8".into()).with_source(e);
    std::str::from_utf8(text).map(str::to_owned).map_err(not_text)
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
            Some(0) => "now".into(),
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
    show_notices(&session.request(Request::Status).await?);
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
    if session.is_alone() {
        note("note: no node runs on this folder, so it has no links; start `peerloom run`");
    }
    show_notices(&session.request(Request::Status).await?);
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
    if session.is_alone() {
        let message = "no node runs on this folder; write the servers into its file, at transport.ice_servers";
        return Err(Error::new(ErrorKind::NotStarted, "ice", "set", message));
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

fn check(dir: &Path, overrides: &[peerloom::Override], json: bool, check: Check) -> Result<()> {
    let path = check.file.unwrap_or_else(|| dir.join(FILE_NAME));
    let config = Config::load(&path, overrides, &crate::kinds()?)?;
    let chosen = config.layers.iter().map(|c| format!("{} {}", c.layer, c.full_kind()));
    if json {
        let layers: Vec<_> = config.layers.iter().map(|c| json!({ "layer": c.layer, "kind": c.full_kind() })).collect();
        say_json(&json!({ "ok": true, "file": path.to_string_lossy(), "layers": layers }));
    } else {
        say(&format!("{}: good ({})", path.display(), chosen.collect::<Vec<_>>().join(", ")));
    }
    Ok(())
}

/// What is wrong with a folder, this one or a contact's.
fn notices(status: &Value) -> impl Iterator<Item = String> {
    rows(&status["notices"]).filter_map(Value::as_str).map(printable)
}

fn show_notices(status: &Value) {
    notices(status).for_each(|notice| note(&notice));
}

/// A string of an answer; empty where there is none.
fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn rows(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

//! The command line: a file for each command, with its arguments.

mod add;
mod answers;
mod chat;
mod check;
mod complaints;
mod connect;
mod contacts;
mod db;
mod device;
mod doctor;
mod ice;
mod id;
mod inbox;
mod init;
mod invite;
mod kinds;
mod manual;
mod names;
mod peers;
mod qr;
mod queue;
mod registry;
mod run;
mod screen;
mod send;
mod show;
mod stdin;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use peerloom::{Error, ErrorKind, Override, Result};

use crate::log::LogFormat;
use crate::session::Session;
use crate::{bench, demo};
use add::Add;
use bench::{Bench, BenchPeer};
use chat::Chat;
use check::Check;
use connect::Connect;
use contacts::Contacts;
use db::Db;
use demo::Demo;
use device::{Device, DeviceAction};
use ice::Ice;
use inbox::Inbox;
use init::Init;
use invite::Invite;
use kinds::Kinds;
use queue::Queue;
use registry::RegistryArgs;
use run::Run;
use send::Send;

/// Durable, end-to-end encrypted messages between nodes, without a server.
#[derive(Debug, Parser)]
#[command(
    name = "peerloom",
    version,
    after_help = "Example, in two terminals:\n  peerloom -C alice init && peerloom -C alice run\n  peerloom -C alice invite"
)]
pub(crate) struct Arguments {
    /// The node's folder.
    #[arg(short = 'C', long, global = true, default_value = ".", value_name = "FOLDER")]
    pub(crate) dir: PathBuf,
    /// Use VALUE for KEY instead of the file's, such as storage.cache_mib=16.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<Override>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more; again for still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How log lines look on stderr.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(crate) log: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a folder's configuration file and identity.
    #[command(after_help = "Example: peerloom -C alice init --name alice")]
    Init(Init),
    /// Run the folder's node until Ctrl-C.
    #[command(after_help = "Example: peerloom -C alice run")]
    Run(Run),
    /// Print an invitation link; whoever adds it becomes a contact.
    #[command(after_help = "Example: peerloom -C alice invite --lifetime 1d")]
    Invite(Invite),
    /// Add the contact that an invitation link comes from.
    #[command(
        after_help = "Example: peerloom -C bob add 'peerloom://invite/…'\n         peerloom -C bob add --qr picture.png"
    )]
    Add(Add),
    /// List the contacts, or rename one.
    #[command(after_help = "Example: peerloom -C bob contacts --rename alice=mum")]
    Contacts(Contacts),
    /// Send a message. Once this ends, the message is durably accepted.
    #[command(
        after_help = "Examples: peerloom -C bob send alice hello\n          fortune | peerloom -C bob send alice -"
    )]
    Send(Send),
    /// Chat with a contact, line by line.
    #[command(after_help = "Example: peerloom -C bob chat alice")]
    Chat(Chat),
    /// Show received messages.
    #[command(after_help = "Example: peerloom -C alice inbox --follow")]
    Inbox(Inbox),
    /// Show messages that wait to be delivered.
    #[command(after_help = "Examples: peerloom -C bob queue\n          peerloom -C bob queue retry")]
    Queue(Queue),
    /// Show how the contacts' devices stand.
    #[command(after_help = "Example: peerloom -C bob peers --json")]
    Peers,
    /// Connect to a contact by hand: a text there and a text back, and no server.
    #[command(
        after_help = "Example: peerloom -C bob connect alice --manual\n         peerloom -C alice connect --manual --offer 'peerloom://offer/…'"
    )]
    Connect(Connect),
    /// Tell what this machine's network allows, and what to do about what it doesn't.
    #[command(after_help = "Example: peerloom -C alice doctor --json\n\nThe exit code is 1 if something doesn't work.")]
    Doctor,
    /// Change the STUN and TURN servers of a running node.
    #[command(
        after_help = "Example: peerloom -C alice ice set stun:stun.example:3478 turn:user:password@turn.example:3478"
    )]
    Ice(Ice),
    /// Run a registry: devices find each other there, and signal before they have a link.
    #[command(
        after_help = "Example: peerloom registry --listen 127.0.0.1:8080\n         peerloom registry --listen 0.0.0.0:443 --name registry.example --tls-cert cert.pem --tls-key key.pem \\\n           --stun stun:stun.example:3478 --turn turn:turn.example:3478 --turn-secret-file secret"
    )]
    Registry(Box<RegistryArgs>),
    /// Print your own user id, by which others can add you where a discovery such as a registry knows it.
    #[command(after_help = "Example: peerloom -C bob add $(peerloom -C alice id)")]
    Id,
    /// Check a configuration file without running anything.
    #[command(after_help = "Example: peerloom check alice/peerloom.toml")]
    Check(Check),
    /// List every kind with its keys, defaults and documentation.
    #[command(after_help = "Examples: peerloom kinds\n          peerloom kinds --schema > peerloom.schema.json")]
    Kinds(Kinds),
    /// Print a script that completes this command in a shell.
    #[command(after_help = "Example: peerloom completions bash > ~/.local/share/bash-completion/completions/peerloom")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder.
    #[command(after_help = "Example: peerloom man ~/.local/share/man/man1")]
    Man {
        /// The folder.
        folder: PathBuf,
    },
    /// Manage this device's part in its user.
    #[command(after_help = "Example: peerloom -C alice device recovery")]
    Device(Device),
    /// Show the tables of the folder's store, check it, or move it to another kind.
    #[command(
        after_help = "Examples: peerloom -C alice db\n          peerloom -C alice db check\n          peerloom -C alice db copy --to sqlite\n          PEERLOOM_PASSPHRASE=… peerloom -C alice db copy --to vault/redb\n          PEERLOOM_PASSPHRASE=… peerloom -C alice db passphrase < new"
    )]
    Db(Db),
    /// Show three nodes exchange messages while one is killed, and check that nothing was lost.
    #[command(after_help = "Example: peerloom demo --messages 6000 --json")]
    Demo(Demo),
    /// Measure this machine: messages per second, delivery time, memory.
    #[command(after_help = "Example: peerloom bench --json")]
    Bench(Bench),
    /// The other process of `bench`.
    #[command(hide = true)]
    BenchPeer(BenchPeer),
}

/// Reads the command line.
pub(crate) fn parse(words: &[OsString]) -> std::result::Result<Arguments, clap::Error> {
    let parsed = Arguments::try_parse_from(words);
    let asks_for_help = parsed.as_ref().is_err_and(|e| e.kind() == clap::error::ErrorKind::DisplayHelp);
    // Where `send` has its text, `-hello` is the text, and must not be lost; `-h` and `--help` may be meant either way.
    let text = asks_for_help.then(|| {
        let command = Arguments::command().mut_subcommand("send", |send| send.disable_help_flag(true));
        let matches = command.try_get_matches_from(words).ok()?;
        Arguments::from_arg_matches(&matches).ok().filter(|arguments| matches!(arguments.command, Command::Send(_)))
    });
    match text.flatten() {
        Some(Arguments { command: Command::Send(Send { text, .. }), .. }) if text == "-h" || text == "--help" => {
            let message = format!("`{text}` is an option; see `peerloom send --help`, or put a text after `--`");
            Err(Arguments::command().error(clap::error::ErrorKind::InvalidValue, message))
        }
        Some(arguments) => Ok(arguments),
        None => parsed.map_err(complaints::improved),
    }
}

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
        Command::Run(run) => run::start(&dir, &overrides, json, log, run).await,
        Command::Invite(invite) => {
            let session = opened().await?;
            let done = invite::run(&session, json, invite).await;
            session.close().await;
            done
        }
        Command::Add(add) => with(opened().await?, |s| add::run(s, &dir, json, add)).await,
        Command::Contacts(contacts) => with(opened().await?, |s| contacts::run(s, json, contacts)).await,
        Command::Send(send) => with(opened().await?, |s| send::run(s, json, send)).await,
        Command::Chat(chat) => {
            let session = opened().await?;
            let done = chat::run(&session, chat).await;
            session.close().await;
            done
        }
        Command::Inbox(inbox) => inbox::run(opened().await?, json, inbox).await,
        Command::Queue(queue) => with(opened().await?, |s| queue::run(s, json, queue)).await,
        Command::Peers => with(opened().await?, |s| peers::run(s, json)).await,
        Command::Id => with(opened().await?, |s| id::run(s, json)).await,
        Command::Connect(connect) => {
            let session = opened().await?;
            let done = connect::run(&session, json, connect).await;
            session.close().await;
            done
        }
        Command::Doctor => return doctor::run(opened().await?, json).await,
        Command::Ice(ice) => with(opened().await?, |s| ice::run(s, json, ice)).await,
        Command::Registry(arguments) => registry::run(&dir, json, *arguments).await,
        Command::Check(check) => check::run(&dir, &overrides, json, check),
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

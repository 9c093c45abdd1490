//! The command line.

mod complaints;

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use peerloom::Override;

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

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
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

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// What you are called; contacts see it. By default the folder's name.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: Option<String>,
    /// Name of the network; by default peerloom.
    #[arg(long)]
    pub(crate) network: Option<String>,
    /// Address and port to listen on; by default every address, with a free port.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Print neither the address nor events.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Serve figures for Prometheus at this address, such as 127.0.0.1:9464.
    #[arg(long, value_name = "IP:PORT", value_parser = address)]
    pub(crate) metrics: Option<std::net::SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// How long the link can be used.
    #[arg(long, default_value = "7d", value_parser = lifetime)]
    pub(crate) lifetime: std::time::Duration,
    /// How many contacts it lets in: at most 4,294,967,295.
    #[arg(long, default_value = "1", value_parser = count::<NonZeroU32>)]
    pub(crate) uses: NonZeroU32,
    /// Draw the link as a QR code, too.
    #[arg(long)]
    pub(crate) qr: bool,
    /// Write the link as a QR code to a new picture, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) png: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The link that `peerloom invite` printed, `-` for one on standard input; or the id of a user or a device, for two who know each
    /// other's ids and have a discovery such as a registry in common.
    #[arg(required_unless_present = "qr")]
    pub(crate) link: Option<String>,
    /// Read the link from a picture of its QR code instead.
    #[arg(long, value_name = "PICTURE", conflicts_with = "link")]
    pub(crate) qr: Option<PathBuf>,
    /// What to call the contact.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) alias: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Contacts {
    /// Give a contact another name.
    #[arg(long, value_name = "OLD=NEW", allow_hyphen_values = true)]
    pub(crate) rename: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The contact's name, their user id, or @ and at least 16 characters of it.
    pub(crate) contact: String,
    /// The text; `-` reads it from standard input, without the line break at its end. Text that is an option itself, such
    /// as --json or --help, goes after `--`.
    #[arg(allow_hyphen_values = true)]
    pub(crate) text: String,
    /// How long the message may wait to be delivered, instead of the configured time.
    #[arg(long, value_parser = duration)]
    pub(crate) ttl: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The contact's name, their user id, or @ and at least 16 characters of it.
    pub(crate) contact: String,
}

#[derive(Debug, Args)]
pub(crate) struct Inbox {
    /// Go on showing messages as they come.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only messages after this cursor (the `cursor` of `--json`).
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// How many messages: the newest, or with --after the next.
    #[arg(long, default_value = "50", value_parser = number::<usize>)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Queue {
    #[command(subcommand)]
    pub(crate) action: Option<QueueAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueAction {
    /// Try stalled messages again now.
    #[command(after_help = "Example: peerloom -C bob queue retry alice")]
    Retry {
        /// Only those for this contact.
        contact: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Address and port to listen on.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,
    /// The SQLite file with the announced records; in the folder of -C.
    #[arg(long, value_name = "FILE", default_value = "registry.sqlite")]
    pub(crate) store: PathBuf,
    /// What clients call this registry, HOST or HOST:PORT, as in their `url`; by default the listen
    /// address.
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Certificate chain (PEM). Without it the registry speaks plain HTTP, for a proxy in front of it.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Take clients' addresses from X-Forwarded-For; only behind a proxy that sets it.
    #[arg(long)]
    pub(crate) trust_forwarded: bool,
    /// Let devices announce addresses inside this machine's own networks, or this machine itself. By
    /// default they may where the registry listens on a loopback address, without --name and
    /// --trust-forwarded.
    #[arg(long)]
    pub(crate) allow_local: bool,
    /// A private network and its token, as NETWORK=TOKEN. Other users of this machine can see it in the list
    /// of processes: better use --private-file.
    #[arg(long = "private", value_name = "NETWORK=TOKEN")]
    pub(crate) private: Vec<String>,
    /// File with private networks and their tokens: a line NETWORK=TOKEN for each, and # before comments.
    #[arg(long, value_name = "FILE")]
    pub(crate) private_file: Option<PathBuf>,
    /// Refuse all networks that aren't given with --private or --private-file.
    #[arg(long)]
    pub(crate) only_private: bool,
    /// Work that each announcement must show, in leading zero bits.
    #[arg(long, value_name = "BITS", default_value = "0", value_parser = number::<u32>)]
    pub(crate) work: u32,
    /// A STUN server to hand out.
    #[arg(long = "stun", value_name = "URL")]
    pub(crate) stun: Vec<String>,
    /// A TURN server to hand out.
    #[arg(long = "turn", value_name = "URL")]
    pub(crate) turn: Vec<String>,
    /// File with the secret that the TURN server shares (coturn's static-auth-secret).
    #[arg(long, value_name = "FILE")]
    pub(crate) turn_secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The contact's name; not needed where there is one contact alone.
    pub(crate) contact: Option<String>,
    /// Offer and answer are carried by people.
    #[arg(long, required = true)]
    pub(crate) manual: bool,
    /// Answer this offer, which the other side printed; `-` reads it from standard input.
    #[arg(long, value_name = "TEXT")]
    pub(crate) offer: Option<String>,
    /// Don't draw QR codes.
    #[arg(long)]
    pub(crate) no_qr: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ice {
    #[command(subcommand)]
    pub(crate) action: IceAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IceAction {
    /// Use these servers for new links, in place of the file's, until the node ends.
    #[command(after_help = "Example: peerloom -C alice ice set turn:user:password@turn.example:3478?transport=tcp")]
    Set {
        /// stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT; none at all takes away the file's.
        servers: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file; by default the folder's.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Kinds {
    /// Print a JSON Schema of the file instead, for editors.
    #[arg(long)]
    pub(crate) schema: bool,
    /// Print the sections of docs/config.md instead.
    #[arg(long, conflicts_with = "schema")]
    pub(crate) markdown: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Device {
    #[command(subcommand)]
    pub(crate) action: DeviceAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceAction {
    /// Show the recovery phrase, 24 words to write down, and delete its key from the folder.
    #[command(
        after_help = "Examples: peerloom -C alice device recovery\n          peerloom -C alice device recovery --check < words"
    )]
    Recovery(Recovery),
}

#[derive(Debug, Args)]
pub(crate) struct Recovery {
    /// Delete the key without asking; without a terminal it is kept otherwise.
    #[arg(long, conflicts_with = "check")]
    pub(crate) delete: bool,
    /// Tell whether a phrase on standard input is that of this folder's user.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Db {
    #[command(subcommand)]
    pub(crate) action: Option<DbAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbAction {
    /// Verify every checksum, record and stored signature, and say what is broken.
    #[command(after_help = "Example: peerloom -C alice db check --json")]
    Check,
    /// Change the passphrase of a vault; the new one is a line on standard input.
    #[command(after_help = "Example: PEERLOOM_PASSPHRASE=old peerloom -C alice db passphrase < new")]
    Passphrase,
    /// Copy everything to a store of another kind, and use that from now on.
    #[command(after_help = "Example: peerloom -C alice db copy --to sqlite")]
    Copy {
        /// The kind; one that wraps another is written `vault/redb`.
        #[arg(long, value_name = "KIND")]
        to: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many messages to send in all.
    #[arg(long, default_value = "3000", value_parser = count::<NonZeroUsize>)]
    pub(crate) messages: NonZeroUsize,
    /// Keep the three folders here instead of removing them.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// How often each figure is taken; the median counts.
    #[arg(long, default_value = "3", value_parser = count::<NonZeroUsize>)]
    pub(crate) runs: NonZeroUsize,
    /// How long the figure `steady` is taken, in seconds.
    #[arg(long, default_value = "60", value_parser = number::<u64>)]
    pub(crate) seconds: u64,
    /// Idle peers to connect for the memory figure.
    #[arg(long, default_value = "100", value_parser = number::<usize>)]
    pub(crate) peers: usize,
    /// Only these figures (by default all).
    #[arg(long, value_enum)]
    pub(crate) only: Vec<crate::bench::Figure>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPeer {
    #[command(subcommand)]
    pub(crate) role: crate::bench::Role,
}

/// Reads the command line.
pub(crate) fn parse(words: &[OsString]) -> Result<Arguments, clap::Error> {
    let parsed = Arguments::try_parse_from(words);
    let asks_for_help = parsed.as_ref().is_err_and(|e| e.kind() == ErrorKind::DisplayHelp);
    // Where `send` has its text, `-hello` is the text, and must not be lost; `-h` and `--help` may be meant either way.
    let text = asks_for_help.then(|| {
        let command = Arguments::command().mut_subcommand("send", |send| send.disable_help_flag(true));
        let matches = command.try_get_matches_from(words).ok()?;
        Arguments::from_arg_matches(&matches).ok().filter(|arguments| matches!(arguments.command, Command::Send(_)))
    });
    match text.flatten() {
        Some(Arguments { command: Command::Send(Send { text, .. }), .. }) if text == "-h" || text == "--help" => {
            let message = format!("`{text}` is an option; see `peerloom send --help`, or put a text after `--`");
            Err(Arguments::command().error(ErrorKind::InvalidValue, message))
        }
        Some(arguments) => Ok(arguments),
        None => parsed.map_err(complaints::improved),
    }
}

fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| "it takes an IP address and a port, such as 127.0.0.1:9464".into())
}

fn count<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| large_or(text, "it takes a whole number from 1 on"))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| large_or(text, "it takes a whole number"))
}

/// What is wrong with a number.
fn large_or(text: &str, other: &str) -> String {
    let digits = text.trim_start_matches('0');
    let large = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if large { "the number is too large".into() } else { other.into() }
}

fn lifetime(text: &str) -> Result<std::time::Duration, String> {
    let lifetime = duration(text)?;
    let good = peerloom::INVITATION_LIFETIME.contains(&lifetime);
    good.then_some(lifetime).ok_or_else(|| "it takes from 1ms to 365d".into())
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    let parsed = text.parse::<peerloom::core::kinds::DurationText>();
    parsed.map(|duration| duration.0).map_err(|_| "it takes a duration, such as 500ms, 90m or 7d".into())
}

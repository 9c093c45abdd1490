//! A folder's store by itself.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use peerloom::config::FILE_NAME;
use peerloom::core::Passphrase;
use peerloom::{Config, Error, ErrorKind, Override, Result, Store};
use serde_json::json;
use zeroize::Zeroizing;

use crate::output::{Progress, note, say, say_json, table};
use crate::session;

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

/// In bytes.
const LONGEST_PASSPHRASE: u64 = 64 * 1024;

pub(super) async fn run(folder: &Path, overrides: &[Override], json: bool, db: Db) -> Result<ExitCode> {
    session::alone(folder).await?;
    let config = Config::load(&folder.join(FILE_NAME), overrides, &crate::kinds()?)?;
    let work = move || {
        let store = session::patiently(|| Store::open(&config))?;
        match db.action {
            None => tables(&store, json),
            Some(DbAction::Check) => check(&store, json),
            Some(DbAction::Passphrase) => change_passphrase(&store, json),
            Some(DbAction::Copy { to }) => {
                let before = store.kind().to_owned();
                let progress = Progress::new();
                let rows = store.move_to(&to, |rows| progress.set(&format!("{rows} rows copied")))?;
                drop(progress);
                if json {
                    say_json(&json!({ "from": before, "to": to, "rows": rows }));
                } else {
                    say(&format!("copied {rows} rows; the folder's store is of kind {to} now"));
                    note(&format!("note: delete the {before} store; using it again would use keys a second time"));
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    };
    let panicked = |e| Error::new(ErrorKind::Internal, "db", "run", "reading the store panicked").with_source(e);
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

fn change_passphrase(store: &Store, json: bool) -> Result<ExitCode> {
    let invalid = |message: &str| Error::new(ErrorKind::Invalid, "db", "change the passphrase", message);
    if std::io::stdin().is_terminal() {
        return Err(invalid("give the new passphrase on standard input, such as `< file`, so that nobody reads along"));
    }
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(LONGEST_PASSPHRASE + 1).read_to_string(&mut text);
    read.map_err(|e| invalid("standard input can't be read, or is not UTF-8").with_source(e))?;
    if text.len() as u64 > LONGEST_PASSPHRASE {
        return Err(invalid(&format!("the new passphrase has at most {LONGEST_PASSPHRASE} bytes")));
    }
    store.change_passphrase(Passphrase::from_line(&text).map_err(invalid)?.expose())?;
    if json {
        say_json(&json!({ "changed": true }));
    } else {
        say("the passphrase is changed; put the new one where the old one is kept");
    }
    Ok(ExitCode::SUCCESS)
}

fn tables(store: &Store, json: bool) -> Result<ExitCode> {
    let tables = store.tables()?;
    if json {
        let rows = tables.iter().map(|t| json!({ "table": t.name, "rows": t.rows, "bytes": t.bytes }));
        say_json(&json!({ "kind": store.kind(), "tables": rows.collect::<Vec<_>>() }));
    } else {
        let rows: Vec<_> =
            tables.iter().map(|t| vec![t.name.to_owned(), t.rows.to_string(), t.bytes.to_string()]).collect();
        table(&["table", "rows", "bytes"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(store: &Store, json: bool) -> Result<ExitCode> {
    let progress = Progress::new();
    let (rows, problems) = store.check(|rows| progress.set(&format!("{rows} rows checked")))?;
    drop(progress);
    if json {
        say_json(&json!({ "rows": rows, "problems": problems }));
    } else {
        problems.iter().for_each(|problem| say(problem));
        let verdict = if problems.is_empty() { "all is well" } else { "a node goes on without what is damaged" };
        say(&format!("{rows} rows checked, {} problems: {verdict}", problems.len()));
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

//! The `peerloom` command as a library: to run it under another name, or with more kinds.

mod args;
mod bench;
mod command;
mod control;
mod demo;
mod folder;
mod log;
mod metrics;
mod output;
mod process;
mod session;
mod signals;
mod testbed;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::OnceLock;

use command::Arguments;
use peerloom::core::panics;
use peerloom::{Error, ErrorKind, Kinds, Result, Retry, builtin};
use rustix::fs::Mode;
use rustix::process::umask;

static KINDS: OnceLock<fn() -> Result<Kinds>> = OnceLock::new();

/// The kinds that a file may choose from.
fn kinds() -> Result<Kinds> {
    KINDS.get().map_or_else(builtin::kinds, |kinds| kinds())
}

/// Runs the command, with these kinds instead of the built-in ones: the first call decides.
pub fn main_with(kinds: fn() -> Result<Kinds>) -> ExitCode {
    // An earlier call decided already.
    let _ = KINDS.set(kinds);
    main()
}

/// Runs the command with the program's arguments.
///
/// The README has the table of exit codes.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Threads that wait for disks and terminals, at most.
const BLOCKING: usize = 32;

/// Runs the command with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Files are for their owner, whatever the umask takes from the owner as well.
    let before = umask(Mode::from_raw_mode(0o077));
    umask(before & Mode::from_raw_mode(0o077));
    let words: Vec<OsString> = arguments.into_iter().collect();
    let code = match command::parse(&words) {
        Ok(arguments) => execute(arguments),
        Err(error) => explain(&words, &error),
    };
    log::flush();
    output::exit_code(code)
}

fn execute(arguments: Arguments) -> ExitCode {
    let (json, verbose) = (arguments.json, arguments.verbose > 0);
    log::start(arguments.verbose, arguments.log);
    panics::stay_quiet_on_expected();
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build();
    let runtime = match threads {
        Ok(runtime) => runtime,
        Err(error) => {
            let failed = Error::new(ErrorKind::System, "command", "start", "no threads can be made");
            return fail(json, verbose, &failed.with_source(error));
        }
    };
    // What panics is a bug; scripts get their object all the same.
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(command::run(arguments))));
    // Threads that still wait for a disk or a terminal must not hold up the end.
    runtime.shutdown_background();
    let bug = |_| {
        Err(Error::new(ErrorKind::Internal, "command", "run", "a bug in Peerloom: please report what stands above"))
    };
    outcome.unwrap_or_else(bug).unwrap_or_else(|error| fail(json, verbose, &error))
}

/// Prints help, the version, or what is wrong with the arguments.
fn explain(words: &[OsString], error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        if let Err(error) = error.print().and_then(|()| std::io::stdout().flush()) {
            output::lose(&error);
        }
        return ExitCode::SUCCESS;
    }
    let message = error.to_string();
    output::note(message.trim_end());
    if words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--json" || word.as_encoded_bytes().starts_with(b"--json="))
    {
        let message = message.split("\n\nUsage").next().unwrap_or_default();
        let error =
            Error::new(ErrorKind::Invalid, "command", "read the arguments", message.trim_start_matches("error: "));
        output::say_json(&serde_json::json!({ "error": control::Failure::from(&error) }));
    }
    ExitCode::from(2)
}

/// Says what failed, and gives the exit code for it. The parts of the program that failed are for those who asked for
/// more, and for scripts.
fn fail(json: bool, verbose: bool, error: &Error) -> ExitCode {
    output::complain(&if verbose { error.to_string() } else { error.for_people() });
    if json {
        output::say_json(&serde_json::json!({ "error": control::Failure::from(error) }));
    }
    ExitCode::from(exit_code(error.kind(), error.retryable()))
}

/// As the README's table says.
fn exit_code(kind: ErrorKind, retry: Retry) -> u8 {
    use ErrorKind as K;
    match (retry, kind) {
        (Retry::Later, _) => 3,
        (_, K::Invalid | K::NotFound | K::AlreadyExists | K::Malformed | K::Unauthenticated | K::TooLarge) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_readme() {
        let readme = include_str!("../../../README.md");
        let table = readme.split("| exit code |").nth(1).expect("a table").split("\n\n").next().expect("its rows");
        let rows: Vec<(u8, &str)> = table
            .lines()
            .filter_map(|line| {
                let mut cells = line.split('|').map(str::trim).skip(1);
                Some((cells.next()?.parse().ok()?, cells.nth(1)?))
            })
            .collect();
        for kind in ErrorKind::ALL {
            let name = format!("`{kind:?}`");
            let documented: Vec<u8> =
                rows.iter().filter(|(_, kinds)| kinds.contains(&name)).map(|(code, _)| *code).collect();
            let retry = Error::new(kind, "test", "test", "test").retryable();
            assert_eq!(documented, [exit_code(kind, retry)], "{name}");
            assert_eq!(exit_code(kind, Retry::Later), 3, "{name}");
            assert_ne!(exit_code(kind, Retry::No), 3, "{name}");
        }
    }
}

//! The `peerloom` command as a library: to run it under another name, or with more kinds.

mod args;
mod bench;
mod command;
mod control;
mod demo;
mod log;
mod metrics;
mod output;
mod process;
mod session;
mod signals;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::OnceLock;

use args::Arguments;
use peerloom::{Error, ErrorKind, Kinds, Result, Retry, builtin};

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
/// Exit codes: 0 done; 1 failed, or the result couldn't be printed; 2 the arguments or the file are wrong; 3 it
/// may work later, unchanged.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the command with these arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let code = match args::parse(&words) {
        Ok(arguments) => execute(arguments),
        Err(error) => explain(&words, &error),
    };
    log::flush();
    output::exit_code(code)
}

fn execute(arguments: Arguments) -> ExitCode {
    let json = arguments.json;
    log::start(arguments.verbose, arguments.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failed = Error::new(ErrorKind::System, "command", "start", "no threads can be made");
            return fail(json, &failed.with_source(error));
        }
    };
    // What panics is a bug; scripts get their object all the same.
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(command::run(arguments))));
    // Threads that still wait for a disk or a terminal must not hold up the end.
    runtime.shutdown_background();
    let bug = |_| {
        Err(Error::new(ErrorKind::Internal, "command", "run", "a bug in Peerloom: please report what stands above"))
    };
    outcome.unwrap_or_else(bug).unwrap_or_else(|error| fail(json, &error))
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
    if words.iter().take_while(|word| *word != "--").any(|word| word == "--json") {
        let message = message.split("\n\nUsage").next().unwrap_or_default();
        let error =
            Error::new(ErrorKind::Invalid, "command", "read the arguments", message.trim_start_matches("error: "));
        output::say_json(&serde_json::json!({ "error": control::Failure::from(&error) }));
    }
    ExitCode::from(2)
}

/// Says what failed, and gives the exit code for it.
fn fail(json: bool, error: &Error) -> ExitCode {
    output::complain(&error.to_string());
    if json {
        output::say_json(&serde_json::json!({ "error": control::Failure::from(error) }));
    }
    exit_code(error)
}

fn exit_code(error: &Error) -> ExitCode {
    match (error.kind(), error.retryable()) {
        (ErrorKind::Invalid, _) => ExitCode::from(2),
        (_, Retry::Later) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

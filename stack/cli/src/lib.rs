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
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::Parser;
use peerloom::{Error, ErrorKind, Kinds, Retry, builtin};

use args::Arguments;

static KINDS: OnceLock<fn() -> Kinds> = OnceLock::new();

/// The kinds that a file may choose from.
fn kinds() -> Kinds {
    KINDS.get().map_or_else(builtin::kinds, |kinds| kinds())
}

/// Runs the command, with these kinds instead of the built-in ones: the first call decides.
pub fn main_with(kinds: fn() -> Kinds) -> ExitCode {
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
    let code = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => execute(arguments),
        Err(error) => explain(&error),
    };
    log::flush();
    output::exit_code(code)
}

/// Prints help, the version, or what is wrong with the arguments.
fn explain(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| std::io::stdout().flush());
    if error.use_stderr() {
        return ExitCode::from(2);
    }
    if let Err(error) = printed {
        output::lose(&error);
    }
    ExitCode::SUCCESS
}

fn execute(arguments: Arguments) -> ExitCode {
    let json = arguments.json;
    log::start(arguments.verbose, arguments.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("no threads can be made: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(command::run(arguments));
    // Threads that still wait for a disk or a terminal must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output::complain(&error.to_string());
            if json {
                output::say_json(&serde_json::json!({ "error": control::Failure::from(&error) }));
            }
            exit_code(&error)
        }
    }
}

fn exit_code(error: &Error) -> ExitCode {
    match (error.kind(), error.retryable()) {
        (ErrorKind::Invalid, _) => ExitCode::from(2),
        (_, Retry::Later) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

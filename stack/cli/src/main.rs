//! The `peerloom` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    peerloom_cli::main()
}

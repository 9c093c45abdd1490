//! The `peerloom` command with one more transport.

use std::process::ExitCode;

use peerloom::{Kinds, builtin};

fn kinds() -> Kinds {
    let mut kinds = builtin::kinds();
    custom_transport::register(&mut kinds);
    kinds
}

fn main() -> ExitCode {
    peerloom_cli::main_with(kinds)
}

//! The `peerloom` command with one more transport.

use std::process::ExitCode;

use peerloom::{Kinds, Result, builtin};

fn kinds() -> Result<Kinds> {
    let mut kinds = builtin::kinds()?;
    custom_transport::register(&mut kinds)?;
    Ok(kinds)
}

fn main() -> ExitCode {
    peerloom_cli::main_with(kinds)
}

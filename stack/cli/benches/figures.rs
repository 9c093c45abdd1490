//! `cargo bench -p peerloom-cli`: the figures of `peerloom bench`, ceilings beside them.
//!
//! The figures need other processes, which are this program again with the command's arguments.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().collect();
    // `cargo bench` adds `--bench`; whatever else there is comes from ourselves.
    let plain = given.iter().skip(1).all(|argument| argument == "--bench");
    let bench = ["peerloom", "bench"].map(OsString::from).to_vec();
    peerloom_cli::run(if plain { bench } else { given })
}

//! The `peerloom` command, built for this package's tests.

fn main() -> std::process::ExitCode {
    peerloom_cli::main()
}

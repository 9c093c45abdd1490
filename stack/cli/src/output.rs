//! What goes to the terminal: results to stdout, progress and complaints to stderr.
//!
//! An output that can't be written to ends nothing by itself: a node outlives its outputs. Where the reader of
//! stdout has gone (`| head`), what follows is left out quietly. Any other failure is complained about, and
//! makes the command's exit code 1 ([`exit_code`]).

use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock, PoisonError};

pub(crate) use peerloom::core::terminal::printable;
use peerloom::core::terminal::shell_word;
use tokio::sync::Notify;

/// Why stdout can't be written to any more.
static LOST: OnceLock<ErrorKind> = OnceLock::new();
static LOSS: Notify = Notify::const_new();

/// A line of the result.
pub(crate) fn say(line: &str) {
    if !is_lost() {
        let mut stdout = std::io::stdout().lock();
        if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            lose(&error);
        }
    }
}

/// Stdout failed.
pub(crate) fn lose(error: &std::io::Error) {
    if LOST.set(error.kind()).is_ok() {
        if error.kind() != ErrorKind::BrokenPipe {
            complain(&format!("standard output can't be written to, and gets nothing more: {error}"));
        }
        LOSS.notify_waiters();
    }
}

/// Whether stdout can't be written to any more.
pub(crate) fn is_lost() -> bool {
    LOST.get().is_some()
}

/// Completes once stdout can't be written to any more.
pub(crate) async fn lost() {
    let loss = LOSS.notified();
    if !is_lost() {
        loss.await;
    }
}

/// The exit code of a command that would end with this one.
pub(crate) fn exit_code(code: ExitCode) -> ExitCode {
    match LOST.get() {
        None | Some(ErrorKind::BrokenPipe) => code,
        Some(_) => ExitCode::FAILURE,
    }
}

/// A line of JSON.
pub(crate) fn say_json(value: &impl serde::Serialize) {
    say(&serde_json::to_string(value).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}")));
}

/// An error, for a person. Parts of it may come from outside.
pub(crate) fn complain(message: &str) {
    note(&format!("peerloom: {message}"));
}

/// A note beside the result, for a person. Parts of it may come from outside.
pub(crate) fn note(message: &str) {
    let lines: Vec<String> = message.split('\n').map(printable).collect();
    let lines = lines.join("\n");
    if !show_above(&lines) {
        let _ = writeln!(std::io::stderr().lock(), "{lines}");
    }
}

/// Shows lines above the one that is being typed.
type ShowAbove = Box<dyn Fn(&str) + Send>;

/// What has the terminal, if something does.
static ABOVE: Mutex<Option<ShowAbove>> = Mutex::new(None);

/// From now on notes and the log are shown by this, which must not wait: what has the terminal must know all that is
/// printed there.
pub(crate) fn give_terminal(above: Option<ShowAbove>) {
    let before = std::mem::replace(&mut *ABOVE.lock().unwrap_or_else(PoisonError::into_inner), above);
    drop(before);
}

/// Shows lines above the one that is being typed; false where nothing has the terminal.
pub(crate) fn show_above(lines: &str) -> bool {
    let above = ABOVE.lock().unwrap_or_else(PoisonError::into_inner);
    above.as_ref().is_some_and(|above| {
        above(lines);
        true
    })
}

/// A command on the same folder, as a person can paste it into a shell: nothing in it is expanded or taken for an option.
pub(crate) fn hint(folder: &Path, words: &[&str]) -> String {
    let folder = folder.as_os_str().as_bytes();
    // Not an option.
    let marked = [b"./", folder].concat();
    let folder = if folder.starts_with(b"-") { marked.as_slice() } else { folder };
    let folder = if folder == b"." { vec![] } else { vec![&b"-C"[..], folder] };
    let words = [&b"peerloom"[..]].into_iter().chain(folder).chain(words.iter().map(|word| word.as_bytes()));
    words.map(shell_word).collect::<Vec<_>>().join(" ")
}

/// A progress line that is overwritten; nothing when stderr isn't a terminal.
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal() }
    }

    pub(crate) fn set(&self, message: &str) {
        if self.shown {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{message}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.set("");
    }
}

/// Columns aligned under a heading.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(padded.join("  ").trim_end());
    };
    line(&mut heading.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// A text of several lines as one message's: lines after the first are set in, so that none of them can
/// look like somebody else's message.
pub(crate) fn set_in(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n    ")
}

/// Whether results may be coloured: on a terminal, unless `NO_COLOR` says otherwise.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{hint, set_in};

    #[test]
    fn lines_after_the_first_are_set_in() {
        assert_eq!(set_in("a\u{85}\nb"), "a\u{fffd}\n    b");
    }

    #[test]
    fn hints_can_be_pasted() {
        let hint = hint(Path::new("my folder"), &["send", "--", "$(touch${IFS}pwned)'", "hello"]);
        assert_eq!(
            shlex::split(&hint),
            Some(vec![
                "peerloom".into(),
                "-C".into(),
                "my folder".into(),
                "send".into(),
                "--".into(),
                "$(touch${IFS}pwned)'".into(),
                "hello".into()
            ])
        );
        assert_eq!(super::hint(Path::new("."), &["run"]), "peerloom run");
        assert_eq!(super::hint(Path::new("-x"), &["run"]), "peerloom -C ./-x run");
        assert_eq!(super::hint(Path::new("we\nird'"), &["run"]), r"peerloom -C $'we\x0aird\x27' run");
    }
}

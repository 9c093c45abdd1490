//! What goes to the terminal: results to stdout, progress and complaints to stderr.

use std::io::{IsTerminal, Write};

/// A line of the result. When the reader has gone (`| head`), the program ends quietly.
pub(crate) fn say(line: &str) {
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// A line of JSON.
pub(crate) fn say_json(value: &impl serde::Serialize) {
    say(&serde_json::to_string(value).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}")));
}

/// An error, for a person.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "peerloom: {message}");
}

/// A note beside the result, for a person.
pub(crate) fn note(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{message}");
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

/// Text from outside, safe for a terminal: control characters are shown as their pictures.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// A text of several lines as one message's: lines after the first are set in, so that none of them can
/// look like somebody else's message.
pub(crate) fn set_in(text: &str) -> String {
    printable(text).replace('\n', "\n    ")
}

/// Whether results may be coloured: on a terminal, unless `NO_COLOR` says otherwise.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn terminals_are_not_controlled_from_outside() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\u{202e}\nd"), "a␛[2Jb␍c\u{fffd}\nd");
    }
}

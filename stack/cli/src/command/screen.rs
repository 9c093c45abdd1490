//! Where a chat is typed and shown: an editor on a terminal, plain lines elsewhere.

use std::io::{BufRead, IsTerminal, Read};
use std::sync::{Mutex, PoisonError};

use peerloom::core::wire::limits;
use peerloom::{Error, ErrorKind, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Editor, ExternalPrinter};
use tokio::sync::mpsc;

use crate::output::{note, say};

/// Lines typed ahead of the node.
const TYPED_AHEAD: usize = 16;
const PROMPT: &str = "> ";

/// What a person does.
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C.
    Leave,
}

/// The screen of a chat.
pub(super) struct Screen {
    /// Prints above the line that is being typed.
    above: Option<Mutex<Box<dyn ExternalPrinter + Send>>>,
    /// The terminal as it was.
    before: Option<Termios>,
}

impl Screen {
    /// The screen, and what is typed on it. The thread that reads ends with the program: nothing else
    /// ends a read.
    pub(super) fn open() -> (Self, mpsc::Receiver<Result<Typed>>) {
        let (sender, lines) = mpsc::channel(TYPED_AHEAD);
        let before = tcgetattr(std::io::stdin()).ok();
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        // A terminal that can't do what an editor needs is read like a file.
        let editor = terminal.then(|| {
            let mut editor = Editor::<(), MemHistory>::with_history(rustyline::Config::default(), MemHistory::new())?;
            let printer: Box<dyn ExternalPrinter + Send> = Box::new(editor.create_external_printer()?);
            Ok::<_, ReadlineError>((editor, printer))
        });
        match editor {
            Some(Ok((editor, printer))) => {
                std::thread::spawn(move || edit(editor, &sender));
                (Self { above: Some(Mutex::new(printer)), before }, lines)
            }
            _ => {
                std::thread::spawn(move || read(&sender));
                (Self { above: None, before: None }, lines)
            }
        }
    }

    /// A line of the conversation.
    pub(super) fn say(&self, line: &str) {
        self.print(line, say);
    }

    /// A note beside it.
    pub(super) fn note(&self, line: &str) {
        self.print(line, note);
    }

    fn print(&self, line: &str, plainly: fn(&str)) {
        match &self.above {
            // What a terminal that has gone doesn't show, nobody misses.
            Some(above) => drop(above.lock().unwrap_or_else(PoisonError::into_inner).print(format!("{line}\n"))),
            None => plainly(line),
        }
    }
}

impl Drop for Screen {
    /// The editor may be in the middle of a line.
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn edit(mut editor: Editor<(), MemHistory>, typed: &mpsc::Sender<Result<Typed>>) {
    loop {
        let outcome = match editor.readline(PROMPT) {
            Ok(line) => {
                // Without it, the line can't be called back, no more.
                let _ = editor.add_history_entry(&line);
                Ok(Typed::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Leave),
            Err(ReadlineError::Eof) => return,
            Err(error) => Err(unreadable(error)),
        };
        let over = !matches!(outcome, Ok(Typed::Line(_)));
        if typed.blocking_send(outcome).is_err() || over {
            return;
        }
    }
}

fn read(typed: &mpsc::Sender<Result<Typed>>) {
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = String::new();
        // One byte more than allowed, so that too long a line is refused rather than cut.
        let outcome = match input.by_ref().take(limits::MESSAGE_BODY as u64 + 1).read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => Ok(Typed::Line(line)),
            Err(error) => Err(unreadable(error)),
        };
        if typed.blocking_send(outcome).is_err() {
            return;
        }
    }
}

fn unreadable(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Invalid, "chat", "read a line", "it can't be read, or is not UTF-8").source(cause)
}

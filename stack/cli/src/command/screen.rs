//! Where a chat is typed and shown: an editor on a terminal, plain lines elsewhere.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerloom::core::wire::limits;
use peerloom::{Error, ErrorKind, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Editor, ExternalPrinter};
use terminal_size::{Height, Width};
use tokio::sync::mpsc;
use unicode_width::UnicodeWidthStr;

use super::show::time_now;
use crate::output::{give_terminal, note, printable, say};

/// Lines typed ahead of the node.
const TYPED_AHEAD: usize = 16;
/// As wide as a time and a mark, which take its place once the line is sent.
const PROMPT: &str = "      > ";
/// Characters of a message that a mark repeats where the message's own line can't be changed: with the mark they fit 40
/// columns.
const REPEATED: usize = 20;

/// Texts that wait for the editor, and how long the end of a chat waits for them.
const UNPRINTED: usize = 1024;
const ENDING: Duration = Duration::from_millis(300);

/// Typed lines that can be found again: as many as fit a high terminal.
const REMEMBERED: usize = 200;

/// What a person does.
pub(super) enum Typed {
    /// A line, with a number to name it by.
    Line(u64, String),
    /// A line of more bytes than a message has.
    TooLong,
    /// Ctrl-C, or `/quit`.
    Leave,
}

/// The screen of a chat.
pub(super) struct Screen {
    editor: Option<Arc<Mutex<Above>>>,
    /// The terminal as it was.
    before: Option<Termios>,
}

/// What stands above the line that is being typed.
struct Above {
    printer: Printer,
    /// The typed lines directly above, oldest first: only they can be found again. Whatever else is printed ends the list.
    lines: Vec<Line>,
}

/// The way to the thread that prints: the editor takes what is printed only while it waits for a key, so that whatever
/// prints would wait for the one who types.
struct Printer {
    texts: SyncSender<String>,
    /// Texts that aren't printed yet.
    waiting: Arc<AtomicUsize>,
}

impl Printer {
    fn start(mut printer: impl ExternalPrinter + Send + 'static) -> Self {
        let (texts, queue) = sync_channel::<String>(UNPRINTED);
        let waiting = Arc::new(AtomicUsize::new(0));
        let printed = waiting.clone();
        // It ends with the program: nothing else ends a print.
        std::thread::spawn(move || {
            for text in queue {
                // What a terminal that has gone doesn't show, nobody misses.
                let _ = printer.print(text);
                printed.fetch_sub(1, Ordering::AcqRel);
            }
        });
        Self { texts, waiting }
    }

    /// Never waits: what a terminal doesn't take for so long is lost.
    fn print(&self, text: String) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.texts.try_send(text).is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Waits a moment until all is printed.
    fn flush(waiting: &AtomicUsize) {
        let begin = Instant::now();
        while waiting.load(Ordering::Acquire) > 0 && begin.elapsed() < ENDING {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A line that was typed.
struct Line {
    number: u64,
    /// In columns, with the prompt.
    width: usize,
    /// What stands in the place of the prompt: time and mark of a message.
    head: String,
    /// The message's id and time, once the node has accepted it.
    sent: Option<(String, String)>,
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
            let printer = Printer::start(editor.create_external_printer()?);
            Ok::<_, ReadlineError>((editor, printer))
        });
        match editor {
            Some(Ok((editor, printer))) => {
                let above = Arc::new(Mutex::new(Above { printer, lines: Vec::new() }));
                let (shared, shows) = (above.clone(), above.clone());
                give_terminal(Some(Box::new(move |lines| locked(&shows).say(lines))));
                std::thread::spawn(move || edit(editor, &shared, &sender));
                (Self { editor: Some(above), before }, lines)
            }
            _ => {
                std::thread::spawn(move || read(&sender));
                (Self { editor: None, before: None }, lines)
            }
        }
    }

    /// Whether a person types.
    pub(super) fn is_terminal(&self) -> bool {
        self.editor.is_some()
    }

    /// A line of the conversation.
    pub(super) fn say(&self, line: &str) {
        self.print(line, say);
    }

    /// A note beside it.
    pub(super) fn note(&self, line: &str) {
        self.print(line, note);
    }

    /// A typed line is a message now, on its way.
    pub(super) fn sent(&self, number: u64, id: &str, text: &str) {
        let now = time_now();
        let found = self.above().is_some_and(|mut above| {
            let Some(at) = above.lines.iter().position(|line| line.number == number) else { return false };
            above.lines[at].sent = Some((id.to_owned(), now.clone()));
            above.rewrite(at, format!("{now} …"))
        });
        if !found {
            self.say(&format!("{now} … sending: {}", beginning(text)));
        }
    }

    /// What became of a message.
    pub(super) fn mark(&self, id: &str, mark: char, word: &str, text: &str) {
        let found = self.above().is_some_and(|mut above| {
            let mut sent = above.lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.sent.as_ref()?)));
            let found = sent.find(|(_, (sent, _))| sent == id).map(|(at, (_, time))| (at, format!("{time} {mark}")));
            found.is_some_and(|(at, head)| above.rewrite(at, head))
        });
        if !found {
            self.say(&format!("{} {mark} {word}: {}", time_now(), beginning(text)));
        }
    }

    fn print(&self, line: &str, plainly: fn(&str)) {
        match self.above() {
            Some(mut above) => above.say(line),
            None => plainly(line),
        }
    }

    fn above(&self) -> Option<MutexGuard<'_, Above>> {
        self.editor.as_ref().map(|above| locked(above))
    }
}

fn locked(above: &Mutex<Above>) -> MutexGuard<'_, Above> {
    above.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Above {
    /// Changes the head of a typed line; false if the line has left the terminal.
    ///
    /// All heads are written: should a line be typed before the editor comes to this, what lands in wrong rows of these
    /// lines is put right the next time.
    fn rewrite(&mut self, at: usize, head: String) -> bool {
        self.lines[at].head = head;
        let size = terminal_size::terminal_size_of(std::io::stdout());
        let Some((Width(columns), Height(rows))) = size else { return false };
        // A line that ends at the edge has its cursor in the next row.
        let height = |line: &Line| line.width / usize::from(columns.max(1)) + 1;
        let mut up = 0;
        let on_screen = self.lines.iter().rev().take_while(|line| {
            up += height(line);
            up < usize::from(rows)
        });
        let first = self.lines.len() - on_screen.count();
        if at < first {
            return false;
        }
        let shown = self.lines.get(first..).unwrap_or_default();
        let mut text = format!("\x1b[{}A", shown.iter().map(height).sum::<usize>());
        for (number, line) in shown.iter().enumerate() {
            text += &format!("\r{}", line.head);
            // The printer adds a line break to what doesn't end with one: the last row down.
            match height(line) - usize::from(number + 1 == shown.len()) {
                0 => {}
                down => text += &format!("\x1b[{down}B"),
            }
        }
        self.print(text + "\n");
        true
    }

    /// Prints a line that isn't a typed one.
    fn say(&mut self, line: &str) {
        self.lines.clear();
        self.print(format!("{line}\n"));
    }

    fn print(&self, text: String) {
        self.printer.print(text);
    }
}

impl Drop for Screen {
    /// The editor may be in the middle of a line.
    fn drop(&mut self) {
        if let Some(above) = &self.editor {
            let waiting = locked(above).printer.waiting.clone();
            Printer::flush(&waiting);
        }
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
        if self.editor.is_some() {
            give_terminal(None);
            // What is printed from now on stands in the place of the prompt.
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(b"\r\x1b[K").and_then(|()| stdout.flush());
        }
    }
}

fn beginning(text: &str) -> String {
    printable(&text.chars().take(REPEATED).collect::<String>())
}

fn edit(mut editor: Editor<(), MemHistory>, above: &Mutex<Above>, typed: &mpsc::Sender<Result<Typed>>) {
    for number in 0.. {
        let outcome = match editor.readline(PROMPT) {
            Ok(line) => {
                // Without it, the line can't be called back, no more.
                let _ = editor.add_history_entry(&line);
                let lines = &mut locked(above).lines;
                if line.contains(char::is_control) {
                    // The editor shows these in ways of its own, so that nobody knows how many rows they take.
                    lines.clear();
                } else {
                    if lines.len() >= REMEMBERED {
                        lines.remove(0);
                    }
                    let width = PROMPT.width() + line.width();
                    lines.push(Line { number, width, head: PROMPT.trim_end().into(), sent: None });
                }
                Ok(typed_line(number, line))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Leave),
            Err(ReadlineError::Eof) => return,
            Err(error) => Err(unreadable(error)),
        };
        let over = !matches!(outcome, Ok(Typed::Line(..)));
        if typed.blocking_send(outcome).is_err() || over {
            return;
        }
    }
}

/// What a line means: nothing is read after `/quit`.
fn typed_line(number: u64, line: String) -> Typed {
    match line.trim_end_matches(['\r', '\n']) {
        "/quit" => Typed::Leave,
        _ => Typed::Line(number, line),
    }
}

fn read(typed: &mpsc::Sender<Result<Typed>>) {
    let mut input = std::io::stdin().lock();
    // A message and its line break.
    let longest = limits::MESSAGE_BODY as u64 + 2;
    for number in 0.. {
        let mut line = Vec::new();
        let outcome = match input.by_ref().take(longest).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(length) if length as u64 == longest && !line.ends_with(b"\n") => {
                // The rest of the line is not another one.
                input.skip_until(b'\n').map(|_| Typed::TooLong).map_err(unreadable)
            }
            Ok(_) => String::from_utf8(line).map(|line| typed_line(number, line)).map_err(unreadable),
            Err(error) => Err(unreadable(error)),
        };
        let over = matches!(outcome, Ok(Typed::Leave) | Err(_));
        if typed.blocking_send(outcome).is_err() || over {
            return;
        }
    }
}

fn unreadable(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Invalid, "chat", "read a line", "standard input can't be read, or is not UTF-8")
        .with_source(cause)
}

//! The log, on stderr. What others cause over and over must not fill a disk: of a warning that comes again and again
//! some lines are written, and how many were left out.

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use peerloom::core::wire::Allowance;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::output::{complain, note, show_above};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Lines that wait for a reader of stderr; further ones are lost.
const WAITING: usize = 4096;
/// How long the end of the program waits for them.
const ENDING: Duration = Duration::from_millis(500);
/// Lines from one place in the code at once; then one for each [`PAUSE`].
const BURST: u32 = 10;
const PAUSE: Duration = Duration::from_secs(10);

/// Logs to stderr: warnings by default, more with `-v`, `RUST_LOG` above both.
pub(crate) fn start(verbose: u8, format: LogFormat) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let filter = asked.map(|text| text.parse::<EnvFilter>()).transpose().unwrap_or_else(|error| {
        complain(&format!("RUST_LOG is ignored: {error}; such as RUST_LOG=peerloom=debug"));
        None
    });
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let stderr = Stderr::start();
    // A report of a line that can't be written can't be written, either: the crate's own would panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || stderr.clone())
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.with_ansi(colour).map_event_format(|inner| Sparing::new(inner, format)).init(),
        LogFormat::Json => builder.json().map_event_format(|inner| Sparing::new(inner, format)).init(),
    }
}

/// Something for the thread that writes the log.
enum Output {
    Line(Vec<u8>),
    /// Everything before it is written.
    Done(SyncSender<()>),
}

/// The way to that thread.
static OUTPUT: OnceLock<SyncSender<Output>> = OnceLock::new();

/// Waits a moment until what was logged is written: a command that ends shows why.
pub(crate) fn flush() {
    let (done, wait) = mpsc::sync_channel(1);
    if OUTPUT.get().is_some_and(|output| output.try_send(Output::Done(done)).is_ok()) {
        // A reader that doesn't read keeps nothing from ending.
        let _ = wait.recv_timeout(ENDING);
    }
}

/// Standard error, written by a thread of its own. What can't be written is lost, and neither ends nor holds up
/// anything.
#[derive(Clone)]
struct Stderr {
    output: SyncSender<Output>,
    lost: Arc<AtomicU64>,
}

impl Stderr {
    fn start() -> Self {
        let (output, lines) = mpsc::sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let write = move || {
            for output in lines {
                match output {
                    Output::Line(line) if show_above(String::from_utf8_lossy(&line).trim_end()) => {}
                    Output::Line(line) => drop(std::io::stderr().lock().write_all(&line)),
                    // The one that waited has given up.
                    Output::Done(done) => drop(done.try_send(())),
                }
                match counted.swap(0, Ordering::Relaxed) {
                    0 => {}
                    lost => note(&format!("{lost} lines were lost, since the log was not read")),
                }
            }
        };
        // Without the thread nothing is logged, and a system that has no room for it has other worries.
        let _ = std::thread::Builder::new().name("peerloom-log".into()).spawn(write);
        let _ = OUTPUT.set(output.clone());
        Self { output, lost }
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.output.try_send(Output::Line(bytes.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes events as `inner` does, but not all warnings and errors of a place that has many. Lines that were asked
/// for with `-v` are all written.
struct Sparing<F> {
    inner: F,
    format: LogFormat,
    /// By place in the code, so that their number is bounded.
    places: Mutex<HashMap<Identifier, Place>>,
}

/// How often a place has logged.
struct Place {
    lines: Allowance<Instant>,
    left_out: u64,
}

impl Place {
    /// How many lines were left out before this one; `None` leaves this one out, too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if !self.lines.spend(now, PAUSE) {
            self.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }
}

impl<F> Sparing<F> {
    fn new(inner: F, format: LogFormat) -> Self {
        Self { inner, format, places: Mutex::default() }
    }

    fn admit(&self, place: Identifier, now: Instant) -> Option<u64> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(place).or_insert(Place { lines: Allowance::full(BURST), left_out: 0 }).admit(now)
    }
}

impl<S, N, F> FormatEvent<S, N> for Sparing<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if *event.metadata().level() <= Level::WARN {
            match self.admit(event.metadata().callsite(), Instant::now()) {
                None => return Ok(()),
                Some(0) => {}
                Some(left_out) => match self.format {
                    LogFormat::Text => writeln!(writer, "{left_out} lines like the next one were left out")?,
                    LogFormat::Json => writeln!(
                        writer,
                        r#"{{"level":"WARN","fields":{{"message":"lines like the next one were left out","lines":{left_out}}}}}"#
                    )?,
                },
            }
        }
        self.inner.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_of_warnings_is_some_lines() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let builder = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_writer(move || writer.clone());
        let subscriber = builder.json().map_event_format(|inner| Sparing::new(inner, LogFormat::Json)).finish();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..10_000 {
                tracing::warn!(number, "a stranger was refused");
                tracing::debug!(number, "a step");
            }
            tracing::warn!("something else");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        // One more if the machine stood still for ten seconds.
        assert!((10..20).contains(&count("a stranger")), "{}", count("a stranger"));
        assert_eq!((count("a step"), count("something else")), (10_000, 1));
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let begin = Instant::now();
        let mut place = Place { lines: Allowance::full(BURST), left_out: 0 };
        let admitted: Vec<_> = (0..100).filter_map(|_| place.admit(begin)).collect();
        assert_eq!(admitted, [0; BURST as usize]);
        assert_eq!(place.admit(begin + PAUSE), Some(90));
        assert_eq!(place.admit(begin + PAUSE), None);
        assert_eq!(place.admit(begin + PAUSE * 100), Some(1));
        assert_eq!((0..100).filter_map(|_| place.admit(begin + PAUSE * 100)).count(), BURST as usize - 1);
    }
}

//! Asking a running node over its control socket, for tests.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a node's control socket; it is a file, and so reaches into any namespace.
#[derive(Debug)]
pub struct Control {
    reader: BufReader<UnixStream>,
    next: u64,
}

impl Control {
    /// Where the node that runs on a folder listens for commands.
    pub fn socket(folder: &Path) -> PathBuf {
        folder.join("node.sock")
    }

    /// Connects to the node that runs on a folder; `None` if none does.
    pub fn connect(folder: &Path) -> Option<Self> {
        let stream = UnixStream::connect(Self::socket(folder)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Self { reader: BufReader::new(stream), next: 0 })
    }

    /// Sends a request without waiting for its answer; gives its number.
    pub fn ask(&mut self, mut request: Value) -> std::io::Result<u64> {
        self.next += 1;
        request["id"] = json!(self.next);
        self.reader.get_mut().write_all(format!("{request}\n").as_bytes())?;
        Ok(self.next)
    }

    /// The next answer; `None` when the node has ended.
    pub fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => serde_json::from_str(&line).ok(),
        }
    }

    /// Asks, and gives the whole answer; `None` when the node has ended.
    pub fn request(&mut self, request: Value) -> Option<Value> {
        let id = self.ask(request).ok()?;
        loop {
            let answer = self.answer()?;
            if answer["id"] == id {
                return Some(answer);
            }
        }
    }
}

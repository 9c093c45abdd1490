//! Asking a running node, over its control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::PATIENCE;

/// A connection to a node's control socket; it is a file, and so reaches into any namespace.
pub struct Control {
    reader: BufReader<UnixStream>,
    next: u64,
}

impl Control {
    /// Connects to the node that runs on a folder; `None` if none does.
    pub fn connect(folder: &Path) -> Option<Self> {
        let stream = UnixStream::connect(folder.join("node.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Self { reader: BufReader::new(stream), next: 0 })
    }

    /// Asks, and gives what was asked for; panics with the node's complaint.
    pub fn ask(&mut self, mut request: Value) -> Value {
        self.next += 1;
        request["id"] = json!(self.next);
        self.reader.get_mut().write_all(format!("{request}\n").as_bytes()).expect("a running node");
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line).expect("an answer in time");
            assert!(read > 0, "the node ended when asked {request}");
            let mut answer: Value = serde_json::from_str(&line).expect("JSON");
            if answer["id"] == self.next {
                assert!(answer["ok"] != Value::Null || answer.get("error").is_none(), "{request}: {answer}");
                return answer["ok"].take();
            }
        }
    }
}

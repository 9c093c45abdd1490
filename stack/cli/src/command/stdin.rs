//! Texts on standard input.

use std::io::Read;

use peerloom::core::wire::limits;
use peerloom::{Error, ErrorKind, Result};

/// Standard input up to its end: one text, without the line break at its end.
pub(super) fn read_message() -> Result<String> {
    let error = |kind, message: String| Error::new(kind, "send", "read standard input", message);
    let mut text = Vec::new();
    // Room for the line break, and one byte more, so that too long a text is refused rather than cut.
    let read = std::io::stdin().lock().take(limits::MESSAGE_BODY as u64 + 3).read_to_end(&mut text);
    read.map_err(|e| error(ErrorKind::Invalid, "standard input can't be read".into()).with_source(e))?;
    let line = text.strip_suffix(b"\n").map(|text| text.strip_suffix(b"\r").unwrap_or(text));
    let text = line.unwrap_or(&text);
    if text.len() > limits::MESSAGE_BODY {
        let message = format!("a message has at most {} bytes, and standard input has more", limits::MESSAGE_BODY);
        return Err(error(ErrorKind::TooLarge, message));
    }
    let not_text = |e| error(ErrorKind::Invalid, "the text is not UTF-8".into()).with_source(e);
    std::str::from_utf8(text).map(str::to_owned).map_err(not_text)
}

//! Secrets that people choose.

use std::fmt;

use zeroize::Zeroizing;

/// What a store is encrypted under. It is wiped when dropped and doesn't show itself in logs.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The one line of a secret file or of standard input, whole, without its line break.
    ///
    /// An error says why the text isn't one: a second line would be ignored in silence.
    pub fn from_line(text: &str) -> Result<Self, &'static str> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        match line {
            "" => Err("a secret is one line, and this is empty"),
            _ if line.contains(['\n', '\r', '\0']) => Err("a secret is one line, and here are several"),
            _ => Ok(Self::new(line)),
        }
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_whole_or_not_at_all() {
        let long = "x".repeat(1 << 20);
        for (text, secret) in
            [("one", "one"), ("one\n", "one"), ("one\r\n", "one"), (" one \n", " one "), (&long, &long)]
        {
            assert_eq!(Passphrase::from_line(text).expect("a secret").expose(), secret);
        }
        for wrong in ["", "\n", "\r\n", "one\ntwo", "one\n\n", "one\rtwo\n", "a\0b"] {
            assert!(Passphrase::from_line(wrong).is_err(), "{wrong:?}");
        }
    }
}

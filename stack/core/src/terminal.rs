//! Text from elsewhere, as it is shown: it controls no terminal, and a command with it can be pasted into a shell.

/// Text from outside as one line that is safe for a terminal: control characters are shown as their pictures.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => c,
            c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
            '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// A word as a shell reads it. One that can't be shown as it is gets `$'…'`, as bash, zsh and POSIX.1-2024 have it. A
/// word with a zero byte can't be written in a shell at all.
pub fn shell_word(word: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(word)
        && printable(text) == text
    {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
        let needs_none = !text.is_empty() && text.chars().all(plain);
        return if needs_none { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) };
    }
    let byte = |byte: &u8| match byte {
        b' '..=b'~' if !b"'\\!".contains(byte) => char::from(*byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    format!("$'{}'", word.iter().map(byte).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_controlled_from_outside() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\u{202e}\nd"), "a␛[2Jb␍c\u{fffd}␊d");
    }

    #[test]
    fn words_are_quoted_where_they_must_be() {
        for (word, quoted) in [
            ("plain-1.toml", "plain-1.toml"),
            ("", "''"),
            ("two words", "'two words'"),
            ("$(touch${IFS}x)'", r"'$(touch${IFS}x)'\'''"),
            ("a\nb'\u{1b}", r"$'a\x0ab\x27\x1b'"),
        ] {
            assert_eq!(shell_word(word.as_bytes()), quoted);
        }
        assert_eq!(shell_word(b"\xff!"), r"$'\xff\x21'");
    }
}

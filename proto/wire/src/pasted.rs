//! Links and ids as they arrive: copied by people out of chats, e-mails and pages, with what stands around them.

use data_encoding::{BASE32_NOPAD_NOCASE, BASE64URL_NOPAD};

use crate::name::is_shown;

/// What all links begin with.
const SCHEME: &str = "peerloom:";
/// How often a text may have been percent-encoded: a link inside a link inside a link.
const ENCODED: usize = 3;
/// A word of so many letters is taken for a payload that lost its beginning; an id is shorter.
const PAYLOAD: usize = 64;

/// Why a text isn't the link that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkError<E> {
    /// No link of this kind is in it.
    Missing,
    /// The link ends where its payload would begin.
    Empty,
    /// The payload is cut off or changed, as far as its reader says.
    Damaged(Option<E>),
}

/// How a link's payload is written (RFC 4648), without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// Base32, capitals or not.
    Base32,
    /// Base64url.
    Base64Url,
}

impl Alphabet {
    fn has(self, c: char) -> bool {
        match self {
            Self::Base32 => matches!(c, 'a'..='z' | 'A'..='Z' | '2'..='7'),
            Self::Base64Url => c.is_ascii_alphanumeric() || c == '-' || c == '_',
        }
    }

    fn decode(self, payload: &str) -> Option<Vec<u8>> {
        match self {
            Self::Base32 => BASE32_NOPAD_NOCASE.decode(payload.as_bytes()),
            Self::Base64Url => BASE64URL_NOPAD.decode(payload.as_bytes()),
        }
        .ok()
    }
}

/// Finds the link `peerloom://KIND/` with a payload in a text, and reads the payload. Of several links the first one
/// that can be read counts.
///
/// Forgiven: text, brackets and punctuation around the link, capitals in the scheme and the kind, missing slashes, line
/// breaks, marks of quotations, characters that don't show, backslashes of Markdown, percent-encoding, dashes that an
/// editor took for `-`, and a missing scheme.
pub fn read_link<T, E>(
    text: &str,
    kind: &str,
    alphabet: Alphabet,
    read: impl Fn(Vec<u8>) -> Result<T, E>,
) -> Result<T, LinkError<E>> {
    let chars = plain(text);
    let links = links(&chars);
    let mut first = None;
    for link in &links {
        let Some(payload) = after(link, kind) else { continue };
        match read_payload(payload, alphabet, &read) {
            Ok(read) => return Ok(read),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let bare = || after(begin(&chars), kind).filter(|rest| links.is_empty() && rest.first() == Some(&'/'));
    match (first, bare()) {
        (Some(error), _) => Err(error),
        (None, Some(payload)) => read_payload(payload, alphabet, &read),
        (None, None) => Err(LinkError::Missing),
    }
}

/// Reads a payload that lost the beginning of its link. The same is forgiven as by [`read_link`].
pub fn read_bare<T, E>(
    text: &str,
    alphabet: Alphabet,
    read: impl Fn(Vec<u8>) -> Result<T, E>,
) -> Result<T, LinkError<E>> {
    let chars = plain(text);
    // A link of another scheme or kind.
    if chars.windows(3).any(|part| part == [':', '/', '/']) || !links(&chars).is_empty() {
        return Err(LinkError::Missing);
    }
    let long = chars.split(|c| !alphabet.has(*c)).any(|word| word.len() >= PAYLOAD);
    read_payload(begin(&chars), alphabet, &read).map_err(|error| if long { error } else { LinkError::Missing })
}

/// A text from its first letter or digit on.
fn begin(text: &[char]) -> &[char] {
    text.iter().position(|c| c.is_alphanumeric()).and_then(|at| text.get(at..)).unwrap_or_default()
}

/// A payload may go on after white space, or be over and followed by text: the first that can be read counts.
fn read_payload<T, E>(
    text: &[char],
    alphabet: Alphabet,
    read: &impl Fn(Vec<u8>) -> Result<T, E>,
) -> Result<T, LinkError<E>> {
    let begin = text.iter().position(|c| !is_gap(*c)).unwrap_or(text.len());
    let (mut packed, mut last) = (String::new(), None);
    for part in text.get(begin..).unwrap_or_default().split(|c| joins(*c)) {
        let letters = part.iter().position(|c| !alphabet.has(*c)).unwrap_or(part.len());
        packed.extend(part.iter().take(letters));
        if letters > 0 {
            match alphabet.decode(&packed).ok_or(None).and_then(|payload| read(payload).map_err(Some)) {
                Ok(read) => return Ok(read),
                Err(error) => last = error,
            }
        }
        if letters < part.len() {
            break;
        }
    }
    Err(if packed.is_empty() { LinkError::Empty } else { LinkError::Damaged(last) })
}

/// An id out of a text that may have brackets, punctuation and characters that don't show around it.
pub fn read_id<T: std::str::FromStr>(text: &str) -> Option<T> {
    let shown: String = text.chars().filter(|c| is_shown(*c)).collect();
    shown.trim_matches(|c: char| !c.is_ascii_alphanumeric()).parse().ok()
}

/// The text without what programs put into it.
fn plain(text: &str) -> Vec<char> {
    let mut text = text.to_owned();
    for _ in 0..ENCODED {
        text = percent_decoded(&text);
    }
    let mut chars = Vec::with_capacity(text.len());
    for c in text.chars().filter(|c| c.is_whitespace() || is_shown(*c)) {
        match c {
            '\\' => {}
            '\u{2010}'..='\u{2013}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' => chars.push('-'),
            // What editors make of two.
            '\u{2014}' => chars.extend(['-', '-']),
            c => chars.push(c),
        }
    }
    chars
}

fn percent_decoded(text: &str) -> String {
    let (mut rest, mut decoded) = (text.as_bytes(), Vec::with_capacity(text.len()));
    while let Some((byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((16 * high + low) as u8);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// What comes after each scheme in a text and its slashes, up to the next one.
fn links(text: &[char]) -> Vec<&[char]> {
    let begins = |at: &usize| {
        let here = text.get(*at..).unwrap_or_default();
        here.first().is_some_and(|c| !c.is_whitespace()) && after(here, SCHEME).is_some()
    };
    let ends: Vec<usize> = (0..text.len()).filter(begins).chain([text.len()]).collect();
    let link = |ends: &[usize]| {
        let rest = after(text.get(*ends.first()?..*ends.last()?)?, SCHEME)?;
        rest.get(rest.iter().position(|c| !is_gap(*c)).unwrap_or(rest.len())..)
    };
    ends.windows(2).filter_map(link).collect()
}

/// What comes after a beginning, whatever its letters' case and the white space in it.
fn after<'a>(text: &'a [char], beginning: &str) -> Option<&'a [char]> {
    let mut rest = text;
    for wanted in beginning.chars() {
        let at = rest.iter().position(|c| !c.is_whitespace())?;
        if !rest.get(at)?.eq_ignore_ascii_case(&wanted) {
            return None;
        }
        rest = rest.get(at + 1..)?;
    }
    Some(rest)
}

/// What may stand before a payload or a kind.
fn is_gap(c: char) -> bool {
    c == '/' || c.is_whitespace()
}

/// What may stand inside a payload: white space, padding, and marks of quotations.
fn joins(c: char) -> bool {
    c.is_whitespace() || matches!(c, '=' | '>' | '|')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Signed, UserId};

    const BOTH: [Alphabet; 2] = [Alphabet::Base32, Alphabet::Base64Url];

    fn read(text: &str, alphabet: Alphabet) -> Result<Signed, LinkError<crate::DecodeError>> {
        let payload = |bytes: Vec<u8>| Signed::decode(bytes.into(), 1000);
        read_link(text, "invite", alphabet, payload).or_else(|error| match error {
            LinkError::Missing => read_bare(text, alphabet, payload),
            error => Err(error),
        })
    }

    fn signed(body: Vec<u8>) -> Signed {
        Signed::sign(b"test", body.into(), |_| vec![0xfb; 64].into())
    }

    fn link(signed: &Signed, alphabet: Alphabet) -> String {
        let payload = match alphabet {
            Alphabet::Base32 => BASE32_NOPAD_NOCASE.encode(&signed.encode()).to_ascii_lowercase(),
            Alphabet::Base64Url => BASE64URL_NOPAD.encode(&signed.encode()),
        };
        format!("peerloom://invite/{payload}")
    }

    fn percent(text: &str, encode: impl Fn(char) -> bool) -> String {
        text.chars().map(|c| if encode(c) { format!("%{:02x}", c as u32) } else { c.into() }).collect()
    }

    #[test]
    fn links_are_read_as_they_arrive() {
        for alphabet in BOTH {
            let signed = signed(vec![0xff; 70]);
            let link = link(&signed, alphabet);
            let (head, tail) = link.split_at(40);
            let payload = link.strip_prefix("peerloom://invite/").expect("the beginning");
            let encoded = percent(&link, |c| !c.is_ascii_alphanumeric());
            for arrived in [
                link.clone(),
                payload.to_owned(),
                format!("{payload}=="),
                format!("invite/{payload}"),
                format!("{link}."),
                format!("{link}, and welcome"),
                format!("{link} and welcome"),
                format!("<{link}>"),
                format!("[join]({link})"),
                format!("[{link}]({link})"),
                format!("“{link}”"),
                format!("Here you are:\n\n{link}\n\n-- \nAlice"),
                format!("peerloom://\ninvite/{payload}"),
                link.replace("peerloom", "Peerloom"),
                link.replace("peerloom://invite", "PEERLOOM://INVITE"),
                format!("{head}\u{200b}{tail}\u{feff}"),
                format!("\u{202a}{link}\u{202c}"),
                format!("{head}\r\n  {tail}"),
                format!("> {head}\n> {tail}\n"),
                format!("{head}=\n{tail}"),
                link.replace("--", "—").replace('-', "–"),
                // Slashes that a program took for an empty host, or added.
                link.replace("://", ":"),
                link.replace("://", ":/"),
                link.replace("://", ":///"),
                link.replace("invite/", "invite//"),
                link.replace("invite/", "invite"),
                // Markdown.
                link.replace('_', "\\_").replace('-', "\\-").replace(':', "\\:"),
                encoded.clone(),
                encoded.replace("%3a", "%3A").replace("%2f", "%2F"),
                percent(&link, |_| true),
                format!("https://example.org/?to={encoded}&more=1"),
                percent(&format!("https://example.org/?to={encoded}"), |c| c == '%'),
                // Twice, or after one that was cut off.
                format!("{link}{link}"),
                format!("{link}\n{link}"),
                format!("{}{}", link.replace("://", ":"), link.replace("://", ":")),
                format!("{}{link}", &link[..60]),
                format!("peerloom://offer/{payload} {link}"),
            ] {
                assert_eq!(read(&arrived, alphabet), Ok(signed.clone()), "{arrived}");
            }
        }
        let signed = signed(vec![0xff; 70]);
        let link = link(&signed, Alphabet::Base32);
        for arrived in [link.to_ascii_uppercase(), format!("_{link}_"), format!("{link}-- ")] {
            assert_eq!(read(&arrived, Alphabet::Base32), Ok(signed.clone()), "{arrived}");
        }
    }

    #[test]
    fn other_texts_are_told_apart() {
        for alphabet in BOTH {
            let link = link(&signed(vec![1; 70]), alphabet);
            for text in [
                "",
                "...",
                "hello",
                "h€llo",
                "hello world, how are you?",
                "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n o p q r s t u v w x y z a b",
                "invite",
                "https://example.org",
                "100%",
                &UserId::from_bytes([9; 32]).to_string()[1..],
                &link.replace("invite", "offer"),
                &link.replace("peerloom", "https"),
            ] {
                assert_eq!(read(text, alphabet), Err(LinkError::Missing), "{text}");
            }
            for text in ["peerloom://invite/", "peerloom://invite", "peerloom:invite", "see Peerloom://Invite/."] {
                assert_eq!(read(text, alphabet), Err(LinkError::Empty), "{text}");
            }
            let payload = link.strip_prefix("peerloom://invite/").expect("the beginning");
            for damaged in [
                &link[..link.len() - 1],
                &link[..60],
                &payload[..payload.len() - 2],
                "peerloom://invite/x",
                "invite/x",
                &format!("{}%{}", &link[..50], &link[51..]),
                // What follows a sign that stands in no payload isn't part of it.
                &format!("{}!x {}", &link[..60], &link[60..]),
            ] {
                assert!(matches!(read(damaged, alphabet), Err(LinkError::Damaged(_))), "{damaged}");
            }
        }
    }

    #[test]
    fn ids_are_read_as_they_arrive() {
        let id = UserId::from_bytes([9; 32]);
        for arrived in [
            format!("{id}"),
            format!(" {id}.\n"),
            format!("<{id}>"),
            format!("@{id}"),
            format!("\u{200b}{id}\u{200b},"),
            id.to_string().to_uppercase(),
        ] {
            assert_eq!(read_id(&arrived), Some(id), "{arrived}");
        }
        assert_eq!(read_id::<UserId>("no id"), None);
    }

    proptest! {
        #[test]
        fn whatever_stands_around_a_link(
            body in prop::collection::vec(any::<u8>(), 0..80),
            alphabet in prop::sample::select(BOTH.to_vec()),
            before in "[^a-zA-Z0-9:/]{0,20}",
            after in "([ .,;:!?)\\]}\"'].{0,20})?",
            at in 18usize..60,
        ) {
            let signed = signed(body);
            let mut text = link(&signed, alphabet);
            text.insert_str(at, "\n\t\u{200b} ");
            prop_assert_eq!(read(&format!("{before}{text}{after}"), alphabet), Ok(signed));
        }

        #[test]
        fn no_text_is_too_strange(text in any::<String>(), alphabet in prop::sample::select(BOTH.to_vec())) {
            let _ = read(&text, alphabet);
            let _ = read_id::<UserId>(&text);
        }

        #[test]
        fn nor_is_one_of_the_parts_of_links(parts in prop::collection::vec("peerloom|:|/|//|%|%2|invite|[a-z2-7]{1,9}| |=", 0..30)) {
            for alphabet in BOTH {
                let _ = read(&parts.concat(), alphabet);
            }
        }
    }
}

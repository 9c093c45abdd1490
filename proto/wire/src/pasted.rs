//! Links and ids as they arrive: copied by people out of chats, e-mails and pages, with what stands around them.

use data_encoding::BASE64URL_NOPAD;

use crate::name::is_shown;

/// The scheme of all links.
const SCHEME: &str = "peerloom://";

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

/// Finds the link `peerloom://KIND/` with a payload in base64url (RFC 4648, section 5) in a text, and reads the payload.
///
/// Forgiven: text, brackets and punctuation around the link, capitals in the scheme and the kind, line breaks, marks of
/// quotations, characters that don't show, dashes that an editor took for `-`, and a missing scheme.
pub fn read_link<T, E>(text: &str, kind: &str, read: impl Fn(Vec<u8>) -> Result<T, E>) -> Result<T, LinkError<E>> {
    let mut chars = Vec::with_capacity(text.len());
    for c in text.chars().filter(|c| c.is_whitespace() || is_shown(*c)) {
        match c {
            '\u{2010}'..='\u{2013}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' => chars.push('-'),
            // What editors make of two.
            '\u{2014}' => chars.extend(['-', '-']),
            c => chars.push(c),
        }
    }
    let payload = find(&chars, kind).ok_or(LinkError::Missing)?;
    let (mut packed, mut last) = (String::new(), None);
    // A payload may go on after white space, or be over and followed by text: the first that can be read counts.
    for part in payload.split(|c| joins(*c)) {
        let letters = part.iter().position(|c| !in_alphabet(*c)).unwrap_or(part.len());
        packed.extend(part.iter().take(letters));
        if letters > 0 {
            match BASE64URL_NOPAD.decode(packed.as_bytes()).map_err(|_| None).and_then(|p| read(p).map_err(Some)) {
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

/// What comes after the link's beginning.
fn find<'a>(text: &'a [char], kind: &str) -> Option<&'a [char]> {
    let beginning = format!("{SCHEME}{kind}/");
    let link = (0..text.len()).find_map(|at| after(text.get(at..)?, &beginning));
    let start = text.iter().position(|c| c.is_alphanumeric()).and_then(|at| text.get(at..));
    let bare = || after(start?, &format!("{kind}/"));
    // A payload alone; other kinds of links have a colon in them.
    let alone = || start.filter(|_| !text.windows(3).any(|part| part == [':', '/', '/']));
    link.or_else(bare).or_else(alone)
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

fn in_alphabet(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
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

    fn read(text: &str) -> Result<Signed, LinkError<crate::DecodeError>> {
        read_link(text, "invite", |bytes| Signed::decode(bytes.into(), 1000))
    }

    fn signed(body: Vec<u8>) -> Signed {
        Signed::sign(b"test", body.into(), |_| vec![0xfb; 64].into())
    }

    fn link(signed: &Signed) -> String {
        format!("peerloom://invite/{}", BASE64URL_NOPAD.encode(&signed.encode()))
    }

    #[test]
    fn links_are_read_as_they_arrive() {
        let signed = signed(vec![0xff; 70]);
        let link = link(&signed);
        let (head, tail) = link.split_at(40);
        let payload = link.strip_prefix("peerloom://invite/").expect("the beginning");
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
        ] {
            assert_eq!(read(&arrived), Ok(signed.clone()), "{arrived}");
        }
    }

    #[test]
    fn other_texts_are_told_apart() {
        let link = link(&signed(vec![1; 70]));
        for (text, error) in
            [("", LinkError::Missing), ("https://example.org", LinkError::Missing), ("...", LinkError::Missing)]
        {
            assert_eq!(read(text), Err(error), "{text}");
        }
        assert_eq!(read("peerloom://invite/"), Err(LinkError::Empty));
        assert_eq!(read("see Peerloom://Invite/."), Err(LinkError::Empty));
        assert_eq!(read(&link.replace("invite", "offer")), Err(LinkError::Missing));
        for damaged in
            [&link[..link.len() - 1], &link[..60], "h€llo", "peerloom://invite/x", &link.replacen('B', "%", 1)]
        {
            assert!(matches!(read(damaged), Err(LinkError::Damaged(_))), "{damaged}");
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
        fn whatever_stands_around_a_link(body in prop::collection::vec(any::<u8>(), 0..80), before in "[^a-zA-Z0-9:/]{0,20}", after in "([ .,;:!?)\\]}\"'].{0,20})?", at in 18usize..60) {
            let signed = signed(body);
            let mut text = link(&signed);
            text.insert_str(at, "\n\t\u{200b} ");
            prop_assert_eq!(read(&format!("{before}{text}{after}")), Ok(signed));
        }

        #[test]
        fn no_text_is_too_strange(text in any::<String>()) {
            let _ = read(&text);
            let _ = read_id::<UserId>(&text);
        }
    }
}

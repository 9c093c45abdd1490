//! The link's text form.

use data_encoding::BASE64URL_NOPAD;
use peerloom_core::wire::{Signed, limits};
use peerloom_core::{Error, ErrorKind, Result};

/// What a link begins with.
pub const PREFIX: &str = "peerloom://invite/";

/// The link of a signed invitation.
pub fn encode(invitation: &Signed) -> String {
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&invitation.encode()))
}

/// The signed invitation of a link; nothing in it is verified yet. White space, line breaks and a
/// missing scheme are forgiven, since links are pasted by people.
pub fn decode(link: &str) -> Result<Signed> {
    let wrong = |message: &str| Err(Error::new(ErrorKind::Malformed, "invite", "read the link", message));
    // Base64 takes a third more than the bytes; the rest is room for line breaks.
    if link.len() > 4 * limits::INVITATION {
        return wrong("this is too long to be an invitation link; paste the link alone");
    }
    let link: String = link.chars().filter(|c| !c.is_whitespace()).collect();
    let text = match link.strip_prefix(PREFIX).or_else(|| link.strip_prefix("invite/")) {
        Some(text) => text,
        None if link.contains("://") => {
            return wrong("this is another kind of link; an invitation begins with peerloom://invite/");
        }
        None => &link,
    };
    if text.is_empty() {
        return wrong("the link is empty; paste the whole link that `peerloom invite` printed");
    }
    let Ok(bytes) = BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()) else {
        return wrong("the link is cut off or has been changed; ask for it again");
    };
    let cut = |e| {
        Error::new(
            ErrorKind::Malformed,
            "invite",
            "read the link",
            "the link is cut off or has been changed; ask for it again",
        )
        .source(e)
    };
    Signed::decode(bytes.into(), limits::INVITATION).map_err(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Signed {
        Signed::sign(b"test", b"hello there".as_slice().into(), |_| vec![7; 64].into())
    }

    #[test]
    fn links_survive_pasting() {
        let link = encode(&signed());
        let broken = format!("  {}\n {}\n", &link[..30], &link[30..]);
        let bare = link.strip_prefix(PREFIX).unwrap();
        for text in [&link, &broken, bare, &format!("{bare}==")] {
            assert_eq!(decode(text).unwrap(), signed(), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "a".repeat(100_000);
        for text in ["", "peerloom://invite/", "https://example.org", "h€llo", &long, "AAAA", "peerloom://invite/x"] {
            let error = decode(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{text:.40}");
        }
    }
}

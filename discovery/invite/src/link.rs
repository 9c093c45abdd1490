//! The link's text form.

use data_encoding::BASE64URL_NOPAD;
use peerloom_core::wire::pasted::{LinkError, read_link};
use peerloom_core::wire::{Signed, limits};
use peerloom_core::{Error, ErrorKind, Result};

/// What a link begins with.
pub const PREFIX: &str = "peerloom://invite/";

/// The link of a signed invitation.
pub fn encode(invitation: &Signed) -> String {
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&invitation.encode()))
}

/// The signed invitation of a link; nothing in it is verified yet. What people paste along with it is forgiven, as
/// [`read_link`] says.
pub fn decode(link: &str) -> Result<Signed> {
    let wrong = |message: &str| Error::new(ErrorKind::Malformed, "invite", "read the link", message);
    // Base64 takes a third more than the bytes; the rest is room for line breaks and for what stands around it.
    if link.len() > 4 * limits::INVITATION {
        return Err(wrong("this is too long to be an invitation link; paste the link alone"));
    }
    read_link(link, "invite", |bytes| Signed::decode(bytes.into(), limits::INVITATION)).map_err(|error| match error {
        LinkError::Missing if ["offer/", "answer/"].iter().any(|kind| link.to_lowercase().contains(kind)) => wrong(
            "this is an offer or an answer of `peerloom connect --manual`; an invitation begins with peerloom://invite/",
        ),
        LinkError::Missing if link.contains("://") => {
            wrong("this is another kind of link; an invitation begins with peerloom://invite/")
        }
        LinkError::Missing | LinkError::Empty => {
            wrong("the link is empty; paste the whole link that `peerloom invite` printed")
        }
        LinkError::Damaged(cause) => {
            let error = wrong("the link is cut off or has been changed; copy it again, or ask for another one");
            cause.into_iter().fold(error, Error::source)
        }
    })
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

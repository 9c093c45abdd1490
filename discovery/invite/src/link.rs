//! The link's text form.

use data_encoding::BASE32_NOPAD_NOCASE;
use peerloom_core::wire::pasted::{Alphabet, LinkError, read_bare, read_link};
use peerloom_core::wire::{DecodeError, Invitation, limits};
use peerloom_core::{Error, ErrorKind, Result};

/// What a link begins with.
pub const PREFIX: &str = "peerloom://invite/";
/// The longest invitation that a QR code of version 6 holds with low correction: 195 capitals and digits, with the
/// prefix. It is 41 modules wide, and with a margin of two 23 lines of half blocks high.
const IN_A_TERMINAL: usize = 110;

/// The link of an invitation.
pub fn encode(invitation: &Invitation) -> String {
    format!("{PREFIX}{}", BASE32_NOPAD_NOCASE.encode(&invitation.encode()).to_ascii_lowercase())
}

/// The link for a QR code: in capitals, of which a code holds more than of other letters.
pub fn for_qr(invitation: &Invitation) -> String {
    encode(invitation).to_ascii_uppercase()
}

/// The same for a code that fits a terminal of 80 columns and 24 lines: of the addresses and the name only what has
/// room.
pub fn for_terminal(invitation: &Invitation) -> String {
    for_qr(&invitation.within(IN_A_TERMINAL))
}

/// The invitation of a link. What people paste along with it is forgiven, as [`read_link`] says.
pub fn decode(link: &str) -> Result<Invitation> {
    let wrong = |message: &str| Error::new(ErrorKind::Malformed, "invite", "read the link", message);
    // Base32 takes 8 characters for 5 bytes; the rest is room for what stands around it.
    if link.len() > 4 * limits::INVITATION {
        return Err(wrong("this is too long to be an invitation link; paste the link alone"));
    }
    let read = |bytes: Vec<u8>| Invitation::decode(&bytes);
    let invitation = read_link(link, "invite", Alphabet::Base32, read).or_else(|error| match error {
        LinkError::Missing => read_bare(link, Alphabet::Base32, read),
        error => Err(error),
    });
    invitation.map_err(|error| match error {
        LinkError::Missing if ["offer/", "answer/"].iter().any(|kind| link.to_lowercase().contains(kind)) => wrong(
            "this is an offer or an answer of `peerloom connect --manual`; an invitation begins with peerloom://invite/",
        ),
        LinkError::Missing if link.contains("://") => {
            wrong("this is another kind of link; an invitation begins with peerloom://invite/")
        }
        LinkError::Missing if link.chars().any(char::is_alphanumeric) => {
            wrong("this is no invitation; an invitation begins with peerloom://invite/, and `peerloom invite` prints one")
        }
        LinkError::Missing | LinkError::Empty => {
            wrong("the link is empty; paste the whole link that `peerloom invite` printed")
        }
        LinkError::Damaged(Some(newer @ DecodeError::UnsupportedVersion { .. })) => {
            wrong("the invitation comes from a newer version of the program; upgrade this one").with_source(newer)
        }
        LinkError::Damaged(cause) => {
            let error = wrong("the link is cut off or has been changed; copy it again, or ask for another one");
            cause.into_iter().fold(error, Error::with_source)
        }
    })
}

#[cfg(test)]
mod tests {
    use peerloom_core::wire::{NetworkId, UserId};

    use super::*;

    fn invitation() -> Invitation {
        Invitation {
            user: UserId::from_bytes([1; 32]),
            key: [2; 32],
            token: [3; 16],
            expires_at_s: 1_800_000_000,
            network: Invitation::network_of(&NetworkId::from_name("test")),
            addresses: (1..=8).map(|n| format!("quic://192.0.2.{n}:1").parse().unwrap()).collect(),
            name: "alice".into(),
        }
    }

    #[test]
    fn links_survive_pasting() {
        let link = encode(&invitation());
        let broken = format!("  {}\n {}\n", &link[..30], &link[30..]);
        let bare = link.strip_prefix(PREFIX).unwrap();
        for text in [&link, &broken, bare, &format!("{bare}=="), &for_qr(&invitation())] {
            assert_eq!(decode(text).unwrap(), invitation(), "{text}");
        }
    }

    #[test]
    fn a_code_for_a_terminal_holds_what_has_room() {
        let text = for_terminal(&invitation());
        assert!(text.len() <= 195, "{}", text.len());
        let short = decode(&text).unwrap();
        assert_eq!((short.addresses.as_slice(), &*short.name), (&invitation().addresses[..2], "alice"));
        // What version 6 holds is said of these characters.
        assert!(text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b':' || b == b'/'));
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "a".repeat(100_000);
        let damaged = encode(&invitation()).replace('a', "b");
        for (text, expected) in [
            ("", "empty"),
            ("peerloom://invite/", "empty"),
            ("https://example.org", "another kind of link"),
            ("peerloom:offer/abcd", "an offer or an answer"),
            ("hello", "this is no invitation"),
            ("h€llo", "this is no invitation"),
            ("AAAA", "this is no invitation"),
            (&long, "too long"),
            ("peerloom://invite/x", "cut off"),
            (&damaged, "cut off"),
        ] {
            let error = decode(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{text:.40}");
            assert!(error.message().contains(expected), "{text:.40}: {error}");
        }
    }
}

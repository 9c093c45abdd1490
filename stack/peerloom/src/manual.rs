//! Offers and answers as texts that people carry.

use std::io::{Read, Write};

use data_encoding::BASE64URL_NOPAD;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use peerloom_core::wire::pasted::{Alphabet, LinkError, read_link};
use peerloom_core::wire::{Signed, limits};
use peerloom_core::{Error, ErrorKind, Result};

/// The kinds of links that these texts are.
const OFFER: &str = "offer";
const ANSWER: &str = "answer";

/// What a text is: a signed signal, compressed, so that it fits a QR code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carried {
    Offer(Signed),
    Answer(Signed),
}

pub(crate) fn encode(carried: &Carried) -> Result<String> {
    let (kind, signal) = match carried {
        Carried::Offer(signal) => (OFFER, signal),
        Carried::Answer(signal) => (ANSWER, signal),
    };
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    let failed = |e| Error::new(ErrorKind::Internal, "connect by hand", "write", "compression failed").with_source(e);
    let packed = encoder.write_all(&signal.encode()).and_then(|()| encoder.finish()).map_err(failed)?;
    Ok(format!("peerloom://{kind}/{}", BASE64URL_NOPAD.encode(&packed)))
}

/// Reads a text. What people paste along with it is forgiven, as [`read_link`] says.
pub(crate) fn decode(text: &str) -> Result<Carried> {
    let wrong = |message: &str| Error::new(ErrorKind::Malformed, "connect by hand", "read the text", message);
    if text.len() > 4 * limits::SIGNAL {
        return Err(wrong("this is too long to be an offer or an answer; paste the text alone"));
    }
    // Without its kind nothing says which of the two a payload is.
    let read = |kind: &str| read_link(text, kind, Alphabet::Base64Url, unpack);
    let carried = match read(OFFER) {
        Err(LinkError::Missing) => read(ANSWER).map(Carried::Answer),
        offer => offer.map(Carried::Offer),
    };
    carried.map_err(|error| match error {
        LinkError::Missing => wrong("an offer begins with peerloom://offer/, an answer with peerloom://answer/"),
        LinkError::Empty | LinkError::Damaged(_) => wrong("the text is cut off or has been changed; copy it again"),
    })
}

/// A signal out of its compressed form; nothing if it is cut off or too long.
fn unpack(packed: Vec<u8>) -> Result<Signed, ()> {
    let mut bytes = Vec::new();
    // A small text may unpack to anything; one byte over the limit tells.
    let most = limits::SIGNED_SIGNAL;
    DeflateDecoder::new(packed.as_slice()).take(most as u64 + 1).read_to_end(&mut bytes).map_err(drop)?;
    Signed::decode(bytes.into(), most).map_err(drop)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn signal(body: Bytes) -> Signed {
        Signed::sign(b"", body, |_| Bytes::from_static(&[7; 64]))
    }

    #[test]
    fn texts_survive_pasting() {
        for carried in [Carried::Offer(signal(Bytes::from_static(b"sdp"))), Carried::Answer(signal(Bytes::new()))] {
            let text = encode(&carried).unwrap();
            let broken = format!(" {}\n{}\n", &text[..30], &text[30..]);
            assert_eq!(decode(&text).unwrap(), carried);
            assert_eq!(decode(&broken).unwrap(), carried);
            assert!(decode(&text[..text.len() - 4]).is_err(), "cut off");
        }
    }

    #[test]
    fn other_texts_and_bombs_are_refused() {
        let bomb = encode(&Carried::Offer(signal(vec![0; 4 << 20].into()))).unwrap();
        assert!(bomb.len() < limits::SIGNAL);
        let long = "a".repeat(1 << 20);
        for text in ["", "peerloom://offer/", "peerloom://invite/AAAA", "peerloom://answer/%%", &bomb, &long] {
            assert_eq!(decode(text).unwrap_err().kind(), ErrorKind::Malformed, "{text:.40}");
        }
    }
}

//! Offers and answers as texts that people carry.

use std::io::{Read, Write};

use data_encoding::BASE64URL_NOPAD;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use peerloom_core::wire::{Signed, limits};
use peerloom_core::{Error, ErrorKind, Result};

const OFFER: &str = "peerloom://offer/";
const ANSWER: &str = "peerloom://answer/";

/// What a text is: a signed signal, compressed, so that it fits a QR code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carried {
    Offer(Signed),
    Answer(Signed),
}

pub(crate) fn encode(carried: &Carried) -> Result<String> {
    let (prefix, signal) = match carried {
        Carried::Offer(signal) => (OFFER, signal),
        Carried::Answer(signal) => (ANSWER, signal),
    };
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    let failed = |e| Error::new(ErrorKind::Bug, "connect by hand", "write", "compression failed").source(e);
    let packed = encoder.write_all(&signal.encode()).and_then(|()| encoder.finish()).map_err(failed)?;
    Ok(format!("{prefix}{}", BASE64URL_NOPAD.encode(&packed)))
}

/// Reads a text. White space and line breaks are forgiven, since it is pasted by people.
pub(crate) fn decode(text: &str) -> Result<Carried> {
    let wrong = |message: &str| Error::new(ErrorKind::Malformed, "connect by hand", "read the text", message);
    if text.len() > 4 * limits::SIGNAL {
        return Err(wrong("this is too long to be an offer or an answer; paste the text alone"));
    }
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (packed, is_offer) = match (text.strip_prefix(OFFER), text.strip_prefix(ANSWER)) {
        (Some(packed), _) => (packed, true),
        (_, Some(packed)) => (packed, false),
        _ => return Err(wrong("an offer begins with peerloom://offer/, an answer with peerloom://answer/")),
    };
    let cut = || wrong("the text is cut off or has been changed; copy it again");
    let packed = BASE64URL_NOPAD.decode(packed.trim_end_matches('=').as_bytes()).map_err(|_| cut())?;
    let mut bytes = Vec::new();
    // A small text may unpack to anything; one byte over the limit tells.
    let most = limits::SIGNED_SIGNAL;
    DeflateDecoder::new(packed.as_slice()).take(most as u64 + 1).read_to_end(&mut bytes).map_err(|_| cut())?;
    let signal = Signed::decode(bytes.into(), most).map_err(|e| cut().source(e))?;
    Ok(if is_offer { Carried::Offer(signal) } else { Carried::Answer(signal) })
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

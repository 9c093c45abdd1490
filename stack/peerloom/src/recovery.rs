//! The recovery key as words that people write down (BIP 39): 24 words of the English list carry its 32 bytes and a
//! checksum.

use bip39::{Language, Mnemonic};
use peerloom_core::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

fn error(kind: ErrorKind, message: &'static str) -> Error {
    Error::new(kind, "node", "recovery phrase", message)
}

/// The phrase of a seed.
pub(crate) fn phrase(seed: &[u8; 32]) -> Result<Zeroizing<String>> {
    let words = Mnemonic::from_entropy_in(Language::English, seed);
    let words = words.map_err(|e| error(ErrorKind::Internal, "the key is no phrase").with_source(e))?;
    Ok(Zeroizing::new(words.to_string()))
}

/// The seed of a phrase, in any case, with any white space and with numbers before the words.
pub(crate) fn seed(phrase: &str) -> Result<Zeroizing<[u8; 32]>> {
    let letters = |word: &str| word.chars().filter(|c| c.is_alphabetic()).collect::<String>().to_lowercase();
    let words = phrase.split_whitespace().map(letters).filter(|word| !word.is_empty());
    let words = Zeroizing::new(words.collect::<Vec<String>>());
    let words = Zeroizing::new(words.join(" "));
    let wrong = |e: bip39::Error| {
        let message = match e {
            bip39::Error::BadWordCount(_) => "a phrase has 24 words",
            bip39::Error::UnknownWord(_) => "a word of it is none of the list; compare it with what you wrote down",
            _ => "its words don't fit together: one is wrong, or two changed places",
        };
        error(ErrorKind::Invalid, message).with_source(e)
    };
    let parsed = Mnemonic::parse_in_normalized(Language::English, &words).map_err(wrong)?;
    let entropy = Zeroizing::new(parsed.to_entropy());
    let seed = entropy.as_slice().try_into().map_err(|_| error(ErrorKind::Invalid, "a phrase has 24 words"))?;
    Ok(Zeroizing::new(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first two are vectors of BIP 39 (<https://github.com/trezor/python-mnemonic/blob/master/vectors.json>).
    #[test]
    fn phrases_are_those_of_bip_39_and_are_read_as_people_write_them() {
        let abandon = format!("{}art", "abandon ".repeat(23));
        assert_eq!(*phrase(&[0; 32]).expect("a phrase"), abandon);
        assert_eq!(*phrase(&[0xff; 32]).expect("a phrase"), format!("{}vote", "zoo ".repeat(23)));
        let made = phrase(&[7; 32]).expect("a phrase");
        let numbered: Vec<String> =
            made.split(' ').enumerate().map(|(at, word)| format!("{}. {}\n", at + 1, word.to_uppercase())).collect();
        for written in [made.to_string(), made.replace(' ', "  "), numbered.concat()] {
            assert_eq!(*seed(&written).expect("a seed"), [7; 32], "{written}");
        }
        let swapped: Vec<&str> = made.split(' ').rev().collect();
        let short = made.rsplit_once(' ').expect("words").0;
        for (wrong, why) in [
            ("", "24 words"),
            (short, "24 words"),
            (&*swapped.join(" "), "fit together"),
            (&made.replacen(|c: char| c.is_alphabetic(), "qx", 1), "none of the list"),
        ] {
            let message = seed(wrong).expect_err("no phrase").message().to_owned();
            assert!(message.contains(why), "{wrong}: {message}");
        }
    }
}

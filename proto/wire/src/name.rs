//! Names that people read: what may stand in one, and when two look alike.
//!
//! A name is enforced as the *Nickname* profile of PRECIS (RFC 8266, RFC 8264) enforces it: NFKC, one space between
//! words, nothing that doesn't show. Names look alike when their skeletons (UTS #39, section 4) are equal.

use std::fmt;

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};
use unicode_normalization::UnicodeNormalization;
use unicode_security::skeleton;

use crate::limits;

/// Characters that fonts draw as nothing, although their category is one of visible characters.
const BLANK: [char; 3] = ['\u{2800}', '\u{fffc}', '\u{1d159}'];

/// Why a text can't be a name. It doesn't repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Nothing in it shows.
    Empty,
    /// It has this many bytes.
    TooLong(usize),
    /// It contains a character that doesn't show, or that acts on its surroundings.
    Character(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a name has at least one visible character"),
            Self::TooLong(length) => write!(f, "a name has at most {} bytes, and this one has {length}", limits::NAME),
            Self::Character(c) => {
                write!(f, "a name has visible characters only, and this one contains U+{:04X}", *c as u32)?;
                match is_of_emoji(*c) {
                    true => f.write_str(", by which emoji are composed; use emoji of one character"),
                    false => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for NameError {}

/// Checks a name that its owner chose, and gives it in its normal form: NFKC, without spaces around it.
pub fn check_name(name: &str) -> Result<String, NameError> {
    if name.len() > limits::NAME {
        return Err(NameError::TooLong(name.len()));
    }
    if let Some(hidden) = name.chars().find(|c| !is_shown(*c) && !is_space(*c)) {
        return Err(NameError::Character(hidden));
    }
    let normal = normalize(name);
    match (normal.len(), normal.chars().next()) {
        (_, None) => Err(NameError::Empty),
        (length, _) if length > limits::NAME => Err(NameError::TooLong(length)),
        (_, Some(mark)) if is_mark(mark) => Err(NameError::Character(mark)),
        _ => Ok(normal),
    }
}

/// Makes a name from outside safe to show: what [`check_name`] refuses is left out, and what is longer than
/// [`limits::NAME`] bytes is cut off. Empty if nothing is left.
pub fn clean_name(name: &str) -> String {
    // NFKC can make 18 characters of one, and a name has no use for more than its limit of them.
    let shown: String = name.chars().filter(|c| is_shown(*c) || is_space(*c)).take(limits::NAME).collect();
    let normal = normalize(&shown);
    let mut clean = String::new();
    for c in normal.trim_start_matches(|c| is_mark(c) || is_space(c)).chars() {
        if clean.len() + c.len_utf8() > limits::NAME {
            break;
        }
        clean.push(c);
    }
    clean.trim().to_owned()
}

/// What a name looks like: two names that share one of these forms can be taken for each other, whatever scripts,
/// letter cases or digits they use.
pub fn looks(name: &str) -> [String; 2] {
    let name: String = name.nfkc().collect();
    let lower = |text: &str| text.to_lowercase();
    // `I` looks like `l`, and `i` is its lower case: one form alone misses the other pair.
    [lower(&plain(&lower(&name))), lower(&plain(&name))]
}

/// A skeleton without accents, which are overlooked in small print. Marks of scripts that write vowels by them stay.
fn plain(name: &str) -> String {
    skeleton(name).nfd().filter(|c| !('\u{300}'..='\u{36f}').contains(c)).collect()
}

/// Whether a character shows: neither a control, a format or a default-ignorable one, nor white space, unassigned, or
/// for private use.
pub fn is_shown(c: char) -> bool {
    !GeneralCategoryGroup::Other.contains(category(c))
        && !GeneralCategoryGroup::Separator.contains(category(c))
        && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        && !BLANK.contains(&c)
}

fn is_mark(c: char) -> bool {
    GeneralCategoryGroup::Mark.contains(category(c))
}

/// Whether a character only joins emoji or changes how they look.
fn is_of_emoji(c: char) -> bool {
    matches!(c, '\u{200d}' | '\u{20e3}' | '\u{fe0e}' | '\u{fe0f}' | '\u{e0020}'..='\u{e007f}')
}

fn is_space(c: char) -> bool {
    category(c) == GeneralCategory::SpaceSeparator
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

fn normalize(name: &str) -> String {
    name.nfkc().collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One character of each kind that doesn't show.
    const HIDDEN: &str = "\0\t\n\r\u{1b}\u{7f}\u{85}\u{ad}\u{34f}\u{61c}\u{115f}\u{17b4}\u{180b}\u{180e}\u{200b}\u{200d}\u{200e}\
        \u{2028}\u{2029}\u{202e}\u{2060}\u{2063}\u{2066}\u{206f}\u{2800}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{fffc}\
        \u{e000}\u{e0001}\u{e0061}\u{e0100}\u{10ffff}";

    #[test]
    fn what_does_not_show_goes() {
        assert_eq!(clean_name(" bob\u{202e}\n\u{1b}[31m "), "bob[31m");
        for hidden in HIDDEN.chars() {
            let name = format!("al{hidden}ice");
            assert_eq!(clean_name(&name), "alice", "U+{:04X}", hidden as u32);
            assert_eq!(check_name(&name), Err(NameError::Character(hidden)));
        }
        assert_eq!(clean_name(HIDDEN), "");
        assert_eq!(clean_name("\u{301}\u{300}bob"), "bob");
    }

    #[test]
    fn owners_choose_names_within_bounds() {
        assert_eq!(check_name(" Zoë  Müller ").as_deref(), Ok("Zoë Müller"));
        assert_eq!(check_name("ａｌｉｃｅ").as_deref(), Ok("alice"));
        assert_eq!(check_name("愛子 🌻").as_deref(), Ok("愛子 🌻"));
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name(" \u{a0}\u{3000}"), Err(NameError::Empty));
        assert_eq!(check_name("\u{301}bob"), Err(NameError::Character('\u{301}')));
        assert_eq!(check_name(&"x".repeat(5000)), Err(NameError::TooLong(5000)));
        for composed in ["👩\u{200d}👧", "❤\u{fe0f}", "🏴\u{e0067}\u{e007f}"] {
            let error = check_name(composed).expect_err("doesn't show").to_string();
            assert!(error.contains("emoji of one character"), "{error}");
        }
        let error = check_name("al\u{202e}ice").expect_err("acts on its surroundings").to_string();
        assert!(error.contains("U+202E") && !error.contains("emoji"), "{error}");
        // One character, 18 of them in its normal form.
        assert!(matches!(check_name(&"\u{fdfa}".repeat(20)), Err(NameError::TooLong(61..))));
    }

    #[test]
    fn twins_look_alike() {
        let alike = |a: &str, b: &str| looks(a).iter().any(|look| looks(b).contains(look));
        for twin in ["Alice", "аlice", "a1ice", "aIice", "ａｌｉｃｅ", "al\u{2063}ice", "𝐚𝐥𝐢𝐜𝐞", "ɑlice"]
        {
            assert!(alike("alice", twin), "{twin}");
        }
        assert!(alike("Ivan", "lvan") && alike("zoe\u{301}", "zoé") && alike("modern", "rnodern"));
        assert!(alike("alice", "alíce") && alike("Zoë", "zoe") && alike("Jose", "José"));
        assert!(!alike("कि", "का"), "marks that are vowels count");
        for other in ["alicia", "bob", "alice-2", "al ice"] {
            assert!(!alike("alice", other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_clean_name_is_a_good_one_and_stays_as_it_is(name in any::<String>()) {
            let clean = clean_name(&name);
            prop_assert!(clean.len() <= limits::NAME);
            prop_assert_eq!(clean_name(&clean), clean.clone());
            match check_name(&clean) {
                Ok(checked) => prop_assert_eq!(checked, clean),
                Err(error) => prop_assert!(clean.is_empty(), "{clean:?}: {error}"),
            }
        }

        #[test]
        fn a_good_name_stays_as_it_is(name in "\\PC{1,40}") {
            if let Ok(checked) = check_name(&name) {
                prop_assert_eq!(clean_name(&checked), checked.clone());
                prop_assert_eq!(check_name(&checked), Ok(checked));
            }
        }
    }
}

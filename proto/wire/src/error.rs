//! Why bytes from outside were refused.

use std::fmt;

/// Bytes that are not what they claim to be.
///
/// The text names the object and the reason; it never repeats the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// Longer than the limit of its type.
    TooLong {
        /// The object.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A repeated field has more elements than its limit, or nesting is too deep.
    TooMany {
        /// The object.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Not a protobuf message, or not this one.
    Malformed {
        /// The object.
        what: &'static str,
    },
    /// Well-formed, but a field breaks a rule.
    Invalid {
        /// The object.
        what: &'static str,
        /// The rule it breaks.
        why: &'static str,
    },
    /// Made by a newer version than this one understands.
    UnsupportedVersion {
        /// The object.
        what: &'static str,
        /// Its version.
        found: u32,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { what, len, max } => {
                write!(f, "{what}: {len} bytes, and at most {max} are allowed")
            }
            Self::TooMany { what, max } => {
                write!(f, "{what}: more than {max} elements or levels")
            }
            Self::Malformed { what } => write!(f, "{what}: malformed"),
            Self::Invalid { what, why } => write!(f, "{what}: {why}"),
            Self::UnsupportedVersion { what, found } => {
                write!(f, "{what}: version {found} is newer than this program; upgrade it")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl DecodeError {
    pub(crate) fn invalid(what: &'static str, why: &'static str) -> Self {
        Self::Invalid { what, why }
    }
}

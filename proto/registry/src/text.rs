//! Ids and bytes as text in JSON, for `#[serde(with = …)]`.

use data_encoding::BASE64URL_NOPAD;
use peerloom_wire::{DecodeError, Signed, limits};

/// A signed record as text.
pub fn encode_record(record: &Signed) -> String {
    BASE64URL_NOPAD.encode(&record.encode())
}

/// The signed record in a text; its signatures are not looked at.
pub fn decode_record(text: &str) -> Result<Signed, DecodeError> {
    const WHAT: &str = "peer record";
    // Its length is known before anything is allocated.
    let len = text.len() / 4 * 3;
    if len > limits::RECORD {
        return Err(DecodeError::TooLong { what: WHAT, len, max: limits::RECORD });
    }
    let invalid = DecodeError::Invalid { what: WHAT, why: "is not base64url without padding" };
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| invalid)?;
    Signed::decode(bytes.into(), limits::RECORD)
}

/// An id in its text form.
pub mod id {
    use std::borrow::Cow;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the id.
    pub fn serialize<T: Display, S: Serializer>(id: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    /// Reads an id.
    pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error>
    where
        T::Err: Display,
    {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A signed record as base64url.
pub mod record {
    use std::borrow::Cow;

    use peerloom_wire::Signed;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the record.
    pub fn serialize<S: Serializer>(record: &Signed, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::encode_record(record))
    }

    /// Reads a record; its signatures are not looked at.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signed, D::Error> {
        super::decode_record(&Cow::<str>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A fixed number of bytes as base64url: a nonce of 32, a signature of 64.
pub mod bytes {
    use std::borrow::Cow;

    use data_encoding::BASE64URL_NOPAD;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the bytes.
    pub fn serialize<const N: usize, S: Serializer>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL_NOPAD.encode(bytes))
    }

    /// Reads exactly that many bytes.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("expected {N} bytes in base64url without padding"));
        if text.len() > N.div_ceil(3) * 4 {
            return Err(wrong());
        }
        BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|b| b.try_into().ok()).ok_or_else(wrong)
    }
}

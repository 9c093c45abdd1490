//! Ids and bytes as text in JSON, for `#[serde(with = …)]`.

use data_encoding::BASE64URL_NOPAD;
use peerloom_wire::{DecodeError, DiscoveryItem, Signed, limits};

/// A signed record as text.
pub fn encode_record(record: &Signed) -> String {
    BASE64URL_NOPAD.encode(&record.encode())
}

/// The signed record in a text; its signatures are not looked at.
pub fn decode_record(text: &str) -> Result<Signed, DecodeError> {
    Signed::decode(decode(text, "peer record", limits::RECORD)?.into(), limits::RECORD)
}

/// An item as text.
pub fn encode_item(item: &DiscoveryItem) -> String {
    BASE64URL_NOPAD.encode(&item.encode())
}

/// The item in a text; its signatures are not looked at. `None`: a kind that this version doesn't know.
pub fn decode_item(text: &str) -> Result<Option<DiscoveryItem>, DecodeError> {
    DiscoveryItem::decode(decode(text, "discovery item", limits::DISCOVERY_ITEM)?.into())
}

fn decode(text: &str, what: &'static str, max: usize) -> Result<Vec<u8>, DecodeError> {
    // Its length is known before anything is allocated.
    let len = text.len() / 4 * 3;
    if len > max {
        return Err(DecodeError::TooLong { what, len, max });
    }
    let invalid = DecodeError::Invalid { what, why: "is not base64url without padding" };
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| invalid)
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

/// A few devices by their ids.
pub mod devices {
    use std::borrow::Cow;

    use peerloom_wire::DeviceId;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::limits;

    /// Writes the ids.
    pub fn serialize<S: Serializer>(devices: &[DeviceId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(devices.iter().map(ToString::to_string))
    }

    /// Reads at most [`limits::COORDINATORS`] ids.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DeviceId>, D::Error> {
        use serde::de::Error as _;
        let texts = Vec::<Cow<'_, str>>::deserialize(deserializer)?;
        if texts.len() > limits::COORDINATORS {
            return Err(D::Error::custom(format!("at most {} devices are named", limits::COORDINATORS)));
        }
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
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

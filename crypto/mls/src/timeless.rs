//! Values as they are stored, without the time.
//!
//! `openmls` notes with an epoch's secrets when they were made, by the system's clock. Nothing here reads that, and what
//! is stored follows from state, input and seed alone: each such time is written as the Unix epoch.

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};

/// The fields of a `SystemTime`, as `serde` names them.
const TIME: [&str; 2] = ["secs_since_epoch", "nanos_since_epoch"];

/// A value in which every time is the Unix epoch.
pub(crate) struct Timeless<'a, T: ?Sized>(pub(crate) &'a T);

impl<T: Serialize + ?Sized> Serialize for Timeless<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Within(serializer))
    }
}

/// A serializer, or a part of one, that passes each value on as [`Timeless`].
struct Within<S>(S);

macro_rules! scalars {
    ($($name:ident($type:ty))+) => {$(
        fn $name(self, value: $type) -> Result<S::Ok, S::Error> {
            self.0.$name(value)
        }
    )+};
}

macro_rules! compounds {
    ($($name:ident($($argument:ident: $type:ty),*) -> $part:ident;)+) => {$(
        fn $name(self, $($argument: $type),*) -> Result<Within<S::$part>, S::Error> {
            self.0.$name($($argument),*).map(Within)
        }
    )+};
}

impl<S: Serializer> Serializer for Within<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Within<S::SerializeSeq>;
    type SerializeTuple = Within<S::SerializeTuple>;
    type SerializeTupleStruct = Within<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Within<S::SerializeTupleVariant>;
    type SerializeMap = Within<S::SerializeMap>;
    type SerializeStruct = Within<S::SerializeStruct>;
    type SerializeStructVariant = Within<S::SerializeStructVariant>;

    scalars! {
        serialize_bool(bool) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_f32(f32) serialize_f64(f64) serialize_unit_struct(&'static str)
    }
    compounds! {
        serialize_seq(len: Option<usize>) -> SerializeSeq;
        serialize_tuple(len: usize) -> SerializeTuple;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct;
        serialize_map(len: Option<usize>) -> SerializeMap;
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct;
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> SerializeTupleVariant;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> SerializeStructVariant;
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_none()
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Timeless(value))
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, of: &'static str) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_variant(name, index, of)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Timeless(value))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_variant(name, index, variant, &Timeless(value))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! parts {
    ($($part:ident::$add:ident)+) => {$(
        impl<S: $part> $part for Within<S> {
            type Ok = S::Ok;
            type Error = S::Error;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                self.0.$add(&Timeless(value))
            }
            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        }
    )+};
}

parts! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

impl<S: SerializeMap> SerializeMap for Within<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        self.0.serialize_key(&Timeless(key))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_value(&Timeless(value))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

impl<S: SerializeStruct> SerializeStruct for Within<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
        // Both are integers, whose zero is the same in every width.
        if TIME.contains(&key) {
            self.0.serialize_field(key, &0u32)
        } else {
            self.0.serialize_field(key, &Timeless(value))
        }
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

impl<S: SerializeStructVariant> SerializeStructVariant for Within<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
        self.0.serialize_field(key, &Timeless(value))
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::codec;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Value {
        Unit,
        One(Option<SystemTime>),
        Two(u8, SystemTime),
        Named { at: SystemTime, text: String },
    }

    #[test]
    fn only_times_are_changed() {
        let values = |at: SystemTime| {
            let map = BTreeMap::from([(1u64, vec![Value::Unit, Value::One(None), Value::One(Some(at))])]);
            (map, [-1i64, 2], 'c', true, 0.5f32, Value::Two(7, at), Value::Named { at, text: "text".into() })
        };
        let [now, epoch] = [SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123), SystemTime::UNIX_EPOCH];
        let encoded = codec::encode(&Timeless(&values(now))).unwrap();
        assert_eq!(encoded, codec::encode(&values(epoch)).unwrap());
        assert_ne!(encoded, codec::encode(&values(now)).unwrap());
    }
}

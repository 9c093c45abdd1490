//! Counts fields and nesting of a protobuf message before it is decoded.
//!
//! `prost` allocates an element for each occurrence of a repeated field: two bytes on the wire can
//! become a hundred in memory. A [`Shape`] says how often each field may stand in a message and how
//! long it may be, and [`Shape::check`] walks the bytes without allocating.

use crate::{DecodeError, limits};

/// What a message type may look like.
#[derive(Debug)]
pub struct Shape {
    /// The type's name, for errors.
    pub what: &'static str,
    /// Longest encoding, in bytes.
    pub max_len: usize,
    /// The fields it knows. Others count towards [`limits::UNKNOWN_FIELDS`].
    pub fields: &'static [Field],
}

/// What one field may look like.
#[derive(Debug)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// How often it may stand in the message.
    pub max_count: usize,
    /// Longest value of a length-delimited field, in bytes.
    pub max_len: usize,
    /// Its own shape, when it is a message.
    pub nested: Option<&'static Shape>,
}

impl Field {
    /// A field that stands at most once and whose value has at most `max_len` bytes (0 for a number).
    pub const fn one(number: u32, max_len: usize) -> Self {
        Self { number, max_count: 1, max_len, nested: None }
    }

    /// A repeated field.
    pub const fn many(number: u32, max_count: usize, max_len: usize) -> Self {
        Self { number, max_count, max_len, nested: None }
    }

    /// A message, up to `max_count` times.
    pub const fn nested(number: u32, max_count: usize, shape: &'static Shape) -> Self {
        Self { number, max_count, max_len: shape.max_len, nested: Some(shape) }
    }
}

impl Shape {
    /// Refuses bytes that are too long, malformed, or have too many elements.
    pub fn check(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        if bytes.len() > self.max_len {
            return Err(DecodeError::TooLong { what: self.what, len: bytes.len(), max: self.max_len });
        }
        let mut counts = [0usize; 16];
        debug_assert!(self.fields.len() <= counts.len(), "make room for the fields of {}", self.what);
        let mut unknown = 0usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            let key = self.varint(&mut rest)?;
            let number = u32::try_from(key >> 3).map_err(|_| self.malformed())?;
            let value = match key & 7 {
                0 => {
                    self.varint(&mut rest)?;
                    &[][..]
                }
                1 => self.take(&mut rest, 8).map(|_| &[][..])?,
                2 => {
                    let len = self.varint(&mut rest)?;
                    let len = usize::try_from(len).map_err(|_| self.malformed())?;
                    self.take(&mut rest, len)?
                }
                5 => self.take(&mut rest, 4).map(|_| &[][..])?,
                // Groups are obsolete and nest without a length.
                _ => return Err(self.malformed()),
            };
            let known = self.fields.iter().zip(counts.iter_mut()).find(|(f, _)| f.number == number);
            let Some((field, count)) = known else {
                unknown += 1;
                if unknown > limits::UNKNOWN_FIELDS {
                    return Err(self.too_many(limits::UNKNOWN_FIELDS));
                }
                continue;
            };
            *count += 1;
            if *count > field.max_count {
                return Err(self.too_many(field.max_count));
            }
            if value.len() > field.max_len {
                return Err(DecodeError::TooLong { what: self.what, len: value.len(), max: field.max_len });
            }
            if let Some(nested) = field.nested {
                nested.check(value)?;
            }
        }
        Ok(())
    }

    fn varint(&self, rest: &mut &[u8]) -> Result<u64, DecodeError> {
        prost::encoding::decode_varint(rest).map_err(|_| self.malformed())
    }

    fn take<'a>(&self, rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], DecodeError> {
        let (value, after) = rest.split_at_checked(len).ok_or_else(|| self.malformed())?;
        *rest = after;
        Ok(value)
    }

    fn malformed(&self) -> DecodeError {
        DecodeError::Malformed { what: self.what }
    }

    fn too_many(&self, max: usize) -> DecodeError {
        DecodeError::TooMany { what: self.what, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static INNER: Shape = Shape { what: "inner", max_len: 8, fields: &[Field::one(1, 4)] };
    static OUTER: Shape =
        Shape { what: "outer", max_len: 1024, fields: &[Field::nested(1, 2, &INNER), Field::one(2, 0)] };

    #[test]
    fn counts_lengths_and_nesting_are_limited() {
        assert_eq!(OUTER.check(&[0x0a, 2, 0x0a, 0]), Ok(()));
        let three = [0x0a, 0].repeat(3);
        assert_eq!(OUTER.check(&three), Err(DecodeError::TooMany { what: "outer", max: 2 }));
        let long = [0x0a, 7, 0x0a, 5, 0, 0, 0, 0, 0];
        assert_eq!(OUTER.check(&long), Err(DecodeError::TooLong { what: "inner", len: 5, max: 4 }));
        let unknown = [0x18, 1].repeat(limits::UNKNOWN_FIELDS + 1);
        assert!(matches!(OUTER.check(&unknown), Err(DecodeError::TooMany { .. })));
    }

    static MANY: Shape = Shape { what: "many", max_len: 200, fields: &[Field::many(3, 2, 4), Field::one(9, 0)] };

    #[test]
    fn what_is_just_within_the_limits_passes() {
        let most = [0x18, 1].repeat(limits::UNKNOWN_FIELDS);
        assert_eq!(OUTER.check(&most), Ok(()));
        assert_eq!(OUTER.check(&[0x0a, 6, 0x0a, 4, 0, 0, 0, 0]), Ok(()));
        assert_eq!(MANY.check(&[0x1a, 4, 0, 0, 0, 0].repeat(2)), Ok(()));
        assert!(
            MANY.check(&[0x1a, 4, 0, 0, 0, 0].repeat(3)).is_err() && MANY.check(&[0x1a, 5, 0, 0, 0, 0, 0]).is_err()
        );
        let mut longest = vec![0x2a, 197, 1];
        longest.extend([0; 197]);
        assert_eq!(MANY.check(&longest), Ok(()));
        longest.push(0x48);
        assert_eq!(MANY.check(&longest), Err(DecodeError::TooLong { what: "many", len: 201, max: 200 }));
    }

    #[test]
    fn each_kind_of_value_takes_its_own_length() {
        // A number, eight bytes, a length, four bytes; then a field that may not stand twice.
        let values: [&[u8]; 4] =
            [&[0x20, 0x96, 1], &[0x21, 1, 2, 3, 4, 5, 6, 7, 8], &[0x22, 2, 1, 2], &[0x25, 1, 2, 3, 4]];
        for value in values {
            let once = [value, &[0x48, 7]].concat();
            assert_eq!(MANY.check(&once), Ok(()), "{value:?}");
            let twice = [&once[..], &[0x48, 7]].concat();
            assert_eq!(MANY.check(&twice), Err(DecodeError::TooMany { what: "many", max: 1 }), "{value:?}");
        }
    }

    #[test]
    fn truncated_and_grouped_messages_are_malformed() {
        for bytes in [&[0x0a][..], &[0x0a, 9, 1], &[0x0b], &[0xff; 11], &[0x11, 1]] {
            assert_eq!(OUTER.check(bytes), Err(DecodeError::Malformed { what: "outer" }));
        }
        assert!(matches!(OUTER.check(&[0; 2000]), Err(DecodeError::TooLong { .. })));
    }
}

//! How `openmls` state is written down.
//!
//! `postcard` makes it small, and it is rewritten for each entry. One type, the join configuration,
//! uses an untagged enum that `postcard` can't read back; it is written as CBOR.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{StateError, StateResult};

pub(crate) fn encode(value: &impl Serialize) -> StateResult<Vec<u8>> {
    postcard::to_stdvec(value).map_err(StateError::damaged)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> StateResult<T> {
    postcard::from_bytes(bytes).map_err(StateError::damaged)
}

pub(crate) fn encode_described(value: &impl Serialize) -> StateResult<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(StateError::damaged)?;
    Ok(bytes)
}

pub(crate) fn decode_described<T: DeserializeOwned>(bytes: &[u8]) -> StateResult<T> {
    ciborium::from_reader(bytes).map_err(StateError::damaged)
}

//! What is in a node's answers.

use serde_json::Value;

use crate::output::{note, printable};

/// What is wrong with a folder, this one or a contact's.
pub(super) fn notices(status: &Value) -> impl Iterator<Item = String> {
    rows(&status["notices"]).filter_map(Value::as_str).map(printable)
}

pub(super) fn show_notices(status: &Value) {
    notices(status).for_each(|notice| note(&notice));
}

/// A string of an answer; empty where there is none.
pub(super) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

pub(super) fn rows(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

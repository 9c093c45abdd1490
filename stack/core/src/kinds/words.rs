//! What serde says of a value that doesn't fit its type, in words for people instead of Rust's.

use serde_json::Value;

use super::SettingsError;

/// What a string is called.
const TEXT: &str = "a string in quotes";

/// What serde says, with the default of a schema's key as an example of a string.
pub(super) fn explain(error: serde_path_to_error::Error<serde_json::Error>, schema: &Value) -> SettingsError {
    let mut error = SettingsError::from(error);
    if error.message.ends_with(TEXT)
        && let Some(example) = schema["properties"][&error.path]["default"].as_str().filter(|text| !text.is_empty())
    {
        error.message = format!("{}, such as \"{example}\"", error.message);
    }
    error
}

impl From<serde_path_to_error::Error<serde_json::Error>> for SettingsError {
    fn from(error: serde_path_to_error::Error<serde_json::Error>) -> Self {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let message = match message.split_once(", expected ") {
            Some((found, expected)) => format!("{}, expected {}", found_for_people(found), type_for_people(expected)),
            None => message,
        };
        Self::new(if path == "." { String::new() } else { path }, message)
    }
}

/// What serde found in place of another type: `invalid type: string "big"`.
fn found_for_people(found: &str) -> String {
    let found = found.split_once(": ").map_or(found, |(_, found)| found);
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    match kind {
        "integer" | "boolean" => value.to_owned(),
        "floating" => value.trim_start_matches("point ").to_owned(),
        "sequence" => "a list".into(),
        "map" => "a table".into(),
        "null" | "unit" => "nothing".into(),
        "string" => format!("the string {value}"),
        _ => found.to_owned(),
    }
}

/// A Rust type, or what serde calls it, as the file's author would.
fn type_for_people(expected: &str) -> String {
    match expected {
        "usize" | "u64" | "u128" | "NonZeroUsize" | "a nonzero usize" => "a whole number, not negative".into(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "isize" | "i64" | "i32" | "i16" | "i8" | "i128" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" | "bool" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        "unit" | "null" => "nothing".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other if other.contains("string") || other == "a character" => TEXT.into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use crate::kinds::{DurationText, KindConfig, Settings, parse};

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Every {
        count: usize,
        port: u16,
        bits: u32,
        rate: f64,
        on: bool,
        text: String,
        wait: Option<DurationText>,
        list: Vec<u8>,
        path: PathBuf,
        maybe: Option<u64>,
    }

    impl Default for Every {
        fn default() -> Self {
            Self {
                count: 0,
                port: 0,
                bits: 0,
                rate: 0.0,
                on: false,
                text: "x:1".into(),
                wait: None,
                list: Vec::new(),
                path: PathBuf::new(),
                maybe: None,
            }
        }
    }

    impl KindConfig for Every {}

    /// A file's author doesn't write Rust.
    #[test]
    fn errors_name_no_type_of_a_program() {
        let wrong = serde_json::json!(["big", -1, 1.5, 70_000_000_000_u64, true, null, [], [true], {}, { "x": 1 }]);
        let schema = schemars::schema_for!(Every).to_value();
        let mut errors = 0;
        for key in schema["properties"].as_object().expect("keys").keys() {
            for value in wrong.as_array().expect("values") {
                let Err(error) = parse::<Every>(&Settings::from_iter([(key.clone(), value.clone())])) else { continue };
                errors += 1;
                assert!(error.path.starts_with(key.as_str()) && !error.message.is_empty(), "{key}: {error:?}");
                for word in [
                    "usize", "u64", "u32", "u16", "u8", "f64", "i64", "struct", "sequence", "map", "boolean",
                    "invalid", "unit", "integer", "floating",
                ] {
                    let mut words = error.message.split(|c: char| !c.is_alphanumeric());
                    assert!(!words.any(|found| found == word), "{key} = {value}: {}", error.message);
                }
            }
        }
        assert!(errors > 50, "{errors}");
        let big = Settings::from_iter([("count".to_owned(), "big".into())]);
        let error = parse::<Every>(&big).expect_err("a string");
        assert_eq!(error.message, "the string \"big\", expected a whole number, not negative");
        let number = Settings::from_iter([("text".to_owned(), 4433.into())]);
        let error = parse::<Every>(&number).expect_err("a number");
        assert_eq!(error.message, "`4433`, expected a string in quotes, such as \"x:1\"");
    }
}

//! The ranges of numbers and durations in settings: stated in the schema, and enforced before a kind sees a value.

use std::fmt;

use serde_json::Value;

use super::{DurationText, Settings, SettingsError};

/// The keywords of a duration's range in a schema. JSON Schema's own `minimum` is for numbers alone.
pub(super) const SHORTEST: &str = "minDuration";
pub(super) const LONGEST: &str = "maxDuration";

/// What a number or a duration may be, both bounds included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// A whole number.
    Number {
        /// The lowest.
        lowest: i64,
        /// The highest.
        highest: i64,
    },
    /// A duration.
    Duration {
        /// The shortest.
        shortest: DurationText,
        /// The longest.
        longest: DurationText,
    },
}

impl Range {
    /// The range of a property of a kind's schema, or of its items if it is a list. `None` for values that have
    /// none, and for a number or a duration whose author gave none: a field says it with
    /// `#[schemars(range(min = 1, max = 9))]`, a duration with
    /// `#[schemars(extend("minDuration" = "1s", "maxDuration" = "1d"))]`.
    pub fn of(property: &Value) -> Option<Self> {
        let duration = |key: &str| property.get(key)?.as_str()?.parse::<DurationText>().ok();
        if let (Some(shortest), Some(longest)) = (duration(SHORTEST), duration(LONGEST)) {
            return Some(Self::Duration { shortest, longest });
        }
        let number = |key: &str| property.get(key).and_then(Value::as_i64);
        let lowest_and_highest = number("minimum").zip(number("maximum"));
        lowest_and_highest.map(|(lowest, highest)| Self::Number { lowest, highest })
    }

    /// Whether a property of a schema takes numbers or durations, in a list too, and so must have a range.
    pub fn is_needed(property: &Value) -> bool {
        let is = |key: &str, wanted: &str| match property.get(key) {
            Some(Value::String(found)) => found == wanted,
            // An optional value has several types.
            Some(Value::Array(found)) => found.iter().any(|found| found == wanted),
            _ => false,
        };
        is("type", "integer")
            || is("type", "number")
            || is("format", "duration")
            || property.get("items").is_some_and(Self::is_needed)
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (_, Value::Null) => Ok(()),
            (Self::Number { lowest, highest }, Value::Number(number)) if !number.is_f64() => match number.as_i64() {
                Some(number) if (*lowest..=*highest).contains(&number) => Ok(()),
                _ => Err(format!("it takes {self}")),
            },
            (Self::Number { .. }, _) => Err(format!("expected a whole number {self}")),
            (Self::Duration { shortest, longest }, Value::String(text)) => match text.parse::<DurationText>() {
                Ok(duration) if duration >= *shortest && duration <= *longest => Ok(()),
                Ok(_) => Err(format!("it takes {self}")),
                Err(error) => Err(format!("{error}; it takes {self}")),
            },
            (Self::Duration { .. }, _) => Err(format!("expected a duration in quotes, {self}")),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { lowest, highest } => write!(f, "from {lowest} to {highest}"),
            Self::Duration { shortest, longest } => write!(f, "from {shortest} to {longest}"),
        }
    }
}

/// Checks the numbers and durations of settings against their schema's ranges.
pub fn check(schema: &Value, settings: &Settings) -> Result<(), SettingsError> {
    for (name, value) in settings {
        let Some(range) = schema.get("properties").and_then(|all| all.get(name)).and_then(Range::of) else {
            continue;
        };
        match value {
            Value::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    range.check(item).map_err(|message| SettingsError::new(format!("{name}.{place}"), message))?;
                }
            }
            value => range.check(value).map_err(|message| SettingsError::new(name.as_str(), message))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde_json::json;

    use super::*;

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Some {
        #[schemars(range(min = 1, max = 9))]
        number: usize,
        #[schemars(extend("minDuration" = "1s", "maxDuration" = "1d"))]
        wait: DurationText,
        #[schemars(extend("minDuration" = "1s", "maxDuration" = "1d"))]
        waits: Vec<DurationText>,
        text: Option<String>,
        unbounded: usize,
    }

    #[test]
    fn ranges_come_from_the_schema_and_are_enforced() {
        let schema = schemars::schema_for!(Some).to_value();
        let wrong = |settings: Value| {
            check(&schema, settings.as_object().expect("a table")).expect_err("out of range").to_string()
        };
        for number in [json!(0), json!(10), json!(-1), json!(u64::MAX)] {
            assert_eq!(wrong(json!({ "number": number })), "number: it takes from 1 to 9");
        }
        for number in [json!(1.5), json!("1"), json!(true)] {
            assert_eq!(wrong(json!({ "number": number })), "number: expected a whole number from 1 to 9");
        }
        for wait in ["0s", "999ms", "1d 1ms", "18446744073709551615s"] {
            assert_eq!(wrong(json!({ "wait": wait })), "wait: it takes from 1s to 1d", "{wait}");
        }
        assert_eq!(wrong(json!({ "waits": ["1s", "2d"] })), "waits.1: it takes from 1s to 1d");
        assert!(wrong(json!({ "wait": 5 })).contains("in quotes"));
        let good = json!({ "number": 9, "wait": "1d", "waits": ["1s"], "text": "x", "unbounded": 7 });
        assert_eq!(check(&schema, good.as_object().expect("a table")), Ok(()));
        let needed: Vec<&str> = schema["properties"]
            .as_object()
            .expect("properties")
            .iter()
            .filter(|(_, property)| Range::is_needed(property) && Range::of(property).is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(needed, ["unbounded"]);
    }
}

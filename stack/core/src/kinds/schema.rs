//! Settings as data: a schema comes from a Rust type, or from whatever brings a kind at run time.

use serde_json::{Map, Value, json};

use super::range::{LONGEST, SHORTEST};
use super::{DurationText, INNER, KindConfig, Settings, SettingsError, check_ranges};

/// Most keys of a schema that comes as data.
const MAX_KEYS: usize = 64;
/// Longest name of a key or a kind, in bytes.
const MAX_NAME: usize = 64;
/// Longest documentation of a key that comes as data, in bytes.
const MAX_DOCUMENTATION: usize = 2048;

/// The settings of a kind: a JSON Schema whose properties have ranges, defaults and documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(Value);

/// One key of a schema that comes as data.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingKey {
    /// Its name: lower-case letters, digits, `-` and `_`, at most 64 bytes.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// What it is where the file doesn't say; `None` means that the file has to.
    pub default: Option<Value>,
    /// What it does, for the operator; at most 2 KiB.
    pub documentation: String,
    /// Whether it is a token or a password: others must not be able to read the file then.
    pub secret: bool,
}

/// What a key takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Takes {
    /// `true` or `false`.
    Boolean,
    /// A string.
    Text,
    /// A whole number, both bounds included.
    Number {
        /// The lowest.
        lowest: i64,
        /// The highest.
        highest: i64,
    },
    /// A duration such as `"5s"`, both bounds included.
    Duration {
        /// The shortest.
        shortest: DurationText,
        /// The longest.
        longest: DurationText,
    },
    /// A list of strings.
    TextList,
}

impl Default for Schema {
    /// No settings.
    fn default() -> Self {
        Self(json!({ "type": "object", "properties": {} }))
    }
}

impl Schema {
    /// The schema of a Rust type.
    pub fn of<S: KindConfig>() -> Self {
        Self(schemars::schema_for!(S).to_value())
    }

    /// The schema of these keys; an error names the key that can't be.
    pub fn new(keys: impl IntoIterator<Item = SettingKey>) -> Result<Self, SettingsError> {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for key in keys {
            let wrong = |message: String| SettingsError::new(format!("{:.64}", key.name), message);
            check_word(&key.name).map_err(|why| wrong(format!("it is no name of a key: {why}")))?;
            if ["kind", INNER].contains(&&*key.name) || properties.contains_key(&key.name) {
                return Err(wrong("the key's name is taken".into()));
            }
            if properties.len() == MAX_KEYS || key.documentation.len() > MAX_DOCUMENTATION {
                let message =
                    format!("a schema has at most {MAX_KEYS} keys, each with {MAX_DOCUMENTATION} bytes of text");
                return Err(wrong(message));
            }
            let mut property = key.takes.property();
            property.insert("description".into(), key.documentation.into());
            if key.secret {
                property.insert("writeOnly".into(), true.into());
            }
            match key.default {
                Some(default) => {
                    let good = Value::Object(property.clone());
                    check_value(&good, &default)
                        .map_err(|why| SettingsError::new(&*key.name, format!("its default: {why}")))?;
                    property.insert("default".into(), default);
                }
                None => required.push(Value::from(key.name.as_str())),
            }
            properties.insert(key.name, property.into());
        }
        let schema = Self(json!({ "type": "object", "properties": properties, "required": required }));
        // Ranges hold for defaults, too; and a range without values has none that fits.
        check_ranges(&schema.0, &schema.defaults())?;
        Ok(schema)
    }

    /// The JSON Schema.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// Settings that fit, with the defaults of those that are left out; an error names the key.
    pub fn complete(&self, settings: &Settings) -> Result<Settings, SettingsError> {
        let known = self.properties().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        for (name, value) in settings {
            let property = self.properties().find(|(key, _)| *key == name).map(|(_, property)| property);
            let unknown =
                || SettingsError::new("", format!("there is no key `{name:.64}`; known: {}", known.join(", ")));
            check_value(property.ok_or_else(unknown)?, value).map_err(|why| SettingsError::new(name.as_str(), why))?;
        }
        check_ranges(&self.0, settings)?;
        let required = self.0.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !settings.contains_key(name) {
                return Err(SettingsError::new("", format!("the key `{name}` is missing")));
            }
        }
        let mut complete = self.defaults();
        complete.extend(settings.clone());
        Ok(complete)
    }

    /// Whether a token or password stands in settings.
    pub fn holds_secret(&self, settings: &Settings) -> bool {
        let secret = |(name, property): (&String, &Value)| {
            property["writeOnly"] == true && settings.get(name).is_some_and(|value| *value != "")
        };
        self.properties().any(secret)
    }

    fn properties(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.get("properties").and_then(Value::as_object).into_iter().flatten()
    }

    fn defaults(&self) -> Settings {
        let default = |(name, property): (&String, &Value)| Some((name.clone(), property.get("default")?.clone()));
        self.properties().filter_map(default).collect()
    }
}

impl Takes {
    fn property(&self) -> Map<String, Value> {
        let property = match self {
            Self::Boolean => json!({ "type": "boolean" }),
            Self::Text => json!({ "type": "string" }),
            Self::Number { lowest, highest } => json!({ "type": "integer", "minimum": lowest, "maximum": highest }),
            Self::Duration { shortest, longest } => json!({
                "type": "string", "format": "duration", SHORTEST: shortest.to_string(), LONGEST: longest.to_string(),
            }),
            Self::TextList => json!({ "type": "array", "items": { "type": "string" } }),
        };
        property.as_object().cloned().unwrap_or_default()
    }
}

/// Whether a value is of its property's type; ranges are checked elsewhere.
fn check_value(property: &Value, value: &Value) -> Result<(), String> {
    let (good, expected) = match property["type"].as_str() {
        Some("boolean") => (value.is_boolean(), "true or false"),
        Some("string") if property["format"] == "duration" => (value.is_string(), "a duration in quotes"),
        Some("string") => (value.is_string(), "a string"),
        Some("integer") => (value.is_i64(), "a whole number"),
        Some("array") => {
            (value.as_array().is_some_and(|items| items.iter().all(Value::is_string)), "a list of strings")
        }
        _ => (true, ""),
    };
    if good { Ok(()) } else { Err(format!("expected {expected}")) }
}

/// Whether a text can be a name in the file.
pub(super) fn check_word(word: &str) -> Result<(), &'static str> {
    let letter = |c: char| c.is_ascii_lowercase();
    match word {
        "" => Err("it is empty"),
        _ if word.len() > MAX_NAME => Err("it is longer than 64 bytes"),
        _ if !word.starts_with(letter) => Err("it begins with a lower-case letter"),
        _ if !word.chars().all(|c| letter(c) || c.is_ascii_digit() || "-_".contains(c)) => {
            Err("it takes lower-case letters, digits, `-` and `_`")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, takes: Takes, default: Option<Value>) -> SettingKey {
        SettingKey { name: name.into(), takes, default, documentation: "What it does.".into(), secret: false }
    }

    fn settings(value: Value) -> Settings {
        value.as_object().cloned().expect("a table")
    }

    #[test]
    fn settings_are_checked_and_completed() {
        let second = |seconds| DurationText(std::time::Duration::from_secs(seconds));
        let schema = Schema::new([
            key("on", Takes::Boolean, Some(true.into())),
            key("name", Takes::Text, None),
            key("count", Takes::Number { lowest: 1, highest: 9 }, Some(5.into())),
            key("wait", Takes::Duration { shortest: second(1), longest: second(9) }, Some("2s".into())),
            key("list", Takes::TextList, Some(json!([]))),
        ])
        .expect("a schema");
        let complete = schema.complete(&settings(json!({ "name": "x", "count": 9 }))).expect("settings");
        assert_eq!(Value::from(complete), json!({ "on": true, "name": "x", "count": 9, "wait": "2s", "list": [] }));
        for (wrong, why) in [
            (json!({}), "the key `name` is missing"),
            (json!({ "name": 3 }), "name: expected a string"),
            (json!({ "name": "x", "on": "yes" }), "on: expected true or false"),
            (json!({ "name": "x", "count": 1.5 }), "count: expected a whole number"),
            (json!({ "name": "x", "count": 0 }), "count: it takes from 1 to 9"),
            (json!({ "name": "x", "wait": "10s" }), "wait: it takes from 1s to 9s"),
            (json!({ "name": "x", "list": [1] }), "list: expected a list of strings"),
            (json!({ "name": "x", "other": 1 }), "no key `other`; known: on, name, count, wait, list"),
        ] {
            let error = schema.complete(&settings(wrong)).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_schema_from_outside_is_checked() {
        let number = Takes::Number { lowest: 1, highest: 9 };
        for (keys, why) in [
            (vec![key("kind", Takes::Text, None)], "taken"),
            (vec![key("a", Takes::Text, None), key("a", Takes::Text, None)], "taken"),
            (vec![key("A", Takes::Text, None)], "lower-case"),
            (vec![key("a", number.clone(), Some("x".into()))], "its default: expected a whole number"),
            (vec![key("a", number, Some(10.into()))], "from 1 to 9"),
            (vec![SettingKey { documentation: "x".repeat(5000), ..key("a", Takes::Text, None) }], "at most"),
            ((0..65).map(|number| key(&format!("a{number}"), Takes::Text, None)).collect(), "at most 64 keys"),
        ] {
            let error = Schema::new(keys).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn secrets_make_the_file_private() {
        let schema = Schema::new([SettingKey { secret: true, ..key("token", Takes::Text, Some("".into())) }]);
        let schema = schema.expect("a schema");
        assert!(schema.holds_secret(&settings(json!({ "token": "x" }))));
        assert!(!schema.holds_secret(&settings(json!({ "token": "" }))) && !schema.holds_secret(&Settings::new()));
    }
}

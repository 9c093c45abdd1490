//! What can be said of a configuration type: its keys, their types, defaults and documentation.

use serde_json::Value;

/// One key of a configuration table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What it takes.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its default, as TOML.
    pub default: String,
    /// What it does.
    pub documentation: String,
}

/// The keys of a schema that `schemars` made of a configuration type.
pub fn keys(schema: &Value) -> Vec<Key> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    let key = |(name, property): (&String, &Value)| Key {
        name: name.clone(),
        kind: kind_of(property),
        default: property.get("default").map(Value::to_string).unwrap_or_default(),
        documentation: property.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " "),
    };
    properties.iter().map(key).collect()
}

fn kind_of(property: &Value) -> String {
    let named = |key: &str| property.get(key).and_then(Value::as_str);
    match (named("format"), named("type")) {
        (Some("duration"), _) => "duration".into(),
        (_, Some("array")) => {
            format!("list of {}", property.get("items").map(kind_of).unwrap_or_else(|| "values".into()))
        }
        (_, Some("boolean")) => "true or false".into(),
        (_, Some(kind)) => kind.into(),
        _ => "value".into(),
    }
}

/// The name most like `wanted`, if one is like it at all.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&wanted, name);
    let near = |name: &&str| distance(name) <= 1 + name.len().max(wanted.len()) / 3;
    names.into_iter().filter(near).min_by_key(|name| distance(name))
}

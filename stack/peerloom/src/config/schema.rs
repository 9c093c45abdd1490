//! What can be said of a configuration type: its keys, their types, defaults and documentation.

use peerloom_core::kinds::{INNER, KindInfo, Kinds, Layer, Range};
use serde_json::{Map, Value, json};

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
    let required = schema.get("required").and_then(Value::as_array);
    let missing = |name: &String| match required.is_some_and(|names| names.iter().any(|required| required == name)) {
        true => "required".to_owned(),
        false => "none".to_owned(),
    };
    let key = |(name, property): (&String, &Value)| Key {
        name: name.clone(),
        kind: ranged(property),
        default: property
            .get("default")
            .filter(|default| !default.is_null())
            .map_or_else(|| missing(name), Value::to_string),
        documentation: property.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " "),
    };
    properties.iter().map(key).collect()
}

/// What a property takes, with its range.
fn ranged(property: &Value) -> String {
    let kind = kind_of(property);
    match Range::of(property) {
        Some(Range::Number { lowest, highest }) => format!("{kind}, {lowest} to {highest}"),
        Some(Range::Duration { shortest, longest }) => format!("{kind}, {shortest} to {longest}"),
        None => kind,
    }
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

/// JSON Schema (draft 2020-12) of the whole file, for editors: what every kind takes, with its
/// documentation and defaults.
pub fn file_schema(kinds: &Kinds) -> Value {
    let mut definitions = Map::new();
    let mut root = super::schema_of::<super::General>();
    let mut properties = root.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    properties.insert("delivery".into(), super::schema_of::<super::Delivery>());
    for layer in Layer::ALL {
        let of_layer = kinds.describe().into_iter().filter(|kind| kind.layer == layer);
        let one_of: Vec<Value> = of_layer.map(|kind| table_schema(&kind)).collect();
        definitions.insert(layer.to_string(), json!({ "type": "object", "required": ["kind"], "oneOf": one_of }));
        let one = json!({ "$ref": format!("#/$defs/{layer}") });
        let entry = if layer == Layer::Storage {
            one
        } else {
            json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        };
        properties.insert(layer.to_string(), entry);
    }
    for source in kinds.sources() {
        let mut one = source.schema().json().clone();
        one["additionalProperties"] = false.into();
        let entry = json!({ "anyOf": [one, { "type": "array", "items": one }] });
        properties.insert(source.table().into(), entry);
    }
    if let Some(root) = root.as_object_mut() {
        root.insert("title".into(), "peerloom.toml".into());
        root.insert("properties".into(), properties.into());
        root.insert("additionalProperties".into(), false.into());
        root.insert("required".into(), Layer::ALL.map(|layer| layer.to_string()).to_vec().into());
        root.insert("$defs".into(), definitions.into());
    }
    root
}

fn table_schema(kind: &KindInfo<'_>) -> Value {
    let mut properties = Map::from_iter([("kind".to_owned(), json!({ "const": kind.name }))]);
    properties.extend(kind.schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default());
    let mut required = vec![Value::from("kind")];
    required.extend(kind.schema.get("required").and_then(Value::as_array).into_iter().flatten().cloned());
    if kind.wraps {
        properties.insert(INNER.into(), json!({ "$ref": format!("#/$defs/{}", kind.layer) }));
        required.push(INNER.into());
    }
    json!({
        "title": kind.name,
        "description": kind.summary,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The name most like `wanted`, if one is like it at all.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name.
    let wanted = wanted.chars().take(64).collect::<String>().to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&wanted, name);
    let near = |name: &&str| {
        distance(name) <= 1 + name.len().max(wanted.len()) / 4 || strsim::jaro_winkler(&wanted, name) > 0.9
    };
    names.into_iter().filter(near).min_by_key(|name| distance(name))
}

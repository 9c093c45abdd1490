//! Durations as a configuration file writes them.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration in a configuration file: `"500ms"`, `"5s"`, `"90m"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl DurationText {
    /// A hundred years; longer texts mean this. It can be added to any time without an overflow.
    pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        match units.into_iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

impl std::str::FromStr for DurationText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("`{text}` is not a duration such as \"500ms\", \"5s\", \"90m\" or \"7d\"");
        humantime::parse_duration(text).map(|duration| Self(duration.min(Self::LONGEST))).map_err(wrong)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for DurationText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "duration" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_their_text_form() {
        for text in ["500ms", "5s", "90m", "7d", "1500ms", "1h"] {
            let parsed: DurationText = text.parse().unwrap();
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        assert!("5".parse::<DurationText>().is_err());
        assert!("7 parsecs".parse::<DurationText>().is_err());
    }
}

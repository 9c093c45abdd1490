//! Values that count instead of a file's: from arguments, and from the environment.

use std::ffi::OsString;

use peerloom_core::{Error, ErrorKind, Result};

use super::{General, TABLES, keys, schema_of};

/// What the names of environment variables with overrides begin with.
const PREFIX: &str = "PEERLOOM__";

/// `KEY=VALUE`: a value that counts instead of the file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key's path, such as `storage.path` or `transport.0.listen`; where there is one transport alone,
    /// `transport.listen` is the same.
    pub path: String,
    /// The value as TOML; what isn't TOML counts as a string.
    pub value: String,
}

impl std::str::FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((path, value)) if is_path(path) => Ok(Self { path: path.trim().into(), value: value.trim().into() }),
            _ => Err("it is not of the form KEY=VALUE, such as storage.cache_mib=16".into()),
        }
    }
}

/// Whether a text is keys with dots between them.
fn is_path(text: &str) -> bool {
    text.split('.').all(|key| !key.trim().is_empty())
}

/// The overrides among environment variables: `PEERLOOM__STORAGE__KIND=sqlite` stands for
/// `storage.kind=sqlite`. What looks like one and can't be used is an error: it must not be ignored in silence.
pub fn overrides_from(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<Override>> {
    let invalid = |message: String| Error::new(ErrorKind::Invalid, "config", "read the environment", message);
    let mut found = Vec::new();
    for (name, value) in variables {
        let name = match name.into_string() {
            Ok(name) => name,
            Err(name) if name.to_string_lossy().starts_with(PREFIX) => {
                return Err(invalid(format!("{}: the variable's name is not UTF-8; unset it", name.to_string_lossy())));
            }
            // A variable of another program.
            Err(_) => continue,
        };
        if let Some(path) = name.strip_prefix(PREFIX) {
            let value =
                value.into_string().map_err(|_| invalid(format!("{name}: the variable's value is not UTF-8")))?;
            let path = path.to_lowercase().replace("__", ".");
            if !is_path(&path) {
                return Err(invalid(format!("{name}: its name is no key's, as in PEERLOOM__STORAGE__KIND; unset it")));
            }
            found.push(Override { path, value });
        } else if let Some(meant) = meant(&name) {
            return Err(invalid(format!("{name}: write two underscores before each key, as in {meant}; or unset it")));
        }
    }
    // The environment has no order; shorter paths first, so that a table doesn't replace its keys.
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The override that a variable's name would be with two underscores: one that begins with a table or a general key.
fn meant(name: &str) -> Option<String> {
    let path = name.strip_prefix("PEERLOOM_")?;
    let general = keys(&schema_of::<General>()).into_iter().map(|key| key.name.to_uppercase());
    let mut sections = TABLES.map(str::to_uppercase).into_iter().chain(general);
    let (section, key) = sections.find_map(|section| path.strip_prefix(&*section).map(|key| (section.clone(), key)))?;
    match key.trim_start_matches('_') {
        "" if key.is_empty() => Some(format!("{PREFIX}{section}")),
        rest if key.starts_with('_') => Some(format!("{PREFIX}{section}__{rest}")),
        // A longer word, such as `PEERLOOM_NAMESPACE`.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn from(name: &str, value: &[u8]) -> Result<Vec<Override>> {
        overrides_from([(name.into(), OsString::from_vec(value.to_vec()))].into_iter())
    }

    #[test]
    fn a_path_has_no_empty_part() {
        for wrong in ["", "=1", ".=1", "a.=1", ".a=1", "a..b=1", " =1", "a. .b=1"] {
            assert!(wrong.parse::<Override>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_variable_is_ignored_in_silence() {
        let good = from("PEERLOOM__STORAGE__CACHE_MIB", b"16").expect("an override");
        assert_eq!(good, [Override { path: "storage.cache_mib".into(), value: "16".into() }]);
        for (name, value, said) in [
            ("PEERLOOM_STORAGE_KIND", &b"sqlite"[..], "PEERLOOM__STORAGE__KIND"),
            ("PEERLOOM_STORAGE__KIND", b"sqlite", "PEERLOOM__STORAGE__KIND"),
            ("PEERLOOM_DELIVERY_ACK_TIMEOUT", b"1s", "PEERLOOM__DELIVERY__ACK_TIMEOUT"),
            ("PEERLOOM_NETWORK", b"x", "PEERLOOM__NETWORK"),
            ("PEERLOOM__STORAGE__PATH", b"\xff", "not UTF-8"),
            ("PEERLOOM__", b"1", "no key's"),
            ("PEERLOOM__STORAGE____PATH", b"1", "no key's"),
            ("PEERLOOM__STORAGE__", b"1", "no key's"),
        ] {
            let message = from(name, value).expect_err(name).message().to_owned();
            assert!(message.starts_with(name) && message.contains(said), "{message}");
        }
        let name = OsString::from_vec(b"PEERLOOM__STORAGE__\xffKIND".to_vec());
        let error = overrides_from([(name, "sqlite".into())].into_iter()).expect_err("a name that isn't UTF-8");
        assert!(error.message().contains("PEERLOOM__STORAGE__") && error.message().contains("not UTF-8"), "{error}");
        for other in ["PEERLOOM_PASSPHRASE", "PEERLOOM_NAMESPACE", "PEERLOOM_PORT", "HOME", "PEERLOOM_"] {
            assert_eq!(from(other, b"\xff").expect(other), [], "{other}");
        }
    }
}

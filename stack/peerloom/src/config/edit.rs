//! Changing a file without touching the rest of it: comments, order and spelling stay.

use peerloom_core::kinds::Settings;
use peerloom_core::{Error, ErrorKind, Result};
use toml_edit::{Decor, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::{FILE_NAME, Override};

fn invalid(problem: String) -> Error {
    Error::new(ErrorKind::Invalid, "config", "edit", problem)
}

fn parse(text: &str) -> Result<DocumentMut> {
    text.parse().map_err(|e: toml_edit::TomlError| invalid(format!("{FILE_NAME}: {}", e.message())))
}

/// A file's text with overrides written into it.
pub fn edit(text: &str, overrides: &[Override]) -> Result<String> {
    let mut document = parse(text)?;
    for Override { path, value } in overrides {
        // What isn't TOML is meant as a string, as where overrides are read.
        let fresh = value.parse::<Value>().unwrap_or_else(|_| Value::from(value.as_str()));
        let parts: Vec<&str> = path.split('.').collect();
        let missing = || invalid(format!("{path}={value}: the file has no such place"));
        set(document.as_item_mut(), &parts, fresh).ok_or_else(missing)?;
    }
    Ok(document.to_string())
}

/// A file's text with another `[storage]` table.
pub(crate) fn replace_storage(text: &str, storage: &Settings) -> Result<String> {
    let mut document = parse(text)?;
    let alone = Settings::from_iter([("storage".to_owned(), storage.clone().into())]);
    let alone = toml::to_string(&alone).map_err(|e| invalid(e.to_string()))?;
    let mut fresh = parse(&alone)?.remove("storage").and_then(|item| item.into_table().ok()).unwrap_or_default();
    forget_positions(&mut fresh);
    if let Some(old) = document.get("storage").and_then(Item::as_table) {
        *fresh.decor_mut() = old.decor().clone();
        fresh.set_position(old.position());
    }
    document.insert("storage", Item::Table(fresh));
    Ok(document.to_string())
}

/// Sets the value at a path; a number is a place in a list, and the one behind the last appends.
fn set(at: &mut Item, path: &[&str], mut value: Value) -> Option<()> {
    let Some((part, rest)) = path.split_first() else {
        // The comment behind the old value stays.
        *value.decor_mut() = at.as_value().map_or_else(|| Decor::new(" ", ""), |old| old.decor().clone());
        *at = Item::Value(value);
        return Some(());
    };
    let place = |length: usize| part.parse::<usize>().ok().filter(|place| *place <= length);
    match at {
        Item::Table(table) => set(table.entry(part).or_insert(fresh(rest, Item::Table(Table::new()))), rest, value),
        Item::Value(Value::InlineTable(table)) => {
            let table: &mut dyn TableLike = table;
            set(table.entry(part).or_insert(fresh(rest, toml_edit::value(InlineTable::new()))), rest, value)
        }
        Item::ArrayOfTables(tables) if tables.len() == 1 && part.parse::<usize>().is_err() => {
            // Of a table that stands alone nobody thinks as of a list.
            set(tables.get_mut(0)?.entry(part).or_insert(fresh(rest, Item::Table(Table::new()))), rest, value)
        }
        Item::ArrayOfTables(tables) => {
            let place = place(tables.len())?;
            if place == tables.len() {
                tables.push(Table::new());
            }
            let (part, rest) = rest.split_first()?;
            set(tables.get_mut(place)?.entry(part).or_insert(fresh(rest, Item::Table(Table::new()))), rest, value)
        }
        Item::Value(Value::Array(list)) => {
            let place = place(list.len())?;
            let mut item = match list.get(place) {
                Some(old) => Item::Value(old.clone()),
                None => fresh(rest, toml_edit::value(InlineTable::new())),
            };
            set(&mut item, rest, value)?;
            let item = item.into_value().ok()?;
            if place == list.len() {
                list.push(item);
            } else {
                list.replace_formatted(place, item);
            }
            Some(())
        }
        _ => None,
    }
}

/// What stands at a new key: nothing yet, or a table where the path goes on.
fn fresh(rest: &[&str], table: Item) -> Item {
    if rest.is_empty() { Item::None } else { table }
}

/// Tables of another document follow the table that they are put into.
fn forget_positions(table: &mut Table) {
    table.set_position(None);
    table.iter_mut().filter_map(|(_, item)| item.as_table_mut()).for_each(forget_positions);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"# A file.
network = "test" # ours

# How others reach this node.
[[transport]]
kind = "quic"
listen = "0.0.0.0:1" # a port

[[discovery]]
kind = "invite"

# What is kept.
[storage]
kind = "redb"

[delivery]
retry_delays = ["1s", "5s"]
"#;

    fn edited(changes: &[(&str, &str)]) -> String {
        let change = |(path, value): &(&str, &str)| Override { path: (*path).into(), value: (*value).into() };
        edit(FILE, &changes.iter().map(change).collect::<Vec<_>>()).expect("a file")
    }

    #[test]
    fn what_is_not_changed_stays_as_it_is() {
        assert_eq!(edited(&[]), FILE);
        let changed = edited(&[("transport.0.listen", "[::]:2"), ("network", "other")]);
        assert_eq!(changed, FILE.replace("0.0.0.0:1", "[::]:2").replace("\"test\"", "\"other\""));
        let alone = edited(&[("transport.listen", "[::]:2"), ("network", "other")]);
        assert_eq!(alone, changed, "of one transport the number may be left out");
        let changed = edited(&[("delivery.retry_delays.1", "9s"), ("delivery.retry_delays.2", "1m"), ("name", "x")]);
        assert_eq!(changed, FILE.replace("\"5s\"", "\"9s\", \"1m\"").replace("# ours\n", "# ours\nname = \"x\"\n"));
    }

    #[test]
    fn new_tables_stand_with_their_like() {
        let changed =
            edited(&[("discovery.1.kind", "registry"), ("discovery.1.url", "http://x"), ("crypto", "[{kind=\"m\"}]")]);
        let expected = FILE
            .replace("\"invite\"\n", "\"invite\"\n\n[[discovery]]\nkind = \"registry\"\nurl = \"http://x\"\n")
            .replace("# ours\n", "# ours\ncrypto = [{kind=\"m\"}]\n");
        assert_eq!(changed, expected);
        let changed =
            edited(&[("storage.kind", "vault"), ("storage.inner.kind", "redb"), ("storage.inner.cache_mib", "3")]);
        let expected = FILE.replace("\"redb\"\n", "\"vault\"\n\n[storage.inner]\nkind = \"redb\"\ncache_mib = 3\n");
        assert_eq!(changed, expected);
        for wrong in ["transport.7.kind", "network.x", "transport.0"] {
            assert!(edit(FILE, &[Override { path: wrong.into(), value: "1".into() }]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_store_is_replaced_where_it_stands() {
        let settings = |text: &str| serde_json::from_str::<Settings>(text).expect("settings");
        let vault = settings(r#"{ "kind": "vault", "inner": { "kind": "redb", "path": "x" } }"#);
        let expected =
            FILE.replace("kind = \"redb\"\n", "kind = \"vault\"\n\n[storage.inner]\nkind = \"redb\"\npath = \"x\"\n");
        assert_eq!(replace_storage(FILE, &vault).expect("a file"), expected);
        assert_eq!(replace_storage(&expected, &settings(r#"{ "kind": "redb" }"#)).expect("a file"), FILE);
        for spelling in ["storage = { kind = \"redb\" }\n[delivery]\n", "storage.kind = \"redb\"\n[delivery]\n"] {
            let changed = replace_storage(spelling, &vault).expect(spelling);
            let read: toml::Table = toml::from_str(&changed).expect("TOML");
            assert_eq!(read["storage"]["inner"]["path"].as_str(), Some("x"), "{changed}");
            assert!(read.contains_key("delivery"), "{changed}");
        }
    }
}

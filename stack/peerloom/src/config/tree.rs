//! A TOML document whose values know where they stand.

use std::fmt;
use std::ops::Range;

use peerloom_core::kinds::{Settings, SettingsError};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// A line of the file, or the override that set a value.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) text: String,
    /// 0 for the file itself; overrides come after all lines.
    pub(super) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    node: Node,
    place: Place,
}

#[derive(Debug, Clone)]
enum Node {
    Table(Vec<(String, Tree)>),
    List(Vec<Tree>),
    Leaf(Value),
}

/// Deepest table that an override makes.
const DEEPEST: usize = 16;
/// Characters of an override's value in its place.
const SHOWN: usize = 60;

/// Text with the name that errors call it by.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
    /// Where the text's lines end: counted once, for a long file has many places.
    ends: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(text: &'a str, origin: &'a str) -> Self {
        Self { text, origin, ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// `origin:line`, from a position in the text.
    fn place(&self, span: &Range<usize>) -> Place {
        let line = self.ends.partition_point(|end| *end < span.start) + 1;
        Place { text: format!("{}:{line}", self.origin), line }
    }

    /// The line of the deepest key, for an error about depth, which has no span.
    fn deepest(&self) -> String {
        let depths = self.text.lines().map(|line| line.matches('.').count()).enumerate();
        let deepest = depths.max_by_key(|(line, depth)| (*depth, std::cmp::Reverse(*line))).map_or(0, |(line, _)| line);
        format!("{}:{}", self.origin, deepest + 1)
    }

    fn table(&self, table: &DeTable<'_>, place: Place) -> Tree {
        let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
            // A key's place, not its value's: a long list begins far below its key.
            (key.get_ref().to_string(), self.value(value.get_ref(), self.place(&key.span())))
        };
        // The parser orders them by name.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        Tree { node: Node::Table(entries.into_iter().map(entry).collect()), place }
    }

    fn value(&self, value: &DeValue<'_>, place: Place) -> Tree {
        let node = match value {
            DeValue::Table(table) => return self.table(table, place),
            DeValue::Array(items) => {
                let item = |item: &toml::Spanned<DeValue<'_>>| self.value(item.get_ref(), self.place(&item.span()));
                Node::List(items.iter().map(item).collect())
            }
            DeValue::String(text) => Node::Leaf(Value::from(text.as_ref())),
            DeValue::Boolean(value) => Node::Leaf(Value::from(*value)),
            DeValue::Integer(number) => Node::Leaf(integer(number)),
            DeValue::Float(number) => {
                let parsed = number.as_str().replace('_', "").parse::<f64>();
                Node::Leaf(parsed.map_or_else(|_| Value::from(number.as_str()), Value::from))
            }
            DeValue::Datetime(time) => Node::Leaf(Value::from(time.to_string())),
        };
        Tree { node, place }
    }
}

fn integer(number: &toml::de::DeInteger<'_>) -> Value {
    let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
    parsed.map_or_else(|_| Value::from(number.as_str()), Value::from)
}

impl Tree {
    /// Parses a file; the error names the line.
    pub(super) fn parse(text: &str, origin: &str) -> Result<Self, String> {
        let source = Source::new(text, origin);
        let document = DeTable::parse(text).map_err(|error| match error.span() {
            // The parser's own words for it are about itself.
            Some(span) if error.message().contains("recurs") => {
                format!("{}: tables and lists are nested too deeply here", source.place(&span))
            }
            Some(span) => format!("{}: {}", source.place(&span), error.message()),
            None => format!("{}: tables are nested too deeply", source.deepest()),
        })?;
        Ok(source.table(document.get_ref(), Place { text: origin.to_owned(), line: 0 }))
    }

    /// Sets the value at a dotted path. Numbers in the path are places in a list; one past the end
    /// appends.
    pub(super) fn set(&mut self, path: &str, value: &str) -> Result<(), String> {
        let shown: String = value.chars().take(SHOWN + 1).collect();
        let more = if shown.chars().count() > SHOWN { "…" } else { "" };
        let place = format!("{path}={}{more}", shown.chars().take(SHOWN).collect::<String>());
        if path.split('.').count() > DEEPEST {
            let path: String = path.chars().take(SHOWN).collect();
            return Err(format!("{path}…: tables are nested too deeply; no key has more than {DEEPEST} parts"));
        }
        let source = Source::new(value, "");
        let place = Place { text: place, line: usize::MAX };
        let parsed = DeValue::parse(value);
        let value = match &parsed {
            Ok(value) => source.value(value.get_ref(), place.clone()).placed(&place),
            // What isn't TOML is meant as a string, so that nobody fights two layers of quotes.
            Err(_) => Tree { node: Node::Leaf(Value::from(value)), place: place.clone() },
        };
        let mut at = self;
        for part in path.split('.') {
            at = at.child(part, &place)?;
        }
        *at = value;
        Ok(())
    }

    fn child(&mut self, part: &str, place: &Place) -> Result<&mut Tree, String> {
        let empty = || Tree { node: Node::Table(Vec::new()), place: place.clone() };
        match &mut self.node {
            Node::Table(entries) => {
                let at = entries.iter().position(|(key, _)| key == part).unwrap_or_else(|| {
                    entries.push((part.to_owned(), empty()));
                    entries.len() - 1
                });
                Ok(&mut entries[at].1)
            }
            Node::List(items) => {
                let length = items.len();
                match part.parse::<usize>() {
                    Ok(index) if index <= length => {
                        if index == length {
                            items.push(empty());
                        }
                        Ok(&mut items[index])
                    }
                    // Of a table that stands alone nobody thinks as of a list.
                    Err(_) if length == 1 && items[0].is_table() => items[0].child(part, place),
                    _ => Err(format!("{place}: `{part}` is not a place in a list of {length}; the first is 0")),
                }
            }
            Node::Leaf(_) => Err(format!("{place}: what stands before `.{part}` is not a table")),
        }
    }

    /// The same, with this place for everything in it.
    fn placed(self, place: &Place) -> Self {
        let node = match self.node {
            Node::Table(entries) => {
                Node::Table(entries.into_iter().map(|(key, value)| (key, value.placed(place))).collect())
            }
            Node::List(items) => Node::List(items.into_iter().map(|item| item.placed(place)).collect()),
            leaf => leaf,
        };
        Self { node, place: place.clone() }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.node, Node::Table(_))
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.node {
            Node::Leaf(value) => value.as_str(),
            _ => None,
        }
    }

    pub(super) fn into_items(self) -> Result<Vec<Tree>, Tree> {
        match self.node {
            Node::List(items) => Ok(items),
            node => Err(Tree { node, place: self.place }),
        }
    }

    /// Removes a key of a table.
    pub(super) fn take(&mut self, key: &str) -> Option<Tree> {
        match &mut self.node {
            Node::Table(entries) => {
                let at = entries.iter().position(|(k, _)| k == key)?;
                Some(entries.remove(at).1)
            }
            _ => None,
        }
    }

    /// The keys of a table with their places.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, &Place)> {
        let entries = match &self.node {
            Node::Table(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(key, value)| (key.as_str(), value.place()))
    }

    /// The values alone.
    pub(super) fn to_settings(&self) -> Result<Settings, ()> {
        match self.to_value() {
            Value::Object(settings) => Ok(settings),
            _ => Err(()),
        }
    }

    /// The values alone, of whatever this is.
    pub(super) fn to_value(&self) -> Value {
        match &self.node {
            Node::Table(entries) => entries.iter().map(|(key, value)| (key.clone(), value.to_value())).collect(),
            Node::List(items) => items.iter().map(Tree::to_value).collect(),
            Node::Leaf(value) => value.clone(),
        }
    }

    /// A problem with a value of this table, and the value's place. `name` is the table's.
    pub(super) fn explain(&self, name: &str, error: &SettingsError) -> (&Place, String) {
        let mut at = self;
        for part in error.path.split(['.', '[', ']']).filter(|p| !p.is_empty()) {
            let next = match &at.node {
                Node::Table(entries) => entries.iter().find(|(key, _)| key == part).map(|(_, value)| value),
                Node::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                Node::Leaf(_) => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        let path = [name, error.path.trim_start_matches('.')].into_iter().filter(|p| !p.is_empty());
        (&at.place, format!("{}: {}", path.collect::<Vec<_>>().join("."), error.message))
    }
}

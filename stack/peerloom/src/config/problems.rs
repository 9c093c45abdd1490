//! What is wrong with a file, within bounds: a wrong file may be long, and wrong everywhere.

use std::fmt;

/// Problems that are told; of further ones, how many.
const TOLD: usize = 20;
/// Characters of a value that are told.
const QUOTED: usize = 60;
/// Characters of one problem.
const LONGEST: usize = 1000;

/// Problems in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Problems {
    told: Vec<String>,
    count: usize,
}

impl Problems {
    pub(super) fn add(&mut self, problem: String) {
        self.add_with(|| problem);
    }

    /// Adds a problem that takes work to tell.
    pub(super) fn add_with(&mut self, problem: impl FnOnce() -> String) {
        self.count += 1;
        if self.count <= TOLD {
            self.told.push(shortened(&problem()));
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl From<String> for Problems {
    fn from(problem: String) -> Self {
        let mut problems = Self::default();
        problems.add(problem);
        problems
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told.join("\n"))?;
        match self.count - self.told.len() {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more problems"),
        }
    }
}

/// A problem with the values that it repeats, which stand in quotes, cut, and without control characters.
fn shortened(problem: &str) -> String {
    let mut text = String::new();
    let mut quote: Option<(char, usize)> = None;
    for c in problem.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }) {
        quote = match quote {
            Some((mark, _)) if c == mark => None,
            Some((mark, length)) => Some((mark, length + 1)),
            None if matches!(c, '`' | '"') => Some((c, 0)),
            None => None,
        };
        match quote {
            Some((_, length)) if length == QUOTED + 1 => text.push('…'),
            Some((_, length)) if length > QUOTED => {}
            _ => text.push(c),
        }
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_and_the_rest_is_told() {
        let long = "x".repeat(100_000);
        let told = shortened(&format!("f:3: `{long}` is not a duration such as \"5s\"; expected \"{long}\""));
        let cut = format!("{}…", "x".repeat(QUOTED));
        assert_eq!(told, format!("f:3: `{cut}` is not a duration such as \"5s\"; expected \"{cut}\""));
        assert!(shortened(&long).chars().count() <= LONGEST + 1);
        assert_eq!(shortened("a\u{1b}[2J"), "a\u{fffd}[2J");
        let mut problems = Problems::default();
        (0..1000).for_each(|n| problems.add(n.to_string()));
        assert_eq!(problems.to_string().lines().count(), TOLD + 1);
        assert!(problems.to_string().ends_with("… and 980 more problems"));
    }
}

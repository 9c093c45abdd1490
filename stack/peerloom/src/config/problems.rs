//! What is wrong with a file, within bounds: a wrong file may be long, and wrong everywhere.

use std::fmt;

use super::tree::Place;

/// Problems that are told; of further ones, how many.
const TOLD: usize = 20;
/// Characters of a value that are told.
const QUOTED: usize = 60;
/// Characters of one problem.
const LONGEST: usize = 1000;

/// Problems in the order of their lines.
#[derive(Debug, Default)]
pub(super) struct Problems {
    told: Vec<(usize, String)>,
    count: usize,
}

impl Problems {
    pub(super) fn add(&mut self, place: &Place, problem: impl fmt::Display) {
        self.add_with(place, || problem);
    }

    /// Adds a problem that takes work to tell.
    pub(super) fn add_with<P: fmt::Display>(&mut self, place: &Place, problem: impl FnOnce() -> P) {
        self.count += 1;
        let at = self.told.partition_point(|(line, _)| *line <= place.line);
        if at < TOLD {
            self.told.truncate(TOLD - 1);
            self.told.insert(at, (place.line, shortened(&format!("{place}: {}", problem()))));
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
        Self { told: vec![(0, shortened(&problem))], count: 1 }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<&str> = self.told.iter().map(|(_, problem)| problem.as_str()).collect();
        f.write_str(&told.join("\n"))?;
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
        let place = |line| Place { text: format!("f:{line}"), line };
        // In whichever order they are found.
        (1..=1000).rev().for_each(|line| problems.add(&place(line), "wrong"));
        let told = problems.to_string();
        let expected = (1..=TOLD).map(|line| format!("f:{line}: wrong"));
        assert!(told.lines().take(TOLD).eq(expected) && told.lines().count() == TOLD + 1, "{told}");
        assert!(problems.to_string().ends_with("… and 980 more problems"));
    }
}

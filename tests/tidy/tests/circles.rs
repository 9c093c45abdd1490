//! Modules that stand beside each other don't import each other in a circle: of two of them, one can be read first.
//!
//! A module and its children count as one, seen from beside it. Paths in `use` and in the code count alike; those of tests
//! don't.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Circles that are still to be undone, by the crate's folder and the modules of the circle. Shorten this list, never
/// lengthen it.
const KNOWN: [(&str, &str); 3] = [
    ("stack/engine", "driver, net"),
    ("stack/engine", "driver::contact, driver::devices"),
    (
        "stack/engine",
        "driver::conversation, driver::key_packages, driver::parked, driver::quarantine, driver::standing, driver::state",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Modules by their path inside the crate (`["net", "links"]`; the root's is empty), with their code.
type Modules = BTreeMap<Vec<String>, String>;

/// All modules below a folder, whose own module is `place`.
fn modules(folder: &Path, place: &[String], found: &mut Modules) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let below = |name: String| place.iter().cloned().chain([name]).collect::<Vec<_>>();
        if name == "tests" {
            continue;
        } else if path.is_dir() {
            modules(&path, &below(name), found);
        } else if path.extension().is_some_and(|end| end == "rs") && name != "main" {
            let place = if name == "lib" { Vec::new() } else { below(name) };
            found.insert(place, code(&fs::read_to_string(&path).expect("text")));
        }
    }
}

/// What is compiled into the crate: no comments, no tests.
fn code(text: &str) -> String {
    if text.contains("#![cfg(test)]") {
        return String::new();
    }
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate::` or `super::`, with the parts of braces one by one.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            // The rest of `super::super::` was found at its beginning, as was a name that only ends so.
            if !code[..at].ends_with(|before: char| before.is_alphanumeric() || [':', '_', '$'].contains(&before)) {
                expand(&code[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Reads one path, or the tree of one; returns what follows it.
fn expand<'a>(code: &'a str, before: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let code = code.trim_start();
    let depth = before.len();
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let (name, mut rest) = code.split_at(end);
    if !name.is_empty() {
        before.push(name.to_owned());
    }
    if let Some(below) = rest.strip_prefix("::") {
        rest = expand(below, before, found);
    } else if let Some(mut list) = rest.strip_prefix('{') {
        while !list.trim_start().starts_with('}') && !list.is_empty() {
            list = expand(list, before, found).trim_start();
            list = list.find([',', '}']).map_or("", |at| &list[at..]);
            list = list.strip_prefix(',').unwrap_or(list);
        }
        rest = list.trim_start().strip_prefix('}').unwrap_or_default();
    } else {
        found.push(before.clone());
    }
    before.truncate(depth);
    rest
}

/// The module that a path leads to, seen from another one. A name that a module only passes on leads to where it is from.
fn target(modules: &Modules, from: &[String], path: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let (mut place, names) = match ups {
        0 => (Vec::new(), &path[1..]),
        ups => (from[..from.len().saturating_sub(ups)].to_vec(), &path[ups..]),
    };
    for name in names {
        let below = place.iter().cloned().chain([name.clone()]).collect::<Vec<_>>();
        if modules.contains_key(&below) {
            place = below;
            continue;
        }
        let passed_on = modules.get(&place).and_then(|code| passed_on(code, name));
        let child = passed_on.map(|child| place.iter().cloned().chain([child]).collect::<Vec<_>>());
        return child.filter(|child| modules.contains_key(child)).unwrap_or(place);
    }
    place
}

/// The child of which a module passes on a name: `pub use child::Name`, also in braces.
fn passed_on(code: &str, name: &str) -> Option<String> {
    code.split(';').filter_map(|statement| statement.split_once("use ")).find_map(|(before, path)| {
        let passes = before.trim().is_empty() || before.trim().starts_with("pub");
        let (child, names) = path.split_once("::")?;
        let words = names.split(|c: char| !c.is_alphanumeric() && c != '_');
        (passes && words.into_iter().any(|word| word == name)).then(|| child.trim().to_owned())
    })
}

/// For each module that has siblings: which of them it or a child of it uses.
fn uses(modules: &Modules) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let mut uses: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (place, code) in modules {
        for path in paths(code) {
            let target = target(modules, place, &path);
            // The first place where the two part company: there they, or their parents, are siblings.
            let common = place.iter().zip(&target).take_while(|(a, b)| a == b).count();
            if common < place.len() && common < target.len() {
                uses.entry(place[..=common].to_vec()).or_default().insert(target[..=common].to_vec());
            }
        }
    }
    uses
}

/// Groups of siblings that reach each other.
fn circles(modules: &Modules) -> BTreeSet<Vec<String>> {
    let uses = uses(modules);
    let reach = |from: &Vec<String>| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(place) = next.pop() {
            let new = uses.get(&place).into_iter().flatten().filter(|to| !reached.contains(*to));
            next.extend(new.cloned().collect::<Vec<_>>());
            reached.extend(uses.get(&place).into_iter().flatten().cloned());
        }
        reached
    };
    let reached: BTreeMap<_, _> = uses.keys().map(|place| (place.clone(), reach(place))).collect();
    let both =
        |a: &Vec<String>, b: &Vec<String>| reached[a].contains(b) && reached.get(b).is_some_and(|r| r.contains(a));
    let around = reached.keys().filter(|place| reached[*place].contains(*place));
    around.map(|place| reached.keys().filter(|other| both(place, other)).map(|p| p.join("::")).collect()).collect()
}

#[test]
fn modules_beside_each_other_have_no_circles() {
    let (mut found, mut count) = (BTreeSet::new(), 0);
    for room in ["proto", "stack", "transports", "discovery", "storage", "crypto"] {
        for entry in fs::read_dir(root().join(room)).expect(room) {
            let folder = entry.expect("an entry").path().join("src");
            if !folder.exists() {
                continue;
            }
            let mut modules_of_crate = Modules::new();
            modules(&folder, &[], &mut modules_of_crate);
            count += modules_of_crate.len();
            let shown = folder.parent().expect("a crate").strip_prefix(root()).expect("inside").display().to_string();
            found.extend(circles(&modules_of_crate).into_iter().map(|circle| (shown.clone(), circle)));
        }
    }
    // A circle that became smaller is still the known one.
    let within = |(folder, circle): &(String, Vec<String>), (known, of): &(&str, &str)| {
        folder == known && circle.iter().all(|module| of.split(", ").any(|other| other == module))
    };
    let new: Vec<_> = found.iter().filter(|circle| !KNOWN.iter().any(|known| within(circle, known))).collect();
    assert!(new.is_empty(), "move what both need to a place of its own: {new:#?}");
    let gone: Vec<_> = KNOWN.iter().filter(|known| !found.iter().any(|circle| within(circle, known))).collect();
    assert!(gone.is_empty(), "these are undone; take them from the list: {gone:#?}");
    assert!(count > 200, "only {count} modules were found");
}

#[test]
fn circles_are_found_through_chains_children_and_names_passed_on() {
    let modules = |texts: &[(&str, &str)]| -> Modules {
        let place = |path: &str| path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
        texts.iter().map(|(path, text)| (place(path), code(text))).collect()
    };
    let circles = |texts: &[(&str, &str)]| circles(&modules(texts)).into_iter().collect::<Vec<_>>();
    let none: Vec<Vec<String>> = Vec::new();
    let root = ("", "pub use c::{Other, Name};");
    assert_eq!(circles(&[("a", "use crate::b::{x, y::Z};"), ("b", "fn f() { super::a::g() }")]), [["a", "b"]]);
    assert_eq!(circles(&[("a", "use crate::b;"), ("b", "// crate::a\n#[cfg(test)]\nmod tests {use crate::a;}")]), none);
    let chain = [root, ("a", "use crate::{x, b::x};"), ("b", "use crate::Name;"), ("c", ""), ("c::d", "use crate::a;")];
    assert_eq!(circles(&chain), [["a", "b", "c"]]);
    let family = [("a", "mod b; mod c; use b::x;"), ("a::b", "use super::X;"), ("a::c", "use super::{b, X};")];
    assert_eq!(circles(&family), none, "parents and children");
    let below = [("a", "mod b; mod c;"), ("a::b", "use super::c::x;"), ("a::c", "use crate::a::b::y;")];
    assert_eq!(circles(&below), [["a::b", "a::c"]]);
}

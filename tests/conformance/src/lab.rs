//! Tests that need something of the machine.

/// Reports why a test can't be run here, for the caller to pass; panics where it has to run
/// (`PEERLOOM_REQUIRE_LAB=1`).
pub fn skip(why: &str) {
    let required = std::env::var("PEERLOOM_REQUIRE_LAB").is_ok_and(|value| value == "1");
    assert!(!required, "it must be possible here (PEERLOOM_REQUIRE_LAB=1), but {why}");
    say(&format!("skipped: {why}"));
}

/// Shows a line to people who run the tests, such as how long something took.
#[expect(clippy::print_stderr, reason = "it is for people")]
pub fn say(text: &str) {
    eprintln!("{text}");
}

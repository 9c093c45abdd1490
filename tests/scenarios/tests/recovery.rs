//! The recovery key: in the folder until its user has the words.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{Running, fails, init, ok, ok_json};

fn check(folder: &Path, phrase: &str) -> Output {
    let check = common::command(folder, &["device", "recovery", "--check"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut check = check.expect("a process");
    check.stdin.take().expect("its input").write_all(phrase.as_bytes()).expect("it reads");
    check.wait_with_output().expect("an end")
}

fn reminds(folder: &Path) -> bool {
    ok_json(folder, &["doctor"]).as_array().expect("diagnostics").iter().any(|found| found["check"] == "recovery")
}

#[test]
fn the_words_are_the_only_copy_once_they_were_shown_and_kept() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let phrase = ok_json(&alice, &["device", "recovery"])["phrase"].as_str().expect("a phrase").to_owned();
    assert_eq!(phrase.split(' ').count(), 24);
    // As people see it, and write it down.
    let shown = ok(&alice, &["device", "recovery"]);
    assert!(shown.starts_with(" 1. ") && shown.contains("24. "), "{shown}");
    for good in [&phrase, &shown] {
        let checked = check(&alice, good);
        assert!(checked.status.success(), "{checked:?}");
    }
    let other = ok_json(&bob, &["device", "recovery"])["phrase"].as_str().expect("a phrase").to_owned();
    for (wrong, why) in [(&*other, "another user's"), ("what is this", "24 words"), ("", "24 words")] {
        let checked = check(&alice, wrong);
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        assert!(common::text(&checked.stderr).contains(why), "{checked:?}");
    }
    // Whoever saw the words may not have them yet: the key stays until its user says so.
    let running = Running::start(&alice);
    assert!(reminds(&alice));
    assert_eq!(ok_json(&alice, &["device", "recovery", "--delete"])["phrase"], *phrase);
    assert!(!reminds(&alice));
    drop(running);
    for arguments in [&["device", "recovery"][..], &["device", "recovery", "--delete"]] {
        let (code, complaint) = fails(&alice, arguments);
        assert!(code == 2 && complaint.contains("isn't in this folder"), "{complaint}");
    }
    assert!(check(&alice, &phrase).status.success(), "it can still be checked");
    let _running = Running::start(&alice);
    ok(&alice, &["invite"]);
    assert!(reminds(&bob));
}

//! What people use: QR codes and chat.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Running, eventually, fails, init, introduce, ok, ok_lines};
use image::{GrayImage, Luma};

/// A photograph of the terminal: eight pixels for each module.
fn picture(drawn: &str, path: &Path) {
    let lines: Vec<Vec<char>> = drawn.lines().map(|line| line.chars().collect()).collect();
    let (width, height) = (lines[0].len() as u32 * 8, lines.len() as u32 * 16);
    let light = |x: u32, y: u32| match lines[y as usize / 16].get(x as usize / 8) {
        Some('█') => true,
        Some('▀') => y % 16 < 8,
        Some('▄') => y % 16 >= 8,
        _ => false,
    };
    GrayImage::from_fn(width, height, |x, y| Luma([if light(x, y) { 255 } else { 0 }])).save(path).expect("a picture");
}

#[test]
fn an_invitation_travels_as_a_qr_code() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _running = Running::start(&alice);
    let output = ok(&alice, &["invite", "--qr"]);
    let drawn: Vec<&str> = output.lines().filter(|line| !line.starts_with("peerloom://")).collect();
    assert!(drawn.len() > 20 && output.contains("peerloom://invite/"), "{output}");
    let file = base.path().join("code.png");
    let path = file.to_string_lossy().into_owned();
    picture(&drawn.join("\n"), &file);
    assert!(ok(&bob, &["add", "--qr", &path]).contains("added alice"));

    // Pictures of something else.
    let (_, complaint) = fails(&bob, &["add", "--qr", "nowhere.png"]);
    assert!(complaint.contains("can't be opened"), "{complaint}");
    std::fs::write(&file, "not a picture").expect("a file");
    let (_, complaint) = fails(&bob, &["add", "--qr", &path]);
    assert!(complaint.contains("not a PNG or JPEG"), "{complaint}");
    GrayImage::from_pixel(200, 200, Luma([255])).save(&file).expect("a picture");
    let (_, complaint) = fails(&bob, &["add", "--qr", &path]);
    assert!(complaint.contains("no QR code"), "{complaint}");
    // A QR code, but not of an invitation: the same modules, ink for light.
    let other = qrcode::QrCode::new("https://example.org").expect("a code");
    let ink = qrcode::render::unicode::Dense1x2::Dark;
    let paper = qrcode::render::unicode::Dense1x2::Light;
    let drawn = other.render::<qrcode::render::unicode::Dense1x2>().dark_color(paper).light_color(ink).build();
    picture(&drawn, &file);
    let (_, complaint) = fails(&bob, &["add", "--qr", &path]);
    assert!(complaint.contains("another kind of link"), "{complaint}");
}

#[test]
fn a_chat_shows_what_became_of_each_line() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let bob_runs = Running::start(&bob);
    eventually("bob to be known", || ok(&alice, &["contacts"]).contains("bob"));
    let (_, complaint) = fails(&alice, &["chat", "nobody"]);
    assert!(complaint.contains("known: bob"), "{complaint}");

    let mut chat = common::command(&alice, &["chat", "bob"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut typed = chat.stdin.take().expect("its input");
    let mut lines = BufReader::new(chat.stdout.take().expect("its output")).lines();
    let mut next = move || lines.next().map(|line| line.expect("a line"));
    writeln!(typed, "hello bob\n").expect("a line");
    let first = next().expect("a mark");
    if first.contains("sending") {
        assert_eq!(next().expect("a mark"), "  ✓ delivered: hello bob");
    }
    assert!(ok(&bob, &["inbox"]).contains("alice: hello bob"));
    ok(&bob, &["send", "alice", "hello alice"]);
    assert_eq!(next().expect("the answer"), "bob: hello alice");
    // The end of the input ends it; a long line is said to be on its way in few columns.
    let long = "x".repeat(2000);
    writeln!(typed, "{long}").expect("a line");
    drop(typed);
    let rest: Vec<String> = std::iter::from_fn(next).collect();
    assert!(rest.iter().all(|line| line.chars().count() <= 45), "{rest:?}");
    assert!(rest.last().expect("a mark").starts_with("  ✓ delivered"), "{rest:?}");
    assert!(chat.wait().expect("an end").success());
    assert_eq!(ok_lines(&bob, &["inbox"]).len(), 2);

    // Ctrl-C ends it cleanly too.
    let mut chat = common::command(&alice, &["chat", "bob"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let chat = chat.as_mut().expect("a process");
    let mut lines = BufReader::new(chat.stdout.take().expect("its output")).lines();
    assert_eq!(lines.next().expect("a line").expect("a line"), "bob: hello alice");
    Command::new("kill").args(["-INT", &chat.id().to_string()]).status().expect("kill runs");
    assert!(chat.wait().expect("an end").success());
    drop((running, bob_runs));
}

/// On a terminal, what comes while somebody types doesn't tear the line apart.
#[test]
fn a_chat_on_a_terminal_keeps_the_line_that_is_typed() {
    if Command::new("script").arg("--version").output().is_err() {
        assert!(std::env::var_os("PEERLOOM_REQUIRE_LAB").is_none(), "`script` makes the terminal");
        return;
    }
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let bob_runs = Running::start(&bob);
    eventually("bob to be known", || ok(&alice, &["contacts"]).contains("bob"));

    let chat = common::command(&alice, &["chat", "bob"]);
    let words = [chat.get_program()].into_iter().chain(chat.get_args()).map(|word| word.to_string_lossy());
    let line = words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script")
        .args(["-qfec", &format!("stty cols 40; {line}; stty -a"), "/dev/null"])
        .env("TERM", "xterm")
        .env("PEERLOOM_PASSPHRASE", "of the tests")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut keys = terminal.stdin.take().expect("its keys");
    let mut output = terminal.stdout.take().expect("its screen");
    let shown = Arc::new(Mutex::new(String::new()));
    let screen = shown.clone();
    let reading = std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut part) {
            screen.lock().expect("no panic").push_str(&String::from_utf8_lossy(&part[..length]));
        }
    });
    let shows = |what: &str| eventually(what, || shown.lock().expect("no panic").contains(what));
    shows("> ");
    write!(keys, "half").expect("a key");
    shows("half");
    ok(&bob, &["send", "alice", "from bob"]);
    // Above the line, and the line once more.
    eventually("the message", || {
        let shown = shown.lock().expect("no panic");
        shown.split_once("bob: from bob").is_some_and(|(_, after)| after.contains("> half"))
    });
    write!(keys, " and half\r").expect("a key");
    shows("✓ delivered: half and half");
    // Ctrl-C ends it, and leaves the terminal as it was.
    write!(keys, "\u{3}").expect("a key");
    assert!(terminal.wait().expect("an end").success());
    drop(keys);
    reading.join().expect("no panic");
    let shown = shown.lock().expect("no panic");
    assert!(shown.contains(" icanon") && shown.contains(" echo "), "{shown}");
    assert!(ok(&bob, &["inbox"]).contains("alice: half and half"));
    drop((running, bob_runs));
}

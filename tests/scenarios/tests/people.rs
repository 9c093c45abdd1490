//! What people use: QR codes and chat.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Running, eventually, fails, init, introduce, ok, ok_json, ok_lines};
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

/// Pictures come from other programs: on any ground, with or without a margin, large or small.
#[test]
fn pictures_are_read_as_they_arrive() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _running = Running::start(&alice);
    let file = base.path().join("code.png");
    let path = file.to_string_lossy().into_owned();
    ok(&alice, &["invite", "--png", &path]);
    assert_eq!(std::fs::metadata(&file).expect("a picture").permissions().mode() & 0o777, 0o600);
    assert!(fails(&alice, &["invite", "--png", &path]).1.contains("there already"));
    let code = image::open(&file).expect("a picture").to_luma8();
    // Without its margin, a module being a pixel.
    let size = code.width() / 8 - 8;
    let dark = |x: u32, y: u32| code.get_pixel((x + 4) * 8, (y + 4) * 8).0 == [0];
    let draw = |scale: u32, margin: u32, colour: &dyn Fn(bool) -> [u8; 4]| {
        image::RgbaImage::from_fn((size + 2 * margin) * scale, (size + 2 * margin) * scale, |x, y| {
            let at = |pixel: u32| (pixel / scale).checked_sub(margin).filter(|at| *at < size);
            image::Rgba(colour(at(x).zip(at(y)).is_some_and(|(x, y)| dark(x, y))))
        })
    };
    let inks: [(&str, &dyn Fn(bool) -> [u8; 4]); 6] = [
        ("black on white", &|dark| if dark { [0, 0, 0, 255] } else { [255; 4] }),
        ("white on black", &|dark| if dark { [255; 4] } else { [0, 0, 0, 255] }),
        ("yellow on blue", &|dark| if dark { [255, 255, 0, 255] } else { [0, 0, 90, 255] }),
        ("black on nothing", &|dark| if dark { [0, 0, 0, 255] } else { [0; 4] }),
        ("white on nothing", &|dark| if dark { [255; 4] } else { [255, 255, 255, 0] }),
        ("nothing on white", &|dark| if dark { [0; 4] } else { [255; 4] }),
    ];
    for (name, ink) in inks {
        for (scale, margin) in [(4, 4), (4, 0), (1, 2), (9, 1)] {
            draw(scale, margin, ink).save(&file).expect("a picture");
            let added = ok(&bob, &["add", "--qr", &path]);
            assert!(added.contains("added alice"), "{name}, {scale}, {margin}: {added}");
        }
    }
}

#[test]
fn an_invitation_travels_as_a_qr_code() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let _running = Running::start(&alice);
    let output = ok(&alice, &["invite", "--qr"]);
    let (link, drawn) = output.split_once('\n').expect("lines");
    let drawn: Vec<&str> = drawn.lines().collect();
    assert!(link.starts_with("peerloom://invite/"), "{output}");
    let widths: Vec<usize> = drawn.iter().map(|line| line.chars().count()).collect();
    assert_eq!(widths, [45; 23], "{output}");
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

/// What a terminal of 80 columns and 24 lines shows when the prompt is back is enough to be photographed, and the link
/// above it is whole, too.
#[test]
fn a_terminal_of_the_usual_size_shows_the_whole_code() {
    if Command::new("script").arg("--version").output().is_err() {
        peerloom_conformance::lab::skip("there is no `script` to make the terminal");
        return;
    }
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let mut running = Running::start(&alice);
    // Addresses enough to overflow the code, and a long name.
    let text = std::fs::read_to_string(alice.join("peerloom.toml")).expect("the file");
    let advertised: Vec<String> = (1..=8).map(|n| format!("[2001:db8:1:2:3:4:5:{n}]:4433")).collect();
    for addresses in [Vec::new(), advertised] {
        drop(running);
        let text = match addresses.is_empty() {
            true => text.clone(),
            false => text.replacen("listen = ", &format!("advertise = {addresses:?}\nlisten = "), 1),
        };
        std::fs::write(alice.join("peerloom.toml"), text).expect("the file");
        running = Running::start(&alice);
        let shown = in_terminal(&alice, &["invite", "--qr"]);
        assert!(!shown.raw.contains("the QR code is"), "{}", shown.raw);
        let link = shown.raw.lines().find(|line| line.starts_with("peerloom://")).expect("a link").trim().to_owned();
        let invitation = peerloom_discovery_invite::decode(&link).expect("the link is whole");
        let path = base.path().join("code.png");
        picture(&shown.rows.join("\n"), &path);
        let whole = addresses.is_empty();
        assert_eq!((invitation.addresses.len(), &*invitation.name), (if whole { 1 } else { 8 }, "alice"));
        assert!(ok(&bob, &["add", "--qr", &path.to_string_lossy()]).contains("added alice"));
        if whole {
            let _bob = Running::start(&bob);
            eventually("bob to be in", || ok(&alice, &["contacts"]).contains("bob"));
        }
    }
}

struct Shown {
    /// All that was printed, without colours.
    raw: String,
    /// What is on the screen at the end.
    rows: Vec<String>,
}

/// What a command leaves in a terminal of 80 columns and 24 lines, with a prompt behind it.
fn in_terminal(folder: &Path, arguments: &[&str]) -> Shown {
    let command = common::command(folder, arguments);
    let words = [command.get_program()].into_iter().chain(command.get_args()).map(|word| word.to_string_lossy());
    let line = words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let output = Command::new("script")
        .args(["-qfec", &format!("stty cols 80 rows 24; {line}; printf '$ '"), "/dev/null"])
        .env("TERM", "xterm")
        .env("PEERLOOM_PASSPHRASE", "of the tests")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .expect("a process");
    let size = |cells| std::num::NonZero::new(cells).expect("a size");
    let mut screen = vt100::Parser::new(size(24), size(80), 1000);
    screen.process(&output.stdout);
    let rows = screen.screen().rows(0, 80).map(|row| row.trim_end().to_owned()).filter(|row| !row.starts_with('$'));
    let mut plain = vt100::Parser::new(size(200), size(1000), 0);
    plain.process(&output.stdout);
    Shown { raw: plain.screen().contents(), rows: rows.collect() }
}

/// A line without its time of day, which it must have.
fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').expect("a time");
    let digits: Vec<bool> = time.chars().map(|c| c.is_ascii_digit()).collect();
    assert!(digits == [true, true, false, true, true], "{line}");
    rest
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
    assert!(complaint.contains("known: bob (@"), "{complaint}");

    let mut chat = common::command(&alice, &["chat", "bob"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut typed = chat.stdin.take().expect("its input");
    let mut lines = BufReader::new(chat.stdout.take().expect("its output")).lines();
    let mut next = move || lines.next().map(|line| without_time(&line.expect("a line")).to_owned());
    writeln!(typed, "hello bob\n").expect("a line");
    let first = next().expect("a mark");
    if first.contains("sending") {
        assert_eq!(next().expect("a mark"), "✓ delivered: hello bob");
    }
    assert!(ok(&bob, &["inbox"]).contains("alice: hello bob"));
    ok(&bob, &["send", "alice", "hello alice"]);
    assert_eq!(next().expect("the answer"), "bob: hello alice");
    // What is too long isn't sent in parts; words for the chat itself aren't sent; blank lines aren't either.
    typed.write_all(&vec![b'y'; 2 * 1024 * 1024 + 7]).expect("a line");
    writeln!(typed, "\n/help\n   \n//help\n/hlep\n/QUIT\n/quit now\n//usr/bin").expect("lines");
    // The end of the input ends it; a long line is said to be on its way in few columns.
    let long = "x".repeat(2000);
    writeln!(typed, "{long}").expect("a line");
    drop(typed);
    let rest: Vec<String> = std::iter::from_fn(next).collect();
    assert!(rest.iter().all(|line| line.chars().count() <= 35), "{rest:?}");
    assert!(rest.last().expect("a mark").starts_with("✓ delivered"), "{rest:?}");
    let output = chat.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(1), "some lines weren't sent");
    let user = ok_json(&bob, &["id"])["user"].as_str().expect("an id").to_owned();
    let notes = common::text(&output.stderr);
    for part in [
        &format!("chatting with bob, user {user}"),
        "bob is ",
        "/quit ends",
        "/hlep is no command",
        "/QUIT is no command",
        "/quit is no command",
        "at most 1048576 bytes",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    let texts: Vec<String> =
        ok_lines(&bob, &["inbox"]).iter().map(|m| m["text"].as_str().expect("a text").to_owned()).collect();
    assert_eq!(texts, ["hello bob", "/help", "/usr/bin", &long]);

    // Ctrl-C ends it cleanly too.
    let mut chat = common::command(&alice, &["chat", "bob"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let chat = chat.as_mut().expect("a process");
    let mut lines = BufReader::new(chat.stdout.take().expect("its output")).lines();
    assert_eq!(without_time(&lines.next().expect("a line").expect("a line")), "bob: hello alice");
    Command::new("kill").args(["-INT", &chat.id().to_string()]).status().expect("kill runs");
    assert!(chat.wait().expect("an end").success());
    drop((running, bob_runs));
}

/// What nobody receives yet isn't taken for a conversation.
#[test]
fn a_chat_says_that_the_other_side_is_away() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let bob_runs = Running::start(&bob);
    eventually("bob to be there", || ok_json(&alice, &["peers"])[0]["state"] == "connected");
    let mut chat = common::command(&alice, &["chat", "bob"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut notes = BufReader::new(chat.stderr.take().expect("its notes")).lines();
    let mut next = || notes.next().expect("a note").expect("a note");
    assert!(next().contains("chatting with bob"));
    assert_eq!(next(), "· bob is connected");
    bob_runs.kill();
    assert_eq!(next(), "· bob is offline: what you send waits until they appear");
    let mut typed = chat.stdin.take().expect("its input");
    writeln!(typed, "are you there?").expect("a line");
    drop(typed);
    assert_eq!(next(), "1 message is not delivered yet and goes out when bob appears");
    assert!(chat.wait().expect("an end").success());
    // Renamed meanwhile, it is still the same person's.
    ok(&alice, &["contacts", "--rename", "bob=robert"]);
    let _bob = Running::start(&bob);
    eventually("the message", || ok(&bob, &["inbox"]).contains("are you there?"));
    drop(running);
}

/// Without a person who sees it, a line that isn't sent shows in the exit code. While a chat has the folder, other commands
/// say that no node runs.
#[test]
fn a_chat_of_a_script_says_what_was_not_sent() {
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    drop(running);
    let mut chat = common::command(&bob, &["chat", "alice"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut notes = BufReader::new(chat.stderr.take().expect("its notes")).lines();
    assert!(notes.next().expect("a note").expect("a note").contains("chatting with alice"));
    let doctor = common::text(&common::peerloom(&bob, &["doctor"]).stdout);
    assert!(doctor.contains("no node runs on this folder"), "{doctor}");
    let mut typed = chat.stdin.take().expect("its input");
    write!(typed, "/nothing\n/quit\n").expect("lines");
    assert_eq!(chat.wait().expect("an end").code(), Some(1));
}

/// On a terminal, what comes while somebody types doesn't tear the line apart, and each message has one line, which tells
/// its state.
#[test]
fn a_chat_on_a_terminal_keeps_the_line_that_is_typed() {
    if Command::new("script").arg("--version").output().is_err() {
        peerloom_conformance::lab::skip("there is no `script` to make the terminal");
        return;
    }
    let base = tempfile::tempdir().expect("a folder");
    let (alice, bob) = (init(base.path(), "alice"), init(base.path(), "bob"));
    let running = Running::start(&alice);
    introduce(&alice, &bob);
    let bob_runs = Running::start(&bob);
    eventually("bob to be known", || ok_json(&alice, &["peers"])[0]["state"] == "connected");

    let chat = common::command(&alice, &["chat", "bob"]);
    let words = [chat.get_program()].into_iter().chain(chat.get_args()).map(|word| word.to_string_lossy());
    let line = words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script")
        .args(["-qfec", &format!("stty cols 40 rows 20; {line}; stty -a"), "/dev/null"])
        .env("TERM", "xterm")
        .env("PEERLOOM_PASSPHRASE", "of the tests")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut keys = terminal.stdin.take().expect("its keys");
    let mut output = terminal.stdout.take().expect("its screen");
    let size = |cells| std::num::NonZero::new(cells).expect("a size");
    let screen = Arc::new(Mutex::new(vt100::Parser::new(size(20), size(40), 0)));
    let shown = screen.clone();
    let reading = std::thread::spawn(move || {
        let mut part = [0; 4096];
        let mut last = Vec::new();
        while let Ok(length @ 1..) = output.read(&mut part) {
            shown.lock().expect("no panic").process(&part[..length]);
            last.extend_from_slice(&part[..length]);
        }
        last
    });
    let lines = || -> Vec<String> {
        let screen = screen.lock().expect("no panic");
        screen.screen().rows(0, 40).map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
    };
    let shows = |what: &str, holds: &dyn Fn(&[String]) -> bool| {
        eventually(&format!("{what}: {:?}", lines()), || holds(&lines()));
    };
    let last = |end: &'static str| move |lines: &[String]| lines.last().is_some_and(|line| line.ends_with(end));
    shows("the prompt", &last(" >"));
    write!(keys, "half").expect("a key");
    shows("what is typed", &last("> half"));
    ok(&bob, &["send", "alice", "from bob"]);
    // Above the line, and the line once more.
    shows(
        "the message",
        &|lines| matches!(lines, [.., message, typed] if message.ends_with("bob: from bob") && typed.ends_with("> half")),
    );
    write!(keys, " and half\r").expect("a key");
    let delivered = |text: &'static str| {
        move |lines: &[String]| {
            let marked: Vec<&String> = lines.iter().filter(|line| line.contains(text)).collect();
            matches!(marked.as_slice(), [one] if one.get(5..) == Some(&format!(" ✓ {text}")))
        }
    };
    shows("one line for the message", &delivered("half and half"));
    // Several at once, one of them longer than the terminal is wide, and one while something is being typed.
    write!(keys, "one\r{}\rtwo\rthr", "long ".repeat(12)).expect("keys");
    for text in ["one", "two"] {
        shows("one line each", &delivered(text));
    }
    shows("the long one", &|lines| lines.iter().any(|line| line.contains("✓ long long")));
    shows("what is being typed", &last("> thr"));
    write!(keys, "ee\r").expect("keys");
    shows("the last one", &delivered("three"));
    // What others than the chat print, here the command's connection, moves no mark to another line.
    write!(keys, "qua").expect("keys");
    let node = running.pid().to_string();
    let signal = |name: &str| Command::new("kill").args([name, &node]).status().expect("kill runs");
    signal("-STOP");
    shows("that the node is silent", &|lines| lines.iter().any(|line| line.contains("doesn't answer")));
    shows("what is being typed below it", &last("> qua"));
    signal("-CONT");
    write!(keys, "rter\r").expect("keys");
    shows("the one after a note", &delivered("quarter"));
    // Ctrl-C ends it, and leaves the terminal as it was.
    write!(keys, "\u{3}").expect("a key");
    assert!(terminal.wait().expect("an end").success());
    drop(keys);
    let shown = common::text(&reading.join().expect("no panic"));
    assert!(shown.contains(" icanon") && shown.contains(" echo "), "{shown}");
    let inbox = ok(&bob, &["inbox"]);
    assert!(
        ["half and half", "one", "long long", "two", "three"]
            .iter()
            .all(|text| inbox.contains(&format!("alice: {text}"))),
        "{inbox}"
    );
    drop((running, bob_runs));
}

//! Files and folders: what a node keeps is for its user alone, and what lets others in is refused with the remedy.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{Control, Running, STORES, fails, init, init_with, ok};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

/// Every file in a folder, with those of the folders in it.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn everything_in_a_folder_is_for_its_user_alone() {
    for store in STORES {
        let base = tempfile::tempdir().expect("a folder");
        let folder = init_with(base.path(), "alice", store);
        let running = Running::start(&folder);
        assert_eq!(mode(&folder), 0o700);
        let found = files(&folder);
        assert!(found.iter().any(|path| path.ends_with("node.sock")) && found.len() >= 4, "{found:?}");
        for path in found {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        drop(running);
    }
}

#[test]
fn files_that_others_can_use_are_refused() {
    for (store, names) in [
        (STORES[0], &["store.redb", "store.redb-journal", "store.id"][..]),
        (STORES[1], &["store.sqlite", "store.sqlite-wal", "store.sqlite-lock", "store.id"][..]),
        (STORES[2], &["store.redb", "store.id"][..]),
    ] {
        let base = tempfile::tempdir().expect("a folder");
        let folder = init_with(base.path(), "alice", store);
        for name in names {
            let path = folder.join(name);
            // Some are only there after a crash, or in a copy of a running node's folder.
            let made = if path.exists() { Ok(()) } else { fs::write(&path, "") };
            made.expect("a file");
            for wrong in [0o644, 0o660, 0o602] {
                set_mode(&path, wrong);
                for command in [&["inbox"][..], &["run"], &["db"]] {
                    let (code, complaint) = fails(&folder, command);
                    assert!(code == 2 && complaint.contains("chmod 600"), "{name} {wrong:o} {command:?}: {complaint}");
                    assert!(complaint.contains(name), "{complaint}");
                }
            }
            set_mode(&path, 0o600);
            ok(&folder, &["inbox"]);
        }
    }
}

#[test]
fn folders_that_others_can_change_are_refused() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    let fresh = base.path().join("fresh");
    fs::create_dir(&fresh).expect("a folder");
    for wrong in [0o777, 0o1777, 0o770, 0o722] {
        // In a folder such as /tmp the command would lock out everybody else.
        let remedy = if wrong == 0o1777 { "use another folder" } else { "chmod 700" };
        [&folder, &fresh].into_iter().for_each(|folder| set_mode(folder, wrong));
        for command in [&["inbox"][..], &["run"], &["db"], &["send", "bob", "x"]] {
            let (code, complaint) = fails(&folder, command);
            assert!(code == 2 && complaint.contains(remedy), "{wrong:o} {command:?}: {complaint}");
        }
        let (code, complaint) = fails(&fresh, &["init"]);
        assert!(code == 2 && complaint.contains(remedy), "{complaint}");
        assert_eq!(files(&fresh), Vec::<std::path::PathBuf>::new(), "nothing is left there");
    }
    set_mode(&folder, 0o700);

    // What another user made listen there gets no message to read.
    let trap = UnixListener::bind(Control::socket(&folder)).expect("a socket");
    trap.set_nonblocking(true).expect("a mode");
    set_mode(&folder, 0o777);
    let (_, complaint) = fails(&folder, &["send", "bob", "a secret"]);
    assert!(complaint.contains("chmod 700"), "{complaint}");
    assert!(trap.accept().is_err(), "nobody connected");
    // Names may be seen; what is in the files may not.
    set_mode(&folder, 0o755);
    drop(trap);
    ok(&folder, &["inbox"]);
}

/// No remedy changes a mode that the machine needs.
#[test]
fn remedies_leave_the_system_alone() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    for path in ["/tmp", "/dev/zero", "/etc/passwd", "/"] {
        let storage = format!("storage.path={path}");
        for command in [&["check", path][..], &["id", "--set", &storage], &["-C", path, "init"]] {
            if command[0] == "-C" && path == "/" {
                continue;
            }
            let (code, complaint) = fails(&folder, command);
            assert!(
                code != 0 && !complaint.contains("chmod") && !complaint.contains("chown"),
                "{command:?}: {complaint}"
            );
        }
    }
}

/// Planted beside the files of a node, a link would have it write over another file, or into a place that others read.
#[test]
fn planted_links_are_not_followed() {
    for store in STORES {
        let base = tempfile::tempdir().expect("a folder");
        let folder = init_with(base.path(), "alice", store);
        let precious = base.path().join("precious");
        fs::write(&precious, "of another program").expect("a file");
        set_mode(&precious, 0o600);
        for name in ["store.id.new", "peerloom.toml.new", "node.sock", "store.redb-journal", "store.sqlite-wal"] {
            let path = folder.join(name);
            let saved = fs::read(&path).ok();
            let _ = fs::remove_file(&path);
            symlink(&precious, &path).expect("a link");
            // It goes on without the link or is refused: what the link leads to stays.
            let refused = common::peerloom(&folder, &["inbox"]);
            assert!(refused.status.success() || common::text(&refused.stderr).contains("link"), "{name}");
            assert_eq!(fs::read_to_string(&precious).expect("a file"), "of another program", "{name}");
            let _ = fs::remove_file(&path);
            saved.into_iter().for_each(|bytes| peerloom_core::private::create(&path, &bytes).expect("a file"));
        }
        // The first opening of a store writes its note.
        fs::remove_file(folder.join("store.id")).expect("a note");
        symlink(&precious, folder.join("store.id.new")).expect("a link");
        ok(&folder, &["inbox"]);
        assert!(folder.join("store.id").is_file() && !folder.join("store.id.new").exists());
        // So does a move, which replaces the file, too.
        symlink(&precious, folder.join("store.id.new")).expect("a link");
        symlink(&precious, folder.join("peerloom.toml.new")).expect("a link");
        ok(&folder, &["db", "copy", "--to", if store == STORES[1] { "redb" } else { "sqlite" }]);
        assert_eq!(fs::read_to_string(&precious).expect("a file"), "of another program");
        ok(&folder, &["inbox"]);
    }
}

/// A node's file may be read by others as long as no secret stands in it, and changed by nobody else.
#[test]
fn a_file_with_a_secret_is_for_its_user_alone() {
    let base = tempfile::tempdir().expect("a folder");
    let folder = init(base.path(), "alice");
    let file = folder.join("peerloom.toml");
    let plain = fs::read_to_string(&file).expect("the file");
    set_mode(&file, 0o644);
    ok(&folder, &["check"]);
    set_mode(&file, 0o666);
    let (code, complaint) = fails(&folder, &["check"]);
    assert!(code == 2 && complaint.contains("chmod 600"), "{complaint}");

    let secrets = [
        "[[discovery]]\nkind = \"registry\"\nurl = \"https://registry.example\"\ntoken = \"hush\"\n",
        "[[transport]]\nkind = \"webrtc\"\nice_servers = [\"turn:me:hush@turn.example:3478\"]\n",
    ];
    for secret in secrets {
        fs::write(&file, format!("{plain}\n{secret}")).expect("the file");
        for wrong in [0o644, 0o640, 0o604] {
            set_mode(&file, wrong);
            for command in ["check", "inbox"] {
                let (code, complaint) = fails(&folder, &[command]);
                assert!(code == 2 && complaint.contains("chmod 600") && !complaint.contains("hush"), "{complaint}");
            }
        }
        set_mode(&file, 0o600);
        ok(&folder, &["check"]);
    }
    // What an override says stands in no file.
    fs::write(&file, &plain).expect("the file");
    set_mode(&file, 0o644);
    let url = ["--set", "discovery.1.kind=registry", "--set", "discovery.1.url=https://registry.example"];
    ok(&folder, &[&["check", "--set", "discovery.1.token=hush"][..], &url].concat());
}

#[test]
fn a_registrys_secrets_are_for_its_user_alone() {
    let base = tempfile::tempdir().expect("a folder");
    let secret = base.path().join("secret");
    let certificate = base.path().join("cert.pem");
    for path in [&secret, &certificate] {
        fs::write(path, "network=token").expect("a file");
    }
    let (secret, certificate) = (secret.to_str().expect("a path"), certificate.to_str().expect("a path"));
    for wrong in [0o644, 0o640, 0o620] {
        set_mode(Path::new(secret), wrong);
        for arguments in [
            &["--private-file", secret][..],
            &["--turn-secret-file", secret],
            &["--tls-cert", certificate, "--tls-key", secret],
        ] {
            let (code, complaint) = fails(base.path(), &[&["registry", "--listen", "127.0.0.1:0"], arguments].concat());
            assert!(complaint.contains("chmod 600"), "{arguments:?} with {wrong:o}: {code} {complaint}");
        }
    }
    let store = base.path().join("registry.sqlite");
    fs::write(&store, "").expect("a file");
    set_mode(&store, 0o644);
    let (_, complaint) = fails(base.path(), &["registry", "--listen", "127.0.0.1:0"]);
    assert!(complaint.contains("chmod 600"), "{complaint}");
}

/// A node whose folder became another node's must not take that one's socket along when it ends.
#[test]
fn a_node_that_ends_leaves_anothers_socket() {
    let base = tempfile::tempdir().expect("a folder");
    let (old, new) = (init(base.path(), "old"), init(base.path(), "new"));
    let first = Running::start(&old);
    let place = base.path().join("moved");
    fs::rename(&old, &place).expect("a move");
    fs::rename(&new, &old).expect("a move");
    let _second = Running::start(&old);
    // The first one's path is the second one's now.
    first.interrupt();
    assert!(Control::connect(&old).is_some(), "the second node answers");
}

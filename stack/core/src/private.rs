//! Private files: what a node keeps is for its user alone.
//!
//! Keys, messages and tokens stand in these files. Nothing here follows a symbolic link to a file that the node
//! itself names, and a file or folder that another user can change or read is refused, with the command that
//! mends it. Checks look at the opened file, not at its name, which may lead elsewhere a moment later.

mod checks;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
#[cfg(target_os = "linux")]
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::warn;
use zeroize::Zeroizing;

use crate::{Error, Result};
use checks::{
    OTHERS, OTHERS_WRITE, check_file, check_named, check_own, check_owner, check_place, exposed, failed, invalid, link,
    open_folder, parent, user,
};

/// Connections to a socket that wait to be accepted.
#[cfg(target_os = "linux")]
const BACKLOG: i32 = 128;
/// Most bytes of a file that is read whole: all of them are short.
const LONGEST: u64 = 1024 * 1024;
/// How long a pipe may have no writer before the log says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens a file for reading and writing, or makes it, with mode 0600.
///
/// `Invalid` if a symbolic link stands there, another user owns it or may use it, or others may write to its folder.
pub fn open(path: &Path) -> Result<File> {
    check_place(path)?;
    let file = options().read(true).write(true).create(true).truncate(false).open(path).map_err(|e| failed(path, e))?;
    check_own(path, &metadata(path, &file)?)?;
    Ok(file)
}

/// Checks a file as [`open`] does, if there is one: for files that a library opens by name.
pub fn check(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(link(path)),
        Ok(found) => check_own(path, &found),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(path, e)),
    }
}

/// Reads a file that the node keeps, of at most 1 MiB; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<Zeroizing<String>>> {
    let file = match options().read(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| failed(path, e))?,
    };
    check_own(path, &metadata(path, &file)?)?;
    text(path, file).map(Some)
}

/// Reads a secret from a file that the operator names, of at most 1 MiB: a passphrase, a key, tokens.
///
/// Links are followed, since secrets are often handed over by them. `Invalid` if another user than root owns the
/// file, or others may use it; the group may read root's, as service managers and certificate tools set it up.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>> {
    let file = open_named(path)?;
    let found = metadata(path, &file)?;
    check_named(path, &found)?;
    if found.uid() == 0 && user() != 0 {
        if found.mode() & OTHERS & !0o040 != 0 {
            return Err(exposed(path, &found));
        }
    } else {
        check_file(path, &found)?;
    }
    text(path, file)
}

/// A file that others may read unless it holds secrets, but not change.
pub struct Shared {
    /// What stands in it.
    pub text: Zeroizing<String>,
    /// Why it may hold no secret: others can read it.
    pub exposed: Option<Error>,
}

/// Reads a file that decides what the node does, of at most 1 MiB. Links are followed.
///
/// `Invalid` if others than its user and root may write to it.
pub fn read_shared(path: &Path) -> Result<Shared> {
    let file = open_named(path)?;
    let found = metadata(path, &file)?;
    check_named(path, &found)?;
    check_owner(path, &found)?;
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(exposed(path, &found));
    }
    let exposed = (found.mode() & OTHERS != 0).then(|| exposed(path, &found));
    Ok(Shared { text: text(path, file)?, exposed })
}

/// Opens a file that the operator names. It may be a pipe, whose other end is waited for; the log says so if that takes
/// long.
fn open_named(path: &Path) -> Result<File> {
    if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        let (opened, waiting) = mpsc::channel::<()>();
        let name = path.to_path_buf();
        let warned = std::thread::Builder::new().spawn(move || {
            if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                warn!(file = %name.display(), "this file is a pipe, and nothing writes to it yet; waiting");
            }
        });
        // Without a thread it is waited for in silence.
        drop(warned);
        let file = File::open(path).map_err(|e| failed(path, e));
        drop(opened);
        return file;
    }
    File::open(path).map_err(|e| failed(path, e))
}

/// Makes a file with mode 0600 that isn't there yet, with this content; leaves none if that fails.
pub fn create(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = options().write(true).create_new(true).open(path).map_err(|e| failed(path, e))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|e| {
        // What stays would be in the way of the next attempt.
        let _ = fs::remove_file(path);
        failed(path, e)
    })
}

/// Replaces a file by one with mode 0600 and this content: after a crash it is the old one or the new one.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    check_place(path)?;
    let fresh = beside(path, ".new");
    // Left by a crash, or a link that another user put there: the name goes, not what it leads to.
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&fresh, e)),
        _ => create(&fresh, content)?,
    }
    let folder = File::open(parent(path));
    fs::rename(&fresh, path).and(folder).and_then(|folder| folder.sync_all()).map_err(|e| failed(path, e))
}

/// Makes a folder with mode 0700, and those above it; one that is there already is checked instead.
pub fn make_folder(path: &Path) -> Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // Something else is there, or on the way: the check says so.
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed(path, e)),
        _ => check_folder(path),
    }
}

/// Checks a node's folder, if there is one: `Invalid` if others than its user may change what is in it.
pub fn check_folder(path: &Path) -> Result<()> {
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            return Err(invalid(
                path,
                "this symbolic link leads nowhere; make the folder that it names, or use another",
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|e| failed(path, e))?,
    };
    if !found.is_dir() {
        return Err(invalid(path, "this is a file, and a folder is expected; name the node's folder"));
    }
    check_owner(path, &found)?;
    if found.mode() & OTHERS_WRITE == 0 { Ok(()) } else { Err(open_folder(path, &found)) }
}

/// Listens at a socket with mode 0600, in place of one that is there; nobody else can connect at any moment.
///
/// `Invalid` if something other than a socket stands there.
pub fn bind(path: &Path) -> Result<UnixListener> {
    check_place(path)?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(|e| failed(path, e))?,
        Ok(found) if found.is_symlink() => return Err(link(path)),
        Ok(_) => return Err(invalid(path, "a socket is to be made there, but a file has that name; rename the file")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(path, e)),
    }
    listener(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => {
            invalid(path, "the path is too long for a socket; use a shorter one").with_source(e)
        }
        _ => failed(path, e),
    })
}

/// On Linux a socket's file gets the mode that the socket has when it is bound.
#[cfg(target_os = "linux")]
fn listener(path: &Path) -> io::Result<UnixListener> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let address = SocketAddrUnix::new(path).map_err(too_long)?;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Elsewhere the umask alone decides it, which is the whole process's: other threads' files may get a mode that is
/// too strict meanwhile.
#[cfg(not(target_os = "linux"))]
fn listener(path: &Path) -> io::Result<UnixListener> {
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound
}

/// A file's own name as long as it stands there: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64, u64);

impl Identity {
    /// What stands at a path now, without following a link.
    pub fn of(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|found| Self(found.dev(), found.ino()))
    }

    /// Removes the file if it is still this one, and not another that took its place.
    pub fn remove(self, path: &Path) {
        if Self::of(path) == Some(self) {
            // What stays is a name that leads nowhere.
            let _ = fs::remove_file(path);
        }
    }
}

/// A file's name with something after it.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Without waiting: opening a pipe would wait for its other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.mode(0o600).custom_flags(flags.bits() as i32);
    options
}

fn metadata(path: &Path, file: &File) -> Result<Metadata> {
    file.metadata().map_err(|e| failed(path, e))
}

fn text(path: &Path, file: File) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => invalid(path, "it isn't UTF-8; is it the right file?").with_source(e),
        _ => failed(path, e),
    })?;
    if text.len() as u64 > LONGEST {
        return Err(invalid(path, "it is longer than 1 MiB; is it the right file?"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::ErrorKind;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn refused<T>(outcome: Result<T>, word: &str) {
        let error = outcome.err().expect("a refusal");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains(word), "{word}: {error}");
    }

    /// Every call that opens or makes a file of the node at a path.
    fn all(path: &Path) -> [Result<()>; 4] {
        [open(path).map(drop), check(path), read(path).map(drop), read_secret(path).map(drop)]
    }

    #[test]
    fn what_is_made_is_for_its_user_alone() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("a/b");
        make_folder(&folder).unwrap();
        assert_eq!((mode(&folder), mode(folder.parent().unwrap())), (0o700, 0o700));
        let [opened, created, socket] = ["opened", "created", "socket"].map(|name| folder.join(name));
        open(&opened).unwrap();
        create(&created, b"text").unwrap();
        let _listener = bind(&socket).unwrap();
        assert_eq!([&opened, &created, &socket].map(|path| mode(path)), [0o600; 3]);
        assert_eq!(create(&created, b"").err().map(|e| e.kind()), Some(ErrorKind::AlreadyExists));
        replace(&created, b"another").unwrap();
        assert_eq!((mode(&created), read(&created).unwrap().unwrap().as_str()), (0o600, "another"));
        assert_eq!(open(&base.path().join("none/file")).err().map(|e| e.kind()), Some(ErrorKind::NotFound));
    }

    #[test]
    fn modes_that_let_others_in_are_refused_with_the_remedy() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("it's secret");
        fs::write(&file, "text").unwrap();
        for wrong in [0o644, 0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o610, 0o601] {
            set_mode(&file, wrong);
            for outcome in all(&file) {
                refused(outcome, r"chmod 600 '");
            }
        }
        for good in [0o600, 0o400, 0o700] {
            set_mode(&file, good);
            all(&file).into_iter().skip(1).for_each(|outcome| outcome.unwrap());
        }
        for (mode, good) in [(0o600, true), (0o644, true), (0o640, true), (0o664, false), (0o646, false)] {
            set_mode(&file, mode);
            let shared = read_shared(&file);
            assert_eq!(shared.is_ok(), good, "{mode:o}");
            assert!(shared.is_err() || shared.is_ok_and(|shared| shared.exposed.is_some() == (mode != 0o600)));
        }
    }

    #[test]
    fn folders_that_others_can_change_are_refused_with_the_remedy() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("folder");
        fs::create_dir(&folder).unwrap();
        for wrong in [0o777, 0o770, 0o707, 0o775, 0o757, 0o720, 0o702] {
            set_mode(&folder, wrong);
            let path = folder.join("file");
            refused(check_folder(&folder), "chmod 700");
            refused(make_folder(&folder), "chmod 700");
            refused(open(&path), "chmod 700");
            refused(replace(&path, b""), "chmod 700");
            refused(bind(&path), "chmod 700");
            assert!(!path.exists());
        }
        // Like /tmp: nobody removes there what is another's, but it is no place for a node.
        set_mode(&folder, 0o1777);
        refused(check_folder(&folder), "use another folder");
        open(&folder.join("file")).unwrap();
        for good in [0o700, 0o750, 0o755, 0o500] {
            set_mode(&folder, good);
            check_folder(&folder).unwrap();
        }
    }

    #[test]
    fn links_are_not_followed_to_what_they_lead_to() {
        let base = tempfile::tempdir().unwrap();
        let (target, path) = (base.path().join("target"), base.path().join("file"));
        create(&target, b"of another program").unwrap();
        for to in [target.clone(), base.path().join("nothing")] {
            symlink(&to, &path).unwrap();
            refused(open(&path), "symbolic link");
            refused(check(&path), "symbolic link");
            refused(read(&path), "symbolic link");
            refused(bind(&path), "symbolic link");
            assert!(create(&path, b"x").is_err());
            assert_eq!(to.exists(), to == target);
            // A planted temporary file, and then the name itself: both become files of their own.
            symlink(&to, beside(&path, ".new")).unwrap();
            replace(&path, b"own").unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(read(&target).unwrap().unwrap().as_str(), "of another program");
            fs::remove_file(&path).unwrap();
        }
        // Secrets are handed over by links.
        symlink(&target, &path).unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "of another program");
        set_mode(&target, 0o644);
        refused(read_secret(&path), "chmod 600");
        // Neither pipes nor folders are files.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(all(&path).iter().all(Result::is_err));
        assert!(bind(&path).is_err() && path.is_dir());
    }

    #[test]
    fn what_another_user_owns_is_refused_with_the_remedy() {
        let base = tempfile::tempdir().unwrap();
        let (file, folder) = (base.path().join("file"), base.path().join("folder"));
        create(&file, b"text").unwrap();
        make_folder(&folder).unwrap();
        if [&file, &folder].iter().any(|path| chown(path, Some(12345), None).is_err()) {
            let required = std::env::var("PEERLOOM_REQUIRE_LAB").is_ok_and(|value| value == "1");
            assert!(!required, "it must be possible here (PEERLOOM_REQUIRE_LAB=1), but only root gives files away");
            return;
        }
        all(&file).into_iter().for_each(|outcome| refused(outcome, "run this program as that user"));
        refused(read_shared(&file), "run this program as that user");
        refused(check_folder(&folder), "run this program as that user");
    }

    #[test]
    fn a_socket_takes_the_place_of_sockets_alone_and_is_removed_by_its_own_node_alone() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("socket");
        let old = bind(&path).unwrap();
        let olds = Identity::of(&path).unwrap();
        let _new = bind(&path).unwrap();
        let news = Identity::of(&path).unwrap();
        olds.remove(&path);
        assert!(path.exists(), "it is the new one's");
        drop(old);
        news.remove(&path);
        assert!(!path.exists());
        create(&path, b"a store").unwrap();
        refused(bind(&path), "rename");
        assert!(path.is_file());
        refused(bind(&base.path().join("x".repeat(120))), "too long");
    }
}

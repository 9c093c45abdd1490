//! The public segment: a TURN server and a registry.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::hmac;
use data_encoding::BASE64;

use crate::namespace::{self, Namespace};
use crate::process::Process;
use crate::site::{Nat, Site};
use crate::skip;

/// The two public addresses: a STUN server at each, so that a host can tell how its NAT maps.
pub(crate) const PUBLIC: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];
/// The TURN server's port.
const TURN: u16 = 3478;
/// The registry's port.
const REGISTRY: u16 = 7400;
/// How long the TURN server's nonces live when nothing else is said: coturn's default, in seconds.
const NONCE_LIFE: u32 = 600;
/// What the TURN server and the registry share.
const SECRET: &str = "of the lab";
/// Held by whoever has a lab. Only root can write there, so that nobody else's file is in the way.
const LOCK: &str = "/run/peerloom-netlab.lock";

/// A lab without any sites. One at a time on a machine.
pub struct Lab {
    // In the order in which they are to be dropped: processes before the namespace they run in, the lock last.
    turn: Process,
    registry: Option<Process>,
    internet: Namespace,
    sites: u8,
    folder: tempfile::TempDir,
    peerloom: PathBuf,
    _lock: File,
}

impl Lab {
    /// Waits for the lab and builds it, with `peerloom` as the command to run. `None`, with a line on stderr, where
    /// there can't be one.
    pub fn new(peerloom: &str) -> Option<Self> {
        Self::with_nonces(peerloom, NONCE_LIFE)
    }

    /// The same with a TURN server whose nonces end after so many seconds.
    pub fn with_nonces(peerloom: &str, seconds: u32) -> Option<Self> {
        let lock = match lock() {
            Ok(lock) => lock,
            Err(why) => {
                skip(&why);
                return None;
            }
        };
        namespace::sweep();
        let folder = tempfile::tempdir().expect("a folder");
        let internet = Namespace::new("internet");
        internet.ip("link add street type bridge");
        internet.ip("link set street up");
        PUBLIC.iter().for_each(|address| internet.ip(&format!("addr add {} dev street", with_mask(*address))));
        // Packets to private addresses vanish. Without a route the TURN server would see errors, and give up relaying.
        internet.ip("link add void type veth peer name nothing");
        internet.ip("link set void up arp off");
        internet.ip("link set nothing up");
        internet.ip("route add default dev void");
        let turn = turn_server(&internet, folder.path(), seconds);
        let mut lab = Self { turn, registry: None, internet, sites: 0, folder, peerloom: peerloom.into(), _lock: lock };
        lab.start_registry();
        Some(lab)
    }

    /// A new local network behind a router of this kind.
    pub fn site(&mut self, nat: Nat) -> Site {
        self.sites += 1;
        Site::new(self.sites, nat, &self.internet)
    }

    /// Where the lab's files are, until it ends.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command under test.
    pub fn peerloom(&self) -> &Path {
        &self.peerloom
    }

    /// The TURN server, as a node's file names it, with credentials as a registry hands them out.
    pub fn turn_url(&self) -> String {
        // Until the year 2100, in seconds since the Unix epoch.
        let user = "4102444800";
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes());
        let password = BASE64.encode(hmac::sign(&key, user.as_bytes()).as_ref());
        format!("turn:{user}:{password}@{}:{TURN}", PUBLIC[0])
    }

    /// The registry, as nodes call it.
    pub fn registry_url(&self) -> String {
        format!("http://{}:{REGISTRY}", PUBLIC[0])
    }

    fn start_registry(&mut self) {
        let secret = self.folder().join("secret");
        fs::write(&secret, SECRET).expect("a file");
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("permissions");
        let [first, second] = PUBLIC;
        let address = SocketAddr::from((first, REGISTRY));
        let mut command = self.internet.command(&self.peerloom);
        command.arg("-C").arg(self.folder()).args(["-vv", "registry", "--listen", &address.to_string()]);
        command.arg("--turn-secret-file").arg(secret);
        for server in [first, second] {
            command.args(["--stun", &format!("stun:{server}:{TURN}")]);
        }
        command.args(["--turn", &format!("turn:{first}:{TURN}")]);
        command.args(["--turn", &format!("turn:{first}:{TURN}?transport=tcp")]);
        command.env_remove("RUST_LOG").env("NO_COLOR", "1");
        let mut process = Process::start("the registry", command, &self.folder().join("registry.log"));
        process.wait_listening("tcp", address);
        self.registry = Some(process);
    }

    /// SIGKILL.
    pub fn kill_registry(&mut self) {
        self.registry.take().expect("a running registry").kill();
    }

    /// Panics if one of the servers has ended.
    pub fn assert_running(&mut self) {
        self.turn.assert_running();
        if let Some(registry) = &mut self.registry {
            registry.assert_running();
        }
    }
}

fn turn_server(internet: &Namespace, folder: &Path, nonce_life: u32) -> Process {
    // It runs as nobody and writes there.
    let own = folder.join("turn");
    fs::create_dir(&own).expect("a folder");
    fs::set_permissions(&own, Permissions::from_mode(0o777)).expect("permissions");
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("permissions");
    let mut command = internet.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "turnserver", "-n"]);
    for address in PUBLIC {
        command.args(["--listening-ip", &address.to_string()]);
    }
    command.args(["--relay-ip", &PUBLIC[0].to_string(), "--listening-port", &TURN.to_string()]);
    command.args(["--min-port", "49152", "--max-port", "49999", "--realm", "lab", "--fingerprint"]);
    command.args(["--use-auth-secret", "--static-auth-secret", SECRET]);
    command.arg(format!("--stale-nonce={nonce_life}"));
    command.args(["--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout"]);
    command.arg("--pidfile").arg(own.join("pid")).arg("--userdb").arg(own.join("users"));
    command.current_dir(&own);
    let mut process = Process::start("the TURN server", command, &folder.join("turn.log"));
    for address in PUBLIC {
        process.wait_listening("udp", (address, TURN).into());
        process.wait_listening("tcp", (address, TURN).into());
    }
    process
}

/// The public address of a site's router.
pub(crate) fn router(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 100 + site)
}

pub(crate) fn with_mask(address: Ipv4Addr) -> String {
    format!("{address}/24")
}

/// Waits for the lab; or says why there can be none here.
fn lock() -> Result<File, String> {
    let failed = |e| format!("there can be no network lab here; it takes root ({LOCK}: {e})");
    let lock = File::create(LOCK).map_err(failed)?;
    lock.lock().map_err(failed)?;
    for program in ["ip", "nft", "setpriv", "turnserver"] {
        let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.map_err(|e| format!("`{program}` can't be run ({e}); tests/setup-lab.sh installs it"))?;
    }
    namespace::possible()?;
    Ok(lock)
}

//! What an operator decides.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use peerloom_core::{Error, ErrorKind, Result};
use peerloom_registry_protocol::limits;

/// Settings of a registry.
#[derive(Clone)]
pub struct RegistryConfig {
    /// Where to listen, `IP:PORT`. Port 0 takes a free one.
    pub listen: String,
    /// The names by which clients call this registry, `host` or `host:port`, the port left out where it
    /// is the scheme's own. Devices answer challenges for these names only. Empty: the listen address.
    pub names: Vec<String>,
    /// The SQLite file; `:memory:` for none.
    pub store: PathBuf,
    /// A certificate and its key. Without them the registry speaks plain HTTP: behind a proxy that does
    /// TLS, or for tests.
    pub tls: Option<TlsFiles>,
    /// Whether the address of a client is the last one in `X-Forwarded-For`. Only behind a proxy that
    /// sets it: otherwise clients could choose their address, and so their rate limit.
    pub trust_forwarded: bool,
    /// Whether devices may announce addresses that point inward: loopback, link-local, or in a local
    /// network of this machine. `None`: only where the registry is for this machine, which is where it
    /// listens on a loopback address, has no `names` and doesn't `trust_forwarded`.
    pub allow_local: Option<bool>,
    /// Private networks: name or id, and the token that each call needs.
    pub networks: BTreeMap<String, String>,
    /// Whether networks that aren't in `networks` are refused.
    pub only_listed: bool,
    /// Leading zero bits of the work that an announcement needs; 0 for none, at most 24.
    pub work_bits: u32,
    /// STUN and TURN servers to hand out.
    pub ice: IceConfig,
    /// Bounds.
    pub limits: Limits,
    /// Durations.
    pub times: Times,
}

/// A certificate chain and its private key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, this server's certificate first.
    pub certificate: PathBuf,
    /// The key (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
}

/// STUN and TURN servers.
#[derive(Clone, PartialEq, Eq)]
pub struct IceConfig {
    /// `stun:` URLs.
    pub stun: Vec<String>,
    /// `turn:` and `turns:` URLs.
    pub turn: Vec<String>,
    /// The secret that the TURN server shares with this registry: coturn's `static-auth-secret`.
    /// Without it TURN servers are handed out without credentials.
    pub turn_secret: Option<String>,
    /// How long credentials are valid; at least a minute.
    pub ttl: Duration,
}

impl Default for IceConfig {
    fn default() -> Self {
        Self { stun: Vec::new(), turn: Vec::new(), turn_secret: None, ttl: Duration::from_secs(12 * 60 * 60) }
    }
}

/// Bounds of what clients may take. A rate of 0 means no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time, WebSockets included.
    pub connections: usize,
    /// Most connections at a time from one address, and most WebSockets. An address is one of IPv4 or a /64 of
    /// IPv6, here and below; a /56 has 4 times as much of everything, and a /48 16 times. With
    /// `trust_forwarded` all connections come from the proxy; WebSockets alone are counted then, by the
    /// address that it names.
    pub connections_per_address: usize,
    /// Requests a second from one address, on average.
    pub address_per_second: u32,
    /// Requests from one address at once.
    pub address_burst: u32,
    /// Devices a second from one address that the registry doesn't know yet, on average.
    pub new_devices_per_second: u32,
    /// Devices from one address at once that the registry doesn't know yet.
    pub new_devices_burst: u32,
    /// Announcements, hellos and heartbeats a second of one device, on average.
    pub device_per_second: u32,
    /// Announcements, hellos and heartbeats of one device at once.
    pub device_burst: u32,
    /// Signals a second that one device sends, on average and over all its sockets. One that sends faster is
    /// read more slowly.
    pub signals_per_second: u32,
    /// Signals that one device sends at once.
    pub signals_burst: u32,
    /// Bytes a second that one WebSocket is read, on average.
    pub socket_bytes_per_second: u32,
    /// Bytes of one WebSocket that are read at once.
    pub socket_bytes_burst: u32,
    /// Signals that wait for one device.
    pub queue: usize,
    /// Devices in the store.
    pub devices: u64,
    /// Bytes of items other than records in the store.
    pub item_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 256,
            address_per_second: 50,
            address_burst: 200,
            new_devices_per_second: 2,
            new_devices_burst: 1000,
            device_per_second: 1,
            device_burst: 30,
            signals_per_second: 100,
            signals_burst: 500,
            socket_bytes_per_second: 256 * 1024,
            socket_bytes_burst: 2 * 1024 * 1024,
            queue: 64,
            devices: 1_000_000,
            item_bytes: 1 << 30,
        }
    }
}

/// How long things may take, and how long they count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// For TLS, and for a request's head; also how long an idle connection stays open.
    pub head: Duration,
    /// For a whole request.
    pub request: Duration,
    /// For a hello after the challenge.
    pub hello: Duration,
    /// Between pings.
    pub ping: Duration,
    /// After which a silent socket is dropped.
    pub silence: Duration,
    /// How long a device counts as online after it announced itself, unless it had a socket and closed it.
    pub online: Duration,
    /// How long a heartbeat makes a coordinator.
    pub coordinator: Duration,
    /// After which a device that isn't seen is forgotten.
    pub stale: Duration,
    /// How long a coordinator that a user's device named counts as one that saw the user.
    pub seen_by: Duration,
    /// How long an item other than a record is kept after it was published, if it doesn't expire before.
    pub items: Duration,
    /// Between two rounds of forgetting.
    pub clean: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head: seconds(5),
            request: seconds(10),
            hello: seconds(10),
            ping: seconds(30),
            silence: seconds(75),
            online: seconds(15 * 60),
            coordinator: seconds(2 * 60),
            stale: seconds(60 * 60),
            seen_by: seconds(24 * 60 * 60),
            items: seconds(7 * 24 * 60 * 60),
            clean: seconds(5 * 60),
        }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7400".into(),
            names: Vec::new(),
            store: "registry.sqlite".into(),
            tls: None,
            trust_forwarded: false,
            allow_local: None,
            networks: BTreeMap::new(),
            only_listed: false,
            work_bits: 0,
            ice: IceConfig::default(),
            limits: Limits::default(),
            times: Times::default(),
        }
    }
}

impl RegistryConfig {
    /// Checks what types can't say. No I/O.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::new(ErrorKind::Invalid, "registry", "configure", message));
        if self.listen.parse::<std::net::SocketAddr>().is_err() {
            return wrong(format!("listen: `{}` is not an address such as 0.0.0.0:7400 or [::]:7400", self.listen));
        }
        if self.work_bits > limits::WORK_BITS {
            return wrong(format!("work_bits: clients do at most {} bits", limits::WORK_BITS));
        }
        let bad_name = |name: &&String| {
            name.is_empty() || name.len() > limits::REGISTRY_NAME || name.contains('/') || name.contains(' ')
        };
        if let Some(name) = self.names.iter().find(bad_name) {
            return wrong(format!("names: `{name}` is not a host or host:port; leave out the scheme"));
        }
        let bad_token = |token: &String| {
            token.is_empty() || token.len() > limits::TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if self.networks.values().any(bad_token) {
            let most = limits::TOKEN;
            return wrong(format!("networks: a token takes from 1 to {most} characters of ASCII without spaces"));
        }
        if self.only_listed && self.networks.is_empty() {
            return wrong("only_listed: without any networks nobody could use the registry; list one".into());
        }
        if self.ice.ttl < Duration::from_secs(60) {
            return wrong("ice.ttl: credentials must last for a minute at least".into());
        }
        if self.limits.queue == 0 || self.limits.connections == 0 {
            return wrong("limits: queue and connections take 1 at least".into());
        }
        let Times { head, request, hello, ping, silence, online, coordinator, stale, seen_by, items, clean } =
            self.times;
        let all = [head, request, hello, ping, silence, online, coordinator, stale, seen_by, items, clean];
        if all.contains(&Duration::ZERO) {
            return wrong("times: none of them can be zero".into());
        }
        Ok(())
    }
}

// Tokens and secrets stay out of logs.
impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("listen", &self.listen)
            .field("names", &self.names)
            .field("store", &self.store)
            .field("tls", &self.tls)
            .field("networks", &self.networks.keys())
            .field("only_listed", &self.only_listed)
            .field("work_bits", &self.work_bits)
            .field("ice", &self.ice)
            .field("limits", &self.limits)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceConfig")
            .field("stun", &self.stun)
            .field("turn", &self.turn)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

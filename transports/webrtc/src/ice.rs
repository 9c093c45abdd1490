//! STUN and TURN servers: how they are written, which are used.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerloom_core::IceServer;
use peerloom_core::names::{self, Resolver};
use tokio::sync::Mutex as AsyncMutex;
use tracing::{debug, warn};
use webrtc::peer_connection::RTCIceServer;

use crate::guard::Guard;
use crate::stun;
use crate::turn::{self, Relay};

/// Servers of each kind that a connection uses: each costs a candidate for each local address.
const USED: usize = 2;
/// Most servers that are looked at.
const MOST: usize = 16;
/// How long a measurement counts.
const FRESH: Duration = Duration::from_secs(120);
/// How long it counts that none answers: those who wait for it shouldn't ask again one by one.
const FRESH_MISS: Duration = Duration::from_secs(10);
/// How long a name may take to be resolved, or a server to be connected to.
const WAIT: Duration = Duration::from_secs(2);
/// Where STUN and TURN servers listen when nothing else is said (RFC 8489 §18.4).
const PORT: u16 = 3478;

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Stun,
    Turn,
    /// TURN that is reached over TCP (RFC 8656 §2.1).
    TurnTcp,
}

/// One server, as it is written.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) role: Role,
    pub(crate) host: String,
    pub(crate) port: u16,
    username: String,
    credential: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Server {
    /// Without the credential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, query) = match self.role {
            Role::Stun => ("stun", ""),
            Role::Turn => ("turn", ""),
            Role::TurnTcp => ("turn", "?transport=tcp"),
        };
        write!(f, "{scheme}:{}:{}{query}", self.host, self.port)
    }
}

impl Server {
    /// Its addresses; `None` if its name can't be resolved. A STUN server answers sockets of its own family only, so
    /// others than that of `own` are left out.
    pub(crate) async fn resolve(&self, resolver: &Resolver, own: IpAddr) -> Option<Vec<SocketAddr>> {
        let lookup = resolver.lookup(&self.host, self.port);
        let mut found = tokio::time::timeout(WAIT, lookup).await.ok()?.ok()?;
        found.retain(|address| self.role != Role::Stun || address.is_ipv4() == own.is_ipv4());
        Some(found)
    }

    /// The first of its addresses that answers, in the order of RFC 8305, and how far it is; `None` if none does.
    pub(crate) async fn measure(&self, resolver: &Resolver, own: IpAddr) -> Option<(SocketAddr, Duration)> {
        let addresses = self.resolve(resolver, own).await?;
        self.first_of(addresses).await
    }

    async fn first_of(&self, addresses: Vec<SocketAddr>) -> Option<(SocketAddr, Duration)> {
        names::race(addresses, |address| async move { self.ask(address).await.ok_or(()) }).await?.ok()
    }

    async fn ask(&self, address: SocketAddr) -> Option<(SocketAddr, Duration)> {
        if self.role == Role::TurnTcp {
            let begin = Instant::now();
            tokio::time::timeout(WAIT, tokio::net::TcpStream::connect(address)).await.ok()?.ok()?;
            return Some((address, begin.elapsed()));
        }
        let socket = stun::socket(address).await?;
        let binding = stun::ask(&socket, address).await?;
        Some((address, binding.round_trip))
    }
}

/// Reads a server: `stun:HOST[:PORT]`, `turn:[USER:PASSWORD@]HOST[:PORT][?transport=udp|tcp]`.
pub(crate) fn parse(text: &str) -> Result<Server, String> {
    let example = "expected \"stun:HOST:PORT\" or \"turn:USER:PASSWORD@HOST:PORT\"";
    // The text may hold a password; it is not repeated.
    let shown = text.rsplit('@').next().unwrap_or_default();
    let wrong = |what: &str| format!("`{shown}` {what}; {example}");
    let (scheme, rest) = text.split_once(':').ok_or_else(|| wrong("is not a server"))?;
    let turn = match scheme {
        "stun" => false,
        "turn" => true,
        "turns" | "stuns" => return Err(wrong("asks for TLS, which isn't supported: use turn: with ?transport=tcp")),
        _ => return Err(wrong("is neither a STUN nor a TURN server")),
    };
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let role = match (turn, query) {
        (false, _) => Role::Stun,
        (true, "" | "transport=udp") => Role::Turn,
        (true, "transport=tcp") => Role::TurnTcp,
        _ => return Err(wrong("has an unknown query; only ?transport=udp and ?transport=tcp are known")),
    };
    let (user, place) = rest.rsplit_once('@').map_or(("", rest), |(user, place)| (user, place));
    let (username, credential) = match user.split_once(':') {
        Some((name, password)) => (percent_decode(name), percent_decode(password)),
        None if user.is_empty() => (Some(String::new()), Some(String::new())),
        None => return Err(wrong("names a user and no password")),
    };
    let (Some(username), Some(credential)) = (username, credential) else {
        return Err(wrong("has a broken percent-encoding in its user or password"));
    };
    let (host, port) = match place.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(PORT), str::parse).map_err(|_| wrong("has no port between 1 and 65535"))?;
    if host.is_empty() || host.len() > 253 || host.contains(['/', ' ', ':']) && !host.contains("::") || port == 0 {
        return Err(wrong("names no host"));
    }
    Ok(Server { role, host: host.into(), port, username, credential })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// Reads the servers that a registry, or a person, names; what can't be used is left out with a word.
pub(crate) fn read(servers: &[IceServer]) -> Result<Vec<Server>, String> {
    let mut read = Vec::new();
    for server in servers {
        for url in &server.urls {
            let mut parsed = parse(url)?;
            if parsed.username.is_empty() {
                parsed.username = server.username.clone().unwrap_or_default();
                parsed.credential = server.credential.clone().unwrap_or_default();
            }
            if parsed.role != Role::Stun && (parsed.username.is_empty() || parsed.credential.is_empty()) {
                return Err(format!("`{parsed}` lacks a user and a password; write turn:USER:PASSWORD@HOST:PORT"));
            }
            read.push(parsed);
        }
    }
    Ok(read)
}

/// Names of servers that are looked up at once.
const LOOKUPS: usize = 4;

/// The servers in use, and how far they were when last looked at.
pub(crate) struct Servers {
    configured: Mutex<Vec<Server>>,
    resolver: Resolver,
    measured: AsyncMutex<Option<Measured>>,
}

struct Measured {
    of: Vec<Server>,
    at: Instant,
    /// Nearest first; those that don't answer are left out.
    found: Vec<(Server, SocketAddr)>,
}

/// What a connection is given, with what must live as long as it does.
pub(crate) struct Prepared {
    pub(crate) servers: Vec<RTCIceServer>,
    /// It knows the servers.
    pub(crate) guard: Arc<Guard>,
    pub(crate) relays: Vec<Relay>,
}

impl Servers {
    pub(crate) fn new(configured: Vec<Server>) -> Self {
        let resolver = Resolver::new(LOOKUPS);
        Self { configured: Mutex::new(configured), resolver, measured: AsyncMutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Server>> {
        self.configured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, servers: Vec<Server>) {
        *self.lock() = servers;
    }

    pub(crate) fn configured(&self) -> Vec<Server> {
        self.lock().clone()
    }

    /// The configured servers and those that the signaling offers, nearest first; each is asked at
    /// most every two minutes.
    async fn nearest(&self, offered: Vec<IceServer>, own: IpAddr) -> Vec<(Server, SocketAddr)> {
        let mut all = self.configured();
        for server in offered {
            match read(&[server]) {
                Ok(servers) => all.extend(servers),
                Err(error) => debug!(error, "a server that was offered can't be used"),
            }
        }
        all.truncate(MOST);
        if all.is_empty() {
            return Vec::new();
        }
        let mut measured = self.measured.lock().await;
        let fresh = |m: &&Measured| m.at.elapsed() < if m.found.is_empty() { FRESH_MISS } else { FRESH };
        if let Some(known) = measured.as_ref().filter(|m| m.of == all).filter(fresh) {
            return known.found.clone();
        }
        let asked = futures_util::future::join_all(all.iter().map(|server| server.measure(&self.resolver, own))).await;
        let mut found: Vec<_> = all.iter().cloned().zip(asked).filter_map(|(s, m)| m.map(|m| (s, m))).collect();
        found.sort_by_key(|(_, (_, distance))| *distance);
        for server in all.iter().filter(|server| !found.iter().any(|(answering, _)| answering == *server)) {
            warn!(%server, "a STUN or TURN server doesn't answer");
        }
        let found: Vec<_> = found.into_iter().map(|(server, (address, _))| (server, address)).collect();
        *measured = Some(Measured { of: all, at: Instant::now(), found: found.clone() });
        found
    }

    /// The resolver for the servers' names.
    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What the next connection uses, from sockets of the family of `own`.
    pub(crate) async fn prepare(&self, offered: Vec<IceServer>, own: IpAddr, guard: Arc<Guard>) -> Prepared {
        let mut prepared = Prepared { servers: Vec::new(), guard, relays: Vec::new() };
        let mut used = [0; 2];
        for (server, address) in self.nearest(offered, own).await {
            let count = &mut used[usize::from(server.role != Role::Stun)];
            if *count >= USED {
                continue;
            }
            let (url, at, (username, credential)) = if server.role == Role::Stun {
                (format!("stun:{address}"), address, Default::default())
            } else {
                let over_tcp = server.role == Role::TurnTcp;
                let (username, password) = (server.username.clone(), server.credential.clone());
                let upstream = turn::Server { address, over_tcp, username, password };
                match Relay::open(upstream, own, prepared.guard.clone()).await {
                    Ok(relay) => {
                        let (at, credentials) = (relay.address(), relay.credentials());
                        prepared.relays.push(relay);
                        (format!("turn:{at}?transport=udp"), at, credentials)
                    }
                    Err(error) => {
                        warn!(%server, %error, "a TURN server can't be used");
                        continue;
                    }
                }
            };
            *count += 1;
            prepared.guard.trust(at);
            prepared.servers.push(RTCIceServer { urls: vec![url], username, credential });
        }
        prepared
    }
}

#[cfg(test)]
mod tests {
    use rtc::stun::message::{BINDING_SUCCESS, Message};
    use rtc::stun::xoraddr::XorMappedAddress;
    use tokio::net::{TcpListener, UdpSocket};

    use super::*;

    /// Answers binding requests.
    async fn stun_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let (mut request, mut answer) = (Message::new(), Message::new());
                request.unmarshal_binary(&buffer[..length]).unwrap();
                let seen = XorMappedAddress { ip: from.ip(), port: from.port() };
                answer.build(&[Box::new(request.transaction_id), Box::new(BINDING_SUCCESS), Box::new(seen)]).unwrap();
                socket.send_to(&answer.raw, from).await.unwrap();
            }
        });
        address
    }

    /// A name of several addresses, of which only the last answers.
    #[tokio::test]
    async fn dead_addresses_of_a_name_keep_nobody_from_the_live_one() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dead = vec![silent.local_addr().unwrap(); 5];
        let live = stun_server().await;
        for text in ["stun:server.example", "turn:u:p@server.example"] {
            let found = parse(text).unwrap().first_of([dead.clone(), vec![live]].concat()).await;
            assert_eq!(found.map(|(address, _)| address), Some(live), "{text}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let over_tcp = parse("turn:u:p@server.example?transport=tcp").unwrap();
        let found = over_tcp.first_of([dead, vec![live]].concat()).await;
        assert_eq!(found.map(|(address, _)| address), Some(live));
    }

    #[test]
    fn servers_are_read_as_they_are_written() {
        let server = parse("turn:al%3Aice:p%40ss@turn.example:3479?transport=tcp").unwrap();
        assert_eq!((server.username.as_str(), server.credential.as_str()), ("al:ice", "p@ss"));
        assert_eq!(server.to_string(), "turn:turn.example:3479?transport=tcp");
        assert_eq!(parse("stun:192.0.2.1").unwrap().to_string(), "stun:192.0.2.1:3478");
        assert_eq!(parse("stun:[2001:db8::1]:5").unwrap().host, "2001:db8::1");
    }

    #[test]
    fn what_is_no_server_is_refused_without_showing_a_password() {
        let bad = ["", "stun:", "http://x", "turns:u:p@h", "turn:u@h", "turn:u:secret@h:0", "turn:u:secret@h?x=y"];
        for text in bad.into_iter().chain(["turn:u:%zz@h", "stun:h:99999", "stun:a b"]) {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        let naked = IceServer { urls: vec!["turn:h".into()], username: None, credential: None };
        assert!(read(&[naked]).is_err(), "TURN without a user");
    }
}

//! Names of hosts and their addresses, dialed as RFC 8305 ("Happy Eyeballs") says: one address that is dead
//! keeps nobody from the next.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

/// Most addresses of one name that are dialed.
const ADDRESSES: usize = 16;
/// The head start of one address over the next (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);
/// It is shorter where there are many addresses: within this time all of them are being dialed.
const ALL_WITHIN: Duration = Duration::from_secs(2);
/// Longest name, in bytes (RFC 1035 §2.3.4, without the length bytes).
const NAME: usize = 253;

/// A host and a port: `192.0.2.1:4433`, `[2001:db8::1]:4433`, `host.example:4433`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPort {
    /// An IP address; never an IPv4 address inside an IPv6 one.
    Ip(SocketAddr),
    /// A name, to be looked up at each use.
    Name(String, u16),
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a host and a port, such as \"192.0.2.1:4433\" or \"host.example:4433\"");
        if let Ok(place) = text.parse::<SocketAddr>() {
            return if place.port() == 0 { Err(wrong()) } else { Ok(Self::Ip(canonical(place))) };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || name.len() > NAME || !name.bytes().all(good) {
            return Err(wrong());
        }
        // Resolvers take 127.1, 0x7f000001 and 2130706433 for IPv4 addresses, as the URL standard does.
        let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if number(last) || last.to_ascii_lowercase().strip_prefix("0x").is_some_and(hex) {
            return Err(wrong());
        }
        Ok(Self::Name(name.into(), port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(place) => place.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// The same address, as IPv4 where it is an IPv4 address inside an IPv6 one.
pub fn canonical(place: SocketAddr) -> SocketAddr {
    match place.ip().to_canonical() {
        ip if ip == place.ip() => place,
        ip => SocketAddr::new(ip, place.port()),
    }
}

/// Looks up names with the system's resolver, a bounded number at once.
///
/// A look-up can't be broken off: its thread ends when the system gives up. So that a peer that chooses names can't take
/// all threads of the process, each user of names has a resolver of its own.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Semaphore>);

impl Resolver {
    /// Looks up at most `at_once` names at a time; more wait.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// The addresses of a place, at most 16, in the order in which they are to be dialed: as the system prefers
    /// (RFC 6724), with the families taking turns (RFC 8305 §4). It has no time limit of its own, and dropping the
    /// call is fine.
    pub async fn resolve(&self, place: &HostPort) -> io::Result<Vec<SocketAddr>> {
        match place {
            HostPort::Ip(place) => Ok(vec![*place]),
            HostPort::Name(name, port) => self.lookup(name, *port).await,
        }
    }

    /// As [`resolve`](Resolver::resolve), for a host that is written without a port.
    pub async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
        });
        Ok(in_turns(found.await.map_err(io::Error::other)??))
    }
}

/// Lets the families take turns, beginning with the first address's.
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = found.into_iter().map(canonical).partition(|place| place.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns: Vec<SocketAddr> = Vec::new();
    loop {
        let pair = [one.next(), other.next()];
        if pair == [None, None] {
            turns.truncate(ADDRESSES);
            return turns;
        }
        for place in pair.into_iter().flatten() {
            if !turns.contains(&place) {
                turns.push(place);
            }
        }
    }
}

/// Tries the candidates in their order, each a little after the one before, or as soon as one has failed (RFC 8305
/// §5). The first success counts, and the other attempts are dropped; without one, the last failure. `None` where
/// there are no candidates.
pub async fn race<A, T, E, F>(candidates: Vec<A>, attempt: impl Fn(A) -> F) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let head_start = ALL_WITHIN.div_f64(candidates.len().max(1) as f64).min(HEAD_START);
    let mut waiting = candidates.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failed = None;
    loop {
        match waiting.next() {
            Some(candidate) => running.push(attempt(candidate)),
            None if running.is_empty() => return failed.map(Err),
            None => {}
        }
        tokio::select! {
            biased;
            Some(outcome) = running.next() => match outcome {
                Ok(success) => return Some(Ok(success)),
                Err(error) => failed = Some(error),
            },
            () = tokio::time::sleep(head_start), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn places_are_read_strictly() {
        let shown = |text: &str| text.parse::<HostPort>().map(|place| place.to_string());
        for good in ["192.0.2.1:4433", "[2001:db8::1]:4433", "host.example:1", "my_host:65535", "h.:1", "7seas:1"] {
            assert_eq!(shown(good).as_deref(), Ok(good));
        }
        assert_eq!(shown("[::ffff:192.0.2.1]:4433").as_deref(), Ok("192.0.2.1:4433"));
        let hidden = ["127.1:1", "0x7f000001:1", "2130706433:1", "1.2.3.4.:1", "x.0X7f:1"];
        for bad in ["", ":1", "host", "host:0", "host:65536", "192.0.2.1:0", "2001:db8::1:1", "a b:1", "a/b:1", ".:1"]
            .into_iter()
            .chain(hidden)
        {
            assert!(shown(bad).is_err(), "{bad}");
        }
        assert!(format!("{}.example:1", "a".repeat(NAME)).parse::<HostPort>().is_err());
    }

    #[test]
    fn families_take_turns() {
        let order = |found: &[&str]| -> Vec<String> {
            in_turns(found.iter().map(|a| a.parse().unwrap()).collect()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            order(&["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1", "192.0.2.1:1"]),
            ["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1"]
        );
        assert_eq!(order(&["192.0.2.1:1", "[2001:db8::1]:1"]), ["192.0.2.1:1", "[2001:db8::1]:1"]);
        assert_eq!(order(&["[::ffff:192.0.2.1]:1"]), ["192.0.2.1:1"]);
        let many: Vec<String> = (0..200).map(|n| format!("192.0.2.{n}:1")).collect();
        assert_eq!(order(&many.iter().map(String::as_str).collect::<Vec<_>>()).len(), ADDRESSES);
    }

    /// What becomes of an attempt.
    #[derive(Clone, Copy)]
    enum Fate {
        Silent,
        Refused,
        Answers,
    }

    async fn attempt((number, fate): (usize, Fate)) -> Result<usize, usize> {
        match fate {
            Fate::Silent => pending().await,
            Fate::Refused => Err(number),
            Fate::Answers => Ok(number),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_dead_addresses_keeps_nobody_from_the_next() {
        let begin = Instant::now();
        for dead in 0..ADDRESSES {
            let mut fates = vec![Fate::Silent; dead];
            fates.push(Fate::Answers);
            let won = race(fates.into_iter().enumerate().collect(), attempt).await;
            assert_eq!(won, Some(Ok(dead)));
            assert!(begin.elapsed() <= ALL_WITHIN * (dead as u32 + 1), "{dead} dead addresses");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once() {
        let begin = Instant::now();
        let fates = [Fate::Refused, Fate::Refused, Fate::Answers];
        assert_eq!(race(fates.into_iter().enumerate().collect(), attempt).await, Some(Ok(2)));
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let fates = [Fate::Refused, Fate::Refused];
        assert_eq!(race(fates.into_iter().enumerate().collect(), attempt).await, Some(Err(1)));
        assert_eq!(race(Vec::new(), attempt).await, None);
    }

    #[tokio::test]
    async fn a_name_is_looked_up() {
        let resolver = Resolver::new(1);
        let found = resolver.resolve(&"localhost:7".parse().unwrap()).await.expect("addresses");
        assert!(!found.is_empty() && found.iter().all(|place| place.ip().is_loopback() && place.port() == 7));
        assert!(resolver.lookup("no-such-host.invalid", 7).await.is_err());
    }
}

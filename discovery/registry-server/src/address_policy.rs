//! Addresses that point inward. Whoever announces one could send the registry's clients to services of
//! their own machine or network, or of the registry's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{PoisonError, RwLock};

use axum::http::StatusCode;
use peerloom_core::interfaces::own_addresses;
use peerloom_core::wire::Address;
use peerloom_registry_protocol::code;

use crate::error::ApiError;

/// Which addresses may be announced.
pub(crate) struct AddressPolicy {
    allow: bool,
    /// The machine's own networks, as address and length of the prefix in bits.
    lans: RwLock<Vec<(IpAddr, u32)>>,
}

/// Why an address isn't one to announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It leads to the reader itself, to no device, or can't be told where.
    Never(&'static str),
    /// It is in a network of the registry's machine. Private ones have the same addresses everywhere, so it
    /// may be meant for another one: a device behind Docker's usual bridge, say.
    Lan,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Self::Never(why) => why,
            Self::Lan => "is in a local network of the registry's machine",
        }
    }
}

impl AddressPolicy {
    /// With `allow`, everything may be announced.
    pub(crate) fn new(allow: bool) -> Self {
        let policy = Self { allow, lans: RwLock::default() };
        policy.refresh();
        policy
    }

    /// Looks at the machine's networks anew.
    pub(crate) fn refresh(&self) {
        if self.allow {
            return;
        }
        let Ok(own) = own_addresses() else { return };
        let lans = own.iter().filter_map(|own| {
            let host = if own.ip.is_ipv4() { 32 } else { 128 };
            // A host route is no network, and what contains everything is no local one.
            (1..host).contains(&own.prefix).then_some((own.ip, u32::from(own.prefix)))
        });
        *self.lans.write().unwrap_or_else(PoisonError::into_inner) = lans.collect();
    }

    /// Refuses an address that points inward.
    pub(crate) fn check(&self, address: &Address) -> Result<(), ApiError> {
        match self.fault(address) {
            Some(fault) => Err(refusal(address, fault)),
            None => Ok(()),
        }
    }

    /// Refuses a record's addresses if one of them can't be meant for others, or if all of them are in the
    /// registry's own networks.
    pub(crate) fn check_all(&self, addresses: &[Address]) -> Result<(), ApiError> {
        let faults: Vec<_> = addresses.iter().map(|address| (address, self.fault(address))).collect();
        for (address, fault) in &faults {
            if let Some(fault @ Fault::Never(_)) = fault {
                return Err(refusal(address, *fault));
            }
        }
        match faults.first() {
            Some((address, Some(fault))) if faults.iter().all(|(_, fault)| fault.is_some()) => {
                Err(refusal(address, *fault))
            }
            _ => Ok(()),
        }
    }

    fn fault(&self, address: &Address) -> Option<Fault> {
        if self.allow {
            return None;
        }
        match host(address.rest()) {
            Err(why) => Some(Fault::Never(why)),
            Ok(Host::Ip(ip)) => self.ip_fault(ip),
            Ok(Host::Name(name)) => name_fault(&name).map(Fault::Never),
        }
    }

    fn ip_fault(&self, ip: IpAddr) -> Option<Fault> {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return Some(Fault::Never("is a loopback address"));
        }
        if ip.is_unspecified() || matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0) {
            return Some(Fault::Never("is no address of a device"));
        }
        if ip.is_multicast() || matches!(ip, IpAddr::V4(Ipv4Addr::BROADCAST)) {
            return Some(Fault::Never("is an address of many devices"));
        }
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if link_local {
            return Some(Fault::Never("is a link-local address"));
        }
        let lans = self.lans.read().unwrap_or_else(PoisonError::into_inner);
        if lans.iter().any(|lan| within(ip, *lan)) {
            return Some(Fault::Lan);
        }
        drop(lans);
        match ip {
            IpAddr::V6(v6) => embedded(v6).and_then(|v4| self.ip_fault(IpAddr::V4(v4))),
            IpAddr::V4(_) => None,
        }
    }
}

fn refusal(address: &Address, fault: Fault) -> ApiError {
    let message = format!(
        "{address} {}, where others can't reach the device: announce a public address or none; \
         in a closed network the registry's operator may allow local addresses (allow_local)",
        fault.text()
    );
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code::INWARD_ADDRESS, message)
}

enum Host {
    Ip(IpAddr),
    Name(String),
}

/// The host in what follows `scheme://`, without port and path. Strict: what programs read in different ways
/// (backslashes, percent signs, users, zones) could be harmless for this one and not for another.
fn host(rest: &str) -> Result<Host, &'static str> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some(rest) = authority.strip_prefix('[') {
        let (ip, port) = rest.split_once(']').ok_or("has no host that can be read")?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| "has no host that can be read")?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_number) {
            return Err("has no port that can be read");
        }
        return Ok(Host::Ip(ip.into()));
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    if !port.is_empty() && !is_number(port) {
        return Err("has no port that can be read; IPv6 addresses stand in brackets");
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || !host.bytes().all(good) {
        return Err("has no host that can be read");
    }
    Ok(host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Ip))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The IPv4 address that packets to an IPv6 one may be sent on to.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = ip.to_bits();
    let low = Ipv4Addr::from_bits((bits & u128::from(u32::MAX)) as u32);
    match ip.segments() {
        // IPv4-compatible (RFC 4291 §2.5.5.1) and NAT64 (RFC 6052 §2.1).
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(low),
        // 6to4 (RFC 3056 §2).
        [0x2002, ..] => Some(Ipv4Addr::from_bits((bits >> 80) as u32)),
        _ => None,
    }
}

/// Names aren't resolved: one may lead anywhere, and elsewhere tomorrow.
fn name_fault(name: &str) -> Option<&'static str> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.is_empty() {
        return Some("has no host that can be read");
    }
    if last == "localhost" {
        return Some("is a loopback address");
    }
    // Many resolvers take 127.1, 0x7f000001 or 2130706433 for IPv4 addresses, as the URL standard does.
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    (hex || is_number(last)).then_some("is an IP address in a form that hides it")
}

fn within(ip: IpAddr, (lan, bits): (IpAddr, u32)) -> bool {
    match (ip, lan) {
        (IpAddr::V4(ip), IpAddr::V4(lan)) => (ip.to_bits() ^ lan.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(ip), IpAddr::V6(lan)) => (ip.to_bits() ^ lan.to_bits()).leading_zeros() >= bits,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_points_inward_is_refused() {
        let lans = vec![("192.168.7.1".parse().unwrap(), 24), ("2001:db8:7::1".parse().unwrap(), 64)];
        let policy = AddressPolicy { allow: false, lans: RwLock::new(lans) };
        let refused = |text: &str| policy.check(&text.parse().unwrap()).is_err();
        for text in [
            "quic://127.0.0.1:1",
            "quic://127.9.9.9:1",
            "quic://[::1]:1",
            "quic://[::ffff:127.0.0.1]:1",
            "quic://0.0.0.0:1",
            "quic://0.1.2.3:1",
            "quic://[::]:1",
            "quic://169.254.169.254:80",
            "quic://[fe80::1]:1",
            "quic://[fe80::1%25eth0]:1",
            "quic://224.0.0.251:5353",
            "quic://255.255.255.255:1",
            "quic://[ff02::fb]:1",
            "quic://192.168.7.99:1",
            "wss://localhost:1/path",
            "wss://x.localhost./",
            "wss://user@127.0.0.1/",
            "wss://127.1/",
            "wss://0x7f000001/",
            "wss://2130706433/",
            "tcp://::1",
            "tcp://::1:80",
            "tcp://fe80::1%eth0",
            "wss://user@relay.example/",
            "wss://127.0.0.1\\@relay.example/",
            "wss://relay.example\\.127.0.0.1/",
            "wss://%31%32%37.0.0.1/",
            "wss:///path",
            "wss://:80/",
            "wss://./",
            "quic://[::1",
            "quic://[::1]x:1",
            "quic://relay.example:port",
            "quic://[64:ff9b::7f00:1]:1",
            "quic://[64:ff9b::192.168.7.9]:1",
            "quic://[::127.0.0.1]:1",
            "quic://[2002:7f00:1::]:1",
            "quic://[2002:a9fe:a9fe::1]:1",
            "quic://[2001:db8:7::99]:1",
        ] {
            assert!(refused(text), "{text}");
        }
        for text in [
            "quic://192.0.2.1:4433",
            "quic://192.168.8.99:1",
            "quic://[2001:db8::1]:1",
            "wss://relay.example/signal",
            "wss://1.example/",
            "quic://[64:ff9b::192.0.2.1]:1",
            "quic://[2002:c000:201::1]:1",
            "webrtc://registry",
        ] {
            assert!(!refused(text), "{text}");
        }
    }

    #[test]
    fn a_shared_private_network_spoils_no_record() {
        let policy = AddressPolicy { allow: false, lans: RwLock::new(vec![("172.17.0.1".parse().unwrap(), 16)]) };
        let refused = |texts: &[&str]| {
            let addresses: Vec<Address> = texts.iter().map(|text| text.parse().unwrap()).collect();
            policy.check_all(&addresses).is_err()
        };
        assert!(!refused(&[]));
        assert!(!refused(&["quic://172.17.0.2:1", "quic://192.0.2.1:1"]));
        assert!(refused(&["quic://172.17.0.2:1"]));
        assert!(refused(&["quic://172.17.0.2:1", "quic://172.17.0.3:1"]));
        assert!(refused(&["quic://192.0.2.1:1", "quic://127.0.0.1:1"]), "nobody can mean that one");
    }
}

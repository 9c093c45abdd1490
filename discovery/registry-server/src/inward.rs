//! Addresses that point inward. Whoever announces one could send the registry's clients to services of
//! their own machine or network, or of the registry's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::StatusCode;
use peerloom_core::wire::Address;
use peerloom_registry_protocol::code;

use crate::error::ApiError;

/// Which addresses may be announced.
pub(crate) struct Inward {
    allow: bool,
    /// The machine's own local networks, as address and length of the prefix in bits.
    lans: Vec<(IpAddr, u32)>,
}

impl Inward {
    /// With `allow`, everything may be announced.
    pub(crate) fn new(allow: bool) -> Self {
        let interfaces = if allow { Vec::new() } else { if_addrs::get_if_addrs().unwrap_or_default() };
        let lans = interfaces.iter().map(|interface| match &interface.addr {
            if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.netmask.to_bits().leading_ones()),
            if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.netmask.to_bits().leading_ones()),
        });
        Self { allow, lans: lans.filter(|(ip, _)| is_private(*ip)).collect() }
    }

    /// Refuses an address that points inward.
    pub(crate) fn check(&self, address: &Address) -> Result<(), ApiError> {
        if self.allow {
            return Ok(());
        }
        let Some(why) = self.points_inward(host(address.rest())) else { return Ok(()) };
        let message = format!(
            "{address} {why}, where others can't reach the device: announce a public address or none; \
             in a closed network the registry's operator may allow local addresses (allow_local)"
        );
        Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code::INWARD_ADDRESS, message))
    }

    fn points_inward(&self, host: &str) -> Option<&'static str> {
        match host.parse::<IpAddr>() {
            Ok(ip) => self.ip_points_inward(ip),
            Err(_) => name_points_inward(host),
        }
    }

    fn ip_points_inward(&self, ip: IpAddr) -> Option<&'static str> {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return Some("is a loopback address");
        }
        if ip.is_unspecified() || matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0) {
            return Some("is no address of a device");
        }
        if ip.is_multicast() || matches!(ip, IpAddr::V4(Ipv4Addr::BROADCAST)) {
            return Some("is an address of many devices");
        }
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if link_local {
            return Some("is a link-local address");
        }
        self.lans.iter().any(|lan| within(ip, *lan)).then_some("is in a local network of the registry's machine")
    }
}

/// The host in what follows `scheme://`, without port and path.
fn host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit('@').next().unwrap_or_default();
    if let Some(rest) = place.strip_prefix('[') {
        // A zone (RFC 6874) names an interface of this machine, not another address.
        return rest.split([']', '%']).next().unwrap_or_default();
    }
    if place.parse::<Ipv6Addr>().is_ok() {
        return place;
    }
    place.split(':').next().unwrap_or_default()
}

fn name_points_inward(name: &str) -> Option<&'static str> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    if last == "localhost" {
        return Some("is a loopback address");
    }
    // Many resolvers take 127.1, 0x7f000001 or 2130706433 for IPv4 addresses, as the URL standard does.
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let number = hex || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()));
    number.then_some("is an IP address in a form that hides it")
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        // With RFC 6598: what carriers share.
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
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
        let inward = Inward { allow: false, lans: vec![("192.168.7.1".parse().unwrap(), 24)] };
        let refused = |text: &str| inward.check(&text.parse().unwrap()).is_err();
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
        ] {
            assert!(refused(text), "{text}");
        }
        for text in [
            "quic://192.0.2.1:4433",
            "quic://192.168.8.99:1",
            "quic://[2001:db8::1]:1",
            "wss://relay.example/signal",
            "wss://1.example/",
            "webrtc://registry",
        ] {
            assert!(!refused(text), "{text}");
        }
    }
}

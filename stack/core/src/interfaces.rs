//! This machine's own addresses, and which of them lead others here: the one place that lists interfaces.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use peerloom_wire::DeviceId;

/// How far an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// To no single device: unspecified, multicast, broadcast, "this network" (RFC 6890).
    Nowhere,
    /// To the reader's own machine.
    Loopback,
    /// Along one cable (RFC 3927, RFC 4291 §2.5.6).
    Link,
    /// Inside one network: RFC 1918, RFC 4193, and what carriers share among customers (RFC 6598).
    Private,
    /// Everywhere.
    Public,
}

/// How far an address leads; an IPv4 address inside an IPv6 one counts as the IPv4 address.
pub fn scope(ip: IpAddr) -> Scope {
    match ip.to_canonical() {
        IpAddr::V4(ip) => match ip.octets() {
            [0, ..] | [255, 255, 255, 255] => Scope::Nowhere,
            _ if ip.is_multicast() => Scope::Nowhere,
            _ if ip.is_loopback() => Scope::Loopback,
            _ if ip.is_link_local() => Scope::Link,
            [100, 64..=127, ..] => Scope::Private,
            _ if ip.is_private() => Scope::Private,
            _ => Scope::Public,
        },
        IpAddr::V6(ip) => match ip.segments() {
            _ if ip.is_unspecified() || ip.is_multicast() => Scope::Nowhere,
            _ if ip.is_loopback() => Scope::Loopback,
            _ if ip.is_unicast_link_local() => Scope::Link,
            // Unique local, and site-local as it was before (RFC 3879).
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Scope::Private,
            _ => Scope::Public,
        },
    }
}

/// One address of one of this machine's interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub ip: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
    /// The interface's name.
    pub interface: String,
    /// The interface carries packets: it is up, and plugged in.
    running: bool,
}

/// All addresses of this machine, loopback among them, in the order of the system.
pub fn own_addresses() -> io::Result<Vec<OwnAddress>> {
    let own = |interface: if_addrs::Interface| OwnAddress {
        ip: interface.ip(),
        prefix: match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        },
        running: interface.is_oper_up(),
        // A second IPv4 address may have a label of its own, `eth0:1`.
        interface: interface.name.split(':').next().unwrap_or_default().into(),
    };
    Ok(if_addrs::get_if_addrs()?.into_iter().map(own).collect())
}

/// Whether an address is one of this machine's.
pub fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    own_addresses().is_ok_and(|own| own.iter().any(|own| own.ip == ip))
}

/// Whether a socket can't be bound to an address any more, since no interface of this machine has it. Doubtful ones,
/// such as IPv6 link-local ones, count as not lost.
pub fn has_lost(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind((ip.to_canonical(), 0));
    bound.is_err_and(|e| e.kind() == io::ErrorKind::AddrNotAvailable)
}

/// The addresses by which others can reach this machine, best first.
///
/// Every interface gets in before one of them gets in with many addresses. First come the interface of the
/// default route and public addresses, last the bridges that lead to containers and virtual machines of this
/// machine only, and interfaces without a cable. Loopback and IPv6 link-local addresses are left out, since they
/// lead others elsewhere or nowhere; IPv4 link-local ones count where there is nothing else (RFC 3927).
pub fn reachable() -> io::Result<Vec<IpAddr>> {
    let sources = DEFAULTS.iter().filter_map(|far| source(*far).ok()).collect::<Vec<_>>();
    Ok(rank(own_addresses()?, &sources, leads_inside))
}

/// Far away, so that the way there is the default route. Nothing is sent there: a UDP socket that is connected
/// only looks for its route. (They are the first of the DNS root servers, whose addresses don't change.)
const DEFAULTS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)), 53),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)), 53),
];

/// The address that this machine would send from to reach another; an error where no route leads there.
pub fn source(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

/// Where others reach a socket that is bound here, best first; `takes_ipv4` says of one that is bound to `[::]`
/// whether it gets IPv4 packets, too.
///
/// Empty where no other machine can reach it. Only on a machine that has no address at all, a loopback one stands for it, so
/// that nodes on that machine can meet.
pub fn reachable_at(bound: SocketAddr, takes_ipv4: bool) -> io::Result<Vec<SocketAddr>> {
    let (ip, port) = (bound.ip().to_canonical(), bound.port());
    if !ip.is_unspecified() {
        // Its interface may have lost the address since.
        let stands = scope(ip) != Scope::Link || ip.is_ipv4();
        let there = stands && UdpSocket::bind((ip, 0)).is_ok();
        return Ok(there.then_some(SocketAddr::new(ip, port)).into_iter().collect());
    }
    let mut ips = reachable()?;
    if ips.is_empty() {
        ips = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    ips.retain(|own| if own.is_ipv4() { ip.is_ipv4() || takes_ipv4 } else { ip.is_ipv6() });
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// The ports that a device takes, the first that is free, where its file leaves the port to the system: the same ones
/// at each start, so that contacts find it again where it was. They lie above those that systems give to others.
pub fn usual_ports(device: &DeviceId) -> [u16; 4] {
    let pairs = device.as_bytes().chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut ports = pairs.map(|number| 61_000 + number % 4_500);
    std::array::from_fn(|_| ports.next().unwrap_or(0))
}

/// What [`reachable`] says, given the addresses from which packets leave by the default routes.
fn rank(own: Vec<OwnAddress>, sources: &[IpAddr], leads_inside: impl Fn(&str) -> bool) -> Vec<IpAddr> {
    let leads = |own: &OwnAddress| match scope(own.ip) {
        Scope::Nowhere | Scope::Loopback => false,
        Scope::Link => own.ip.is_ipv4(),
        Scope::Private | Scope::Public => true,
    };
    let mut own: Vec<OwnAddress> = own.into_iter().filter(leads).collect();
    if own.iter().any(|own| scope(own.ip) > Scope::Link) {
        own.retain(|own| scope(own.ip) > Scope::Link);
    }
    // What the system itself sends from is the first of its interface's addresses.
    own.sort_by_key(|own| !sources.contains(&own.ip));
    let defaults: Vec<String> =
        own.iter().take_while(|own| sources.contains(&own.ip)).map(|own| own.interface.clone()).collect();
    let mut counts: HashMap<(String, bool), usize> = HashMap::new();
    let mut ranked: Vec<_> = own
        .into_iter()
        .map(|own| {
            let count = counts.entry((own.interface.clone(), own.ip.is_ipv4())).or_default();
            let nth = *count;
            *count += 1;
            let default = defaults.contains(&own.interface);
            let last = !default && (!own.running || leads_inside(&own.interface));
            let tier = match (default, scope(own.ip)) {
                (true, _) => 0,
                (false, Scope::Public) => 1,
                _ => 2,
            };
            // Two addresses of each family for each interface, before any gets a third.
            ((last, nth / 2, tier, nth), own.ip)
        })
        .collect();
    ranked.sort_by_key(|(key, _)| *key);
    let mut ips = Vec::with_capacity(ranked.len());
    for (_, ip) in ranked {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

/// What programs call the interfaces that they make for containers and virtual machines.
const INSIDE: [&str; 14] = [
    "bridge",
    "br-",
    "cali",
    "cni",
    "docker",
    "flannel",
    "incusbr",
    "lxcbr",
    "lxdbr",
    "podman",
    "vEthernet",
    "vboxnet",
    "virbr",
    "vmnet",
];

/// Whether an interface leads to containers and virtual machines of this machine only: a bridge that no network
/// card is plugged into, or one with such a name where the system doesn't tell.
fn leads_inside(interface: &str) -> bool {
    let folder = Path::new("/sys/class/net");
    let Ok(ports) = folder.join(interface).join("brif").read_dir() else {
        return INSIDE.iter().any(|name| interface.starts_with(name));
    };
    // A card has a device; a VLAN or a bond has a card below.
    let is_card = |port: &Path| {
        let mut entries = port.read_dir().into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name().to_str().is_some_and(|n| n == "device" || n.starts_with("lower_")))
    };
    !ports.flatten().any(|port| is_card(&folder.join(port.file_name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interface: &str, ip: &str) -> OwnAddress {
        OwnAddress { ip: ip.parse().unwrap(), prefix: 24, interface: interface.into(), running: true }
    }

    fn ranked(own: Vec<OwnAddress>, sources: &[&str]) -> Vec<String> {
        let sources: Vec<IpAddr> = sources.iter().map(|source| source.parse().unwrap()).collect();
        rank(own, &sources, |name| name.starts_with("br")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_number_of_bridges_displaces_a_network() {
        let bridges = (0..20).map(|n| own(&format!("br{n}"), &format!("10.0.{n}.1")));
        let all: Vec<_> = bridges.chain([own("wlan0", "192.168.7.2"), own("tun0", "203.0.113.9")]).collect();
        assert_eq!(ranked(all.clone(), &["192.168.7.2"])[..2], ["192.168.7.2", "203.0.113.9"]);
        assert_eq!(ranked(all.clone(), &[])[..2], ["203.0.113.9", "192.168.7.2"], "without a default route");
        assert_eq!(ranked(all, &["10.0.9.1"])[0], "10.0.9.1", "a bridge may be the way out");
    }

    #[test]
    fn no_number_of_addresses_of_one_interface_displaces_another() {
        let many = (1..=30).map(|n| own("eth0", &format!("2001:db8::{n:x}")));
        let all: Vec<_> = many.chain([own("eth0", "192.168.7.2"), own("eth1", "10.1.1.1")]).collect();
        let first = &ranked(all, &["2001:db8::5", "192.168.7.2"])[..4];
        assert_eq!(first, ["2001:db8::5", "192.168.7.2", "2001:db8::1", "10.1.1.1"]);
    }

    #[test]
    fn what_is_unplugged_comes_last_and_what_leads_nowhere_is_left_out() {
        let unplugged = OwnAddress { running: false, ..own("eth1", "203.0.113.9") };
        let all = vec![
            own("lo", "127.0.0.1"),
            own("lo", "::1"),
            own("eth0", "fe80::1"),
            own("eth0", "169.254.1.1"),
            unplugged,
            own("eth0", "10.0.0.1"),
            own("eth0", "10.0.0.1"),
        ];
        assert_eq!(ranked(all, &[]), ["10.0.0.1", "203.0.113.9"]);
        assert_eq!(ranked(vec![own("lo", "127.0.0.1"), own("eth0", "169.254.1.1")], &[]), ["169.254.1.1"]);
    }

    #[test]
    fn scopes_are_told() {
        let of = |ip: &str| scope(ip.parse().unwrap());
        for ip in ["0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"] {
            assert_eq!(of(ip), Scope::Nowhere, "{ip}");
        }
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(ip), Scope::Loopback, "{ip}");
        }
        for ip in ["169.254.0.1", "fe80::1"] {
            assert_eq!(of(ip), Scope::Link, "{ip}");
        }
        for ip in ["10.0.0.1", "172.31.0.1", "192.168.0.1", "100.64.0.1", "fd00::1", "fec0::1", "::ffff:10.0.0.1"] {
            assert_eq!(of(ip), Scope::Private, "{ip}");
        }
        for ip in ["203.0.113.1", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
            assert_eq!(of(ip), Scope::Public, "{ip}");
        }
    }

    #[test]
    fn a_socket_is_reached_where_it_takes_packets() {
        let at = |bound: &str, takes_ipv4| reachable_at(bound.parse().unwrap(), takes_ipv4).unwrap();
        assert!(at("0.0.0.0:1", false).iter().all(SocketAddr::is_ipv4));
        assert!(at("[::]:1", false).iter().all(SocketAddr::is_ipv6));
        let both = at("[::]:1", true);
        assert!(at("0.0.0.0:1", false).iter().all(|place| both.contains(place)));
        assert_eq!(at("[::ffff:127.0.0.1]:1", false), ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(at("192.0.2.77:1", false), [], "this machine has it no more");
    }
}

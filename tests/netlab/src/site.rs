//! Local networks behind NATs, and hosts in them.

use std::net::Ipv4Addr;

use crate::namespace::{Namespace, join};

/// How a router translates addresses (RFC 4787).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Endpoint-independent mapping, address-and-port-dependent filtering: what most homes have.
    Cone,
    /// Endpoint-independent mapping and filtering: what comes to the router is forwarded to the first host.
    Full,
    /// Another port for each destination; filtering as for [`Nat::Cone`].
    Symmetric,
}

/// A local network and its router.
pub struct Site {
    number: u8,
    router: Namespace,
    /// How many hosts it has.
    hosts: u8,
}

impl Site {
    /// The network with this number; `internet` is what its router's uplink leads to.
    pub(crate) fn new(number: u8, nat: Nat, internet: &Namespace) -> Self {
        let router = Namespace::new(&format!("router{number}"));
        let port = format!("site{number}");
        join((&router, "wan"), (internet, &port));
        internet.ip(&format!("link set {port} master street up"));
        router.ip(&format!("addr add {} dev wan", crate::lab::with_mask(crate::lab::router(number))));
        router.ip("link set wan up");
        // Private addresses of other sites vanish there, as on the real internet.
        router.ip(&format!("route add default via {}", crate::lab::PUBLIC[0]));
        router.ip("link add lan type bridge");
        router.ip(&format!("addr add 192.168.{number}.1/24 dev lan"));
        router.ip("link set lan up");
        router.set("net/ipv4/ip_forward", "1");
        router.firewall(&rules(nat, number));
        Self { number, router, hosts: 0 }
    }

    /// A new host in this network.
    pub fn host(&mut self) -> Host {
        let mut host = Host { namespace: Namespace::new(&format!("host{}-{}", self.number, self.hosts)), uplinks: 0 };
        host.connect(self);
        host
    }

    /// From now on the router drops UDP from its hosts.
    pub fn block_udp(&self) {
        let rule = "chain c { type filter hook forward priority 0; meta l4proto udp drop; }";
        self.router.firewall(&format!("table ip block {{\n{rule}\n}}\n"));
    }
}

/// Linux gives a mapping the port that the host has, as long as that is free: so mapping is endpoint-independent.
/// A packet from outside must not take the port first, hence no state is kept for those that nobody asked for.
fn rules(nat: Nat, number: u8) -> String {
    let unasked = "chain unasked { type filter hook input priority 0; iifname \"wan\" ct state new drop; }";
    let forward = format!(
        "chain forward {{ type nat hook prerouting priority -100; \
         iifname \"wan\" meta l4proto udp dnat to 192.168.{number}.2; }}"
    );
    let (before, masquerade) = match nat {
        Nat::Cone => (unasked, "masquerade"),
        Nat::Symmetric => (unasked, "masquerade fully-random"),
        Nat::Full => (forward.as_str(), "masquerade"),
    };
    let after = format!("chain after {{ type nat hook postrouting priority 100; oifname \"wan\" {masquerade}; }}");
    format!("table ip nat {{\n{before}\n{after}\n}}\n")
}

/// A machine in a local network.
pub struct Host {
    namespace: Namespace,
    /// How many it has had.
    uplinks: u8,
}

impl Host {
    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Plugs it into a network, which becomes its way to everywhere, and gives its address there.
    fn connect(&mut self, site: &mut Site) -> Ipv4Addr {
        let (own, port) = (format!("up{}", self.uplinks), format!("port{}", site.hosts));
        let address = Ipv4Addr::new(192, 168, site.number, 2 + site.hosts);
        (self.uplinks, site.hosts) = (self.uplinks + 1, site.hosts + 1);
        join((&self.namespace, &own), (&site.router, &port));
        site.router.ip(&format!("link set {port} master lan up"));
        self.namespace.ip(&format!("addr add {address}/24 dev {own}"));
        self.namespace.ip(&format!("link set {own} up"));
        self.namespace.ip(&format!("route replace default via 192.168.{}.1", site.number));
        address
    }

    /// Moves it to another network: a new uplink with another address, and then the old one is gone.
    pub fn move_to(&mut self, site: &mut Site) -> Ipv4Addr {
        let old = format!("up{}", self.uplinks - 1);
        let address = self.connect(site);
        self.namespace.ip(&format!("link del {old}"));
        address
    }
}

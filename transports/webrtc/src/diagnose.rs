//! What this machine's network allows, for `peerloom doctor`.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use peerloom_core::interfaces::{Scope, is_own, scope};
use peerloom_core::names::Resolver;
use peerloom_core::{Diagnostic, IceServer};
use tokio::net::UdpSocket;

use crate::ice::{self, Role, Server, Servers};
use crate::stun;

/// Servers that are asked which address they see, at most: each takes 1.2 s if it is silent.
const STUN_SERVERS: usize = 5;

/// Asks every server, and compares what they saw.
pub(crate) async fn run(servers: &Servers, offered: Vec<IceServer>, ip: IpAddr) -> Vec<Diagnostic> {
    let resolver = servers.resolver();
    let mut servers = servers.configured();
    servers.extend(offered.iter().filter_map(|server| ice::read(std::slice::from_ref(server)).ok()).flatten());
    servers.truncate(8);
    let socket = match UdpSocket::bind(SocketAddr::new(ip, 0)).await {
        Ok(socket) => socket,
        Err(error) => {
            let remedy = "set transport.listen to an address of this machine, or to 0.0.0.0";
            return vec![Diagnostic::bad("UDP", format!("no socket can be opened at {ip}: {error}"), remedy)];
        }
    };
    let local = socket.local_addr().map_or_else(|_| ip.to_string(), |address| address.to_string());
    let mut diagnostics = vec![Diagnostic::good("UDP", format!("a socket can be opened ({local})"))];
    let (stun, turn) =
        tokio::join!(stun_servers(&servers, resolver, &socket, ip), turn_servers(&servers, resolver, ip));
    diagnostics.extend(stun.into_iter().chain(turn));
    diagnostics
}

/// Which address each STUN server sees, from one and the same socket: that tells how the NAT maps
/// (RFC 5780 §4.3, with two servers in place of one with two addresses).
async fn stun_servers(servers: &[Server], resolver: &Resolver, socket: &UdpSocket, ip: IpAddr) -> Vec<Diagnostic> {
    let remedy = "add STUN servers to transport.ice_servers, or use a registry that names some";
    // TURN servers answer binding requests as well.
    let asked: Vec<&Server> = servers.iter().filter(|server| server.role != Role::TurnTcp).collect();
    if asked.is_empty() {
        let detail = "no STUN server is known, so links work inside one network or with public addresses only";
        return vec![Diagnostic::note("STUN", detail, remedy)];
    }
    let mut diagnostics = Vec::new();
    let mut seen = Vec::new();
    // Of several addresses, the first that answers.
    let addresses = join_all(asked.iter().map(|server| async {
        let found = server.resolve(resolver, ip).await.filter(|found| !found.is_empty())?;
        let first = found.first().copied();
        server.measure(resolver, ip).await.map(|(address, _)| address).or(first)
    }));
    let addresses = addresses.await;
    // One after the other: they share the socket, which is what tells how the NAT maps.
    for (server, address) in asked.into_iter().zip(addresses).take(STUN_SERVERS) {
        let Some(address) = address else {
            let remedy = "check the server's name, and this machine's DNS";
            diagnostics.push(Diagnostic::bad("STUN", format!("{server}: the name can't be resolved"), remedy));
            continue;
        };
        let asked = match stun::socket(address).await {
            Some(other) if socket.local_addr().is_ok_and(|own| own.is_ipv4() != address.is_ipv4()) => {
                stun::ask(&other, address).await
            }
            _ => stun::ask(socket, address).await,
        };
        match asked {
            Some(binding) => {
                let rtt = binding.round_trip.as_millis();
                let detail = format!("{server} sees {} (round trip {rtt} ms)", binding.seen);
                diagnostics.push(Diagnostic::good("STUN", detail));
                if !seen.iter().any(|(from, _)| *from == address) {
                    seen.push((address, binding.seen));
                }
            }
            None => {
                let remedy = "the server is down, or a firewall blocks UDP: try another server, or \
                              turn:…?transport=tcp";
                diagnostics.push(Diagnostic::bad("STUN", format!("{server} doesn't answer"), remedy));
            }
        }
    }
    diagnostics.extend(mapping(&seen, socket));
    diagnostics
}

fn mapping(seen: &[(SocketAddr, SocketAddr)], socket: &UdpSocket) -> Option<Diagnostic> {
    let (_, first) = seen.first()?;
    let here = socket.local_addr().ok()?.port();
    if is_own(first.ip()) && first.port() == here {
        let detail = match scope(first.ip()) {
            Scope::Public => "none: this machine has a public address",
            _ => {
                "none on the way to the STUN server, which is in a network of this machine's: whether there is one \
                  behind it can't be told"
            }
        };
        return Some(Diagnostic::good("NAT", detail));
    }
    if seen.len() < 2 {
        let detail = "how it maps can't be told with one server";
        return Some(Diagnostic::note("NAT", detail, "add a second STUN server at another address"));
    }
    if seen.iter().all(|(_, address)| address == first) {
        let detail = "endpoint-independent mapping: holes can be punched, links are direct";
        return Some(Diagnostic::good("NAT", detail));
    }
    let detail = "symmetric mapping: each destination sees another address, so most links need TURN";
    Some(Diagnostic::note("NAT", detail, "add a TURN server to transport.ice_servers, or forward UDP ports"))
}

async fn turn_servers(servers: &[Server], resolver: &Resolver, ip: IpAddr) -> Vec<Diagnostic> {
    let turn: Vec<&Server> = servers.iter().filter(|server| server.role != Role::Stun).collect();
    if turn.is_empty() {
        let detail = "no TURN server is known: two devices behind strict NATs can't reach each other";
        return vec![Diagnostic::note(
            "TURN",
            detail,
            "add one to transport.ice_servers, or use a registry that names one",
        )];
    }
    let mut diagnostics = Vec::new();
    let measured = join_all(turn.iter().map(|server| server.measure(resolver, ip))).await;
    for (server, measured) in turn.into_iter().zip(measured) {
        diagnostics.push(match measured {
            Some((address, rtt)) => {
                Diagnostic::good("TURN", format!("{server} answers ({address}, {} ms)", rtt.as_millis()))
            }
            None => {
                let remedy = "check its address, and that UDP (or TCP, as written) to its port is allowed out";
                Diagnostic::bad("TURN", format!("{server} doesn't answer"), remedy)
            }
        });
    }
    diagnostics
}

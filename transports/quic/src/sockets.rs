//! The UDP sockets: the one that is listened on, and those that dial where it can't.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peerloom_core::interfaces::{reachable_at, usual_ports};
use peerloom_core::names::{HostPort, canonical};
use peerloom_core::wire::DeviceId;
use peerloom_core::{Error, ErrorKind, Result};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, VarInt};
use socket2::{Domain, SockRef, Socket, Type};

use crate::link::Links;

/// Socket buffers to ask the system for: bursts of a busy link fit.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// The sockets of a transport. Each is bound when it is first used.
pub(crate) struct Sockets {
    listen: SocketAddr,
    device: DeviceId,
    server: ServerConfig,
    client: ClientConfig,
    bound: Mutex<Bound>,
}

#[derive(Default)]
struct Bound {
    listening: Option<Listening>,
    /// What is dialed only: over IPv4, over IPv6.
    dialing: [Option<Endpoint>; 2],
    /// The transport is shut down: nothing is bound any more.
    closed: bool,
}

/// The socket that is listened on.
#[derive(Clone)]
pub(crate) struct Listening {
    pub(crate) endpoint: Endpoint,
    pub(crate) ear: Ear,
}

/// What a socket that is listened on gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ear {
    /// What it is bound to.
    pub(crate) local: SocketAddr,
    /// It is bound to an IPv4 address, or to `[::]` and gets IPv4 packets as well.
    takes_ipv4: bool,
}

impl Ear {
    /// Whether the system sends from this socket to there.
    fn sends_to(&self, remote: SocketAddr) -> bool {
        let family = if remote.is_ipv4() { self.takes_ipv4 } else { self.local.is_ipv6() };
        family && (!self.local.ip().is_loopback() || remote.ip().is_loopback())
    }
}

impl Sockets {
    /// `listen` may have port 0: then it is one that this device usually has, or any other.
    pub(crate) fn new(listen: SocketAddr, device: DeviceId, server: ServerConfig, client: ClientConfig) -> Self {
        Self { listen: canonical(listen), device, server, client, bound: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket that is listened on.
    pub(crate) fn listening(&self) -> Result<Listening> {
        let mut bound = self.lock();
        if let Some(listening) = &bound.listening {
            return Ok(listening.clone());
        }
        if bound.closed {
            return Err(Error::new(ErrorKind::Closed, "quic", "bind", "the transport is shut down"));
        }
        let failed = |e| listen_error(self.listen, e);
        let (socket, takes_ipv4) = self.bind_listening().map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        let endpoint = self.endpoint(socket, Some(self.server.clone())).map_err(failed)?;
        let listening = Listening { endpoint, ear: Ear { local, takes_ipv4 } };
        bound.listening = Some(listening.clone());
        Ok(listening)
    }

    /// Whether there is such a socket.
    pub(crate) fn is_listening(&self) -> bool {
        self.lock().listening.is_some()
    }

    fn bind_listening(&self) -> std::io::Result<(UdpSocket, bool)> {
        if self.listen.port() == 0 {
            let usual = usual_ports(&self.device).into_iter();
            let mut usual = usual.map(|port| bind(SocketAddr::new(self.listen.ip(), port)));
            if let Some(bound) = usual.find_map(std::io::Result::ok) {
                return Ok(bound);
            }
        }
        bind(self.listen)
    }

    /// A socket that can send to an address.
    pub(crate) fn dialing(&self, remote: SocketAddr) -> Result<Endpoint> {
        let listening = self.listening()?;
        if listening.ear.sends_to(remote) {
            return Ok(listening.endpoint);
        }
        let mut bound = self.lock();
        if bound.closed {
            return Err(Error::new(ErrorKind::Closed, "quic", "dial", "the transport is shut down"));
        }
        let [v4, v6] = &mut bound.dialing;
        let (slot, any): (_, IpAddr) =
            if remote.is_ipv4() { (v4, Ipv4Addr::UNSPECIFIED.into()) } else { (v6, Ipv6Addr::UNSPECIFIED.into()) };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let made = bind(SocketAddr::new(any, 0)).and_then(|(socket, _)| self.endpoint(socket, None));
        let endpoint = made.map_err(|e| {
            let family = if remote.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("{remote}: this machine has no {family}");
            Error::new(ErrorKind::Unreachable, "quic", "dial", message).with_source(e)
        })?;
        Ok(slot.insert(endpoint).clone())
    }

    fn endpoint(&self, socket: UdpSocket, server: Option<ServerConfig>) -> std::io::Result<Endpoint> {
        let mut endpoint = Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?;
        endpoint.set_default_client_config(self.client.clone());
        Ok(endpoint)
    }

    /// Closes all links and sockets, and waits for the peers to hear of it. Only links are waited for: an attempt
    /// that nobody answered would take three seconds to end.
    pub(crate) async fn close(&self, links: &Links) {
        let closed = Bound { closed: true, ..Bound::default() };
        let Bound { listening, dialing, .. } = std::mem::replace(&mut *self.lock(), closed);
        let endpoints = listening.into_iter().map(|l| l.endpoint).chain(dialing.into_iter().flatten());
        let endpoints: Vec<Endpoint> = endpoints.collect();
        endpoints.iter().for_each(|endpoint| endpoint.close(VarInt::from_u32(0), b"shutting down"));
        if let Some(until) = links.farewell() {
            let ends = futures_util::future::join_all(endpoints.iter().map(Endpoint::wait_idle));
            let _ = tokio::time::timeout_at(until.into(), ends).await;
        }
    }
}

/// A socket, and whether it gets IPv4 packets.
fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, bool)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        // Where the system refuses, it says so below.
        let _ = socket.set_only_v6(!address.ip().is_unspecified());
    }
    socket.bind(&address.into())?;
    let takes_ipv4 = address.is_ipv4() || address.ip().is_unspecified() && !socket.only_v6()?;
    let socket = UdpSocket::from(socket);
    let buffers = SockRef::from(&socket);
    // The system may grant less; then bursts are lost and sent again.
    let _ = buffers.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = buffers.set_send_buffer_size(SOCKET_BUFFER);
    Ok((socket, takes_ipv4))
}

fn listen_error(address: SocketAddr, e: std::io::Error) -> Error {
    let (kind, advice) = match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            (ErrorKind::InUse, "another program uses this port; stop it, or set transport.listen to another one")
        }
        std::io::ErrorKind::AddrNotAvailable => {
            (ErrorKind::Invalid, "this machine has no such address; set transport.listen to one it has, or to 0.0.0.0")
        }
        std::io::ErrorKind::PermissionDenied => {
            (ErrorKind::Invalid, "ports below 1024 need privileges; set transport.listen to a higher one")
        }
        _ if address.is_ipv6() => {
            (ErrorKind::Invalid, "this machine may have no IPv6; set transport.listen to 0.0.0.0 and the port")
        }
        _ => {
            (ErrorKind::System, "the socket can't be opened; check transport.listen, and the process's limit of files")
        }
    };
    Error::new(kind, "quic", "listen", format!("{address}: {advice}")).with_context("address", address).with_source(e)
}

/// Where others reach this device, as it is now.
pub(crate) struct Reached {
    ear: Ear,
    advertised: Vec<HostPort>,
    /// For the moments in which the system doesn't say.
    last: Mutex<Vec<HostPort>>,
}

impl Reached {
    /// By the socket's own addresses, or by `advertised` ones instead.
    pub(crate) fn new(ear: Ear, advertised: Vec<HostPort>) -> Self {
        Self { ear, advertised, last: Mutex::default() }
    }

    /// What the socket is bound to.
    pub(crate) fn local(&self) -> SocketAddr {
        self.ear.local
    }

    /// Best first; empty where nobody can reach it.
    pub(crate) fn now(&self) -> Vec<HostPort> {
        if !self.advertised.is_empty() {
            return self.advertised.clone();
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(places) = reachable_at(self.ear.local, self.ear.takes_ipv4) {
            *last = places.into_iter().map(HostPort::Ip).collect();
        }
        last.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A packet to each address that is announced comes through.
    #[test]
    fn what_is_announced_is_what_the_socket_takes() {
        for listen in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0", "[::1]:0"] {
            let (socket, takes_ipv4) = match bind(listen.parse().unwrap()) {
                Ok(bound) => bound,
                Err(_) if listen.starts_with('[') => continue, // no IPv6 here
                Err(e) => panic!("{listen}: {e}"),
            };
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let announced = reachable_at(socket.local_addr().unwrap(), takes_ipv4).unwrap();
            assert!(announced.iter().all(|place| place.ip() == place.ip().to_canonical()), "{announced:?}");
            for place in announced {
                let any: IpAddr =
                    if place.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                UdpSocket::bind((any, 0)).unwrap().send_to(b"here", place).unwrap();
                let mut packet = [0; 4];
                socket.recv(&mut packet).unwrap_or_else(|e| panic!("{listen}: nothing came to {place}: {e}"));
            }
        }
    }
}

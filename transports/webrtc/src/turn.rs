//! Relays: allocations on TURN servers (RFC 8656), over UDP and TCP, kept for as long as a link lives.
//!
//! The `webrtc` crate has a TURN client that loses its relay at the first stale nonce (webrtc-rs/webrtc#542). So it talks
//! to a TURN server of this process, on loopback ([`face`]), whose nonce never ends; behind it our own client
//! ([`client`]) keeps the allocation on the true server. ADR 17 says why.

mod client;
mod face;
#[cfg(test)]
mod lives;
mod message;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::guard::Guard;
use client::{Client, Credentials, Event};
use face::{Ask, Face, Session};
use upstream::{LONGEST, Upstream, WAITING};

pub(crate) use upstream::Server;

/// Local sockets that one relay serves: one for each address of this machine, and those of before a move.
const CLIENTS: usize = 16;
/// How long an allocation that is of no use any more may take to be given back.
const LINGER: Duration = Duration::from_secs(2);

/// A TURN server of this process, in front of a true one. Dropping it gives the allocations back.
pub(crate) struct Relay {
    address: SocketAddr,
    face: Arc<Face>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    /// Opens it on loopback, of the family of `own`. What goes to peers has to pass the guard.
    pub(crate) async fn open(server: Server, own: IpAddr, guard: Arc<Guard>) -> io::Result<Self> {
        let loopback = if own.is_ipv4() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::LOCALHOST.into() };
        let socket = Arc::new(UdpSocket::bind((loopback, 0)).await?);
        let address = socket.local_addr()?;
        let face = Arc::new(Face::new()?);
        let task = tokio::spawn(run(socket, face.clone(), server, guard));
        Ok(Self { address, face, _task: AbortOnDropHandle::new(task) })
    }

    /// Where the crate's TURN client sends to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The user and the password for it: nothing else on this machine may use it.
    pub(crate) fn credentials(&self) -> (String, String) {
        self.face.credentials()
    }
}

/// Gives each local socket an allocation of its own.
async fn run(socket: Arc<UdpSocket>, face: Arc<Face>, server: Server, guard: Arc<Guard>) {
    let mut clients: HashMap<SocketAddr, (mpsc::Sender<Vec<u8>>, Instant)> = HashMap::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error for a client that is gone.
            continue;
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        clients.retain(|_, (queue, _)| !queue.is_closed());
        if !clients.contains_key(&from) {
            match face.greet(datagram) {
                Ask::Welcome => {}
                Ask::Answer(answer) => {
                    let _ = socket.send_to(&answer, from).await;
                    continue;
                }
                Ask::Nothing => continue,
            }
            if clients.len() >= CLIENTS {
                // After each move there are new sockets; those that are quiet for longest are of an old place.
                let quiet = clients.iter().min_by_key(|(_, (_, heard))| *heard).map(|(client, _)| *client);
                quiet.map(|client| clients.remove(&client));
            }
        }
        let (queue, heard) = clients.entry(from).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(WAITING);
            let local = Local { socket: socket.clone(), client: from, face: face.clone() };
            // It ends by itself once nothing can be queued for it.
            tokio::spawn(serve(local, server.clone(), guard.clone(), queue));
            (sender, Instant::now())
        });
        *heard = Instant::now();
        // A full queue loses it, as a full socket would.
        let _ = queue.try_send(datagram.to_vec());
    }
}

/// The crate's side of an allocation.
struct Local {
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    face: Arc<Face>,
}

/// Keeps one allocation, until its local socket's queue is closed.
async fn serve(local: Local, server: Server, guard: Arc<Guard>, queue: mpsc::Receiver<Vec<u8>>) {
    let outcome = match Upstream::connect(&server, local.client.ip()).await {
        Ok(upstream) => pump(&local, &server, &guard, queue, upstream).await,
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        debug!(server = %server.address, %error, "a connection to a TURN server ended");
    }
}

async fn pump(
    local: &Local,
    server: &Server,
    guard: &Guard,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut upstream: Upstream,
) -> io::Result<()> {
    let credentials = Credentials::new(&server.username, &server.password);
    let mut client = Client::new(credentials, server.over_tcp, Instant::now());
    let mut session = Session::new(local.face.clone());
    let mut over: Option<Instant> = None;
    loop {
        while let Some(event) = client.event() {
            if let Event::Data(peer, data) = &event {
                guard.heard(session.relayed(), *peer, data, Instant::now());
            }
            if let Some(answer) = session.on_event(event) {
                // What is lost here is lost as on any network.
                let _ = local.socket.send_to(&answer, local.client).await;
            }
        }
        while let Some(datagram) = client.transmit() {
            upstream.send(&datagram).await?;
        }
        if over.is_some_and(|over| over <= Instant::now() || client.is_released()) {
            return Ok(());
        }
        let idle = Instant::now() + Duration::from_secs(60);
        let wake = client.next_timeout().unwrap_or(idle).min(over.unwrap_or(idle));
        tokio::select! {
            datagram = queue.recv(), if over.is_none() => match datagram {
                Some(datagram) => {
                    let may = |from, to, data: &[u8], now| guard.may_send(from, to, data, now);
                    let answer = session.on_datagram(&datagram, &mut client, may, Instant::now());
                    if let Some(answer) = answer {
                        let _ = local.socket.send_to(&answer, local.client).await;
                    }
                }
                None => {
                    client.release(Instant::now());
                    over = Some(Instant::now() + LINGER);
                }
            },
            received = upstream.receive() => client.handle(&received?, Instant::now()),
            () = sleep_until(wake.into()) => client.handle_timeout(Instant::now()),
        }
    }
}

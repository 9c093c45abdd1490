//! STUN binding requests (RFC 8489): which address does a server see, and how far is it?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtc::stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Getter, Message, TransactionId};
use rtc::stun::xoraddr::XorMappedAddress;
use tokio::net::UdpSocket;

/// Requests sent, and the wait for each answer.
const TRIES: u32 = 3;
const WAIT: Duration = Duration::from_millis(400);

/// What a server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding {
    /// Our address, as the server sees it.
    pub(crate) seen: SocketAddr,
    /// From the request to its answer.
    pub(crate) round_trip: Duration,
}

/// Asks a server from a socket; `None` if it doesn't answer within 1.2 s.
pub(crate) async fn ask(socket: &UdpSocket, server: SocketAddr) -> Option<Binding> {
    for _ in 0..TRIES {
        let mut request = Message::new();
        request.build(&[Box::<TransactionId>::default(), Box::new(BINDING_REQUEST)]).ok()?;
        let sent = Instant::now();
        // The network may come back before the next try.
        let _ = socket.send_to(&request.raw, server).await;
        if let Ok(Some(seen)) = tokio::time::timeout(WAIT, answer(socket, server, &request)).await {
            return Some(Binding { seen, round_trip: sent.elapsed() });
        }
    }
    None
}

async fn answer(socket: &UdpSocket, server: SocketAddr, request: &Message) -> Option<SocketAddr> {
    let mut buffer = [0; 1500];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error of an earlier packet; a closed port answers nothing else.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut message = Message::new();
        let bytes = buffer.get(..length).unwrap_or_default();
        let ours = from == server
            && message.unmarshal_binary(bytes).is_ok()
            && message.typ == BINDING_SUCCESS
            && message.transaction_id == request.transaction_id;
        let mut seen = XorMappedAddress::default();
        if ours && seen.get_from(&message).is_ok() {
            return Some(SocketAddr::new(seen.ip, seen.port));
        }
    }
}

/// A socket of the family of `server`.
pub(crate) async fn socket(server: SocketAddr) -> Option<UdpSocket> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(any).await.ok()
}

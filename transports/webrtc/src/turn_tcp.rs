//! TURN over TCP: a bridge on this machine between the TURN client, which speaks UDP, and a server
//! that is reached over TCP. Where a network lets no UDP out, this still gets through.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// Local sockets that one bridge serves: one for each address of this machine.
const CLIENTS: usize = 16;
/// Messages that wait for a slow server; more are dropped, as UDP would.
const WAITING: usize = 256;
/// Longest message: a ChannelData header and 65,535 bytes (RFC 8656 §12.4), padded.
const LONGEST: usize = 4 + 65_535 + 3;
/// How long the server may take to be connected to.
const CONNECT: Duration = Duration::from_secs(5);

/// A running bridge; dropping it ends it.
pub(crate) struct Bridge {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Bridge {
    /// Opens a bridge to a server.
    pub(crate) async fn open(server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let task = AbortOnDropHandle::new(tokio::spawn(run(Arc::new(socket), server)));
        Ok(Self { address, _task: task })
    }

    /// Where the TURN client sends to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Gives each local socket a connection of its own: a TURN allocation belongs to one.
async fn run(socket: Arc<UdpSocket>, server: SocketAddr) {
    let mut clients: HashMap<SocketAddr, (mpsc::Sender<Vec<u8>>, AbortOnDropHandle<()>, Instant)> = HashMap::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error for a client that is gone.
            continue;
        };
        clients.retain(|_, (queue, ..)| !queue.is_closed());
        if clients.len() >= CLIENTS && !clients.contains_key(&from) {
            // After each move there are new sockets; those that are quiet for longest are of an old place.
            let quiet = clients.iter().min_by_key(|(_, client)| client.2).map(|(client, _)| *client);
            quiet.map(|client| clients.remove(&client));
        }
        let (queue, _, heard) = clients.entry(from).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(WAITING);
            let task = tokio::spawn(serve(socket.clone(), from, server, queue));
            (sender, AbortOnDropHandle::new(task), Instant::now())
        });
        *heard = Instant::now();
        let message = padded(buffer.get(..length).unwrap_or_default());
        // A full queue loses it, as a full socket would.
        let _ = queue.try_send(message);
    }
}

/// Over TCP, ChannelData is padded to four bytes (RFC 8656 §12.5); STUN messages always are.
fn padded(message: &[u8]) -> Vec<u8> {
    let mut padded = message.to_vec();
    padded.resize(message.len().next_multiple_of(4), 0);
    padded
}

async fn serve(socket: Arc<UdpSocket>, client: SocketAddr, server: SocketAddr, queue: mpsc::Receiver<Vec<u8>>) {
    let outcome = async {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(server)).await??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        tokio::try_join!(to_server(writer, queue), to_client(reader, &socket, client))
    };
    if let Err(error) = outcome.await {
        debug!(%server, %error, "a connection to a TURN server ended");
    }
}

async fn to_server(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(message) = queue.recv().await {
        writer.write_all(&message).await?;
    }
    Ok(())
}

async fn to_client(mut reader: OwnedReadHalf, socket: &UdpSocket, client: SocketAddr) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST];
    loop {
        let mut header = [0; 4];
        reader.read_exact(&mut header).await?;
        let [first, second, high, low] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        // The two highest bits tell a STUN message, with its header of 20 bytes, from ChannelData.
        let (rest, datagram) = match first >> 6 {
            0 => (16 + length, 20 + length),
            1 => (length.next_multiple_of(4), 4 + length),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{first:#x}{second:x} is no TURN"))),
        };
        let Some(message) = buffer.get_mut(..4 + rest) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let (head, body) = message.split_at_mut(4);
        head.copy_from_slice(&header);
        reader.read_exact(body).await?;
        socket.send_to(buffer.get(..datagram).unwrap_or_default(), client).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn messages_keep_their_bounds_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bridge = Bridge::open(listener.local_addr().unwrap()).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // ChannelData of 5 bytes, as the TURN client writes it for UDP: without padding.
        let data = [0x40, 0, 0, 5, 1, 2, 3, 4, 5];
        client.send_to(&data, bridge.address()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut received = [0; 12];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]);

        // A STUN message of 4 bytes and ChannelData, in pieces that fit neither.
        let mut stun = vec![1, 1, 0, 4];
        stun.extend_from_slice(&[7; 20]);
        let all = [stun.as_slice(), &received].concat();
        for piece in all.chunks(7) {
            server.write_all(piece).await.unwrap();
            server.flush().await.unwrap();
        }
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer[..length], stun);
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer[..length], data);
    }
}

//! The way to a TURN server: datagrams over UDP, or messages one after the other over TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How long connecting, or one write, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Socket buffers to ask the system for, as for the crate's own sockets.
const BUFFER: usize = 4 * 1024 * 1024;
/// Datagrams that wait for a slow server; more are dropped, as a full socket would.
pub(super) const WAITING: usize = 256;
/// Longest datagram: a ChannelData header and 65,535 bytes (RFC 8656 §12.4).
pub(super) const LONGEST: usize = 4 + 65_535;

/// A TURN server, and who we are there.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) over_tcp: bool,
    pub(crate) username: String,
    pub(crate) password: String,
}

/// An open way.
pub(super) enum Upstream {
    Udp { socket: UdpSocket, buffer: Vec<u8> },
    Tcp { writer: OwnedWriteHalf, received: mpsc::Receiver<Vec<u8>>, _reader: AbortOnDropHandle<io::Result<()>> },
}

impl Upstream {
    /// Connects from an address of this machine, or from any where its family isn't the server's.
    pub(super) async fn connect(server: &Server, own: IpAddr) -> io::Result<Self> {
        let any =
            if server.address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let own = if own.is_ipv4() == server.address.is_ipv4() { own } else { any };
        let own = SocketAddr::new(own, 0);
        if server.over_tcp {
            let socket = if own.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(own)?;
            return Self::over(timeout(PATIENCE, socket.connect(server.address)).await??);
        }
        let socket = UdpSocket::bind(own).await?;
        let buffers = socket2::SockRef::from(&socket);
        // The system may grant less.
        let _ = buffers.set_recv_buffer_size(BUFFER);
        let _ = buffers.set_send_buffer_size(BUFFER);
        socket.connect(server.address).await?;
        Ok(Self::Udp { socket, buffer: vec![0; LONGEST] })
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (sender, received) = mpsc::channel(WAITING);
        let reader = AbortOnDropHandle::new(tokio::spawn(read(reader, sender)));
        Ok(Self::Tcp { writer, received, _reader: reader })
    }

    pub(super) async fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        match self {
            // The network may come back: what can't be sent now is lost.
            Self::Udp { socket, .. } => drop(socket.send(datagram).await),
            Self::Tcp { writer, .. } => {
                // Over TCP, ChannelData is padded to four bytes (RFC 8656 §12.5); STUN messages always are.
                let mut padded = datagram.to_vec();
                padded.resize(datagram.len().next_multiple_of(4), 0);
                timeout(PATIENCE, writer.write_all(&padded)).await??;
            }
        }
        Ok(())
    }

    /// The next message. Cancelling it loses nothing.
    pub(super) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Udp { socket, buffer } => loop {
                match socket.recv(buffer).await {
                    Ok(length) => return Ok(buffer.get(..length).unwrap_or_default().to_vec()),
                    // An ICMP error of an earlier packet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            },
            Self::Tcp { received, .. } => received
                .recv()
                .await
                .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")),
        }
    }
}

/// Cuts what comes into messages.
async fn read(mut reader: OwnedReadHalf, sender: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut header = [0; 4];
        reader.read_exact(&mut header).await?;
        let [first, second, high, low] = header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        // The two highest bits tell a STUN message, with its header of 20 bytes, from ChannelData.
        let rest = match first >> 6 {
            0 => 16 + length,
            1 => length.next_multiple_of(4),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{first:#x}{second:x} is no TURN"))),
        };
        let mut message = header.to_vec();
        message.resize(4 + rest, 0);
        reader.read_exact(message.get_mut(4..).unwrap_or_default()).await?;
        if sender.send(message).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn messages_keep_their_bounds_over_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server { address, over_tcp: true, username: String::new(), password: String::new() };
        let mut upstream = Upstream::connect(&server, address.ip()).await.unwrap();
        // ChannelData of 5 bytes, as it is written for UDP: without padding.
        upstream.send(&[0x40, 0, 0, 5, 1, 2, 3, 4, 5]).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = [0; 12];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]);

        // A STUN message of 4 bytes and ChannelData, in pieces that fit neither.
        let mut stun = vec![1, 1, 0, 4];
        stun.extend_from_slice(&[7; 20]);
        for piece in [stun.as_slice(), &received].concat().chunks(7) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert_eq!(upstream.receive().await.unwrap(), stun);
        assert_eq!(upstream.receive().await.unwrap(), received);
        stream.write_all(&[0xff; 64]).await.unwrap();
        assert!(upstream.receive().await.is_err(), "what is no TURN ends it");
    }
}

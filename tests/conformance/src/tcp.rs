//! TCP on loopback as a stream transport: real sockets for the suites and the scenarios.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use peerloom_core::accept::Accepting;
use peerloom_core::interfaces::reachable_at;
use peerloom_core::wire::Address;
use peerloom_core::{ByteStream, Error, ErrorKind, Result, StreamListener, StreamTransport};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;

/// Streams from and to this address of the machine; addresses are `tcp://IP:PORT`.
pub struct Tcp(pub IpAddr);

fn failed(operation: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |cause| Error::new(ErrorKind::Unreachable, "tcp", operation, "the socket can't be used").with_source(cause)
}

#[async_trait]
impl StreamTransport for Tcp {
    fn scheme(&self) -> &'static str {
        "tcp"
    }

    async fn listen(&self) -> Result<Box<dyn StreamListener>> {
        let listener = TcpListener::bind((self.0, 0)).await.map_err(failed("listen"))?;
        let place = listener.local_addr().map_err(failed("listen"))?;
        Ok(Box::new(Listening { listener, place, accepting: Mutex::new(Accepting::new("tcp")) }))
    }

    async fn dial(&self, address: &Address) -> Result<Box<dyn ByteStream>> {
        let wrong = |_| Error::new(ErrorKind::Invalid, "tcp", "dial", format!("{address} is not tcp://IP:PORT"));
        let place: SocketAddr = address.rest().parse().map_err(wrong)?;
        let socket = TcpSocket::new_v4().map_err(failed("dial"))?;
        socket.bind((self.0, 0).into()).map_err(failed("dial"))?;
        Ok(Box::new(prepared(socket.connect(place).await.map_err(failed("dial"))?)))
    }
}

/// Small frames must not wait for more.
fn prepared(stream: TcpStream) -> TcpStream {
    // Fails only on a socket that is closed already.
    let _ = stream.set_nodelay(true);
    stream
}

struct Listening {
    listener: TcpListener,
    place: SocketAddr,
    accepting: Mutex<Accepting>,
}

#[async_trait]
impl StreamListener for Listening {
    fn addresses(&self) -> Vec<Address> {
        let places = reachable_at(self.place, false).unwrap_or_default();
        places.iter().filter_map(|place| format!("tcp://{place}").parse().ok()).collect()
    }

    async fn accept(&self) -> Option<(Box<dyn ByteStream>, String)> {
        let (stream, from) = self.accepting.lock().await.next(|| self.listener.accept()).await;
        Some((Box::new(prepared(stream)), from.to_string()))
    }
}

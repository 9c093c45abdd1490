//! Peerloom over TCP: a transport of another repository.
//!
//! TCP carries bytes in order, and that is all this file says. Peerloom encrypts, authenticates and
//! multiplexes.

use std::net::SocketAddr;

use async_trait::async_trait;
use peerloom::core::accept::Accepting;
use peerloom::core::interfaces::reachable_at;
use peerloom::core::kinds::{AnyTransport, KindConfig, SettingsError};
use peerloom::core::{ByteStream, StreamListener, StreamTransport};
use peerloom::{Address, Error, ErrorKind, Kinds, Result, Retry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// Settings of the `tcp` kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TcpConfig {
    /// IP address and TCP port to listen on; port 0 is any free port.
    pub listen: String,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".into() }
    }
}

impl TcpConfig {
    fn address(&self) -> Result<SocketAddr, SettingsError> {
        let wrong = |_| SettingsError::new("listen", "expected an IP address and a port, such as \"127.0.0.1:4433\"");
        self.listen.parse().map_err(wrong)
    }
}

impl KindConfig for TcpConfig {
    fn validate(&self) -> Result<(), SettingsError> {
        self.address().map(drop)
    }
}

/// Registers the `tcp` kind.
pub fn register(kinds: &mut Kinds) -> Result<()> {
    kinds.transports.add("tcp", "plain TCP, for networks that drop UDP", |config: TcpConfig, _| {
        Ok(AnyTransport::streams(Tcp { config }))
    })
}

/// TCP streams; addresses are `tcp://IP:PORT`.
pub struct Tcp {
    /// Where to listen.
    pub config: TcpConfig,
}

#[async_trait]
impl StreamTransport for Tcp {
    fn scheme(&self) -> &'static str {
        "tcp"
    }

    async fn listen(&self) -> Result<Box<dyn StreamListener>> {
        let address = self.config.address().map_err(|e| failed(ErrorKind::Invalid, "listen", &e.message))?;
        let unusable = |e: std::io::Error| {
            failed(ErrorKind::Invalid, "listen", &format!("{address} can't be used; set another transport.listen"))
                .with_source(e)
        };
        let listener = TcpListener::bind(address).await.map_err(unusable)?;
        let bound = listener.local_addr().map_err(unusable)?;
        Ok(Box::new(Listening { listener, accepting: Mutex::new(Accepting::new("tcp")), bound }))
    }

    async fn dial(&self, address: &Address) -> Result<Box<dyn ByteStream>> {
        let wrong = |_| failed(ErrorKind::Invalid, "dial", &format!("{address} is not tcp://IP:PORT"));
        let place: SocketAddr = address.rest().parse().map_err(wrong)?;
        let unreachable = |e| {
            let message = format!("{place} doesn't answer; is the other node running, and its port open?");
            failed(ErrorKind::Unreachable, "dial", &message).with_retry(Retry::Later).with_source(e)
        };
        Ok(Box::new(prepared(TcpStream::connect(place).await.map_err(unreachable)?)))
    }
}

/// Small frames must not wait for more.
fn prepared(stream: TcpStream) -> TcpStream {
    // Fails only on a socket that is closed already.
    let _ = stream.set_nodelay(true);
    stream
}

fn failed(kind: ErrorKind, operation: &'static str, message: &str) -> Error {
    Error::new(kind, "tcp", operation, message)
}

struct Listening {
    listener: TcpListener,
    accepting: Mutex<Accepting>,
    bound: SocketAddr,
}

#[async_trait]
impl StreamListener for Listening {
    fn addresses(&self) -> Vec<Address> {
        // `[::]` takes IPv4 as well, on most systems.
        let takes_ipv4 = SockRef::from(&self.listener).only_v6().is_ok_and(|only| !only);
        let places = reachable_at(self.bound, takes_ipv4).unwrap_or_default();
        places.iter().filter_map(|place| format!("tcp://{place}").parse().ok()).collect()
    }

    async fn accept(&self) -> Option<(Box<dyn ByteStream>, String)> {
        // Accepting may fail, where too many files are open: that doesn't end the listening.
        let (stream, from) = self.accepting.lock().await.next(|| self.listener.accept()).await;
        Some((Box::new(prepared(stream)), from.to_string()))
    }
}

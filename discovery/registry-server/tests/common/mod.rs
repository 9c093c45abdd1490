//! A registry on a free port, and clients for it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use peerloom_conformance::identity::Identity;
use peerloom_core::wire::{Address, NetworkId, PeerRecord, Signed, context};
use peerloom_crypto_primitives::SigningKey;
use peerloom_registry_protocol::message::{ClientMessage, Hello, ServerMessage};
use peerloom_registry_protocol::proof::{Work, challenge_input};
use peerloom_registry_protocol::text::encode_record;
use peerloom_registry_server::{Limits, Registry, RegistryConfig};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Long enough for anything that comes at all.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// In memory, on a free port, without rates.
pub fn config() -> RegistryConfig {
    RegistryConfig {
        listen: "127.0.0.1:0".into(),
        store: ":memory:".into(),
        limits: Limits { address_per_second: 0, device_per_second: 0, ..Limits::default() },
        ..RegistryConfig::default()
    }
}

pub async fn start(config: RegistryConfig) -> Registry {
    Registry::start(config).await.expect("a registry")
}

pub fn network() -> NetworkId {
    NetworkId::from_name("test")
}

/// A record, with its fields changed by `change` before it is signed.
pub fn record(identity: &Identity, sequence: u64, change: impl FnOnce(&mut PeerRecord)) -> Signed {
    let mut record = PeerRecord {
        versions: (1, 1),
        network: network(),
        certificate: identity.certificate.clone(),
        addresses: vec!["quic://192.0.2.1:4433".parse().expect("an address")],
        capabilities: 0,
        suites: Vec::new(),
        key_packages: Vec::new(),
        sequence,
        expires_at_ms: u64::MAX,
    };
    change(&mut record);
    SigningKey::from_seed(identity.secret.expose()).sign_object(context::PEER_RECORD, record.encode())
}

pub fn with_address(text: &str) -> impl FnOnce(&mut PeerRecord) {
    let address: Address = text.parse().expect("an address");
    move |record| record.addresses = vec![address]
}

/// An answer over HTTP.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The code of a failure, which has a message too.
    pub fn code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{json}");
        json["error"]["code"].as_str().expect("a code").to_owned()
    }
}

pub async fn call(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
    let stream = TcpStream::connect(at).await.expect("a connection");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", at.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).expect("a request")).await;
    let response = response.expect("a response");
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        text: String::from_utf8(bytes.to_vec()).expect("text"),
    }
}

pub async fn get(at: SocketAddr, path: &str) -> Answer {
    call(at, "GET", path, &[], String::new()).await
}

/// `GET` of something in the test's network.
pub async fn get_in(at: SocketAddr, path: &str) -> Answer {
    get(at, &format!("/network/{}/{path}", network())).await
}

pub async fn post(at: SocketAddr, path: &str, body: &Value) -> Answer {
    call(at, "POST", path, &[("content-type", "application/json")], body.to_string()).await
}

pub fn announcement(identity: &Identity, record: &Signed) -> Value {
    json!({"peerId": identity.device.to_string(), "record": encode_record(record), "capabilities": 0})
}

pub async fn announce(at: SocketAddr, identity: &Identity, record: &Signed) -> Answer {
    post(at, &format!("/network/{}/announce", network()), &announcement(identity, record)).await
}

/// A client on the WebSocket.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

impl Socket {
    pub async fn open(at: SocketAddr, peer: &str) -> Self {
        let stream = TcpStream::connect(at).await.expect("a connection");
        let url = format!("ws://{at}/signal/{peer}");
        let (stream, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
        Self { stream }
    }

    /// Connects and says hello as an honest client does.
    pub async fn greeted(at: SocketAddr, identity: &Identity, record: &Signed) -> Self {
        let mut socket = Self::open(at, &identity.device.to_string()).await;
        let hello = socket.hello(identity, record).await;
        socket.send(&ClientMessage::Hello(Box::new(hello))).await;
        assert_eq!(socket.receive().await, Some(ServerMessage::Ready {}));
        socket
    }

    /// Takes the challenge and makes the hello for it.
    pub async fn hello(&mut self, identity: &Identity, record: &Signed) -> Hello {
        let Some(ServerMessage::Challenge { nonce, registry, work_bits }) = self.receive().await else {
            panic!("no challenge")
        };
        let input = challenge_input(&nonce, &registry, &network(), &identity.device);
        Hello {
            network: network(),
            record: record.clone(),
            signature: sign(identity, &input),
            token: None,
            work: (work_bits > 0).then(|| Work::new(record, work_bits).find().expect("a number")),
            signal_address: None,
            coordinators: Vec::new(),
        }
    }

    pub async fn send(&mut self, message: &ClientMessage) {
        self.send_text(serde_json::to_string(message).expect("JSON")).await;
    }

    pub async fn send_text(&mut self, text: String) {
        // It may have been closed by the other side, which the next receive shows.
        let _ = self.stream.send(Message::Text(text.into())).await;
    }

    /// So many empty pings.
    pub async fn ping(&mut self, times: usize) {
        for _ in 0..times {
            let _ = self.stream.feed(Message::Ping(Bytes::new())).await;
        }
        let _ = self.stream.flush().await;
    }

    pub async fn signal(&mut self, to: &Identity, payload: &str, id: Option<u64>) {
        self.send(&ClientMessage::Signal { to: to.device, payload: payload.into(), id }).await;
    }

    /// The next message; `None` at the end.
    pub async fn receive(&mut self) -> Option<ServerMessage> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("something in time")?;
            match message.ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).expect("a message")),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// The code of the error with which the server ends the socket.
    pub async fn refusal(&mut self) -> String {
        let Some(ServerMessage::Error(failure)) = self.receive().await else { panic!("no error") };
        assert_eq!(self.receive().await, None, "the socket is closed");
        failure.code
    }

    pub async fn close(mut self) {
        self.stream.close(None).await.expect("a close");
        while self.receive().await.is_some() {}
    }
}

pub fn sign(identity: &Identity, message: &[u8]) -> [u8; 64] {
    let signature = SigningKey::from_seed(identity.secret.expose()).sign(message);
    signature.as_ref().try_into().expect("64 bytes")
}

pub fn base64url(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    now.as_millis().try_into().expect("a time")
}

/// Asks until the answer is the wanted one.
pub async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let begin = tokio::time::Instant::now();
    while !ask().await {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

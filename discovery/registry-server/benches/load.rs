//! How much a registry carries: announcements a second, bytes for an idle socket, delay of a signal.
//!
//! `cargo bench -p peerloom-registry-server [-- SOCKETS]`. The registry runs in a process of its own with one
//! worker thread, over a SQLite file; this process is all its clients. 10,000 sockets need
//! `ulimit -n 20000`.
#![allow(clippy::print_stdout, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use peerloom_core::wire::{DeviceCertificate, DeviceId, NetworkId, PeerRecord, Roles, UserKeys, context};
use peerloom_crypto_primitives::SigningKey;
use peerloom_registry_protocol::proof::challenge_input;
use peerloom_registry_server::{Limits, Registry, RegistryConfig};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Devices that announce themselves.
const DEVICES: u64 = 2000;
/// Connections over which they do.
const CONNECTIONS: u64 = 32;
/// Announcements of each device.
const ROUNDS: u64 = 10;
/// Signals a second, and for how long.
const RATE: u32 = 2000;
const SECONDS: u32 = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return serve();
    }
    let sockets = arguments.first().and_then(|number| number.parse().ok()).unwrap_or(1000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut server = Server::start();
        announcements(server.at).await;
        sockets_and_signals(&server, sockets).await;
        server.child.kill().expect("the registry ends");
    });
}

fn serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let limits = Limits {
            connections_per_address: usize::MAX,
            address_per_second: 0,
            new_devices_per_second: 0,
            device_per_second: 0,
            signals_per_second: 0,
            ..Limits::default()
        };
        let store = folder.path().join("registry.sqlite");
        let config = RegistryConfig { listen: "127.0.0.1:0".into(), store, limits, ..RegistryConfig::default() };
        let registry = Registry::start(config).await.expect("a registry");
        println!("{}", registry.local_addr());
        std::io::stdout().flush().expect("said");
        std::future::pending::<()>().await;
    });
}

struct Server {
    child: Child,
    at: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program).arg("serve").stdout(Stdio::piped()).spawn().expect("a process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        Self { child, at: line.trim().parse().expect("an address") }
    }

    /// Resident memory, in KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
    }
}

struct Device {
    key: SigningKey,
    id: DeviceId,
    certificate: peerloom_core::wire::Signed,
}

fn network() -> NetworkId {
    NetworkId::from_name("bench")
}

fn device(number: u64) -> Device {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    let (user, key) = (SigningKey::from_seed(&seed), SigningKey::from_seed(&seed.map(|byte| !byte)));
    let keys = UserKeys { user: user.public().clone(), recovery: key.public().clone() };
    let certificate = DeviceCertificate::new(keys, key.public().clone(), Roles::ALL, 1);
    let signed = certificate.sign(|m| user.sign(m), |m| key.sign(m));
    Device { id: certificate.device, certificate: signed, key }
}

impl Device {
    fn record(&self, sequence: u64) -> String {
        let record = PeerRecord {
            versions: (1, 1),
            network: network(),
            certificate: self.certificate.clone(),
            addresses: vec!["quic://192.0.2.1:4433".parse().expect("an address")],
            capabilities: 0,
            suites: Vec::new(),
            key_packages: Vec::new(),
            sequence,
            expires_at_ms: u64::MAX,
        };
        BASE64URL_NOPAD.encode(&self.key.sign_object(context::PEER_RECORD, record.encode()).encode())
    }
}

async fn announcements(at: SocketAddr) {
    // Signed before, so that only the registry works while it is measured.
    let each = DEVICES / CONNECTIONS;
    let mut bodies: Vec<Vec<Bytes>> = Vec::new();
    for connection in 0..CONNECTIONS {
        let devices: Vec<Device> = (0..each).map(|number| device(connection * each + number)).collect();
        let rounds = (1..=ROUNDS).flat_map(|round| devices.iter().map(move |device| (round, device)));
        let body = |(round, device): (u64, &Device)| {
            json!({"peerId": device.id.to_string(), "record": device.record(round)}).to_string().into()
        };
        bodies.push(rounds.map(body).collect());
    }
    let path: Arc<str> = format!("/network/{}/announce", network()).into();
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for bodies in bodies {
        let path = path.clone();
        tasks.spawn(async move {
            let stream = TcpStream::connect(at).await.expect("a connection");
            stream.set_nodelay(true).expect("an option");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            for body in bodies {
                let request = Request::post(&*path).header("host", "bench").body(Full::new(body)).expect("a request");
                let response = sender.send_request(request).await.expect("a response");
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.expect("a body");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("announced");
    }
    let count = each * CONNECTIONS * ROUNDS;
    println!("{:.0} announcements a second", count as f64 / begun.elapsed().as_secs_f64());
}

async fn connect(at: SocketAddr, device: &Device) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(at).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let config = tokio_tungstenite::tungstenite::protocol::WebSocketConfig::default().read_buffer_size(1024);
    let url = format!("ws://{at}/signal/{}", device.id);
    let (mut socket, _) =
        tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await.expect("a WebSocket");
    let challenge = receive(&mut socket).await;
    let nonce = BASE64URL_NOPAD.decode(challenge["nonce"].as_str().expect("a nonce").as_bytes()).expect("bytes");
    let nonce = nonce.try_into().expect("32 bytes");
    let input = challenge_input(&nonce, challenge["registry"].as_str().expect("a name"), &network(), &device.id);
    let signature = BASE64URL_NOPAD.encode(&device.key.sign(&input));
    let hello = json!({
        "type": "hello", "network": network().to_string(), "record": device.record(100), "signature": signature,
    });
    socket.send(Message::Text(hello.to_string().into())).await.expect("a hello");
    assert_eq!(receive(&mut socket).await["type"], "ready");
    socket
}

async fn receive(socket: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        if let Message::Text(text) = socket.next().await.expect("a message").expect("a message") {
            return serde_json::from_str(&text).expect("JSON");
        }
    }
}

async fn sockets_and_signals(server: &Server, count: u64) {
    let before = server.memory();
    let mut idle = Vec::new();
    for number in 0..count {
        idle.push(connect(server.at, &device(1_000_000 + number)).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = server.memory();
    let each = (after.saturating_sub(before) * 1024) / count.max(1);
    println!("{count} idle sockets: {each} bytes each; the whole process has {} MiB", after / 1024);

    // Ten devices send to ten others, each signal with the time at which it was sent.
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for pair in 0..10 {
        let (from, to) = (device(2_000_000 + pair), device(3_000_000 + pair));
        let (sending, mut receiving) = (connect(server.at, &from).await, connect(server.at, &to).await);
        let (mut sink, mut answers) = sending.split();
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(10) / RATE);
            for _ in 0..RATE * SECONDS / 10 {
                ticks.tick().await;
                let payload = format!("{:0>2000}", begun.elapsed().as_micros());
                let signal = json!({"type": "signal", "to": to.id.to_string(), "payload": payload});
                sink.send(Message::Text(signal.to_string().into())).await.expect("sent");
            }
            // Keeps the socket open until the other side has everything.
            let _ = tokio::time::timeout(Duration::from_secs(2), answers.next()).await;
            Vec::new()
        });
        tasks.spawn(async move {
            let mut delays = Vec::new();
            for _ in 0..RATE * SECONDS / 10 {
                let signal = receive(&mut receiving).await;
                let sent: u64 = signal["payload"].as_str().expect("text").parse().expect("a time");
                delays.push(begun.elapsed() - Duration::from_micros(sent));
            }
            delays
        });
    }
    let mut delays = Vec::new();
    while let Some(done) = tasks.join_next().await {
        delays.extend(done.expect("a task"));
    }
    delays.sort_unstable();
    let at = |part: usize| delays.get(delays.len() * part / 100).copied().unwrap_or_default();
    println!("{RATE} signals a second: delay {:?} (median), {:?} (99 %)", at(50), at(99));
    drop(idle);
}

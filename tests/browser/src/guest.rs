//! What the guest asks the test for, and what it tells.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64URL_NOPAD;
use peerloom_conformance::identity::{Identity, identity, record};
use peerloom_core::wire::context;
use peerloom_crypto_primitives::SigningKey;
use peerloom_registry_protocol::message::{ClientMessage, Hello};
use peerloom_registry_protocol::proof::challenge_input;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::stage::{GUEST, HOST, network};
use crate::within;

/// What the guest does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It offers, and opens the channels.
    Offer,
    /// It answers, and takes the channels.
    Answer,
}

/// What the guest is to do.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    /// What it does first.
    pub role: Role,
    /// The registry, `host:port`; the stage fills it in.
    pub registry: String,
    /// Its own device.
    pub own: String,
    /// The node's.
    pub other: String,
    /// The network.
    pub network: String,
    /// The secret of its own device, in base64url: it signs its signals itself.
    pub seed: String,
    /// Numbers that make the node's frames, and the guest's.
    pub host: usize,
    /// See `host`.
    pub guest: usize,
    /// Frames each way in the first channel.
    pub frames: usize,
    /// Bytes of each, and of the very first, which takes several messages.
    pub size: usize,
    /// See `size`.
    pub long: usize,
    /// The context of the channel binding, in base64url.
    pub context: String,
    /// Whether it is the guest that closes the link in the end.
    pub closes: bool,
}

impl Task {
    /// What is to be done in this role; who `closes` the link in the end is the guest or the node.
    pub fn new(role: Role, closes: bool) -> Self {
        Self {
            role,
            registry: String::new(),
            own: identity(GUEST).device.to_string(),
            other: identity(HOST).device.to_string(),
            network: network().to_string(),
            seed: BASE64URL_NOPAD.encode(identity(GUEST).secret.expose()),
            host: usize::from(HOST),
            guest: usize::from(GUEST),
            // More than a window of 4 MiB.
            frames: 100,
            size: 60_000,
            long: 200_000,
            context: BASE64URL_NOPAD.encode(context::WEBRTC_BINDING),
            closes,
        }
    }
}

/// What a guest asks to have signed.
#[derive(Debug, Deserialize)]
struct Challenge {
    nonce: String,
    registry: String,
}

struct Shared {
    task: Task,
    identity: Identity,
    reports: mpsc::Sender<Value>,
}

/// The server that a guest talks to, and what it has reported.
pub struct Guest {
    url: String,
    reports: mpsc::Receiver<Value>,
    /// Reports that came before they were asked for.
    early: VecDeque<Value>,
    serving: JoinHandle<()>,
}

impl Guest {
    /// Serves a guest with this task.
    pub async fn serve(task: Task) -> Self {
        let (sender, reports) = mpsc::channel(64);
        let shared = Arc::new(Shared { task, identity: identity(GUEST), reports: sender });
        let router = Router::new()
            .route("/", get(async || file("text/html", include_str!("../page/index.html"))))
            .route("/main.js", get(async || file("text/javascript", include_str!("../page/main.js"))))
            .route("/signal.js", get(async || file("text/javascript", include_str!("../page/signal.js"))))
            .route("/link.js", get(async || file("text/javascript", include_str!("../page/link.js"))))
            .route("/task", get(async |State(shared): State<Arc<Shared>>| Json(shared.task.clone())))
            .route("/hello", post(hello))
            .route("/report", post(report))
            .with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("a server") });
        Self { url, reports, early: VecDeque::new(), serving }
    }

    /// Where the guest finds it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits for the guest's next report, which must be of this event.
    pub async fn expect(&mut self, event: &str) -> Value {
        let what = format!("the guest to report \"{event}\"");
        let report = match self.early.pop_front() {
            Some(report) => report,
            None => within(&what, self.reports.recv()).await.expect("the server runs"),
        };
        assert_eq!(report["event"], event, "{report:#}");
        report
    }

    /// Waits for something, unless the guest reports that it has failed.
    pub async fn meanwhile<T>(&mut self, what: &str, work: impl Future<Output = T>) -> T {
        let mut work = pin!(within(what, work));
        loop {
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    assert_ne!(report["event"], "failed", "{report:#}");
                    self.early.push_back(report);
                }
                value = &mut work => return value,
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn file(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind)], content)
}

/// Signs the registry's challenge in the guest's name.
async fn hello(State(shared): State<Arc<Shared>>, body: String) -> Json<ClientMessage> {
    let challenge: Challenge = serde_json::from_str(&body).expect("a challenge");
    let nonce = BASE64URL_NOPAD.decode(challenge.nonce.as_bytes()).expect("base64url");
    let identity = &shared.identity;
    let record = record(identity, 1, &[format!("webrtc://{}", identity.device).parse().expect("an address")]);
    let network = network();
    let input = challenge_input(&nonce.try_into().expect("32 bytes"), &challenge.registry, &network, &identity.device);
    let signature = SigningKey::from_seed(identity.secret.expose()).sign(&input);
    let hello = Hello {
        network,
        record,
        signature: signature.as_ref().try_into().expect("64 bytes"),
        token: None,
        work: None,
        signal_address: None,
        coordinators: Vec::new(),
    };
    Json(ClientMessage::Hello(Box::new(hello)))
}

async fn report(State(shared): State<Arc<Shared>>, body: String) -> Json<Value> {
    // A test that has failed already reads no more.
    let _ = shared.reports.send(serde_json::from_str(&body).expect("a report")).await;
    Json(json!({}))
}

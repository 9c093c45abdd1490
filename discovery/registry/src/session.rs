//! One WebSocket with the registry: from the challenge to the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use futures_util::{SinkExt, StreamExt};
use peerloom_core::pace::{Pace, Paced};
use peerloom_core::wire::{self, Allowance, DecodeError, Signed, context};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_registry_protocol::limits;
use peerloom_registry_protocol::message::{ClientMessage, Hello, ServerMessage};
use peerloom_registry_protocol::proof::challenge_body;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tracing::debug;

use crate::connect::Stream;
use crate::shared::{Outgoing, Shared};
use crate::signaling::unreachable;

/// For connecting up to the challenge, and for the answer to the hello.
const PATIENCE: Duration = Duration::from_secs(10);
/// The registry pings every 30 s; after so long without anything the connection is dead.
const SILENCE: Duration = Duration::from_secs(75);
/// How often it is looked whether a newer record is still to be announced.
const LOOK: Duration = Duration::from_secs(15);
/// How long saying goodbye may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Signals that wait to be sent.
const OUTBOX: usize = 64;
/// Signals that wait for the registry's answer.
const UNANSWERED: usize = 1024;
/// What is read at once, in bytes: signals are small.
const READ_BUFFER: usize = 4 * 1024;
/// Most bytes that wait to be written.
const WRITE_BUFFER: usize = 2 * limits::MESSAGE;
/// Bytes a second that are read on average, and at once: much more than signals of all contacts take. What comes faster
/// waits at the registry.
const READ_RATE: u32 = 512 * 1024;
const READ_BURST: u32 = 4 * 1024 * 1024;
/// Pings at once, and after how long one more: a registry that sends more is none.
const PINGS: u32 = 32;
const PING_EVERY: Duration = Duration::from_secs(1);

/// Why a session ended.
pub(crate) enum End {
    /// The client is closed.
    Closed,
    /// The machine's addresses changed: what was connected from the old ones is of no use.
    NetworkChanged,
    /// It failed; `Refused` where trying again soon doesn't help.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The WebSocket, and what the registry may send that is no message.
struct Socket {
    stream: WebSocketStream<Paced<Box<dyn Stream>>>,
    pings: Allowance<Instant>,
}

/// Runs one session, until the machine's addresses change at most. Says how long it lasted if it came
/// about, and how it ended.
pub(crate) async fn run(shared: &Arc<Shared>, changes: &mut watch::Receiver<u64>) -> (Option<Duration>, End) {
    let greeted = tokio::select! {
        () = shared.closing.cancelled() => return (None, End::Closed),
        _ = changes.changed() => return (None, End::NetworkChanged),
        greeted = greet(shared) => greeted,
    };
    let (mut socket, record) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => return (None, error.into()),
    };
    debug!(registry = shared.caller.name, "connected to the registry");
    shared.has_announced(Some(record));
    let (sender, outbox) = mpsc::channel(OUTBOX);
    shared.connected(Some(sender));
    shared.recovered();
    let begun = Instant::now();
    let end = exchange(shared, &mut socket, changes, outbox).await;
    let lived = begun.elapsed();
    // After a change of network nobody would answer on the old path; the next session takes this one's place.
    if matches!(end, End::Closed) {
        // Without it the registry would notice in a minute.
        let _ = timeout(FAREWELL, farewell(&mut socket)).await;
    }
    (Some(lived), end)
}

/// Connects, answers the challenge, and waits until the registry is content.
async fn greet(shared: &Shared) -> Result<(Socket, Signed)> {
    let name = &shared.caller.name;
    let late = |_| {
        let advice = format!("the registry {name} doesn't answer in time; try again");
        Error::new(ErrorKind::Timeout, "registry", "connect", advice)
    };
    let mut socket = timeout(PATIENCE, open(shared)).await.map_err(late)??;
    let challenge = timeout(PATIENCE, receive(shared, &mut socket)).await.map_err(late)??;
    let ServerMessage::Challenge { nonce, registry, work_bits } = challenge else {
        return Err(unexpected(shared, challenge));
    };
    if registry != *name {
        let said = crate::http::clean(&registry);
        let message = format!(
            "the registry that answers at {name} calls itself {said}, so its challenge isn't answered: another \
             server could have passed it on. Set `url` to the registry's name, or its operator gives it this one"
        );
        return Err(Error::new(ErrorKind::Refused, "registry", "connect", message));
    }
    let record = shared.record.borrow().clone();
    let record =
        record.ok_or_else(|| Error::new(ErrorKind::Internal, "registry", "connect", "there is no record yet"))?;
    let work = shared.work(&record, work_bits).await?;
    let body = challenge_body(&nonce, name, &shared.network, &shared.device);
    let signature = shared.signer.sign(context::REGISTRY_CHALLENGE, &body)?;
    let bug = || Error::new(ErrorKind::Internal, "registry", "connect", "a signature of another length than Ed25519's");
    let hello = Hello {
        network: shared.network,
        record: record.clone(),
        signature: signature.as_ref().try_into().map_err(|_| bug())?,
        token: shared.config.token.clone(),
        work,
        signal_address: shared.config.signal_address.clone(),
        coordinators: Vec::new(),
    };
    let answer = async {
        send(shared, &mut socket, &ClientMessage::Hello(Box::new(hello))).await?;
        receive(shared, &mut socket).await
    };
    match timeout(PATIENCE, answer).await.map_err(late)?? {
        ServerMessage::Ready {} => Ok((socket, record)),
        other => Err(unexpected(shared, other)),
    }
}

async fn open(shared: &Shared) -> Result<Socket> {
    let pace = Pace::new(READ_RATE, READ_BURST);
    pace.begin();
    let stream = Paced::new(shared.caller.connector.connect().await?, pace);
    let name = &shared.caller.name;
    let scheme = if shared.caller.connector.is_tls() { "wss" } else { "ws" };
    let url = format!("{scheme}://{name}/signal/{}", shared.device);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(limits::MESSAGE))
        .max_frame_size(Some(limits::MESSAGE));
    let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
    let (socket, _) = opened.map_err(|e| {
        let advice = format!("{name} opens no WebSocket; is it a registry, does a proxy in between let it through?");
        Error::new(ErrorKind::Unreachable, "registry", "connect", advice).with_source(e)
    })?;
    Ok(Socket { stream: socket, pings: Allowance::full(PINGS) })
}

/// Carries signals until the session ends.
async fn exchange(
    shared: &Arc<Shared>,
    socket: &mut Socket,
    changes: &mut watch::Receiver<u64>,
    mut outbox: mpsc::Receiver<Outgoing>,
) -> End {
    let mut unanswered: HashMap<u64, oneshot::Sender<Result<()>>> = HashMap::new();
    let mut number = 0;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return End::Closed,
            _ = changes.changed() => return End::NetworkChanged,
            () = sleep_until(heard + SILENCE) => return lost(shared, "says nothing any more").into(),
            _ = looks.tick() => {
                if shared.announcement_is_due() {
                    tokio::spawn(announce(shared.clone()));
                }
                if shared.items_are_due() {
                    tokio::spawn(publish(shared.clone()));
                }
            }
            Some(Outgoing { to, payload, answer }) = outbox.recv() => {
                unanswered.retain(|_, waiting| !waiting.is_closed());
                if unanswered.len() >= UNANSWERED {
                    let message = "too many signals wait for the registry; try again";
                    let _ = answer.send(Err(Error::new(ErrorKind::Overloaded, "registry", "signal", message)));
                    continue;
                }
                number += 1;
                unanswered.insert(number, answer);
                let signal = ClientMessage::Signal { to, payload, id: Some(number) };
                match timeout(PATIENCE, send(shared, socket, &signal)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return error.into(),
                    Err(_) => return lost(shared, "takes nothing any more").into(),
                }
            }
            message = next(shared, socket) => {
                heard = Instant::now();
                let taken = match message {
                    Ok(Some(message)) => take(shared, &mut unanswered, message),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = taken {
                    return error.into();
                }
            }
        }
    }
}

/// Announces a record that was made while another was announced.
async fn announce(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.closing.cancelled() => {}
        done = shared.announce() => if let Err(error) = done {
            debug!(%error, "the newest record is not announced yet");
        },
    }
}

/// Publishes the items that the registry lacks.
async fn publish(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.closing.cancelled() => {}
        done = shared.publish_items() => if let Err(error) = done {
            debug!(%error, "not all items are published yet");
        },
    }
}

/// Handles what the registry sent.
fn take(
    shared: &Shared,
    unanswered: &mut HashMap<u64, oneshot::Sender<Result<()>>>,
    message: ServerMessage,
) -> Result<()> {
    let mut answer = |id: Option<u64>, result: Result<()>| {
        if let Some(waiting) = id.and_then(|id| unanswered.remove(&id)) {
            // Fails only when the caller doesn't wait any more.
            let _ = waiting.send(result);
        }
    };
    match message {
        ServerMessage::Signal { from, payload } => match signed(&payload) {
            Ok(signal) => shared.deliver(from, signal),
            Err(error) => debug!(?from, %error, "what is no signed signal is passed over"),
        },
        ServerMessage::Sent { id, .. } => answer(Some(id), Ok(())),
        ServerMessage::Absent { to, id } => {
            let message = format!("the device {} is not connected to the registry", to.short());
            answer(id, Err(unreachable(message)));
        }
        // Signaling may lose signals, and whoever sends one waits for its answer anyway.
        ServerMessage::Busy { to, id, .. } => {
            debug!(?to, "the registry dropped a signal: too many at once");
            metrics::counter!("peerloom_registry_signals_dropped_total").increment(1);
            answer(id, Ok(()));
        }
        other => return Err(unexpected(shared, other)),
    }
    Ok(())
}

/// The signed signal in a payload; nothing in it is verified.
fn signed(payload: &str) -> Result<Signed, DecodeError> {
    let malformed = DecodeError::Malformed { what: "signal" };
    let bytes = BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| malformed)?;
    Signed::decode(bytes.into(), wire::limits::SIGNED_SIGNAL)
}

async fn send(shared: &Shared, socket: &mut Socket, message: &ClientMessage) -> Result<()> {
    let bug = |e| Error::new(ErrorKind::Internal, "registry", "send", "a message that is no JSON").with_source(e);
    let text = serde_json::to_string(message).map_err(bug)?;
    socket
        .stream
        .send(Message::Text(text.into()))
        .await
        .map_err(|e| lost(shared, "broke off the connection").with_source(e))
}

/// The next message.
async fn receive(shared: &Shared, socket: &mut Socket) -> Result<ServerMessage> {
    loop {
        if let Some(message) = next(shared, socket).await? {
            return Ok(message);
        }
    }
}

/// The next sign of life, which is nothing more where it is a ping. The library answers those.
async fn next(shared: &Shared, socket: &mut Socket) -> Result<Option<ServerMessage>> {
    let message = socket.stream.next().await.ok_or_else(|| lost(shared, "closed the connection"))?;
    match message.map_err(|e| lost(shared, "broke off the connection").with_source(e))? {
        Message::Text(text) => serde_json::from_str(&text).map(Some).map_err(|e| garbage(shared).with_source(e)),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
            socket.pings.spend(Instant::now(), PING_EVERY).then_some(None).ok_or_else(|| garbage(shared))
        }
        Message::Binary(_) => Err(garbage(shared)),
        Message::Close(_) => Err(lost(shared, "closed the connection")),
    }
}

async fn farewell(Socket { stream, .. }: &mut Socket) {
    // What fails is gone already.
    let _ = stream.close(None).await;
    while stream.next().await.is_some_and(|message| message.is_ok()) {}
}

fn lost(shared: &Shared, what: &str) -> Error {
    let message = format!("the registry {} {what}; it is tried again", shared.caller.name);
    Error::new(ErrorKind::Unreachable, "registry", "keep the connection", message)
}

fn garbage(shared: &Shared) -> Error {
    let message = format!("{} doesn't speak as a registry does; is the URL right?", shared.caller.name);
    Error::new(ErrorKind::Malformed, "registry", "receive", message)
}

/// An error that the registry told of, or a message out of turn.
fn unexpected(shared: &Shared, message: ServerMessage) -> Error {
    match message {
        ServerMessage::Error(failure) => shared.caller.refusal("connect", &failure),
        _ => garbage(shared),
    }
}

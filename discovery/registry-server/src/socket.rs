//! The WebSocket of one device: challenge, hello, signals.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::http::StatusCode;
use futures_util::{FutureExt, SinkExt, StreamExt};
use peerloom_core::wire::{Allowance, DeviceId};
use peerloom_crypto_primitives::{random, verify};
use peerloom_registry_protocol::http::Failure;
use peerloom_registry_protocol::message::{ClientMessage, Hello, ServerMessage};
use peerloom_registry_protocol::proof::challenge_input;
use peerloom_registry_protocol::{code, limits};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::debug;

use crate::announce::Claim;
use crate::error::ApiError;
use crate::hub::{Delivery, Queue};
use crate::state::State;

/// How long a client may take to read what is written to it when the socket is being closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a client that sends too fast is not read at most. What it sends then waits with it.
const SLOWED: Duration = Duration::from_secs(1);
/// Pings and pongs of a client at once, and after how long one more: a client that sends more is read more slowly.
const CONTROLS: u32 = 32;
const CONTROL_EVERY: Duration = Duration::from_millis(200);

/// Serves a socket until it ends. `from` is the client's address, `name` is what the client called the registry.
pub(crate) async fn serve(state: Arc<State>, device: DeviceId, from: IpAddr, name: String, mut socket: WebSocket) {
    let number = state.hub.number();
    // On the heap while it lasts: an idle socket shouldn't keep room for it.
    let ended = match Box::pin(greet(&state, device, from, number, &name, &mut socket)).await {
        Ok(mut queue) => {
            let _counted = state.metrics.socket();
            debug!(network = ?queue.network(), ?device, "connected");
            let ended = exchange(&state, &mut queue, &mut socket).await;
            leave(&state, &queue).await;
            debug!(network = ?queue.network(), ?device, "disconnected");
            ended
        }
        Err(end) => end,
    };
    let End::Tell(failure) = ended else { return };
    debug!(?device, code = failure.code, "a socket is closed");
    state.metrics.refuse("socket");
    let _ = timeout(FAREWELL, farewell(&mut socket, failure)).await;
}

/// Gives a socket's seat back. Where no newer one has it, the device is offline from now on.
async fn leave(state: &State, queue: &Queue) {
    if state.hub.leave(queue) {
        // If this fails the device counts as online until its announcement is old.
        let _ = state.store.left(*queue.network(), *queue.device(), crate::now_ms()).await;
    }
}

/// How a socket ends.
enum End {
    /// The client has gone, or doesn't answer.
    Gone,
    /// The client is told why.
    Tell(Failure),
}

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Tell(error.failure)
    }
}

impl From<axum::Error> for End {
    fn from(_: axum::Error) -> Self {
        Self::Gone
    }
}

impl End {
    fn tell(code: &str, message: &str) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, code, message).into()
    }
}

/// Challenges the client and takes its hello. `number` is the socket's.
async fn greet(
    state: &State,
    device: DeviceId,
    from: IpAddr,
    number: u64,
    name: &str,
    socket: &mut WebSocket,
) -> Result<Queue, End> {
    let nonce: [u8; 32] = random().map_err(|_| End::tell(code::INTERNAL, "the registry has no randomness"))?;
    let work_bits = state.config.work_bits;
    socket.send(text(&ServerMessage::Challenge { nonce, registry: name.to_owned(), work_bits })).await?;
    let hello = tokio::select! {
        () = state.closing.cancelled() => return Err(stopping()),
        hello = timeout(state.config.times.hello, receive_hello(socket)) => {
            hello.map_err(|_| End::tell(code::TIMEOUT, "no hello came in time"))??
        }
    };
    state.access.check(&hello.network, hello.token.as_deref())?;
    let claim = Claim {
        network: hello.network,
        device,
        record: &hello.record,
        capabilities: None,
        signal_address: hello.signal_address.as_deref(),
        work: hello.work,
        coordinators: &hello.coordinators,
    };
    let (mut announcement, key) = state.examine(&claim)?;
    let input = challenge_input(&nonce, name, &hello.network, &device);
    if !verify(&key, &input, &hello.signature) {
        let message = "the signature over the challenge is wrong; sign this challenge with the device's key";
        return Err(End::tell(code::BAD_SIGNATURE, message));
    }
    // The challenge proves that the device is there now, whatever the age of its record.
    announcement.fresh = true;
    state.charge(&announcement)?;
    state.announce(announcement, Some(from)).await?;
    let entered = state.hub.enter(hello.network, device, number, state.config.limits.queue);
    let queue = entered.ok_or_else(replaced)?;
    match socket.send(text(&ServerMessage::Ready {})).await {
        Ok(()) => Ok(queue),
        Err(_) => {
            leave(state, &queue).await;
            Err(End::Gone)
        }
    }
}

async fn receive_hello(socket: &mut WebSocket) -> Result<Box<Hello>, End> {
    for _ in 0..CONTROLS {
        match socket.next().await.ok_or(End::Gone)?? {
            Message::Text(text) => match parse(&text)? {
                ClientMessage::Hello(hello) => return Ok(hello),
                ClientMessage::Signal { .. } => return Err(End::tell(code::UNEXPECTED, "say hello first")),
            },
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Binary(_) => return Err(End::tell(code::MALFORMED, "messages are text")),
            Message::Close(_) => return Err(End::Gone),
        }
    }
    Err(End::tell(code::UNEXPECTED, "say hello first"))
}

/// When a client is read next, and what it may send that isn't a signal.
struct Reading {
    /// Not before then is it read.
    next: Instant,
    controls: Allowance<Instant>,
}

/// Carries signals both ways until the socket ends.
async fn exchange(state: &State, queue: &mut Queue, socket: &mut WebSocket) -> End {
    let times = &state.config.times;
    let mut pings = interval(times.ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    let mut heard = Instant::now();
    let mut reads = Reading { next: heard, controls: Allowance::full(CONTROLS) };
    loop {
        let step = tokio::select! {
            () = state.closing.cancelled() => return stopping(),
            queued = queue.next() => match queued {
                Some(first) => write_queued(queue, socket, first, times.silence).await,
                None if state.closing.is_cancelled() => return stopping(),
                None => return replaced(),
            },
            message = read(socket, reads.next) => {
                heard = Instant::now();
                match message {
                    Some(Ok(message)) => take(state, queue, socket, &mut reads, message).await,
                    _ => return End::Gone,
                }
            }
            _ = pings.tick() => {
                if heard.elapsed() >= times.silence {
                    // Something may have come while others' signals were written.
                    match socket.next().now_or_never() {
                        Some(Some(Ok(message))) => {
                            heard = Instant::now();
                            if let Err(end) = take(state, queue, socket, &mut reads, message).await {
                                return end;
                            }
                        }
                        _ => return End::Gone,
                    }
                }
                write(socket, Message::Ping(bytes::Bytes::new()), times.silence).await
            }
        };
        if let Err(end) = step {
            return end;
        }
    }
}

fn replaced() -> End {
    End::tell(code::REPLACED, "the device has opened a newer socket")
}

fn stopping() -> End {
    ApiError::overloaded("the registry is being stopped").into()
}

/// The next message that comes, once it is time to read.
async fn read(socket: &mut WebSocket, not_before: Instant) -> Option<Result<Message, axum::Error>> {
    if not_before > Instant::now() {
        sleep_until(not_before).await;
    }
    socket.next().await
}

/// Handles a message of the client, and sets when to read the next one.
async fn take(
    state: &State,
    queue: &Queue,
    socket: &mut WebSocket,
    reads: &mut Reading,
    message: Message,
) -> Result<(), End> {
    let text_message = match message {
        Message::Text(text) => text,
        Message::Ping(_) | Message::Pong(_) => {
            let now = Instant::now();
            reads.controls.spend(now, CONTROL_EVERY);
            if let Some(wait) = reads.controls.wait(now, CONTROL_EVERY) {
                reads.next = now + wait;
            }
            return Ok(());
        }
        Message::Binary(_) => return Err(End::tell(code::MALFORMED, "messages are text")),
        Message::Close(_) => return Err(End::Gone),
    };
    let ClientMessage::Signal { to, payload, id } = parse(&text_message)? else {
        return Err(End::tell(code::UNEXPECTED, "hello was said already; open another socket for a new one"));
    };
    if payload.len() > limits::PAYLOAD {
        return Err(ApiError::too_large(format!("a payload has at most {} bytes", limits::PAYLOAD)).into());
    }
    let answer = match state.by_sender.check(queue.device()) {
        Err(wait) => {
            state.metrics.signal("limited");
            reads.next = Instant::now() + wait.min(SLOWED);
            let retry_after_ms = u64::try_from(wait.as_millis()).ok().map(|ms| ms.max(1));
            Some(ServerMessage::Busy { to, id, retry_after_ms })
        }
        Ok(()) => {
            let signal = encode(&ServerMessage::Signal { from: *queue.device(), payload });
            match state.hub.send(*queue.network(), to, signal) {
                Delivery::Sent => {
                    state.metrics.signal("sent");
                    id.map(|id| ServerMessage::Sent { to, id })
                }
                Delivery::Absent => {
                    state.metrics.signal("absent");
                    Some(ServerMessage::Absent { to, id })
                }
                Delivery::Busy => {
                    state.metrics.signal("busy");
                    Some(ServerMessage::Busy { to, id, retry_after_ms: None })
                }
            }
        }
    };
    match answer {
        Some(answer) => write(socket, text(&answer), state.config.times.silence).await,
        None => Ok(()),
    }
}

/// Writes what waits in the queue now at one go. What comes meanwhile waits for the next turn: otherwise
/// others could keep the socket from being read, and so end it. `patience` is for each message.
async fn write_queued(
    queue: &mut Queue,
    socket: &mut WebSocket,
    first: Utf8Bytes,
    patience: Duration,
) -> Result<(), End> {
    let more = queue.waiting();
    let mut next = Some(first);
    for left in (0..=more).rev() {
        let Some(text) = next.take() else { break };
        timeout(patience, socket.feed(Message::Text(text))).await.map_err(|_| End::Gone)??;
        next = if left > 0 { queue.ready() } else { None };
    }
    timeout(patience, socket.flush()).await.map_err(|_| End::Gone)?.map_err(End::from)
}

async fn write(socket: &mut WebSocket, message: Message, patience: Duration) -> Result<(), End> {
    timeout(patience, socket.send(message)).await.map_err(|_| End::Gone)?.map_err(End::from)
}

async fn farewell(socket: &mut WebSocket, failure: Failure) -> Result<(), axum::Error> {
    let code = if failure.code == code::OVERLOADED { close_code::AWAY } else { close_code::POLICY };
    let reason = Utf8Bytes::from(failure.code.clone());
    socket.send(text(&ServerMessage::Error(failure))).await?;
    socket.send(Message::Close(Some(CloseFrame { code, reason }))).await?;
    // Until the client closes too: a reset could overtake the reason.
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    Ok(())
}

fn parse(text: &Utf8Bytes) -> Result<ClientMessage, End> {
    let malformed = |e: serde_json::Error| ApiError::malformed(format!("not a message: {e}"));
    serde_json::from_str(text).map_err(|e| malformed(e).into())
}

fn encode(message: &ServerMessage) -> Utf8Bytes {
    // Every message can be written as JSON: it has texts and numbers only.
    serde_json::to_string(message).unwrap_or_default().into()
}

fn text(message: &ServerMessage) -> Message {
    Message::Text(encode(message))
}

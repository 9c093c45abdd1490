//! Opening the WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State as Shared;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use peerloom_core::wire::DeviceId;
use peerloom_registry_protocol::http::ErrorBody;
use peerloom_registry_protocol::schema::Id;
use peerloom_registry_protocol::{code, limits, text};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::extract::{At, Origin};
use crate::connections::Caller;
use crate::error::ApiError;
use crate::socket;
use crate::state::State;

/// What a socket reads at once, in bytes. The library's default of 128 KiB would be most of what an idle
/// socket costs.
const READ_BUFFER: usize = 2 * 1024;
/// Most bytes that wait to be written to one socket.
const WRITE_BUFFER: usize = 2 * limits::MESSAGE;

/// When to try again where too many sockets are open.
const RETRY: Duration = Duration::from_secs(60);

/// A device in a path.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(crate) struct SignalPlace {
    /// The device that connects.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    peer_id: DeviceId,
}

/// The WebSocket over which a device sends and takes signals.
///
/// Its messages are described in the crate `peerloom-registry-protocol`.
#[utoipa::path(
    get, path = "/signal/{peerId}", params(SignalPlace),
    responses((status = 101, description = "A WebSocket"), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn signal(
    Shared(state): Shared<Arc<State>>,
    At(SignalPlace { peer_id: device }): At<SignalPlace>,
    Extension(caller): Extension<Caller>,
    Extension(Origin(from)): Extension<Origin>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|e| {
        let message = format!("this call opens a WebSocket: {}", e.body_text());
        ApiError::new(e.status(), code::MALFORMED, message)
    })?;
    // Behind a proxy the connections themselves all come from one address.
    let from = from.unwrap_or(caller.address);
    let place = state.sockets.admit(from).ok_or_else(|| {
        state.metrics.refuse("sockets");
        let message = "too many WebSockets are open from this address; close some";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, code::RATE_LIMITED, message).retry_after(RETRY)
    })?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let name = state.name_for(host).to_owned();
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(limits::MESSAGE)
        .max_frame_size(limits::MESSAGE);
    let task = state.tasks.token();
    caller.pace.begin();
    Ok(upgrade.on_upgrade(move |socket| async move {
        socket::serve(state, device, from, name, socket).await;
        // The connection and the socket keep their places until here.
        drop((caller.place, place, task));
    }))
}

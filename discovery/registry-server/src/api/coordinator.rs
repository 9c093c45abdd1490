//! Heartbeats of coordinators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use peerloom_registry_protocol::code;
use peerloom_registry_protocol::http::{ErrorBody, Heartbeat};
use peerloom_registry_protocol::proof::heartbeat_input;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::extract::Body;
use crate::error::ApiError;
use crate::now_ms;
use crate::state::State;
use crate::store::Beat;

/// Nothing more to say.
#[derive(Serialize, ToSchema)]
pub(crate) struct Noted {}

/// A device says that it coordinates. It must have announced itself.
#[utoipa::path(
    post, path = "/coordinator/heartbeat", request_body = Heartbeat,
    responses((status = 200, body = Noted), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn heartbeat(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Body(body): Body<Heartbeat>,
) -> Result<Json<Noted>, ApiError> {
    let (network, device) = (body.network_id, body.peer_id);
    state.access.check_headers(&network, &headers)?;
    let now = now_ms();
    state.check_time(body.at_ms, now)?;
    let certificate = state.certificate(network, device, now).await?;
    state.check_signature(&certificate, &body.signature, |name| heartbeat_input(name, &body))?;
    state.by_device.check(&device).map_err(ApiError::rate_limited)?;
    let beat = Beat {
        network,
        device,
        active_peers: body.active_peers,
        capacity: body.capacity,
        at_ms: body.at_ms,
        received_ms: now,
    };
    if !state.store.beat(beat).await? {
        let message = "a heartbeat as late or later is known already";
        return Err(ApiError::new(StatusCode::CONFLICT, code::OUTDATED, message));
    }
    Ok(Json(Noted {}))
}

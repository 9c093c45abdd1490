//! Heartbeats of coordinators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use peerloom_core::wire::{self, PeerRecord, Signed};
use peerloom_crypto_primitives::verify;
use peerloom_registry_protocol::http::{ErrorBody, Heartbeat};
use peerloom_registry_protocol::proof::heartbeat_input;
use peerloom_registry_protocol::{code, limits};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::extract::Told;
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
    Told(told): Told<Heartbeat>,
) -> Result<Json<Noted>, ApiError> {
    let (network, device) = (told.network_id, told.peer_id);
    state.access.check_headers(&network, &headers)?;
    let now = now_ms();
    if told.at_ms.abs_diff(now) > limits::HEARTBEAT_SKEW_MS {
        let message = "atMs is too far from the registry's clock (see the Date header); set the device's clock";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, code::CLOCK_SKEW, message));
    }
    let unknown = || ApiError::not_found("this device is not known in this network; announce it first");
    let known = state.store.device(network, device, now).await?.ok_or_else(unknown)?;
    // Its signatures were checked when it was announced.
    let (_, certificate) = Signed::decode(Bytes::from(known.record), wire::limits::RECORD)
        .and_then(|signed| PeerRecord::open(&signed, |_, _, _| true))
        .map_err(|_| unknown())?;
    let signed_for = |name: &String| verify(&certificate.device_key, &heartbeat_input(name, &told), &told.signature);
    if !state.names().iter().any(signed_for) {
        let message = "the signature is not the device's over these values and this registry's name";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, code::BAD_SIGNATURE, message));
    }
    state.by_device.check(&device).map_err(ApiError::rate_limited)?;
    let beat = Beat {
        network,
        device,
        active_peers: told.active_peers,
        capacity: told.capacity,
        at_ms: told.at_ms,
        received_ms: now,
    };
    if !state.store.beat(beat).await? {
        let message = "a heartbeat as late or later is known already";
        return Err(ApiError::new(StatusCode::CONFLICT, code::OUTDATED, message));
    }
    Ok(Json(Noted {}))
}

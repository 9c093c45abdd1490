//! Devices of a network.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use data_encoding::BASE64URL_NOPAD;
use peerloom_core::wire::{DeviceId, NetworkId, UserId};
use peerloom_registry_protocol::http::{
    ActivePeer, ActivePeers, Announce, Announced, Coordinator, Device, DeviceAnswer, ErrorBody, IceAnswer, UserAnswer,
};
use peerloom_registry_protocol::schema::Id;
use peerloom_registry_protocol::{limits, text};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::announce::Claim;
use crate::api::extract::{Ask, At, Body, Origin};
use crate::error::ApiError;
use crate::state::{State, ms};
use crate::store::{Helper, Known, Since};
use crate::{ice, now_ms};

/// A network in a path.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(crate) struct NetworkPlace {
    /// The network.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    pub(crate) network_id: NetworkId,
}

/// A user in a path.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(crate) struct UserPlace {
    /// The network.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    pub(crate) network_id: NetworkId,
    /// The user.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    pub(crate) user_id: UserId,
}

/// A device in a path.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(crate) struct DevicePlace {
    /// The network.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    network_id: NetworkId,
    /// The device.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    peer_id: DeviceId,
}

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Most peers on the page.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// `next` of the page before.
    #[param(value_type = Option<Id>, inline)]
    after: Option<String>,
}

/// Devices that are online, in pages.
#[utoipa::path(
    get, path = "/network/{networkId}/active-peers", params(NetworkPlace, Page),
    responses((status = 200, body = ActivePeers), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn active_peers(
    Shared(state): Shared<Arc<State>>,
    At(NetworkPlace { network_id: network }): At<NetworkPlace>,
    Ask(page): Ask<Page>,
    headers: HeaderMap,
) -> Result<Json<ActivePeers>, ApiError> {
    state.access.check_headers(&network, &headers)?;
    let limit = page.limit.unwrap_or(limits::PAGE_DEFAULT);
    if !(1..=limits::PAGE).contains(&limit) {
        return Err(ApiError::invalid_id(format!("limit takes from 1 to {}", limits::PAGE)));
    }
    let wrong = |e| ApiError::invalid_id(format!("after: {e}; take it from `next` of the page before"));
    let after = page.after.map(|text| text.parse()).transpose().map_err(wrong)?;
    let (now, times) = (now_ms(), &state.config.times);
    // Whoever is connected is noted as seen more often than that.
    let since = now.saturating_sub(ms(times.online.max(times.clean)));
    let seen = state.store.seen(network, after, limit, since, now).await?;
    let next = seen.next.map(|device| device.to_string());
    let online = seen.devices.into_iter().filter(|known| state.is_online(network, known, now));
    let peers = online.map(|known| ActivePeer {
        user_id: known.user,
        peer_id: known.device,
        last_seen: last_seen(&state, network, &known, now),
        is_coordinator: now.saturating_sub(known.beat_ms) < ms(times.coordinator),
        signal_address: known.signal_address,
    });
    Ok(Json(ActivePeers { peers: peers.collect(), next }))
}

/// Makes a device findable.
///
/// A record with a lower sequence than the known one is refused (409). The known record once more
/// changes nothing, even after the device was forgotten: it may be a replay.
#[utoipa::path(
    post, path = "/network/{networkId}/announce", params(NetworkPlace), request_body = Announce,
    responses((status = 200, body = Announced), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn announce(
    Shared(state): Shared<Arc<State>>,
    At(NetworkPlace { network_id: network }): At<NetworkPlace>,
    Extension(Origin(from)): Extension<Origin>,
    headers: HeaderMap,
    Body(body): Body<Announce>,
) -> Result<Json<Announced>, ApiError> {
    state.access.check_headers(&network, &headers)?;
    let claim = Claim {
        network,
        device: body.peer_id,
        record: &body.record,
        capabilities: body.capabilities,
        signal_address: body.signal_address.as_deref(),
        work: body.work,
        coordinators: &body.coordinators,
    };
    let (announcement, _) = state.examine(&claim).inspect_err(|_| state.metrics.announce("refused"))?;
    state.charge(&announcement)?;
    let changed = state.announce(announcement, from).await?;
    Ok(Json(Announced { changed }))
}

/// A user's devices. Of one that isn't known there are none; who helps to meet is needed then most.
#[utoipa::path(
    get, path = "/network/{networkId}/peer/{userId}", params(UserPlace),
    responses((status = 200, body = UserAnswer), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn user(
    Shared(state): Shared<Arc<State>>,
    At(UserPlace { network_id: network, user_id: user }): At<UserPlace>,
    headers: HeaderMap,
) -> Result<Json<UserAnswer>, ApiError> {
    state.access.check_headers(&network, &headers)?;
    let (now, times) = (now_ms(), &state.config.times);
    let known = state.store.user(network, user, limits::DEVICES, now).await?;
    let devices: Vec<_> = known.into_iter().map(|known| device_answer(&state, network, known, now)).collect();
    let ago = |duration| now.saturating_sub(ms(duration));
    let since = Since { beat_ms: ago(times.coordinator), seen_ms: ago(times.seen_by) };
    let saw = state.store.saw(network, user, limits::COORDINATORS, since, now).await?;
    let since = Since { seen_ms: ago(times.online), ..since };
    let mut helpers = state.store.coordinators(network, limits::COORDINATORS, since, now).await?;
    helpers.retain(|helper| saw.iter().all(|known| known.device != helper.device));
    Ok(Json(UserAnswer {
        online: devices.iter().any(|device| device.online),
        devices,
        last_coordinators: saw.into_iter().map(coordinator).collect(),
        coordinators: helpers.into_iter().map(coordinator).collect(),
    }))
}

/// One device.
#[utoipa::path(
    get, path = "/network/{networkId}/device/{peerId}", params(DevicePlace),
    responses((status = 200, body = DeviceAnswer), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn device(
    Shared(state): Shared<Arc<State>>,
    At(DevicePlace { network_id: network, peer_id: device }): At<DevicePlace>,
    headers: HeaderMap,
) -> Result<Json<DeviceAnswer>, ApiError> {
    state.access.check_headers(&network, &headers)?;
    let now = now_ms();
    let unknown = || ApiError::not_found("this device is not known in this network");
    let known = state.store.device(network, device, now).await?.ok_or_else(unknown)?;
    let device = device_answer(&state, network, known, now);
    Ok(Json(DeviceAnswer { online: device.online, device }))
}

/// STUN and TURN servers, with credentials where there is a secret for them.
#[utoipa::path(
    get, path = "/network/{networkId}/ice-servers", params(NetworkPlace),
    responses((status = 200, body = IceAnswer), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn ice_servers(
    Shared(state): Shared<Arc<State>>,
    At(NetworkPlace { network_id: network }): At<NetworkPlace>,
    headers: HeaderMap,
) -> Result<Json<IceAnswer>, ApiError> {
    state.access.check_headers(&network, &headers)?;
    Ok(Json(ice::servers(&state.config.ice, now_ms())))
}

fn last_seen(state: &State, network: NetworkId, known: &Known, now: u64) -> u64 {
    if state.hub.is_connected(network, known.device) { now } else { known.seen_ms }
}

fn device_answer(state: &State, network: NetworkId, known: Known, now: u64) -> Device {
    let last_seen = last_seen(state, network, &known, now);
    Device {
        peer_id: known.device,
        last_seen,
        age_ms: now.saturating_sub(last_seen),
        online: state.is_online(network, &known, now),
        record: BASE64URL_NOPAD.encode(&known.record),
        signal_address: known.signal_address,
    }
}

fn coordinator(helper: Helper) -> Coordinator {
    Coordinator {
        peer_id: helper.device,
        signal_address: helper.signal_address,
        last_seen: helper.seen_ms,
        capacity: helper.capacity,
    }
}

//! Items other than records: device lists, key packages, services.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use data_encoding::BASE64URL_NOPAD;
use peerloom_core::wire::{DecodeError, DiscoveryKey, NetworkId, OpenItem, ServiceKind, UserId};
use peerloom_registry_protocol::http::{Announced, ErrorBody, FoundItem, ItemsAnswer, PublishItem};
use peerloom_registry_protocol::proof::item_input;
use peerloom_registry_protocol::schema::Id;
use peerloom_registry_protocol::{code, text};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::extract::{At, Body};
use crate::api::network::{NetworkPlace, UserPlace};
use crate::error::ApiError;
use crate::now_ms;
use crate::state::{State, ms};
use crate::store::{ItemOutcome, Publication};

/// A key package in a path.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(crate) struct PackagePlace {
    /// The network.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    network_id: NetworkId,
    /// The published key package's hash, written like an id.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    hash: UserId,
}

/// A kind of service in a path.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(crate) struct ServicePlace {
    /// The network.
    #[serde(with = "text::id")]
    #[param(value_type = Id, inline)]
    network_id: NetworkId,
    /// The kind: 1 coordinator, 2 mailbox, 3 rendezvous.
    kind: u32,
}

/// Publishes an item of an announced device. The item that is known already is kept for longer.
///
/// A service offer with a lower sequence than the known one is refused (409).
#[utoipa::path(
    post, path = "/network/{networkId}/item", params(NetworkPlace), request_body = PublishItem,
    responses((status = 200, body = Announced), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn publish(
    Shared(state): Shared<Arc<State>>,
    At(NetworkPlace { network_id: network }): At<NetworkPlace>,
    headers: HeaderMap,
    Body(body): Body<PublishItem>,
) -> Result<Json<Announced>, ApiError> {
    state.access.check_headers(&network, &headers)?;
    let (device, now) = (body.peer_id, now_ms());
    state.check_time(body.at_ms, now)?;
    let bad = |message: &str| ApiError::new(StatusCode::BAD_REQUEST, code::BAD_ITEM, message);
    let wrong = |e: DecodeError| bad(&e.to_string());
    let unknown = || bad("the registry knows no item of this kind");
    let item = text::decode_item(&body.item).map_err(wrong)?.ok_or_else(unknown)?;
    let bytes = BASE64URL_NOPAD.decode(body.item.as_bytes()).map_err(|_| bad("the item is not base64url"))?;
    let certificate = state.certificate(network, device, now).await?;
    state.check_signature(&certificate, &body.signature, |name| {
        item_input(name, &network, &device, &bytes, body.at_ms)
    })?;
    // Before the signatures in the item, which cost more.
    state.by_device.check(&device).map_err(ApiError::rate_limited)?;
    let open = item.open(|key, message, signature| state.verifier.verify(key, message, signature)).map_err(wrong)?;
    open.check(None, &network, now).map_err(wrong)?;
    let key = match &open {
        OpenItem::Record(..) => return Err(bad("a record is announced; see POST /network/{networkId}/announce")),
        OpenItem::DeviceList(list) if list.user() == certificate.user => DiscoveryKey::DeviceList(certificate.user),
        OpenItem::KeyPackage(package, hash) if package.device() == device => DiscoveryKey::KeyPackage(*hash),
        OpenItem::Service(offer, of) if of.device == device => {
            state.address_policy.check_all(&offer.addresses)?;
            DiscoveryKey::Service(offer.kind)
        }
        _ => return Err(bad("a device publishes items of its own and its user's device list alone")),
    };
    let latest = now.saturating_add(ms(state.config.times.items));
    let publication = Publication {
        network,
        key,
        device,
        user: certificate.user,
        sequence: open.sequence(),
        item: bytes,
        expires_ms: open.expires_at_ms().map_or(latest, |at| at.min(latest)),
        now_ms: now,
    };
    match state.store.publish(publication).await? {
        ItemOutcome::Stored => Ok(Json(Announced { changed: true })),
        ItemOutcome::Same => Ok(Json(Announced { changed: false })),
        ItemOutcome::Outdated => {
            let message = "a newer offer of this service is known; publish one with a higher sequence";
            Err(ApiError::new(StatusCode::CONFLICT, code::OUTDATED, message))
        }
        ItemOutcome::Full => Err(ApiError::overloaded("the registry has as many items as it takes; try another one")),
    }
}

/// What the devices of a user published as its device list; who reads it unites them.
#[utoipa::path(
    get, path = "/network/{networkId}/device-list/{userId}", params(UserPlace),
    responses((status = 200, body = ItemsAnswer), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn device_list(
    Shared(state): Shared<Arc<State>>,
    At(UserPlace { network_id: network, user_id: user }): At<UserPlace>,
    headers: HeaderMap,
) -> Result<Json<ItemsAnswer>, ApiError> {
    find(&state, &headers, network, DiscoveryKey::DeviceList(user)).await
}

/// A published key package by its hash.
#[utoipa::path(
    get, path = "/network/{networkId}/key-package/{hash}", params(PackagePlace),
    responses((status = 200, body = ItemsAnswer), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn key_package(
    Shared(state): Shared<Arc<State>>,
    At(PackagePlace { network_id: network, hash }): At<PackagePlace>,
    headers: HeaderMap,
) -> Result<Json<ItemsAnswer>, ApiError> {
    find(&state, &headers, network, DiscoveryKey::KeyPackage(*hash.as_bytes())).await
}

/// Offers of a service, those published last.
#[utoipa::path(
    get, path = "/network/{networkId}/service/{kind}", params(ServicePlace),
    responses((status = 200, body = ItemsAnswer), (status = "4XX", body = ErrorBody))
)]
pub(crate) async fn service(
    Shared(state): Shared<Arc<State>>,
    At(ServicePlace { network_id: network, kind }): At<ServicePlace>,
    headers: HeaderMap,
) -> Result<Json<ItemsAnswer>, ApiError> {
    find(&state, &headers, network, DiscoveryKey::Service(ServiceKind(kind))).await
}

async fn find(
    state: &State,
    headers: &HeaderMap,
    network: NetworkId,
    key: DiscoveryKey,
) -> Result<Json<ItemsAnswer>, ApiError> {
    state.access.check_headers(&network, headers)?;
    let now = now_ms();
    let kept = state.store.items(network, key, now).await?;
    let items = kept.into_iter().map(|kept| FoundItem {
        item: BASE64URL_NOPAD.encode(&kept.item),
        age_ms: now.saturating_sub(kept.published_ms),
    });
    Ok(Json(ItemsAnswer { items: items.collect() }))
}

//! The routes, and what is done for each request: limits, timeouts, figures, errors as JSON.

mod coordinator;
mod extract;
// What utoipa's macros make of a path's types names them by their full path.
#[allow(unused_qualifications)]
mod network;
mod service;
#[allow(unused_qualifications)]
mod signal;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State as Shared};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use peerloom_registry_protocol::{code, limits};
use tower_http::cors::{Any, CorsLayer};
use tracing::trace;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::ApiError;
use crate::limiter::address_key;
use crate::server::Caller;
use crate::state::State;

/// The address that a request comes from, as far as it is known.
#[derive(Clone, Copy)]
pub(crate) struct Origin(pub(crate) Option<IpAddr>);

/// Calls that aren't limited by address: an operator's.
const FREE: [&str; 2] = ["/healthz", "/metrics"];

#[derive(OpenApi)]
#[openapi(info(
    title = "Peerloom registry",
    description = "Finds devices by their signed records, and carries signals between them. Every failure has an \
                   ErrorBody. A private network wants `Authorization: Bearer TOKEN`."
))]
struct Document;

/// All routes. The document lists each, since a route and its description are made at one place.
pub(crate) fn router(state: Arc<State>) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(network::active_peers))
        .routes(routes!(network::announce))
        .routes(routes!(network::user))
        .routes(routes!(network::device))
        .routes(routes!(network::ice_servers))
        .routes(routes!(coordinator::heartbeat))
        .routes(routes!(signal::signal))
        .routes(routes!(service::openapi))
        .routes(routes!(service::metrics))
        .routes(routes!(service::health))
        .split_for_parts();
    // The first one counts; there is only one.
    let _ = state.document.set(document.to_json().unwrap_or_default());
    // Pages of other origins may call: nothing here depends on cookies.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER]);
    router
        .fallback(|| async { ApiError::not_found("there is no such call; GET /openapi.json lists them") })
        .method_not_allowed_fallback(|| async {
            let message = "this call takes another method; GET /openapi.json lists them";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, code::METHOD, message)
        })
        .layer(DefaultBodyLimit::max(limits::BODY))
        .layer(from_fn_with_state(state.clone(), around))
        // Around everything: a page of another origin can't read an answer without it, nor when to come back.
        .layer(cors)
        .with_state(state)
}

/// Around every request.
async fn around(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "none".to_owned(), |matched| matched.as_str().to_owned());
    let address = client_address(&state, &request);
    request.extensions_mut().insert(Origin(address));
    let allowed = match address {
        Some(address) if !FREE.contains(&route.as_str()) => state.by_address.check(&address_key(address)),
        _ => Ok(()),
    };
    let response = match allowed {
        Ok(()) => match tokio::time::timeout(state.config.times.request, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let message = "the request took too long; send it faster";
                ApiError::new(StatusCode::REQUEST_TIMEOUT, code::TIMEOUT, message).into_response()
            }
        },
        Err(wait) => {
            state.metrics.refuse("address rate");
            ApiError::rate_limited(wait).into_response()
        }
    };
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    trace!(route, status, from = ?address, ?took, "a request");
    state.metrics.request(&route, status, took);
    response
}

/// Who calls: the connection's other end, or whom a trusted proxy names.
fn client_address(state: &State, request: &Request) -> Option<IpAddr> {
    if state.config.trust_forwarded {
        // The last one is the proxy's own word; those before it are the client's.
        let mut values = request.headers().get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let last = values.next_back().and_then(|value| value.rsplit(',').next()).map(str::trim);
        if let Some(address) = last.and_then(|text| text.parse().ok()) {
            return Some(address);
        }
    }
    request.extensions().get::<Caller>().map(|caller| caller.address)
}

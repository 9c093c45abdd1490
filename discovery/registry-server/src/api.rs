//! The routes, and what is done for each request: limits, timeouts, figures, errors as JSON.

mod coordinator;
mod extract;
// What utoipa's macros make of a path's types names them by their full path.
#[allow(unused_qualifications)]
mod item;
#[allow(unused_qualifications)]
mod network;
mod service;
#[allow(unused_qualifications)]
mod signal;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use peerloom_core::networks::networks;
use peerloom_registry_protocol::schema::{Id, Item, Record, SignalAddress, Signature};
use peerloom_registry_protocol::{code, limits};
use tower_http::cors::{Any, CorsLayer};
use tracing::{trace, warn};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::Origin;
use crate::connections::Caller;
use crate::error::ApiError;
use crate::state::State;

/// Calls that aren't limited by address: an operator's.
const FREE: [&str; 2] = ["/healthz", "/metrics"];

#[derive(OpenApi)]
#[openapi(
    components(schemas(Id, Item, Record, Signature, SignalAddress)),
    info(
        title = "Peerloom registry",
        description = "Finds devices by their signed records, and carries signals between them. Every failure has an \
                   ErrorBody. A private network wants `Authorization: Bearer TOKEN`."
    )
)]
struct Document;

/// All routes. The document lists each, since a route and its description are made at one place.
pub(crate) fn router(state: Arc<State>) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(network::active_peers))
        .routes(routes!(network::announce))
        .routes(routes!(network::user))
        .routes(routes!(network::device))
        .routes(routes!(network::ice_servers))
        .merge(OpenApiRouter::new().routes(routes!(item::publish)).layer(DefaultBodyLimit::max(limits::ITEM_BODY)))
        .routes(routes!(item::device_list))
        .routes(routes!(item::key_package))
        .routes(routes!(item::service))
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
        Some(address) if !FREE.contains(&route.as_str()) => state.by_address.check_all(&networks(address)),
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
    let connected = request.extensions().get::<Caller>().map(|caller| caller.address);
    if !state.config.trust_forwarded {
        return connected;
    }
    match forwarded(request.headers()) {
        Some(Ok(client)) => Some(client),
        Some(Err(last)) => {
            warn!(last, "the proxy's X-Forwarded-For ends with no address; its clients share the limits of one");
            connected
        }
        None => connected,
    }
}

/// The last entry of `X-Forwarded-For`, which the proxy wrote; those before it are the client's, who may write
/// anything there. An entry is an address, alone or with a port, IPv6 then in brackets.
fn forwarded(headers: &HeaderMap) -> Option<Result<IpAddr, String>> {
    let line = headers.get_all("x-forwarded-for").iter().next_back()?.as_bytes();
    let last = String::from_utf8_lossy(line.rsplit(|byte| *byte == b',').next().unwrap_or_default());
    let text = last.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    Some(bare.parse().ok().or_else(with_port).ok_or_else(|| last.into_owned()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_proxys_own_entry_counts_and_no_other() {
        let read = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
            }
            forwarded(&headers)
        };
        assert_eq!(read(&[]), None);
        let claimed: &[u8] = b"198.51.100.7";
        for (entry, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
        ] {
            let client: IpAddr = client.parse().unwrap();
            let appended = [claimed, b", ", entry.as_bytes()].concat();
            assert_eq!(read(&[entry.as_bytes()]), Some(Ok(client)));
            assert_eq!(read(&[&appended]), Some(Ok(client)), "in the client's own line");
            assert_eq!(read(&[claimed, entry.as_bytes()]), Some(Ok(client)), "in a line of its own");
            let noise = [&b"\xff\xfe, "[..], entry.as_bytes()].concat();
            assert_eq!(read(&[&noise]), Some(Ok(client)), "behind what is no text");
        }
        // What can't be read is no reason to believe the client.
        for entry in [&b"unknown"[..], b"_hidden", b"", b"\xff", b"192.0.2.1:99999", b"192.0.2", b"192.0.2.1 "] {
            let good = entry == b"192.0.2.1 ";
            for lines in [&[claimed, entry][..], &[&[claimed, b",", entry].concat()]] {
                assert_eq!(read(lines).is_some_and(|read| read.is_ok()), good, "{lines:?}");
            }
        }
    }
}

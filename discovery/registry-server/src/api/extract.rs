//! Reading requests. What can't be read is answered with an [`ApiError`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::state::State;

/// The address that a request comes from, as far as it is known.
#[derive(Clone, Copy)]
pub(crate) struct Origin(pub(crate) Option<IpAddr>);

/// The ids in a path.
pub(crate) struct At<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<State>> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, ApiError> {
        let Path(place) = Path::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::invalid_id(format!("an id in the path can't be read: {}", e.body_text())))?;
        Ok(Self(place))
    }
}

/// The query of a URL.
pub(crate) struct Ask<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<State>> for Ask<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, ApiError> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::invalid_id(format!("the query can't be read: {}", e.body_text())))?;
        Ok(Self(query))
    }
}

/// A body of JSON, whatever its content type says: a page may send it as text without asking first.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<State>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, ApiError> {
        let body = Bytes::from_request(request, state).await.map_err(|e| match e.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::too_large("the body is longer than this call takes; GET /openapi.json has the lengths")
            }
            _ => ApiError::malformed("the body broke off"),
        })?;
        serde_json::from_slice(&body).map(Self).map_err(|e| ApiError::malformed(format!("the body can't be read: {e}")))
    }
}

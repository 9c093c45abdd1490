//! What a call fails with: a status, a code for programs and a message for people.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use peerloom_registry_protocol::code;
use peerloom_registry_protocol::http::{ErrorBody, Failure};
use tracing::error;

/// A call that fails.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    pub(crate) failure: Failure,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let failure = Failure { code: code.to_owned(), message: message.into(), retry_after_ms: None, work_bits: None };
        Self { status, failure }
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code::MALFORMED, message)
    }

    pub(crate) fn invalid_id(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code::INVALID_ID, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code::TOO_LARGE, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code::NOT_FOUND, message)
    }

    pub(crate) fn rate_limited(wait: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code::RATE_LIMITED, "too many calls; wait and call again")
            .retry_after(wait)
    }

    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code::OVERLOADED, message).retry_after(Duration::from_secs(5))
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.failure.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    pub(crate) fn work_bits(mut self, bits: u32) -> Self {
        self.failure.work_bits = Some(bits);
        self
    }
}

/// What fails inside is logged here and not told to clients.
impl From<peerloom_core::Error> for ApiError {
    fn from(cause: peerloom_core::Error) -> Self {
        if cause.kind() == peerloom_core::ErrorKind::Overloaded {
            return Self::overloaded(cause.message());
        }
        error!(%cause, "a call failed");
        let message = "the registry failed; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let wait = self.failure.retry_after_ms.map(|ms| ms.div_ceil(1000));
        let mut response = (self.status, Json(ErrorBody { error: self.failure })).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

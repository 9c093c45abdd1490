//! What an operator asks for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use crate::state::State;

/// That the registry works.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
    /// The protocol's version.
    protocol: u32,
    /// Devices in the store.
    devices: u64,
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object))
)]
pub(crate) async fn openapi(Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    let document = state.document.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], document)
}

/// The format of the figures (OpenMetrics).
const FIGURES: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Figures for Prometheus.
#[utoipa::path(
    get, path = "/metrics",
    responses((status = 200, body = String, content_type = FIGURES))
)]
pub(crate) async fn metrics(Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    let text = state.metrics.text(state.store.devices());
    ([(header::CONTENT_TYPE, FIGURES)], text)
}

/// Answers while the registry works.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health)))]
pub(crate) async fn health(Shared(state): Shared<Arc<State>>) -> Json<Health> {
    Json(Health { status: "ok", protocol: peerloom_registry_protocol::VERSION, devices: state.store.devices() })
}

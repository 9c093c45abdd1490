//! Figures for Prometheus. They belong to one registry: several may run in one process.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The figures.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<[(&'static str, String); 2], Counter>,
    duration: Histogram,
    announces: Family<[(&'static str, &'static str); 1], Counter>,
    signals: Family<[(&'static str, &'static str); 1], Counter>,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    sockets: Gauge,
    connections: Gauge,
    devices: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("peerloom_registry");
        let requests = Family::default();
        registry.register("requests", "HTTP requests by route and status", requests.clone());
        let duration = Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        registry.register("request_duration_seconds", "How long a request took", duration.clone());
        let announces = Family::default();
        registry.register("announces", "Announcements and hellos by what became of them", announces.clone());
        let signals = Family::default();
        registry.register("signals", "Signals by what became of them", signals.clone());
        let refused = Family::default();
        registry.register("refused", "What was refused, by reason", refused.clone());
        let sockets = Gauge::default();
        registry.register("sockets", "WebSockets whose hello was accepted", sockets.clone());
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        let devices = Gauge::<u64, AtomicU64>::default();
        registry.register("devices", "Devices in the store", devices.clone());
        Self { registry, requests, duration, announces, signals, refused, sockets, connections, devices }
    }

    pub(crate) fn request(&self, route: &str, status: u16, took: Duration) {
        let labels = [("route", route.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn announce(&self, outcome: &'static str) {
        self.announces.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn signal(&self, outcome: &'static str) {
        self.signals.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a socket until the guard is dropped.
    pub(crate) fn socket(&self) -> Counted {
        Counted::new(&self.sockets)
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    /// All figures in Prometheus's text format.
    pub(crate) fn text(&self, devices: u64) -> String {
        self.devices.set(devices);
        let mut text = String::new();
        // Writing to a string doesn't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// One of what a gauge counts.
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

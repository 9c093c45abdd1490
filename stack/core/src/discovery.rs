//! The discovery contract: from an id to a signed record.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_wire::{DeviceId, Signed, UserId};

use tokio::sync::broadcast;

use crate::{Diagnostic, Result, SignalCarrier};

/// Finds the signed records of devices, and makes this device's own findable.
///
/// Records are [`peerloom_wire::PeerRecord`]s as their device signed them. The engine verifies
/// every one of them, so a hostile implementation can hide a device but never forge one.
///
/// **The author's duties.** Return records only as they were found. Calls may come concurrently;
/// dropping a call's future abandons it without harm. `announce` keeps the record findable until it
/// expires or is replaced. Whatever `watch` buffers is bounded, and drops the oldest.
///
/// **The caller's duties.** Ask cheap tiers first, and announce again before the record expires.
#[async_trait]
pub trait Discovery: Send + Sync {
    /// What a call costs; decides the order in which implementations are asked.
    fn caps(&self) -> DiscoveryCaps;

    /// Makes this device's record findable, in place of an earlier one.
    async fn announce(&self, record: Signed) -> Result<()>;

    /// The records known for a target; empty when there are none.
    async fn resolve(&self, target: Target) -> Result<Vec<Signed>>;

    /// Records as they come to be known, from now on.
    fn watch(&self) -> BoxStream<'static, Signed>;

    /// A way to the devices it knows before there is a link to them, where it has one.
    fn signaling(&self) -> Option<Arc<dyn SignalCarrier>> {
        None
    }

    /// The machine's addresses changed: whatever was bound to them is made anew.
    fn network_changed(&self) {}

    /// What this machine's network allows it, for `peerloom doctor`; takes up to 10 s.
    async fn diagnose(&self) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// Stops announcing and ends all watches.
    async fn shutdown(&self);
}

/// Whom to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// All devices of a user.
    User(UserId),
    /// One device.
    Device(DeviceId),
}

/// What asking an implementation costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveryCaps {
    /// The tier it belongs to.
    pub cost: CostTier,
}

/// Cost of a look-up, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CostTier {
    /// No network at all.
    Local,
    /// The local network.
    Lan,
    /// Many peers each do a little.
    Distributed,
    /// A server somebody pays for.
    Server,
}

/// The stream of a [`Discovery::watch`] over a broadcast channel: whoever lags loses the oldest.
pub fn watch_stream(news: broadcast::Receiver<Signed>) -> BoxStream<'static, Signed> {
    futures_util::stream::unfold(news, |mut news| async move {
        loop {
            match news.recv().await {
                Ok(record) => return Some((record, news)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
    .boxed()
}

//! Signaling between nodes of one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use peerloom_wire::DeviceId;
use tokio::sync::mpsc;

use super::storage::lock;
use crate::{Error, ErrorKind, Result, Signal, Signaling};

/// Signals that wait to be received.
const WAITING: usize = 64;

/// Where all [`MemorySignaling`]s of a test meet.
#[derive(Clone, Default)]
pub struct SignalingHub(Arc<Mutex<HashMap<DeviceId, mpsc::Sender<Signal>>>>);

/// One device's access to a [`SignalingHub`].
pub struct MemorySignaling {
    device: DeviceId,
    hub: SignalingHub,
}

impl MemorySignaling {
    /// Access for `device`.
    pub fn new(device: DeviceId, hub: &SignalingHub) -> Self {
        Self { device, hub: hub.clone() }
    }
}

#[async_trait]
impl Signaling for MemorySignaling {
    async fn send(&self, to: DeviceId, payload: Bytes) -> Result<()> {
        let receiver = lock(&self.hub.0).get(&to).cloned();
        let absent = || Error::new(ErrorKind::Unreachable, "memory", "signal", "the device isn't there");
        let signal = Signal { from: self.device, payload };
        match receiver.ok_or_else(absent)?.try_send(signal) {
            // A full queue drops the newest: loss is allowed.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(absent()),
        }
    }

    fn receive(&self) -> BoxStream<'static, Signal> {
        let (sender, receiver) = mpsc::channel(WAITING);
        lock(&self.hub.0).insert(self.device, sender);
        futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|signal| (signal, receiver))
        })
        .boxed()
    }
}

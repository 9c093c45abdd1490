//! Signals between nodes of one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use peerloom_wire::{DeviceId, SessionId, Signed};
use tokio::sync::mpsc;

use crate::signaling::received;
use crate::sync::lock;
use crate::{Carried, Error, ErrorKind, Result, Signal, SignalCarrier, Signaling};

/// Signals that wait to be received.
const WAITING: usize = 64;

/// Where all [`MemorySignaling`]s, or all [`MemoryCarrier`]s, of a test meet.
pub struct SignalingHub<T = Signal>(Arc<Mutex<HashMap<DeviceId, mpsc::Sender<T>>>>);

impl<T> Default for SignalingHub<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for SignalingHub<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> SignalingHub<T> {
    fn send(&self, to: DeviceId, signal: T) -> Result<()> {
        let receiver = lock(&self.0).get(&to).cloned();
        let absent = || Error::new(ErrorKind::Unreachable, "memory", "signal", "the device isn't there");
        match receiver.ok_or_else(absent)?.try_send(signal) {
            // A full queue drops the newest: loss is allowed.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(absent()),
        }
    }

    fn receive(&self, device: DeviceId) -> BoxStream<'static, T> {
        let (sender, receiver) = mpsc::channel(WAITING);
        lock(&self.0).insert(device, sender);
        received(receiver)
    }
}

/// One device's access to a [`SignalingHub`]. Inside one process nothing has to be signed.
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
    async fn send(&self, to: DeviceId, session: SessionId, payload: Bytes) -> Result<()> {
        self.hub.send(to, Signal { from: self.device, session, payload })
    }

    fn receive(&self) -> BoxStream<'static, Signal> {
        self.hub.receive(self.device)
    }
}

/// One device's access to a [`SignalingHub`] that carries what is signed.
pub struct MemoryCarrier {
    device: DeviceId,
    hub: SignalingHub<Carried>,
}

impl MemoryCarrier {
    /// Access for `device`.
    pub fn new(device: DeviceId, hub: &SignalingHub<Carried>) -> Self {
        Self { device, hub: hub.clone() }
    }
}

#[async_trait]
impl SignalCarrier for MemoryCarrier {
    async fn send(&self, to: DeviceId, signal: Signed) -> Result<()> {
        self.hub.send(to, Carried { from: Some(self.device), signal })
    }

    fn receive(&self) -> BoxStream<'static, Carried> {
        self.hub.receive(self.device)
    }
}

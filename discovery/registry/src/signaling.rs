//! Signals over the session's socket. A signed signal goes as base64url.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use data_encoding::BASE64URL_NOPAD;
use futures_util::stream::BoxStream;
use peerloom_core::signaling::received;
use peerloom_core::wire::{DeviceId, Signed};
use peerloom_core::{Carried, Error, ErrorKind, IceServer, Result, SignalCarrier};
use peerloom_registry_protocol::limits;
use tokio::sync::oneshot;

use crate::ice::IceServers;
use crate::shared::{Outgoing, Shared};

/// How long the registry's answer to a signal may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Signaling over the registry.
pub(crate) struct RegistrySignaling {
    shared: Arc<Shared>,
    ice: IceServers,
}

impl RegistrySignaling {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ice: IceServers::default() }
    }
}

#[async_trait]
impl SignalCarrier for RegistrySignaling {
    async fn send(&self, to: DeviceId, signal: Signed) -> Result<()> {
        let payload = BASE64URL_NOPAD.encode(&signal.encode());
        if payload.len() > limits::PAYLOAD {
            let message = format!("a signal has at most {} bytes in base64url", limits::PAYLOAD);
            return Err(Error::new(ErrorKind::TooLarge, "registry", "signal", message));
        }
        let disconnected =
            || unreachable(format!("there is no connection to the registry {}", self.shared.caller.name));
        let outbox = self.shared.outbox().ok_or_else(disconnected)?;
        let (answer, answered) = oneshot::channel();
        let carried = async {
            outbox.send(Outgoing { to, payload, answer }).await.map_err(|_| disconnected())?;
            answered.await.map_err(|_| disconnected())?
        };
        let late = |_| {
            let message = format!("the registry {} doesn't answer in time; try again", self.shared.caller.name);
            Error::new(ErrorKind::Timeout, "registry", "signal", message)
        };
        tokio::time::timeout(PATIENCE, carried).await.map_err(late)?
    }

    fn receive(&self) -> BoxStream<'static, Carried> {
        received(self.shared.receive())
    }

    async fn ice_servers(&self) -> Vec<IceServer> {
        self.ice.get(&self.shared).await
    }
}

pub(crate) fn unreachable(message: String) -> Error {
    Error::new(ErrorKind::Unreachable, "registry", "signal", message)
}

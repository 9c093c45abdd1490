//! Asking discoveries: within a time limit, and believing only what verifies.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use peerloom_core::wire::{DiscoveryItem, DiscoveryKey, NetworkId, OpenItem};
use peerloom_core::{Discovery, Error, ErrorKind, Found, Result, Retry};
use peerloom_crypto_primitives::verify;
use tracing::debug;

use crate::clock::system_ms;

/// How long one discovery may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Answers of one discovery that are looked at; each may cost some signatures.
const ANSWERS: usize = 64;

/// A genuine answer.
pub(crate) struct Answer {
    /// As it was found.
    pub(crate) item: DiscoveryItem,
    /// What is in it.
    pub(crate) open: OpenItem,
}

/// The discoveries that carry what a key asks for, the cheapest first.
pub(super) fn cheapest_first(discoveries: &[Arc<dyn Discovery>], key: DiscoveryKey) -> Vec<&Arc<dyn Discovery>> {
    let mut able: Vec<_> = discoveries.iter().filter(|d| d.caps().carries.contains(key.kind())).collect();
    able.sort_by_key(|d| d.caps().cost);
    able
}

/// The genuine, valid answers of one discovery that come in time.
pub(super) async fn ask(discovery: &Arc<dyn Discovery>, network: NetworkId, key: DiscoveryKey) -> Vec<Answer> {
    let mut answers = Vec::new();
    let read = async {
        let mut found = discovery.find(key).take(ANSWERS);
        while let Some(next) = found.next().await {
            match next {
                Ok(found) => answers.extend(open(found, network, Some(key))),
                Err(error) => return debug!(?key, %error, "a discovery finds no more"),
            }
        }
    };
    if tokio::time::timeout(TIMEOUT, read).await.is_err() {
        debug!(?key, "a discovery takes too long; what came in time counts");
    }
    answers
}

/// What was found, if it is genuine, valid, and answers the key.
pub(super) fn open(found: Found, network: NetworkId, key: Option<DiscoveryKey>) -> Option<Answer> {
    let Found { item, source, age } = found;
    let opened = item.open(verify).and_then(|open| {
        open.check(key.as_ref(), &network, system_ms())?;
        Ok(open)
    });
    match opened {
        Ok(open) => Some(Answer { item, open }),
        Err(error) => {
            debug!(%source, ?age, kind = %item.kind(), %error, "an item that was found is of no use");
            None
        }
    }
}

/// The answers to a key, from the cheapest discovery that has any.
pub(crate) async fn find(
    discoveries: &[Arc<dyn Discovery>],
    network: NetworkId,
    key: DiscoveryKey,
) -> Result<Vec<Answer>> {
    for discovery in cheapest_first(discoveries, key) {
        let found = ask(discovery, network, key).await;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let message = "no discovery of this node knows this id; is the other node running, with a discovery in common?";
    Err(Error::new(ErrorKind::NotFound, "engine", "find", message).with_retry(Retry::Later))
}

//! Whether the registry can be used, said once for each change.

use std::sync::{Mutex, MutexGuard, PoisonError};

use peerloom_core::Error;
use tracing::{debug, info, warn};

/// What is used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Look-ups and other calls.
    Calls = 0,
    /// The WebSocket.
    Socket = 1,
    /// Announcing a newer record.
    Record = 2,
    /// Publishing other items.
    Items = 3,
}

/// What was noticed last.
#[derive(Default)]
pub(crate) struct Health {
    trouble: Mutex<[Option<Error>; 4]>,
}

impl Health {
    /// A part doesn't work. The first time that is a warning; after it, nothing new.
    pub(crate) fn failed(&self, part: Part, error: &Error) {
        let mut trouble = self.lock();
        if trouble.iter().all(Option::is_none) {
            warn!(%error, "the registry can't be used; the node goes on with what it knows, and keeps trying");
        } else {
            debug!(%error, ?part, "the registry still can't be used");
        }
        if let Some(before) = trouble.get_mut(part as usize) {
            *before = Some(error.clone());
        }
    }

    /// A part works.
    pub(crate) fn works(&self, part: Part, registry: &str) {
        let mut trouble = self.lock();
        let was = trouble.get_mut(part as usize).and_then(Option::take);
        if was.is_some() && trouble.iter().all(Option::is_none) {
            info!(registry, "the registry can be used again");
        }
    }

    /// What is wrong with a part, if anything.
    pub(crate) fn trouble(&self, part: Part) -> Option<Error> {
        self.lock().get(part as usize).cloned().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Error>; 4]> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

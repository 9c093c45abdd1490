//! Loaded groups: a message needn't read and decode its group's ten rows again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openmls::group::MlsGroup;
use openmls::prelude::GroupId;
use openmls_traits::OpenMlsProvider;

use crate::error::StateResult;
use crate::provider::Provider;

/// Groups kept; some 10 KiB each.
const KEPT: usize = 64;

/// Groups as their last message left them, the latest first.
///
/// A transaction may come to nothing, and the store may be read again from before it. So each group
/// stands beside its row of message secrets, which is another one after every message and in every
/// epoch: it is used only while the transaction has that very row.
#[derive(Default)]
pub(crate) struct Groups(Mutex<VecDeque<Kept>>);

struct Kept {
    group: MlsGroup,
    secrets: Bytes,
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group as the transaction has it. A caller that changes it gives it back with [`Groups::keep`], or
    /// lets it go.
    pub(crate) fn take(&self, provider: &Provider<'_>, id: &GroupId) -> StateResult<Option<MlsGroup>> {
        let kept = {
            let mut groups = self.lock();
            let at = groups.iter().position(|kept| kept.group.group_id() == id);
            at.and_then(|at| groups.remove(at))
        };
        match kept {
            Some(kept) if provider.storage().secrets(id)?.as_ref() == Some(&kept.secrets) => Ok(Some(kept.group)),
            _ => MlsGroup::load(provider.storage(), id),
        }
    }

    /// Keeps a group that was used, with what was written for it.
    pub(crate) fn keep(&self, provider: &Provider<'_>, group: MlsGroup) {
        if let Some(secrets) = provider.storage().written_secrets(group.group_id()) {
            let mut groups = self.lock();
            groups.push_front(Kept { group, secrets });
            groups.truncate(KEPT);
        }
    }

    /// Lets go of all.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

//! What is wrong with a node, its store and its network.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use peerloom_core::wire::store::Contact;
use peerloom_core::{Diagnostic, Error, ErrorKind, Result};

use super::Engine;
use crate::driver::{COPIED, PEER_RESTORED, RESTORED, StoreStanding};
use crate::net::Network;

impl Engine {
    /// What the network allows each transport and discovery, and who can reach this node; takes up to 10 s. The node
    /// must be started. Fails if it ends meanwhile: what a node that ends can't do says nothing.
    pub async fn diagnose(&self) -> Result<Vec<Diagnostic>> {
        let ended = || match self.ended.load(Ordering::Acquire) {
            true => Error::new(ErrorKind::Closed, "engine", "diagnose", "the node is shut down"),
            false => Error::new(ErrorKind::NotStarted, "engine", "diagnose", "the node isn't started; start it first"),
        };
        let network = self.network.lock().await.as_ref().map(|n| (n.shared.clone(), n.addresses.clone()));
        let (shared, addresses) = network.ok_or_else(ended)?;
        let (standing, damage) = (self.standing().await?, self.damage().await?);
        let folders = self.diagnose_folders(standing, damage);
        if standing == StoreStanding::Restored {
            // It left the network: what that would allow it says nothing.
            return Ok(folders);
        }
        let transports = join_all(self.transports.iter().map(|t| t.diagnose()));
        let discoveries = join_all(self.discoveries.iter().map(|d| d.diagnose()));
        let (transports, reach, discoveries) =
            tokio::join!(transports, Network::diagnose(&shared, &addresses), discoveries);
        if self.network.lock().await.is_none() {
            return Err(ended());
        }
        let network = transports.into_iter().flatten().chain(reach).chain(discoveries.into_iter().flatten());
        let clock = self.driver.call(|turn| Ok(turn.told_ms == 0)).await?.then(|| {
            let detail = "this machine's clock leapt since the last run, or while the node ran: nothing expires by it until \
                          it runs steadily for ten minutes, or two contacts confirm it";
            Diagnostic::bad("clock", detail, "compare the clock with another one, and set it right, best by NTP")
        });
        let recovery = self.recovery_seed().await?.map(|_| {
            let detail = "the recovery key is still in this folder, where a thief of it finds it, and nowhere else";
            Diagnostic::note(
                "recovery",
                detail,
                "`peerloom device recovery` shows the words to write down, and deletes it",
            )
        });
        Ok(folders.into_iter().chain(clock).chain(network).chain(recovery).collect())
    }

    /// What is wrong with this node's store and with those of contacts, and what helps.
    fn diagnose_folders(&self, standing: StoreStanding, damage: Option<String>) -> Vec<Diagnostic> {
        let own = own_notice(standing).map(|detail| {
            let remedy = match standing {
                StoreStanding::Copied => "end the other copy, and delete it; ask for what only that one has",
                _ => "use the newest copy alone; or make a new folder with `peerloom init`, and invite again",
            };
            Diagnostic::bad("folder", detail, remedy)
        });
        let theirs = self.restored_contacts().into_iter().map(|name| {
            let remedy = format!("ask {name} for an invitation to the new folder, should nothing come any more");
            Diagnostic::note("folder", format!("{name}: {PEER_RESTORED}"), remedy)
        });
        let damage = damage.map(|damage| {
            let remedy =
                "end the node, and `peerloom db check` lists the rows; a missing contact is added again by a new invitation";
            Diagnostic::bad("store", damage, remedy)
        });
        own.into_iter().chain(damage).chain(theirs).collect()
    }

    /// What was damaged when the store was read; rows that could be made again are among it until the next opening.
    async fn damage(&self) -> Result<Option<String>> {
        let damaged = self.driver.call(|turn| Ok(turn.state.damaged.clone())).await?;
        let detail = || format!("damaged rows are left out, and what stood there is missing: {}", damaged.join(", "));
        Ok((!damaged.is_empty()).then(detail))
    }

    /// What is wrong with this node's store or a contact's, for people; empty when nothing is.
    pub async fn notices(&self) -> Result<Vec<String>> {
        let theirs = self.restored_contacts().into_iter().map(|name| format!("{name}: {PEER_RESTORED}"));
        let damage = self.damage().await?.map(|damage| format!("the folder's store: {damage}; see `peerloom doctor`"));
        Ok(own_notice(self.standing().await?).into_iter().chain(damage).chain(theirs).collect())
    }

    /// The names of contacts whose folder was put back, or is used twice.
    fn restored_contacts(&self) -> Vec<String> {
        let restored = |contact: &Contact| contact.devices.iter().any(|d| d.restored.is_some());
        self.contacts.all().into_iter().filter(restored).map(|contact| contact.alias).collect()
    }

    /// Whether this node's store is the newest of its device.
    pub async fn standing(&self) -> Result<StoreStanding> {
        self.driver.call(|turn| Ok(turn.state.standing.get())).await
    }
}

/// What is wrong with a node's own store, for people.
fn own_notice(standing: StoreStanding) -> Option<String> {
    match standing {
        StoreStanding::Newest => None,
        StoreStanding::Copied => Some(COPIED.to_owned()),
        StoreStanding::Restored => Some(format!("this node sends nothing any more: {RESTORED}")),
    }
}

//! Contacts, the invitations that make them, and users' devices.

use std::time::Duration;

use peerloom_core::wire::store::Contact;
use peerloom_core::wire::{DeviceCertificate, DeviceId, DiscoveryKey, Invitation, Signed, UserId};
use peerloom_core::{Diagnostic, Error, ErrorKind, Result};
use peerloom_crypto_primitives::SigningKey;
use zeroize::Zeroizing;

use super::Engine;
use crate::config::INVITATION_LIFETIME;
use crate::net::{self, Network};

impl Engine {
    /// Makes an invitation that lets `uses` contacts in during `lifetime`: within
    /// [`INVITATION_LIFETIME`](crate::INVITATION_LIFETIME), else `Invalid`. The node must be started.
    pub async fn invite(&self, lifetime: Duration, uses: u32) -> Result<Invitation> {
        if !INVITATION_LIFETIME.contains(&lifetime) {
            let message = format!("an invitation may be good for from 1ms to 365d, and not {lifetime:?}");
            return Err(Error::new(ErrorKind::Invalid, "engine", "invite", message));
        }
        let ttl_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        self.driver.call(move |turn| turn.invite(ttl_ms, uses)).await
    }

    /// Why an invitation leads to this node only from this machine, by hand, or not at all, and what to do about it;
    /// `None` where it leads here, and while the node isn't started. Nothing is dialed for it.
    pub async fn cut_off(&self) -> Option<Diagnostic> {
        self.network.lock().await.as_ref().and_then(Network::cut_off)
    }

    /// The devices of this node's user that are known here, this one among them, the earliest first.
    pub async fn devices(&self) -> Result<Vec<DeviceCertificate>> {
        self.driver.call(|turn| Ok(turn.state.devices.devices().into_iter().cloned().collect())).await
    }

    /// Adds a device of this node's user, durably; contacts hear of it on their links. `certificate` is signed by the
    /// user's key and the device's ([`DeviceCertificate::sign`]). `Refused` for a device that was revoked, that is one more
    /// than 16, or whose certificate is of a key that isn't in force. Not cancel safe: it may have been added.
    pub async fn add_device(&self, certificate: Signed) -> Result<()> {
        self.driver.call(move |turn| turn.add_own_device(&certificate)).await
    }

    /// Revokes devices of this node's user for good: contacts that hear of it send them nothing more. `Refused` where
    /// this device doesn't hold the user's key, `NotFound` for a device that isn't the user's or is revoked already,
    /// `TooLarge` where contacts would not take so long a list: beyond some 500 devices. Not cancel safe: they may have
    /// been revoked.
    pub async fn revoke_devices(&self, devices: Vec<DeviceId>) -> Result<()> {
        self.driver.call(move |turn| turn.revoke(&devices)).await
    }

    /// The seed of the user's recovery key, as long as the store has it.
    pub async fn recovery_seed(&self) -> Result<Option<Zeroizing<[u8; 32]>>> {
        self.driver
            .call(|turn| Ok(turn.stored_identity()?.and_then(|found| found.recovery_seed).map(Zeroizing::new)))
            .await
    }

    /// Whether this is the seed of the user's recovery key.
    pub fn is_recovery_seed(&self, seed: &[u8; 32]) -> bool {
        *SigningKey::from_seed(seed).public() == self.own.keys.recovery
    }

    /// Deletes the user's recovery key from the store, for good. Not cancel safe: it may have been deleted.
    pub async fn forget_recovery_seed(&self) -> Result<()> {
        self.driver.call(|turn| turn.forget_recovery_seed()).await
    }

    /// Adds the contact that an invitation comes from, durably.
    pub async fn add_contact(&self, invitation: Invitation) -> Result<Contact> {
        self.driver.call(move |turn| turn.add_contact(invitation)).await
    }

    /// Adds the user whose records a discovery finds by this key, durably. There is no invitation in it: the two
    /// talk once each has added the other.
    pub async fn add_contact_by_id(&self, key: DiscoveryKey) -> Result<Contact> {
        let found = net::find(&self.discoveries, self.own.network, key).await?;
        self.driver.call(move |turn| turn.add_found(&found)).await
    }

    /// Gives a contact another name; returns the one it got, which looks like no other contact's: perhaps the one
    /// asked for with a number behind it.
    pub async fn rename_contact(&self, user: UserId, alias: String) -> Result<String> {
        self.driver.call(move |turn| turn.rename(&user, &alias)).await
    }

    /// All contacts, by name.
    pub fn contacts(&self) -> Vec<Contact> {
        self.contacts.all()
    }

    /// The contact that a person means: a contact's exact name, a whole user id, or [`ID_MARK`](crate::ID_MARK) and at
    /// least [`ID_PREFIX`](crate::ID_PREFIX) characters of one. Otherwise an error that lists who may be meant.
    pub fn find_contact(&self, name: &str) -> Result<Contact> {
        self.contacts.find(name)
    }

    /// The contact whose name a contact's would be, were there no number behind it.
    pub fn namesake(&self, contact: &Contact) -> Option<Contact> {
        self.contacts.namesake(contact)
    }

    /// The contact with this user id.
    pub fn contact(&self, user: &UserId) -> Option<Contact> {
        self.contacts.by_user(user)
    }
}

//! Links, and the devices that serve.

use peerloom_core::wire::{DeviceId, DiscoveryItem, OpenItem, Signed};
use peerloom_core::{Error, ErrorKind, Result};
use peerloom_crypto_primitives::verify;

use super::Engine;
use crate::clock::system_ms;
use crate::net::LinkInfo;

impl Engine {
    /// The links that are up, the newest of each device: those of contacts, of this user's other devices, and of
    /// services in use.
    pub fn links(&self) -> Vec<(DeviceId, LinkInfo)> {
        self.links.infos()
    }

    /// Uses what a device offers, by its signed [`ServiceOffer`](peerloom_core::wire::ServiceOffer): from now on, until
    /// the node ends, it may have a link with the role [`LinkRole::Service`](crate::LinkRole::Service), which is dialed.
    /// At most 64 are used at once (`Overloaded`). `AlreadyExists` for a device of a contact or of this user.
    pub fn use_service(&self, offer: &Signed) -> Result<DeviceId> {
        let open = DiscoveryItem::Service(offer.clone()).open(verify)?;
        open.check(None, &self.own.network, system_ms())?;
        let OpenItem::Service(offer, certificate) = open else {
            return Err(Error::new(ErrorKind::Internal, "engine", "use a service", "another item was opened"));
        };
        let device = certificate.device;
        if certificate.user == self.own.user || self.contacts.has(&certificate.user) {
            let message = "the device is a contact's or this user's, which needs no service link";
            return Err(Error::new(ErrorKind::AlreadyExists, "engine", "use a service", message));
        }
        self.contacts.serve(&offer, certificate)?;
        self.links.want(device);
        Ok(device)
    }

    /// Uses a device's services no more; its link ends. Returns whether it was in use.
    pub fn leave_service(&self, device: &DeviceId) -> bool {
        let served = self.contacts.stop_serving(device);
        if served {
            self.links.reset(device);
        }
        served
    }
}

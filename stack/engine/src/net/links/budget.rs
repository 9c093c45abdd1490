//! How often frames may come, and what those that came may hold in memory until the delivery thread took them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use peerloom_core::wire::{DeviceId, FrameKind};
use peerloom_core::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::roles::{Allowances, LinkRole, Passage};

/// What the links of one device, and all links, may have waiting for the delivery thread, in KiB.
pub(super) const DEVICE_BUDGET_KIB: usize = 8 * 1024;
pub(super) const NODE_BUDGET_KIB: usize = 64 * 1024;

/// The budgets of all devices.
pub(super) struct Budgets {
    /// Of devices that have links, or frames that wait.
    devices: HashMap<DeviceId, Weak<OfDevice>>,
    node: Arc<Semaphore>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { devices: HashMap::new(), node: Arc::new(Semaphore::new(NODE_BUDGET_KIB)) }
    }
}

impl Budgets {
    /// The budget of a device, the same for all its links and for frames of links that ended.
    pub(super) fn of(&mut self, device: DeviceId) -> Budget {
        let node = self.node.clone();
        if let Some(device) = self.devices.get(&device).and_then(Weak::upgrade) {
            return Budget { device, node };
        }
        self.devices.retain(|_, budget| budget.strong_count() > 0);
        let room = Arc::new(Semaphore::new(DEVICE_BUDGET_KIB));
        let budget = Arc::new(OfDevice { room, allowances: Mutex::default() });
        self.devices.insert(device, Arc::downgrade(&budget));
        Budget { device: budget, node }
    }
}

struct OfDevice {
    room: Arc<Semaphore>,
    allowances: Mutex<Allowances>,
}

/// What one device may send, over all its links.
#[derive(Clone)]
pub(in crate::net) struct Budget {
    device: Arc<OfDevice>,
    node: Arc<Semaphore>,
}

/// What one frame holds of the budgets.
pub(crate) struct Held {
    /// Keeps the device's budget, which is the same as long as a frame of it waits.
    _budget: Arc<OfDevice>,
    _device: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Budget {
    /// Waits until a frame of a kind may come. `false`: the device's role may not send it.
    pub(in crate::net) async fn pass(&self, role: LinkRole, kind: &FrameKind) -> bool {
        loop {
            let passage = {
                let mut allowances = self.device.allowances.lock().unwrap_or_else(PoisonError::into_inner);
                allowances.pass(role, kind, Instant::now())
            };
            match passage {
                Passage::Taken => return true,
                Passage::NotAllowed => return false,
                Passage::Later(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Waits until there is room for a frame of so many bytes.
    pub(in crate::net) async fn hold(&self, bytes: usize) -> Result<Held> {
        let cost = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let gone = |_| Error::new(ErrorKind::Closed, "engine", "link", "the node is shut down");
        let _device = self.device.room.clone().acquire_many_owned(cost).await.map_err(gone)?;
        let _node = self.node.clone().acquire_many_owned(cost).await.map_err(gone)?;
        Ok(Held { _budget: self.device.clone(), _device, _node })
    }
}

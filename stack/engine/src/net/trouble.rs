//! What is wrong with devices, whether they have a link or not.

use std::collections::{BTreeMap, HashMap};

use peerloom_core::wire::DeviceId;

/// What may be wrong with a device, the gravest last: that one is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Its records name other suites too often.
    Suites,
    /// Nothing of it is read for a while.
    Paused,
    /// Nothing is sent to it.
    Halted,
}

/// The troubles of all devices, for people.
#[derive(Default)]
pub(super) struct Troubles(HashMap<DeviceId, BTreeMap<Trouble, String>>);

impl Troubles {
    /// `None`: it is over, which leaves those of other kinds.
    pub(super) fn set(&mut self, device: DeviceId, kind: Trouble, trouble: Option<String>) {
        let troubles = self.0.entry(device).or_default();
        match trouble {
            Some(trouble) => drop(troubles.insert(kind, trouble)),
            None => drop(troubles.remove(&kind)),
        }
        if troubles.is_empty() {
            self.0.remove(&device);
        }
    }

    pub(super) fn gravest(&self, device: &DeviceId) -> Option<String> {
        self.0.get(device)?.last_key_value().map(|(_, trouble)| trouble.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_one_trouble_leaves_the_others() {
        let (mut troubles, device) = (Troubles::default(), DeviceId::from_bytes([1; 32]));
        for kind in [Trouble::Halted, Trouble::Paused, Trouble::Suites] {
            troubles.set(device, kind, Some(format!("{kind:?}")));
            assert_eq!(troubles.gravest(&device).as_deref(), Some("Halted"));
        }
        let ends = [(Trouble::Paused, Some("Halted")), (Trouble::Halted, Some("Suites")), (Trouble::Suites, None)];
        for (ends, left) in ends {
            troubles.set(device, ends, None);
            assert_eq!(troubles.gravest(&device).as_deref(), left);
        }
        assert!(troubles.0.is_empty());
    }
}

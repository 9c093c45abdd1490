//! What may be on its way to one device, over all the logs that it gets on its link.

use crate::Config;

/// The room that is left on the link to a device.
///
/// Call order: [`Window::new`], then [`Window::add`] with what each of our logs has on its way to the device
/// ([`Outbox::in_flight`](crate::Outbox::in_flight)), then [`Outbox::transmit`](crate::Outbox::transmit) for as many
/// logs as have something, in turn. A window is good for one such round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    bytes: usize,
    entries: usize,
    max_bytes: usize,
    max_entries: usize,
    is_full: bool,
}

impl Window {
    /// The window of a link on which nothing is on its way.
    pub fn new(config: &Config) -> Self {
        let (max_bytes, max_entries) = (config.window_bytes, config.window_entries);
        Self { bytes: 0, entries: 0, max_bytes, max_entries, is_full: false }
    }

    /// So many bytes, in so many entries, are on their way.
    pub fn add(&mut self, (bytes, entries): (usize, usize)) {
        self.bytes += bytes;
        self.entries += entries;
    }

    /// Takes room for an entry. `false`: there is none. An entry that is larger than the window goes alone.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let fits = self.bytes + bytes <= self.max_bytes && self.entries < self.max_entries;
        if !fits && self.entries > 0 {
            self.is_full = true;
            return false;
        }
        self.add((bytes, 1));
        true
    }

    /// Whether something had no room.
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

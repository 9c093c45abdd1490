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

#[cfg(test)]
mod tests {
    use super::*;

    fn window(window_bytes: usize, window_entries: usize) -> Window {
        Window::new(&Config { window_bytes, window_entries, ..Config::default() })
    }

    #[test]
    fn bytes_are_bounded_to_the_last_one() {
        let mut window = window(100, 64);
        assert!(window.take(60) && window.take(2) && !window.is_full());
        assert!(!window.take(39) && window.is_full());
        assert!(window.take(38), "a smaller entry still fits");
        assert!(window.is_full(), "something had no room");
    }

    #[test]
    fn entries_are_bounded_however_small_they_are() {
        let mut window = window(100, 3);
        assert!((0..3).all(|_| window.take(0)) && !window.is_full());
        assert!(!window.take(0) && window.is_full());
    }

    #[test]
    fn an_entry_larger_than_the_window_goes_alone() {
        let mut first = window(100, 64);
        assert!(first.take(1000) && !first.is_full());
        assert!(!first.take(1));
        let mut second = window(100, 64);
        assert!(second.take(1) && !second.take(1000));
    }

    #[test]
    fn what_is_on_its_way_in_all_logs_counts_together() {
        let mut bytes = window(100, 64);
        bytes.add((40, 1));
        bytes.add((40, 1));
        assert!(!bytes.take(21) && bytes.take(20));
        let mut entries = window(100, 5);
        entries.add((0, 2));
        entries.add((0, 2));
        assert!(entries.take(0) && !entries.take(0));
    }
}

//! How much links may hold unread: little for strangers, and a bounded sum for all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a link may hold before it is admitted, in bytes: Peerloom's handshake fits.
pub(crate) const FOR_STRANGERS: u32 = 64 * 1024;
/// What an admitted link may hold at most, and at least, in bytes.
const MOST: u32 = 12 * 1024 * 1024;
const LEAST: u32 = 256 * 1024;
/// What all admitted links may hold beyond the least, in bytes. Each takes a share of what is left, so
/// that the first few get all they ask for and no number of links takes more than this.
const IN_ALL: u32 = 192 * 1024 * 1024;
const SHARE: u32 = 16;

/// What is left for links to come. Clones share it.
#[derive(Clone)]
pub(crate) struct Windows(Arc<Mutex<u32>>);

impl Default for Windows {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(IN_ALL)))
    }
}

impl Windows {
    fn left(&self) -> MutexGuard<'_, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A window for one link.
    pub(crate) fn take(&self) -> Window {
        let mut left = self.left();
        let extra = (*left / SHARE).min(MOST - LEAST);
        *left -= extra;
        Window { windows: self.clone(), extra }
    }
}

/// One link's window; dropping it gives it back.
pub(crate) struct Window {
    windows: Windows,
    extra: u32,
}

impl Window {
    pub(crate) fn bytes(&self) -> u32 {
        LEAST + self.extra
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        *self.windows.left() += self.extra;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_links_together_hold_a_bounded_sum() {
        let windows = Windows::default();
        let first = windows.take();
        assert_eq!(first.bytes(), MOST);
        let many: Vec<Window> = (0..4096).map(|_| windows.take()).collect();
        let extra: u64 = many.iter().map(|window| u64::from(window.extra)).sum();
        assert!(extra <= u64::from(IN_ALL) && many.iter().all(|window| window.bytes() >= LEAST));
        drop((first, many));
        assert_eq!(*windows.left(), IN_ALL, "all of it comes back");
    }
}

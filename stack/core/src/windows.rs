//! How much admitted links may hold unread: a bounded sum for all links of a transport.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one link may hold at most, in bytes.
pub const MOST: u32 = 12 * 1024 * 1024;
/// What all links of a transport may hold beyond the least, in bytes. Each takes a share of what is left, so that the
/// first few get all they ask for and no number of links takes more than this.
const IN_ALL: u32 = 192 * 1024 * 1024;
const SHARE: u32 = 16;

/// What the links of one transport may hold unread: each `least` bytes, and a share of what is left for all. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct Windows {
    least: u32,
    left: Arc<Mutex<u32>>,
}

impl Windows {
    /// Each link may hold so many bytes at least, at most [`MOST`].
    pub fn new(least: u32) -> Self {
        Self { least: least.min(MOST), left: Arc::new(Mutex::new(IN_ALL)) }
    }

    fn left(&self) -> MutexGuard<'_, u32> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A window for one link, with its share of what is left.
    pub fn take(&self) -> Window {
        let mut left = self.left();
        let extra = (*left / SHARE).min(MOST - self.least);
        *left -= extra;
        Window { windows: self.clone(), extra }
    }

    /// The least window, for a link that may be a stranger's.
    pub fn least(&self) -> Window {
        Window { windows: self.clone(), extra: 0 }
    }
}

/// One link's window; dropping it gives it back.
#[derive(Debug)]
pub struct Window {
    windows: Windows,
    extra: u32,
}

impl Window {
    /// What the link may hold unread, in bytes.
    pub fn bytes(&self) -> u32 {
        self.windows.least + self.extra
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
        const LEAST: u32 = 256 * 1024;
        let windows = Windows::new(LEAST);
        let first = windows.take();
        assert_eq!(first.bytes(), MOST);
        let many: Vec<Window> = (0..4096).map(|_| windows.take()).collect();
        let extra: u64 = many.iter().map(|window| u64::from(window.extra)).sum();
        assert!(extra <= u64::from(IN_ALL) && many.iter().all(|window| window.bytes() >= LEAST));
        assert_eq!(windows.least().bytes(), LEAST);
        drop((first, many));
        assert_eq!(*windows.left(), IN_ALL, "all of it comes back");
    }
}

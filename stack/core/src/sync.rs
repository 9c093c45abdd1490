//! A mutex whose holders may panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The state behind a mutex, even after a panic of a thread that held it. For state that each of its updates leaves whole.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

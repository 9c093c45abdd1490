//! Panics that are expected: of libraries that panic where they meet damaged files.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic as it may fail. With [`stay_quiet_on_expected`] nothing is printed of the panic.
pub fn expected<T>(work: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    let before = EXPECTED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(before);
    outcome
}

/// From now on, panics that are expected print nothing; others print what they did. For programs, at their start.
pub fn stay_quiet_on_expected() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !EXPECTED.get() {
            others(panic);
        }
    }));
}

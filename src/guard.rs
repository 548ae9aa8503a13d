//! Calls into libraries that panic on some kinds of damaged input.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`; `None` where it panicked. Whatever it was working on must not be used after that.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    result.ok()
}

/// Whether this thread is in [`guarded`], so that a panic is an error in disguise: a panic hook then says nothing.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_none_and_leaves_the_guard_as_it_was() {
        assert_eq!(guarded(|| (is_guarded(), guarded(|| panic!("on purpose")).is_none(), is_guarded())), Some((true, true, true)));
        assert!(!is_guarded());
    }
}

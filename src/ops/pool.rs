//! Memory of finished work, used again: a training step asks for the same buffers as the one before it, and asking the system for them
//! anew would cost clearing their pages each time.

use std::collections::HashMap;
use std::sync::Mutex;

/// Freed buffers by length.
pub(super) struct Pool<T>(Mutex<Option<HashMap<usize, Vec<Vec<T>>>>>);

/// Shorter buffers, in bytes, are left to the allocator.
const SMALLEST_KEPT: usize = 64 << 10;

impl<T: Copy> Pool<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn keeps(len: usize) -> bool {
        len * size_of::<T>() >= SMALLEST_KEPT
    }

    /// A buffer of `len` values, whatever they were; `empty` where there is none to use again.
    pub(super) fn take(&self, len: usize, empty: T) -> Vec<T> {
        let found = match self.0.lock() {
            Ok(mut free) if Self::keeps(len) => free.as_mut().and_then(|f| f.get_mut(&len)).and_then(Vec::pop),
            _ => None,
        };
        found.unwrap_or_else(|| vec![empty; len])
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, buffer: Vec<T>) {
        if Self::keeps(buffer.len())
            && let Ok(mut free) = self.0.lock()
        {
            free.get_or_insert_default().entry(buffer.len()).or_default().push(buffer);
        }
    }

    /// Gives everything that waits to the system.
    pub(super) fn clear(&self) {
        if let Ok(mut free) = self.0.lock() {
            *free = None;
        }
    }
}

/// Gives the memory of finished work back. For the borders between kinds of work (training, measuring): their sizes differ, and what
/// waits for one would only add to the other's peak.
pub fn release_unused() {
    super::tensor::release_unused();
    super::packed::release_unused();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_by_their_length_and_only_until_they_are_released() {
        static POOL: Pool<u32> = Pool::new();
        let len = SMALLEST_KEPT / 4;
        let mut first = POOL.take(len, 0);
        assert_eq!(first, vec![0; len]);
        first.fill(7);
        POOL.give(first);
        POOL.give(vec![7; len - 1]);
        assert_eq!(POOL.take(len + 1, 1), vec![1; len + 1]);
        assert_eq!(POOL.take(len, 0), vec![7; len], "the buffer that waited");
        assert_eq!(POOL.take(len, 0), vec![0; len], "no second one");
        assert_eq!(POOL.take(len - 1, 0), vec![0; len - 1], "too small to be kept");
        POOL.give(vec![7; len]);
        POOL.clear();
        assert_eq!(POOL.take(len, 0), vec![0; len]);
    }
}

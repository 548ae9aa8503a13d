//! An allocator for large blocks: huge pages, and blocks used again.
//!
//! A training step asks for the same large blocks again and again (packed operands, bf16 copies). From the C library each is a fresh
//! mapping whose every 4 KiB faults at first touch and whose removal interrupts the other cores. Here freed blocks wait for the next
//! request of their size, and large ones are mapped in pages of 2 MiB where the system has them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, PoisonError};

/// The allocator: `#[global_allocator] static ALLOCATOR: HugePages = HugePages;`. Blocks below [`HugePages::SMALLEST`] are the system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct HugePages;

impl HugePages {
    /// Blocks from this size on, in bytes, are mapped by this allocator.
    pub const SMALLEST: usize = 512 << 10;
    /// Bytes that wait at most for another use; the rest goes back to the system.
    pub const KEPT: usize = 8 << 20;
}

const PAGE: usize = 4 << 10;
#[cfg(unix)]
const HUGE_PAGE: usize = 2 << 20;

/// Freed blocks, oldest first.
struct Free {
    blocks: [(usize, usize); 64],
    count: usize,
    bytes: usize,
}

static FREE: Mutex<Free> = Mutex::new(Free { blocks: [(0, 0); 64], count: 0, bytes: 0 });

impl Free {
    /// A block of exactly `size` bytes, the most recently freed one: its lines may still be in a cache.
    fn take(&mut self, size: usize) -> Option<usize> {
        let found = self.blocks[..self.count].iter().rposition(|block| block.1 == size)?;
        Some(self.remove(found).0)
    }

    fn remove(&mut self, index: usize) -> (usize, usize) {
        let block = self.blocks[index];
        self.blocks.copy_within(index + 1..self.count, index);
        self.count -= 1;
        self.bytes -= block.1;
        block
    }

    /// Keeps a block; `release` gets what has to make room for it.
    fn put(&mut self, address: usize, size: usize, mut release: impl FnMut(usize, usize)) {
        if size > HugePages::KEPT / 2 {
            return release(address, size);
        }
        while self.count == self.blocks.len() || self.bytes + size > HugePages::KEPT {
            let (address, size) = self.remove(0);
            release(address, size);
        }
        self.blocks[self.count] = (address, size);
        self.count += 1;
        self.bytes += size;
    }
}

/// Whether a block is this allocator's: a function of its layout, so that freeing asks the same question.
#[cfg(unix)]
fn is_large(layout: Layout) -> bool {
    layout.size() >= HugePages::SMALLEST && layout.align() <= PAGE
}

#[cfg(not(unix))]
fn is_large(_: Layout) -> bool {
    false
}

/// Maps `size` bytes of zeros, a multiple of [`PAGE`]; null where the system has none.
#[cfg(unix)]
fn map(size: usize) -> *mut u8 {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let align = if size >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
    let Some(whole) = size.checked_add(align - PAGE) else { return std::ptr::null_mut() };
    // SAFETY: a fresh anonymous mapping; what is cut off lies inside it and nobody has seen it.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), whole, protection, flags, -1, 0);
        if start == libc::MAP_FAILED {
            return std::ptr::null_mut();
        }
        let before = start.align_offset(align);
        if before > 0 {
            libc::munmap(start, before);
        }
        let block = start.byte_add(before);
        let after = whole - before - size;
        if after > 0 {
            libc::munmap(block.byte_add(size), after);
        }
        #[cfg(target_os = "linux")]
        if size >= HUGE_PAGE {
            // A wish, not a need: where it is refused, the pages are small ones.
            libc::madvise(block, size, libc::MADV_HUGEPAGE);
        }
        block.cast()
    }
}

#[cfg(not(unix))]
fn map(_: usize) -> *mut u8 {
    std::ptr::null_mut()
}

fn unmap(address: usize, size: usize) {
    #[cfg(unix)]
    // SAFETY: a whole block of `map` that nobody uses any more.
    unsafe {
        libc::munmap(address as *mut _, size);
    }
    #[cfg(not(unix))]
    let _ = (address, size);
}

fn whole_pages(size: usize) -> usize {
    size.next_multiple_of(PAGE)
}

// SAFETY: large blocks come from `map` or from blocks of the same size given back; all others are the system allocator's. Which it is
// follows from the layout alone. Nothing here allocates: the list is an array and the lock a word.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_large(layout) {
            // SAFETY: the caller's.
            return unsafe { System.alloc(layout) };
        }
        if layout.size() > isize::MAX as usize - HugePages::KEPT {
            return std::ptr::null_mut();
        }
        let size = whole_pages(layout.size());
        let found = FREE.lock().unwrap_or_else(PoisonError::into_inner).take(size);
        found.map_or_else(|| map(size), |address| address as *mut u8)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_large(layout) {
            // SAFETY: the caller's.
            return unsafe { System.alloc_zeroed(layout) };
        }
        if layout.size() > isize::MAX as usize - HugePages::KEPT {
            return std::ptr::null_mut();
        }
        let size = whole_pages(layout.size());
        let found = FREE.lock().unwrap_or_else(PoisonError::into_inner).take(size);
        match found {
            // SAFETY: a block of at least that many bytes that nobody else has.
            Some(address) => unsafe {
                std::ptr::write_bytes(address as *mut u8, 0, layout.size());
                address as *mut u8
            },
            None => map(size),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !is_large(layout) {
            // SAFETY: the caller's; the same question gave the block.
            return unsafe { System.dealloc(block, layout) };
        }
        FREE.lock().unwrap_or_else(PoisonError::into_inner).put(block as usize, whole_pages(layout.size()), unmap);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's: the alignment is the block's, and the new size does not overflow when rounded up to it.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if !is_large(layout) && !is_large(new_layout) {
            // SAFETY: the caller's.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        if is_large(layout) && is_large(new_layout) && whole_pages(layout.size()) == whole_pages(new_size) {
            return block;
        }
        // SAFETY: both blocks live and hold at least the bytes copied.
        unsafe {
            let new = self.alloc(new_layout);
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    #[test]
    fn blocks_keep_their_values_through_growing_and_shrinking_across_the_border() {
        let sizes = [1000, HugePages::SMALLEST - 1, HugePages::SMALLEST, 3 << 20, (3 << 20) + 100, 700 << 10, 5000, 9 << 20, 10];
        // SAFETY: each block is used within its size and freed with its last layout.
        unsafe {
            let mut size = 500;
            let mut block = HugePages.alloc(layout(size));
            for next in sizes {
                for i in (0..size).step_by(97) {
                    *block.add(i) = (i % 251) as u8;
                }
                block = HugePages.realloc(block, layout(size), next);
                assert!(!block.is_null() && (block as usize).is_multiple_of(64));
                for i in (0..size.min(next)).step_by(97) {
                    assert_eq!(*block.add(i), (i % 251) as u8, "{size} to {next}");
                }
                size = next;
            }
            HugePages.dealloc(block, layout(size));
        }
    }

    #[test]
    fn zeroed_blocks_are_zero_also_when_they_were_used_before() {
        // A size of its own, so that tests beside this one do not take the block.
        let size = (2 << 20) + 12_345;
        // SAFETY: as above.
        unsafe {
            let first = HugePages.alloc(layout(size));
            first.write_bytes(0xff, size);
            HugePages.dealloc(first, layout(size));
            let second = HugePages.alloc_zeroed(layout(size));
            assert!(std::slice::from_raw_parts(second, size).iter().all(|&v| v == 0));
            HugePages.dealloc(second, layout(size));
        }
    }

    #[test]
    fn what_waits_stays_within_its_bounds_and_is_taken_newest_first() {
        let mut free = Free { blocks: [(0, 0); 64], count: 0, bytes: 0 };
        let mut released = Vec::new();
        for address in 1..=100 {
            free.put(address, PAGE, |a, _| released.push(a));
        }
        assert_eq!((free.count, free.bytes), (64, 64 * PAGE));
        assert_eq!(released, (1..=36).collect::<Vec<_>>());
        assert_eq!((free.take(PAGE), free.take(2 * PAGE)), (Some(100), None));
        released.clear();
        free.put(200, HugePages::KEPT / 2, |a, _| released.push(a));
        free.put(201, HugePages::KEPT / 2, |a, _| released.push(a));
        assert!(free.bytes <= HugePages::KEPT && free.blocks[..free.count].iter().any(|b| b.0 == 201));
        free.put(202, HugePages::KEPT, |a, _| released.push(a));
        assert_eq!(released.last(), Some(&202));
    }

    #[test]
    fn sizes_beyond_any_machine_are_refused_not_wrapped() {
        let size = isize::MAX as usize - 64;
        // SAFETY: a null pointer is never touched.
        unsafe {
            assert!(HugePages.alloc(layout(size)).is_null());
            assert!(HugePages.alloc_zeroed(layout(size)).is_null());
        }
    }
}

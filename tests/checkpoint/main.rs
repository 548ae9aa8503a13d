//! Reading models: what `transformers` and the gguf package say of the same files, and what happens to damaged ones.

mod claims;
mod config;
#[path = "../damage/mod.rs"]
mod damage;
mod faults;
mod gguf;
mod gguf_writer;
mod huggingface;
mod tokenizer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Remembers the largest piece of memory that was ever asked for, so that lying headers are found out.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The same for one thread, between two looks at it.
    static LARGEST_HERE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn note(size: usize) {
    LARGEST.fetch_max(size, Ordering::Relaxed);
    // Not after the thread's own memory is gone.
    let _ = LARGEST_HERE.try_with(|largest| largest.set(largest.get().max(size)));
}

/// Does something, and says how much memory this thread asked for at once.
fn largest_piece<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LARGEST_HERE.set(0);
    (work(), LARGEST_HERE.get())
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Fails where any test of this program ever asked for more than small files can need.
fn assert_memory_was_bounded() {
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < 32 << 20, "{largest} bytes were asked for at once");
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn fixture_json(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

/// Asserts that an error's text holds every one of `parts`, and that it is one of a damaged or missing file.
fn assert_error(error: &treering::Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert_eq!(error.exit_code(), 1, "{text}");
}

//! How many multiplications are really carried out, so that what a plan says can be held against what a step does.

use std::sync::atomic::{AtomicU64, Ordering};

static PRODUCTS: AtomicU64 = AtomicU64::new(0);
static ATTENTION: AtomicU64 = AtomicU64::new(0);

/// Multiplications, each with its addition, that this process has carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiplyAdds {
    /// In matrix products: of the layers and of the output head.
    pub products: u64,
    /// In attention, with what a tile computes beyond the diagonal and masks.
    pub attention: u64,
}

impl MultiplyAdds {
    /// All so far, on all threads.
    pub fn so_far() -> Self {
        Self { products: PRODUCTS.load(Ordering::Relaxed), attention: ATTENTION.load(Ordering::Relaxed) }
    }

    /// Those since `earlier`.
    pub fn since(earlier: Self) -> Self {
        let now = Self::so_far();
        Self { products: now.products - earlier.products, attention: now.attention - earlier.attention }
    }
}

/// Takes note of a product of `[m, k]` and `[k, n]`: once a product, which is nothing beside the product itself.
pub(super) fn product(m: usize, n: usize, k: usize) {
    PRODUCTS.fetch_add((m * n * k) as u64, Ordering::Relaxed);
}

/// The same for a product within a tile of attention.
pub(super) fn attention(rows: usize, columns: usize, depth: usize) {
    ATTENTION.fetch_add((rows * columns * depth) as u64, Ordering::Relaxed);
}

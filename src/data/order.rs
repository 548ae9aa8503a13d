//! Seeded orders that are computed, not stored.

/// Mixes 64 bits so that every input bit reaches every output bit (the finaliser of SplitMix64).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A small generator whose output is the same on every machine (SplitMix64).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator for `seed` and a `stream` number, so that one seed serves many independent draws.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { state: mix(mix(seed) ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93)) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let out = mix(self.state);
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        out
    }

    /// A number below `bound`, every one equally likely; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // Values in the last, incomplete run of `bound` are drawn again, or small results would be more likely.
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let x = self.next_u64();
            if x < limit {
                return x % bound;
            }
        }
    }

    /// Shuffles `items` in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A permutation of `0..len`, evaluated anywhere in constant time and memory.
///
/// A Feistel network permutes the next power of four; what falls outside is permuted again until it falls inside (at most four times on average).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; Self::ROUNDS],
}

impl Permutation {
    const ROUNDS: usize = 6;

    /// The permutation of `0..len` that `seed` and `stream` name.
    pub fn new(len: u64, seed: u64, stream: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut random = Random::new(seed, stream);
        Self { len, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| random.next_u64()) }
    }

    /// The number of items.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to permute.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What stands at `index`; the index itself when it is out of range.
    pub fn at(&self, index: u64) -> u64 {
        if index >= self.len {
            return index;
        }
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            x = left << self.half_bits | right;
            if x < self.len {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_permutation_hits_every_index_once(len in 0u64..3000, seed: u64, stream: u64) {
            let order = Permutation::new(len, seed, stream);
            let mut seen: Vec<u64> = (0..len).map(|i| order.at(i)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn numbers_stay_below_their_bound(bound in 1u64.., seed: u64) {
            let mut random = Random::new(seed, 0);
            prop_assert!((0..20).all(|_| random.below(bound) < bound));
        }
    }

    #[test]
    fn permutations_differ_by_seed_and_by_stream_and_are_not_the_identity() {
        let order = |seed, stream| (0..100).map(|i| Permutation::new(100, seed, stream).at(i)).collect::<Vec<_>>();
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), (0..100).collect::<Vec<_>>());
        assert_eq!(order(7, 3), order(7, 3));
    }

    #[test]
    fn neighbours_are_scattered_evenly() {
        // The mean distance of two random places in 0..n is n / 3; a poor mixer leaves neighbours together.
        let n = 10_000u64;
        let order = Permutation::new(n, 42, 0);
        let mean = (1..n).map(|i| order.at(i).abs_diff(order.at(i - 1))).sum::<u64>() as f64 / (n - 1) as f64;
        assert!((mean / n as f64 - 1.0 / 3.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn the_generator_is_the_same_on_every_machine() {
        let mut random = Random::new(42, 7);
        let first: Vec<u64> = (0..3).map(|_| random.below(1000)).collect();
        // Computed apart from this code, from the definition of SplitMix64.
        assert_eq!(first, [87, 107, 409]);
    }

    #[test]
    fn the_largest_domain_is_permuted_too() {
        let order = Permutation::new(u64::MAX, 1, 2);
        assert!(order.at(0) < u64::MAX && order.at(u64::MAX - 1) < u64::MAX);
    }
}

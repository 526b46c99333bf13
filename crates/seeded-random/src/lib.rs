//! Counter-based random streams keyed by what they are for.
//!
//! A stream is a path of keys: `Stream::new(seed).purpose("rollout").index(step).index(prompt)`.
//! Its generator is ChaCha8 with the path's BLAKE3 hash as key, so a number depends on what it
//! is for and on nothing else: not on the order of calls, the batch split or the thread count.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use rand;
pub use rand_chacha;

/// The generator that every stream hands out.
pub type Generator = ChaCha8Rng;

/// A node in the tree of random streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u8; 32],
}

impl Stream {
    /// The root stream of a run.
    pub fn new(seed: u64) -> Self {
        Stream { key: [0; 32] }.child(b'r', &seed.to_le_bytes())
    }

    /// The sub-stream for a named purpose, for example `"rollout"`.
    pub fn purpose(&self, name: &str) -> Self {
        self.child(b'p', name.as_bytes())
    }

    /// The sub-stream for a position: a step, a prompt, a sample.
    pub fn index(&self, index: u64) -> Self {
        self.child(b'i', &index.to_le_bytes())
    }

    /// This stream's generator, always from its beginning.
    pub fn generator(&self) -> Generator {
        Generator::from_seed(self.key)
    }

    /// A 64-bit seed, for libraries that take one.
    pub fn seed(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.key[..8]);
        u64::from_le_bytes(bytes)
    }

    fn child(&self, kind: u8, bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[kind]);
        hasher.update(bytes);
        Stream {
            key: *hasher.finalize().as_bytes(),
        }
    }
}

/// Draws that the project needs and that must never change with a library's version.
pub trait Draw {
    /// Uniform in `0..bound`, without modulo bias. `bound` 0 gives 0.
    fn below(&mut self, bound: usize) -> usize;
    /// Uniform in `[0, 1)`, 53 bits.
    fn unit(&mut self) -> f64;
    /// Standard normal (Box-Muller).
    fn normal(&mut self) -> f64;
    /// Fisher-Yates, in place.
    fn shuffle<T>(&mut self, items: &mut [T]);
    /// `count` distinct indices of `0..bound`, in random order; all of them when `count >= bound`.
    fn choose(&mut self, bound: usize, count: usize) -> Vec<usize>;
}

impl Draw for Generator {
    fn below(&mut self, bound: usize) -> usize {
        use rand_chacha::rand_core::Rng;
        if bound <= 1 {
            return 0;
        }
        let bound = bound as u64;
        let reject_from = u64::MAX - u64::MAX % bound;
        loop {
            let draw = self.next_u64();
            if draw < reject_from {
                return (draw % bound) as usize;
            }
        }
    }

    fn unit(&mut self) -> f64 {
        use rand_chacha::rand_core::Rng;
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        // 1 - unit() lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * libm::log(1.0 - self.unit())).sqrt();
        radius * libm::cos(2.0 * std::f64::consts::PI * self.unit())
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn choose(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..bound).collect();
        self.shuffle(&mut all);
        all.truncate(count);
        all
    }
}

/// The example of the README, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_names_one_stream() {
        let root = Stream::new(7);
        assert_eq!(root.purpose("a").index(3), root.purpose("a").index(3));
        assert_ne!(root.purpose("a").index(3), root.purpose("a").index(4));
        assert_ne!(root.purpose("a"), root.purpose("b"));
        assert_ne!(Stream::new(7), Stream::new(8));
        assert_ne!(
            root.purpose("12345678"),
            root.index(u64::from_le_bytes(*b"12345678"))
        );
    }

    #[test]
    fn values_never_change_between_versions() {
        let mut generator = Stream::new(1).purpose("test").index(2).generator();
        let drawn: Vec<usize> = (0..6).map(|_| generator.below(1000)).collect();
        assert_eq!(drawn, GOLDEN);
    }

    /// Made by rand_chacha 0.10.0 and blake3 1.8.7.
    const GOLDEN: [usize; 6] = [674, 443, 10, 562, 32, 318];

    proptest! {
        #[test]
        fn draws_stay_in_range(seed: u64, bound in 1usize..50, count in 0usize..60) {
            let mut generator = Stream::new(seed).generator();
            prop_assert!(generator.below(bound) < bound);
            prop_assert!((0.0..1.0).contains(&generator.unit()));
            prop_assert!(generator.normal().is_finite());
            let mut chosen = generator.choose(bound, count);
            prop_assert_eq!(chosen.len(), bound.min(count));
            chosen.sort();
            chosen.dedup();
            prop_assert_eq!(chosen.len(), bound.min(count));
        }
    }
}

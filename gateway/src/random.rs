//! Pseudo-random numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A generator that many threads share without a lock: SplitMix64 (Steele et al. 2014) of a
/// counter. Every start gives the same numbers.
#[derive(Debug, Default)]
pub(crate) struct Rng(AtomicU64);

impl Rng {
    /// A number between 0 and 1, neither of them.
    pub(crate) fn fraction(&self) -> f64 {
        (f64::from((self.bits() >> 32) as u32) + 0.5) / (f64::from(u32::MAX) + 1.0)
    }

    /// A number below `end`, which must be above 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    fn bits(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_uniform() {
        let rng = Rng::default();
        let fractions: Vec<_> = (0..10_000).map(|_| rng.fraction()).collect();
        assert!(
            fractions
                .iter()
                .all(|fraction| *fraction > 0.0 && *fraction < 1.0)
        );
        for tenth in 0..10 {
            let within = fractions
                .iter()
                .filter(|fraction| (**fraction * 10.0) as i32 == tenth)
                .count();
            assert!((800..1_200).contains(&within), "{tenth}: {within}");
        }
    }
}

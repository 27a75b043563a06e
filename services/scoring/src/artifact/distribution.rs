//! The distribution of a number in training, and how far the values seen now have drifted from it.
//! In:  finite values, in the number's own unit.
//! Out: the population stability index: 0 for the same distribution, above 0.1 for one to look at,
//! above 0.25 for a different one.

use serde::{Deserialize, Serialize};

/// Bins of a distribution with enough different values.
const BINS: usize = 10;
/// The least share that a bin is compared with, so that one value in a bin that was empty in
/// training does not make the index infinite.
const LEAST: f64 = 1e-4;

/// Quantile bins of a number's values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The greatest value of every bin but the last, rising.
    edges: Vec<f64>,
    /// The share of values in every bin.
    shares: Vec<f64>,
}

impl Distribution {
    /// The distribution of the finite ones of some values; `None` if there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let mut edges: Vec<f64> = (1..BINS).map(|bin| values[last * bin / BINS]).collect();
        edges.dedup();
        let mut distribution = Self {
            shares: vec![0.0; edges.len() + 1],
            edges,
        };
        for value in &values {
            let bin = distribution.bin(*value);
            distribution.shares[bin] += 1.0 / values.len() as f64;
        }
        Some(distribution)
    }

    /// Whether it is well formed: bins in order, and a share for each.
    pub fn is_sound(&self) -> bool {
        self.shares.len() == self.edges.len() + 1
            && self.edges.is_sorted()
            && self.shares.iter().all(|share| (0.0..=1.1).contains(share))
    }

    /// Number of bins.
    pub fn bins(&self) -> usize {
        self.shares.len()
    }

    /// The bin of a value.
    pub fn bin(&self, value: f64) -> usize {
        self.edges.partition_point(|edge| *edge < value)
    }

    /// The population stability index of values, given how many fell into each bin.
    pub fn drift(&self, counts: &[u64]) -> f64 {
        let all: u64 = counts.iter().sum();
        let one = |(was, count): (&f64, &u64)| {
            let (was, is) = (
                was.max(LEAST),
                (*count as f64 / all.max(1) as f64).max(LEAST),
            );
            (is - was) * (is / was).ln()
        };
        self.shares.iter().zip(counts).map(one).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drift(trained: impl Iterator<Item = f64>, seen: impl Iterator<Item = f64>) -> f64 {
        let distribution = Distribution::of(trained).unwrap();
        assert!(distribution.is_sound());
        let mut counts = vec![0; distribution.bins()];
        seen.for_each(|value| counts[distribution.bin(value)] += 1);
        distribution.drift(&counts)
    }

    #[test]
    fn the_same_spread_is_no_drift_and_another_one_is() {
        let values = |from: f64| (0..1000).map(move |n| from + f64::from(n) / 1000.0);
        assert!(drift(values(0.0), values(0.0)) < 1e-6);
        let moved = drift(values(0.0), values(0.1));
        assert!((0.1..5.0).contains(&moved), "{moved}");
        assert!(drift(values(0.0), values(9.0)) > moved);
    }

    #[test]
    fn numbers_that_take_few_values_have_few_bins() {
        assert!(drift([1.0; 50].into_iter(), [1.0; 9].into_iter()) < 1e-3);
        assert!(drift([1.0; 50].into_iter(), [2.0; 9].into_iter()) > 1.0);
        let halves = || (0..100).map(|n| f64::from(n % 2));
        assert!(drift(halves(), halves()) < 1e-6);
        assert_eq!(Distribution::of([f64::NAN]), None);
    }
}

//! Complete binary trees of one depth, which forests (Breiman 2001) and boosted ensembles (Friedman 2001) share.
//!
//! Tensors: `feature` `[trees, 2^depth - 1]` i32, `threshold` the same f32, `value` `[trees, 2^(depth+1) - 1]` f32. Nodes
//! are laid out level by level: the children of node n are 2n + 1 (at or below the threshold) and 2n + 2. Every node has
//! a value, the inner ones too: the difference between a node's and its child's is what the split's feature contributed
//! (Saabas 2014), and these add up to the score exactly.

use crate::{ModelError, TensorFile, Tensors};

/// Deepest trees that are read.
const DEEPEST: u32 = 16;

/// Trees whose values are added up.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    trees: usize,
    depth: u32,
    feature: Vec<u16>,
    threshold: Vec<f32>,
    value: Vec<f32>,
}

impl Forest {
    /// From node arrays as the module describes them; features are below `width`.
    ///
    /// # Errors
    /// [`ModelError::Inconsistent`].
    pub fn new(
        width: usize,
        depth: u32,
        feature: &[i32],
        threshold: Vec<f32>,
        value: Vec<f32>,
    ) -> Result<Self, ModelError> {
        let inner = (1_usize << depth.min(DEEPEST)) - 1;
        let trees = feature.len() / inner.max(1);
        if depth == 0
            || depth > DEEPEST
            || trees == 0
            || feature.len() != trees * inner
            || threshold.len() != feature.len()
            || value.len() != trees * (2 * inner + 1)
        {
            return Err(ModelError::inconsistent("forest", "is not of complete trees"));
        }
        let known = |f: &i32| u16::try_from(*f).ok().filter(|f| usize::from(*f) < width);
        let feature: Option<Vec<u16>> = feature.iter().map(known).collect();
        let feature =
            feature.ok_or_else(|| ModelError::inconsistent("feature", "is not one that this program knows"))?;
        if threshold.iter().any(|t| t.is_nan()) || !value.iter().all(|v| v.is_finite()) {
            return Err(ModelError::inconsistent("value", "is not finite"));
        }
        Ok(Self { trees, depth, feature, threshold, value })
    }

    /// Reads the tensors `feature`, `threshold` and `value`, whose names start with `prefix`.
    ///
    /// # Errors
    /// As [`Self::new`], or where a tensor is missing or of another shape.
    pub fn read(tensors: &Tensors<'_>, prefix: &str, width: usize) -> Result<Self, ModelError> {
        let name = |what: &str| format!("{prefix}{what}");
        let [trees, inner] = tensors.shape(&name("feature"))?;
        let depth = (inner + 1).trailing_zeros();
        if !(inner + 1).is_power_of_two() {
            return Err(ModelError::inconsistent("feature", "is not of complete trees"));
        }
        let feature: Vec<i32> = tensors.get(&name("feature"), &[trees, inner])?;
        let threshold = tensors.get(&name("threshold"), &[trees, inner])?;
        Self::new(width, depth, &feature, threshold, tensors.get(&name("value"), &[trees, 2 * inner + 1])?)
    }

    /// Adds the tensors that [`Self::read`] reads.
    #[must_use]
    pub fn write(&self, to: TensorFile, prefix: &str) -> TensorFile {
        let inner = (1 << self.depth) - 1;
        let feature: Vec<i32> = self.feature.iter().map(|f| i32::from(*f)).collect();
        to.with(&format!("{prefix}feature"), &[self.trees, inner], &feature)
            .with(&format!("{prefix}threshold"), &[self.trees, inner], &self.threshold)
            .with(&format!("{prefix}value"), &[self.trees, 2 * inner + 1], &self.value)
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.trees
    }

    /// Sum over the trees of the value in which a vector ends.
    pub fn sum(&self, features: &[f32]) -> f64 {
        let inner = (1 << self.depth) - 1;
        let trees = self.feature.chunks_exact(inner).zip(self.threshold.chunks_exact(inner));
        let mut sum = 0.0;
        for ((feature, threshold), value) in trees.zip(self.value.chunks_exact(2 * inner + 1)) {
            let mut node = 0;
            for _ in 0..self.depth {
                node = 2 * node + 1 + usize::from(features[usize::from(feature[node])] > threshold[node]);
            }
            sum += f64::from(value[node]);
        }
        sum
    }

    /// Sum of the trees' roots: the score of a vector of which nothing is known.
    pub fn base(&self) -> f64 {
        let nodes = (2 << self.depth) - 1;
        self.value.iter().step_by(nodes).map(|root| f64::from(*root)).sum()
    }

    /// What each feature adds to `parts`; together with [`Self::base`] they make [`Self::sum`].
    pub fn contribute(&self, features: &[f32], parts: &mut [f64]) {
        let inner = (1 << self.depth) - 1;
        for tree in 0..self.trees {
            let (splits, values) = (tree * inner, &self.value[tree * (2 * inner + 1)..]);
            let mut node = 0;
            for _ in 0..self.depth {
                let feature = usize::from(self.feature[splits + node]);
                let child = 2 * node + 1 + usize::from(features[feature] > self.threshold[splits + node]);
                parts[feature] += f64::from(values[child]) - f64::from(values[node]);
                node = child;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tree of depth 1 and one of the same depth that does not split.
    fn forest() -> Forest {
        Forest::new(2, 1, &[0, 1], vec![50.0, f32::MAX], vec![0.4, 0.2, 0.9, 0.5, 0.5, 0.5]).unwrap()
    }

    #[test]
    fn a_vector_ends_in_the_leaf_of_its_side() {
        for (x, sum) in [(0.0, 0.7), (50.0, 0.7), (50.1, 1.4)] {
            assert!((forest().sum(&[x, 0.0]) - sum).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn a_forest_that_does_not_hold_together_is_refused() {
        for (depth, feature, value) in [
            (1, vec![99, 0], vec![0.5; 6]),
            (1, vec![0, -1], vec![0.5; 6]),
            (1, vec![0, 0], vec![f32::NAN; 6]),
            (1, vec![0], vec![0.5; 6]),
            (0, vec![], vec![]),
            (60, vec![0], vec![0.5; 6]),
        ] {
            assert!(Forest::new(2, depth, &feature, vec![0.0; 2], value).is_err());
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = forest().write(TensorFile::new(), "a.").into_bytes().unwrap();
        assert_eq!(Forest::read(&Tensors::parse("x", &bytes).unwrap(), "a.", 2).unwrap(), forest());
    }

    proptest! {
        #[test]
        fn contributions_add_up_to_the_score(x in prop::collection::vec(-1e6_f32..1e6, 2)) {
            let mut parts = [0.0; 2];
            forest().contribute(&x, &mut parts);
            prop_assert!((forest().base() + parts.iter().sum::<f64>() - forest().sum(&x)).abs() < 1e-6);
        }
    }
}

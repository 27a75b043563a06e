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
    /// By tree, `2^depth` each. Here the root is 1 and the children of n are 2n and 2n + 1: a step is a shift. 0 is none.
    splits: Vec<Split>,
    /// By tree, `2^(depth+1)` each, in the same order.
    values: Vec<f32>,
}

/// What a node asks: whether a feature is above a threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Split {
    threshold: f32,
    feature: u16,
}

/// A tree.
#[derive(Debug, Clone, Copy)]
struct Tree<'a> {
    splits: &'a [Split],
    values: &'a [f32],
}

impl Tree<'_> {
    /// The feature that a node asks for, and the child to which it sends a vector.
    fn child(&self, node: usize, features: &[f32]) -> (usize, usize) {
        let Split { threshold, feature } = self.splits[node];
        let feature = usize::from(feature);
        (feature, node << 1 | usize::from(features[feature] > threshold))
    }
}

/// Trees of `nodes` nodes each, with a place before the root's.
fn rooted_at_one<T: Copy>(nodes: usize, none: T, all: impl ExactSizeIterator<Item = T>) -> Vec<T> {
    let mut rooted = Vec::with_capacity(all.len() / nodes * (nodes + 1));
    for (at, node) in all.enumerate() {
        if at.is_multiple_of(nodes) {
            rooted.push(none);
        }
        rooted.push(node);
    }
    rooted
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
        threshold: &[f32],
        value: &[f32],
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
        let known = |(f, threshold): (&i32, &f32)| {
            let feature = u16::try_from(*f).ok().filter(|f| usize::from(*f) < width)?;
            Some(Split { threshold: *threshold, feature })
        };
        let splits: Option<Vec<Split>> = feature.iter().zip(threshold).map(known).collect();
        let splits = splits.ok_or_else(|| ModelError::inconsistent("feature", "is not one that this program knows"))?;
        if threshold.iter().any(|t| t.is_nan()) || !value.iter().all(|v| v.is_finite()) {
            return Err(ModelError::inconsistent("value", "is not finite"));
        }
        let none = Split { threshold: 0.0, feature: 0 };
        Ok(Self {
            trees,
            depth,
            splits: rooted_at_one(inner, none, splits.into_iter()),
            values: rooted_at_one(2 * inner + 1, 0.0, value.iter().copied()),
        })
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
        let threshold: Vec<f32> = tensors.get(&name("threshold"), &[trees, inner])?;
        let value: Vec<f32> = tensors.get(&name("value"), &[trees, 2 * inner + 1])?;
        Self::new(width, depth, &feature, &threshold, &value)
    }

    /// Adds the tensors that [`Self::read`] reads.
    #[must_use]
    pub fn write(&self, to: TensorFile, prefix: &str) -> TensorFile {
        let inner = (1 << self.depth) - 1;
        let splits = || self.each().flat_map(|tree| &tree.splits[1..]);
        let feature: Vec<i32> = splits().map(|split| split.feature.into()).collect();
        let threshold: Vec<f32> = splits().map(|split| split.threshold).collect();
        let value: Vec<f32> = self.each().flat_map(|tree| &tree.values[1..]).copied().collect();
        to.with(&format!("{prefix}feature"), &[self.trees, inner], &feature)
            .with(&format!("{prefix}threshold"), &[self.trees, inner], &threshold)
            .with(&format!("{prefix}value"), &[self.trees, 2 * inner + 1], &value)
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.trees
    }

    fn each(&self) -> impl Iterator<Item = Tree<'_>> {
        let trees = self.splits.chunks_exact(1 << self.depth).zip(self.values.chunks_exact(2 << self.depth));
        trees.map(|(splits, values)| Tree { splits, values })
    }

    /// Sum over the trees of the value in which a vector ends.
    pub fn sum(&self, features: &[f32]) -> f64 {
        let leaf = |tree: Tree<'_>| (0..self.depth).fold(1, |node, _| tree.child(node, features).1);
        self.each().map(|tree| f64::from(tree.values[leaf(tree)])).fold(0.0, |sum, value| sum + value)
    }

    /// Sum of the trees' roots: the score of a vector of which nothing is known.
    pub fn base(&self) -> f64 {
        self.each().map(|tree| f64::from(tree.values[1])).sum()
    }

    /// What each feature adds to `parts`; together with [`Self::base`] they make [`Self::sum`], which it returns.
    pub fn contribute(&self, features: &[f32], parts: &mut [f64]) -> f64 {
        let mut sum = 0.0;
        for tree in self.each() {
            let (mut node, mut value) = (1, f64::from(tree.values[1]));
            for _ in 0..self.depth {
                let (feature, child) = tree.child(node, features);
                let there = f64::from(tree.values[child]);
                parts[feature] += there - value;
                (node, value) = (child, there);
            }
            sum += value;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tree of depth 1 and one of the same depth that does not split.
    fn forest() -> Forest {
        Forest::new(2, 1, &[0, 1], &[50.0, f32::MAX], &[0.4, 0.2, 0.9, 0.5, 0.5, 0.5]).unwrap()
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
            assert!(Forest::new(2, depth, &feature, &[0.0; 2], &value).is_err());
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
            prop_assert_eq!(forest().contribute(&x, &mut parts), forest().sum(&x));
            prop_assert!((forest().base() + parts.iter().sum::<f64>() - forest().sum(&x)).abs() < 1e-6);
        }
    }
}

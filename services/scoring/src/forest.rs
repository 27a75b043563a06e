//! Complete binary trees of one depth, which forests (Breiman 2001) and boosted ensembles (Friedman
//! 2001) share.
//!
//! Tensors: `feature` `[trees, 2^depth - 1]` i32, `threshold` the same f32, `value` `[trees,
//! 2^(depth+1) - 1]` f32. Nodes are laid out level by level: the children of node n are 2n + 1 (at
//! or below the threshold) and 2n + 2. Every node has a value, the inner ones too: the difference
//! between a node's and its child's is what the split's feature contributed (Saabas 2014), and
//! these add up to the score exactly.

use crate::{ModelError, TensorFile, Tensors};

/// Deepest trees that are read.
const DEEPEST: u32 = 16;
/// Walks that are done side by side, of one vector down several trees or of several vectors down
/// one tree: each step of a walk waits for the one before it, and the processor continues with the
/// others meanwhile.
const ABREAST: usize = 8;
/// Vectors that each tree is walked for before the next tree, so that they and the tree stay in the
/// cache.
const TILE: usize = 64;

/// An ensemble of trees; its score is the sum of one value of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    trees: usize,
    depth: u32,
    /// By tree, `2^depth` each. Here the root is 1 and the children of n are 2n and 2n + 1: a step
    /// is a shift. 0 is none.
    splits: Vec<Split>,
    /// By tree, `2^(depth+1)` each, in the same order.
    values: Vec<f32>,
}

/// The condition of a node: whether a feature is above a threshold.
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

/// The child to which a node sends a vector; `splits` are those of its tree.
#[inline]
fn child(splits: &[Split], node: usize, features: &[f32]) -> usize {
    let Split { threshold, feature } = splits[node];
    node << 1 | usize::from(features[usize::from(feature)] > threshold)
}

/// [`ABREAST`] vectors by feature, filled up with 0.
fn columns(vectors: &[f32], width: usize) -> Vec<[f32; ABREAST]> {
    let mut columns = vec![[0.0; ABREAST]; width];
    for (at, vector) in vectors.chunks_exact(width).enumerate() {
        columns
            .iter_mut()
            .zip(vector)
            .for_each(|(column, value)| column[at] = *value);
    }
    columns
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
            return Err(ModelError::inconsistent(
                "forest",
                "is not of complete trees",
            ));
        }
        let known = |(f, threshold): (&i32, &f32)| {
            let feature = u16::try_from(*f).ok().filter(|f| usize::from(*f) < width)?;
            Some(Split {
                threshold: *threshold,
                feature,
            })
        };
        let splits: Option<Vec<Split>> = feature.iter().zip(threshold).map(known).collect();
        let splits = splits.ok_or_else(|| {
            ModelError::inconsistent("feature", "is not one that this program knows")
        })?;
        if threshold.iter().any(|t| t.is_nan()) || !value.iter().all(|v| v.is_finite()) {
            return Err(ModelError::inconsistent("value", "is not finite"));
        }
        let none = Split {
            threshold: 0.0,
            feature: 0,
        };
        Ok(Self {
            trees,
            depth,
            splits: rooted_at_one(inner, none, splits.into_iter()),
            values: rooted_at_one(2 * inner + 1, 0.0, value.iter().copied()),
        })
    }

    /// Reads the tensors `feature`, `threshold` and `value`, each name after a `prefix`.
    ///
    /// # Errors
    /// As [`Self::new`], or if a tensor is missing or of another shape.
    pub fn read(tensors: &Tensors<'_>, prefix: &str, width: usize) -> Result<Self, ModelError> {
        let name = |what: &str| format!("{prefix}{what}");
        let [trees, inner] = tensors.shape(&name("feature"))?;
        let depth = (inner + 1).trailing_zeros();
        if !(inner + 1).is_power_of_two() {
            return Err(ModelError::inconsistent(
                "feature",
                "is not of complete trees",
            ));
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
        let value: Vec<f32> = self
            .each()
            .flat_map(|tree| &tree.values[1..])
            .copied()
            .collect();
        to.with(&format!("{prefix}feature"), &[self.trees, inner], &feature)
            .with(
                &format!("{prefix}threshold"),
                &[self.trees, inner],
                &threshold,
            )
            .with(
                &format!("{prefix}value"),
                &[self.trees, 2 * inner + 1],
                &value,
            )
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.trees
    }

    fn tree(&self, at: usize) -> Tree<'_> {
        let (splits, values) = (1 << self.depth, 2 << self.depth);
        Tree {
            splits: &self.splits[at * splits..][..splits],
            values: &self.values[at * values..][..values],
        }
    }

    fn each(&self) -> impl Iterator<Item = Tree<'_>> {
        (0..self.trees).map(|at| self.tree(at))
    }

    /// Calls `tell` with every tree, in order, and the leaf in which a vector ends.
    #[inline]
    fn descend(&self, features: &[f32], mut tell: impl FnMut(Tree<'_>, usize)) {
        let mut blocks = self.splits.chunks_exact(ABREAST << self.depth);
        let mut trees = self.each();
        for block in &mut blocks {
            let mut nodes = [1; ABREAST];
            for _ in 0..self.depth {
                for (at, node) in nodes.iter_mut().enumerate() {
                    let Split { threshold, feature } = block[(at << self.depth) + *node];
                    *node = *node << 1 | usize::from(features[usize::from(feature)] > threshold);
                }
            }
            nodes
                .into_iter()
                .zip(trees.by_ref())
                .for_each(|(leaf, tree)| tell(tree, leaf));
        }
        for tree in trees {
            tell(
                tree,
                (0..self.depth).fold(1, |node, _| child(tree.splits, node, features)),
            );
        }
    }

    /// Sum over the trees of the value in which a vector ends.
    pub fn sum(&self, features: &[f32]) -> f64 {
        let mut sum = 0.0;
        self.descend(features, |tree, leaf| sum += f64::from(tree.values[leaf]));
        sum
    }

    /// [`Self::sum`] of each of many vectors `[n, width]`.
    pub fn sums(&self, vectors: &[f32], width: usize) -> Vec<f64> {
        let mut sums = vec![0.0; vectors.len() / width];
        for (vectors, sums) in vectors.chunks(TILE * width).zip(sums.chunks_mut(TILE)) {
            let groups: Vec<Vec<[f32; ABREAST]>> = vectors
                .chunks(ABREAST * width)
                .map(|group| columns(group, width))
                .collect();
            for Tree { splits, values } in self.each() {
                for (columns, sums) in groups.iter().zip(sums.chunks_mut(ABREAST)) {
                    let mut nodes = [1; ABREAST];
                    for _ in 0..self.depth {
                        for (at, node) in nodes.iter_mut().enumerate() {
                            let Split { threshold, feature } = splits[*node];
                            *node = *node << 1
                                | usize::from(columns[usize::from(feature)][at] > threshold);
                        }
                    }
                    sums.iter_mut()
                        .zip(nodes)
                        .for_each(|(sum, leaf)| *sum += f64::from(values[leaf]));
                }
            }
        }
        sums
    }

    /// Sum of the trees' roots: the score of an unknown vector.
    pub fn base(&self) -> f64 {
        self.each().map(|tree| f64::from(tree.values[1])).sum()
    }

    /// What each feature adds to `parts`; together with [`Self::base`] they make [`Self::sum`],
    /// which it returns.
    pub fn contribute(&self, features: &[f32], parts: &mut [f64]) -> f64 {
        let mut sum = 0.0;
        self.descend(features, |tree, leaf| {
            let value = |node: usize| f64::from(tree.values[node]);
            for level in (0..self.depth).rev() {
                let (node, child) = (leaf >> (level + 1), leaf >> level);
                parts[usize::from(tree.splits[node].feature)] += value(child) - value(node);
            }
            sum += value(leaf);
        });
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tree of depth 1 and one of the same depth that does not split.
    fn forest() -> Forest {
        Forest::new(
            2,
            1,
            &[0, 1],
            &[50.0, f32::MAX],
            &[0.4, 0.2, 0.9, 0.5, 0.5, 0.5],
        )
        .unwrap()
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
        let bytes = forest()
            .write(TensorFile::new(), "a.")
            .into_bytes()
            .unwrap();
        assert_eq!(
            Forest::read(&Tensors::parse("x", &bytes).unwrap(), "a.", 2).unwrap(),
            forest()
        );
    }

    /// Trees of depth 3 over two features, made of these numbers.
    fn drawn(numbers: &[f32]) -> Forest {
        let inner = numbers.len() / 7 * 7;
        let features: Vec<i32> = numbers[..inner]
            .iter()
            .map(|x| i32::from(x.fract() > 0.5))
            .collect();
        let values: Vec<f32> = (0..inner / 7 * 15)
            .map(|at| numbers[at % inner] / 3.0)
            .collect();
        Forest::new(2, 3, &features, &numbers[..inner], &values).unwrap()
    }

    proptest! {
        #[test]
        fn many_at_once_and_side_by_side_are_as_each_alone(
            numbers in prop::collection::vec(0.0..9.0_f32, 7..140),
            vectors in prop::collection::vec(0.0..9.0_f32, 0..40),
        ) {
            let (forest, vectors) = (drawn(&numbers), &vectors[..vectors.len() / 2 * 2]);
            let alone = |x: &[f32]| {
                let leaf = |tree: Tree<'_>| (0..3).fold(1, |node, _| child(tree.splits, node, x));
                forest.each().fold(0.0, |sum, tree| sum + f64::from(tree.values[leaf(tree)]))
            };
            let each: Vec<f64> = vectors.chunks(2).map(alone).collect();
            let one_by_one: Vec<f64> = vectors.chunks(2).map(|x| forest.sum(x)).collect();
            prop_assert_eq!(&one_by_one, &each);
            prop_assert_eq!(forest.sums(vectors, 2), each);
        }

        #[test]
        fn contributions_add_up_to_the_score(
            numbers in prop::collection::vec(0.0..9.0_f32, 7..140),
            x in prop::collection::vec(-1.0..10.0_f32, 2),
        ) {
            let (forest, mut parts) = (drawn(&numbers), [0.0; 2]);
            prop_assert_eq!(forest.contribute(&x, &mut parts), forest.sum(&x));
            prop_assert!((forest.base() + parts.iter().sum::<f64>() - forest.sum(&x)).abs() < 1e-4);
        }
    }
}

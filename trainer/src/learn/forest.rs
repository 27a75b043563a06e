//! Trees grown level by level on binned features with tensor operations, many at once: random
//! forests (Breiman 2001) and boosted ensembles (Friedman 2001), on any device.
//!
//! Splits are chosen from histograms, as in LightGBM (Ke et al. 2017): sums of the weights and of
//! the weighted targets for every node, feature and bin. One operation counts all trees and nodes
//! of a level.

use lake::Random;
use scoring::{Forest, ModelError};
use tch::{Device, Kind as Dtype, Tensor};

use super::LearnError;

/// Rows of features as bins.
#[derive(Debug)]
pub struct Binned {
    /// Ascending upper edges of all bins but the last, for each feature.
    edges: Vec<Vec<f32>>,
    /// `[F, n]`, a byte each.
    bins: Tensor,
    /// Bins of a feature, at most.
    most: i64,
}

impl Binned {
    /// Sorts the features of rows into at most `most` bins, which must not exceed 255. Edges are
    /// quantiles of the feature's values.
    pub fn of(rows: &[&[f32]], most: i64, device: Device) -> Self {
        use rayon::prelude::*;
        let width = rows.first().map_or(0, |row| row.len());
        let columns: Vec<(Vec<f32>, Vec<u8>)> = (0..width)
            .into_par_iter()
            .map(|feature| {
                let values: Vec<f32> = rows.iter().map(|row| row[feature]).collect();
                let sample = values
                    .iter()
                    .copied()
                    .step_by(values.len().div_ceil(EDGE_SAMPLE).max(1))
                    .collect();
                let edges = edges(sample, most as usize);
                // A value equal to an edge is in the bin below it, as in `Forest`.
                let bins = values
                    .iter()
                    .map(|x| edges.partition_point(|edge| x > edge) as u8)
                    .collect();
                (edges, bins)
            })
            .collect();
        let (edges, bins): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let bins = Tensor::from_slice(&bins.concat())
            .reshape([width as i64, rows.len() as i64])
            .to_device(device);
        Self { edges, bins, most }
    }

    /// Some of the rows.
    pub(crate) fn of_rows(&self, rows: &Tensor) -> Self {
        Self {
            edges: self.edges.clone(),
            bins: self.bins.index_select(1, rows),
            most: self.most,
        }
    }

    /// The same bins, for another thread.
    fn shared(&self) -> Self {
        Self {
            edges: self.edges.clone(),
            bins: self.bins.shallow_clone(),
            most: self.most,
        }
    }

    fn rows(&self) -> i64 {
        self.bins.size()[1]
    }

    fn width(&self) -> i64 {
        self.bins.size()[0]
    }
}

/// Rows from which edges are computed, at most.
const EDGE_SAMPLE: usize = 1 << 18;

/// Distinct quantiles below the highest value.
fn edges(mut values: Vec<f32>, bins: usize) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    let mut edges: Vec<f32> = (1..bins)
        .map(|bin| values[bin * values.len() / bins])
        .collect();
    edges.dedup();
    edges.retain(|edge| Some(edge) != values.last());
    edges
}

/// How trees grow.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// Levels of splits.
    pub depth: u32,
    /// Least weight on either side of a split.
    pub least: f64,
    /// Ridge: the weight of 0 in every node's mean.
    pub ridge: f64,
    /// Randomly drawn features among which each level of a tree chooses.
    pub tried: i64,
}

/// Trees as arrays of nodes; see [`Forest`].
#[derive(Default)]
pub(crate) struct Nodes {
    pub(crate) feature: Vec<i32>,
    pub(crate) threshold: Vec<f32>,
    pub(crate) value: Vec<f64>,
}

impl Nodes {
    /// The trees with their values multiplied by `scale`.
    pub(crate) fn forest(
        &self,
        width: usize,
        depth: u32,
        scale: f64,
    ) -> Result<Forest, ModelError> {
        let value: Vec<f32> = self
            .value
            .iter()
            .map(|value| (value * scale) as f32)
            .collect();
        Forest::new(width, depth, &self.feature, &self.threshold, &value)
    }
}

/// Grows trees for `weights` and `weighted` targets, both `[trees, n]`, appends them to `nodes`,
/// and returns the value of each row's leaf, `[trees, n]`. A node's value is its weighted mean,
/// shrunk by the ridge.
#[expect(
    clippy::too_many_lines,
    reason = "one algorithm, level by level; its parts would share nearly all of its tensors"
)]
pub(crate) fn grow(
    binned: &Binned,
    weights: &Tensor,
    weighted: &Tensor,
    growth: Growth,
    random: &mut Random,
    nodes: &mut Nodes,
) -> Result<Tensor, LearnError> {
    let (n, width, trees, bins) = (
        binned.rows(),
        binned.width(),
        weights.size()[0],
        binned.most,
    );
    let device = weights.device();
    let (flat_weights, flat_weighted) = (weights.reshape(-1), weighted.reshape(-1));
    let tree = Tensor::arange(trees, (Dtype::Int64, device)).unsqueeze(1);
    // Index of each row's node within the level.
    let mut node = Tensor::zeros([trees, n], (Dtype::Int64, device));
    let (mut features, mut split_bins, mut values) = (Vec::new(), Vec::new(), Vec::<Tensor>::new());
    for depth in 0..=growth.depth {
        let level = 1_i64 << depth;
        let cell = (&tree * level + &node).view(-1);
        let totals = |of: &Tensor| count(&cell, of, trees * level).view([trees, level]);
        let (weight, sum) = (totals(&flat_weights), totals(&flat_weighted));
        let own = &sum / (&weight + growth.ridge).clamp_min(1e-12);
        // A node without rows has its parent's value.
        let value = match values.last() {
            Some(parent) => own.where_self(
                &weight.gt(0.0),
                &parent.repeat_interleave_self_int(2, 1, None),
            ),
            None => own,
        };
        values.push(value);
        if depth == growth.depth {
            break;
        }
        // The reduction of squared error by a split is the gain of this score over its children
        // (XGBoost, Chen and Guestrin 2016, equation 7).
        let score =
            |sum: &Tensor, weight: &Tensor| sum.square() / (weight + growth.ridge).clamp_min(1e-12);
        let tried = choose(trees, growth.tried.min(width), width, random).to_device(device);
        let first_bin = (&cell * bins).view([trees, n]);
        let mut gains = Vec::new();
        for place in 0..tried.size()[1] {
            let row_bins = binned.bins.index_select(0, &tried.select(1, place));
            let at = (&first_bin + row_bins).view(-1);
            let histogram = |of: &Tensor| {
                count(&at, of, trees * level * bins)
                    .view([trees, level, bins])
                    .cumsum(2, None::<Dtype>)
            };
            let (left, left_sum) = (histogram(&flat_weights), histogram(&flat_weighted));
            let (right, right_sum) = (weight.unsqueeze(2) - &left, sum.unsqueeze(2) - &left_sum);
            let gain = score(&left_sum, &left) + score(&right_sum, &right)
                - score(&sum, &weight).unsqueeze(2);
            let allowed = left.ge(growth.least).logical_and(&right.ge(growth.least));
            gains.push(gain.where_scalarother(&allowed, f64::NEG_INFINITY));
        }
        let (best, place) = Tensor::cat(&gains, 2).max_dim(2, false);
        let splits = best.gt(1e-9);
        // A node that does not split sends all rows left, since no bin is above the last.
        let place_of_feature = place
            .divide_scalar_mode(bins, "floor")
            .to_kind(Dtype::Int64);
        let feature = tried
            .gather(1, &place_of_feature, false)
            .where_scalarother(&splits, 0);
        let bin = place.remainder(bins).where_scalarother(&splits, bins);
        let row_bin = binned
            .bins
            .gather(0, &feature.gather(1, &node, false), false);
        let right = row_bin
            .gt_tensor(&bin.gather(1, &node, false))
            .to_kind(Dtype::Int64);
        node = node * 2 + right;
        features.push(feature);
        split_bins.push(bin);
    }
    let ends = values.last().map_or_else(
        || Tensor::zeros([trees, n], (Dtype::Double, device)),
        |last| last.gather(1, &node, false),
    );

    let list = |of: &[Tensor]| {
        Tensor::cat(of, 1)
            .to_device(Device::Cpu)
            .contiguous()
            .view(-1)
    };
    let (feature, bin): (Vec<i64>, Vec<i64>) = (
        Vec::try_from(list(&features))?,
        Vec::try_from(list(&split_bins))?,
    );
    nodes
        .feature
        .extend(feature.iter().map(|feature| *feature as i32));
    // A row goes right if its bin is above the split's, that is, if its value is above the upper
    // edge of the split's bin.
    let edge =
        |(feature, bin): (&i64, &i64)| binned.edges[*feature as usize].get(*bin as usize).copied();
    nodes.threshold.extend(
        feature
            .iter()
            .zip(&bin)
            .map(|split| edge(split).unwrap_or(f32::MAX)),
    );
    nodes.value.extend(Vec::<f64>::try_from(list(&values))?);
    Ok(ends)
}

/// Sums of values for each cell.
fn count(cell: &Tensor, of: &Tensor, cells: i64) -> Tensor {
    Tensor::zeros([cells], (of.kind(), of.device())).index_add_(0, cell, of)
}

/// From this many rows on, trees are grown one by one: a single tree then keeps a thread or a GPU
/// busy, and its tensors are large.
const MANY_ROWS: i64 = 1 << 17;

/// How trees are bagged.
#[derive(Debug, Clone, Copy)]
pub struct Bagging {
    /// Trees in all.
    pub trees: i64,
    /// Trees grown at once if rows are few; must divide `trees`.
    pub batch: i64,
    /// How they grow.
    pub growth: Growth,
}

/// A random forest for `target` `[n]`, and the mean prediction for each row of the trees that have
/// not seen the row's `owner`: a tree draws owners, not rows, so that all rows of an owner are in
/// or out together.
///
/// # Errors
/// [`LearnError`] if a tensor operation fails.
#[expect(
    clippy::too_many_lines,
    reason = "one loop over batches; the closure that grows one shares its tensors"
)]
pub fn bag(
    binned: &Binned,
    owner: &[u32],
    target: &[f64],
    Bagging {
        trees,
        batch,
        growth,
    }: Bagging,
    seed: u64,
    mut each: impl FnMut(u64),
) -> Result<(Forest, Vec<f64>), LearnError> {
    use rayon::prelude::*;
    let device = binned.bins.device();
    let batch = if binned.rows() < MANY_ROWS { batch } else { 1 };
    let owners = i64::from(owner.iter().max().copied().unwrap_or_default()) + 1;
    let owner = Tensor::from_slice(
        &owner
            .iter()
            .map(|owner| i64::from(*owner))
            .collect::<Vec<_>>(),
    );
    let target = Tensor::from_slice(target).to_device(device);
    let (mut sum, mut count) = (target.zeros_like(), target.zeros_like());
    let mut nodes = Nodes::default();
    let parts: Vec<_> = (0..(trees / batch) as u64)
        .map(|part| {
            (
                part,
                binned.shared(),
                owner.shallow_clone(),
                target.shallow_clone(),
            )
        })
        .collect();
    let mut parts = parts.into_iter().peekable();
    while parts.peek().is_some() {
        let together: Vec<_> = parts.by_ref().take(rayon::current_num_threads()).collect();
        let grown: Vec<_> = together
            .into_par_iter()
            .map(|(part, binned, owner, target)| -> Result<_, LearnError> {
                // Seeded by part, so that the forest does not depend on the number of threads.
                let (mut random, mut nodes) =
                    (Random::new(seed.wrapping_add(part << 32)), Nodes::default());
                // How often a tree draws an owner: Poisson with mean 1, the limit of the bootstrap.
                let draws: Vec<f64> = (0..batch * owners)
                    .map(|_| f64::from(random.poisson1()))
                    .collect();
                let weights = Tensor::from_slice(&draws)
                    .view([batch, owners])
                    .index_select(1, &owner)
                    .to_device(device);
                let ends = grow(
                    &binned,
                    &weights,
                    &(&weights * &target),
                    growth,
                    &mut random,
                    &mut nodes,
                )?;
                let unseen = weights.eq(0.0).to_kind(Dtype::Double);
                let over_trees =
                    |of: Tensor| of.sum_dim_intlist([0_i64].as_slice(), false, None::<Dtype>);
                Ok((nodes, over_trees(ends * &unseen), over_trees(unseen)))
            })
            .collect();
        for part in grown {
            let (part, unseen_sum, unseen_count): (Nodes, Tensor, Tensor) = part?;
            nodes.feature.extend(part.feature);
            nodes.threshold.extend(part.threshold);
            nodes.value.extend(part.value);
            sum += unseen_sum;
            count += unseen_count;
            each(batch as u64);
        }
    }
    let unseen = Vec::try_from((sum / count.clamp_min(1.0)).to_device(Device::Cpu))?;
    Ok((
        nodes.forest(binned.width() as usize, growth.depth, 1.0)?,
        unseen,
    ))
}

/// The features that each tree tries, without repetition, `[trees, tried]`.
fn choose(trees: i64, tried: i64, width: i64, random: &mut Random) -> Tensor {
    let mut chosen = Vec::new();
    let mut features: Vec<i64> = (0..width).collect();
    for _ in 0..trees {
        for at in 0..tried as usize {
            let other = at + random.below(features.len() - at);
            features.swap(at, other);
        }
        chosen.extend_from_slice(&features[..tried as usize]);
    }
    Tensor::from_slice(&chosen).view([trees, tried])
}

/// How an ensemble is boosted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boosting {
    pub(crate) rounds: u32,
    /// Learning rate: the factor of each tree's values.
    pub(crate) rate: f64,
    pub(crate) growth: Growth,
}

/// Boosts trees for the log-odds of `outcome` `[n]` of 0 and 1 (Friedman 2001, with Newton steps),
/// weighted by `weight` `[n]`. Returns the trees and a base: their sum plus the base is the
/// log-odds.
pub(crate) fn boost(
    binned: &Binned,
    outcome: &Tensor,
    weight: &Tensor,
    Boosting {
        rounds,
        rate,
        growth,
    }: Boosting,
    random: &mut Random,
    mut each: impl FnMut(),
) -> Result<(Forest, f64), LearnError> {
    let mean =
        ((outcome * weight).sum(None::<Dtype>) / weight.sum(None::<Dtype>)).clamp(1e-6, 1.0 - 1e-6);
    let base = mean.logit(None::<f64>).double_value(&[]);
    let mut score = Tensor::full_like(outcome, base);
    let mut nodes = Nodes::default();
    for _ in 0..rounds {
        let chance: Tensor = score.sigmoid();
        let slope = weight * (outcome - &chance);
        let curvature = (weight * (&chance - chance.square())).clamp_min(1e-9);
        let added = grow(
            binned,
            &curvature.unsqueeze(0),
            &slope.unsqueeze(0),
            growth,
            random,
            &mut nodes,
        )?;
        score += added.squeeze_dim(0) * rate;
        each();
    }
    Ok((
        nodes.forest(binned.width() as usize, growth.depth, rate)?,
        base,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROWTH: Growth = Growth {
        depth: 3,
        least: 5.0,
        ridge: 0.0,
        tried: 2,
    };

    fn stairs() -> (Vec<Vec<f32>>, Tensor) {
        let rows: Vec<Vec<f32>> = (0..400_u16)
            .map(|i| vec![f32::from(i % 20), f32::from(i % 7)])
            .collect();
        let outcome: Vec<f64> = (0..400).map(|i| f64::from(i % 20 > 9)).collect();
        (rows, Tensor::from_slice(&outcome))
    }

    #[test]
    fn a_tree_splits_where_the_outcome_changes() {
        let (rows, outcome) = stairs();
        let binned = Binned::of(
            &rows.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            64,
            Device::Cpu,
        );
        let (weights, mut nodes) = (Tensor::ones_like(&outcome).unsqueeze(0), Nodes::default());
        let ends = grow(
            &binned,
            &weights,
            &outcome.unsqueeze(0),
            GROWTH,
            &mut Random::new(1),
            &mut nodes,
        )
        .unwrap();
        assert_eq!((nodes.feature[0], nodes.threshold[0]), (0, 9.0));
        let forest = nodes.forest(2, 3, 1.0).unwrap();
        for (row, end) in rows
            .iter()
            .zip(Vec::<f64>::try_from(ends.squeeze_dim(0)).unwrap())
        {
            assert!(
                (forest.sum(row) - end).abs() < 1e-6
                    && (end - f64::from(row[0] > 9.0)).abs() < 1e-6
            );
        }
    }

    #[test]
    fn boosting_scores_as_it_was_trained_and_finds_the_outcome() {
        let (rows, outcome) = stairs();
        let binned = Binned::of(
            &rows.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            64,
            Device::Cpu,
        );
        let boosting = Boosting {
            rounds: 20,
            rate: 0.3,
            growth: Growth {
                ridge: 1.0,
                least: 1.0,
                ..GROWTH
            },
        };
        let weight = Tensor::ones_like(&outcome);
        let (forest, base) = boost(
            &binned,
            &outcome,
            &weight,
            boosting,
            &mut Random::new(1),
            || {},
        )
        .unwrap();
        for row in &rows {
            assert_eq!(forest.sum(row) + base > 0.0, row[0] > 9.0, "{row:?}");
        }
    }
}

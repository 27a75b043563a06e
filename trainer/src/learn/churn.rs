//! Churn: a random forest (Breiman 2001) on binned features, grown level by level with tensor operations for many trees
//! at once, and calibrated on customers whom each tree has not seen.
//!
//! Label: no purchase in the 90 days after a cut-off. Cut-offs from 90 to 180 days before the as-of time are stacked;
//! features come from lines before each, labels end by the as-of time. A tree draws customers, not rows: all cut-offs of
//! a customer are in or out together, so that the score by the trees that left them out is honest.

use polars::prelude::{DataFrame, IntoColumn, NamedFrom, Series};
use scoring::{
    Artifact, Gate, Metric, Model, ModelKind, TensorFile,
    churn::{self, Churn as Scorer, Feature, Forest, HORIZON_DAYS, Parameters, log_odds},
};
use tch::{Device, Kind as Dtype, Tensor};

use super::{
    Evaluation, LearnError, Learner, Training, known_recipe,
    lines::{DAY, Kind, Lines, seconds},
    parquet,
};

const TREES: i64 = 240;
/// Trees grown at once.
const BATCH: i64 = 24;
const DEPTH: u32 = 7;
const BINS: i64 = 32;
const LEAST_LEAF: f64 = 20.0;
/// Days before the as-of time on which customers are looked at.
const CUT_OFFS: [i64; 7] = [90, 105, 120, 135, 150, 165, 180];
/// Days of history that a cut-off needs.
const LEAST_HISTORY: i64 = 30;
const LEAST_CUSTOMERS: u64 = 100;
/// Above this, a feature has seen the answer.
const LEAK: f64 = 0.95;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Churn;

/// Customers at a cut-off.
struct Snapshot {
    customers: Vec<u32>,
    features: Vec<Vec<f32>>,
    /// Whether they bought nothing afterwards.
    churned: Vec<bool>,
}

struct Histories {
    lines: Lines,
    by_customer: Vec<Vec<churn::Line>>,
    first: i64,
}

impl Histories {
    fn of(training: &Training<'_>) -> Result<Self, LearnError> {
        let lines = Lines::of(training)?;
        let mut by_customer = vec![Vec::new(); lines.customers.len()];
        for line in &lines.lines {
            let Some(customer) = line.customer else { continue };
            if line.duplicate || line.kind == Kind::Other {
                // A line that stands twice was bought once; services and adjustments are no habits.
                continue;
            }
            by_customer[customer as usize].push(churn::Line {
                time: line.time,
                invoice: line.invoice.into(),
                product: line.product.into(),
                quantity: line.quantity as f64,
                amount: line.total(),
            });
        }
        let first = lines.lines.iter().map(|line| line.time).min().unwrap_or_default();
        Ok(Self { lines, by_customer, first })
    }

    fn at(&self, cut_off: i64) -> Snapshot {
        use rayon::prelude::*;
        let end = cut_off + HORIZON_DAYS * DAY;
        let known = self.by_customer.par_iter().enumerate().filter_map(|(customer, lines)| {
            let features = churn::features(lines, cut_off)?;
            let bought = lines.iter().any(|line| line.quantity > 0.0 && (cut_off..end).contains(&line.time));
            Some((customer as u32, features, !bought))
        });
        let mut snapshot = Snapshot { customers: Vec::new(), features: Vec::new(), churned: Vec::new() };
        for (customer, features, churned) in known.collect::<Vec<_>>() {
            snapshot.customers.push(customer);
            snapshot.features.push(features);
            snapshot.churned.push(churned);
        }
        snapshot
    }
}

impl Learner for Churn {
    const KIND: ModelKind = ModelKind::Churn;
    const RECIPES: &'static [&'static str] = &["forest"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = known_recipe::<Self>(training.recipe)?;
        let histories = Histories::of(training)?;
        let as_of = seconds(training.as_of);
        let snapshots: Vec<Snapshot> = CUT_OFFS
            .iter()
            .map(|days| as_of - days * DAY)
            .filter(|cut_off| cut_off - histories.first >= LEAST_HISTORY * DAY)
            .map(|cut_off| histories.at(cut_off))
            .collect();
        let found = snapshots.first().map_or(0, |snapshot| snapshot.customers.len() as u64);
        if found < LEAST_CUSTOMERS {
            let (model, needed, as_of) = (Self::KIND, LEAST_CUSTOMERS, training.as_of);
            return Err(LearnError::TooLittle { model, what: "customers 90 days", needed, found, as_of });
        }
        let grown = grow(&snapshots, histories.lines.customers.len(), training)?;

        let now = histories.at(as_of);
        let year = as_of - 365 * DAY;
        let mut annual = vec![0_i64; histories.lines.customers.len()];
        let mut country = vec![0; histories.lines.customers.len()];
        for line in &histories.lines.lines {
            let Some(customer) = line.customer else { continue };
            country[customer as usize] = line.country;
            if line.time >= year && line.kind != Kind::Other {
                annual[customer as usize] += line.total;
            }
        }
        let (inner, nodes) = ((1_usize << DEPTH) - 1, (2_usize << DEPTH) - 1);
        let trees = TREES as usize;
        let vectors: Vec<f32> = now.features.iter().flatten().copied().collect();
        let model = TensorFile::new()
            .with("feature", &[trees, inner], &grown.feature)
            .with("threshold", &[trees, inner], &grown.threshold)
            .with("value", &[trees, nodes], &grown.value)
            .with("customer", &[now.customers.len(), Feature::ALL.len()], &vectors);
        let text = |name: &str, of: &dyn Fn(u32) -> String| {
            Series::new(name.into(), now.customers.iter().map(|c| of(*c)).collect::<Vec<_>>()).into_column()
        };
        let annual: Vec<f64> = now.customers.iter().map(|c| annual[*c as usize] as f64 / super::lines::SCALE).collect();
        let mut customers = DataFrame::new_infer_height(vec![
            text("customer_id", &|c| histories.lines.customers.name(c).to_owned()),
            text("country", &|c| histories.lines.countries.name(country[c as usize]).to_owned()),
            Series::new("annual_value".into(), annual).into_column(),
        ])?;
        let parameters = Parameters {
            features: Feature::ALL.iter().map(|feature| feature.name().to_owned()).collect(),
            calibration: grown.calibration,
            levels: [0.4, 0.65],
        };
        Ok(Artifact::builder(Self::KIND, recipe, training.as_of, training.seed)
            .file("model.safetensors", model.into_bytes()?)
            .file("customers.parquet", parquet(&mut customers)?)
            .parameters(&parameters)?
            .trained_on("customers", found)
            .trained_on("cut-offs", snapshots.len() as u64)
            .finish())
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - chrono::Duration::days(HORIZON_DAYS);
        let scorer = Scorer::load(&Self::train(&training.as_of(earlier))?)?;
        let histories = Histories::of(training)?;
        let test = histories.at(seconds(earlier));
        let probability: Vec<f64> = test.features.iter().map(|features| scorer.probability(features)).collect();
        let recency: Vec<f64> = test.features.iter().map(|features| f64::from(features[0])).collect();
        let churned = &test.churned;
        let (area, naive) = (auc(&probability, churned), auc(&recency, churned));
        let rate = churned.iter().filter(|churned| **churned).count() as f64 / churned.len().max(1) as f64;
        let error = calibration_error(&probability, churned);
        let brier = mean(probability.iter().zip(churned).map(|(p, c)| (p - f64::from(u8::from(*c))).powi(2)));
        let loss = mean(probability.iter().zip(churned).map(|(p, c)| -(if *c { *p } else { 1.0 - p }).max(1e-12).ln()));
        let gate = |name: &str, passed: bool, detail: String| Gate { name: name.to_owned(), passed, detail };
        Ok(Evaluation {
            metrics: vec![
                Metric::against("auc", area, naive),
                Metric::against("brier", brier, rate * (1.0 - rate)),
                Metric::new("log_loss", loss),
                Metric::new("calibration_error", error),
                Metric::new("churn_rate", rate),
            ],
            gates: vec![
                gate(
                    "it ranks better than days since the last order",
                    area > naive,
                    format!("AUC {area:.3} against {naive:.3}"),
                ),
                gate("no feature has seen the answer", area < LEAK, format!("AUC {area:.3}; {LEAK} would be too good")),
                gate(
                    "probabilities mean what they say",
                    error < 0.15,
                    format!("expected calibration error {error:.3}; 0.150 is the most"),
                ),
            ],
        })
    }
}

/// Trees in the layout of [`Forest`].
struct Grown {
    feature: Vec<i32>,
    threshold: Vec<f32>,
    value: Vec<f32>,
    calibration: [f64; 2],
}

fn grow(snapshots: &[Snapshot], customers: usize, training: &Training<'_>) -> Result<Grown, LearnError> {
    tch::manual_seed(training.seed.cast_signed());
    let rows: Vec<(u32, &Vec<f32>, bool)> = snapshots
        .iter()
        .flat_map(|s| s.customers.iter().zip(&s.features).zip(&s.churned).map(|((c, x), y)| (*c, x, *y)))
        .collect();
    let edges = edges(rows.iter().map(|row| row.1.as_slice()));
    let width = Feature::ALL.len();
    let binned: Vec<i64> = rows
        .iter()
        .flat_map(|(_, x, _)| {
            x.iter().zip(&edges).map(|(x, edges)| edges.partition_point(|edge| x > edge) as i64).collect::<Vec<_>>()
        })
        .collect();
    let device = training.device;
    let n = rows.len() as i64;
    let bins = Tensor::from_slice(&binned).reshape([n, width as i64]).to_device(device);
    let labels =
        Tensor::from_slice(&rows.iter().map(|row| f64::from(u8::from(row.2))).collect::<Vec<_>>()).to_device(device);
    let owner = Tensor::from_slice(&rows.iter().map(|row| i64::from(row.0)).collect::<Vec<_>>());

    training.progress.begin("train churn: trees", Some(TREES as u64));
    let mut grown = Grown { feature: Vec::new(), threshold: Vec::new(), value: Vec::new(), calibration: [1.0, 0.0] };
    let (mut unseen_sum, mut unseen_count) =
        (Tensor::zeros([n], (Dtype::Double, device)), Tensor::zeros([n], (Dtype::Double, device)));
    for _ in 0..TREES / BATCH {
        // How often a tree has drawn a customer: Poisson with mean 1, the bootstrap of a large sample.
        let draws = Tensor::ones([BATCH, customers as i64], (Dtype::Double, Device::Cpu)).poisson();
        let weights = draws.index_select(1, &owner).to_device(device);
        let batch = batch(&bins, &labels, &weights, device);
        let leaves = batch.values.gather(1, &batch.leaf, false);
        let unseen = weights.eq(0.0).to_kind(Dtype::Double);
        unseen_sum += (&leaves * &unseen).sum_dim_intlist([0_i64].as_slice(), false, None::<Dtype>);
        unseen_count += unseen.sum_dim_intlist([0_i64].as_slice(), false, None::<Dtype>);

        let feature: Vec<i64> = Vec::try_from(batch.feature.to_device(Device::Cpu).contiguous().view(-1))?;
        let bin: Vec<i64> = Vec::try_from(batch.bin.to_device(Device::Cpu).contiguous().view(-1))?;
        let value: Vec<f64> = Vec::try_from(batch.values.to_device(Device::Cpu).contiguous().view(-1))?;
        grown.feature.extend(feature.iter().map(|feature| *feature as i32));
        // A row goes right where its bin is above the split's, that is, its value above the split bin's upper edge.
        let threshold =
            |(feature, bin): (&i64, &i64)| edges[*feature as usize].get(*bin as usize).copied().unwrap_or(f32::MAX);
        grown.threshold.extend(feature.iter().zip(&bin).map(threshold));
        grown.value.extend(value.iter().map(|value| value.clamp(0.0, 1.0) as f32));
        training.progress.advance(BATCH as u64);
    }
    training.progress.end();

    // The latest cut-off is the nearest in season to the time that is forecast.
    let latest = snapshots.first().map_or(0, |snapshot| snapshot.customers.len());
    let unseen: Vec<f64> = Vec::try_from((unseen_sum / unseen_count.clamp_min(1.0)).to_device(Device::Cpu))?;
    let scores: Vec<f64> = unseen.iter().take(latest).copied().collect();
    let churned: Vec<bool> = rows.iter().take(latest).map(|row| row.2).collect();
    grown.calibration = platt(&scores, &churned);
    // What serving relies on is checked here as well.
    Forest::new(TREES as usize, DEPTH, grown.feature.clone(), grown.threshold.clone(), grown.value.clone())?;
    Ok(grown)
}

/// Upper edges of all bins but the last, by feature: quantiles of its values, each once.
fn edges<'a>(rows: impl Iterator<Item = &'a [f32]>) -> Vec<Vec<f32>> {
    let rows: Vec<&[f32]> = rows.collect();
    (0..Feature::ALL.len())
        .map(|feature| {
            let mut values: Vec<f32> = rows.iter().map(|row| row[feature]).collect();
            values.sort_by(f32::total_cmp);
            let mut edges: Vec<f32> =
                (1..BINS as usize).map(|bin| values[bin * values.len() / BINS as usize]).collect();
            edges.dedup();
            // Nothing lies above the highest value.
            edges.retain(|edge| Some(edge) != values.last());
            edges
        })
        .collect()
}

struct Batch {
    /// `[trees, inner]`
    feature: Tensor,
    /// `[trees, inner]`; rows with a higher bin go right.
    bin: Tensor,
    /// `[trees, nodes]`
    values: Tensor,
    /// `[trees, n]`: the node in which a row ends.
    leaf: Tensor,
}

/// Grows trees on `bins` `[n, F]`, `labels` `[n]`, `weights` `[trees, n]`. Each level is one histogram over (tree, node,
/// feature, bin), from which the best split by Gini impurity among sqrt(F) random features is taken for every node.
fn batch(bins: &Tensor, labels: &Tensor, weights: &Tensor, device: Device) -> Batch {
    let (n, width, trees) = (bins.size()[0], bins.size()[1], weights.size()[0]);
    let double = (Dtype::Double, device);
    let tried = ((width as f64).sqrt().ceil() as i64 + 1).min(width);
    let positive = weights * labels;
    let tree_offset = Tensor::arange(trees, (Dtype::Int64, device)).unsqueeze(1);
    // Node of each row within its level.
    let mut node = Tensor::zeros([trees, n], (Dtype::Int64, device));
    let (mut features, mut split_bins, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut inherited: Option<Tensor> = None;
    for depth in 0..=DEPTH {
        let nodes = 1_i64 << depth;
        let cell = (&tree_offset * nodes + &node).view(-1);
        let totals =
            |of: &Tensor| Tensor::zeros([trees * nodes], double).index_add(0, &cell, &of.view(-1)).view([trees, nodes]);
        let (weight, churned) = (totals(weights), totals(&positive));
        let own = &churned / weight.clamp_min(1e-9);
        // A node without rows says what its parent says.
        let value = match &inherited {
            Some(parent) => own.where_self(&weight.gt(0.0), &parent.repeat_interleave_self_int(2, 1, None)),
            None => own,
        };
        values.push(value.shallow_clone());
        inherited = Some(value);
        if depth == DEPTH {
            break;
        }
        // [trees, nodes, F, bins]
        let size = [trees * nodes * BINS];
        let mut gains = Vec::with_capacity(width as usize);
        for feature in 0..width {
            let at = &cell * BINS + bins.select(1, feature).unsqueeze(0).expand([trees, n], false).reshape(-1);
            let histogram =
                |of: &Tensor| Tensor::zeros(size, double).index_add(0, &at, &of.view(-1)).view([trees, nodes, BINS]);
            let (left, left_churned) =
                (histogram(weights).cumsum(2, None::<Dtype>), histogram(&positive).cumsum(2, None::<Dtype>));
            let (all, all_churned) = (weight.unsqueeze(2), churned.unsqueeze(2));
            let (right, right_churned) = (&all - &left, &all_churned - &left_churned);
            // Gini gain up to constants: the squares' sum over the sizes.
            let score = |w: &Tensor, c: &Tensor| (c.square() + (w - c).square()) / w.clamp_min(1e-9);
            let gain = score(&left, &left_churned) + score(&right, &right_churned) - score(&all, &all_churned);
            let allowed = left.ge(LEAST_LEAF).logical_and(&right.ge(LEAST_LEAF));
            gains.push(gain.where_scalarother(&allowed, f64::NEG_INFINITY));
        }
        let gains = Tensor::stack(&gains, 2);
        let order = Tensor::rand([trees, nodes, width], (Dtype::Double, Device::Cpu)).to_device(device);
        let limit = order.sort(2, false).0.select(2, tried - 1).unsqueeze(2);
        let gains = gains.where_scalarother(&order.le_tensor(&limit).unsqueeze(3), f64::NEG_INFINITY);
        let (best, place) = gains.view([trees, nodes, width * BINS]).max_dim(2, false);
        let splits = best.gt(1e-9);
        let feature = place.divide_scalar_mode(BINS, "floor").to_kind(Dtype::Int64);
        // A node that does not split sends all its rows left: no bin is above the last.
        let bin = place.remainder(BINS).where_scalarother(&splits, BINS);
        let feature = feature.where_scalarother(&splits, 0);
        let row_feature = feature.gather(1, &node, false);
        let row_bin = bins.transpose(0, 1).gather(0, &row_feature, false);
        let right = row_bin.gt_tensor(&bin.gather(1, &node, false)).to_kind(Dtype::Int64);
        node = node * 2 + right;
        features.push(feature);
        split_bins.push(bin);
    }
    let leaf = node + ((1_i64 << DEPTH) - 1);
    Batch {
        feature: Tensor::cat(&features, 1),
        bin: Tensor::cat(&split_bins, 1),
        values: Tensor::cat(&values, 1),
        leaf,
    }
}

/// Slope and intercept of a logistic regression of the outcome on the scores' log-odds (Platt 1999), by Newton's method.
fn platt(scores: &[f64], churned: &[bool]) -> [f64; 2] {
    let points: Vec<(f64, f64)> =
        scores.iter().zip(churned).map(|(s, c)| (log_odds(*s), f64::from(u8::from(*c)))).collect();
    let mut w = [1.0, 0.0];
    for _ in 0..50 {
        // A ridge as light as one customer keeps the slope finite where scores separate the outcomes.
        let (mut g, mut h) = ([w[0] - 1.0, 0.0], [[1.0, 0.0], [0.0, 1e-6]]);
        for (x, y) in &points {
            let p = 1.0 / (1.0 + (-(w[0] * x + w[1])).exp());
            let v = p * (1.0 - p);
            g[0] += (p - y) * x;
            g[1] += p - y;
            h[0][0] += v * x * x;
            h[0][1] += v * x;
            h[1][1] += v;
        }
        let determinant = h[0][0] * h[1][1] - h[0][1] * h[0][1];
        if determinant.abs() < 1e-12 {
            break;
        }
        let step = [(h[1][1] * g[0] - h[0][1] * g[1]) / determinant, (h[0][0] * g[1] - h[0][1] * g[0]) / determinant];
        w = [w[0] - step[0], w[1] - step[1]];
        if step.iter().all(|s| s.abs() < 1e-10) {
            break;
        }
    }
    if w.iter().all(|w| w.is_finite()) && w[0] > 0.0 { w } else { [1.0, 0.0] }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    if n > 0.0 { sum / n } else { 0.0 }
}

/// Area under the ROC curve: the chance that a churned customer scores above one who stayed, ties half.
fn auc(scores: &[f64], positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut ranks, mut at) = (0.0, 0);
    while at < order.len() {
        let end = order[at..].iter().position(|i| scores[*i] != scores[order[at]]).map_or(order.len(), |n| at + n);
        let rank = (at + end + 1) as f64 / 2.0;
        ranks += rank * order[at..end].iter().filter(|i| positive[**i]).count() as f64;
        at = end;
    }
    let p = positive.iter().filter(|positive| **positive).count() as f64;
    let n = positive.len() as f64 - p;
    if p == 0.0 || n == 0.0 { 0.5 } else { (ranks - p * (p + 1.0) / 2.0) / (p * n) }
}

/// Expected calibration error in ten bins of equal width.
fn calibration_error(probability: &[f64], churned: &[bool]) -> f64 {
    let mut bins = [(0.0, 0.0, 0.0); 10];
    for (p, c) in probability.iter().zip(churned) {
        let bin = &mut bins[((p * 10.0) as usize).min(9)];
        *bin = (bin.0 + p, bin.1 + f64::from(u8::from(*c)), bin.2 + 1.0);
    }
    bins.iter().map(|(p, c, _)| (p - c).abs()).sum::<f64>() / probability.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use scoring::churn::calibrate;

    use super::*;

    #[test]
    fn auc_counts_pairs_in_the_right_order() {
        for (scores, auc_is) in
            [([0.1, 0.4, 0.35, 0.8], 0.75), ([0.5, 0.5, 0.5, 0.5], 0.5), ([0.1, 0.2, 0.3, 0.4], 1.0)]
        {
            assert_eq!(auc(&scores, &[false, false, true, true]), auc_is, "{scores:?}");
        }
    }

    #[test]
    fn platt_finds_the_slope_that_made_the_outcomes() {
        let scores: Vec<f64> = (0..4000).map(|i| 0.05 + 0.9 * f64::from(i % 100) / 100.0).collect();
        let churned: Vec<bool> =
            scores.iter().enumerate().map(|(i, s)| calibrate([0.5, -1.0], *s) > (i / 100) as f64 / 40.0).collect();
        let [slope, intercept] = platt(&scores, &churned);
        assert!((slope - 0.5).abs() < 0.1 && (intercept + 1.0).abs() < 0.1, "{slope} {intercept}");
    }

    #[test]
    fn a_tree_splits_where_the_outcome_changes() {
        let n = 400;
        let bins = Tensor::arange(n, (Dtype::Int64, Device::Cpu)).remainder(20).unsqueeze(1);
        let labels = bins.squeeze_dim(1).gt(9).to_kind(Dtype::Double);
        let batch = batch(&bins, &labels, &Tensor::ones([1, n], (Dtype::Double, Device::Cpu)), Device::Cpu);
        assert_eq!((batch.feature.int64_value(&[0, 0]), batch.bin.int64_value(&[0, 0])), (0, 9));
        let scores = batch.values.gather(1, &batch.leaf, false).squeeze_dim(0);
        assert!((scores - labels).abs().max().double_value(&[]) < 1e-9);
    }
}

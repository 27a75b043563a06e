//! Tiers of forecast spend: what each customer spends in the next 90 days, by regression forests
//! and a ridge on the features of `scoring::customer`, cut into six tiers.

use std::collections::HashMap;

use lake::Random;
use scoring::{
    Forest, Model, ModelKind, TensorFile,
    segmentation::{Cuts, Placement, RFM, SegmentationModel, Space, Spend, tier},
};
use tch::{Kind as Dtype, Tensor};

use super::{
    k_means::{standard, standard_tensor},
    rows::{Placed, Row},
};
use crate::learn::{
    LearnError, Training,
    customers::{Customers, Snapshot, Study, standardised, terms},
    forest::{Bagging, Binned, Growth, Nodes, bag, grow},
    linear,
    lines::DAY,
    statistics::{deviation, nearest_quantile, sorted},
};

/// Bins of a feature.
const BINS: i64 = 64;
const BAGGING: Bagging = Bagging {
    trees: 192,
    batch: 24,
    growth: Growth {
        depth: 8,
        least: 20.0,
        ridge: 0.0,
        tried: 40,
    },
};
/// Ridge of the linear forecast's weights.
const RIDGE: f64 = 300.0;
/// Folds of customers in which the linear forecast is held out.
const FOLDS: u32 = 5;
/// The quantile at which spend is capped, so that a single wholesaler does not decide the forecast.
pub(super) const CAP: f64 = 0.99;
/// Shares of customers below each tier but the lowest.
const SHARES: [f64; 5] = [0.30, 0.55, 0.75, 0.90, 0.98];
/// Standard deviations of the forecasts by which an inactive customer's forecast must be beyond the
/// border of its tier before the customer changes tier.
const MARGIN: f64 = 0.25;
/// Trees that place a customer by recency, frequency and monetary value alone.
const PLACING_TREES: i64 = 24;
const PLACING: Growth = Growth {
    depth: 6,
    least: 10.0,
    ridge: 0.0,
    tried: 2,
};

/// Tiers of forecast spend. The cuts are quantiles of the forecasts of the latest past snapshot,
/// each by learners that have not seen the customer: they shrink towards the mean as much as the
/// forecasts of the as-of time do, which are to be cut.
pub(super) fn tiers(rows: &mut Vec<Row>, training: &Training<'_>) -> Result<Placed, LearnError> {
    let customers = Customers::of(training)?;
    let study = customers.study(ModelKind::Segmentation, training)?;
    let Forecasts { past, now } = forecasts(&study, training)?;
    let quantile_of =
        |of: fn(&Spend) -> f64, q: f64| nearest_quantile(&sorted(past.iter().map(of)), q);
    let cuts = Cuts {
        typical: [0, 1, 2, 3].map(|at| quantile_of(|spend| spend.typical, SHARES[at])),
        average: quantile_of(|spend| spend.average, SHARES[4]),
    };
    let names = study
        .now
        .customers
        .iter()
        .map(|customer| customers.lines.customers.name(*customer));
    let mut by_name: HashMap<&str, Spend> = names.zip(now).collect();
    rows.retain(|row| by_name.contains_key(row.customer_id.as_str()));
    let now: Vec<Spend> = rows
        .iter()
        .filter_map(|row| by_name.remove(row.customer_id.as_str()))
        .collect();
    let spread = Spend {
        typical: deviation(now.iter().map(|s| s.typical)),
        average: deviation(now.iter().map(|s| s.average)),
    };
    let placed = place(rows, &now, &cuts, &spread, training);
    let model = placing_trees(rows, &now, training)?;
    let points: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| Space::LogRfm.coordinates(row.rfm))
        .collect();
    let (mean, scale) = standard(&points);
    Ok(Placed {
        placement: Placement::Tiers(cuts),
        model,
        placed,
        forecasts: now.into_iter().map(Some).collect(),
        x: standard_tensor(&points, &mean, &scale, training.device),
    })
}

/// The tier of each customer: by the forecast, unless an inactive customer keeps the tier of the
/// published version.
fn place(
    rows: &[Row],
    now: &[Spend],
    cuts: &Cuts,
    spread: &Spend,
    training: &Training<'_>,
) -> Vec<usize> {
    let previous = training.previous.and_then(|artifact| {
        let model = SegmentationModel::load(artifact).ok()?;
        let since = training.as_of - artifact.manifest().as_of;
        Some((model, since.num_seconds() as f64 / DAY as f64))
    });
    let place = |(row, spend): (&Row, &Spend)| {
        let fresh = tier(spend.typical, spend.average, cuts);
        let kept = previous
            .as_ref()
            .and_then(|(model, days)| kept(model, row, *days));
        match kept {
            Some(before) if near(before, spend, cuts, spread) => before,
            Some(_) | None => fresh,
        }
    };
    rows.iter().zip(now).map(place).collect()
}

/// Trees that place a customer by recency, frequency and monetary value alone, for customers that
/// the model does not know.
fn placing_trees(
    rows: &[Row],
    now: &[Spend],
    training: &Training<'_>,
) -> Result<TensorFile, LearnError> {
    let vectors: Vec<[f32; RFM]> = rows.iter().map(|row| row.rfm.vector()).collect();
    let binned = Binned::of(
        &vectors
            .iter()
            .map(<[f32; RFM]>::as_slice)
            .collect::<Vec<_>>(),
        BINS,
        training.device,
    );
    let learn = |of: fn(&Spend) -> f64| -> Result<Forest, LearnError> {
        let target =
            Tensor::from_slice(&now.iter().map(of).collect::<Vec<_>>()).to_device(training.device);
        let weights = Tensor::ones(
            [PLACING_TREES, rows.len() as i64],
            (Dtype::Double, training.device),
        );
        let mut nodes = Nodes::default();
        let _ends = grow(
            &binned,
            &weights,
            &(&weights * &target),
            PLACING,
            &mut Random::new(training.seed),
            &mut nodes,
        )?;
        Ok(nodes.forest(RFM, PLACING.depth, 1.0)?)
    };
    let model = learn(|spend| spend.typical)?.write(TensorFile::new(), "typical.");
    Ok(learn(|spend| spend.average)?.write(model, "average."))
}

/// The customer's segment in the published version, if the customer has had no line since.
fn kept(previous: &SegmentationModel, row: &Row, days: f64) -> Option<usize> {
    let before = previous.customer(&row.customer_id)?;
    let forecasting = matches!(previous.parameters().placement, Placement::Tiers(_));
    let same = before.rfm.frequency == row.rfm.frequency
        && (before.rfm.monetary - row.rfm.monetary).abs() < 0.005
        && (before.rfm.recency_days + days - row.rfm.recency_days).abs() < 1e-3;
    (forecasting && days >= 0.0 && same).then_some(before.segment)
}

/// Whether a forecast lies within a tier or at most [`MARGIN`] beyond its borders.
fn near(place: usize, spend: &Spend, cuts: &Cuts, spread: &Spend) -> bool {
    let moved = |sign: f64| {
        tier(
            spend.typical + sign * MARGIN * spread.typical,
            spend.average + sign * MARGIN * spread.average,
            cuts,
        )
    };
    (moved(1.0)..=moved(-1.0)).contains(&place)
}

/// Forecasts of spend.
struct Forecasts {
    /// Of the latest past snapshot, by learners that have not seen the customer.
    past: Vec<Spend>,
    /// Of the as-of time.
    now: Vec<Spend>,
}

/// Forecasts of the next 90 days' spend: `typical`, the mean of a forest's and a ridge's log spend;
/// `average`, the logarithm of the mean that a forest forecasts of the capped spend.
#[expect(
    clippy::too_many_lines,
    reason = "two forests and a ridge over the same rows, and the forecast that joins them"
)]
fn forecasts(study: &Study, training: &Training<'_>) -> Result<Forecasts, LearnError> {
    let rows: Vec<(u32, &[f32], f64)> = study.rows().collect();
    let latest = study
        .past
        .first()
        .map_or(0, |snapshot| snapshot.customers.len());
    let cap = nearest_quantile(&sorted(rows.iter().map(|row| row.2)), CAP);
    let logs: Vec<f64> = rows.iter().map(|row| row.2.ln_1p()).collect();
    let capped: Vec<f64> = rows.iter().map(|row| row.2.min(cap)).collect();

    let binned = Binned::of(
        &rows.iter().map(|row| row.1).collect::<Vec<_>>(),
        BINS,
        training.device,
    );
    training
        .progress
        .begin("train segmentation: trees", Some(2 * BAGGING.trees as u64));
    let owner: Vec<u32> = rows.iter().map(|row| row.0).collect();
    let forest = |target: &[f64]| {
        bag(&binned, &owner, target, BAGGING, training.seed, |trees| {
            training.progress.advance(trees)
        })
    };
    let (typical, unseen_typical) = forest(&logs)?;
    let (average, unseen_average) = forest(&capped)?;
    training.progress.end();

    let terms = terms(study);
    let x = standardised(rows.iter().map(|row| row.1), &terms, training.device);
    let y = Tensor::from_slice(&logs).to_device(training.device);
    let line = |of: &[f32], (weights, intercept): &linear::Weights| {
        intercept
            + terms
                .iter()
                .zip(of)
                .zip(weights)
                .map(|((term, x), w)| w * term.standard(*x))
                .sum::<f64>()
    };
    let mut unseen_line = vec![0.0; latest];
    for fold in 0..FOLDS {
        let others: Vec<i64> = (0..rows.len())
            .filter(|at| rows[*at].0 % FOLDS != fold)
            .map(|at| at as i64)
            .collect();
        let others = Tensor::from_slice(&others).to_device(training.device);
        let fitted = linear::ridge(
            &x.index_select(0, &others),
            &y.index_select(0, &others),
            RIDGE,
        )?;
        for at in (0..latest).filter(|at| rows[*at].0 % FOLDS == fold) {
            unseen_line[at] = line(rows[at].1, &fitted);
        }
    }
    let fitted = linear::ridge(&x, &y, RIDGE)?;
    let spend = |typical: f64, line: f64, average: f64| Spend {
        typical: f64::midpoint(typical, line),
        average: average.max(0.0).ln_1p(),
    };
    let past = (0..latest)
        .map(|at| spend(unseen_typical[at], unseen_line[at], unseen_average[at]))
        .collect();
    let Snapshot { features, .. } = &study.now;
    let of = |forest: &Forest, x: &[f32]| forest.sum(x) / forest.trees() as f64;
    let now = features
        .iter()
        .map(|x| spend(of(&typical, x), line(x, &fitted), of(&average, x)))
        .collect();
    Ok(Forecasts { past, now })
}

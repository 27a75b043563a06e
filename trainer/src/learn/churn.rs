//! Churn: a random forest (Breiman 2001) and a ridge logit, blended half and half in log-odds, and
//! calibrated on customers whom neither has seen.
//!
//! Label: no purchase in the 90 days after a cut-off. Cut-offs from 90 to 180 days before the as-of
//! time are stacked; features come from lines before each, labels end by the as-of time. Trees draw
//! customers, not rows: all cut-offs of a customer are in or out together, so that the score by the
//! trees that left them out is honest; the logit is held out in fifths of the customers.
//!
//! The level is that of the past cut-offs, moved by the season: churn falls where the next 90 days
//! bring more orders than those that were learnt from (`Customers::season`). A customer who buys at
//! the rate `r` does not buy with probability `e^-r`; a season that brings `f` times the orders
//! makes that `e^-fr`, the `f`-th power.

use polars::prelude::{DataFrame, IntoColumn, NamedFrom, Series};
use scoring::{
    Artifact, Gate, Metric, Model, ModelKind, TensorFile,
    churn::{
        self, Blend, CalibrationBin, Churn as Scorer, HORIZON_DAYS, Logit, Parameters, Term, WIDTH,
        probability,
    },
    customer::Feature,
};
use tch::Tensor;

use super::{
    Evaluation, LearnError, Learner, Training,
    customers::{Customers, Study, standardised, terms},
    forest::{Bagging, Binned, Growth, bag},
    kept, known_recipe, linear,
    lines::{DAY, Kind, Lines, seconds},
    parquet,
};

/// Bins of a feature.
const BINS: i64 = 64;
const BAGGING: Bagging = Bagging {
    trees: 240,
    batch: 24,
    growth: Growth {
        depth: 8,
        least: 20.0,
        ridge: 0.0,
        tried: 18,
    },
};
/// Ridge of the logit's weights.
const RIDGE: f64 = 50.0;
/// Parts of the customers that the logit is held out on.
const FOLDS: u32 = 5;
/// Above this, a feature has seen the answer.
const LEAK: f64 = 0.95;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Churn;

impl Learner for Churn {
    const KIND: ModelKind = ModelKind::Churn;
    const RECIPES: &'static [&'static str] = &["blend"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = known_recipe::<Self>(training.recipe)?;
        let customers = Customers::of(training)?;
        let study = customers.study(Self::KIND, training)?;
        let (blend, mut parameters) = learn(&study, training)?;
        parameters.season = season(&study, &blend, &parameters, customers.season());

        let now = &study.now;
        let (lines, as_of) = (&customers.lines, seconds(training.as_of));
        let mut annual = vec![0_i64; lines.customers.len()];
        let country = countries(lines);
        for line in &lines.lines {
            let Some(customer) = line.customer else {
                continue;
            };
            if line.time >= as_of - 365 * DAY && (line.is_paid() || line.kind == Kind::Cancellation)
            {
                annual[customer as usize] += line.total;
            }
        }
        let vectors: Vec<f32> = now.features.iter().flatten().copied().collect();
        let model = blend
            .logit
            .write(blend.forest.write(TensorFile::new(), ""))
            .with("customer", &[now.customers.len(), WIDTH], &vectors);
        let text = |name: &str, of: &dyn Fn(u32) -> String| {
            Series::new(
                name.into(),
                now.customers.iter().map(|c| of(*c)).collect::<Vec<_>>(),
            )
            .into_column()
        };
        let annual: Vec<f64> = now
            .customers
            .iter()
            .map(|c| annual[*c as usize] as f64 / super::lines::SCALE)
            .collect();
        let mut table = DataFrame::new_infer_height(vec![
            text("customer_id", &|c| lines.customers.name(c).to_owned()),
            text("country", &|c| {
                country[c as usize]
                    .map(|country| lines.countries.name(country).to_owned())
                    .unwrap_or_default()
            }),
            Series::new("annual_value".into(), annual).into_column(),
        ])?;
        let artifact = Artifact::builder(Self::KIND, recipe, training.as_of, training.seed)
            .file("model.safetensors", model.into_bytes()?)
            .file("customers.parquet", parquet(&mut table)?)
            .parameters(&parameters)?
            .trained_on("customers", now.customers.len() as u64)
            .trained_on("cut-offs", study.past.len() as u64);
        // As they are served.
        let scorer = Scorer::load(&artifact.clone().finish())?;
        let customers = scorer.customers();
        let artifact = Feature::ALL
            .iter()
            .enumerate()
            .fold(artifact, |artifact, (at, feature)| {
                artifact.distribution(
                    feature.name(),
                    customers
                        .iter()
                        .map(|customer| customer.features[at].into()),
                )
            });
        Ok(artifact
            .distribution(
                "probability",
                customers.iter().map(|customer| customer.probability),
            )
            .finish())
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - chrono::Duration::days(HORIZON_DAYS);
        let scorer = Scorer::load(&Self::train(&training.as_of(earlier))?)?;
        let customers = Customers::of(training)?;
        let next = customers.next_spend(earlier);
        let known = scorer
            .customers()
            .iter()
            .filter_map(|customer| Some((customer, next.get(customer.id.as_str())?)));
        let (mut probability, mut parts, mut churned) =
            (Vec::new(), [Vec::new(), Vec::new(), Vec::new()], Vec::new());
        for (customer, spend) in known {
            probability.push(customer.probability);
            parts[0].push(f64::from(customer.features[0]));
            parts[1].push(scorer.blend().share(&customer.features));
            parts[2].push(scorer.blend().logit.score(&customer.features));
            churned.push(*spend == 0.0);
        }
        let churned = &churned;
        let [recency, forest, logit] = parts.map(|scores| auc(&scores, churned));
        let (area, naive) = (auc(&probability, churned), recency);
        let rate =
            churned.iter().filter(|churned| **churned).count() as f64 / churned.len().max(1) as f64;
        let bins = CalibrationBin::tenths(&probability, churned);
        let error = calibration_error(&bins);
        let brier = mean(
            probability
                .iter()
                .zip(churned)
                .map(|(p, c)| (p - f64::from(u8::from(*c))).powi(2)),
        );
        let loss = mean(
            probability
                .iter()
                .zip(churned)
                .map(|(p, c)| -(if *c { *p } else { 1.0 - p }).max(1e-12).ln()),
        );
        let gate = |name: &str, passed: bool, detail: String| Gate {
            name: name.to_owned(),
            passed,
            detail,
        };
        Ok(Evaluation {
            metrics: vec![
                Metric::against("auc", area, naive),
                Metric::new("auc_forest", forest),
                Metric::new("auc_logit", logit),
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
                gate(
                    "no feature has seen the answer",
                    area < LEAK,
                    format!("AUC {area:.3}; {LEAK} would be too good"),
                ),
                gate(
                    "probabilities mean what they say",
                    error < 0.15,
                    format!("expected calibration error {error:.3}; 0.150 is the most"),
                ),
            ],
            backtest: kept(&bins)?,
        })
    }
}

/// Where each customer's latest purchase went to; of several at once, the last of the input.
fn countries(lines: &Lines) -> Vec<Option<u32>> {
    let mut latest = vec![None; lines.customers.len()];
    for line in lines.lines.iter().filter(|line| line.is_paid()) {
        let Some(customer) = line.customer else {
            continue;
        };
        let latest = &mut latest[customer as usize];
        *latest = Some((line.time, line.id, line.country)).max(*latest);
    }
    latest
        .into_iter()
        .map(|latest| latest.map(|(.., country)| country))
        .collect()
}

/// Forest, logit and calibration; the season is left at 0.
fn learn(study: &Study, training: &Training<'_>) -> Result<(Blend, Parameters), LearnError> {
    let device = training.device;
    let rows: Vec<(u32, &[f32], f64)> = study.rows().collect();
    let churned: Vec<f64> = rows
        .iter()
        .map(|row| f64::from(u8::from(row.2 == 0.0)))
        .collect();
    let labels = Tensor::from_slice(&churned).to_device(device);

    let binned = Binned::of(
        &rows.iter().map(|row| row.1).collect::<Vec<_>>(),
        BINS,
        device,
    );
    let owner: Vec<u32> = rows.iter().map(|row| row.0).collect();
    training
        .progress
        .begin("train churn: trees", Some(BAGGING.trees as u64));
    let (forest, share) = bag(&binned, &owner, &churned, BAGGING, training.seed, |trees| {
        training.progress.advance(trees)
    })?;
    training.progress.end();

    let terms = terms(study);
    let x = standardised(rows.iter().map(|row| row.1), &terms, device);
    let fit = |x: &Tensor, labels: &Tensor| -> Result<Logit, LearnError> {
        let (weights, intercept) = linear::logit(x, labels, RIDGE)?;
        let terms = terms
            .iter()
            .zip(weights)
            .map(|(term, weight)| Term { weight, ..*term })
            .collect();
        Ok(Logit { terms, intercept })
    };
    let mut scores = vec![0.0; rows.len()];
    for fold in 0..FOLDS {
        let places = |held: bool| -> Vec<i64> {
            (0..rows.len())
                .filter(|at| (rows[*at].0 % FOLDS == fold) == held)
                .map(|at| at as i64)
                .collect()
        };
        let kept = Tensor::from_slice(&places(false)).to_device(device);
        let logit = fit(&x.index_select(0, &kept), &labels.index_select(0, &kept))?;
        for at in places(true) {
            scores[at as usize] =
                churn::score(share[at as usize], logit.score(rows[at as usize].1));
        }
    }
    let outcomes: Vec<bool> = churned.iter().map(|churned| *churned > 0.5).collect();
    let logit = fit(&x, &labels)?;
    let parameters = Parameters {
        features: Feature::ALL
            .iter()
            .map(|feature| feature.name().to_owned())
            .collect(),
        calibration: platt(&scores, &outcomes),
        season: 0.0,
        intercept: logit.intercept,
        levels: [0.4, 0.65],
    };
    Ok((Blend { forest, logit }, parameters))
}

/// What to add to all log-odds so that the customers of the as-of time churn, on average, as those
/// of the past cut-offs did, moved by the season.
fn season(study: &Study, blend: &Blend, parameters: &Parameters, factor: f64) -> f64 {
    let past: Vec<f64> = study
        .rows()
        .map(|(.., spend)| f64::from(u8::from(spend == 0.0)))
        .collect();
    let rate = past.iter().sum::<f64>() / past.len().max(1) as f64;
    let [slope, intercept] = parameters.calibration;
    let log_odds: Vec<f64> = study
        .now
        .features
        .iter()
        .map(|features| slope * blend.score(features) + intercept)
        .collect();
    let anchored = shift(&log_odds, rate);
    let seasonal = log_odds
        .iter()
        .map(|z| probability(z + anchored).powf(factor))
        .sum::<f64>();
    shift(&log_odds, seasonal / log_odds.len().max(1) as f64)
}

/// What added to all log-odds gives a mean probability, by bisection.
fn shift(log_odds: &[f64], mean: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        let found = log_odds
            .iter()
            .map(|z| probability(z + middle))
            .sum::<f64>()
            / log_odds.len().max(1) as f64;
        if found < mean {
            low = middle
        } else {
            high = middle
        }
    }
    f64::midpoint(low, high)
}

/// Slope and intercept of a logistic regression of the outcome on the scores (Platt 1999), by
/// Newton's method.
fn platt(scores: &[f64], churned: &[bool]) -> [f64; 2] {
    let points: Vec<(f64, f64)> = scores
        .iter()
        .zip(churned)
        .map(|(s, c)| (*s, f64::from(u8::from(*c))))
        .collect();
    let mut w = [1.0, 0.0];
    for _ in 0..50 {
        // A ridge as light as one customer keeps the slope finite where scores separate the
        // outcomes.
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
        let step = [
            (h[1][1] * g[0] - h[0][1] * g[1]) / determinant,
            (h[0][0] * g[1] - h[0][1] * g[0]) / determinant,
        ];
        w = [w[0] - step[0], w[1] - step[1]];
        if step.iter().all(|s| s.abs() < 1e-10) {
            break;
        }
    }
    if w.iter().all(|w| w.is_finite()) && w[0] > 0.0 {
        w
    } else {
        [1.0, 0.0]
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    if n > 0.0 { sum / n } else { 0.0 }
}

/// Area under the ROC curve: the chance that a churned customer scores above one who stayed, ties
/// half.
fn auc(scores: &[f64], positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut ranks, mut at) = (0.0, 0);
    while at < order.len() {
        let end = order[at..]
            .iter()
            .position(|i| scores[*i] != scores[order[at]])
            .map_or(order.len(), |n| at + n);
        let rank = (at + end + 1) as f64 / 2.0;
        ranks += rank * order[at..end].iter().filter(|i| positive[**i]).count() as f64;
        at = end;
    }
    let p = positive.iter().filter(|positive| **positive).count() as f64;
    let n = positive.len() as f64 - p;
    if p == 0.0 || n == 0.0 {
        0.5
    } else {
        (ranks - p * (p + 1.0) / 2.0) / (p * n)
    }
}

/// Expected calibration error in ten bins of equal width.
fn calibration_error(bins: &[CalibrationBin]) -> f64 {
    let all: u64 = bins.iter().map(|bin| bin.customers).sum();
    let apart = bins
        .iter()
        .map(|bin| (bin.predicted - bin.observed).abs() * bin.customers as f64);
    apart.sum::<f64>() / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_lives_where_the_latest_purchase_went() {
        let lines = crate::learn::lines::tests::lines(
            "1,10,A THING,2,1/3/2011 8:00,1.5,12,France\n2,10,A THING,2,1/1/2011 \
             8:00,1.5,12,Spain\nA3,10,A THING,2,1/4/2011 8:00,-1.5,12,Unspecified\n4,10,A \
             THING,-2,1/4/2011 8:00,0,13,Spain\n",
        );
        let named = countries(&lines)
            .into_iter()
            .map(|country| country.map(|country| lines.countries.name(country)));
        assert_eq!(named.collect::<Vec<_>>(), [Some("France"), None]);
    }

    #[test]
    fn auc_counts_pairs_in_the_right_order() {
        for (scores, auc_is) in [
            ([0.1, 0.4, 0.35, 0.8], 0.75),
            ([0.5, 0.5, 0.5, 0.5], 0.5),
            ([0.1, 0.2, 0.3, 0.4], 1.0),
        ] {
            assert_eq!(
                auc(&scores, &[false, false, true, true]),
                auc_is,
                "{scores:?}"
            );
        }
    }

    #[test]
    fn platt_finds_the_slope_that_made_the_outcomes() {
        let scores: Vec<f64> = (0..4000).map(|i| f64::from(i % 100) / 25.0 - 2.0).collect();
        let churned: Vec<bool> = scores
            .iter()
            .enumerate()
            .map(|(i, s)| probability(0.5 * s - 1.0) > (i / 100) as f64 / 40.0)
            .collect();
        let [slope, intercept] = platt(&scores, &churned);
        assert!(
            (slope - 0.5).abs() < 0.1 && (intercept + 1.0).abs() < 0.1,
            "{slope} {intercept}"
        );
    }

    #[test]
    fn a_shift_gives_the_mean_that_was_asked_for() {
        let log_odds = [-2.0, 0.0, 0.3, 4.0];
        let moved = shift(&log_odds, 0.4);
        let mean = log_odds.iter().map(|z| probability(z + moved)).sum::<f64>() / 4.0;
        assert!((mean - 0.4).abs() < 1e-9, "{mean}");
    }
}

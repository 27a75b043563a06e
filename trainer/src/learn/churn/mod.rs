//! Churn: a random forest (Breiman 2001) and a ridge logit, blended half and half in log-odds, and
//! calibrated on customers that neither has seen.
//!
//! Label: no purchase in the 90 days after a cut-off. Cut-offs from 90 to 180 days before the as-of
//! time are stacked; features come from lines before each cut-off, and labels end by the as-of
//! time. Trees draw customers, not rows: all cut-offs of a customer are in or out of a tree
//! together, so that the score by the trees without the customer is honest. The logit is held out
//! in five folds of customers.
//!
//! The level is the churn rate of the past cut-offs, corrected for the season; see
//! `calibration::season`.

use polars::prelude::DataFrame;
use scoring::{
    Artifact, ArtifactBuilder, Metric, Model, ModelKind, TensorFile,
    churn::{
        self, Blend, CalibrationBin, ChurnModel, HORIZON_DAYS, Logit, Parameters, Term, WIDTH,
    },
    customer::Feature,
};
use tch::Tensor;
use transactions::{LineKind, Money};

mod calibration;

use self::calibration::{calibration_error, platt, season};
use super::{
    Evaluation, LearnError, Learner, Training,
    customers::{Customers, Snapshot, Study, standardised, terms},
    forest::{Bagging, Binned, Growth, bag},
    gate, kept, linear,
    lines::{DAY, Lines, seconds},
    parquet, recipe,
    statistics::{auc, mean},
};
use crate::columns::column;

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
/// Folds of customers in which the logit is held out.
const FOLDS: u32 = 5;
/// Borders between low, medium and high risk.
const LEVELS: [f64; 2] = [0.4, 0.65];
/// An AUC from here on means that a feature contains the label.
const LEAK: f64 = 0.95;
/// The largest calibration error of a published model.
const MOST_CALIBRATION_ERROR: f64 = 0.15;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct ChurnLearner;

impl Learner for ChurnLearner {
    fn kind(&self) -> ModelKind {
        ModelKind::Churn
    }

    fn recipes(&self) -> &'static [&'static str] {
        &["blend"]
    }

    fn train(&self, training: &Training<'_>) -> Result<Artifact, LearnError> {
        let recipe = recipe(self, training.recipe)?;
        let customers = Customers::of(training)?;
        let study = customers.study(self.kind(), training)?;
        let (blend, mut parameters) = learn(&study, training)?;
        parameters.season = season(&study, &blend, &parameters, customers.season());

        let now = &study.now;
        let vectors: Vec<f32> = now.features.iter().flatten().copied().collect();
        let model = blend
            .logit
            .write(blend.forest.write(TensorFile::new(), ""))
            .with("customer", &[now.customers.len(), WIDTH], &vectors);
        let mut table = customer_table(now, &customers.lines, seconds(training.as_of))?;
        let artifact = Artifact::builder(self.kind(), recipe, training.as_of, training.seed)
            .file("model.safetensors", model.into_bytes()?)
            .file("customers.parquet", parquet(&mut table)?)
            .parameters(&parameters)?
            .trained_on("customers", now.customers.len() as u64)
            .trained_on("cut-offs", study.past.len() as u64);
        // Distributions are of the values that the served model returns.
        let served = ChurnModel::load(&artifact.clone().finish())?;
        Ok(with_distributions(artifact, &served).finish())
    }

    fn evaluate(&self, training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - chrono::Duration::days(HORIZON_DAYS);
        let model = ChurnModel::load(&self.train(&training.as_of(earlier))?)?;
        let customers = Customers::of(training)?;
        let next = customers.next_spend(earlier);
        let Backtest {
            probability,
            recency,
            forest,
            logit,
            churned,
        } = Backtest::of(&model, |customer| next.get(customer).copied());
        let (area, naive) = (auc(&probability, &churned), auc(&recency, &churned));
        let churners = churned.iter().filter(|churned| **churned).count();
        let rate = churners as f64 / churned.len().max(1) as f64;
        let bins = CalibrationBin::tenths(&probability, &churned);
        let error = calibration_error(&bins);
        let outcomes = || probability.iter().zip(&churned);
        let brier = mean(outcomes().map(|(p, c)| (p - f64::from(u8::from(*c))).powi(2)));
        let loss = mean(outcomes().map(|(p, c)| -(if *c { *p } else { 1.0 - p }).max(1e-12).ln()));
        Ok(Evaluation {
            metrics: vec![
                Metric::against("auc", area, naive),
                Metric::new("auc_forest", auc(&forest, &churned)),
                Metric::new("auc_logit", auc(&logit, &churned)),
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
                    error < MOST_CALIBRATION_ERROR,
                    format!(
                        "expected calibration error {error:.3}; {MOST_CALIBRATION_ERROR:.3} is the \
                         most"
                    ),
                ),
            ],
            backtest: kept(&bins)?,
        })
    }
}

/// Scores of the backtest's customers and their outcomes.
#[derive(Default)]
struct Backtest {
    probability: Vec<f64>,
    /// Days since the last order, the naive score.
    recency: Vec<f64>,
    forest: Vec<f64>,
    logit: Vec<f64>,
    churned: Vec<bool>,
}

impl Backtest {
    fn of(model: &ChurnModel, next_spend: impl Fn(&str) -> Option<f64>) -> Self {
        let mut of = Self::default();
        for customer in model.customers() {
            let Some(spend) = next_spend(customer.id.as_str()) else {
                continue;
            };
            let blend = model.blend();
            of.probability.push(customer.probability);
            of.recency.push(f64::from(customer.features[0]));
            of.forest.push(blend.share(&customer.features));
            of.logit.push(blend.logit.score(&customer.features));
            of.churned.push(spend == 0.0);
        }
        of
    }
}

/// Customers with their country and what they spent in the last year, net of returns.
fn customer_table(now: &Snapshot, lines: &Lines, as_of: i64) -> Result<DataFrame, LearnError> {
    let mut annual = vec![Money::ZERO; lines.customers.len()];
    for line in &lines.lines {
        let is_spend = line.is_paid() || line.kind == LineKind::Cancellation;
        if let Some(customer) = line.customer
            && line.time >= as_of - 365 * DAY
            && is_spend
        {
            annual[customer as usize] += line.total;
        }
    }
    let countries = countries(lines);
    let country = |customer: &u32| {
        let country = countries[*customer as usize];
        country.map_or("", |country| lines.countries.name(country))
    };
    let name = |customer: &u32| lines.customers.name(*customer);
    let value = |customer: &u32| annual[*customer as usize].to_f64();
    Ok(DataFrame::new_infer_height(vec![
        column("customer_id", now.customers.iter().map(name)),
        column("country", now.customers.iter().map(country)),
        column("annual_value", now.customers.iter().map(value)),
    ])?)
}

fn with_distributions(mut artifact: ArtifactBuilder, served: &ChurnModel) -> ArtifactBuilder {
    let customers = || served.customers().iter();
    for (at, feature) in Feature::ALL.iter().enumerate() {
        let values = customers().map(|customer| customer.features[at].into());
        artifact = artifact.distribution(feature.name(), values);
    }
    artifact.distribution(
        "probability",
        customers().map(|customer| customer.probability),
    )
}

/// The country of each customer's latest purchase; of several at one time, of the last in the
/// input.
fn countries(lines: &Lines) -> Vec<Option<u32>> {
    let mut latest = vec![None; lines.customers.len()];
    for line in lines.lines.iter().filter(|line| line.is_paid()) {
        if let Some(customer) = line.customer {
            let latest = &mut latest[customer as usize];
            *latest = Some((line.time, line.id, line.country)).max(*latest);
        }
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

    let features: Vec<&[f32]> = rows.iter().map(|row| row.1).collect();
    let binned = Binned::of(&features, BINS, device);
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
    // Each customer's score for the calibration is by trees and a logit that have not seen the
    // customer.
    let mut scores = vec![0.0; rows.len()];
    for fold in 0..FOLDS {
        let places = |held_out: bool| -> Vec<i64> {
            (0..rows.len())
                .filter(|at| (rows[*at].0 % FOLDS == fold) == held_out)
                .map(|at| at as i64)
                .collect()
        };
        let others = Tensor::from_slice(&places(false)).to_device(device);
        let logit = fit(
            &x.index_select(0, &others),
            &labels.index_select(0, &others),
        )?;
        for at in places(true) {
            let at = at as usize;
            scores[at] = churn::score(share[at], logit.score(rows[at].1));
        }
    }
    let outcomes: Vec<bool> = churned.iter().map(|churned| *churned > 0.5).collect();
    let logit = fit(&x, &labels)?;
    let names = Feature::ALL.iter().map(|feature| feature.name().to_owned());
    let parameters = Parameters {
        features: names.collect(),
        calibration: platt(&scores, &outcomes),
        season: 0.0,
        intercept: logit.intercept,
        levels: LEVELS,
    };
    Ok((Blend { forest, logit }, parameters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customers_country_is_that_of_the_latest_purchase() {
        let lines = crate::learn::lines::tests::lines(
            "1,10,A THING,2,1/3/2011 8:00,1.5,12,France\n\
             2,10,A THING,2,1/1/2011 8:00,1.5,12,Spain\n\
             A3,10,A THING,2,1/4/2011 8:00,-1.5,12,Unspecified\n\
             4,10,A THING,-2,1/4/2011 8:00,0,13,Spain\n",
        );
        let named = countries(&lines)
            .into_iter()
            .map(|country| country.map(|country| lines.countries.name(country)));
        assert_eq!(named.collect::<Vec<_>>(), [Some("France"), None]);
    }
}

//! Segmentation: the kind of each customer.
//!
//! The recipe `default` forecasts what each customer spends in the next 90 days and cuts the
//! forecasts into six tiers. `rfm3` and `value4` are the recipes of the systems that Shopkeeper
//! replaces, kept for comparison: k-means on recency, frequency and monetary value.

use std::collections::BTreeMap;

use chrono::Duration;
use polars::prelude::DataFrame;
use scoring::{
    Artifact, Metric, Model, ModelKind,
    segmentation::{Parameters, Placement, Rfm, Segment, SegmentationModel, Spend},
};
use tch::Tensor;

mod k_means;
mod recipes;
mod rows;
mod tiers;

pub use self::k_means::{Fit, k_means};
use self::{
    k_means::{clusters, silhouette},
    recipes::{RECIPES, Recipe},
    rows::{Placed, Row, table},
    tiers::{CAP, tiers},
};
use super::{
    Evaluation, LearnError, Learner, Training, gate,
    lines::{Lines, seconds},
    parquet, recipe,
    statistics::{eta_squared, lower_part, nearest_quantile, sorted},
};
use crate::columns::column;

/// Customers that training needs for each segment.
const LEAST_PER_SEGMENT: u64 = 10;
/// Days of the backtest in which the customers' spend is measured.
const OUTCOME_DAYS: i64 = 90;
/// The usual gap of a shop without a second order.
const DEFAULT_GAP_DAYS: f64 = 90.0;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct SegmentationLearner;

impl Learner for SegmentationLearner {
    fn kind(&self) -> ModelKind {
        ModelKind::Segmentation
    }

    fn recipes(&self) -> &'static [&'static str] {
        const NAMES: [&str; 3] = [RECIPES[0].name, RECIPES[1].name, RECIPES[2].name];
        &NAMES
    }

    fn train(&self, training: &Training<'_>) -> Result<Artifact, LearnError> {
        let name = recipe(self, training.recipe)?;
        let recipe = RECIPES.iter().find(|recipe| recipe.name == name);
        let recipe = recipe.unwrap_or(&RECIPES[0]);
        let lines = Lines::of(training)?;
        let mut rows = table(&lines, recipe.name, seconds(training.as_of));
        if recipe.name == "rfm3" {
            // The comparison is exact because sums are: the net spend of a customer with every
            // purchase returned is 0.
            rows.retain(|row| row.rfm.monetary > 0.0);
        }
        let needed = LEAST_PER_SEGMENT * recipe.segments.len() as u64;
        let found = rows.len() as u64;
        if found < needed {
            return Err(LearnError::TooLittle {
                model: self.kind(),
                what: "customers",
                needed,
                found,
                as_of: training.as_of,
            });
        }
        let placed = match recipe.space {
            None => tiers(&mut rows, training)?,
            Some(space) => clusters(recipe, space, &rows, training)?,
        };
        artifact(recipe, &rows, placed, training)
    }

    fn evaluate(&self, training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - Duration::days(OUTCOME_DAYS);
        let model = SegmentationModel::load(&self.train(&training.as_of(earlier))?)?;
        let lines = Lines::of(training)?;
        let mut customers = outcomes(&model, &lines, seconds(earlier));
        let of_segments = |value: &dyn Fn(&Outcome) -> f64| {
            eta_squared(customers.iter().map(|of| (of.segment, value(of))))
        };
        let explained = of_segments(&|of| of.spend.ln_1p());
        let cap = nearest_quantile(&sorted(customers.iter().map(|of| of.spend)), CAP);
        let capped_explained = of_segments(&|of| of.spend.min(cap));
        let is_ordered = means_by_segment(&customers, cap).is_sorted_by(|a, b| a >= b);
        // The naive segmentation: fifths by past spend.
        customers.sort_by(|a, b| a.monetary.total_cmp(&b.monetary));
        let n = customers.len().max(1);
        let fifths = customers.iter().enumerate();
        let naive = eta_squared(fifths.map(|(at, of)| (at * 5 / n, of.spend.ln_1p())));
        let Parameters {
            segments,
            silhouette,
            placement,
            ..
        } = model.parameters();
        // Recipes that are kept for comparison need not forecast well to be published.
        let is_forecast = matches!(placement, Placement::Tiers(_));
        let least = if is_forecast { 0.9 * naive } else { 0.01 };
        let shares = segments.iter().map(|segment| segment.customer_share);
        let smallest = shares.fold(1.0, f64::min);
        let order = if is_ordered {
            "in the next 90 days, on average"
        } else {
            "not in order"
        };
        Ok(Evaluation {
            metrics: vec![
                Metric::against("spend_explained", explained, naive),
                Metric::new("capped_spend_explained", capped_explained),
                Metric::new("silhouette", *silhouette),
                Metric::new("smallest_share", smallest),
            ],
            gates: vec![
                gate(
                    "segments tell apart who will spend",
                    explained >= least,
                    format!(
                        "{explained:.3} of the variance of log spend in the next {OUTCOME_DAYS} \
                         days; {least:.3} is the least, fifths by spend have {naive:.3}"
                    ),
                ),
                gate(
                    "a higher segment spends more",
                    is_ordered || !is_forecast,
                    order.to_owned(),
                ),
                gate(
                    "every segment has customers",
                    smallest > 0.0,
                    format!("the smallest has {:.2} %", smallest * 100.0),
                ),
            ],
            backtest: serde_json::Value::Null,
        })
    }
}

fn artifact(
    recipe: &Recipe,
    rows: &[Row],
    placed: Placed,
    training: &Training<'_>,
) -> Result<Artifact, LearnError> {
    let Placed {
        placement,
        model,
        placed,
        forecasts,
        x,
    } = placed;
    let labels: Vec<i64> = placed.iter().map(|place| *place as i64).collect();
    let parameters = Parameters {
        placement,
        segments: segments(recipe, rows, &placed),
        silhouette: silhouette(&x, &Tensor::from_slice(&labels)),
        fifths: fifths(rows),
        usual_gap_days: usual_gap(rows),
    };
    let of = |name: &str, value: fn(&Row) -> f64| column(name, rows.iter().map(value));
    let forecast = |name: &str, value: fn(&Spend) -> f64| {
        column(
            name,
            forecasts.iter().map(|spend| spend.as_ref().map(value)),
        )
    };
    let mut customers = DataFrame::new_infer_height(vec![
        column(
            "customer_id",
            rows.iter().map(|row| row.customer_id.as_str()),
        ),
        of("recency_days", |row| row.rfm.recency_days),
        of("frequency", |row| row.rfm.frequency),
        of("monetary", |row| row.rfm.monetary),
        of("tenure_days", |row| row.tenure_days),
        column("segment_id", labels.iter().map(|label| label + 1)),
        forecast("typical", |spend| spend.typical),
        forecast("average", |spend| spend.average),
    ])?;
    let builder = Artifact::builder(
        ModelKind::Segmentation,
        recipe.name,
        training.as_of,
        training.seed,
    );
    Ok(builder
        .file("model.safetensors", model.into_bytes()?)
        .file("customers.parquet", parquet(&mut customers)?)
        .parameters(&parameters)?
        .trained_on("customers", rows.len() as u64)
        .distribution("recency_days", rows.iter().map(|row| row.rfm.recency_days))
        .distribution("frequency", rows.iter().map(|row| row.rfm.frequency))
        .distribution("monetary", rows.iter().map(|row| row.rfm.monetary))
        .finish())
}

/// A customer of the backtest.
struct Outcome {
    segment: usize,
    /// Spend before the backtest's as-of time.
    monetary: f64,
    /// Spend after it.
    spend: f64,
}

/// The model's customers and what they spent from an instant on.
fn outcomes(model: &SegmentationModel, lines: &Lines, from: i64) -> Vec<Outcome> {
    let mut spend = vec![0.0; lines.customers.len()];
    for line in &lines.lines {
        if let Some(customer) = line.customer
            && line.time >= from
            && line.is_purchase()
        {
            spend[customer as usize] += line.total.to_f64();
        }
    }
    let outcome = |(name, spend): (&str, f64)| {
        let customer = model.customer(name)?;
        Some(Outcome {
            segment: customer.segment,
            monetary: customer.rfm.monetary,
            spend,
        })
    };
    let customers = lines.customers.names().zip(spend);
    customers.filter_map(outcome).collect()
}

/// Mean capped spend of the customers of each segment, the highest segment first.
fn means_by_segment(customers: &[Outcome], cap: f64) -> Vec<f64> {
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for Outcome { segment, spend, .. } in customers {
        let (sum, count) = sums.entry(*segment).or_default();
        *sum += spend.min(cap);
        *count += 1.0;
    }
    sums.values().map(|(sum, count)| sum / count).collect()
}

/// The median of the customers' mean days between orders, over customers with two or more orders.
fn usual_gap(rows: &[Row]) -> f64 {
    let repeated = rows.iter().filter(|row| row.rfm.frequency > 1.0);
    let gap = |row: &Row| (row.tenure_days - row.rfm.recency_days) / (row.rfm.frequency - 1.0);
    let gaps = sorted(repeated.map(gap));
    if gaps.is_empty() {
        DEFAULT_GAP_DAYS
    } else {
        nearest_quantile(&gaps, 0.5)
    }
}

/// What the model says of each segment.
fn segments(recipe: &Recipe, rows: &[Row], placed: &[usize]) -> Vec<Segment> {
    let all: f64 = rows.iter().map(|row| row.rfm.monetary).sum();
    let describe = |(id, (name, strategy)): (usize, &(&str, &str))| {
        let members: Vec<&Rfm> = rows
            .iter()
            .zip(placed)
            .filter(|(_, place)| **place == id)
            .map(|(row, _)| &row.rfm)
            .collect();
        let n = members.len() as f64;
        let mean = |of: fn(&Rfm) -> f64| {
            if n > 0.0 {
                members.iter().map(|rfm| of(rfm)).sum::<f64>() / n
            } else {
                0.0
            }
        };
        let monetary: f64 = members.iter().map(|rfm| rfm.monetary).sum();
        Segment {
            id: id as u32 + 1,
            name: (*name).to_owned(),
            strategy: (*strategy).to_owned(),
            customers: members.len() as u64,
            customer_share: n / rows.len() as f64,
            monetary_share: monetary / all.max(f64::MIN_POSITIVE),
            average: Rfm {
                recency_days: mean(|r| r.recency_days),
                frequency: mean(|r| r.frequency),
                monetary: mean(|r| r.monetary),
            },
        }
    };
    recipe.segments.iter().enumerate().map(describe).collect()
}

/// The borders between the fifths of customers by recency, frequency and monetary value.
fn fifths(rows: &[Row]) -> [[f64; 4]; 3] {
    let measures: [fn(&Rfm) -> f64; 3] = [|r| r.recency_days, |r| r.frequency, |r| r.monetary];
    measures.map(|of| {
        let values = sorted(rows.iter().map(|row| of(&row.rfm)));
        [1, 2, 3, 4].map(|fifth| lower_part(&values, fifth, 5).unwrap_or_default())
    })
}

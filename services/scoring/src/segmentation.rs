//! Segmentation: which kind of customer somebody is. Nearest of k centroids (Lloyd 1982) in a standardised space of
//! recency, frequency and monetary value; beside it the classic RFM grid and the customer's place in their life with the
//! shop.
//!
//! In: recency (days, 0 or more), frequency (orders, 1 or more), monetary (shop currency).
//! Out: a segment, whole: every finite value has one.
//!
//! `model.safetensors`: `centroid` `[k, d]` f64, `mean` and `scale` `[d]` f64. `customers.parquet`: `customer_id`,
//! `recency_days`, `frequency`, `monetary`, `tenure_days`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{Artifact, CustomerId, Model, ModelError, ModelKind};

/// What a decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rfm {
    /// Days since the last order.
    pub recency_days: f64,
    /// Orders.
    pub frequency: f64,
    /// Spend net of returns, shop currency.
    pub monetary: f64,
}

/// In which space customers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Recency, frequency, log monetary.
    LogMonetary,
    /// Spend and orders as they are.
    SpendOrders,
    /// The logarithms of all three, in which one more order counts for more the fewer there were.
    LogRfm,
}

impl Space {
    /// A customer's coordinates, before standardising.
    pub fn coordinates(self, Rfm { recency_days, frequency, monetary }: Rfm) -> Vec<f64> {
        // A net value below 0 (more returned than bought) is as low as nothing.
        let log = |x: f64| x.max(0.0).ln_1p();
        match self {
            Self::LogMonetary => vec![recency_days, frequency, log(monetary)],
            Self::SpendOrders => vec![monetary, frequency],
            Self::LogRfm => vec![log(recency_days), log(frequency), log(monetary)],
        }
    }
}

/// A segment as the model describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Its number: its place by value, 1 the highest.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What to do for its customers.
    pub strategy: String,
    /// Customers in it at training.
    pub customers: u64,
    /// Their share of all.
    pub customer_share: f64,
    /// Their share of all spend.
    pub monetary_share: f64,
    /// Averages.
    pub average: Rfm,
}

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// In which space customers are compared.
    pub space: Space,
    /// By id.
    pub segments: Vec<Segment>,
    /// Mean silhouette of the training customers.
    pub silhouette: f64,
    /// Upper bounds of the lower four fifths of recency, frequency and monetary value.
    pub fifths: [[f64; 4]; 3],
}

/// Where somebody is in their life with the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// First order within 30 days.
    New,
    /// Within the usual interval, or twice it.
    Active,
    /// Overdue.
    Cooling,
    /// Away for more than four intervals.
    Lapsed,
}

impl Lifecycle {
    /// From days since the last and the first order, and their number. The usual interval is the customer's own average
    /// gap, between two weeks and 90 days; 90 days for who has ordered once.
    pub fn of(recency_days: f64, tenure_days: f64, orders: f64) -> Self {
        let gap = if orders > 1.0 { (tenure_days - recency_days) / (orders - 1.0) } else { 90.0 };
        let gap = gap.clamp(14.0, 90.0);
        if tenure_days <= 30.0 {
            Self::New
        } else if recency_days <= 2.0 * gap {
            Self::Active
        } else if recency_days <= 4.0 * gap {
            Self::Cooling
        } else {
            Self::Lapsed
        }
    }
}

/// A cell of the RFM grid from scores of 1 (worst) to 5 (best). Every combination has one.
pub fn rfm_cell(recency: u8, frequency: u8, monetary: u8) -> &'static str {
    let value = (frequency + monetary).div_ceil(2);
    match (recency, value) {
        (5.., 4..) | (4, 5..) => "Champions",
        (3 | 4, 4..) => "Loyal",
        (5.., 2 | 3) | (4, 3) => "Potential Loyalists",
        (5.., _) => "New",
        (4, _) => "Promising",
        (3, 3) => "Need Attention",
        (3, _) => "About to Sleep",
        (_, 5..) => "Can't Lose",
        (_, 3 | 4) => "At Risk",
        (2, _) | (_, 2) => "Hibernating",
        (_, _) => "Lost",
    }
}

/// A customer whom the model knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Customer {
    /// What a decision rests on.
    pub rfm: Rfm,
    /// Days since the first order.
    pub tenure_days: f64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Classified<'a> {
    /// The segment.
    pub segment: &'a Segment,
    /// The cell of the RFM grid.
    pub rfm_cell: &'static str,
    /// What sets the values apart from the shop's average, the furthest first.
    pub reasons: Vec<String>,
}

/// The model.
#[derive(Debug)]
pub struct Segmentation {
    parameters: Parameters,
    centroids: Vec<Vec<f64>>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    average: Rfm,
    customers: HashMap<CustomerId, Customer>,
}

impl Model for Segmentation {
    const KIND: ModelKind = ModelKind::Segmentation;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        let tensors = artifact.tensors("model.safetensors")?;
        let [k, d] = tensors.shape("centroid")?;
        let centroids: Vec<f64> = tensors.get("centroid", &[k, d])?;
        let (mean, scale) = (tensors.get::<f64>("mean", &[d])?, tensors.get::<f64>("scale", &[d])?);
        if k == 0 || parameters.segments.len() != k {
            return Err(ModelError::inconsistent(
                "segments",
                format!("are {}, centroids {k}", parameters.segments.len()),
            ));
        }
        let origin = Rfm { recency_days: 0.0, frequency: 0.0, monetary: 0.0 };
        if parameters.space.coordinates(origin).len() != d {
            return Err(ModelError::inconsistent("centroid", format!("has {d} coordinates")));
        }
        if !centroids.iter().chain(&mean).all(|x| x.is_finite()) || !scale.iter().all(|x| x.is_finite() && *x > 0.0) {
            return Err(ModelError::inconsistent("centroid", "is not finite"));
        }
        let table = artifact.table("customers.parquet")?;
        let ids = table.text("customer_id")?;
        let (r, f, m) = (table.float("recency_days")?, table.float("frequency")?, table.float("monetary")?);
        let tenure = table.float("tenure_days")?;
        let customers = ids.iter().enumerate().map(|(at, id)| {
            let rfm = Rfm { recency_days: r[at], frequency: f[at], monetary: m[at] };
            let id =
                id.parse().map_err(|_| ModelError::inconsistent("customer_id", format!("is empty in row {at}")))?;
            Ok((id, Customer { rfm, tenure_days: tenure[at] }))
        });
        let customers: HashMap<CustomerId, Customer> = customers.collect::<Result<_, ModelError>>()?;
        let average = average(&parameters.segments);
        let centroids = centroids.chunks(d).map(<[f64]>::to_vec).collect();
        Ok(Self { parameters, centroids, mean, scale, average, customers })
    }
}

impl Segmentation {
    /// A customer whom the model knows.
    pub fn customer(&self, id: &str) -> Option<&Customer> {
        self.customers.get(CustomerId::canonical(id))
    }

    /// All customers.
    pub fn customers(&self) -> impl Iterator<Item = (&CustomerId, &Customer)> {
        self.customers.iter()
    }

    /// What the manifest holds.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The segment of given values.
    pub fn classify(&self, rfm: Rfm) -> Classified<'_> {
        let point: Vec<f64> = self.parameters.space.coordinates(rfm);
        // Further out than any customer, and yet near enough that squares stay finite and the nearest stays the nearest.
        let far = |x: f64| x.clamp(-1e6, 1e6);
        let standard = point.iter().zip(&self.mean).zip(&self.scale).map(|((x, mean), scale)| far((x - mean) / scale));
        let standard: Vec<f64> = standard.collect();
        let segment = &self.parameters.segments[nearest(&self.centroids, &standard)];
        let [r, f, m] = self.parameters.fifths;
        let cell = rfm_cell(6 - fifth(r, rfm.recency_days), fifth(f, rfm.frequency), fifth(m, rfm.monetary));
        Classified { segment, rfm_cell: cell, reasons: self.reasons(rfm) }
    }

    fn reasons(&self, rfm: Rfm) -> Vec<String> {
        let measures = [
            ("days since the last order", rfm.recency_days, self.average.recency_days),
            ("orders", rfm.frequency, self.average.frequency),
            ("spend", rfm.monetary, self.average.monetary),
        ];
        let mut apart: Vec<_> = measures
            .into_iter()
            .map(|(name, value, average)| {
                let ratio = (value.max(0.0) + 1.0) / (average.max(0.0) + 1.0);
                (ratio.ln().abs(), format!("{name} {value:.0}, the shop's average {average:.0}"))
            })
            .collect();
        apart.sort_by(|a, b| b.0.total_cmp(&a.0));
        apart.into_iter().map(|(_, text)| text).collect()
    }
}

/// The nearest centroid; the first of equals.
fn nearest(centroids: &[Vec<f64>], point: &[f64]) -> usize {
    let distance = |centroid: &[f64]| centroid.iter().zip(point).map(|(c, x)| (c - x) * (c - x)).sum::<f64>();
    let distances = centroids.iter().map(|centroid| distance(centroid)).enumerate();
    distances.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at)
}

/// 1 for the lowest fifth to 5 for the highest.
fn fifth(bounds: [f64; 4], value: f64) -> u8 {
    bounds.iter().fold(1, |score, bound| score + u8::from(value > *bound))
}

fn average(segments: &[Segment]) -> Rfm {
    let of = |measure: fn(&Rfm) -> f64| segments.iter().map(|s| measure(&s.average) * s.customer_share).sum();
    Rfm { recency_days: of(|r| r.recency_days), frequency: of(|r| r.frequency), monetary: of(|r| r.monetary) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_combination_of_scores_has_one_of_eleven_cells() {
        let mut seen = BTreeSet::new();
        for r in 1..=5 {
            for f in 1..=5 {
                for m in 1..=5 {
                    seen.insert(rfm_cell(r, f, m));
                }
            }
        }
        assert_eq!(seen.len(), 11, "{seen:?}");
        assert_eq!((rfm_cell(5, 5, 5), rfm_cell(1, 1, 1), rfm_cell(1, 5, 5)), ("Champions", "Lost", "Can't Lose"));
    }

    #[test]
    fn a_life_with_the_shop_goes_from_new_to_lapsed() {
        for (recency, tenure, orders, lifecycle) in [
            (5.0, 20.0, 2.0, Lifecycle::New),
            (30.0, 300.0, 10.0, Lifecycle::Active),
            (100.0, 400.0, 11.0, Lifecycle::Cooling),
            (300.0, 600.0, 11.0, Lifecycle::Lapsed),
            (150.0, 150.0, 1.0, Lifecycle::Active),
        ] {
            assert_eq!(Lifecycle::of(recency, tenure, orders), lifecycle, "{recency} {tenure} {orders}");
        }
    }

    #[test]
    fn the_nearest_centroid_wins_and_the_first_of_equals() {
        let centroids = [vec![0.0], vec![2.0], vec![2.0]];
        for (x, at) in [(0.9, 0), (1.1, 1), (1.0, 0), (9.0, 1)] {
            assert_eq!(nearest(&centroids, &[x]), at, "{x}");
        }
    }
}

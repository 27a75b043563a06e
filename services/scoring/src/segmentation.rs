//! Segmentation: the segment of a customer; beside it the cell of the classic RFM grid and the
//! customer's stage with the shop.
//!
//! Two ways, by recipe. `Tiers`: six tiers of what a customer is expected to spend in the next 90
//! days, from a typical and an average forecast made in training ([`tier`]); values given without a
//! customer are placed by forests that learnt the two forecasts from recency, frequency and
//! monetary value alone. `Centroids`: the nearest of k centroids (Lloyd 1982) in a standardised
//! space of the three.
//!
//! In: recency (days, 0 or more), frequency (orders, 1 or more), monetary (shop currency).
//! Out: a segment, whole: every finite value has one.
//!
//! `model.safetensors`: `centroid` `[k, d]` f64, `mean` and `scale` `[d]` f64; or the [`Forest`]s
//! `typical.*`, `average.*` on `[recency, frequency, monetary]`. `customers.parquet`:
//! `customer_id`, `recency_days`, `frequency`, `monetary`, `tenure_days`, `segment_id`, and
//! `typical`, `average`, null in recipes that forecast nothing.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{Artifact, CustomerId, Forest, Model, ModelError, ModelKind};

/// Recency, frequency and monetary value of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rfm {
    /// Days since the last order.
    pub recency_days: f64,
    /// Orders.
    pub frequency: f64,
    /// Spend net of returns, shop currency.
    pub monetary: f64,
}

/// The space in which customers are compared.
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
    pub fn coordinates(
        self,
        Rfm {
            recency_days,
            frequency,
            monetary,
        }: Rfm,
    ) -> Vec<f64> {
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

/// How customers are placed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// At the nearest centroid of a space.
    Centroids(Space),
    /// By what they are expected to spend.
    Tiers(Cuts),
}

/// The forecasts from which on a customer is in each tier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cuts {
    /// The typical forecast from which on a customer is in the fifth, fourth, third, second tier.
    pub typical: [f64; 4],
    /// The average forecast from which on a customer is in the first.
    pub average: f64,
}

impl Cuts {
    fn are_finite_and_sorted(&self) -> bool {
        let mut all = self.typical.iter().chain([&self.average]);
        self.typical.is_sorted() && all.all(|cut| cut.is_finite())
    }
}

/// Number of tiers.
pub const TIERS: usize = 6;

/// The tier of two forecasts of the next 90 days, 0 the highest. The lower five go by the typical
/// spend (mean of the logarithm, which tells whether a customer will buy at all); the first by the
/// average spend (logarithm of the mean, which tells whether a customer will buy a great deal).
pub fn tier(typical: f64, average: f64, cuts: &Cuts) -> usize {
    if average >= cuts.average {
        return 0;
    }
    TIERS - 1 - cuts.typical.iter().filter(|cut| typical >= **cut).count()
}

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// How customers are placed.
    pub placement: Placement,
    /// By id.
    pub segments: Vec<Segment>,
    /// Mean silhouette of the training customers.
    pub silhouette: f64,
    /// Upper bounds of the lower four fifths of recency, frequency and monetary value.
    pub fifths: [[f64; 4]; 3],
    /// The median customer's days between orders.
    pub usual_gap_days: f64,
}

/// A customer's stage with the shop.
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
    /// From days since the last and the first order, and their number. The usual interval is the
    /// customer's own average gap, between two weeks and 90 days; for a customer with one order the
    /// shop's usual gap.
    pub fn of(recency_days: f64, tenure_days: f64, orders: f64, usual_gap_days: f64) -> Self {
        let gap = if orders > 1.0 {
            (tenure_days - recency_days) / (orders - 1.0)
        } else {
            usual_gap_days
        };
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

    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Active => "active",
            Self::Cooling => "cooling",
            Self::Lapsed => "lapsed",
        }
    }
}

/// The cells of the RFM grid, the best customers first.
pub const RFM_CELLS: [&str; 11] = [
    "Champions",
    "Loyal",
    "Potential Loyalists",
    "New",
    "Promising",
    "Need Attention",
    "About to Sleep",
    "At Risk",
    "Can't Lose",
    "Hibernating",
    "Lost",
];

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

/// A customer that the model knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Customer {
    /// Recency, frequency and monetary value of a customer.
    pub rfm: Rfm,
    /// Days since the first order.
    pub tenure_days: f64,
    /// Place of their segment among [`Parameters::segments`].
    pub segment: usize,
    /// What was forecast, in recipes that forecast.
    pub forecast: Option<Spend>,
}

impl Customer {
    /// What they are expected to spend in the next 90 days, shop currency.
    pub fn expected_spend(&self) -> Option<f64> {
        self.forecast.map(|spend| spend.average.exp_m1())
    }
}

/// A forecast of what a customer spends in the next 90 days, as logarithms of 1 and the shop's
/// currency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spend {
    /// Mean of the logarithm.
    pub typical: f64,
    /// Logarithm of the mean.
    pub average: f64,
}

/// Where a customer belongs, and why.
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
pub struct SegmentationModel {
    parameters: Parameters,
    placer: Placer,
    average: Rfm,
    customers: HashMap<CustomerId, Customer>,
    /// By spend, the most first.
    ranked: Vec<CustomerId>,
}

/// What places values that belong to no known customer.
#[derive(Debug)]
enum Placer {
    Centroids {
        space: Space,
        centroids: Vec<Vec<f64>>,
        mean: Vec<f64>,
        scale: Vec<f64>,
    },
    Tiers {
        cuts: Cuts,
        typical: Forest,
        average: Forest,
    },
}

impl Placer {
    fn load(artifact: &Artifact, parameters: &Parameters) -> Result<Self, ModelError> {
        let tensors = artifact.tensors("model.safetensors")?;
        let segments = |k: usize| match parameters.segments.len() {
            found if found == k && k > 0 => Ok(()),
            found => Err(ModelError::inconsistent(
                "segments",
                format!("are {found} instead of {k}"),
            )),
        };
        match parameters.placement {
            Placement::Tiers(cuts) => {
                segments(TIERS)?;
                if !cuts.are_finite_and_sorted() {
                    return Err(ModelError::inconsistent(
                        "cuts",
                        "are not finite and in order",
                    ));
                }
                let forest = |prefix| Forest::read(&tensors, prefix, RFM);
                Ok(Self::Tiers {
                    cuts,
                    typical: forest("typical.")?,
                    average: forest("average.")?,
                })
            }
            Placement::Centroids(space) => {
                let [k, d] = tensors.shape("centroid")?;
                segments(k)?;
                let centroids: Vec<f64> = tensors.get("centroid", &[k, d])?;
                let (mean, scale) = (
                    tensors.get::<f64>("mean", &[d])?,
                    tensors.get::<f64>("scale", &[d])?,
                );
                let origin = Rfm {
                    recency_days: 0.0,
                    frequency: 0.0,
                    monetary: 0.0,
                };
                if space.coordinates(origin).len() != d {
                    return Err(ModelError::inconsistent(
                        "centroid",
                        format!("has {d} coordinates"),
                    ));
                }
                let sound = centroids.iter().chain(&mean).all(|x| x.is_finite());
                if !sound || !scale.iter().all(|x| x.is_finite() && *x > 0.0) {
                    return Err(ModelError::inconsistent("centroid", "is not finite"));
                }
                Ok(Self::Centroids {
                    space,
                    centroids: centroids.chunks(d).map(<[f64]>::to_vec).collect(),
                    mean,
                    scale,
                })
            }
        }
    }

    fn place(&self, rfm: Rfm) -> usize {
        match self {
            Self::Tiers {
                cuts,
                typical,
                average,
            } => {
                let x = rfm.vector();
                let of = |forest: &Forest| forest.sum(&x) / forest.trees() as f64;
                tier(of(typical), of(average), cuts)
            }
            Self::Centroids {
                space,
                centroids,
                mean,
                scale,
            } => {
                // Clamped further out than any customer, so that squares of extreme values stay
                // finite and the nearest centroid stays the nearest.
                let far = |x: f64| x.clamp(-1e6, 1e6);
                let point = space.coordinates(rfm);
                let standard = point
                    .iter()
                    .zip(mean)
                    .zip(scale)
                    .map(|((x, mean), scale)| far((x - mean) / scale));
                nearest(centroids, &standard.collect::<Vec<f64>>())
            }
        }
    }
}

/// Length of [`Rfm::vector`].
pub const RFM: usize = 3;

impl Rfm {
    /// What the forests of [`Placement::Tiers`] read.
    pub fn vector(self) -> [f32; RFM] {
        [
            self.recency_days as f32,
            self.frequency as f32,
            self.monetary as f32,
        ]
    }
}

impl Model for SegmentationModel {
    const KIND: ModelKind = ModelKind::Segmentation;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        let placer = Placer::load(artifact, &parameters)?;
        let customers = customers(artifact, parameters.segments.len())?;
        let average = mean(&parameters.segments);
        let mut ranked: Vec<CustomerId> = customers.keys().cloned().collect();
        let spend = |id: &CustomerId| {
            customers
                .get(id)
                .map_or(0.0, |customer| customer.rfm.monetary)
        };
        ranked.sort_by(|a, b| spend(b).total_cmp(&spend(a)).then_with(|| a.cmp(b)));
        Ok(Self {
            parameters,
            placer,
            average,
            customers,
            ranked,
        })
    }
}

fn customers(
    artifact: &Artifact,
    segments: usize,
) -> Result<HashMap<CustomerId, Customer>, ModelError> {
    let table = artifact.table("customers.parquet")?;
    let (ids, segment) = (table.text("customer_id")?, table.int("segment_id")?);
    let (r, f, m) = (
        table.float("recency_days")?,
        table.float("frequency")?,
        table.float("monetary")?,
    );
    let tenure = table.float("tenure_days")?;
    let (typical, average) = (
        table.optional_float("typical")?,
        table.optional_float("average")?,
    );
    let customers = ids.iter().enumerate().map(|(at, id)| {
        let id = id.parse().map_err(|_| {
            ModelError::inconsistent("customer_id", format!("is empty in row {at}"))
        })?;
        let segment = usize::try_from(segment[at] - 1)
            .ok()
            .filter(|segment| *segment < segments);
        let customer = Customer {
            rfm: Rfm {
                recency_days: r[at],
                frequency: f[at],
                monetary: m[at],
            },
            tenure_days: tenure[at],
            segment: segment.ok_or_else(|| {
                ModelError::inconsistent("segment_id", format!("is no segment in row {at}"))
            })?,
            forecast: typical[at]
                .zip(average[at])
                .map(|(typical, average)| Spend { typical, average }),
        };
        Ok((id, customer))
    });
    customers.collect()
}

impl SegmentationModel {
    /// A customer that the model knows.
    pub fn customer(&self, id: &str) -> Option<&Customer> {
        self.customers.get(CustomerId::canonical(id))
    }

    /// All customers, by spend, the most first.
    pub fn customers(&self) -> impl Iterator<Item = (&CustomerId, &Customer)> {
        self.ranked
            .iter()
            .filter_map(|id| Some((id, self.customers.get(id)?)))
    }

    /// What the manifest holds.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The segment of given values.
    pub fn classify(&self, rfm: Rfm) -> Classified<'_> {
        self.classified(self.placer.place(rfm), rfm)
    }

    /// The segment of a customer that the model knows.
    pub fn place(&self, customer: &Customer) -> Classified<'_> {
        self.classified(customer.segment, customer.rfm)
    }

    /// A customer's stage with the shop.
    pub fn lifecycle(&self, customer: &Customer) -> Lifecycle {
        let Rfm {
            recency_days,
            frequency,
            ..
        } = customer.rfm;
        Lifecycle::of(
            recency_days,
            customer.tenure_days,
            frequency,
            self.parameters.usual_gap_days,
        )
    }

    /// The cell of the RFM grid.
    pub fn cell(&self, rfm: Rfm) -> &'static str {
        let [r, f, m] = self.parameters.fifths;
        rfm_cell(
            6 - fifth(r, rfm.recency_days),
            fifth(f, rfm.frequency),
            fifth(m, rfm.monetary),
        )
    }

    fn classified(&self, segment: usize, rfm: Rfm) -> Classified<'_> {
        let segment = &self.parameters.segments[segment];
        Classified {
            segment,
            rfm_cell: self.cell(rfm),
            reasons: self.reasons(rfm),
        }
    }

    fn reasons(&self, rfm: Rfm) -> Vec<String> {
        let measures = [
            (
                "days since the last order",
                rfm.recency_days,
                self.average.recency_days,
            ),
            ("orders", rfm.frequency, self.average.frequency),
            ("spend", rfm.monetary, self.average.monetary),
        ];
        let mut apart: Vec<_> = measures
            .into_iter()
            .map(|(name, value, average)| {
                let ratio = (value.max(0.0) + 1.0) / (average.max(0.0) + 1.0);
                (
                    ratio.ln().abs(),
                    format!("{name} {value:.0}, the shop's average {average:.0}"),
                )
            })
            .collect();
        apart.sort_by(|a, b| b.0.total_cmp(&a.0));
        apart.into_iter().map(|(_, text)| text).collect()
    }
}

/// The nearest centroid; the first of equals.
fn nearest(centroids: &[Vec<f64>], point: &[f64]) -> usize {
    let distance = |centroid: &[f64]| {
        centroid
            .iter()
            .zip(point)
            .map(|(c, x)| (c - x) * (c - x))
            .sum::<f64>()
    };
    let distances = centroids
        .iter()
        .map(|centroid| distance(centroid))
        .enumerate();
    distances
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(0, |(at, _)| at)
}

/// 1 for the lowest fifth to 5 for the highest.
fn fifth(bounds: [f64; 4], value: f64) -> u8 {
    bounds
        .iter()
        .fold(1, |score, bound| score + u8::from(value > *bound))
}

fn mean(segments: &[Segment]) -> Rfm {
    let of = |measure: fn(&Rfm) -> f64| {
        segments
            .iter()
            .map(|s| measure(&s.average) * s.customer_share)
            .sum()
    };
    Rfm {
        recency_days: of(|r| r.recency_days),
        frequency: of(|r| r.frequency),
        monetary: of(|r| r.monetary),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

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
        assert_eq!(seen, RFM_CELLS.into_iter().collect());
        assert_eq!(
            (rfm_cell(5, 5, 5), rfm_cell(1, 1, 1), rfm_cell(1, 5, 5)),
            ("Champions", "Lost", "Can't Lose")
        );
    }

    #[test]
    fn a_life_with_the_shop_goes_from_new_to_lapsed() {
        for (recency, tenure, orders, lifecycle) in [
            (5.0, 20.0, 2.0, Lifecycle::New),
            (30.0, 300.0, 10.0, Lifecycle::Active),
            (100.0, 400.0, 11.0, Lifecycle::Cooling),
            (300.0, 600.0, 11.0, Lifecycle::Lapsed),
            (150.0, 150.0, 1.0, Lifecycle::Cooling),
        ] {
            assert_eq!(
                Lifecycle::of(recency, tenure, orders, 45.0),
                lifecycle,
                "{recency} {tenure} {orders}"
            );
        }
    }

    #[test]
    fn the_nearest_centroid_wins_and_the_first_of_equals() {
        let centroids = [vec![0.0], vec![2.0], vec![2.0]];
        for (x, at) in [(0.9, 0), (1.1, 1), (1.0, 0), (9.0, 1)] {
            assert_eq!(nearest(&centroids, &[x]), at, "{x}");
        }
    }

    fn clustered() -> Placer {
        let centroids = vec![
            vec![-1.0, 1.0, 1.0],
            vec![0.0, 0.0, 0.0],
            vec![1.5, -1.0, -1.0],
        ];
        Placer::Centroids {
            space: Space::LogRfm,
            centroids,
            mean: vec![3.0, 1.5, 6.0],
            scale: vec![1.2, 0.5, 1.3],
        }
    }

    proptest! {
        #[test]
        fn the_segment_is_that_of_the_nearest_centroid(
            r in 0.0..1e4_f64,
            f in 1.0..1e3_f64,
            m in -1e4..1e6_f64,
        ) {
            let rfm = Rfm { recency_days: r, frequency: f, monetary: m };
            let Placer::Centroids { centroids, mean, scale, .. } = clustered() else {
                unreachable!()
            };
            let x = [r.ln_1p(), f.ln_1p(), m.max(0.0).ln_1p()];
            let apart = |c: &[f64], i: usize| c[i] - (x[i] - mean[i]) / scale[i];
            let far = |c: &Vec<f64>| (0..3).map(|i| apart(c, i).powi(2)).sum::<f64>();
            let placed = far(&centroids[clustered().place(rfm)]);
            prop_assert!(centroids.iter().all(|centroid| far(centroid) >= placed - 1e-9));
        }

        #[test]
        fn every_pair_of_forecasts_has_one_tier_and_more_is_never_lower(
            a in 0.0..9.0_f64,
            b in 0.0..9.0_f64,
            h in 0.0..9.0_f64,
        ) {
            let cuts = Cuts { typical: [1.0, 3.0, 5.0, 6.0], average: 7.0 };
            prop_assert!(tier(a.max(b), h, &cuts) <= tier(a.min(b), h, &cuts));
            prop_assert_eq!(tier(a, h, &cuts) == 0, h >= 7.0);
            prop_assert!(tier(a, h, &cuts) < TIERS);
        }
    }
}

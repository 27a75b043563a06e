//! Churn: the chance of no purchase in the 90 days after the as-of time, from a random forest
//! (Breiman 2001) and a ridge logit on logarithms, blended and calibrated (Platt 1999).
//!
//! In: `[F]` f32: [`Feature::ALL`], then [`TASTES`] coordinates of what the customer buys; all from
//! lines before the as-of time. Out: a probability in 0..=1, and contributions in log-odds that add
//! up to it exactly.
//!
//! With `p` the forest's share of trees for churn and `z` the logit's log-odds, the score is `2 (p
//! - 1/2) + z / 2`: both on the scale of log-odds, half and half (the slope of the logit of `p` at
//! 1/2 is 4). The probability's log-odds are `slope * score + intercept + season`.
//!
//! `model.safetensors`: the [`Forest`], with the share of churn in its trees; `mean`, `scale`,
//! `low`, `high`, `weight` `[F]` f64 of the logit; `customer` `[n, F]` f32 in the order of
//! `customers.parquet`: `customer_id`, `country`, `annual_value`.

use std::{collections::HashMap, sync::OnceLock};

use serde::{Deserialize, Serialize};

use crate::{
    Artifact, CustomerId, Forest, Model, ModelError, ModelKind, TensorFile, Tensors,
    customer::Feature,
};

/// Days in which a customer without a purchase counts as lost.
pub const HORIZON_DAYS: i64 = 90;

/// Coordinates of a customer's taste: the place of their products among all products.
pub const TASTES: usize = 20;

/// Length of a vector.
pub const WIDTH: usize = Feature::ALL.len() + TASTES;

/// How serious a risk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RiskLevel {
    /// Will probably buy again.
    Low,
    /// Could go either way.
    Medium,
    /// Will probably not buy again.
    High,
}

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Names of the features, in order, without the tastes.
    pub features: Vec<String>,
    /// Slope and intercept from the score to log-odds.
    pub calibration: [f64; 2],
    /// What the season adds to the log-odds.
    pub season: f64,
    /// Intercept of the logit.
    pub intercept: f64,
    /// Probabilities from which on a risk is medium, and high.
    pub levels: [f64; 2],
}

/// A customer that the model knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Customer {
    /// The customer's id.
    pub id: CustomerId,
    /// Country of delivery.
    pub country: Box<str>,
    /// Spend net of returns in the year before the as-of time, shop currency.
    pub annual_value: f64,
    /// Of [`WIDTH`].
    pub features: Box<[f32]>,
    /// Calibrated probability.
    pub probability: f64,
    /// The reasons for it, computed at the first request.
    reasons: OnceLock<Box<[Reason]>>,
}

impl Customer {
    /// The probability times the annual value, shop currency.
    pub fn value_at_risk(&self) -> f64 {
        self.probability * self.annual_value.max(0.0)
    }
}

/// What a reason is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum About {
    /// A feature and its value.
    Feature(Feature, f32),
    /// What the customer buys: all coordinates of their taste.
    Taste,
}

/// A feature's part in a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reason {
    /// What it is about.
    pub about: About,
    /// How far it moves the log-odds from those of an unknown customer; above 0 towards churn.
    pub contribution: f64,
}

impl Reason {
    /// The reason in words; which way it moves the score, the contribution says.
    pub fn text(&self) -> String {
        match self.about {
            About::Taste => "what they buy".to_owned(),
            About::Feature(feature, value) => feature.told(value),
        }
    }
}

/// A logistic regression on signed logarithms, clipped to what was seen in training and
/// standardised.
#[derive(Debug, Clone, PartialEq)]
pub struct Logit {
    /// By feature: centre and scale of the logarithms, their bounds, the weight.
    pub terms: Vec<Term>,
    /// Log-odds at the centre.
    pub intercept: f64,
}

/// What a feature adds to the log-odds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Mean of the logarithm.
    pub mean: f64,
    /// Its standard deviation.
    pub scale: f64,
    /// Least that was seen.
    pub low: f64,
    /// Most that was seen.
    pub high: f64,
    /// Log-odds a standard deviation.
    pub weight: f64,
}

impl Term {
    /// The standardised value: `(clip(sign(x) ln(1 + |x|)) - mean) / scale`.
    pub fn standard(&self, x: f32) -> f64 {
        (logarithm(x).clamp(self.low, self.high) - self.mean) / self.scale
    }
}

/// `sign(x) ln(1 + |x|)`
pub fn logarithm(x: f32) -> f64 {
    let x = f64::from(x);
    x.signum() * x.abs().ln_1p()
}

impl Logit {
    fn parts<'a>(&'a self, features: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
        self.terms
            .iter()
            .zip(features)
            .map(|(term, x)| term.weight * term.standard(*x))
    }

    /// Log-odds of churn.
    pub fn score(&self, features: &[f32]) -> f64 {
        self.intercept + self.parts(features).sum::<f64>()
    }

    fn read(tensors: &Tensors<'_>, intercept: f64) -> Result<Self, ModelError> {
        let [mean, scale, low, high, weight] = ["mean", "scale", "low", "high", "weight"]
            .map(|name| tensors.get::<f64>(name, &[WIDTH]));
        let (mean, scale, low, high, weight) = (mean?, scale?, low?, high?, weight?);
        let term = |at: usize| Term {
            mean: mean[at],
            scale: scale[at],
            low: low[at],
            high: high[at],
            weight: weight[at],
        };
        let terms: Vec<Term> = (0..WIDTH).map(term).collect();
        let sound = |t: &Term| {
            [t.mean, t.scale, t.low, t.high, t.weight]
                .iter()
                .all(|x| x.is_finite())
                && t.scale > 0.0
                && t.low <= t.high
        };
        match intercept.is_finite() && terms.iter().all(sound) {
            true => Ok(Self { terms, intercept }),
            false => Err(ModelError::inconsistent(
                "weight",
                "is not finite, or its bounds are crossed",
            )),
        }
    }

    /// Adds the tensors that loading reads.
    #[must_use]
    pub fn write(&self, to: TensorFile) -> TensorFile {
        let column = |of: fn(&Term) -> f64| self.terms.iter().map(of).collect::<Vec<f64>>();
        to.with("mean", &[WIDTH], &column(|t| t.mean))
            .with("scale", &[WIDTH], &column(|t| t.scale))
            .with("low", &[WIDTH], &column(|t| t.low))
            .with("high", &[WIDTH], &column(|t| t.high))
            .with("weight", &[WIDTH], &column(|t| t.weight))
    }
}

/// Forest and logit.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    /// Trees with shares of churn as values.
    pub forest: Forest,
    /// The logit.
    pub logit: Logit,
}

impl Blend {
    /// The forest's share of trees for churn, 0 to 1.
    pub fn share(&self, features: &[f32]) -> f64 {
        self.forest.sum(features) / self.forest.trees() as f64
    }

    /// The score before calibration.
    pub fn score(&self, features: &[f32]) -> f64 {
        score(self.share(features), self.logit.score(features))
    }

    /// [`Self::score`] of each of many vectors.
    pub fn scores(&self, vectors: &[f32]) -> Vec<f64> {
        let (sums, trees) = (self.forest.sums(vectors, WIDTH), self.forest.trees() as f64);
        let both = sums.into_iter().zip(vectors.chunks_exact(WIDTH));
        both.map(|(sum, features)| score(sum / trees, self.logit.score(features)))
            .collect()
    }

    /// The score of an unknown customer.
    pub fn base(&self) -> f64 {
        score(
            self.forest.base() / self.forest.trees() as f64,
            self.logit.intercept,
        )
    }

    /// [`Self::score`], and what each feature adds to [`Self::base`] in it: one walk through the
    /// trees.
    pub fn explain(&self, features: &[f32]) -> (f64, Vec<f64>) {
        let (mut parts, linear) = (
            vec![0.0; features.len()],
            self.logit.parts(features).collect::<Vec<f64>>(),
        );
        let (sum, trees) = (
            self.forest.contribute(features, &mut parts),
            self.forest.trees() as f64,
        );
        for (part, linear) in parts.iter_mut().zip(&linear) {
            *part = 2.0 * *part / trees + linear / 2.0;
        }
        (
            score(
                sum / trees,
                self.logit.intercept + linear.iter().sum::<f64>(),
            ),
            parts,
        )
    }
}

/// The blend of the forest's share and the logit's log-odds.
pub fn score(share: f64, log_odds: f64) -> f64 {
    2.0 * (share - 0.5) + log_odds / 2.0
}

/// The probability of log-odds.
pub fn probability(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// Customers of a backtest with similar predicted probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Least probability of the bin.
    pub lower: f64,
    /// Its end.
    pub upper: f64,
    /// Mean of what was predicted.
    pub predicted: f64,
    /// Share that did stop buying.
    pub observed: f64,
    /// Customers.
    pub customers: u64,
}

impl CalibrationBin {
    /// Ten bins of equal width; those without customers are left out.
    pub fn tenths(probability: &[f64], churned: &[bool]) -> Vec<Self> {
        let mut bins = [(0.0, 0_u64, 0_u64); 10];
        for (p, churned) in probability.iter().zip(churned) {
            let bin = &mut bins[((p * 10.0) as usize).min(9)];
            *bin = (bin.0 + p, bin.1 + u64::from(*churned), bin.2 + 1);
        }
        let bins = bins
            .into_iter()
            .enumerate()
            .filter(|(_, (.., customers))| *customers > 0);
        bins.map(|(at, (sum, churned, customers))| Self {
            lower: at as f64 / 10.0,
            upper: (at + 1) as f64 / 10.0,
            predicted: sum / customers as f64,
            observed: churned as f64 / customers as f64,
            customers,
        })
        .collect()
    }
}

/// The model.
#[derive(Debug)]
pub struct ChurnModel {
    parameters: Parameters,
    calibration: Vec<CalibrationBin>,
    blend: Blend,
    base: f64,
    /// By value at risk, the most first.
    customers: Vec<Customer>,
    /// Mean of the customers' tastes.
    average_taste: [f32; TASTES],
    places: HashMap<CustomerId, usize>,
}

impl Model for ChurnModel {
    const KIND: ModelKind = ModelKind::Churn;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        let names: Vec<_> = Feature::ALL.iter().map(|feature| feature.name()).collect();
        if parameters.features != names {
            return Err(ModelError::inconsistent(
                "features",
                "are not those that this program knows",
            ));
        }
        let [slope, intercept] = parameters.calibration;
        if ![slope, intercept, parameters.season]
            .iter()
            .all(|x| x.is_finite())
            || slope <= 0.0
        {
            return Err(ModelError::inconsistent(
                "calibration",
                "does not keep the order of scores",
            ));
        }
        let tensors = artifact.tensors("model.safetensors")?;
        let forest = Forest::read(&tensors, "", WIDTH)?;
        let blend = Blend {
            forest,
            logit: Logit::read(&tensors, parameters.intercept)?,
        };

        let customers = customers(artifact, &tensors, &parameters, &blend)?;
        let places = customers
            .iter()
            .enumerate()
            .map(|(at, customer)| (customer.id.clone(), at))
            .collect();
        let (base, average_taste) = (parameters.log_odds(blend.base()), average_taste(&customers));
        Ok(Self {
            parameters,
            calibration: artifact.backtest()?,
            blend,
            base,
            customers,
            average_taste,
            places,
        })
    }
}

/// The customers, by value at risk, the most first.
fn customers(
    artifact: &Artifact,
    tensors: &Tensors<'_>,
    parameters: &Parameters,
    blend: &Blend,
) -> Result<Vec<Customer>, ModelError> {
    let table = artifact.table("customers.parquet")?;
    let (ids, countries) = (table.text("customer_id")?, table.text("country")?);
    let annual_values = table.float("annual_value")?;
    let vectors: Vec<f32> = tensors.get("customer", &[table.rows(), WIDTH])?;
    let scores = blend.scores(&vectors);
    let mut customers = Vec::with_capacity(ids.len());
    for (row, ((id, country), annual_value)) in
        ids.iter().zip(countries).zip(annual_values).enumerate()
    {
        let features: Box<[f32]> = vectors[row * WIDTH..][..WIDTH].into();
        if features.iter().any(|value| !value.is_finite()) {
            return Err(ModelError::inconsistent(
                "customer",
                format!("is not finite in row {row}"),
            ));
        }
        let id = id.parse().map_err(|_| {
            ModelError::inconsistent("customer_id", format!("is empty in row {row}"))
        })?;
        let probability = parameters.probability(scores[row]);
        customers.push(Customer {
            id,
            country,
            annual_value,
            features,
            probability,
            reasons: OnceLock::new(),
        });
    }
    customers.sort_by(|a, b| {
        b.value_at_risk()
            .total_cmp(&a.value_at_risk())
            .then_with(|| a.id.cmp(&b.id))
    });
    Ok(customers)
}

/// The mean of each coordinate of the customers' tastes.
fn average_taste(customers: &[Customer]) -> [f32; TASTES] {
    let count = customers.len().max(1) as f64;
    std::array::from_fn(|at| {
        let coordinate = customers
            .iter()
            .map(|customer| f64::from(customer.features[Feature::ALL.len() + at]));
        (coordinate.sum::<f64>() / count) as f32
    })
}

impl ChurnModel {
    /// A customer that the model knows.
    pub fn customer(&self, id: &str) -> Option<&Customer> {
        self.places
            .get(CustomerId::canonical(id))
            .and_then(|at| self.customers.get(*at))
    }

    /// All customers, by value at risk, the most first.
    pub fn customers(&self) -> &[Customer] {
        &self.customers
    }

    /// Forest and logit, before calibration.
    pub fn blend(&self) -> &Blend {
        &self.blend
    }

    /// How predicted probabilities compared with the outcome in the backtest.
    pub fn calibration(&self) -> &[CalibrationBin] {
        &self.calibration
    }

    /// Probabilities from which on a risk is medium, and high.
    pub fn levels(&self) -> [f64; 2] {
        self.parameters.levels
    }

    /// The vector of a customer given by the features of [`Feature::ALL`] alone: the taste, which
    /// is not known, is the average one.
    pub fn with_average_taste(&self, features: &[f32]) -> [f32; WIDTH] {
        let mut vector = [0.0; WIDTH];
        vector
            .iter_mut()
            .zip(features.iter().chain(&self.average_taste))
            .for_each(|(place, value)| *place = *value);
        vector
    }

    /// Calibrated probability of a vector of [`WIDTH`].
    pub fn probability(&self, features: &[f32]) -> f64 {
        self.parameters.probability(self.blend.score(features))
    }

    /// [`Self::probability`] of each of many vectors.
    pub fn probabilities(&self, vectors: &[f32]) -> Vec<f64> {
        self.blend
            .scores(vectors)
            .into_iter()
            .map(|score| self.parameters.probability(score))
            .collect()
    }

    /// How serious a probability is.
    pub fn level(&self, probability: f64) -> RiskLevel {
        match self.parameters.levels {
            [_, high] if probability >= high => RiskLevel::High,
            [medium, _] if probability >= medium => RiskLevel::Medium,
            _ => RiskLevel::Low,
        }
    }

    /// [`Self::probability`] and its reasons, the strongest first; features that contribute nothing
    /// are left out. [`Self::base`] and the contributions add up to the log-odds of the
    /// probability.
    pub fn explain(&self, features: &[f32]) -> (f64, Vec<Reason>) {
        let (score, parts) = self.blend.explain(features);
        let [slope, _] = self.parameters.calibration;
        let (known, tastes) = parts.split_at(Feature::ALL.len().min(parts.len()));
        let known = known
            .iter()
            .zip(features)
            .zip(Feature::ALL)
            .map(|((part, value), feature)| Reason {
                about: About::Feature(*feature, *value),
                contribution: slope * part,
            });
        let taste = Reason {
            about: About::Taste,
            contribution: slope * tastes.iter().sum::<f64>(),
        };
        let mut reasons: Vec<_> = known
            .chain([taste])
            .filter(|reason| reason.contribution != 0.0)
            .collect();
        reasons.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
        (self.parameters.probability(score), reasons)
    }

    /// The reasons of a customer of this model, computed once.
    pub fn reasons_of<'a>(&self, customer: &'a Customer) -> &'a [Reason] {
        customer
            .reasons
            .get_or_init(|| self.explain(&customer.features).1.into())
    }

    /// Log-odds of an unknown customer.
    pub fn base(&self) -> f64 {
        self.base
    }
}

impl Parameters {
    fn log_odds(&self, score: f64) -> f64 {
        let [slope, intercept] = self.calibration;
        slope * score + intercept + self.season
    }

    /// The calibrated probability of a score.
    pub fn probability(&self, score: f64) -> f64 {
        probability(self.log_odds(score))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blend() -> Blend {
        let forest = Forest::new(
            WIDTH,
            1,
            &[0, 1],
            &[50.0, f32::MAX],
            &[0.4, 0.2, 0.9, 0.5, 0.5, 0.5],
        )
        .unwrap();
        let term = |at: usize| Term {
            mean: 1.0,
            scale: 2.0,
            low: 0.0,
            high: 5.0,
            weight: 0.1 * (at as f64).sin(),
        };
        Blend {
            forest,
            logit: Logit {
                terms: (0..WIDTH).map(term).collect(),
                intercept: -0.3,
            },
        }
    }

    proptest! {
        #[test]
        fn contributions_add_up_to_the_score(x in prop::collection::vec(-1e6_f32..1e6, WIDTH)) {
            let blend = blend();
            let (score, parts) = blend.explain(&x);
            prop_assert_eq!(score, blend.score(&x));
            prop_assert!((blend.base() + parts.iter().sum::<f64>() - score).abs() < 1e-6);
            prop_assert!((0.0..=1.0).contains(&probability(blend.score(&x))));
        }
    }

    #[test]
    fn whose_taste_is_not_known_has_the_average_one() {
        let customer = |id: &str, taste: f32| Customer {
            id: id.parse().unwrap(),
            country: "France".into(),
            annual_value: 0.0,
            features: (0..WIDTH)
                .map(|at| {
                    if at < Feature::ALL.len() {
                        9.0
                    } else {
                        taste * at as f32
                    }
                })
                .collect(),
            probability: 0.5,
            reasons: OnceLock::new(),
        };
        assert_eq!(average_taste(&[]), [0.0; TASTES]);
        let average = average_taste(&[customer("1", 1.0), customer("2", 2.0)]);
        assert_eq!(
            average,
            std::array::from_fn(|at| 1.5 * (Feature::ALL.len() + at) as f32)
        );

        let levels = [0.3, 0.6];
        let model = ChurnModel {
            parameters: Parameters {
                features: vec![],
                calibration: [1.0, 0.0],
                season: 0.0,
                intercept: -0.3,
                levels,
            },
            calibration: Vec::new(),
            base: blend().base(),
            blend: blend(),
            customers: Vec::new(),
            average_taste: average,
            places: HashMap::new(),
        };
        let known = vec![1.0; Feature::ALL.len()];
        let vector = model.with_average_taste(&known);
        assert_eq!(vector.split_at(known.len()), (&known[..], &average[..]));
        let of_nobody = [known, vec![0.0; TASTES]].concat();
        assert_ne!(
            model.probability(&vector),
            model.probability(&of_nobody),
            "taste counts"
        );
    }

    #[test]
    fn a_reason_has_no_zero_below_zero() {
        let told = |value| {
            Reason {
                about: About::Feature(Feature::ALL[0], value),
                contribution: 0.0,
            }
            .text()
        };
        assert_eq!(told(-0.0), told(0.0));
        assert_ne!(told(1.0), told(0.0));
    }

    #[test]
    fn a_logit_does_not_reach_beyond_what_it_has_seen() {
        let logit = blend().logit;
        let (mut far, mut further) = (vec![0.0; WIDTH], vec![0.0; WIDTH]);
        (far[3], further[3]) = (1e6, 1e12);
        assert_eq!(logit.score(&far), logit.score(&further));
    }
}

//! Churn: the chance of no purchase in the 90 days after the as-of time. Random forest (Breiman 2001) with calibrated
//! probability (Platt 1999).
//!
//! In: `[F]` f32 in the order of [`Feature::ALL`], from lines before the as-of time (days, counts, shop currency).
//! Out: a probability in 0..=1; contributions that add up to the forest's score less its average (Saabas 2014).
//!
//! `model.safetensors`: `feature` `[trees, 2^depth - 1]` i32, `threshold` the same f32, `value` `[trees, 2^(depth+1) - 1]`
//! f32; trees are complete and laid out level by level: the children of node n are 2n + 1 (at or below the threshold)
//! and 2n + 2. `customer` `[n, F]` f32 in the order of `customers.parquet`: `customer_id`, `country`, `annual_value`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{Artifact, CustomerId, Model, ModelError, ModelKind};

/// Days that a customer is watched for a purchase.
pub const HORIZON_DAYS: i64 = 90;

const DAY: f64 = 86_400.0;

/// A line of a customer's history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Seconds since 1970.
    pub time: i64,
    /// Number of the invoice; lines of an invoice share it.
    pub invoice: u64,
    /// Number of the product.
    pub product: u64,
    /// Pieces; below 0 for returns.
    pub quantity: f64,
    /// Shop currency; below 0 for returns.
    pub amount: f64,
}

macro_rules! features {
    ($($variant:ident $name:literal $words:literal),* $(,)?) => {
        /// What is known of a customer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "`Feature::words` says what each is")]
        pub enum Feature { $($variant),* }

        impl Feature {
            /// All of them, in the order of every vector.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in requests and answers.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it is, for people; `{}` stands for the value.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words),* }
            }
        }
    };
}
features! {
    RecencyDays "recency_days" "last order {} days ago",
    Orders "orders" "{} orders",
    TenureDays "tenure_days" "first order {} days ago",
    AverageGapDays "average_gap_days" "{} days between orders",
    LongestGapDays "longest_gap_days" "longest pause {} days",
    Overdue "overdue" "{} usual intervals since the last order",
    Spend "spend" "{} spent in all",
    Spend90 "spend_90_days" "{} spent in the last 90 days",
    Spend180 "spend_180_days" "{} spent in the last 180 days",
    Orders30 "orders_30_days" "{} orders in the last 30 days",
    Orders90 "orders_90_days" "{} orders in the last 90 days",
    Orders180 "orders_180_days" "{} orders in the last 180 days",
    OrdersPerMonth "orders_per_month" "{} orders a month",
    AverageOrder "average_order_value" "{} spent an order",
    LastOrder "last_order_value" "{} spent in the last order",
    Pieces "pieces" "{} pieces bought",
    Products "products" "{} different products",
    LinesPerOrder "lines_per_order" "{} lines an order",
    Returns "returns" "{} returns",
    ReturnedShare "returned_share" "{} of the spend returned",
    NewProducts "new_product_share" "{} of the last order's products new",
    PreviousGap "previous_gap_days" "{} days between the last two orders",
    PiecesPerLine "pieces_per_line" "{} pieces a line",
    AveragePrice "average_price" "{} a piece",
}

impl Feature {
    /// Whether it may be below 0.
    pub fn may_be_negative(self) -> bool {
        false
    }

    /// The feature of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|feature| feature.name() == name)
    }
}

/// The features of a customer as of an instant (seconds since 1970), from all lines before it; `None` for who has bought
/// nothing before. Lines may come in any order; those from `as_of` on are not looked at.
pub fn features(lines: &[Line], as_of: i64) -> Option<Vec<f32>> {
    let bought: Vec<&Line> = lines.iter().filter(|line| line.time < as_of && line.quantity > 0.0).collect();
    let returned: Vec<&Line> = lines.iter().filter(|line| line.time < as_of && line.quantity < 0.0).collect();
    // Orders in time: an invoice's first instant and its value.
    let mut orders: HashMap<u64, (i64, f64)> = HashMap::new();
    for line in &bought {
        let order = orders.entry(line.invoice).or_insert((line.time, 0.0));
        order.0 = order.0.min(line.time);
        order.1 += line.amount;
    }
    let mut by_time: Vec<(i64, u64, f64)> = orders.iter().map(|(id, (time, value))| (*time, *id, *value)).collect();
    by_time.sort_by_key(|order| (order.0, order.1));
    let (&(first, ..), &(last, last_invoice, last_value)) = (by_time.first()?, by_time.last()?);

    let days = |from: i64, to: i64| (to - from) as f64 / DAY;
    let gaps: Vec<f64> = by_time.windows(2).map(|pair| days(pair[0].0, pair[1].0)).collect();
    let (recency, tenure, count) = (days(last, as_of), days(first, as_of), by_time.len() as f64);
    let gap = if gaps.is_empty() { tenure } else { gaps.iter().sum::<f64>() / gaps.len() as f64 };
    let within = |time: i64, window: f64| days(time, as_of) <= window;
    let spend_within = |window| by_time.iter().filter(|o| within(o.0, window)).map(|o| o.2).sum::<f64>();
    let orders_within = |window| by_time.iter().filter(|o| within(o.0, window)).count() as f64;
    let spend: f64 = by_time.iter().map(|order| order.2).sum();
    let pieces: f64 = bought.iter().map(|line| line.quantity).sum();
    let mut products: Vec<u64> = bought.iter().map(|line| line.product).collect();
    products.sort_unstable();
    products.dedup();
    let in_last: Vec<u64> =
        bought.iter().filter(|line| line.invoice == last_invoice).map(|line| line.product).collect();
    let known = |product: u64| bought.iter().any(|line| line.invoice != last_invoice && line.product == product);
    let new = in_last.iter().filter(|product| !known(**product)).count() as f64 / in_last.len().max(1) as f64;
    let taken_back: f64 = returned.iter().map(|line| -line.amount).sum();

    let value = |feature: Feature| match feature {
        Feature::RecencyDays => recency,
        Feature::Orders => count,
        Feature::TenureDays => tenure,
        Feature::AverageGapDays => gap,
        Feature::LongestGapDays => gaps.iter().copied().fold(0.0, f64::max),
        Feature::Overdue => recency / gap.max(1.0),
        Feature::Spend => spend,
        Feature::Spend90 => spend_within(90.0),
        Feature::Spend180 => spend_within(180.0),
        Feature::Orders30 => orders_within(30.0),
        Feature::Orders90 => orders_within(90.0),
        Feature::Orders180 => orders_within(180.0),
        Feature::OrdersPerMonth => count * 30.0 / tenure.max(30.0),
        Feature::AverageOrder => spend / count,
        Feature::LastOrder => last_value,
        Feature::Pieces => pieces,
        Feature::Products => products.len() as f64,
        Feature::LinesPerOrder => bought.len() as f64 / count,
        Feature::Returns => returned.len() as f64,
        Feature::ReturnedShare => (taken_back / spend.max(0.01)).clamp(0.0, 1.0),
        Feature::NewProducts => new,
        Feature::PreviousGap => gaps.last().copied().unwrap_or(tenure),
        Feature::PiecesPerLine => pieces / bought.len() as f64,
        Feature::AveragePrice => spend / pieces.max(1.0),
    };
    Some(Feature::ALL.iter().map(|feature| value(*feature) as f32).collect())
}

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
    /// Names of the features, in order.
    pub features: Vec<String>,
    /// Slope and intercept from the forest's log-odds to the calibrated ones.
    pub calibration: [f64; 2],
    /// Probabilities from which on a risk is medium, and high.
    pub levels: [f64; 2],
}

/// A customer whom the model knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Customer {
    /// Who.
    pub id: CustomerId,
    /// Where they buy.
    pub country: Box<str>,
    /// Spend net of returns in the year before the as-of time, shop currency.
    pub annual_value: f64,
    /// [`Feature::ALL`].
    pub features: Box<[f32]>,
    /// Calibrated probability.
    pub probability: f64,
}

impl Customer {
    /// What would be lost, shop currency.
    pub fn value_at_risk(&self) -> f64 {
        self.probability * self.annual_value.max(0.0)
    }
}

/// A feature's part in a score.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// The feature.
    pub feature: Feature,
    /// Its value.
    pub value: f32,
    /// How far it moves the forest's score from its average.
    pub contribution: f64,
}

impl Reason {
    /// The reason in words.
    pub fn text(&self) -> String {
        let value = if self.value.fract() == 0.0 || self.value.abs() >= 100.0 {
            format!("{:.0}", self.value)
        } else {
            format!("{:.2}", self.value)
        };
        self.feature.words().replace("{}", &value)
    }
}

/// Complete trees of one depth.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    trees: usize,
    depth: u32,
    feature: Vec<i32>,
    threshold: Vec<f32>,
    value: Vec<f32>,
}

impl Forest {
    /// From tensors as the module describes them.
    ///
    /// # Errors
    /// [`ModelError::Inconsistent`].
    pub fn new(
        trees: usize,
        depth: u32,
        feature: Vec<i32>,
        threshold: Vec<f32>,
        value: Vec<f32>,
    ) -> Result<Self, ModelError> {
        let inner = (1_usize << depth) - 1;
        if trees == 0
            || feature.len() != trees * inner
            || threshold.len() != trees * inner
            || value.len() != trees * (2 * inner + 1)
        {
            return Err(ModelError::inconsistent("forest", "is not of complete trees"));
        }
        if !feature.iter().all(|f| usize::try_from(*f).is_ok_and(|f| f < Feature::ALL.len())) {
            return Err(ModelError::inconsistent("feature", "is not one that this program knows"));
        }
        if threshold.iter().any(|t| t.is_nan()) || !value.iter().all(|v| (0.0..=1.0).contains(v)) {
            return Err(ModelError::inconsistent("value", "is not a probability"));
        }
        Ok(Self { trees, depth, feature, threshold, value })
    }

    /// Calls `visit` for every node on the way through every tree: the split's feature, and the values before and after.
    fn walk(&self, features: &[f32], mut visit: impl FnMut(usize, f32, f32)) -> f64 {
        let inner = (1 << self.depth) - 1;
        let mut sum = 0.0;
        for tree in 0..self.trees {
            let (splits, values) = (tree * inner, tree * (2 * inner + 1));
            let mut node = 0;
            for _ in 0..self.depth {
                let feature = self.feature[splits + node] as usize;
                let right = usize::from(features[feature] > self.threshold[splits + node]);
                let child = 2 * node + 1 + right;
                visit(feature, self.value[values + node], self.value[values + child]);
                node = child;
            }
            sum += f64::from(self.value[values + node]);
        }
        sum / self.trees as f64
    }

    /// The share of trees' probability for churn, 0 to 1, before calibration.
    pub fn score(&self, features: &[f32]) -> f64 {
        self.walk(features, |_, _, _| {})
    }

    /// The average score of the training customers.
    pub fn average(&self) -> f64 {
        let nodes = (2 << self.depth) - 1;
        self.value.iter().step_by(nodes).map(|root| f64::from(*root)).sum::<f64>() / self.trees as f64
    }

    /// What each feature contributes; they add up to the score less the average.
    pub fn contributions(&self, features: &[f32]) -> Vec<f64> {
        let mut parts = vec![0.0; Feature::ALL.len()];
        self.walk(features, |feature, before, after| parts[feature] += f64::from(after) - f64::from(before));
        parts.iter_mut().for_each(|part| *part /= self.trees as f64);
        parts
    }
}

/// From a forest's score to a probability.
pub fn calibrate([slope, intercept]: [f64; 2], score: f64) -> f64 {
    1.0 / (1.0 + (-(slope * log_odds(score) + intercept)).exp())
}

/// The log-odds of a score, which is kept off 0 and 1.
pub fn log_odds(score: f64) -> f64 {
    let score = score.clamp(1e-4, 1.0 - 1e-4);
    (score / (1.0 - score)).ln()
}

/// The model.
#[derive(Debug)]
pub struct Churn {
    parameters: Parameters,
    forest: Forest,
    /// By value at risk, the most first.
    customers: Vec<Customer>,
    places: HashMap<CustomerId, usize>,
}

impl Model for Churn {
    const KIND: ModelKind = ModelKind::Churn;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        let names: Vec<_> = Feature::ALL.iter().map(|feature| feature.name()).collect();
        if parameters.features != names {
            return Err(ModelError::inconsistent("features", "are not those that this program knows"));
        }
        let tensors = artifact.tensors("model.safetensors")?;
        let [trees, inner] = tensors.shape("feature")?;
        let depth = (inner + 1).trailing_zeros();
        if !(inner + 1).is_power_of_two() || depth > 20 {
            return Err(ModelError::inconsistent("feature", "is not of complete trees"));
        }
        let (feature, threshold) =
            (tensors.get("feature", &[trees, inner])?, tensors.get("threshold", &[trees, inner])?);
        let forest = Forest::new(trees, depth, feature, threshold, tensors.get("value", &[trees, 2 * inner + 1])?)?;

        let table = artifact.table("customers.parquet")?;
        let (ids, countries) = (table.text("customer_id")?, table.text("country")?);
        let annual_values = table.float("annual_value")?;
        let vectors: Vec<f32> = tensors.get("customer", &[table.rows(), names.len()])?;
        let mut customers = Vec::with_capacity(ids.len());
        for (row, ((id, country), annual_value)) in ids.iter().zip(countries).zip(annual_values).enumerate() {
            let features: Box<[f32]> = vectors[row * names.len()..][..names.len()].into();
            if features.iter().any(|value| !value.is_finite()) {
                return Err(ModelError::inconsistent("customer", format!("is not finite in row {row}")));
            }
            let id =
                id.parse().map_err(|_| ModelError::inconsistent("customer_id", format!("is empty in row {row}")))?;
            let probability = calibrate(parameters.calibration, forest.score(&features));
            customers.push(Customer { id, country, annual_value, features, probability });
        }
        customers.sort_by(|a, b| b.value_at_risk().total_cmp(&a.value_at_risk()).then_with(|| a.id.cmp(&b.id)));
        let places = customers.iter().enumerate().map(|(at, customer)| (customer.id.clone(), at)).collect();
        Ok(Self { parameters, forest, customers, places })
    }
}

impl Churn {
    /// A customer whom the model knows.
    pub fn customer(&self, id: &str) -> Option<&Customer> {
        self.places.get(CustomerId::canonical(id)).and_then(|at| self.customers.get(*at))
    }

    /// All customers, by value at risk, the most first.
    pub fn customers(&self) -> &[Customer] {
        &self.customers
    }

    /// Calibrated probability of a vector of [`Feature::ALL`].
    pub fn probability(&self, features: &[f32]) -> f64 {
        calibrate(self.parameters.calibration, self.forest.score(features))
    }

    /// How serious a probability is.
    pub fn level(&self, probability: f64) -> RiskLevel {
        match self.parameters.levels {
            [_, high] if probability >= high => RiskLevel::High,
            [medium, _] if probability >= medium => RiskLevel::Medium,
            _ => RiskLevel::Low,
        }
    }

    /// What a score rests on, the strongest first; features without a part are left out.
    pub fn reasons(&self, features: &[f32]) -> Vec<Reason> {
        let parts = self.forest.contributions(features).into_iter().zip(features).zip(Feature::ALL);
        let mut reasons: Vec<_> = parts
            .filter(|((contribution, _), _)| *contribution != 0.0)
            .map(|((contribution, value), feature)| Reason { feature: *feature, value: *value, contribution })
            .collect();
        reasons.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
        reasons
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(day: i64, invoice: u64, product: u64, quantity: f64, amount: f64) -> Line {
        Line { time: day * 86_400, invoice, product, quantity, amount }
    }

    fn feature(vector: &[f32], feature: Feature) -> f32 {
        vector[Feature::ALL.iter().position(|f| *f == feature).unwrap()]
    }

    #[test]
    fn features_are_what_they_say() {
        let history =
            [line(0, 1, 7, 2.0, 10.0), line(30, 2, 7, 1.0, 5.0), line(30, 2, 8, 1.0, 15.0), line(40, 3, 7, -1.0, -5.0)];
        let vector = features(&history, 100 * 86_400).unwrap();
        for (of, value) in [
            (Feature::RecencyDays, 70.0),
            (Feature::Orders, 2.0),
            (Feature::TenureDays, 100.0),
            (Feature::AverageGapDays, 30.0),
            (Feature::Spend, 30.0),
            (Feature::Spend90, 20.0),
            (Feature::Products, 2.0),
            (Feature::Returns, 1.0),
            (Feature::NewProducts, 0.5),
        ] {
            assert_eq!(feature(&vector, of), value, "{of:?}");
        }
        assert_eq!(features(&history, 0), None);
    }

    /// A tree of depth 1 and one of the same depth that does not split.
    fn forest() -> Forest {
        Forest::new(2, 1, vec![0, 1], vec![50.0, f32::MAX], vec![0.4, 0.2, 0.9, 0.5, 0.5, 0.5]).unwrap()
    }

    proptest! {
        #[test]
        fn the_future_moves_no_feature(
            lines in prop::collection::vec((0..200_i64, 0..9_u64, 0..9_u64, -5..9_i32), 1..40),
            as_of in 1..200_i64,
        ) {
            let history: Vec<Line> = lines.iter().map(|(d, i, p, q)| line(*d, *i, *p, f64::from(*q), f64::from(*q) * 2.0)).collect();
            let past: Vec<Line> = history.iter().copied().filter(|l| l.time < as_of * 86_400).collect();
            let with_future = features(&history, as_of * 86_400);
            prop_assert_eq!(&with_future, &features(&past, as_of * 86_400));
            prop_assert!(with_future.is_none_or(|vector| vector.iter().all(|value| value.is_finite())));
        }

        #[test]
        fn contributions_add_up_to_the_score(x in prop::collection::vec(-1e6_f32..1e6, Feature::ALL.len())) {
            let forest = forest();
            let sum: f64 = forest.contributions(&x).iter().sum();
            prop_assert!((forest.average() + sum - forest.score(&x)).abs() < 1e-6);
            prop_assert!((0.0..=1.0).contains(&calibrate([1.1, -0.2], forest.score(&x))));
        }
    }

    #[test]
    fn a_forest_that_does_not_hold_together_is_refused() {
        for (feature, value) in [
            (vec![99, 0], vec![0.5; 6]),
            (vec![0, -1], vec![0.5; 6]),
            (vec![0, 0], vec![1.5; 6]),
            (vec![0], vec![0.5; 6]),
        ] {
            assert!(Forest::new(2, 1, feature, vec![0.0; 2], value).is_err());
        }
    }
}

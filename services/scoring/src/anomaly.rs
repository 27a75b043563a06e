//! Anomaly: which line looks wrong. Robust z-scores (Iglewicz and Hoaglin 1993: median and MAD) of the logarithms of
//! quantity, unit price and line total, against the product and the customer.
//!
//! In: stock code, quantity (1 or more), unit price (above 0), customer where known.
//! Out: the largest |z| of the three measures, on one scale. A measure that is usual for either the product or the
//! customer is usual: of the two baselines the one that explains it better counts. Each baseline is scaled so that one
//! ordinary line in a thousand lies beyond 3.29, as with a normal distribution.
//!
//! Levels are shrunk to the shop where data is thin: a product's or customer's spread is
//! `sqrt((n s^2 + K s0^2) / (n + K))` with `K` = [`SHRINK`] lines of the shop's typical spread `s0`.
//!
//! `products.parquet`, `customers.parquet`: id, and `median_*`, `spread_*` of the measures; `anomalies.parquet`:
//! unusual lines before the as-of time.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::{Artifact, CustomerId, Model, ModelError, ModelKind, StockCode, Table};

/// Lines of the shop's typical spread that stand beside a product's or customer's own.
pub const SHRINK: f64 = 8.0;

/// Least lines for a baseline of one's own.
pub const LEAST_LINES: i64 = 4;

/// What is measured, in this order everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Pieces.
    Quantity,
    /// Price of a piece, shop currency.
    UnitPrice,
    /// Quantity times unit price.
    LineTotal,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Quantity, Self::UnitPrice, Self::LineTotal];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quantity => "quantity",
            Self::UnitPrice => "unit_price",
            Self::LineTotal => "line_total",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Quantity => "quantity",
            Self::UnitPrice => "unit price",
            Self::LineTotal => "line total",
        }
    }
}

/// With whom a line is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The same product's lines.
    Product,
    /// The same customer's lines.
    Customer,
    /// All lines.
    Shop,
}

impl Baseline {
    /// The name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Customer => "customer",
            Self::Shop => "shop",
        }
    }
}

/// What is usual: median and spread of the logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Median of the logarithm.
    pub median: f64,
    /// Robust standard deviation of the logarithm, above 0.
    pub spread: f64,
}

impl Level {
    fn z(self, log: f64) -> f64 {
        (log - self.median) / self.spread
    }
}

/// How serious a score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Ordinary.
    None,
    /// Rare but plausible.
    Low,
    /// Worth a look.
    Medium,
    /// Almost certainly wrong or exceptional.
    High,
}

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// What is usual in the shop, by measure.
    pub shop: [Level; 3],
    /// Factor from a raw |z| to the common scale, by baseline (product, customer, shop) and measure.
    pub scale: [[f64; 3]; 3],
    /// Scores from which on a line is low, medium, high.
    pub severity: [f64; 3],
}

/// A line to be scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transaction<'a> {
    /// The product.
    pub stock_code: &'a str,
    /// Pieces, 1 or more.
    pub quantity: f64,
    /// Price of a piece, above 0.
    pub unit_price: f64,
    /// The customer; empty: unknown.
    pub customer_id: &'a str,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// What is compared.
    pub measure: Measure,
    /// With whom.
    pub baseline: Baseline,
    /// The line's value.
    pub value: f64,
    /// The usual value.
    pub expected: f64,
    /// On the common scale; below 0: too small.
    pub z: f64,
}

/// How unusual a line is.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The largest |z|.
    pub score: f64,
    /// How serious that is.
    pub severity: Severity,
    /// One for each measure, the largest first.
    pub deviations: [Deviation; 3],
}

/// Levels by id.
pub type Levels<K> = HashMap<K, [Level; 3]>;

/// An unusual line on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Its number among the shop's lines.
    pub line_id: i64,
    /// Its invoice.
    pub invoice: Box<str>,
    /// Its product.
    pub stock_code: Box<str>,
    /// Pieces.
    pub quantity: i64,
    /// Price of a piece.
    pub unit_price: f64,
    /// Who bought; empty: unknown.
    pub customer_id: Box<str>,
    /// Where to.
    pub country: Box<str>,
    /// When.
    pub time: NaiveDateTime,
    /// How unusual.
    pub score: Score,
}

/// The model.
#[derive(Debug)]
pub struct Anomaly {
    levels: Baselines,
    recorded: Vec<Recorded>,
}

/// What lines are compared with.
#[derive(Debug, Clone)]
pub struct Baselines {
    /// What the manifest holds.
    pub parameters: Parameters,
    /// By product.
    pub products: Levels<StockCode>,
    /// By customer.
    pub customers: Levels<CustomerId>,
}

impl Baselines {
    /// Raw z-scores of a measure with every baseline that there is; the shop alone for a product without one.
    pub fn raw<'a>(
        &'a self,
        line: &Transaction<'_>,
        measure: Measure,
    ) -> impl Iterator<Item = (Baseline, Level, f64)> + use<'a> {
        let at = measure as usize;
        let value = value(line, measure).ln();
        let product =
            self.products.get(StockCode::canonical(line.stock_code)).map(|levels| (Baseline::Product, levels[at]));
        // What a customer pays for a piece depends on the product, not on them.
        let customer =
            (measure != Measure::UnitPrice).then(|| self.customers.get(CustomerId::canonical(line.customer_id)));
        let customer = customer.flatten().map(|levels| (Baseline::Customer, levels[at]));
        let shop = product.is_none().then_some((Baseline::Shop, self.parameters.shop[at]));
        let baselines = [product, customer, shop].into_iter().flatten();
        baselines.map(move |(baseline, level)| (baseline, level, level.z(value)))
    }

    /// How unusual a line is. The values of `line` are finite and above 0.
    pub fn score(&self, line: &Transaction<'_>) -> Score {
        let mut deviations = Measure::ALL.map(|measure| self.deviation(line, measure));
        deviations.sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()));
        let score = deviations[0].z.abs();
        let severity = match self.parameters.severity {
            [_, _, high] if score >= high => Severity::High,
            [_, medium, _] if score >= medium => Severity::Medium,
            [low, _, _] if score >= low => Severity::Low,
            _ => Severity::None,
        };
        Score { score, severity, deviations }
    }

    fn deviation(&self, line: &Transaction<'_>, measure: Measure) -> Deviation {
        let scaled = self.raw(line, measure).map(|(baseline, level, z)| {
            let z = z * self.parameters.scale[baseline as usize][measure as usize];
            Deviation { measure, baseline, value: value(line, measure), expected: level.median.exp(), z }
        });
        // There is always one: the product's or the shop's.
        scaled.min_by(|a, b| a.z.abs().total_cmp(&b.z.abs())).unwrap_or(Deviation {
            measure,
            baseline: Baseline::Shop,
            value: value(line, measure),
            expected: self.parameters.shop[measure as usize].median.exp(),
            z: 0.0,
        })
    }
}

fn value(line: &Transaction<'_>, measure: Measure) -> f64 {
    match measure {
        Measure::Quantity => line.quantity,
        Measure::UnitPrice => line.unit_price,
        Measure::LineTotal => line.quantity * line.unit_price,
    }
}

impl Score {
    /// What is off, in words; empty for an ordinary line.
    pub fn reason(&self, stock_code: &str, customer_id: &str) -> String {
        // A total is off because something else is, where something else is about as far off.
        let far = self.deviations.iter().filter(|deviation| deviation.z.abs() >= 0.8 * self.score);
        let culprit = far.min_by_key(|deviation| deviation.measure == Measure::LineTotal);
        let (Some(culprit), true) = (culprit, self.severity != Severity::None) else { return String::new() };
        let Deviation { measure, baseline, value, expected, z } = culprit;
        let ratio = if *z > 0.0 { value / expected } else { expected / value };
        let direction = if *z > 0.0 { "above" } else { "below" };
        let whose = match baseline {
            Baseline::Product => format!("of product {stock_code}"),
            Baseline::Customer => format!("of customer {customer_id}"),
            Baseline::Shop => "of the shop".to_owned(),
        };
        format!("{} {value:.2} is {ratio:.1} times {direction} the usual {expected:.2} {whose}", measure.words())
    }
}

impl Model for Anomaly {
    const KIND: ModelKind = ModelKind::Anomaly;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        if !parameters.shop.iter().all(sane)
            || !parameters.scale.as_flattened().iter().chain(&parameters.severity).all(|x| x.is_finite() && *x > 0.0)
        {
            return Err(ModelError::inconsistent("parameters", "are not finite and above 0"));
        }
        let products = levels(&artifact.table("products.parquet")?, "stock_code")?;
        let customers = levels(&artifact.table("customers.parquet")?, "customer_id")?;
        let levels = Baselines { parameters, products, customers };
        let recorded = recorded(&artifact.table("anomalies.parquet")?, &levels)?;
        Ok(Self { levels, recorded })
    }
}

impl Anomaly {
    /// How unusual a line is. Its values are finite and above 0.
    pub fn score(&self, line: &Transaction<'_>) -> Score {
        self.levels.score(line)
    }

    /// Unusual lines before the as-of time, the most severe first, then the latest first.
    pub fn recorded(&self) -> &[Recorded] {
        &self.recorded
    }
}

fn sane(level: &Level) -> bool {
    level.median.is_finite() && level.spread.is_finite() && level.spread > 0.0
}

fn levels<K: std::str::FromStr + Eq + std::hash::Hash>(
    table: &Table,
    id: &'static str,
) -> Result<Levels<K>, ModelError> {
    let ids = table.text(id)?;
    let mut columns = Vec::new();
    for measure in Measure::ALL {
        let [median, spread] = ["median", "spread"].map(|what| table.float(&format!("{what}_{}", measure.name())));
        columns.push((median?, spread?));
    }
    let mut levels = HashMap::with_capacity(ids.len());
    for (row, key) in ids.iter().enumerate() {
        let at = |measure: usize| Level { median: columns[measure].0[row], spread: columns[measure].1[row] };
        let three = [at(0), at(1), at(2)];
        if !three.iter().all(sane) {
            return Err(ModelError::inconsistent(id, format!("has no usable level in row {row}")));
        }
        let key = key.parse().map_err(|_| ModelError::inconsistent(id, format!("is empty in row {row}")))?;
        levels.insert(key, three);
    }
    Ok(levels)
}

fn recorded(table: &Table, levels: &Baselines) -> Result<Vec<Recorded>, ModelError> {
    let (line_id, quantity, unit_price) = (table.int("line_id")?, table.int("quantity")?, table.float("unit_price")?);
    let (invoice, stock_code, country) = (table.text("invoice")?, table.text("stock_code")?, table.text("country")?);
    let (customer_id, time) = (table.optional_text("customer_id")?, table.time("invoice_time")?);
    let mut lines = Vec::with_capacity(line_id.len());
    for row in 0..line_id.len() {
        let customer_id = customer_id[row].clone().unwrap_or_default();
        let line = Transaction {
            stock_code: &stock_code[row],
            quantity: quantity[row] as f64,
            unit_price: unit_price[row],
            customer_id: &customer_id,
        };
        if line.quantity <= 0.0 || line.unit_price <= 0.0 {
            return Err(ModelError::inconsistent("anomalies", format!("has no sale in row {row}")));
        }
        let score = levels.score(&line);
        lines.push(Recorded {
            line_id: line_id[row],
            invoice: invoice[row].clone(),
            stock_code: stock_code[row].clone(),
            quantity: quantity[row],
            unit_price: unit_price[row],
            country: country[row].clone(),
            time: time[row],
            score,
            customer_id,
        });
    }
    lines.sort_by_key(|line| std::cmp::Reverse((line.score.severity, line.time, line.line_id)));
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn baselines() -> Baselines {
        let level = |usual: f64| Level { median: usual.ln(), spread: 0.5 };
        Baselines {
            parameters: Parameters {
                shop: [level(5.0), level(3.0), level(15.0)],
                scale: [[1.0; 3]; 3],
                severity: [3.0, 4.0, 6.0],
            },
            products: [("85123A".parse().unwrap(), [level(6.0), level(2.55), level(15.3)])].into(),
            customers: [("14911".parse().unwrap(), [level(600.0), level(2.0), level(1500.0)])].into(),
        }
    }

    fn score(stock_code: &str, quantity: f64, unit_price: f64, customer_id: &str) -> Score {
        baselines().score(&Transaction { stock_code, quantity, unit_price, customer_id })
    }

    #[test]
    fn what_is_off_is_named_with_what_is_usual() {
        let typo = score("85123A", 6.0, 255.0, "");
        assert_eq!(typo.severity, Severity::High);
        assert_eq!(
            typo.reason("85123A", ""),
            "unit price 255.00 is 100.0 times above the usual 2.55 of product 85123A"
        );
        assert_eq!(score("85123A", 6.0, 2.55, "").severity, Severity::None);
    }

    #[test]
    fn a_large_quantity_is_usual_for_who_buys_so() {
        assert_eq!(score("85123A", 600.0, 2.55, "").severity, Severity::High);
        assert_eq!(score("85123A", 600.0, 2.55, "14911.0").severity, Severity::None);
    }

    #[test]
    fn an_unknown_product_is_compared_with_the_shop() {
        assert!(score("new", 5.0, 3.0, "").deviations.iter().all(|d| d.baseline == Baseline::Shop));
        assert_eq!(score("new", 5.0, 3000.0, "").severity, Severity::High);
    }

    proptest! {
        #[test]
        fn a_score_is_the_largest_deviation(quantity in 1.0..1e9_f64, price in 1e-4..1e9_f64, known: bool) {
            let score = score(if known { "85123A" } else { "new" }, quantity, price, "14911");
            prop_assert!(score.score.is_finite());
            prop_assert!(score.deviations.iter().all(|d| d.z.abs() <= score.score));
        }
    }
}

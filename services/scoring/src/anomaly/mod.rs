//! Anomaly: how likely a line has a typing error in its quantity or price, and which measure is
//! unusual.
//!
//! The features of a line compare it with the recent lines of its product and customer
//! ([`History`]) and, if they are known, with the other lines of its invoice. Boosted trees turn
//! the features into log-odds. They were trained on errors planted among real lines: a factor of 3
//! to 300 in quantity or price. A second ensemble scores a line without a known invoice.
//!
//! The artifact holds the recent lines. [`AnomalyModel::score_all`] continues from them invoice by
//! invoice, as in training, and adds the lines that it has scored. It leaves out a line that looks
//! wrong until another invoice has the same price.
//!
//! `model.safetensors`: the [`Forest`]s, that of lines alone with the prefix `alone.`.
//! `products.parquet`: `stock_code`; `customers.parquet`: `customer_id`; `lines.parquet`:
//! `product`, `customer` (row, -1 for none), `log_quantity`, `log_price`, the oldest first;
//! `anomalies.parquet`: unusual lines before the as-of time.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::{Artifact, Forest, Model, ModelError, ModelKind, Table};

mod features;
mod history;
mod levels;
mod line;

pub use features::{ALONE, WIDTH};
use features::{MEASURED, Over, SAME_PRICE};
pub use history::{Context, History, OF_CUSTOMER, OF_PRODUCT};
pub use levels::{Level, Shop};
pub use line::{Measure, Observation, Sold, Transaction};

/// Prefix of the tensors of the trees for lines without a known invoice.
pub const OF_ALONE: &str = "alone.";

/// The lines that a line is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Those of the same product.
    Product,
    /// Those of the same customer.
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

impl Severity {
    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// What is usual in the shop as a whole.
    pub shop: Shop,
    /// For a line among the others of its invoice.
    pub whole: Judge,
    /// For a line without a known invoice.
    pub alone: Judge,
}

/// What turns the sum of trees into a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    /// Log-odds that are added to the trees'.
    pub base: f64,
    /// Lines with a higher score do not become part of the history.
    pub learnt_below: f64,
    /// Scores from which on a line is low, medium, high.
    pub severity: [f64; 3],
}

impl Judge {
    fn severity(&self, score: f64) -> Severity {
        match self.severity {
            [_, _, high] if score >= high => Severity::High,
            [_, medium, _] if score >= medium => Severity::Medium,
            [low, _, _] if score >= low => Severity::Low,
            _ => Severity::None,
        }
    }

    fn check(&self, name: &'static str) -> Result<(), ModelError> {
        let Self {
            base,
            learnt_below,
            severity,
        } = self;
        if ![base, learnt_below]
            .into_iter()
            .chain(severity)
            .all(|x| x.is_finite())
        {
            return Err(ModelError::inconsistent(
                name,
                "has a score that is not finite",
            ));
        }
        if !severity.is_sorted() {
            return Err(ModelError::inconsistent(
                name,
                format!("has severities out of order: {severity:?}"),
            ));
        }
        Ok(())
    }
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// The measure that is compared.
    pub measure: Measure,
    /// The lines it is compared with.
    pub baseline: Baseline,
    /// The line's value.
    pub value: f64,
    /// The usual value.
    pub expected: f64,
    /// Robust standard deviations of the logarithm; below 0: too small.
    pub z: f64,
}

/// How unusual a line is.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Log-odds of a typing error if every second line had one. Far fewer lines do: the severity
    /// says what a score means.
    pub score: f64,
    /// How serious that is.
    pub severity: Severity,
    /// How large the line is: robust standard deviations of its quantity's logarithm above the
    /// shop's median. A large order is not an error.
    pub size: f64,
    /// One for each measure, the largest |z| first.
    pub deviations: [Deviation; 3],
    /// The measure that raised the score most, by what the trees add for each feature; `None` for
    /// an ordinary line.
    pub cause: Option<Measure>,
}

/// The lines that sell something by invoice, in order of the invoice's first time, then name. A
/// line without an invoice is one of its own.
pub fn invoices(lines: &[Sold<'_>]) -> Vec<Vec<usize>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut invoices: Vec<(NaiveDateTime, &str, Vec<usize>)> = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.sells()) {
        let place = match line.invoice {
            "" => invoices.len(),
            name => *places.entry(name).or_insert(invoices.len()),
        };
        match invoices.get_mut(place) {
            Some((first, _, members)) => {
                *first = line.time.min(*first);
                members.push(at);
            }
            None => invoices.push((line.time, line.invoice, vec![at])),
        }
    }
    // Stable: lines without an invoice stay in their order.
    invoices.sort_by_key(|(first, name, _)| (*first, *name));
    invoices.into_iter().map(|(.., members)| members).collect()
}

/// The day of a time, counted from 1970.
pub fn day(time: NaiveDateTime) -> i64 {
    time.and_utc().timestamp().div_euclid(86_400)
}

/// An unusual line on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Its number among the shop's lines.
    pub line_id: i64,
    /// Its invoice.
    pub invoice: Box<str>,
    /// Its product.
    pub stock_code: Box<str>,
    /// Units.
    pub quantity: i64,
    /// Price of a unit.
    pub unit_price: f64,
    /// The customer; empty if unknown.
    pub customer_id: Box<str>,
    /// Country of delivery.
    pub country: Box<str>,
    /// When.
    pub time: NaiveDateTime,
    /// How unusual it is among the other lines of its invoice.
    pub score: Score,
}

/// The model.
#[derive(Debug)]
pub struct AnomalyModel {
    scorer: Scorer,
    as_of: NaiveDateTime,
    recorded: Vec<Recorded>,
}

/// What is usual, and the trees that score by it.
#[derive(Debug, Clone)]
pub struct Scorer {
    /// Thresholds and base scores.
    pub parameters: Parameters,
    /// The trees for a line among the others of its invoice, on [`WIDTH`] features.
    pub whole: Forest,
    /// The trees for a line alone, on the first [`ALONE`] features.
    pub alone: Forest,
    /// The recent lines.
    pub history: History,
}

impl Scorer {
    /// How unusual a line without a known invoice is. Its values are finite and above 0.
    pub fn score(&self, line: &Transaction<'_>) -> Score {
        let observed = self.history.observe(line);
        let context = self.history.alone(&observed);
        let features = self.history.features(&observed, &context);
        let score = self.parameters.alone.base + self.alone.sum(&features[..ALONE]);
        let seen = Seen {
            line: &observed,
            context: &context,
            features: &features[..ALONE],
            forest: &self.alone,
        };
        self.scored(line, &seen, &self.parameters.alone, score)
    }

    /// [`Self::score`] of each of many lines.
    pub fn scores(&self, lines: &[Transaction<'_>]) -> Vec<Score> {
        let seen = lines.iter().map(|line| {
            let observed = self.history.observe(line);
            let context = self.history.alone(&observed);
            (observed, context)
        });
        let seen: Vec<_> = seen.collect();
        let mut vectors = Vec::with_capacity(lines.len() * ALONE);
        for (observed, context) in &seen {
            vectors.extend_from_slice(&self.history.features(observed, context)[..ALONE]);
        }
        let (judge, forest) = (&self.parameters.alone, &self.alone);
        let all = lines
            .iter()
            .zip(&seen)
            .zip(vectors.chunks_exact(ALONE))
            .zip(forest.sums(&vectors, ALONE));
        let scored = all.map(|(((raw, (line, context)), features), sum)| {
            self.scored(
                raw,
                &Seen {
                    line,
                    context,
                    features,
                    forest,
                },
                judge,
                judge.base + sum,
            )
        });
        scored.collect()
    }

    fn scored(&self, raw: &Transaction<'_>, seen: &Seen<'_>, judge: &Judge, score: f64) -> Score {
        let severity = judge.severity(score);
        Score {
            score,
            severity,
            size: self.history.shop().quantity.z(seen.line.quantity),
            deviations: self.deviations(seen.line, seen.context, raw),
            cause: (severity != Severity::None).then(|| seen.cause()),
        }
    }

    /// How unusual each of many lines is among the others of its invoice; `None` for a line that
    /// sells nothing. Lines from `as_of` on become part of the history for later invoices.
    pub fn score_all(&self, lines: &[Sold<'_>], as_of: NaiveDateTime) -> Vec<Option<Score>> {
        let mut scores = vec![None; lines.len()];
        let mut now = self.clone();
        let mut held = Held::default();
        let (mut observed, mut quantities, mut vectors) = (Vec::new(), Vec::new(), Vec::new());
        for (number, members) in invoices(lines).into_iter().enumerate() {
            let today = members
                .iter()
                .map(|at| day(lines[*at].time))
                .min()
                .unwrap_or_default();
            observed.clear();
            observed.extend(
                members
                    .iter()
                    .map(|at| now.history.number(&lines[*at].line)),
            );
            observed
                .iter()
                .for_each(|line| now.history.refresh(line.product, today));
            quantities.clear();
            quantities.extend(observed.iter().map(|line| line.quantity));
            let known = members.iter().all(|at| !lines[*at].invoice.is_empty());
            let (judge, forest, width) = match known {
                true => (&now.parameters.whole, &now.whole, WIDTH),
                false => (&now.parameters.alone, &now.alone, ALONE),
            };
            let contexts = now.history.contexts(&observed, &quantities);
            vectors.clear();
            for (line, context) in observed.iter().zip(&contexts) {
                vectors.extend_from_slice(&now.history.features(line, context)[..width]);
            }
            let mut learnt = vec![true; members.len()];
            for (place, (context, sum)) in contexts
                .iter()
                .zip(forest.sums(&vectors, width))
                .enumerate()
            {
                let (at, line) = (members[place], &observed[place]);
                let score = judge.base + sum;
                learnt[place] = score <= judge.learnt_below;
                let seen = Seen {
                    line,
                    context,
                    features: &vectors[place * width..][..width],
                    forest,
                };
                scores[at] = Some(now.scored(&lines[at].line, &seen, judge, score));
            }
            for ((at, line), learnt) in members.iter().zip(&observed).zip(learnt) {
                if lines[*at].time >= as_of && (learnt || held.confirms(line, number)) {
                    now.history.push(line, today);
                }
            }
        }
        scores
    }

    /// The comparisons that explain a score, the largest first.
    fn deviations(
        &self,
        line: &Observation,
        context: &Context<'_>,
        raw: &Transaction<'_>,
    ) -> [Deviation; 3] {
        let (product, customer) = (self.history.product(line), context.customer);
        let Over { quantity: over, .. } = self.history.over(line);
        let shop = self.history.shop();
        let usual = product.map_or(shop.quantity, |product| product.quantity);
        let whose = if product.is_some() {
            Baseline::Product
        } else {
            Baseline::Shop
        };
        let deviation = |measure, baseline, log: f64, level: Level| Deviation {
            measure,
            baseline,
            value: match measure {
                Measure::Quantity => raw.quantity,
                Measure::UnitPrice => raw.unit_price,
                Measure::LineTotal => raw.quantity * raw.unit_price,
            },
            // The logarithm and back make 2.95 a little less; rounding to a millionth restores it.
            expected: (level.median.exp() * 1e6).round() / 1e6,
            z: level.z(log),
        };
        let mut quantity = deviation(Measure::Quantity, whose, line.quantity, usual);
        // A quantity is odd only if it is odd for the product and for the customer, so that the
        // smaller of the two deviations counts.
        if let Some(customer) =
            customer.filter(|customer| customer.quantity.z(over).abs() < quantity.z.abs())
        {
            let median = usual.median + customer.quantity.median;
            let own = Level {
                median,
                spread: customer.quantity.spread,
            };
            quantity = deviation(Measure::Quantity, Baseline::Customer, line.quantity, own);
        }
        let of_price = product.map_or(shop.price, |product| product.price);
        let price = deviation(Measure::UnitPrice, whose, line.price, of_price);
        let both = Level {
            median: usual.median + of_price.median,
            spread: usual.spread.hypot(of_price.spread),
        };
        let mut all = [
            quantity,
            price,
            deviation(Measure::LineTotal, whose, line.quantity + line.price, both),
        ];
        all.sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()));
        all
    }
}

/// A line, its context and its features.
struct Seen<'a> {
    line: &'a Observation,
    context: &'a Context<'a>,
    features: &'a [f32],
    forest: &'a Forest,
}

impl Seen<'_> {
    /// The measure of the features that add most to the score.
    fn cause(&self) -> Measure {
        let mut parts = [0.0; WIDTH];
        self.forest.contribute(self.features, &mut parts);
        let of = |measure| {
            parts
                .iter()
                .zip(MEASURED)
                .filter(|(_, of)| *of == Some(measure))
                .map(|(part, _)| part)
                .sum()
        };
        let (quantity, price): (f64, f64) = (of(Measure::Quantity), of(Measure::UnitPrice));
        if quantity > price {
            Measure::Quantity
        } else {
            Measure::UnitPrice
        }
    }
}

/// Lines that looked wrong: of each product the price and invoice of the last.
#[derive(Debug, Default)]
struct Held(HashMap<Option<u32>, (f64, usize)>);

impl Held {
    /// Whether a line that looks wrong has the price of one before it on another invoice: an error
    /// seldom repeats, a new price does. If not, the line is held itself.
    fn confirms(&mut self, line: &Observation, invoice: usize) -> bool {
        let before = self.0.get(&line.product);
        let again = before
            .is_some_and(|(price, of)| *of != invoice && (price - line.price).abs() < SAME_PRICE);
        if !again {
            self.0.insert(line.product, (line.price, invoice));
        }
        again
    }
}

impl Score {
    /// What is unusual, in words; empty for an ordinary line.
    pub fn reason(&self, stock_code: &str, customer_id: &str) -> String {
        let Some(cause) = self.cause else {
            return String::new();
        };
        // Among the largest deviations, the measure that the trees found odd; a total last, because
        // it deviates whenever quantity or price does.
        let most = self.deviations[0].z.abs();
        let far = self
            .deviations
            .iter()
            .filter(|deviation| deviation.z.abs() >= 0.6 * most);
        let told = far.min_by_key(|deviation| {
            (
                deviation.measure == Measure::LineTotal,
                deviation.measure != cause,
            )
        });
        let Some(culprit) = told else {
            return String::new();
        };
        let Deviation {
            measure,
            baseline,
            value,
            expected,
            z,
        } = culprit;
        let ratio = if *z > 0.0 {
            value / expected
        } else {
            expected / value
        };
        let than = if *z > 0.0 { "" } else { "less than " };
        let whose = match baseline {
            Baseline::Product => format!("of product {stock_code}"),
            Baseline::Customer => format!("of customer {customer_id}"),
            Baseline::Shop => "of the shop".to_owned(),
        };
        // Quantities are whole numbers; medians of them may lie between two.
        let (value, expected) = match measure {
            Measure::Quantity => (format!("{value:.0}"), format!("{expected:.1}")),
            Measure::UnitPrice | Measure::LineTotal => {
                (format!("{value:.2}"), format!("{expected:.2}"))
            }
        };
        format!(
            "{} {value} is {ratio:.1} times {than}the usual {expected} {whose}",
            measure.words()
        )
    }
}

impl Model for AnomalyModel {
    const KIND: ModelKind = ModelKind::Anomaly;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        parameters.shop.check()?;
        parameters.whole.check("whole")?;
        parameters.alone.check("alone")?;
        let tensors = artifact.tensors("model.safetensors")?;
        let whole = Forest::read(&tensors, "", WIDTH)?;
        let alone = Forest::read(&tensors, OF_ALONE, ALONE)?;
        let history = History::load(artifact, parameters.shop)?;
        let scorer = Scorer {
            parameters,
            whole,
            alone,
            history,
        };
        let recorded = recorded(&artifact.table("anomalies.parquet")?, &scorer)?;
        Ok(Self {
            scorer,
            as_of: artifact.manifest().as_of,
            recorded,
        })
    }
}

impl AnomalyModel {
    /// How unusual a line without a known invoice is. Its values are finite and above 0.
    pub fn score(&self, line: &Transaction<'_>) -> Score {
        self.scorer.score(line)
    }

    /// [`Self::score`] of each of many lines.
    pub fn scores(&self, lines: &[Transaction<'_>]) -> Vec<Score> {
        self.scorer.scores(lines)
    }

    /// [`Scorer::score_all`].
    pub fn score_all(&self, lines: &[Sold<'_>]) -> Vec<Option<Score>> {
        self.scorer.score_all(lines, self.as_of)
    }

    /// Unusual lines before the as-of time, the most severe first, then the latest first.
    pub fn recorded(&self) -> &[Recorded] {
        &self.recorded
    }
}

fn recorded(table: &Table, scorer: &Scorer) -> Result<Vec<Recorded>, ModelError> {
    let (line_id, quantity, unit_price) = (
        table.int("line_id")?,
        table.int("quantity")?,
        table.float("unit_price")?,
    );
    let (invoice, stock_code, country) = (
        table.text("invoice")?,
        table.text("stock_code")?,
        table.text("country")?,
    );
    let (customer_id, time) = (
        table.optional_text("customer_id")?,
        table.time("invoice_time")?,
    );
    let score = table.float("score")?;
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
            return Err(ModelError::inconsistent(
                "anomalies",
                format!("has no sale in row {row}"),
            ));
        }
        let observed = scorer.history.observe(&line);
        let context = scorer.history.alone(&observed);
        let features = scorer.history.features(&observed, &context);
        // The artifact does not keep the other lines of the invoice, so the cause of the known
        // score is found without them.
        let forest = &scorer.alone;
        let seen = Seen {
            line: &observed,
            context: &context,
            features: &features[..ALONE],
            forest,
        };
        let score = scorer.scored(&line, &seen, &scorer.parameters.whole, score[row]);
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

    use super::{features::Feature, *};

    fn line<'a>(
        stock_code: &'a str,
        quantity: f64,
        unit_price: f64,
        customer_id: &'a str,
    ) -> Transaction<'a> {
        Transaction {
            stock_code,
            quantity,
            unit_price,
            customer_id,
        }
    }

    fn day_of(n: i64) -> NaiveDateTime {
        chrono::DateTime::from_timestamp(n * 86_400, 0)
            .unwrap()
            .naive_utc()
    }

    /// Trees that call odd what is far over the product's and customer's usual quantity, or off the
    /// product's prices.
    fn scorer() -> Scorer {
        let level = |median, spread| Level { median, spread };
        let shop = Shop {
            quantity: level(1.6, 0.8),
            price: level(1.1, 1.0),
            price_within: 0.1,
        };
        let mut history = History::new(shop);
        let mut push = |line: Transaction<'_>| {
            let line = history.number(&line);
            history.push(&line, 0);
        };
        for n in 0..40 {
            push(line(
                "85123A",
                [4.0, 6.0, 8.0][n % 3],
                [2.55, 2.55, 2.95][n % 3],
                "",
            ));
            push(line("85123A", 600.0, 2.1, "14911"));
        }
        for n in 0..400 {
            push(line(&format!("P{}", n % 9), 5.0, 3.0, ""));
        }
        history.refresh_all();
        let asked = [Feature::OverCustomer, Feature::PriceDistance].map(|feature| feature as i32);
        let forest = |width| {
            Forest::new(
                width,
                1,
                &asked,
                &[2.0, 1.0],
                &[0.0, 0.0, 5.0, 0.0, 0.0, 5.0],
            )
            .unwrap()
        };
        let judge = Judge {
            base: -2.0,
            learnt_below: 1.5,
            severity: [0.0, 1.0, 2.0],
        };
        let parameters = Parameters {
            shop,
            whole: judge,
            alone: judge,
        };
        Scorer {
            parameters,
            whole: forest(WIDTH),
            alone: forest(ALONE),
            history,
        }
    }

    #[test]
    fn what_is_off_is_named_with_what_is_usual() {
        let score = scorer().score(&line("P1", 5.0, 300.0, ""));
        assert_eq!(score.severity, Severity::High);
        assert_eq!(
            score.reason("P1", ""),
            "unit price 300.00 is 100.0 times the usual 3.00 of product P1"
        );
        let score = scorer().score(&line("P1", 5.0, 0.3, ""));
        assert_eq!(
            score.reason("P1", ""),
            "unit price 0.30 is 10.0 times less than the usual 3.00 of product P1"
        );
        let usual = scorer().score(&line("P1", 5.0, 3.0, ""));
        assert_eq!(
            (usual.severity, usual.reason("P1", "").as_str()),
            (Severity::None, "")
        );
    }

    #[test]
    fn a_large_quantity_is_usual_for_who_buys_so() {
        let of = |customer: &str| {
            scorer()
                .score(&line("85123A", 600.0, 2.55, customer))
                .severity
        };
        assert_eq!((of(""), of("14911.0")), (Severity::High, Severity::None));
    }

    #[test]
    fn invoices_come_by_their_first_line_and_a_line_without_one_is_alone() {
        let sold = |invoice, at| Sold {
            invoice,
            time: day_of(at),
            line: line("P1", 1.0, 1.0, ""),
        };
        let nothing = Sold {
            line: line("P1", 0.0, 1.0, ""),
            ..sold("C", 0)
        };
        let lines = [
            sold("B", 3),
            sold("", 2),
            sold("A", 2),
            nothing,
            sold("", 1),
            sold("B", 1),
        ];
        assert_eq!(invoices(&lines), [vec![4], vec![0, 5], vec![1], vec![2]]);
    }

    #[test]
    fn lines_that_were_scored_become_usual() {
        let new: Vec<Sold<'_>> = (0..60)
            .map(|n| Sold {
                invoice: "",
                time: day_of(n),
                line: line("NEW", 5.0, 3.0, ""),
            })
            .chain([Sold {
                invoice: "",
                time: day_of(61),
                line: line("NEW", 5.0, 30.0, ""),
            }])
            .collect();
        let scores = scorer().score_all(&new, day_of(0));
        let last = scores.last().unwrap().as_ref().unwrap();
        assert_eq!(
            last.severity,
            Severity::High,
            "a price never seen of a product that was new"
        );
        assert!(scorer().score(&new[60].line).severity < Severity::High);
    }

    #[test]
    fn a_new_price_is_learnt_once_a_second_invoice_has_it() {
        let sold = |invoice, at| Sold {
            invoice,
            time: day_of(at),
            line: line("P1", 5.0, 30.0, ""),
        };
        let severities = |lines: &[Sold<'_>]| -> Vec<Severity> {
            scorer()
                .score_all(lines, day_of(0))
                .into_iter()
                .flatten()
                .map(|score| score.severity)
                .collect()
        };
        // Twice on one invoice is one error; the second invoice with the price is still odd, and
        // the first to be learnt.
        let new = [
            sold("A", 1),
            sold("A", 1),
            sold("B", 2),
            sold("C", 3),
            sold("D", 4),
            sold("E", 5),
        ];
        assert_eq!(severities(&new)[..4], [Severity::High; 4]);
        assert_eq!(severities(&new)[5], Severity::None);
        let old: Vec<Severity> = scorer()
            .score_all(&new, day_of(6))
            .into_iter()
            .flatten()
            .map(|s| s.severity)
            .collect();
        assert_eq!(
            old,
            [Severity::High; 6],
            "what is from before the as-of time is known already"
        );
    }

    #[test]
    fn thresholds_that_do_not_hold_together_are_refused() {
        let judge = scorer().parameters.alone;
        assert_eq!(judge.check("alone"), Ok(()));
        for (judge, problem) in [
            (
                Judge {
                    severity: [0.0, 2.0, 1.0],
                    ..judge
                },
                "alone has severities out of order: [0.0, 2.0, 1.0]",
            ),
            (
                Judge {
                    severity: [0.0, 1.0, f64::NAN],
                    ..judge
                },
                "alone has a score that is not finite",
            ),
            (
                Judge {
                    learnt_below: f64::INFINITY,
                    ..judge
                },
                "alone has a score that is not finite",
            ),
        ] {
            assert_eq!(judge.check("alone").unwrap_err().to_string(), problem);
        }
    }

    proptest! {
        #[test]
        fn every_line_has_a_finite_score(
            quantity in 1.0..1e9_f64,
            price in 1e-4..1e9_f64,
            known: bool,
            named: bool,
        ) {
            let stock_code = if known { "85123A" } else { "new" };
            let line = line(stock_code, quantity, price, if named { "14911" } else { "" });
            let score = scorer().score(&line);
            prop_assert!(score.score.is_finite() && score.size.is_finite());
            let most = score.deviations[0].z.abs();
            prop_assert!(score.deviations.iter().all(|of| of.z.is_finite() && of.z.abs() <= most));
            prop_assert_eq!(scorer().scores(&[line; 11]), vec![score; 11], "among others as alone");
        }
    }
}

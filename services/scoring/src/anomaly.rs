//! Anomaly: how likely a line carries a typing error in its quantity or price, and what about it is off.
//!
//! Levels (median and MAD of logarithms, by product and customer, shrunk to the shop where data is thin; the prices a
//! product has been sold at) say what is usual. From them come the features of a line, from the other lines of its
//! invoice where these are known, and boosted trees turn the features into log-odds. The trees have learnt from errors
//! planted among real lines: a factor of 3 to 300 in quantity or price.
//!
//! Levels are functions of the recent lines, which the artifact holds: [`Anomaly::score_all`] adds the lines that it has
//! scored, a week at a time.
//!
//! `model.safetensors`: the [`Forest`]. `products.parquet`: `stock_code`; `customers.parquet`: `customer_id`;
//! `lines.parquet`: `product`, `customer` (row, -1 for none), `log_quantity`, `log_price`, the oldest first;
//! `anomalies.parquet`: unusual lines before the as-of time.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::{Artifact, CustomerId, Forest, Model, ModelError, ModelKind, StockCode, Table};

/// Lines of a product that levels are made of, the latest.
pub const RECENT: usize = 2000;
/// Lines of the shop's typical spread that stand beside a product's or customer's own.
const SHRINK_PRODUCT: f64 = 5.0;
const SHRINK_CUSTOMER: f64 = 10.0;
/// From the MAD to the standard deviation of a normal distribution.
const MAD: f64 = 1.4826;
/// Least spreads of a logarithm: what never moved may yet move a little.
const LEAST_QUANTITY: f64 = 0.3;
const LEAST_PRICE: f64 = 0.05;
/// Stands for a comparison that there is nothing to make with: as far below what is odd as any.
const NOTHING: f64 = -20.0;
/// Seconds of new lines that are taken in at once.
const REFRESH: i64 = 7 * 86_400;

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
    /// Log-odds beside the trees'.
    pub base: f64,
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

/// A line of an invoice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sold<'a> {
    /// The invoice; empty: unknown.
    pub invoice: &'a str,
    /// When.
    pub time: NaiveDateTime,
    /// What.
    pub line: Transaction<'a>,
}

impl Sold<'_> {
    fn sells(&self) -> bool {
        self.line.quantity > 0.0 && self.line.unit_price > 0.0
    }
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
    /// Robust standard deviations of the logarithm; below 0: too small.
    pub z: f64,
}

/// How unusual a line is.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Log-odds of a typing error, where one line in thirty carries one; above 0 it is likelier than not.
    pub score: f64,
    /// How serious that is.
    pub severity: Severity,
    /// How large the line is: robust standard deviations of its pieces' logarithm above the shop's median. A large order is
    /// no error.
    pub size: f64,
    /// One for each measure, the largest |z| first.
    pub deviations: [Deviation; 3],
}

/// A line as logarithms, with its product and customer by number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// The product; none: never sold before.
    pub product: Option<u32>,
    /// The customer; none: not known.
    pub customer: Option<u32>,
    /// Whether a customer is named at all.
    pub named: bool,
    /// Logarithm of the pieces.
    pub quantity: f64,
    /// Logarithm of the price.
    pub price: f64,
}

/// Ids and their numbers.
#[derive(Debug, Clone)]
struct Numbers<K>(HashMap<K, u32>);

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq + std::borrow::Borrow<str> + std::str::FromStr> Numbers<K> {
    fn number(&mut self, id: &str) -> Option<u32> {
        if let Some(number) = self.0.get(id) {
            return Some(*number);
        }
        let number = u32::try_from(self.0.len()).ok()?;
        self.0.insert(id.parse().ok()?, number);
        Some(number)
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<(u32, &str)> = self.0.iter().map(|(id, number)| (*number, id.borrow())).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| name).collect()
    }
}

/// The recent lines of a shop.
#[derive(Debug, Clone, Default)]
pub struct History {
    products: Numbers<StockCode>,
    customers: Numbers<CustomerId>,
    /// The oldest first.
    lines: Vec<Observation>,
}

impl History {
    /// Adds a line, later than those before it. One without a product is passed over.
    pub fn push(&mut self, line: &Transaction<'_>) {
        let Some(product) = self.products.number(StockCode::canonical(line.stock_code)) else { return };
        let customer = match CustomerId::canonical(line.customer_id) {
            "" => None,
            id => self.customers.number(id),
        };
        let (quantity, price) = (line.quantity.ln(), line.unit_price.ln());
        self.lines.push(Observation { product: Some(product), customer, named: customer.is_some(), quantity, price });
    }

    /// Keeps the latest [`RECENT`] lines of each product.
    pub fn trim(&mut self) {
        let mut left = vec![RECENT; self.products.0.len()];
        let mut kept: Vec<bool> = vec![false; self.lines.len()];
        for (line, kept) in self.lines.iter().zip(&mut kept).rev() {
            let left = &mut left[line.product.map_or(0, |product| product as usize)];
            *kept = *left > 0;
            *left = left.saturating_sub(1);
        }
        let mut kept = kept.into_iter();
        self.lines.retain(|_| kept.next().unwrap_or(true));
    }

    /// A line by number.
    pub fn observe(&self, line: &Transaction<'_>) -> Observation {
        let customer = CustomerId::canonical(line.customer_id);
        Observation {
            product: self.products.0.get(StockCode::canonical(line.stock_code)).copied(),
            customer: self.customers.0.get(customer).copied(),
            named: !customer.is_empty(),
            quantity: line.quantity.ln(),
            price: line.unit_price.ln(),
        }
    }

    /// Products and customers by number, and the lines.
    pub fn parts(&self) -> (Vec<&str>, Vec<&str>, &[Observation]) {
        (self.products.names(), self.customers.names(), &self.lines)
    }

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        let mut history = Self::default();
        for id in artifact.table("products.parquet")?.text("stock_code")? {
            history.products.number(&id);
        }
        for id in artifact.table("customers.parquet")?.text("customer_id")? {
            history.customers.number(&id);
        }
        let table = artifact.table("lines.parquet")?;
        let (product, customer) = (table.int("product")?, table.int("customer")?);
        let (quantity, price) = (table.float("log_quantity")?, table.float("log_price")?);
        for row in 0..product.len() {
            let below = |number: i64, count: usize| u32::try_from(number).ok().filter(|n| (*n as usize) < count);
            let known = below(product[row], history.products.0.len());
            let customer = below(customer[row], history.customers.0.len());
            if known.is_none() || quantity[row].abs() > 50.0 || price[row].abs() > 50.0 {
                return Err(ModelError::inconsistent("lines", format!("has no usable line in row {row}")));
            }
            let (quantity, price) = (quantity[row], price[row]);
            let named = customer.is_some();
            history.lines.push(Observation { product: known, customer, named, quantity, price });
        }
        Ok(history)
    }
}

/// Median and spread of a logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Level {
    median: f64,
    spread: f64,
}

impl Level {
    fn z(self, log: f64) -> f64 {
        (log - self.median) / self.spread
    }
}

#[derive(Debug, Clone)]
struct ProductLevels {
    lines: f64,
    quantity: Level,
    price: Level,
    most: f64,
    /// The quantity that one line in twenty exceeds.
    large: f64,
    /// Prices it was sold at, ascending.
    prices: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct CustomerLevels {
    lines: f64,
    /// Quantity over the product's usual one.
    quantity: Level,
    most: f64,
}

/// What is usual.
#[derive(Debug, Clone)]
pub struct Levels {
    quantity: Level,
    /// Over all products.
    price: Level,
    products: Vec<Option<ProductLevels>>,
    customers: Vec<Option<CustomerLevels>>,
}

/// Length of a line's vector.
pub const WIDTH: usize = 20;

/// What the other lines of an invoice say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Context {
    /// Their median quantity and price, each over the product's usual one.
    pub others: Option<(f64, f64)>,
    /// Lines of the invoice; 0: not known.
    pub lines: usize,
}

impl Levels {
    /// From the recent lines.
    pub fn of(history: &History) -> Self {
        let lines = &history.lines;
        let spread_of = |values: Vec<f64>, least: f64| (MAD * median(values)).max(least);
        let by = |of: &dyn Fn(&Observation) -> Option<u32>, count: usize| {
            let mut groups: Vec<Vec<usize>> = vec![Vec::new(); count];
            for (at, line) in lines.iter().enumerate() {
                if let Some(group) = of(line) {
                    groups[group as usize].push(at);
                }
            }
            groups
        };
        let by_product = by(&|line| line.product, history.products.0.len());
        let shop_quantity = median(lines.iter().map(|line| line.quantity).collect());
        let shop_price = median(lines.iter().map(|line| line.price).collect());
        // Quantity and price of each line over its product's medians.
        let mut over = vec![(0.0, 0.0); lines.len()];
        let mut medians = Vec::with_capacity(by_product.len());
        for group in &by_product {
            let n = group.len() as f64;
            let quantity = median(group.iter().map(|at| lines[*at].quantity).collect());
            let price = median(group.iter().map(|at| lines[*at].price).collect());
            let quantity = (n * quantity + SHRINK_PRODUCT * shop_quantity) / (n + SHRINK_PRODUCT);
            for at in group {
                over[*at] = (lines[*at].quantity - quantity, lines[*at].price - price);
            }
            medians.push((quantity, price));
        }
        let typical_quantity = spread_of(over.iter().map(|o| o.0.abs()).collect(), LEAST_QUANTITY);
        let typical_price = spread_of(over.iter().map(|o| o.1.abs()).collect(), LEAST_PRICE);
        let shrunk = |n: f64, own: f64, typical: f64, shrink: f64, least: f64| {
            ((n * own * own + shrink * typical * typical) / (n + shrink)).sqrt().max(least)
        };
        let product = |(group, (quantity, price)): (&Vec<usize>, &(f64, f64))| {
            let n = group.len() as f64;
            let spread =
                |of: fn(&(f64, f64)) -> f64| MAD * median(group.iter().map(|at| of(&over[*at]).abs()).collect());
            let mut quantities: Vec<f64> = group.iter().map(|at| lines[*at].quantity).collect();
            quantities.sort_by(f64::total_cmp);
            (!group.is_empty()).then(|| ProductLevels {
                lines: n,
                quantity: Level {
                    median: *quantity,
                    spread: shrunk(n, spread(|o| o.0), typical_quantity, SHRINK_PRODUCT, LEAST_QUANTITY),
                },
                price: Level {
                    median: *price,
                    spread: shrunk(n, spread(|o| o.1), typical_price, SHRINK_PRODUCT, LEAST_PRICE),
                },
                most: quantities[quantities.len() - 1],
                large: quantities[((quantities.len() - 1) as f64 * 0.95).round() as usize],
                prices: prices(group.iter().map(|at| lines[*at].price)),
            })
        };
        let products = by_product.iter().zip(&medians).map(product).collect();
        let customer = |group: &Vec<usize>| {
            let n = group.len() as f64;
            let own = median(group.iter().map(|at| over[*at].0).collect());
            let spread = MAD * median(group.iter().map(|at| (over[*at].0 - own).abs()).collect());
            (!group.is_empty()).then(|| CustomerLevels {
                lines: n,
                quantity: Level {
                    median: own * n / (n + SHRINK_CUSTOMER),
                    spread: shrunk(n, spread, typical_quantity, SHRINK_CUSTOMER, LEAST_QUANTITY),
                },
                most: group.iter().map(|at| over[*at].0).fold(f64::NEG_INFINITY, f64::max),
            })
        };
        let customers = by(&|line| line.customer, history.customers.0.len()).iter().map(customer).collect();
        let price = spread_of(lines.iter().map(|line| (line.price - shop_price).abs()).collect(), LEAST_PRICE);
        Self {
            quantity: Level { median: shop_quantity, spread: typical_quantity },
            price: Level { median: shop_price, spread: price },
            products,
            customers,
        }
    }

    fn product(&self, line: &Observation) -> Option<&ProductLevels> {
        self.products.get(line.product? as usize)?.as_ref()
    }

    fn customer(&self, line: &Observation) -> Option<&CustomerLevels> {
        self.customers.get(line.customer? as usize)?.as_ref()
    }

    /// Quantity and price over the product's usual ones; the shop's for a product never sold.
    fn over(&self, line: &Observation) -> (f64, f64) {
        let product = self.product(line);
        let quantity = product.map_or(self.quantity.median, |product| product.quantity.median);
        (line.quantity - quantity, product.map_or(0.0, |product| line.price - product.price.median))
    }

    /// What the others say to each line of an invoice.
    pub fn contexts(&self, invoice: &[Observation]) -> Vec<Context> {
        let over: Vec<(f64, f64)> = invoice.iter().map(|line| self.over(line)).collect();
        let quantity = others(&over.iter().map(|o| o.0).collect::<Vec<_>>());
        let price = others(&over.iter().map(|o| o.1).collect::<Vec<_>>());
        let both = quantity.into_iter().zip(price);
        both.map(|(quantity, price)| Context { others: quantity.zip(price), lines: invoice.len() }).collect()
    }

    /// What the trees see of a line.
    pub fn features(&self, line: &Observation, context: &Context) -> [f32; WIDTH] {
        let (product, customer) = (self.product(line), self.customer(line));
        let (quantity, price) = self.over(line);
        let of_customer = customer.map_or(quantity, |customer| quantity - customer.quantity.median);
        let flag = |holds: bool| f64::from(u8::from(holds));
        let features = [
            line.quantity,
            line.price,
            line.quantity + line.price,
            flag(product.is_some()),
            product.map_or(0.0, |product| product.lines.ln_1p()),
            quantity,
            quantity / product.map_or(1.5 * self.quantity.spread, |product| product.quantity.spread),
            price,
            product.map_or(self.price.z(line.price), |product| product.price.z(line.price)),
            product.map_or(NOTHING, |product| line.quantity - product.most),
            product.map_or(NOTHING, |product| line.quantity - product.large),
            customer.map_or(0.0, |customer| customer.lines.ln_1p()),
            of_customer,
            of_customer / customer.map_or(1.5 * self.quantity.spread, |customer| customer.quantity.spread),
            customer.map_or(NOTHING, |customer| quantity - customer.most),
            flag(!line.named),
            product.map_or(NOTHING, |product| nearest(&product.prices, line.price)),
            context.others.map_or(0.0, |(others, _)| quantity - others),
            context.others.map_or(0.0, |(_, others)| if product.is_some() { price - others } else { 0.0 }),
            (context.lines as f64).ln_1p(),
        ];
        features.map(|feature| feature as f32)
    }

    /// The comparisons that explain a score, the largest first.
    fn deviations(&self, line: &Observation, raw: &Transaction<'_>) -> [Deviation; 3] {
        let (product, customer) = (self.product(line), self.customer(line));
        let (over, _) = self.over(line);
        let usual = product.map_or(self.quantity, |product| product.quantity);
        let whose = if product.is_some() { Baseline::Product } else { Baseline::Shop };
        let deviation = |measure, baseline, log: f64, level: Level| Deviation {
            measure,
            baseline,
            value: match measure {
                Measure::Quantity => raw.quantity,
                Measure::UnitPrice => raw.unit_price,
                Measure::LineTotal => raw.quantity * raw.unit_price,
            },
            // Through the logarithm and back, 2.95 comes a little short.
            expected: (level.median.exp() * 1e6).round() / 1e6,
            z: level.z(log),
        };
        let mut quantity = deviation(Measure::Quantity, whose, line.quantity, usual);
        // A quantity is odd where it is so for the product and for the customer.
        if let Some(customer) = customer.filter(|customer| customer.quantity.z(over).abs() < quantity.z.abs()) {
            let median = usual.median + customer.quantity.median;
            let own = Level { median, spread: customer.quantity.spread };
            quantity = deviation(Measure::Quantity, Baseline::Customer, line.quantity, own);
        }
        let of_price = product.map_or(self.price, |product| product.price);
        let price = deviation(Measure::UnitPrice, whose, line.price, of_price);
        let both = Level { median: usual.median + of_price.median, spread: usual.spread.hypot(of_price.spread) };
        let mut all = [quantity, price, deviation(Measure::LineTotal, whose, line.quantity + line.price, both)];
        all.sort_by(|a, b| b.z.abs().total_cmp(&a.z.abs()));
        all
    }
}

/// The prices that were charged twice or more, to the hundredth; all where none was.
fn prices(logs: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut counts: BTreeMap<i64, u32> = BTreeMap::new();
    for log in logs {
        *counts.entry((log.exp() * 100.0).round() as i64).or_default() += 1;
    }
    let twice = counts.values().any(|count| *count >= 2);
    let kept = counts.into_iter().filter(|(_, count)| !twice || *count >= 2);
    kept.map(|(price, _)| (price as f64 / 100.0).max(0.001).ln()).collect()
}

/// Distance to the nearest of ascending values.
fn nearest(values: &[f64], x: f64) -> f64 {
    let at = values.partition_point(|value| *value < x);
    let beside = [at.checked_sub(1), Some(at)].into_iter().flatten().filter_map(|at| values.get(at));
    beside.map(|value| (value - x).abs()).fold(f64::INFINITY, f64::min).min(-NOTHING)
}

/// Median of the others for each value; none for a single one.
fn others(values: &[f64]) -> Vec<Option<f64>> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut medians = vec![None; values.len()];
    if values.len() < 2 {
        return medians;
    }
    let others = values.len() - 1;
    for (rank, at) in order.iter().enumerate() {
        let without = |place: usize| values[order[if rank <= place { place + 1 } else { place }]];
        medians[*at] = Some(f64::midpoint(without((others - 1) / 2), without(others / 2)));
    }
    medians
}

fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if below.len() < middle || values.len() % 2 == 1 {
        return upper;
    }
    let lower = values[..middle].iter().copied().fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, upper)
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
    /// How unusual, among the other lines of its invoice.
    pub score: Score,
}

/// The model.
#[derive(Debug)]
pub struct Anomaly {
    scorer: Scorer,
    as_of: NaiveDateTime,
    recorded: Vec<Recorded>,
}

/// Levels and trees.
#[derive(Debug, Clone)]
pub struct Scorer {
    /// Thresholds and base.
    pub parameters: Parameters,
    /// The trees, on [`WIDTH`] features.
    pub forest: Forest,
    /// The recent lines.
    pub history: History,
    /// What is usual by them.
    pub levels: Levels,
}

impl Scorer {
    /// How unusual a line is. The values of `line` are finite and above 0.
    pub fn score(&self, line: &Transaction<'_>, context: &Context) -> Score {
        let observed = self.history.observe(line);
        let score = self.parameters.base + self.forest.sum(&self.levels.features(&observed, context));
        self.scored(line, &observed, score)
    }

    fn scored(&self, raw: &Transaction<'_>, line: &Observation, score: f64) -> Score {
        Score {
            score,
            severity: self.severity(score),
            size: self.levels.quantity.z(line.quantity),
            deviations: self.levels.deviations(line, raw),
        }
    }

    fn severity(&self, score: f64) -> Severity {
        match self.parameters.severity {
            [_, _, high] if score >= high => Severity::High,
            [_, medium, _] if score >= medium => Severity::Medium,
            [low, _, _] if score >= low => Severity::Low,
            _ => Severity::None,
        }
    }

    /// How unusual each of many lines is, among the others of its invoice; none for those that sell nothing. Lines from
    /// `as_of` on become part of what is usual for those a week later.
    pub fn score_all(&self, lines: &[Sold<'_>], as_of: NaiveDateTime) -> Vec<Option<Score>> {
        let mut order: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].sells()).collect();
        order.sort_by_key(|at| (lines[*at].time, *at));
        let mut scores = vec![None; lines.len()];
        let mut now = self.clone();
        let mut rest = order.as_slice();
        while let Some(first) = rest.first() {
            let end = lines[*first].time + chrono::Duration::seconds(REFRESH);
            let (week, later) = rest.split_at(rest.partition_point(|at| lines[*at].time < end));
            rest = later;
            let mut invoices: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for at in week {
                invoices.entry(lines[*at].invoice).or_default().push(*at);
            }
            for (invoice, members) in invoices {
                let observed: Vec<Observation> =
                    members.iter().map(|at| now.history.observe(&lines[*at].line)).collect();
                let contexts = match invoice {
                    "" => vec![Context::default(); members.len()],
                    _ => now.levels.contexts(&observed),
                };
                for ((at, line), context) in members.iter().zip(&observed).zip(&contexts) {
                    let score = now.parameters.base + now.forest.sum(&now.levels.features(line, context));
                    scores[*at] = Some(now.scored(&lines[*at].line, line, score));
                }
            }
            // Odd lines too: a new price is odd until it has been charged a while, and medians do not mind an error.
            let new = week.iter().filter(|at| lines[**at].time >= as_of);
            let before = now.history.lines.len();
            new.for_each(|at| now.history.push(&lines[*at].line));
            if !rest.is_empty() && now.history.lines.len() > before {
                now.history.trim();
                now.levels = Levels::of(&now.history);
            }
        }
        scores
    }
}

impl Score {
    /// What is off, in words; empty for an ordinary line.
    pub fn reason(&self, stock_code: &str, customer_id: &str) -> String {
        // A total is off because something else is, where something else is about as far off.
        let most = self.deviations[0].z.abs();
        let far = self.deviations.iter().filter(|deviation| deviation.z.abs() >= 0.6 * most);
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
        if !parameters.base.is_finite()
            || !parameters.severity.iter().all(|x| x.is_finite())
            || !parameters.severity.is_sorted()
        {
            return Err(ModelError::inconsistent("parameters", "are not finite and in order"));
        }
        let forest = Forest::read(&artifact.tensors("model.safetensors")?, "", WIDTH)?;
        let history = History::load(artifact)?;
        let levels = Levels::of(&history);
        let scorer = Scorer { parameters, forest, history, levels };
        let recorded = recorded(&artifact.table("anomalies.parquet")?, &scorer)?;
        Ok(Self { scorer, as_of: artifact.manifest().as_of, recorded })
    }
}

impl Anomaly {
    /// How unusual a line is of which the invoice is not known. Its values are finite and above 0.
    pub fn score(&self, line: &Transaction<'_>) -> Score {
        self.scorer.score(line, &Context::default())
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
    let (line_id, quantity, unit_price) = (table.int("line_id")?, table.int("quantity")?, table.float("unit_price")?);
    let (invoice, stock_code, country) = (table.text("invoice")?, table.text("stock_code")?, table.text("country")?);
    let (customer_id, time) = (table.optional_text("customer_id")?, table.time("invoice_time")?);
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
            return Err(ModelError::inconsistent("anomalies", format!("has no sale in row {row}")));
        }
        let score = scorer.scored(&line, &scorer.history.observe(&line), score[row]);
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

    fn line<'a>(stock_code: &'a str, quantity: f64, unit_price: f64, customer_id: &'a str) -> Transaction<'a> {
        Transaction { stock_code, quantity, unit_price, customer_id }
    }

    /// Trees that call odd what is a factor 7 or more over the product's and customer's usual quantity, or off its price.
    fn scorer() -> Scorer {
        let mut history = History::default();
        for n in 0..40 {
            history.push(&line("85123A", [4.0, 6.0, 8.0][n % 3], [2.55, 2.55, 2.95][n % 3], ""));
            history.push(&line("85123A", 600.0, 2.1, "14911"));
        }
        for n in 0..400 {
            history.push(&line(&format!("P{}", n % 9), 5.0, 3.0, ""));
        }
        let levels = Levels::of(&history);
        let forest = Forest::new(WIDTH, 1, &[12, 16], vec![2.0, 1.0], vec![0.0, 0.0, 5.0, 0.0, 0.0, 5.0]);
        let parameters = Parameters { base: -2.0, severity: [0.0, 1.0, 2.0] };
        Scorer { parameters, forest: forest.unwrap(), history, levels }
    }

    #[test]
    fn what_is_off_is_named_with_what_is_usual() {
        let score = scorer().score(&line("P1", 5.0, 300.0, ""), &Context::default());
        assert_eq!(score.severity, Severity::High);
        assert_eq!(score.reason("P1", ""), "unit price 300.00 is 100.0 times above the usual 3.00 of product P1");
        let usual = scorer().score(&line("P1", 5.0, 3.0, ""), &Context::default());
        assert_eq!((usual.severity, usual.reason("P1", "").as_str()), (Severity::None, ""));
    }

    #[test]
    fn a_large_quantity_is_usual_for_who_buys_so() {
        let of = |customer: &str| scorer().score(&line("85123A", 600.0, 2.55, customer), &Context::default()).severity;
        assert_eq!((of(""), of("14911.0")), (Severity::High, Severity::None));
    }

    #[test]
    fn the_others_of_an_invoice_are_those_beside_a_line() {
        assert_eq!(others(&[1.0]), [None]);
        assert_eq!(others(&[1.0, 5.0]), [Some(5.0), Some(1.0)]);
        assert_eq!(others(&[3.0, 1.0, 9.0, 4.0]), [Some(4.0), Some(4.0), Some(3.0), Some(3.0)]);
    }

    #[test]
    fn known_prices_are_those_charged_twice() {
        let twice = prices([1.0_f64.ln(), 1.0_f64.ln(), 2.0_f64.ln()].into_iter());
        assert_eq!(twice.len(), 1);
        assert!((nearest(&twice, 3.0_f64.ln()) - 3.0_f64.ln()).abs() < 1e-9);
        assert_eq!(prices([1.0_f64.ln(), 2.0_f64.ln()].into_iter()).len(), 2);
    }

    #[test]
    fn lines_that_were_scored_become_usual() {
        let day = |n: i64| chrono::DateTime::from_timestamp(n * 86_400, 0).unwrap().naive_utc();
        let new: Vec<Sold<'_>> = (0..60)
            .map(|n| Sold { invoice: "", time: day(n), line: line("NEW", 5.0, 3.0, "") })
            .chain([Sold { invoice: "", time: day(61), line: line("NEW", 5.0, 30.0, "") }])
            .collect();
        let scores = scorer().score_all(&new, day(0));
        let last = scores.last().unwrap().as_ref().unwrap();
        assert_eq!(last.severity, Severity::High, "a price never seen of a product that was new");
        assert!(scorer().score(&new[60].line, &Context::default()).severity < Severity::High);
    }

    proptest! {
        #[test]
        fn every_line_has_a_finite_score(quantity in 1.0..1e9_f64, price in 1e-4..1e9_f64, known: bool, named: bool) {
            let line = line(if known { "85123A" } else { "new" }, quantity, price, if named { "14911" } else { "" });
            let score = scorer().score(&line, &Context::default());
            prop_assert!(score.score.is_finite() && score.size.is_finite());
            prop_assert!(score.deviations.iter().all(|d| d.z.is_finite() && d.z.abs() <= score.deviations[0].z.abs()));
        }

        #[test]
        fn medians_of_others_are_their_medians(values in prop::collection::vec(-9.0..9.0_f64, 2..12)) {
            for (at, found) in others(&values).into_iter().enumerate() {
                let rest = values.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, value)| *value);
                prop_assert_eq!(found, Some(median(rest.collect())));
            }
        }
    }
}

//! Recommendation: implicit-feedback ALS (Hu, Koren and Volinsky 2008) with regularisation scaled by frequency (Zhou et
//! al. 2008; Rendle et al. 2021), all solves of a step batched on the device; the sparse interactions are never made
//! dense. Weights of repeat purchase and popularity beside it are chosen on an earlier split. Association rules are
//! counted exactly.

use std::collections::HashMap;

use polars::prelude::{DataFrame, IntoColumn, NamedFrom, Series};
use scoring::{
    Artifact, Gate, Metric, Model, ModelKind, TensorFile,
    recommendation::{Parameters, Query, Recommendations},
};
use tch::{Device, Kind as Dtype, Tensor};

use super::{
    Evaluation, LearnError, Learner, Training, known_recipe,
    lines::{DAY, Kind, Lines, seconds},
    parquet,
};

const FACTORS: i64 = 32;
const ITERATIONS: u64 = 8;
const ALPHA: f64 = 8.0;
const LAMBDA: f64 = 0.05;
/// Days after which an interaction counts for 1/e in taste.
const TASTE_DAYS: f64 = 240.0;
/// Interactions whose outer products are in memory at once.
const CHUNK: usize = 1 << 12;
/// Days of orders that make a product popular, and without one that take it off the list.
const RECENT_DAYS: i64 = 60;
const OFF_THE_LIST_DAYS: i64 = 180;
const OUTCOME_DAYS: i64 = 90;
const LEAST: u64 = 50;
/// Least orders with both products of a rule.
const LEAST_ORDERS: u32 = 10;
/// Rules kept of a product.
const MOST_RULES: usize = 100;
/// Customers that weights are chosen by, at most.
const TUNING_CUSTOMERS: usize = 1_500;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Recommendation;

/// What customers have bought, as of an instant.
struct Matrix {
    /// Numbers of the customers and products that have a row.
    customers: Vec<u32>,
    products: Vec<u32>,
    /// (customer row, product row, orders, days since the last)
    cells: Vec<(i64, i64, f64, f64)>,
    /// Of each product.
    recent_orders: Vec<f64>,
    price: Vec<f64>,
}

impl Matrix {
    fn of(lines: &Lines, as_of: i64) -> Self {
        let mut by_pair: HashMap<(u32, u32), (Vec<u32>, i64)> = HashMap::new();
        let mut last_sold: HashMap<u32, i64> = HashMap::new();
        let mut recent: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut prices: HashMap<u32, Vec<i64>> = HashMap::new();
        for line in lines.before(as_of).filter(|line| line.kind == Kind::Sale && !line.duplicate) {
            let last = last_sold.entry(line.product).or_insert(line.time);
            *last = line.time.max(*last);
            prices.entry(line.product).or_default().push(line.price);
            if line.time >= as_of - RECENT_DAYS * DAY {
                recent.entry(line.product).or_default().push(line.invoice);
            }
            if let Some(customer) = line.customer {
                let pair = by_pair.entry((customer, line.product)).or_insert((Vec::new(), line.time));
                pair.0.push(line.invoice);
                pair.1 = line.time.max(pair.1);
            }
        }
        let distinct = |mut invoices: Vec<u32>| {
            invoices.sort_unstable();
            invoices.dedup();
            invoices.len() as f64
        };
        // What is sold no more is not recommended.
        let mut products: Vec<u32> = last_sold
            .into_iter()
            .filter(|(_, last)| *last >= as_of - OFF_THE_LIST_DAYS * DAY)
            .map(|(p, _)| p)
            .collect();
        products.sort_unstable();
        let product_rows: HashMap<u32, usize> =
            products.iter().enumerate().map(|(row, product)| (*product, row)).collect();
        let mut pairs: Vec<_> =
            by_pair.into_iter().filter(|((_, product), _)| product_rows.contains_key(product)).collect();
        pairs.sort_unstable_by_key(|(pair, _)| *pair);
        let mut customers: Vec<u32> = pairs.iter().map(|((customer, _), _)| *customer).collect();
        customers.dedup();
        let customer_rows: HashMap<u32, usize> =
            customers.iter().enumerate().map(|(row, customer)| (*customer, row)).collect();
        let cells = pairs.into_iter().map(|((customer, product), (invoices, last))| {
            let days = (as_of - last) as f64 / DAY as f64;
            (customer_rows[&customer] as i64, product_rows[&product] as i64, distinct(invoices), days)
        });
        let cells = cells.collect();
        let recent_orders =
            products.iter().map(|product| distinct(recent.remove(product).unwrap_or_default())).collect();
        let price = products.iter().map(|product| {
            let mut prices = prices.remove(product).unwrap_or_default();
            prices.sort_unstable();
            prices.get(prices.len() / 2).copied().unwrap_or_default() as f64 / super::lines::SCALE
        });
        let price = price.collect();
        Self { customers, products, cells, recent_orders, price }
    }
}

impl Learner for Recommendation {
    const KIND: ModelKind = ModelKind::Recommendation;
    const RECIPES: &'static [&'static str] = &["als"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        known_recipe::<Self>(training.recipe)?;
        let lines = Lines::of(training)?;
        // Weights are chosen on the 90 days before the as-of time, with a model that has not seen them.
        let earlier = training.as_of - chrono::Duration::days(OUTCOME_DAYS);
        let weights = match build(&training.as_of(earlier), &lines, plain()) {
            Ok(rehearsal) => {
                choose(Recommendations::load(&rehearsal)?, &lines, seconds(earlier), seconds(training.as_of))
            }
            // A young shop has nothing to choose by.
            Err(LearnError::TooLittle { .. }) => plain(),
            Err(error) => return Err(error),
        };
        build(training, &lines, weights)
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - chrono::Duration::days(OUTCOME_DAYS);
        let model = Recommendations::load(&Self::train(&training.as_of(earlier))?)?;
        let lines = Lines::of(training)?;
        let outcome = Outcome::of(&model, &lines, seconds(earlier), seconds(training.as_of));
        let popular = Parameters { repeat_weight: 0.0, popular_weight: 1e6, ..model.parameters().clone() };
        let (next, new, coverage) = outcome.measure(&model);
        let (naive_next, naive_new, naive_coverage) = outcome.measure(&model.weighted(popular));
        let gate = |name: &str, ours: f64, naive: f64| Gate {
            name: name.to_owned(),
            passed: ours > naive,
            detail: format!("NDCG@10 {ours:.3} against {naive:.3}"),
        };
        Ok(Evaluation {
            metrics: vec![
                Metric::against("ndcg_at_10", next, naive_next),
                Metric::against("ndcg_at_10_new", new, naive_new),
                Metric::against("coverage_at_10", coverage, naive_coverage),
            ],
            gates: vec![
                gate("next purchases are found better than by popularity", next, naive_next),
                gate("new products are found better than by popularity", new, naive_new),
            ],
            backtest: serde_json::Value::Null,
        })
    }
}

fn plain() -> Parameters {
    Parameters { alpha: ALPHA, lambda: LAMBDA * 100.0, repeat_days: 180.0, repeat_weight: 1.0, popular_weight: 0.05 }
}

fn build(training: &Training<'_>, lines: &Lines, parameters: Parameters) -> Result<Artifact, LearnError> {
    let matrix = Matrix::of(lines, seconds(training.as_of));
    let (n, m) = (matrix.customers.len(), matrix.products.len());
    if (n as u64) < LEAST || (m as u64) < LEAST {
        let found = n.min(m) as u64;
        let model = ModelKind::Recommendation;
        return Err(LearnError::TooLittle {
            model,
            what: "customers and products",
            needed: LEAST,
            found,
            as_of: training.as_of,
        });
    }
    training.progress.begin("train recommendation: iterations", Some(ITERATIONS));
    let (customers, products) = als(&matrix, training)?;
    training.progress.end();
    let factors = FACTORS as usize;
    let model = TensorFile::new().with("product", &[m, factors], &products).with("customer", &[n, factors], &customers);

    let text = |name: &str, of: Vec<Option<&str>>| Series::new(name.into(), of).into_column();
    let floats = |name: &str, of: Vec<f64>| Series::new(name.into(), of).into_column();
    let ints = |name: &str, of: Vec<i64>| Series::new(name.into(), of).into_column();
    let codes = matrix.products.iter().map(|product| Some(lines.products.name(*product))).collect();
    let descriptions = matrix.products.iter().map(|product| lines.descriptions[*product as usize].as_deref()).collect();
    let mut product_table = DataFrame::new_infer_height(vec![
        text("stock_code", codes),
        text("description", descriptions),
        floats("price", matrix.price.clone()),
        floats("recent_orders", matrix.recent_orders.clone()),
    ])?;
    let ids = matrix.customers.iter().map(|customer| Some(lines.customers.name(*customer))).collect();
    let mut customer_table = DataFrame::new_infer_height(vec![text("customer_id", ids)])?;
    let mut interactions = DataFrame::new_infer_height(vec![
        ints("customer", matrix.cells.iter().map(|cell| cell.0).collect()),
        ints("product", matrix.cells.iter().map(|cell| cell.1).collect()),
        floats("purchases", matrix.cells.iter().map(|cell| cell.2).collect()),
        floats("days", matrix.cells.iter().map(|cell| cell.3).collect()),
    ])?;
    let rules = rules(lines, &matrix, seconds(training.as_of));
    let mut rule_table = DataFrame::new_infer_height(vec![
        ints("product", rules.iter().map(|rule| rule.product).collect()),
        ints("other", rules.iter().map(|rule| rule.other).collect()),
        ints("orders", rules.iter().map(|rule| rule.orders).collect()),
        floats("support", rules.iter().map(|rule| rule.support).collect()),
        floats("confidence", rules.iter().map(|rule| rule.confidence).collect()),
        floats("lift", rules.iter().map(|rule| rule.lift).collect()),
    ])?;
    Ok(Artifact::builder(ModelKind::Recommendation, "als", training.as_of, training.seed)
        .file("model.safetensors", model.into_bytes()?)
        .file("products.parquet", parquet(&mut product_table)?)
        .file("customers.parquet", parquet(&mut customer_table)?)
        .file("interactions.parquet", parquet(&mut interactions)?)
        .file("rules.parquet", parquet(&mut rule_table)?)
        .parameters(&parameters)?
        .trained_on("customers", n as u64)
        .trained_on("products", m as u64)
        .trained_on("interactions", matrix.cells.len() as u64)
        .finish())
}

/// Factors of customers and products, row by row.
fn als(matrix: &Matrix, training: &Training<'_>) -> Result<(Vec<f32>, Vec<f32>), LearnError> {
    tch::manual_seed(training.seed.cast_signed());
    let device = training.device;
    let (n, m) = (matrix.customers.len() as i64, matrix.products.len() as i64);
    let confidence: Vec<f32> = matrix
        .cells
        .iter()
        .map(|(_, _, orders, days)| (ALPHA * orders.ln_1p() * (-days / TASTE_DAYS).exp()).max(0.1) as f32)
        .collect();
    let by_customer =
        Side::of(matrix.cells.iter().map(|cell| (cell.0, cell.1)).zip(confidence.iter().copied()), n, device);
    let by_product =
        Side::of(matrix.cells.iter().map(|cell| (cell.1, cell.0)).zip(confidence.iter().copied()), m, device);
    let mut products = (Tensor::randn([m, FACTORS], (Dtype::Float, Device::Cpu)) * 0.05).to_device(device);
    let mut customers = Tensor::zeros([n, FACTORS], (Dtype::Float, device));
    for _ in 0..ITERATIONS {
        customers = by_customer.solve(&products)?;
        products = by_product.solve(&customers)?;
        training.progress.advance(1);
    }
    let flat = |t: Tensor| Vec::<f32>::try_from(t.to_device(Device::Cpu).contiguous().view(-1));
    Ok((flat(customers)?, flat(products)?))
}

/// The interactions from one side, in order of its rows.
struct Side {
    rows: i64,
    /// Row, the other side's row, confidence above 1; `[nnz]`
    own: Tensor,
    other: Tensor,
    confidence: Tensor,
    /// Interactions of each row.
    counts: Tensor,
    /// Where chunks of whole rows begin: (first row, first interaction).
    chunks: Vec<(i64, i64)>,
}

impl Side {
    fn of(cells: impl Iterator<Item = ((i64, i64), f32)>, rows: i64, device: Device) -> Self {
        let mut cells: Vec<_> = cells.collect();
        cells.sort_by_key(|cell| cell.0);
        let mut chunks = vec![(0, 0)];
        let mut start = 0;
        for at in 1..cells.len() {
            if cells[at].0.0 != cells[at - 1].0.0 && at - start >= CHUNK {
                chunks.push((cells[at].0.0, at as i64));
                start = at;
            }
        }
        chunks.push((rows, cells.len() as i64));
        let own = Tensor::from_slice(&cells.iter().map(|cell| cell.0.0).collect::<Vec<_>>()).to_device(device);
        let other = Tensor::from_slice(&cells.iter().map(|cell| cell.0.1).collect::<Vec<_>>()).to_device(device);
        let confidence = Tensor::from_slice(&cells.iter().map(|cell| cell.1).collect::<Vec<_>>()).to_device(device);
        let counts = own.bincount(None::<Tensor>, rows).to_kind(Dtype::Float);
        Self { rows, own, other, confidence, counts, chunks }
    }

    /// Factors of this side given the other's: `(YᵀY + Yᵀ(C - I)Y + λ n I) x = Yᵀ C p` for every row at once (Hu et al.
    /// 2008, eq. 4), `n` the row's interactions.
    fn solve(&self, other: &Tensor) -> Result<Tensor, LearnError> {
        let options = (Dtype::Float, other.device());
        let gram = other.transpose(0, 1).matmul(other);
        let eye = Tensor::eye(FACTORS, options);
        let mut parts = Vec::new();
        for pair in self.chunks.windows(2) {
            let ((first, from), (last, to)) = (pair[0], pair[1]);
            let (rows, length) = (last - first, to - from);
            let own = self.own.narrow(0, from, length) - first;
            let y = other.index_select(0, &self.other.narrow(0, from, length));
            let c = self.confidence.narrow(0, from, length).unsqueeze(1);
            let outer = (&y * &c).unsqueeze(2) * y.unsqueeze(1);
            let size = [rows, FACTORS, FACTORS];
            let a = Tensor::zeros(size, options).index_add(0, &own, &outer) + &gram;
            // Zhou et al.'s scaling, softened: rows with many interactions are held back less than in proportion.
            let ridge =
                (self.counts.narrow(0, first, rows).sqrt() * (LAMBDA * 10.0) + LAMBDA).view([rows, 1, 1]) * &eye;
            let b = Tensor::zeros([rows, FACTORS], options).index_add(0, &own, &(&y * (&c + 1.0))).unsqueeze(2);
            let (factor, _) = (a + ridge).f_linalg_cholesky_ex(false, false)?;
            parts.push(b.f_cholesky_solve(&factor, false)?.squeeze_dim(2));
        }
        let solved = Tensor::cat(&parts, 0);
        debug_assert_eq!(solved.size()[0], self.rows);
        Ok(solved)
    }
}

struct Pair {
    product: i64,
    other: i64,
    orders: i64,
    support: f64,
    confidence: f64,
    lift: f64,
}

/// Rules between pairs of products, counted over all orders, by product and then by confidence.
fn rules(lines: &Lines, matrix: &Matrix, as_of: i64) -> Vec<Pair> {
    let rows: HashMap<u32, u32> =
        matrix.products.iter().enumerate().map(|(row, product)| (*product, row as u32)).collect();
    let mut items: Vec<(u32, u32)> = lines
        .before(as_of)
        .filter(|line| line.kind == Kind::Sale)
        .filter_map(|line| Some((line.invoice, *rows.get(&line.product)?)))
        .collect();
    items.sort_unstable();
    items.dedup();
    let mut single = vec![0_u32; matrix.products.len()];
    items.iter().for_each(|(_, product)| single[*product as usize] += 1);
    let mut orders = 0_u64;
    let mut counts: HashMap<(u32, u32), u32> = HashMap::new();
    for basket in items.chunk_by(|a, b| a.0 == b.0) {
        orders += 1;
        let frequent: Vec<u32> =
            basket.iter().map(|item| item.1).filter(|p| single[*p as usize] >= LEAST_ORDERS).collect();
        for (at, one) in frequent.iter().enumerate() {
            for other in &frequent[at + 1..] {
                *counts.entry((*one, *other)).or_default() += 1;
            }
        }
    }
    let all = orders.max(1) as f64;
    let mut found = Vec::new();
    for ((one, other), both) in counts.into_iter().filter(|(_, both)| *both >= LEAST_ORDERS) {
        for (product, other) in [(one, other), (other, one)] {
            let confidence = f64::from(both) / f64::from(single[product as usize]);
            found.push(Pair {
                product: product.into(),
                other: other.into(),
                orders: both.into(),
                support: f64::from(both) / all,
                confidence,
                lift: confidence * all / f64::from(single[other as usize]),
            });
        }
    }
    found.sort_by(|a, b| {
        a.product.cmp(&b.product).then(b.confidence.total_cmp(&a.confidence)).then(a.other.cmp(&b.other))
    });
    found
        .chunk_by_mut(|a, b| a.product == b.product)
        .flat_map(|of| &of[..of.len().min(MOST_RULES)])
        .map(|p| Pair { ..*p })
        .collect()
}

/// What the model's customers bought in a window after it.
struct Outcome {
    /// Row of the customer, rows of the products bought, whether each is new to them.
    customers: Vec<(usize, Vec<(usize, bool)>)>,
    products: usize,
}

impl Outcome {
    fn of(model: &Recommendations, lines: &Lines, from: i64, to: i64) -> Self {
        let mut before: HashMap<(u32, u32), ()> = HashMap::new();
        let mut bought: std::collections::BTreeMap<usize, HashMap<usize, bool>> = std::collections::BTreeMap::new();
        for line in lines.before(from).filter(|line| line.is_purchase()) {
            before.insert((line.customer.unwrap_or_default(), line.product), ());
        }
        for line in lines.before(to).filter(|line| line.time >= from && line.is_purchase()) {
            let Some(number) = line.customer else { continue };
            let (Some(customer), Some(product)) =
                (model.customer(lines.customers.name(number)), model.product(lines.products.name(line.product)))
            else {
                continue;
            };
            bought.entry(customer).or_default().insert(product, !before.contains_key(&(number, line.product)));
        }
        let customers =
            bought.into_iter().map(|(customer, products)| (customer, products.into_iter().collect())).collect();
        Self { customers, products: model.products().len() }
    }

    /// NDCG@10 of next purchases and of new products, and the share of products in any list.
    fn measure(&self, model: &Recommendations) -> (f64, f64, f64) {
        use rayon::prelude::*;
        let ndcg = |found: &[usize], relevant: &[usize]| {
            let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
            let got: f64 = found
                .iter()
                .enumerate()
                .filter(|(_, product)| relevant.contains(product))
                .map(|(rank, _)| gain(rank))
                .sum();
            got / (0..relevant.len().min(10)).map(gain).sum::<f64>()
        };
        let one = |(customer, bought): &(usize, Vec<(usize, bool)>)| {
            let list = |new_only: bool| {
                let query = Query { customer: Some(*customer), limit: 10, new_only, ..Query::default() };
                model.recommend(&query).into_iter().map(|found| found.product).collect::<Vec<_>>()
            };
            let all: Vec<usize> = bought.iter().map(|(product, _)| *product).collect();
            let new: Vec<usize> = bought.iter().filter(|(_, new)| *new).map(|(product, _)| *product).collect();
            let next = list(false);
            let of_new = (!new.is_empty()).then(|| ndcg(&list(true), &new));
            (ndcg(&next, &all), of_new, next)
        };
        let measured: Vec<_> = self.customers.par_iter().map(one).collect();
        let n = measured.len().max(1) as f64;
        let new: Vec<f64> = measured.iter().filter_map(|m| m.1).collect();
        let mut listed = vec![false; self.products];
        measured.iter().flat_map(|m| &m.2).for_each(|product| listed[*product] = true);
        let coverage = listed.iter().filter(|listed| **listed).count() as f64 / self.products.max(1) as f64;
        (measured.iter().map(|m| m.0).sum::<f64>() / n, new.iter().sum::<f64>() / new.len().max(1) as f64, coverage)
    }
}

/// The weights under which the rehearsal's lists fit best what was bought next.
fn choose(mut model: Recommendations, lines: &Lines, from: i64, to: i64) -> Parameters {
    let mut outcome = Outcome::of(&model, lines, from, to);
    let step = outcome.customers.len().div_ceil(TUNING_CUSTOMERS).max(1);
    outcome.customers = outcome.customers.into_iter().step_by(step).collect();
    let mut best = (plain(), f64::NEG_INFINITY);
    for repeat_days in [90.0, 180.0, 360.0] {
        for repeat_weight in [0.25, 0.5, 1.0, 2.0] {
            for popular_weight in [0.0, 0.05, 0.15, 0.4] {
                let parameters = Parameters { repeat_days, repeat_weight, popular_weight, ..plain() };
                model = model.weighted(parameters.clone());
                let (next, new, _) = outcome.measure(&model);
                if next + new > best.1 {
                    best = (parameters, next + new);
                }
            }
        }
    }
    best.0
}

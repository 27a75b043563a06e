//! Recommendation: candidates from implicit-feedback ALS, item-item weights and what sells, ordered
//! by boosted rankers.
//!
//! The rankers learn from the past: models as of several earlier cut-offs, of the same make, say
//! what they know of their customers' candidates; the label is what was bought between the cut-off
//! and the as-of time, 90 days at most. Late cut-offs have a past nearly as long as the model's
//! own, early ones a whole window. Nothing is fitted to what comes after the as-of time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::mpsc,
    thread,
};

use chrono::Duration;
use polars::prelude::{Column, DataFrame, IntoColumn, NamedFrom, Series};
use rayon::prelude::*;
use scoring::{
    Artifact, Forest, Gate, Metric, Model, ModelKind, StockCode, TensorFile,
    recommendation::{
        HALF_LIVES, Held, NEVER, Parameters, Query, Recommendations, Shopper, Standing, WINDOWS,
        answers, column,
    },
};
use tch::{Device, Tensor};

use self::{als::Settings, ranker::Lists};
use super::{
    Evaluation, LearnError, Learner, Training, known_recipe,
    lines::{DAY, Kind, Lines, SCALE, seconds},
    parquet,
};

pub mod als;
mod fpgrowth;
mod links;
mod ranker;

/// Half-life, days, of what the autoencoder learns from.
const TASTE_DAYS: f64 = 120.0;
/// Place among [`HALF_LIVES`] of the counts that factors are learnt from.
const CONFIDENCE: usize = 3;
/// Days without an order that take a product off the list.
const OFF_THE_LIST_DAYS: i64 = 365;
/// Days that recommendations are for.
const OUTCOME_DAYS: i64 = 90;
/// Cut-offs that the rankers learn from, days before the as-of time.
const CUT_OFFS: [i64; 5] = [30, 45, 60, 75, 90];
/// Customers of a cut-off that they learn from, at most.
const MOST_LISTS: usize = 2_500;
const LEAST: u64 = 50;
/// Least orders with both products of a rule.
const LEAST_ORDERS: u32 = 10;
/// Rules kept of a product.
const MOST_RULES: usize = 100;

/// The learner.
#[derive(Debug, Clone, Copy)]
pub struct Recommendation;

/// What customers have bought, as of an instant.
struct Matrix {
    /// Numbers of the customers and products that have a row.
    customers: Vec<u32>,
    products: Vec<u32>,
    /// (customer row, what is held), in order of customer and product.
    cells: Vec<(usize, Held)>,
    shoppers: Vec<Shopper>,
    standings: Vec<Standing>,
    /// Rows of the products of each order, whoever the customer.
    orders: Vec<Vec<u32>>,
}

/// The middle of some numbers, 0 of none.
fn median(mut values: Vec<i64>) -> i64 {
    let middle = values.len() / 2;
    if values.is_empty() {
        0
    } else {
        *values.select_nth_unstable(middle).1
    }
}

/// The product that each stands for: clerks write the letters of one code large and small.
fn spelling(lines: &Lines) -> Vec<u32> {
    let mut first: HashMap<String, u32> = HashMap::new();
    let number = |number: u32| {
        *first
            .entry(StockCode::folded(lines.products.name(number)))
            .or_insert(number)
    };
    (0..lines.products.len() as u32).map(number).collect()
}

/// Rows of numbers, in order.
fn rows(numbers: &[u32]) -> HashMap<u32, usize> {
    numbers
        .iter()
        .enumerate()
        .map(|(row, number)| (*number, row))
        .collect()
}

impl Matrix {
    fn of(lines: &Lines, as_of: i64) -> Self {
        let sales: Vec<_> = lines
            .before(as_of)
            .filter(|line| line.kind == Kind::Sale && !line.duplicate)
            .collect();
        let spelling = spelling(lines);
        let mut last_sold: BTreeMap<u32, i64> = BTreeMap::new();
        for line in &sales {
            let last = last_sold
                .entry(spelling[line.product as usize])
                .or_insert(line.time);
            *last = line.time.max(*last);
        }
        // What is sold no more is not recommended.
        last_sold.retain(|_, last| *last >= as_of - OFF_THE_LIST_DAYS * DAY);
        let products: Vec<u32> = last_sold.into_keys().collect();
        let product_rows = rows(&products);
        let days = |time: i64| (as_of - time) as f64 / DAY as f64;

        let mut in_order: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let (mut prices, mut quantities) = (
            vec![Vec::new(); products.len()],
            vec![Vec::new(); products.len()],
        );
        // (customer, product row, invoice, time, quantity)
        let mut events: Vec<(u32, usize, u32, i64, i64)> = Vec::new();
        for line in &sales {
            let Some(product) = product_rows.get(&spelling[line.product as usize]).copied() else {
                continue;
            };
            in_order
                .entry(line.invoice)
                .or_default()
                .insert(product as u32);
            prices[product].push(line.price);
            quantities[product].push(line.quantity);
            if let Some(customer) = line.customer {
                events.push((customer, product, line.invoice, line.time, line.quantity));
            }
        }
        events.sort_unstable();
        let mut customers: Vec<u32> = events.iter().map(|event| event.0).collect();
        customers.dedup();
        let customer_rows = rows(&customers);
        let cells = events.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).map(|of| {
            let times: Vec<i64> = of
                .chunk_by(|a, b| a.2 == b.2)
                .map(|order| order[0].3)
                .collect();
            let purchases = times.len() as f64;
            let (first, last) = (times.iter().min().copied(), times.iter().max().copied());
            let held = Held {
                product: of[0].1,
                purchases,
                days: last.map_or(NEVER, days),
                first_days: first.map_or(NEVER, days),
                quantity: of.iter().map(|event| event.4).sum::<i64>() as f64 / purchases,
                fresh: HALF_LIVES
                    .map(|half| times.iter().map(|time| (-days(*time) / half).exp2()).sum()),
            };
            (customer_rows[&of[0].0], held)
        });
        let cells: Vec<(usize, Held)> = cells.collect();

        let mut own: Vec<(Vec<u32>, Vec<i64>, i64, i64)> =
            vec![(Vec::new(), Vec::new(), i64::MAX, i64::MIN); customers.len()];
        for (customer, _, invoice, time, quantity) in &events {
            let of = &mut own[customer_rows[customer]];
            of.0.push(*invoice);
            of.1.push(*quantity);
            of.2 = of.2.min(*time);
            of.3 = of.3.max(*time);
        }
        let mut own_prices = vec![Vec::new(); customers.len()];
        for line in &sales {
            if let Some(row) = line
                .customer
                .and_then(|customer| customer_rows.get(&customer))
            {
                own_prices[*row].push(line.price);
            }
        }
        let shoppers = own.into_iter().zip(own_prices).map(
            |((mut invoices, quantities, first, last), prices)| {
                invoices.sort_unstable();
                invoices.dedup();
                Shopper {
                    orders: invoices.len() as f64,
                    recency_days: days(last),
                    tenure_days: days(first),
                    price: median(prices) as f64 / SCALE,
                    quantity: median(quantities) as f64,
                }
            },
        );
        let shoppers = shoppers.collect();

        let mut standings: Vec<Standing> = prices
            .into_iter()
            .zip(quantities)
            .map(|(prices, quantities)| Standing {
                price: median(prices) as f64 / SCALE,
                quantity: median(quantities) as f64,
                buyers: [0.0; WINDOWS.len()],
                days: NEVER,
                first_days: 0.0,
                repeats: 0.0,
                repeat_share: 0.0,
            })
            .collect();
        for (_, held) in &cells {
            let of = &mut standings[held.product];
            for (buyers, window) in of.buyers.iter_mut().zip(WINDOWS) {
                *buyers += f64::from(u8::from(held.days <= window as f64));
            }
            of.days = of.days.min(held.days);
            of.first_days = of.first_days.max(held.first_days);
            of.repeats += held.purchases;
            of.repeat_share += f64::from(u8::from(held.purchases > 1.0));
        }
        for of in &mut standings {
            let buyers = of.buyers[WINDOWS.len() - 1].max(1.0);
            of.repeats /= buyers;
            of.repeat_share /= buyers;
        }
        let orders = in_order
            .into_values()
            .map(|of| of.into_iter().collect())
            .collect();
        Self {
            customers,
            products,
            cells,
            shoppers,
            standings,
            orders,
        }
    }

    /// Products of each customer, weighted.
    fn held(&self, weight: impl Fn(&Held) -> f64) -> Vec<Vec<(usize, f32)>> {
        let mut held = vec![Vec::new(); self.customers.len()];
        self.cells
            .iter()
            .for_each(|(customer, of)| held[*customer].push((of.product, weight(of) as f32)));
        held
    }

    fn weighted(&self, weight: impl Fn(&Held) -> f64) -> Vec<(usize, usize, f64)> {
        self.cells
            .iter()
            .map(|(customer, held)| (*customer, held.product, weight(held)))
            .collect()
    }
}

impl Recommendation {
    /// How factors are learnt.
    pub const ALS: Settings = Settings {
        factors: 64,
        iterations: 8,
        unobserved: 1.0,
        lambda: 0.003,
    };
}

impl Learner for Recommendation {
    const KIND: ModelKind = ModelKind::Recommendation;
    const RECIPES: &'static [&'static str] = &["ranked"];

    fn train(training: &Training<'_>) -> Result<Artifact, LearnError> {
        known_recipe::<Self>(training.recipe)?;
        let lines = Lines::of(training)?;
        let rankers = rankers(training, &lines)?;
        answered(build(training, &lines, rankers.as_ref())?)
    }

    fn evaluate(training: &Training<'_>) -> Result<Evaluation, LearnError> {
        let earlier = training.as_of - Duration::days(OUTCOME_DAYS);
        let model = Recommendations::load(&Self::train(&training.as_of(earlier))?)?;
        let lines = Lines::of(training)?;
        let outcome = Outcome::of(&model, &lines, seconds(earlier), seconds(training.as_of));
        let recommended = |customer: usize, new_only: bool| {
            let query = Query {
                customer: Some(customer),
                limit: 10,
                new_only,
                ..Query::default()
            };
            model
                .recommend(&query)
                .into_iter()
                .map(|found| found.product)
                .collect()
        };
        let popular = |customer: usize, new_only: bool| {
            let held: HashSet<usize> = model
                .held(customer)
                .iter()
                .map(|held| held.product)
                .collect();
            model
                .popular()
                .iter()
                .copied()
                .filter(|row| !new_only || !held.contains(row))
                .take(10)
                .collect()
        };
        // The strongest simple answer: what the customer has bought most often, then what sells.
        let again = |customer: usize, new_only: bool| {
            let mut held: Vec<&Held> = if new_only {
                Vec::new()
            } else {
                model.held(customer).iter().collect()
            };
            held.sort_by(|a, b| {
                b.purchases
                    .total_cmp(&a.purchases)
                    .then(a.days.total_cmp(&b.days))
            });
            let own: Vec<usize> = held.iter().map(|held| held.product).collect();
            let rest = popular(customer, true);
            own.into_iter().chain(rest).take(10).collect()
        };
        let (next, new, coverage) = outcome.measure(recommended);
        let (naive_next, naive_new, naive_coverage) = outcome.measure(popular);
        let (repeat_next, ..) = outcome.measure(again);
        let [next_measured, new_measured] = outcome.measured();
        let gate = |name: &str, measured: usize, ours: f64, naive: f64| Gate {
            name: name.to_owned(),
            passed: ours > naive,
            detail: detail(measured, ours, naive),
        };
        Ok(Evaluation {
            metrics: vec![
                Metric::against("ndcg_at_10", next, naive_next),
                Metric::against("ndcg_at_10_new", new, naive_new),
                Metric::against("ndcg_at_10_over_repeat_counts", next, repeat_next),
                Metric::against("coverage_at_10", coverage, naive_coverage),
            ],
            gates: vec![
                gate(
                    "next purchases are found better than by popularity",
                    next_measured,
                    next,
                    naive_next,
                ),
                gate(
                    "new products are found better than by popularity",
                    new_measured,
                    new,
                    naive_new,
                ),
            ],
            backtest: serde_json::Value::Null,
        })
    }
}

/// What a gate saw.
fn detail(measured: usize, ours: f64, naive: f64) -> String {
    match measured {
        0 => format!(
            "nobody to measure it on: no known customer bought such products in the last \
             {OUTCOME_DAYS} days"
        ),
        _ => format!("NDCG@10 {ours:.3} against {naive:.3}"),
    }
}

/// The rankers of all products and of new ones, or none where the past has too little to learn
/// from.
fn rankers(training: &Training<'_>, lines: &Lines) -> Result<Option<[Forest; 2]>, LearnError> {
    let mut lists = [Lists::default(), Lists::default()];
    for days in CUT_OFFS {
        let cut_off = training.as_of - Duration::days(days);
        let model = match build(&training.as_of(cut_off), lines, None) {
            Ok(artifact) => Recommendations::load(&artifact)?,
            // A young shop has less of a past.
            Err(LearnError::TooLittle { .. }) => continue,
            Err(error) => return Err(error),
        };
        let mut outcome = Outcome::of(&model, lines, seconds(cut_off), seconds(training.as_of));
        let step = outcome.customers.len().div_ceil(MOST_LISTS).max(1);
        outcome.customers = outcome.customers.into_iter().step_by(step).collect();
        for (to, new_only) in lists.iter_mut().zip([false, true]) {
            let found: Vec<_> = outcome
                .customers
                .par_iter()
                .map(|(customer, bought)| {
                    let query = Query {
                        customer: Some(*customer),
                        new_only,
                        ..Query::default()
                    };
                    let relevant: Vec<usize> = bought
                        .iter()
                        .filter(|(_, new)| *new || !new_only)
                        .map(|(product, _)| *product)
                        .collect();
                    (model.candidates(&query), relevant)
                })
                .collect();
            found
                .iter()
                .for_each(|(candidates, relevant)| to.push(candidates, relevant));
        }
    }
    if lists.iter().any(|lists| lists.len() < ranker::LEAST_LISTS) {
        return Ok(None);
    }
    training
        .progress
        .begin("train recommendation: trees", Some(2 * ranker::rounds()));
    // Both at once; what shows progress stays on this thread.
    let (tick, ticks) = mpsc::channel();
    let (seed, device) = (training.seed, training.device);
    let grow = |lists, tick: mpsc::Sender<()>| {
        ranker::rank(lists, seed, device, || {
            // Nobody listens any more only where this is given up.
            let _ = tick.send(());
        })
    };
    let rankers = thread::scope(|scope| {
        let threads = [&lists[0], &lists[1]].map(|lists| {
            let tick = tick.clone();
            scope.spawn(move || grow(lists, tick))
        });
        drop(tick);
        ticks.iter().for_each(|()| training.progress.advance(1));
        threads.map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let [next, new] = rankers;
    let rankers = [next?, new?];
    training.progress.end();
    Ok(Some(rankers))
}

fn build(
    training: &Training<'_>,
    lines: &Lines,
    rankers: Option<&[Forest; 2]>,
) -> Result<Artifact, LearnError> {
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
    let device = training.device;
    training.progress.begin(
        "train recommendation: iterations",
        Some(Recommendation::ALS.iterations),
    );
    let cells = matrix.weighted(|held| (1.0 + held.fresh[CONFIDENCE]).log2().max(1e-3));
    let advance = || training.progress.advance(1);
    let products = als::factorise(
        &cells,
        [n, m],
        Recommendation::ALS,
        training.seed,
        device,
        advance,
    )?;
    // Customers are solved once more as the services fold in, so that both give the same.
    let customers = als::Side::of(
        &matrix.weighted(Held::confidence),
        n,
        m,
        Recommendation::ALS,
        device,
    )
    .solve(&products)?;
    training.progress.end();
    let flat = |of: Tensor| Vec::<f32>::try_from(of.to_device(Device::Cpu).contiguous().view(-1));
    let factors = Recommendation::ALS.factors as usize;
    let file = TensorFile::new()
        .with("product", &[m, factors], &flat(products)?)
        .with("customer", &[n, factors], &flat(customers)?);
    let taste = links::taste(
        &matrix.held(|held| (-held.days / TASTE_DAYS).exp2()),
        m,
        device,
    )?;
    let descriptions: Vec<Option<&str>> = matrix
        .products
        .iter()
        .map(|product| lines.descriptions[*product as usize].as_deref())
        .collect();
    let file = links::write(&taste, file, "taste");
    let file = links::write(&links::together(&matrix.orders, m), file, "together");
    let mut file = links::write(&links::words(&descriptions), file, "words");
    for (ranker, name) in rankers.into_iter().flatten().zip(["next.", "new."]) {
        file = ranker.write(file, name);
    }

    let parameters = Parameters {
        unobserved: Recommendation::ALS.unobserved,
        lambda: Recommendation::ALS.lambda,
        ranked: rankers.is_some(),
    };
    Ok(Artifact::builder(
        ModelKind::Recommendation,
        "ranked",
        training.as_of,
        training.seed,
    )
    .file("model.safetensors", file.into_bytes()?)
    .file(
        "products.parquet",
        parquet(&mut product_table(lines, &matrix)?)?,
    )
    .file(
        "customers.parquet",
        parquet(&mut customer_table(lines, &matrix)?)?,
    )
    .file(
        "interactions.parquet",
        parquet(&mut interaction_table(&matrix)?)?,
    )
    .file("rules.parquet", parquet(&mut rule_table(&matrix)?)?)
    .parameters(&parameters)?
    .trained_on("customers", n as u64)
    .trained_on("products", m as u64)
    .trained_on("interactions", matrix.cells.len() as u64)
    .finish())
}

/// A model with what it answers to customers who wish nothing but a number of products.
fn answered(artifact: Artifact) -> Result<Artifact, LearnError> {
    let model = Recommendations::load(&artifact)?;
    let query = |customer| Query {
        customer: Some(customer),
        limit: answers::MOST,
        ..Query::default()
    };
    let all = (0..model.customers().count()).into_par_iter();
    let found: Vec<_> = all.map(|customer| model.rank(&query(customer))).collect();
    Ok(artifact.with_file(answers::FILE, answers::write(&found).into_bytes()?))
}

fn text<'a>(name: &str, of: impl Iterator<Item = Option<&'a str>>) -> Column {
    Series::new(name.into(), of.collect::<Vec<_>>()).into_column()
}

fn floats<T>(name: &str, of: &[T], value: impl Fn(&T) -> f64) -> Column {
    Series::new(name.into(), of.iter().map(value).collect::<Vec<_>>()).into_column()
}

fn ints<T>(name: &str, of: &[T], value: impl Fn(&T) -> i64) -> Column {
    Series::new(name.into(), of.iter().map(value).collect::<Vec<_>>()).into_column()
}

fn product_table(lines: &Lines, matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let of = &matrix.standings;
    let mut columns = vec![
        text(
            "stock_code",
            matrix
                .products
                .iter()
                .map(|product| Some(lines.products.name(*product))),
        ),
        text(
            "description",
            matrix
                .products
                .iter()
                .map(|product| lines.descriptions[*product as usize].as_deref()),
        ),
        floats("price", of, |of| of.price),
        floats("quantity", of, |of| of.quantity),
        floats("days", of, |of| of.days),
        floats("first_days", of, |of| of.first_days),
        floats("repeats", of, |of| of.repeats),
        floats("repeat_share", of, |of| of.repeat_share),
    ];
    columns
        .extend((0..WINDOWS.len()).map(|at| floats(&column("buyers", at), of, |of| of.buyers[at])));
    Ok(DataFrame::new_infer_height(columns)?)
}

fn customer_table(lines: &Lines, matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let of = &matrix.shoppers;
    Ok(DataFrame::new_infer_height(vec![
        text(
            "customer_id",
            matrix
                .customers
                .iter()
                .map(|customer| Some(lines.customers.name(*customer))),
        ),
        floats("orders", of, |of| of.orders),
        floats("recency_days", of, |of| of.recency_days),
        floats("tenure_days", of, |of| of.tenure_days),
        floats("price", of, |of| of.price),
        floats("quantity", of, |of| of.quantity),
    ])?)
}

fn interaction_table(matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let of = &matrix.cells;
    let mut columns = vec![
        ints("customer", of, |cell| cell.0 as i64),
        ints("product", of, |cell| cell.1.product as i64),
        floats("purchases", of, |cell| cell.1.purchases),
        floats("days", of, |cell| cell.1.days),
        floats("first_days", of, |cell| cell.1.first_days),
        floats("quantity", of, |cell| cell.1.quantity),
    ];
    columns.extend(
        (0..HALF_LIVES.len()).map(|at| floats(&column("fresh", at), of, |cell| cell.1.fresh[at])),
    );
    Ok(DataFrame::new_infer_height(columns)?)
}

/// A rule from one product to another.
struct Pair {
    product: u32,
    other: u32,
    orders: u32,
    support: f64,
    confidence: f64,
    lift: f64,
}

/// Rules between pairs of products, of all orders, by product and then by confidence.
fn rules(orders: &[Vec<u32>]) -> Vec<Pair> {
    let sets = fpgrowth::frequent(orders, LEAST_ORDERS, 2);
    let single: HashMap<u32, u32> = sets
        .iter()
        .filter_map(|(set, count)| Some((*set.first().filter(|_| set.len() == 1)?, *count)))
        .collect();
    let all = orders.len().max(1) as f64;
    let mut found = Vec::new();
    for (set, both) in &sets {
        let [one, other] = set[..] else { continue };
        for (product, other) in [(one, other), (other, one)] {
            let confidence = f64::from(*both) / f64::from(single[&product]);
            found.push(Pair {
                product,
                other,
                orders: *both,
                support: f64::from(*both) / all,
                confidence,
                lift: confidence * all / f64::from(single[&other]),
            });
        }
    }
    found.sort_by(|a, b| {
        a.product
            .cmp(&b.product)
            .then(b.confidence.total_cmp(&a.confidence))
            .then(a.other.cmp(&b.other))
    });
    let mut rank = 0;
    let mut last = None;
    found.retain(|rule| {
        rank = if last.replace(rule.product) == Some(rule.product) {
            rank + 1
        } else {
            0
        };
        rank < MOST_RULES
    });
    found
}

fn rule_table(matrix: &Matrix) -> Result<DataFrame, LearnError> {
    let of = rules(&matrix.orders);
    Ok(DataFrame::new_infer_height(vec![
        ints("product", &of, |rule| rule.product.into()),
        ints("other", &of, |rule| rule.other.into()),
        ints("orders", &of, |rule| rule.orders.into()),
        floats("support", &of, |rule| rule.support),
        floats("confidence", &of, |rule| rule.confidence),
        floats("lift", &of, |rule| rule.lift),
    ])?)
}

/// What the model's customers bought in a window after it.
struct Outcome {
    /// Row of the customer, rows of the products bought, whether each is new to them.
    customers: Vec<(usize, Vec<(usize, bool)>)>,
    products: usize,
}

impl Outcome {
    fn of(model: &Recommendations, lines: &Lines, from: i64, to: i64) -> Self {
        let spelling = spelling(lines);
        let mut before: HashSet<(u32, u32)> = HashSet::new();
        let mut bought: BTreeMap<usize, BTreeMap<usize, bool>> = BTreeMap::new();
        for line in lines.before(from).filter(|line| line.is_purchase()) {
            before.insert((
                line.customer.unwrap_or_default(),
                spelling[line.product as usize],
            ));
        }
        for line in lines
            .before(to)
            .filter(|line| line.time >= from && line.is_purchase())
        {
            let Some(number) = line.customer else {
                continue;
            };
            let (Some(customer), Some(product)) = (
                model.customer(lines.customers.name(number)),
                model.product(lines.products.name(line.product)),
            ) else {
                continue;
            };
            bought.entry(customer).or_default().insert(
                product,
                !before.contains(&(number, spelling[line.product as usize])),
            );
        }
        let customers = bought
            .into_iter()
            .map(|(customer, products)| (customer, products.into_iter().collect()))
            .collect();
        Self {
            customers,
            products: model.products().len(),
        }
    }

    /// How many customers next purchases are measured on, and new products.
    fn measured(&self) -> [usize; 2] {
        let new = self
            .customers
            .iter()
            .filter(|(_, bought)| bought.iter().any(|(_, new)| *new));
        [self.customers.len(), new.count()]
    }

    /// NDCG@10 of next purchases and of new products, and the share of products in any list, for
    /// lists by customer and whether they are of new products alone.
    fn measure(&self, list: impl Fn(usize, bool) -> Vec<usize> + Sync) -> (f64, f64, f64) {
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
            let all: Vec<usize> = bought.iter().map(|(product, _)| *product).collect();
            let new: Vec<usize> = bought
                .iter()
                .filter(|(_, new)| *new)
                .map(|(product, _)| *product)
                .collect();
            let next = list(*customer, false);
            let of_new = (!new.is_empty()).then(|| ndcg(&list(*customer, true), &new));
            (ndcg(&next, &all), of_new, next)
        };
        let measured: Vec<_> = self.customers.par_iter().map(one).collect();
        let n = measured.len().max(1) as f64;
        let new: Vec<f64> = measured.iter().filter_map(|m| m.1).collect();
        let mut listed = vec![false; self.products];
        measured
            .iter()
            .flat_map(|m| &m.2)
            .for_each(|product| listed[*product] = true);
        let coverage =
            listed.iter().filter(|listed| **listed).count() as f64 / self.products.max(1) as f64;
        (
            measured.iter().map(|m| m.0).sum::<f64>() / n,
            new.iter().sum::<f64>() / new.len().max(1) as f64,
            coverage,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_nobody_was_measured_for_says_so() {
        let outcome = |customers| Outcome {
            customers,
            products: 9,
        };
        assert_eq!(outcome(vec![]).measured(), [0, 0]);
        let customers = vec![(0, vec![(1, false)]), (1, vec![(1, false), (2, true)])];
        assert_eq!(outcome(customers).measured(), [2, 1]);
        assert!(detail(0, -0.0, -0.0).starts_with("nobody to measure it on"));
        assert_eq!(detail(1, 0.25, 0.125), "NDCG@10 0.250 against 0.125");
    }
}

//! Recommendation: what to put beside the till. Candidates come from what a customer has bought,
//! from products that go with it (a linear autoencoder, Steck 2019; bought in one order; described
//! alike) and from what sells at the moment; a boosted ranker (LambdaMART, Burges 2010) orders
//! them. One ranker orders all products, one those new to the customer.
//!
//! In: a customer's id, a basket of stock codes, or both. A basket counts as bought this instant: a
//! stranger's basket, a new customer's few purchases and a long history take the same path. Out:
//! products, the best first; scores are comparable within an answer alone.
//!
//! `model.safetensors`: `product` `[m, f]` and `customer` `[n, f]` f32 factors of implicit-feedback
//! ALS (Hu, Koren and Volinsky 2008); `taste.`, `together.` and `words.` item-item weights, each
//! `start` `[m + 1]` u32, `other` and `weight` `[e]` u32 and f32: those from product p are at
//! `start[p]..start[p + 1]`; `next.` and `new.` the rankers' trees, see [`Forest`], where there are
//! any. `products.parquet`, `customers.parquet` and `interactions.parquet`: [`Product`],
//! [`Shopper`] and [`Held`] by row, with `customer` and `product` the rows of the other two;
//! `rules.parquet`: `product`, `other`, `orders`, `support`, `confidence`, `lift`.
//! `answers.safetensors`: see [`answers`].

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    Artifact, CustomerId, Forest, Kept, Model, ModelError, ModelKind, StockCode, Table, Tensors,
};

pub mod answers;
mod features;

use answers::Answers;
pub use features::{HALF_LIVES, Held, NEVER, Shopper, Standing, WIDTH, WINDOWS};
use features::{Pair, SIGNALS, Signals, features};

/// Products that a ranker orders, unless more are asked for.
pub const CANDIDATES: usize = 120;
/// Candidates from what sells at the moment, whatever the customer.
const POPULAR: usize = 60;
/// Products of a customer that item-item scores are read from, the freshest.
const MOST_HELD: usize = 200;
/// Products whose sales stand for a best seller's: the n-th, so that a single hit does not set the
/// scale.
const AMONG_BEST: usize = 20;
/// Window of [`WINDOWS`] that says what sells at the moment.
const LATELY: usize = 2;

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Weight of a product that a customer has not bought, in a fold-in.
    pub unobserved: f64,
    /// Regularisation of a fold-in, for each unit of weight (Rendle et al. 2022).
    pub lambda: f64,
    /// Whether there are rankers; without them candidates keep the order in which they were found.
    pub ranked: bool,
}

/// A product that can be recommended.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Its stock code.
    pub stock_code: StockCode,
    /// What it is.
    pub description: Box<str>,
    /// How it sells.
    pub standing: Standing,
}

/// An association rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Row of the other product.
    pub other: usize,
    /// Orders with both.
    pub orders: i64,
    /// Share of all orders with both.
    pub support: f64,
    /// Share of the product's orders with the other.
    pub confidence: f64,
    /// Confidence over the other's share of all orders.
    pub lift: f64,
}

/// Why a product is recommended.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// The customer has bought it that often.
    BoughtBefore(u64),
    /// Customers with a like taste buy it.
    Taste,
    /// It goes with this product of the basket (its row).
    Basket(usize),
    /// It sells well, and little is known of the customer.
    Popular,
}

/// A product and how well it fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Recommendation {
    /// Row of the product.
    pub product: usize,
    /// How well it fits.
    pub score: f64,
    /// Why.
    pub reason: Reason,
}

/// A product that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// How well it fits.
    pub score: f64,
    /// Row of the product.
    pub product: usize,
    /// Whether anything that the customer holds speaks for it.
    pub spoken_for: bool,
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Row of the customer.
    pub customer: Option<usize>,
    /// Rows of the products in the basket.
    pub basket: Vec<usize>,
    /// How many.
    pub limit: usize,
    /// Leave out what the customer has bought.
    pub new_only: bool,
    /// Rows of products to leave out.
    pub exclude: HashSet<usize>,
    /// Least price.
    pub min_price: Option<f64>,
    /// Highest price.
    pub max_price: Option<f64>,
}

impl Query {
    /// The customer who asks, where nothing but a number of products is wished for.
    fn plainly_of(&self) -> Option<usize> {
        let Self {
            customer,
            basket,
            limit: _,
            new_only,
            exclude,
            min_price,
            max_price,
        } = self;
        let is_plain = basket.is_empty() && !new_only && exclude.is_empty();
        customer.filter(|_| is_plain && min_price.is_none() && max_price.is_none())
    }
}

/// Products that a ranker orders, and what it sees of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Candidates {
    /// Rows of the products, the likeliest first.
    pub products: Vec<usize>,
    /// `[products, WIDTH]`
    pub features: Vec<f32>,
    /// How likely each was before it was ranked.
    pub found: Vec<f32>,
    /// Whether anything that the customer holds speaks for it.
    pub spoken_for: Vec<bool>,
}

impl Candidates {
    /// The features of each product.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.features.chunks_exact(WIDTH)
    }
}

/// Weights from products to products.
#[derive(Debug)]
struct Links {
    start: Kept<u32>,
    other: Kept<u32>,
    weight: Kept<f32>,
}

impl Links {
    fn read(
        tensors: &Tensors<'_>,
        name: &'static str,
        products: usize,
    ) -> Result<Self, ModelError> {
        let start: Kept<u32> = tensors.keep(&format!("{name}.start"), &[products + 1])?;
        let [count] = tensors.shape(&format!("{name}.other"))?;
        let other: Kept<u32> = tensors.keep(&format!("{name}.other"), &[count])?;
        let weight: Kept<f32> = tensors.keep(&format!("{name}.weight"), &[count])?;
        let rising = start.first() == Some(&0) && start.windows(2).all(|pair| pair[0] <= pair[1]);
        let all = start.last().is_some_and(|last| *last as usize == count);
        if !rising || !all || other.iter().any(|row| *row as usize >= products) {
            return Err(ModelError::inconsistent(
                name,
                "does not lead from products to products",
            ));
        }
        if weight.iter().any(|weight| !weight.is_finite()) {
            return Err(ModelError::inconsistent(
                name,
                "has a weight that is not finite",
            ));
        }
        Ok(Self {
            start,
            other,
            weight,
        })
    }

    fn from(&self, product: usize) -> impl Iterator<Item = (usize, f32)> {
        let range = self.start[product] as usize..self.start[product + 1] as usize;
        self.other[range.clone()]
            .iter()
            .map(|other| *other as usize)
            .zip(self.weight[range].iter().copied())
    }
}

/// Items by the row of what they belong to, in one piece of memory.
#[derive(Debug)]
struct Grouped<T> {
    start: Vec<usize>,
    all: Vec<T>,
}

impl<T> Grouped<T> {
    /// From rows of a table, of which each belongs to a group below `groups`. Within a group they
    /// keep their order.
    fn new(groups: usize, group_of: &[usize], item: impl Fn(usize) -> T) -> Self {
        let mut start = vec![0; groups + 1];
        group_of.iter().for_each(|group| start[group + 1] += 1);
        for group in 0..groups {
            start[group + 1] += start[group];
        }
        let (mut next, mut order) = (start.clone(), vec![0; group_of.len()]);
        for (row, group) in group_of.iter().enumerate() {
            order[next[*group]] = row;
            next[*group] += 1;
        }
        Self {
            start,
            all: order.into_iter().map(item).collect(),
        }
    }

    fn of(&self, group: usize) -> &[T] {
        &self.all[self.start[group]..self.start[group + 1]]
    }
}

/// The model.
#[derive(Debug)]
pub struct Recommendations {
    parameters: Parameters,
    factors: usize,
    /// `[m, f]`
    product_factors: Kept<f32>,
    /// Length of each product's factors; 0 where nothing is known of it.
    norms: Vec<f32>,
    /// `[n, f]`
    customer_factors: Kept<f32>,
    /// Sum of the products' outer products, `[f, f]`: the lower triangle.
    gram: Vec<f64>,
    products: Vec<Product>,
    /// By the code in capitals.
    product_rows: HashMap<String, usize>,
    /// Rows of the products, those that sell best lately first.
    popular: Vec<usize>,
    best: [f64; WINDOWS.len()],
    /// How well each product sells, as candidates are found by it.
    sells: Vec<f64>,
    customer_rows: HashMap<CustomerId, usize>,
    shoppers: Vec<Shopper>,
    /// What each customer holds, in order of product.
    held: Grouped<Held>,
    taste: Links,
    together: Links,
    words: Links,
    /// Of all products, and of those new to the customer.
    rankers: Option<[Forest; 2]>,
    rules: Grouped<Rule>,
    answers: Option<Answers>,
    slates: Slates,
}

/// Signals of every product, all of them none, for one question after the other: what a question
/// costs is a matter of what it touches, however many products there are.
#[derive(Debug, Default)]
struct Slates(Mutex<Vec<Vec<Signals>>>);

impl Slates {
    /// One that nobody uses.
    fn take(&self, products: usize) -> Vec<Signals> {
        let clean = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        clean.unwrap_or_else(|| vec![Signals::default(); products])
    }

    /// Takes one back, on which these rows have been written.
    fn give_back(&self, mut slate: Vec<Signals>, rows: impl Iterator<Item = usize>) {
        rows.for_each(|row| slate[row] = Signals::default());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(slate);
    }
}

impl Model for Recommendations {
    const KIND: ModelKind = ModelKind::Recommendation;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        let tensors = artifact.tensors("model.safetensors")?;
        let [m, factors] = tensors.shape("product")?;
        let table = artifact.table("products.parquet")?;
        if table.rows() != m || m == 0 || factors == 0 {
            return Err(ModelError::inconsistent(
                "product",
                format!("has {m} rows; the table has {}", table.rows()),
            ));
        }
        let product_factors: Kept<f32> = tensors.keep("product", &[m, factors])?;
        let products = products(&table)?;
        let table = artifact.table("customers.parquet")?;
        let n = table.rows();
        let customer_factors: Kept<f32> = tensors.keep("customer", &[n, factors])?;
        if product_factors
            .iter()
            .chain(&*customer_factors)
            .any(|x| !x.is_finite())
        {
            return Err(ModelError::inconsistent(
                "product",
                "or customer has a factor that is not finite",
            ));
        }
        let mut customer_rows = HashMap::with_capacity(n);
        for (row, id) in table.text("customer_id")?.iter().enumerate() {
            let id = id.parse().map_err(|_| {
                ModelError::inconsistent("customer_id", format!("is empty in row {row}"))
            })?;
            customer_rows.insert(id, row);
        }
        let shoppers = shoppers(&table)?;
        let held = held(&artifact.table("interactions.parquet")?, n, m)?;
        let rules = rules(&artifact.table("rules.parquet")?, m)?;
        let answers = Answers::read(artifact, n, m)?;
        let ranker = |name| Forest::read(&tensors, name, WIDTH);
        let rankers = parameters
            .ranked
            .then(|| Ok([ranker("next.")?, ranker("new.")?]))
            .transpose()?;

        let folded = |product: &Product| StockCode::folded(product.stock_code.as_str());
        let product_rows = products
            .iter()
            .enumerate()
            .map(|(row, product)| (folded(product), row))
            .collect();
        let (popular, best) = (popular(&products), best(&products));
        let sells = sells(&products, &best);
        let norms = product_factors
            .chunks(factors)
            .map(|row| dot(row, row).sqrt())
            .collect();
        let gram = gram(&product_factors, factors);
        Ok(Self {
            parameters,
            factors,
            product_factors,
            norms,
            customer_factors,
            gram,
            products,
            product_rows,
            popular,
            best,
            sells,
            customer_rows,
            shoppers,
            held,
            taste: Links::read(&tensors, "taste", m)?,
            together: Links::read(&tensors, "together", m)?,
            words: Links::read(&tensors, "words", m)?,
            rankers,
            rules,
            answers,
            slates: Slates::default(),
        })
    }
}

/// Rows of the products, those that sell best lately first.
fn popular(products: &[Product]) -> Vec<usize> {
    let sold = |row: usize| {
        let buyers = &products[row].standing.buyers;
        (buyers[LATELY], buyers[WINDOWS.len() - 1])
    };
    let mut popular: Vec<usize> = (0..products.len()).collect();
    popular.sort_by(|a, b| {
        let (one, other) = (sold(*a), sold(*b));
        other
            .0
            .total_cmp(&one.0)
            .then(other.1.total_cmp(&one.1))
            .then(a.cmp(b))
    });
    popular
}

/// Buyers within each window that a product among the best has.
fn best(products: &[Product]) -> [f64; WINDOWS.len()] {
    std::array::from_fn(|window| {
        let mut all: Vec<f64> = products
            .iter()
            .map(|product| product.standing.buyers[window])
            .collect();
        let at = AMONG_BEST.min(all.len()) - 1;
        *all.select_nth_unstable_by(at, |a, b| b.total_cmp(a)).1
    })
}

/// How well each product sells lately, as candidates are found by it.
fn sells(products: &[Product], best: &[f64; WINDOWS.len()]) -> Vec<f64> {
    let best = (1.0 + best[LATELY]).ln().max(1.0);
    products
        .iter()
        .map(|product| 0.15 * (1.0 + product.standing.buyers[LATELY]).ln() / best)
        .collect()
}

fn products(table: &Table) -> Result<Vec<Product>, ModelError> {
    let (codes, descriptions) = (
        table.text("stock_code")?,
        table.optional_text("description")?,
    );
    let [price, quantity, days, first_days, repeats, repeat_share] = [
        "price",
        "quantity",
        "days",
        "first_days",
        "repeats",
        "repeat_share",
    ]
    .map(|name| table.float(name));
    let (price, quantity, days, first_days) = (price?, quantity?, days?, first_days?);
    let (repeats, repeat_share) = (repeats?, repeat_share?);
    let buyers: Vec<Vec<f64>> = (0..WINDOWS.len())
        .map(|at| table.float(&column("buyers", at)))
        .collect::<Result<_, _>>()?;
    let mut products = Vec::with_capacity(codes.len());
    for (row, (code, description)) in codes.iter().zip(descriptions).enumerate() {
        products.push(Product {
            stock_code: code.parse().map_err(|_| {
                ModelError::inconsistent("stock_code", format!("is empty in row {row}"))
            })?,
            description: description.unwrap_or_default(),
            standing: Standing {
                price: price[row],
                quantity: quantity[row],
                buyers: std::array::from_fn(|window| buyers[window][row].max(0.0)),
                days: days[row],
                first_days: first_days[row],
                repeats: repeats[row],
                repeat_share: repeat_share[row],
            },
        });
    }
    Ok(products)
}

/// Name of a column of which there are several.
pub fn column(name: &str, at: usize) -> String {
    format!("{name}_{at}")
}

fn shoppers(table: &Table) -> Result<Vec<Shopper>, ModelError> {
    let (orders, recency, tenure) = (
        table.float("orders")?,
        table.float("recency_days")?,
        table.float("tenure_days")?,
    );
    let (price, quantity) = (table.float("price")?, table.float("quantity")?);
    let shopper = |row: usize| Shopper {
        orders: orders[row],
        recency_days: recency[row],
        tenure_days: tenure[row],
        price: price[row],
        quantity: quantity[row],
    };
    Ok((0..table.rows()).map(shopper).collect())
}

fn within(row: i64, of: usize, name: &'static str) -> Result<usize, ModelError> {
    let row_number = usize::try_from(row).ok().filter(|row| *row < of);
    row_number.ok_or_else(|| ModelError::inconsistent(name, format!("has no row {row}")))
}

fn rows(numbers: &[i64], of: usize, name: &'static str) -> Result<Vec<usize>, ModelError> {
    numbers.iter().map(|row| within(*row, of, name)).collect()
}

fn held(table: &Table, n: usize, m: usize) -> Result<Grouped<Held>, ModelError> {
    let of = rows(&table.int("customer")?, n, "customer")?;
    let product = rows(&table.int("product")?, m, "product")?;
    let (purchases, quantity) = (table.float("purchases")?, table.float("quantity")?);
    let (days, first) = (table.float("days")?, table.float("first_days")?);
    let fresh: Vec<Vec<f64>> = (0..HALF_LIVES.len())
        .map(|at| table.float(&column("fresh", at)))
        .collect::<Result<_, _>>()?;
    let mut held = Grouped::new(n, &of, |row| Held {
        product: product[row],
        purchases: purchases[row].max(0.0),
        days: days[row].max(0.0),
        first_days: first[row].max(0.0),
        quantity: quantity[row],
        fresh: std::array::from_fn(|at| fresh[at][row].max(0.0)),
    });
    for customer in held.start.windows(2) {
        held.all[customer[0]..customer[1]].sort_unstable_by_key(|held| held.product);
    }
    Ok(held)
}

fn rules(table: &Table, m: usize) -> Result<Grouped<Rule>, ModelError> {
    let of = rows(&table.int("product")?, m, "rule")?;
    let (other, orders) = (rows(&table.int("other")?, m, "rule")?, table.int("orders")?);
    let (support, confidence, lift) = (
        table.float("support")?,
        table.float("confidence")?,
        table.float("lift")?,
    );
    Ok(Grouped::new(m, &of, |row| Rule {
        other: other[row],
        orders: orders[row],
        support: support[row],
        confidence: confidence[row],
        lift: lift[row],
    }))
}

/// What is known of who asks.
struct Asking {
    shopper: Shopper,
    /// In order of product, the basket included.
    held: Vec<Held>,
    held_orders: f64,
}

impl Recommendations {
    /// What the manifest holds.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All products, by row.
    pub fn products(&self) -> &[Product] {
        &self.products
    }

    /// Rows of the products, those that sell best lately first.
    pub fn popular(&self) -> &[usize] {
        &self.popular
    }

    /// Row of a product; letters may be large or small.
    pub fn product(&self, stock_code: &str) -> Option<usize> {
        self.product_rows
            .get(&StockCode::folded(stock_code))
            .copied()
    }

    /// Row of a customer.
    pub fn customer(&self, id: &str) -> Option<usize> {
        self.customer_rows.get(CustomerId::canonical(id)).copied()
    }

    /// Customers and their rows.
    pub fn customers(&self) -> impl Iterator<Item = (&CustomerId, usize)> {
        self.customer_rows.iter().map(|(id, row)| (id, *row))
    }

    /// What a customer has bought, in order of product.
    pub fn held(&self, customer: usize) -> &[Held] {
        self.held.of(customer)
    }

    /// What to recommend.
    pub fn recommend(&self, query: &Query) -> Vec<Recommendation> {
        let answers = self.answers.as_ref().zip(query.plainly_of());
        let found = answers.and_then(|(answers, customer)| answers.of(customer, query.limit));
        let found = found.unwrap_or_else(|| self.rank(query));
        let explained = found.into_iter().map(
            |Found {
                 score,
                 product,
                 spoken_for,
             }| {
                let reason = self.reason(query, product, spoken_for);
                Recommendation {
                    product,
                    score,
                    reason,
                }
            },
        );
        explained.collect()
    }

    /// What to recommend, found anew.
    pub fn rank(&self, query: &Query) -> Vec<Found> {
        let candidates = self.candidates(query);
        // Without a past, no product can be bought again.
        let new = query.new_only || query.customer.is_none();
        let ranker = self
            .rankers
            .as_ref()
            .map(|[next, of_new]| if new { of_new } else { next });
        let scores = match ranker {
            Some(ranker) => ranker.sums(&candidates.features, WIDTH),
            None => candidates
                .found
                .iter()
                .map(|found| f64::from(*found))
                .collect(),
        };
        let mut found: Vec<Found> = scores
            .into_iter()
            .zip(&candidates.products)
            .zip(&candidates.spoken_for)
            .map(|((score, product), spoken_for)| Found {
                score,
                product: *product,
                spoken_for: *spoken_for,
            })
            .collect();
        found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.product.cmp(&b.product)));
        found.truncate(query.limit);
        found
    }

    fn reason(&self, query: &Query, product: usize, spoken_for: bool) -> Reason {
        if let Some(held) = query
            .customer
            .and_then(|customer| find(self.held.of(customer), product))
        {
            return Reason::BoughtBefore(held.purchases as u64);
        }
        let weight = |basket: usize| {
            let of = |links: &Links| {
                links
                    .from(basket)
                    .find(|(other, _)| *other == product)
                    .map_or(0.0, |found| found.1)
            };
            of(&self.taste).max(0.0) + of(&self.together)
        };
        let of_basket = query
            .basket
            .iter()
            .map(|basket| (*basket, weight(*basket)))
            .filter(|(_, weight)| *weight > 0.0);
        match of_basket.max_by(|a, b| a.1.total_cmp(&b.1)) {
            Some((basket, _)) => Reason::Basket(basket),
            None if spoken_for => Reason::Taste,
            None => Reason::Popular,
        }
    }

    /// Who asks: a customer's past, with the basket as bought this instant.
    fn asking(&self, query: &Query) -> Asking {
        let mut held = query
            .customer
            .map(|row| self.held.of(row).to_vec())
            .unwrap_or_default();
        for product in &query.basket {
            match held.binary_search_by_key(product, |held| held.product) {
                Ok(at) => held[at] = held[at].again(),
                Err(at) => held.insert(
                    at,
                    Held::now(*product, self.products[*product].standing.quantity),
                ),
            }
        }
        let mut shopper = query.customer.map(|row| self.shoppers[row]);
        if !query.basket.is_empty() {
            let median = |of: fn(&Standing) -> f64| {
                let mut all: Vec<f64> = query
                    .basket
                    .iter()
                    .map(|row| of(&self.products[*row].standing))
                    .collect();
                all.sort_unstable_by(f64::total_cmp);
                all[all.len() / 2]
            };
            shopper = Some(match shopper {
                Some(known) => Shopper {
                    orders: known.orders + 1.0,
                    recency_days: 0.0,
                    ..known
                },
                None => Shopper {
                    orders: 1.0,
                    price: median(|product| product.price),
                    quantity: median(|product| product.quantity),
                    ..Shopper::default()
                },
            });
        }
        let held_orders = held.iter().map(|held| held.purchases).sum();
        Asking {
            shopper: shopper.unwrap_or_default(),
            held,
            held_orders,
        }
    }

    /// What a ranker would order for a query.
    pub fn candidates(&self, query: &Query) -> Candidates {
        let asking = self.asking(query);
        let mut signals = self.slates.take(self.products.len());
        let mut touched = self.signals(&asking, &mut signals);
        let past = query
            .customer
            .map(|row| self.held.of(row))
            .unwrap_or_default();
        for held in past {
            touch(&mut signals, &mut touched, held.product)[MARK] = HELD;
        }
        for row in query.basket.iter().chain(&query.exclude) {
            signals[*row].0[MARK] = LEFT_OUT;
        }
        let mark = |row: usize| signals[row].0[MARK];
        let allowed = |row: usize| {
            let price = self.products[row].standing.price;
            !(mark(row) == LEFT_OUT
                || (query.new_only && mark(row) == HELD)
                || query.min_price.is_some_and(|least| price < least)
                || query.max_price.is_some_and(|most| price > most))
        };
        let wanted = CANDIDATES.max(query.limit);
        let mut possible: Vec<usize> = touched
            .iter()
            .copied()
            .filter(|row| allowed(*row))
            .collect();
        // What sells at the moment fills up, however little may be recommended.
        for (place, row) in self.popular.iter().copied().enumerate() {
            if place >= POPULAR && possible.len() >= wanted {
                break;
            }
            if mark(row) == 0.0 && allowed(row) {
                possible.push(row);
            }
        }
        let mut highest = [1e-9_f32; 3];
        for row in &possible {
            for (highest, at) in highest.iter_mut().zip(LIKED) {
                *highest = highest.max(signals[*row].0[at]);
            }
        }
        let [taste, together, words] = highest;
        let mut found = Vec::with_capacity(possible.len());
        for row in possible {
            let of = &signals[row].0;
            let liked =
                of[LIKED[0]] / taste + 0.4 * of[LIKED[1]] / together + 0.1 * of[LIKED[2]] / words;
            // What was bought before comes before what was not; the rankers see both.
            let again = if of[MARK] == HELD {
                find(past, row)
            } else {
                None
            };
            let again = again.map_or(0.0, |held| {
                5.0 + 2.0 * held.purchases.ln_1p() + held.fresh[3]
            });
            found.push((liked + (self.sells[row] + again) as f32, row));
        }
        let better = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if wanted < found.len() {
            found.select_nth_unstable_by(wanted, better);
            found.truncate(wanted);
        }
        found.sort_unstable_by(better);
        let candidates = self.described(query, &asking, &found, &signals);
        self.slates.give_back(
            signals,
            touched
                .iter()
                .chain(&query.basket)
                .chain(&query.exclude)
                .copied(),
        );
        candidates
    }

    /// Adds the item-item scores of every product, and says the rows of those that have any.
    fn signals(&self, asking: &Asking, signals: &mut [Signals]) -> Vec<usize> {
        let mut touched = Vec::new();
        let mut freshest: Vec<&Held> = asking.held.iter().collect();
        if freshest.len() > MOST_HELD {
            freshest.select_nth_unstable_by(MOST_HELD, |a, b| {
                a.days.total_cmp(&b.days).then(a.product.cmp(&b.product))
            });
            freshest.truncate(MOST_HELD);
            freshest.sort_unstable_by_key(|held| held.product);
        }
        for held in freshest {
            let [usual, all, fresh] = held.weights();
            for (other, weight) in self.taste.from(held.product) {
                let of = touch(signals, &mut touched, other);
                of[0] += usual * weight;
                of[1] += all * weight;
                of[2] += fresh * weight;
            }
            for (other, weight) in self.together.from(held.product) {
                let of = touch(signals, &mut touched, other);
                of[3] += usual * weight;
                of[4] += fresh * weight;
            }
            for (other, weight) in self.words.from(held.product) {
                touch(signals, &mut touched, other)[5] += usual * weight;
            }
        }
        touched
    }

    /// The features of what was found.
    fn described(
        &self,
        query: &Query,
        asking: &Asking,
        found: &[(f32, usize)],
        signals: &[Signals],
    ) -> Candidates {
        let factors = self.taste_factors(query, &asking.held);
        let seen: Vec<Signals> = found
            .iter()
            .map(|(_, row)| {
                let mut of = signals[*row];
                of.0[FACTORS] = dot(&factors, self.factors_of(*row));
                of
            })
            .collect();
        // Each candidate's place by each signal.
        let places = |at: usize| {
            let mut order: Vec<usize> = (0..seen.len()).collect();
            order.sort_unstable_by(|a, b| seen[*b].0[at].total_cmp(&seen[*a].0[at]).then(a.cmp(b)));
            let mut places = vec![0_u16; seen.len()];
            (0..)
                .zip(order)
                .for_each(|(place, candidate)| places[candidate] = place);
            places
        };
        let ranks: [Vec<u16>; SIGNALS] = std::array::from_fn(places);
        let highest = Signals(std::array::from_fn(|at| {
            seen.iter()
                .map(|of| of.0[at])
                .fold(f32::MIN_POSITIVE, f32::max)
        }));
        let mut candidates = Candidates {
            products: found.iter().map(|(_, row)| *row).collect(),
            features: Vec::with_capacity(found.len() * WIDTH),
            found: found.iter().map(|(score, _)| *score).collect(),
            spoken_for: seen
                .iter()
                .map(|of| of.0[..FACTORS].iter().any(|signal| *signal > 0.0))
                .collect(),
        };
        for (at, (_, row)) in found.iter().enumerate() {
            let pair = Pair {
                shopper: &asking.shopper,
                held_products: asking.held.len() as f64,
                held_orders: asking.held_orders,
                held: find(&asking.held, *row),
                standing: &self.products[*row].standing,
                best: &self.best,
                signals: seen[at],
                highest: &highest,
                rank: std::array::from_fn(|signal| ranks[signal][at]),
            };
            features(&pair, &mut candidates.features);
        }
        candidates
    }

    fn factors_of(&self, product: usize) -> &[f32] {
        &self.product_factors[product * self.factors..][..self.factors]
    }

    fn taste_factors(&self, query: &Query, held: &[Held]) -> Vec<f32> {
        match query.customer {
            Some(row) if query.basket.is_empty() => {
                self.customer_factors[row * self.factors..][..self.factors].to_vec()
            }
            Some(_) | None => self.fold_in(held),
        }
    }

    /// Factors of somebody who holds some products: one regularised least-squares solve (Hu et al.
    /// 2008, eq. 4), with the regularisation in proportion to all weights (Rendle et al. 2022).
    pub fn fold_in(&self, held: &[Held]) -> Vec<f32> {
        let (
            f,
            Parameters {
                unobserved, lambda, ..
            },
        ) = (self.factors, &self.parameters);
        let mut a: Vec<f64> = self.gram.iter().map(|of| of * unobserved).collect();
        let mut b = vec![0.0; f];
        let mut weights = unobserved * self.products.len() as f64;
        for held in held {
            let (row, weight) = (self.factors_of(held.product), held.confidence());
            weights += weight;
            for i in 0..f {
                let weighted = weight * f64::from(row[i]);
                b[i] += weighted;
                // The solver reads the lower triangle alone.
                for (to, other) in a[i * f..=i * f + i].iter_mut().zip(row) {
                    *to += weighted * f64::from(*other);
                }
            }
        }
        for i in 0..f {
            a[i * f + i] += lambda * weights;
        }
        solve(&mut a, &mut b);
        b.into_iter().map(|x| x as f32).collect()
    }

    /// The cosine; 0 of a product of which nothing is known.
    fn similarity(&self, one: usize, other: usize) -> f32 {
        let cosine = dot(self.factors_of(one), self.factors_of(other))
            / (self.norms[one] * self.norms[other]);
        if cosine.is_finite() { cosine } else { 0.0 }
    }

    /// Products whose factors point the same way, with the cosine.
    pub fn similar(&self, product: usize, limit: usize) -> Vec<(usize, f64)> {
        let others = (0..self.products.len()).filter(|other| *other != product);
        let others = others.map(|other| (other, self.similarity(product, other)));
        let found = greatest(others.filter(|(_, cosine)| *cosine > 0.0), limit);
        found
            .into_iter()
            .map(|(other, cosine)| (other, f64::from(cosine)))
            .collect()
    }

    /// What goes into the same order, by confidence.
    pub fn rules(&self, product: usize) -> &[Rule] {
        self.rules.of(product)
    }
}

/// Signals that candidates are found by: taste, together, words.
const LIKED: [usize; 3] = [0, 3, 5];
/// Place of the factors' score among the signals; before that is known, what is to be done with the
/// product.
const FACTORS: usize = SIGNALS - 1;
const MARK: usize = FACTORS;
const TOUCHED: f32 = 1.0;
const HELD: f32 = 2.0;
const LEFT_OUT: f32 = 3.0;

fn touch<'a>(
    signals: &'a mut [Signals],
    touched: &mut Vec<usize>,
    row: usize,
) -> &'a mut [f32; SIGNALS] {
    let of = &mut signals[row].0;
    if of[MARK] == 0.0 {
        of[MARK] = TOUCHED;
        touched.push(row);
    }
    of
}

fn find(held: &[Held], product: usize) -> Option<&Held> {
    held.binary_search_by_key(&product, |held| held.product)
        .ok()
        .map(|at| &held[at])
}

/// The rows with the greatest scores, the greatest first; of equal ones the first. Rows come in
/// order.
fn greatest(scores: impl Iterator<Item = (usize, f32)>, count: usize) -> Vec<(usize, f32)> {
    let better = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    // Twice as many as are wanted, the worse half of which goes whenever there are so many: few of
    // a long list even come in.
    let (mut kept, mut least) = (Vec::with_capacity(2 * count), f32::NEG_INFINITY);
    for (row, score) in scores.filter(|_| count > 0) {
        if score <= least {
            continue;
        }
        kept.push((row, score));
        if kept.len() == 2 * count {
            least = kept.select_nth_unstable_by(count - 1, better).1.1;
            kept.truncate(count);
        }
    }
    kept.sort_unstable_by(better);
    kept.truncate(count);
    kept
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Several sums at once, which the compiler turns into vector instructions.
    let (mut sums, split) = ([0.0_f32; 8], a.len() / 8 * 8);
    for (a, b) in a[..split].chunks_exact(8).zip(b.chunks_exact(8)) {
        for at in 0..8 {
            sums[at] += a[at] * b[at];
        }
    }
    sums.iter().sum::<f32>()
        + a[split..]
            .iter()
            .zip(&b[split..])
            .map(|(a, b)| a * b)
            .sum::<f32>()
}

/// The lower triangle alone, which is all that the solver reads.
fn gram(factors: &[f32], f: usize) -> Vec<f64> {
    let mut gram = vec![0.0; f * f];
    for row in factors.chunks(f) {
        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        for i in 0..f {
            gram[i * f..=i * f + i]
                .iter_mut()
                .zip(&row)
                .for_each(|(to, other)| *to += row[i] * other);
        }
    }
    gram
}

/// Solves `a x = b` in place for a symmetric positive definite `a`: Cholesky.
pub(crate) fn solve(a: &mut [f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = a[i * n + j] - (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum::<f64>();
            a[i * n + j] = if i == j {
                sum.max(1e-12).sqrt()
            } else {
                sum / a[j * n + j]
            };
        }
    }
    for i in 0..n {
        b[i] = (b[i] - (0..i).map(|k| a[i * n + k] * b[k]).sum::<f64>()) / a[i * n + i];
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|k| a[k * n + i] * b[k]).sum::<f64>()) / a[i * n + i];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FACTORS: usize = 64;

    /// Products of which each goes with the next, at a price of their row; customer 0 has bought
    /// `held`.
    fn shop(products: usize, held: &[usize], rankers: Option<[Forest; 2]>) -> Recommendations {
        let mut random = 1_u64;
        let mut unit = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 40) as f32 / (1 << 24) as f32
        };
        let factors = |count: usize, unit: &mut dyn FnMut() -> f32| {
            (0..count).map(|_| unit() - 0.5).collect::<Vec<_>>()
        };
        let product_factors = factors(products * FACTORS, &mut unit);
        let customer_factors = factors(FACTORS, &mut unit);
        let links = |from: usize| Links {
            start: (0..=products)
                .map(|row| (row * from) as u32)
                .collect::<Vec<_>>()
                .into(),
            other: (0..products)
                .flat_map(|row| (1..=from).map(move |next| ((row + next) % products) as u32))
                .collect::<Vec<_>>()
                .into(),
            weight: (0..products)
                .flat_map(|_| (1..=from).map(|next| 1.0 / next as f32))
                .collect::<Vec<_>>()
                .into(),
        };
        let product = |row: usize| Product {
            stock_code: row.to_string().parse().unwrap(),
            description: format!("product {row}").into(),
            standing: Standing {
                price: row as f64,
                quantity: 1.0,
                buyers: [row as f64; WINDOWS.len()],
                days: 1.0,
                first_days: 90.0,
                repeats: 1.0,
                repeat_share: 0.1,
            },
        };
        let all: Vec<Product> = (0..products).map(product).collect();
        let (few, many) = (links(1.min(products - 1)), links(100.min(products - 1)));
        Recommendations {
            parameters: Parameters {
                unobserved: 1.0,
                lambda: 0.003,
                ranked: rankers.is_some(),
            },
            factors: FACTORS,
            norms: vec![1.0; products],
            gram: gram(&product_factors, FACTORS),
            product_factors: product_factors.into(),
            customer_factors: customer_factors.into(),
            product_rows: all
                .iter()
                .enumerate()
                .map(|(row, of)| (of.stock_code.to_string(), row))
                .collect(),
            popular: popular(&all),
            best: best(&all),
            sells: sells(&all, &best(&all)),
            products: all,
            customer_rows: HashMap::from([("c".parse().unwrap(), 0)]),
            shoppers: vec![Shopper {
                orders: 2.0,
                ..Shopper::default()
            }],
            held: Grouped::new(1, &vec![0; held.len()], |at| Held::now(held[at], 1.0)),
            taste: if rankers.is_some() {
                many
            } else {
                links(1.min(products - 1))
            },
            together: few,
            words: Links {
                start: vec![0; products + 1].into(),
                other: Vec::new().into(),
                weight: Vec::new().into(),
            },
            rankers,
            rules: Grouped::new(products, &[], |_| unreachable!()),
            answers: None,
            slates: Slates::default(),
        }
    }

    #[test]
    fn recommendations_say_why_and_keep_to_what_is_asked() {
        let model = shop(200, &[7], None);
        let ask = |query: Query| model.recommend(&Query { limit: 3, ..query });
        let of =
            |found: &[Recommendation]| found.iter().map(|found| found.product).collect::<Vec<_>>();

        let known = ask(Query {
            customer: Some(0),
            ..Query::default()
        });
        assert_eq!(
            (known[0].product, &known[0].reason),
            (7, &Reason::BoughtBefore(1))
        );
        assert_eq!((known[1].product, &known[1].reason), (8, &Reason::Taste));
        assert_eq!(
            (known[2].product, &known[2].reason),
            (199, &Reason::Popular)
        );
        assert_eq!(
            of(&ask(Query {
                customer: Some(0),
                new_only: true,
                ..Query::default()
            })),
            [8, 199, 198]
        );

        let basket = ask(Query {
            basket: vec![20, 30],
            ..Query::default()
        });
        assert_eq!(of(&basket), [31, 21, 199], "equally near; 31 sells better");
        assert_eq!(basket[0].reason, Reason::Basket(30));
        let query = Query {
            basket: vec![20, 30],
            exclude: HashSet::from([21]),
            max_price: Some(50.0),
            ..Query::default()
        };
        assert_eq!(of(&ask(query)), [31, 50, 49]);
        let query = Query {
            basket: vec![20],
            min_price: Some(198.5),
            ..Query::default()
        };
        assert_eq!(of(&ask(query)), [199], "there is no more to recommend");
    }

    #[test]
    fn a_basket_is_what_a_customer_has_bought_this_instant() {
        let model = shop(200, &[7, 9], None);
        let found = |query: Query| {
            model
                .candidates(&Query {
                    new_only: true,
                    ..query
                })
                .products
        };
        let as_basket = found(Query {
            basket: vec![7, 9],
            ..Query::default()
        });
        assert_eq!(
            found(Query {
                customer: Some(0),
                ..Query::default()
            }),
            as_basket
        );
        let both = model.asking(&Query {
            customer: Some(0),
            basket: vec![9, 3],
            ..Query::default()
        });
        let held: Vec<_> = both
            .held
            .iter()
            .map(|held| (held.product, held.purchases))
            .collect();
        assert_eq!(
            (held, both.shopper.orders),
            (vec![(3, 1.0), (7, 1.0), (9, 2.0)], 3.0)
        );
    }

    #[test]
    fn nothing_is_like_a_product_of_which_nothing_is_known() {
        let mut model = shop(20, &[7], None);
        let mut factors = model.product_factors.to_vec();
        factors[3 * FACTORS..][..FACTORS].fill(0.0);
        factors[4 * FACTORS..][..FACTORS].fill(1e-30);
        model.product_factors = factors.into();
        model.norms = model
            .product_factors
            .chunks(FACTORS)
            .map(|row| dot(row, row).sqrt())
            .collect();
        assert_eq!(
            (model.similar(3, 20), model.similar(4, 20)),
            (vec![], vec![])
        );
        let found = model.similar(0, 20);
        assert!(
            found
                .iter()
                .all(|(other, cosine)| ![0, 3, 4].contains(other)
                    && *cosine > 0.0
                    && *cosine <= 1.001)
        );
        assert!(!found.is_empty());
    }

    /// Answers of one customer over `products`, as a service reads them.
    fn answers(products: usize, found: &[Vec<Found>]) -> Result<Option<Answers>, ModelError> {
        let file = answers::write(found).into_bytes().unwrap();
        let artifact = Artifact::builder(
            ModelKind::Recommendation,
            "ranked",
            chrono::NaiveDateTime::default(),
            1,
        );
        Answers::read(
            &artifact.file(answers::FILE, file).finish(),
            found.len(),
            products,
        )
    }

    #[test]
    fn answers_that_do_not_hold_together_are_refused() {
        let found = |score: f64, product| Found {
            score,
            product,
            spoken_for: false,
        };
        assert!(
            answers(5, &[vec![found(2.0, 4), found(1.0, 0)]])
                .unwrap()
                .is_some()
        );
        for wrong in [
            vec![found(2.0, 5), found(1.0, 0)],
            vec![found(1.0, 4), found(2.0, 0)],
            vec![found(f64::NAN, 4), found(1.0, 0)],
            vec![found(2.0, 4), found(f64::NEG_INFINITY, 0)],
            vec![found(f64::INFINITY, 4)],
            vec![],
        ] {
            assert!(
                answers(5, std::slice::from_ref(&wrong)).is_err(),
                "{wrong:?}"
            );
        }
        let uneven = [
            vec![found(2.0, 4), found(1.0, 0)],
            vec![found(2.0, 4), found(1.0, 0)],
        ];
        let file = answers::write(&uneven).into_bytes().unwrap();
        let artifact = Artifact::builder(
            ModelKind::Recommendation,
            "ranked",
            chrono::NaiveDateTime::default(),
            1,
        );
        assert!(
            Answers::read(&artifact.file(answers::FILE, file).finish(), 3, 5).is_err(),
            "of 3 customers"
        );
    }

    proptest! {
        #[test]
        fn what_was_found_beforehand_is_what_is_found_anew(
            held in prop::collection::btree_set(0..60_usize, 0..40),
            (limit, new_only, basket) in (1..30_usize, any::<bool>(), prop::collection::vec(0..60_usize, 0..2)),
        ) {
            let mut model = shop(60, &held.into_iter().collect::<Vec<_>>(), None);
            let plain = Query { customer: Some(0), limit: answers::MOST, ..Query::default() };
            let query = Query { limit, new_only, basket, ..plain.clone() };
            let anew = [model.recommend(&Query { limit, ..plain.clone() }), model.recommend(&query)];
            model.answers = answers(60, &[model.rank(&plain)]).unwrap();
            prop_assert_eq!(model.answers.as_ref().unwrap().of(0, limit).is_some(), limit <= answers::MOST);
            prop_assert_eq!([model.recommend(&Query { limit, ..plain }), model.recommend(&query)], anew);
        }

        #[test]
        fn the_greatest_are_those_of_a_sorted_list(scores in prop::collection::vec(0..9_u8, 0..200), count in 0..20_usize) {
            let all: Vec<(usize, f32)> = scores.iter().map(|score| f32::from(*score)).enumerate().collect();
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(count);
            prop_assert_eq!(greatest(all.into_iter(), count), sorted);
        }

        #[test]
        fn a_solution_solves(values in prop::collection::vec(-3.0..3.0_f64, 9), b in prop::collection::vec(-3.0..3.0_f64, 3)) {
            // m mᵀ + I is positive definite.
            let a: Vec<f64> = (0..9).map(|at| {
                let (i, j) = (at / 3, at % 3);
                (0..3).map(|k| values[i * 3 + k] * values[j * 3 + k]).sum::<f64>() + f64::from(u8::from(i == j))
            }).collect();
            let mut x = b.clone();
            solve(&mut a.clone(), &mut x);
            for i in 0..3 {
                let back: f64 = (0..3).map(|j| a[i * 3 + j] * x[j]).sum();
                prop_assert!((back - b[i]).abs() < 1e-6, "{back} {}", b[i]);
            }
        }
    }
}

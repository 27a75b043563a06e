//! The products that a ranker orders for a customer, and what it sees of them.
//!
//! A product becomes a candidate because an item-item weight leads to it from what the customer has
//! bought, because the customer has bought it before, or because it sells at the moment. A basket
//! counts as bought this instant, so that a new customer's basket and a long history take the same
//! path.

use std::collections::HashSet;

use super::{
    features::{
        BySignal, HalfLife, Held, Pair, Shopper, Signal, Signals, Standing, WIDTH, features,
    },
    fold_in::{Factors, Regularisation},
    links::Links,
    load::{Product, Sales},
    slate::{Note, Slate, Slates, State},
};
use crate::{csr::Rows, linear_algebra::dot, quantile::upper_median_by};

/// Products that a ranker orders, unless more are asked for.
pub const CANDIDATES: usize = 120;
/// Candidates from what sells at the moment, whatever the customer.
const POPULAR: usize = 60;
/// Purchases of a customer that item-item scores are read from, the freshest.
const MOST_PURCHASES: usize = 200;

/// How much each reason counts in the order in which candidates are found. The autoencoder's score,
/// over the highest one, counts 1.
struct FindingWeights {
    /// Bought in one order, over the highest score.
    together: f32,
    /// Described alike, over the highest score.
    words: f32,
    /// The customer has bought the product before.
    bought: f64,
    /// Logarithm of 1 and the orders with it.
    purchases: f64,
}

const WEIGHTS: FindingWeights = FindingWeights {
    together: 0.4,
    words: 0.1,
    bought: 5.0,
    purchases: 2.0,
};

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Row of the customer.
    pub customer: Option<usize>,
    /// Rows of the products in the basket.
    pub basket: Vec<usize>,
    /// How many products are wanted.
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
    /// The customer, if the request says nothing else but a number of products.
    pub(super) fn plainly_of(&self) -> Option<usize> {
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
    /// Whether anything that the customer has bought speaks for it.
    pub spoken_for: Vec<bool>,
}

impl Candidates {
    /// The features of each product.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.features.chunks_exact(WIDTH)
    }
}

/// What candidates are found in.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) products: Vec<Product>,
    pub(super) sales: Sales,
    pub(super) shoppers: Vec<Shopper>,
    /// What each customer has bought, in order of product.
    pub(super) held: Rows<Held>,
    pub(super) links: Links,
    pub(super) factors: Factors,
    pub(super) regularisation: Regularisation,
    pub(super) slates: Slates,
}

/// A product and how likely it is before it is ranked.
type Scored = (f32, usize);

/// The customer of a request, with the basket as bought this instant.
pub(super) struct Asking {
    pub(super) shopper: Shopper,
    /// In order of product.
    pub(super) held: Vec<Held>,
    /// Orders with each product, added up.
    held_orders: f64,
}

/// A product among those that a customer has bought, which are in order of product.
pub(super) fn find(held: &[Held], product: usize) -> Option<&Held> {
    held.binary_search_by_key(&product, |held| held.product)
        .ok()
        .map(|at| &held[at])
}

impl Sources {
    /// The candidates of a request.
    pub(super) fn candidates(&self, query: &Query) -> Candidates {
        let asking = self.asking(query);
        let mut slate = self.slates.take(self.products.len());
        self.add_signals(&asking, &mut slate);
        let past = query.customer.map(|row| self.held.row(row));
        let past = past.unwrap_or_default();
        for held in past {
            slate.touch(held.product).state = State::Held;
        }
        for row in query.basket.iter().chain(&query.exclude) {
            slate.leave_out(*row);
        }
        let wanted = CANDIDATES.max(query.limit);
        let possible = self.possible(query, &slate, wanted);
        let found = self.likeliest(past, &slate, possible, wanted);
        let candidates = self.described(query, &asking, &found, &slate);
        self.slates.give_back(slate);
        candidates
    }

    /// The customer of a request.
    pub(super) fn asking(&self, query: &Query) -> Asking {
        let past = query.customer.map(|row| self.held.row(row).to_vec());
        let mut held = past.unwrap_or_default();
        for product in &query.basket {
            match held.binary_search_by_key(product, |held| held.product) {
                Ok(at) => held[at] = held[at].again(),
                Err(at) => {
                    let usual = self.products[*product].standing.quantity;
                    held.insert(at, Held::now(*product, usual));
                }
            }
        }
        let known = query.customer.map(|row| self.shoppers[row]);
        let shopper = match known {
            known if query.basket.is_empty() => known.unwrap_or_default(),
            Some(known) => Shopper {
                orders: known.orders + 1.0,
                recency_days: 0.0,
                ..known
            },
            None => Shopper {
                orders: 1.0,
                price: self.median(&query.basket, |standing| standing.price),
                quantity: self.median(&query.basket, |standing| standing.quantity),
                ..Shopper::default()
            },
        };
        let held_orders = held.iter().map(|held| held.purchases).sum();
        Asking {
            shopper,
            held,
            held_orders,
        }
    }

    fn median(&self, products: &[usize], of: fn(&Standing) -> f64) -> f64 {
        let values = products.iter().map(|row| of(&self.products[*row].standing));
        let mut values: Vec<f64> = values.collect();
        upper_median_by(&mut values, f64::total_cmp).unwrap_or_default()
    }

    /// Adds up the item-item signals of every product.
    fn add_signals(&self, asking: &Asking, slate: &mut Slate) {
        let mut freshest: Vec<&Held> = asking.held.iter().collect();
        if freshest.len() > MOST_PURCHASES {
            freshest.select_nth_unstable_by(MOST_PURCHASES, |a, b| {
                a.days.total_cmp(&b.days).then(a.product.cmp(&b.product))
            });
            freshest.truncate(MOST_PURCHASES);
            // Sums of floats depend on their order.
            freshest.sort_unstable_by_key(|held| held.product);
        }
        for held in freshest {
            self.links.add_signals(held, slate);
        }
    }

    /// Rows of the products that may be recommended and have something for them.
    fn possible(&self, query: &Query, slate: &Slate, wanted: usize) -> Vec<usize> {
        let is_allowed = |row: &usize| {
            let (state, price) = (slate[*row].state, self.products[*row].standing.price);
            let is_out = match state {
                State::LeftOut => true,
                State::Held => query.new_only,
                State::Touched | State::Untouched => false,
            };
            !(is_out
                || query.min_price.is_some_and(|least| price < least)
                || query.max_price.is_some_and(|most| price > most))
        };
        let mut possible: Vec<usize> = slate.touched().filter(is_allowed).collect();
        // What sells at the moment fills up, however little may be recommended.
        for (place, row) in self.sales.popular.iter().copied().enumerate() {
            if place >= POPULAR && possible.len() >= wanted {
                break;
            }
            if slate[row].state == State::Untouched && is_allowed(&row) {
                possible.push(row);
            }
        }
        possible
    }

    /// The likeliest of some products, the first `wanted` in order.
    fn likeliest(
        &self,
        past: &[Held],
        slate: &Slate,
        possible: Vec<usize>,
        wanted: usize,
    ) -> Vec<Scored> {
        // Above 0, so that a signal that no product has is 0 over it.
        let least = 1e-9_f32;
        let (mut taste, mut together, mut words) = (least, least, least);
        for row in &possible {
            let signals = &slate[*row].signals;
            taste = taste.max(signals.taste);
            together = together.max(signals.together);
            words = words.max(signals.words);
        }
        let mut found = Vec::with_capacity(possible.len());
        for row in possible {
            let Note { signals, state } = &slate[row];
            let liked = signals.taste / taste
                + WEIGHTS.together * signals.together / together
                + WEIGHTS.words * signals.words / words;
            // What was bought before comes before what was not; the rankers see both.
            let bought = match state {
                State::Held => find(past, row),
                State::Untouched | State::Touched | State::LeftOut => None,
            };
            let again = bought.map_or(0.0, |held| {
                let purchases = WEIGHTS.purchases * held.purchases.ln_1p();
                WEIGHTS.bought + purchases + held.decayed(HalfLife::Days120)
            });
            found.push((liked + (self.sales.score[row] + again) as f32, row));
        }
        let better = |a: &Scored, b: &Scored| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if wanted < found.len() {
            found.select_nth_unstable_by(wanted, better);
            found.truncate(wanted);
        }
        found.sort_unstable_by(better);
        found
    }

    /// The features of what was found.
    fn described(
        &self,
        query: &Query,
        asking: &Asking,
        found: &[Scored],
        slate: &Slate,
    ) -> Candidates {
        let factors = self.factors(query, &asking.held);
        let signals = |(_, row): &Scored| Signals {
            factors: dot(&factors, self.factors.of_product(*row)),
            ..slate[*row].signals
        };
        let seen: Vec<Signals> = found.iter().map(signals).collect();
        let places = BySignal::from_fn(|signal| places(&seen, signal));
        let highest = BySignal::from_fn(|signal| {
            let values = seen.iter().map(|of| *of.get(signal));
            values.fold(f32::MIN_POSITIVE, f32::max)
        });
        let mut candidates = Candidates {
            products: found.iter().map(|(_, row)| *row).collect(),
            features: Vec::with_capacity(found.len() * WIDTH),
            found: found.iter().map(|(score, _)| *score).collect(),
            spoken_for: seen.iter().map(Signals::speak_for_it).collect(),
        };
        for (at, (_, row)) in found.iter().enumerate() {
            let pair = Pair {
                shopper: &asking.shopper,
                held_products: asking.held.len() as f64,
                held_orders: asking.held_orders,
                held: find(&asking.held, *row),
                standing: &self.products[*row].standing,
                best: &self.sales.best,
                signals: seen[at],
                highest: &highest,
                rank: BySignal::from_fn(|signal| places.get(signal)[at]),
            };
            features(&pair, &mut candidates.features);
        }
        candidates
    }

    /// The customer's factors: those that training found, if there is no basket.
    fn factors(&self, query: &Query, held: &[Held]) -> Vec<f32> {
        match query.customer {
            Some(row) if query.basket.is_empty() => self.factors.of_customer(row).to_vec(),
            Some(_) | None => self.factors.fold_in(held, self.regularisation),
        }
    }
}

/// Each candidate's place by a signal, 0 the highest.
fn places(seen: &[Signals], signal: Signal) -> Vec<u16> {
    let value = |candidate: usize| *seen[candidate].get(signal);
    let mut order: Vec<usize> = (0..seen.len()).collect();
    order.sort_unstable_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
    let mut places = vec![0_u16; seen.len()];
    for (place, candidate) in (0..).zip(order) {
        places[candidate] = place;
    }
    places
}

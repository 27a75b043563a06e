//! Recommendation: products for a customer or a basket. Candidates come from what a customer has
//! bought, from products that go with it (a linear autoencoder, Steck 2019; bought in one order;
//! described alike) and from what sells at the moment; a boosted ranker (LambdaMART, Burges 2010)
//! orders them. One ranker orders all products, one those new to the customer.
//!
//! In: a customer's id, a basket of stock codes, or both. A basket counts as bought this instant:
//! an unknown customer's basket, a new customer's few purchases and a long history take the same
//! path.
//! Out: products, the best first; scores are comparable only within an answer.
//!
//! `model.safetensors`: `product` `[m, f]` and `customer` `[n, f]` f32 factors of implicit-feedback
//! ALS (Hu, Koren and Volinsky 2008); `taste.`, `together.` and `words.` item-item weights, each
//! `start` `[m + 1]` u32, `other` and `weight` `[e]` u32 and f32: those from product p are at
//! `start[p]..start[p + 1]`; `next.` and `new.` the rankers' trees, see [`Forest`], if there are
//! any. `products.parquet`, `customers.parquet` and `interactions.parquet`: [`Product`],
//! [`Shopper`] and [`Held`] by row, with `customer` and `product` the rows of the other two;
//! `rules.parquet`: `product`, `other`, `orders`, `support`, `confidence`, `lift`.
//! `answers.safetensors`: see [`answers`].

pub mod answers;
mod candidates;
mod features;
mod fold_in;
mod links;
mod load;
mod slate;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use self::{
    answers::Answers,
    candidates::{Sources, find},
    fold_in::{Factors, Regularisation},
    links::Links,
    load::Sales,
    slate::Slates,
};
pub use self::{
    answers::Found,
    candidates::{CANDIDATES, Candidates, Query},
    features::{HALF_LIVES, Held, NEVER, Shopper, Standing, WIDTH, WINDOWS},
    load::{Product, Rule, column},
};
use crate::{
    Artifact, CustomerId, Forest, Model, ModelError, ModelKind, StockCode, Tensors, csr::Rows,
};

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

/// Why a product is recommended.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// The customer has bought it in this many orders.
    BoughtBefore(u64),
    /// Customers with a similar taste buy it.
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
    /// Why it is recommended.
    pub reason: Reason,
}

/// Trees that order candidates.
#[derive(Debug)]
struct Rankers {
    /// All products.
    all: Forest,
    /// Products new to the customer.
    new: Forest,
}

impl Rankers {
    fn read(tensors: &Tensors<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            all: Forest::read(tensors, "next.", WIDTH)?,
            new: Forest::read(tensors, "new.", WIDTH)?,
        })
    }
}

/// The model.
#[derive(Debug)]
pub struct RecommendationModel {
    parameters: Parameters,
    sources: Sources,
    /// By the folded stock code, see [`StockCode::folded`].
    product_rows: HashMap<String, usize>,
    customer_rows: HashMap<CustomerId, usize>,
    rankers: Option<Rankers>,
    /// By product.
    rules: Rows<Rule>,
    answers: Option<Answers>,
}

impl Model for RecommendationModel {
    const KIND: ModelKind = ModelKind::Recommendation;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let parameters: Parameters = artifact.parameters()?;
        let tensors = artifact.tensors("model.safetensors")?;
        let [m, width] = tensors.shape("product")?;
        let table = artifact.table("products.parquet")?;
        if table.rows() != m || m == 0 || width == 0 {
            return Err(ModelError::inconsistent(
                "product",
                format!("has {m} rows; the table has {}", table.rows()),
            ));
        }
        let products = load::products(&table)?;
        let table = artifact.table("customers.parquet")?;
        let n = table.rows();
        let sources = Sources {
            sales: Sales::of(&products),
            products,
            factors: Factors::read(&tensors, m, n)?,
            shoppers: load::shoppers(&table)?,
            held: load::held(&artifact.table("interactions.parquet")?, n, m)?,
            links: Links::read(&tensors, m)?,
            regularisation: Regularisation {
                unobserved: parameters.unobserved,
                lambda: parameters.lambda,
            },
            slates: Slates::default(),
        };
        let rankers = parameters.ranked.then(|| Rankers::read(&tensors));
        let folded = |product: &load::Product| StockCode::folded(product.stock_code.as_str());
        let product_rows = sources.products.iter().map(folded).zip(0..).collect();
        Ok(Self {
            parameters,
            sources,
            product_rows,
            customer_rows: load::customer_rows(&table)?,
            rankers: rankers.transpose()?,
            rules: load::rules(&artifact.table("rules.parquet")?, m)?,
            answers: Answers::read(artifact, n, m)?,
        })
    }
}

impl RecommendationModel {
    /// What the manifest holds.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All products, by row.
    pub fn products(&self) -> &[Product] {
        &self.sources.products
    }

    /// Rows of the products, those that sell best lately first.
    pub fn popular(&self) -> &[usize] {
        &self.sources.sales.popular
    }

    /// Row of a product, in upper or lower case.
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
        self.sources.held.row(customer)
    }

    /// Products to recommend, the best first, and why.
    pub fn recommend(&self, query: &Query) -> Vec<Recommendation> {
        let answers = self.answers.as_ref().zip(query.plainly_of());
        let found = answers.and_then(|(answers, customer)| answers.of(customer, query.limit));
        let found = found.unwrap_or_else(|| self.rank(query));
        let explained = |found: Found| Recommendation {
            product: found.product,
            score: found.score,
            reason: self.reason(query, &found),
        };
        found.into_iter().map(explained).collect()
    }

    /// Products to recommend, the best first, without a look at the answers found in training.
    pub fn rank(&self, query: &Query) -> Vec<Found> {
        let candidates = self.candidates(query);
        // A customer without a past can buy no product again.
        let is_new = query.new_only || query.customer.is_none();
        let rankers = self.rankers.as_ref();
        let scores: Vec<f64> = match rankers.map(|of| if is_new { &of.new } else { &of.all }) {
            Some(ranker) => ranker.sums(&candidates.features, WIDTH),
            None => candidates.found.iter().copied().map(f64::from).collect(),
        };
        let found = scores
            .into_iter()
            .zip(&candidates.products)
            .zip(&candidates.spoken_for)
            .map(|((score, product), spoken_for)| Found {
                score,
                product: *product,
                spoken_for: *spoken_for,
            });
        let mut found: Vec<Found> = found.collect();
        found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.product.cmp(&b.product)));
        found.truncate(query.limit);
        found
    }

    fn reason(&self, query: &Query, found: &Found) -> Reason {
        let past = query.customer.map(|customer| self.held(customer));
        if let Some(held) = past.and_then(|held| find(held, found.product)) {
            return Reason::BoughtBefore(held.purchases as u64);
        }
        let weight = |basket: &usize| {
            let weight = self.sources.links.weight(*basket, found.product);
            (weight > 0.0).then_some((*basket, weight))
        };
        let of_basket = query.basket.iter().filter_map(weight);
        match of_basket.max_by(|a, b| a.1.total_cmp(&b.1)) {
            Some((basket, _)) => Reason::Basket(basket),
            None if found.spoken_for => Reason::Taste,
            None => Reason::Popular,
        }
    }

    /// The candidates of a request, which a ranker orders.
    pub fn candidates(&self, query: &Query) -> Candidates {
        self.sources.candidates(query)
    }

    /// Factors of a customer with some purchases.
    pub fn fold_in(&self, held: &[Held]) -> Vec<f32> {
        let Sources {
            factors,
            regularisation,
            ..
        } = &self.sources;
        factors.fold_in(held, *regularisation)
    }

    /// Products with factors that point in the same direction, with the cosine.
    pub fn similar(&self, product: usize, limit: usize) -> Vec<(usize, f64)> {
        let cosine = |other: usize| (other, self.sources.factors.cosine(product, other));
        let others = (0..self.products().len()).filter(|other| *other != product);
        let found = greatest(
            others.map(cosine).filter(|(_, cosine)| *cosine > 0.0),
            limit,
        );
        found
            .into_iter()
            .map(|(other, cosine)| (other, f64::from(cosine)))
            .collect()
    }

    /// Rules from a product to those in the same orders, by confidence.
    pub fn rules(&self, product: usize) -> &[Rule] {
        self.rules.row(product)
    }
}

/// The rows with the greatest scores, the greatest first; of equal ones the first. Rows come in
/// order.
fn greatest(scores: impl Iterator<Item = (usize, f32)>, count: usize) -> Vec<(usize, f32)> {
    let better = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    // Keeps up to twice as many as are wanted and then drops the worse half: a selection for each
    // `count` rows that come in, and few rows of a long list do.
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{Kept, csr::SparseMatrix};

    const FACTORS: usize = 64;

    /// Products of which each goes with the next, at a price of their row; customer 0 has bought
    /// `held`.
    #[expect(
        clippy::too_many_lines,
        reason = "a literal of a whole model, field by field"
    )]
    fn shop(products: usize, held: &[usize], rankers: Option<Rankers>) -> RecommendationModel {
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
        let links = |from: usize| {
            let row = |row: usize| {
                let others = (1..=from).map(|next| {
                    let other = (row + next) % products;
                    (other as u32, 1.0 / next as f32)
                });
                others.collect()
            };
            SparseMatrix::of(&(0..products).map(row).collect::<Vec<_>>())
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
        let (few, many) = (1.min(products - 1), 100.min(products - 1));
        let none = std::iter::empty();
        let sources = Sources {
            sales: Sales::of(&all),
            factors: Factors::new(FACTORS, product_factors.into(), customer_factors.into()),
            shoppers: vec![Shopper {
                orders: 2.0,
                ..Shopper::default()
            }],
            held: Rows::of_numbers(1, held.iter().map(|_| Some(0)))
                .map(|at| Held::now(held[at as usize], 1.0)),
            links: Links {
                taste: links(if rankers.is_some() { many } else { few }),
                together: links(few),
                words: links(0),
            },
            regularisation: Regularisation {
                unobserved: 1.0,
                lambda: 0.003,
            },
            slates: Slates::default(),
            products: all,
        };
        RecommendationModel {
            parameters: Parameters {
                unobserved: 1.0,
                lambda: 0.003,
                ranked: rankers.is_some(),
            },
            product_rows: sources
                .products
                .iter()
                .map(|product| product.stock_code.to_string())
                .zip(0..)
                .collect(),
            sources,
            customer_rows: HashMap::from([("c".parse().unwrap(), 0)]),
            rankers,
            rules: Rows::of_numbers(products, none).map(|_| unreachable!()),
            answers: None,
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
        let both = model.sources.asking(&Query {
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
        let known = &model.sources.factors;
        let mut factors: Vec<f32> = (0..20)
            .flat_map(|row| known.of_product(row).to_vec())
            .collect();
        factors[3 * FACTORS..][..FACTORS].fill(0.0);
        factors[4 * FACTORS..][..FACTORS].fill(1e-30);
        let customers: Kept<f32> = vec![0.0; FACTORS].into();
        model.sources.factors = Factors::new(FACTORS, factors.into(), customers);
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
        fn answers_found_in_training_equal_those_found_on_request(
            held in prop::collection::btree_set(0..60_usize, 0..40),
            limit in 1..30_usize,
            new_only: bool,
            basket in prop::collection::vec(0..60_usize, 0..2),
        ) {
            let mut model = shop(60, &held.into_iter().collect::<Vec<_>>(), None);
            let plain = Query { customer: Some(0), limit: answers::MOST, ..Query::default() };
            let limited = Query { limit, ..plain.clone() };
            let query = Query { new_only, basket, ..limited.clone() };
            let ranked = [model.recommend(&limited), model.recommend(&query)];
            model.answers = answers(60, &[model.rank(&plain)]).unwrap();
            let looked_up = model.answers.as_ref().unwrap().of(0, limit);
            prop_assert_eq!(looked_up.is_some(), limit <= answers::MOST);
            prop_assert_eq!([model.recommend(&limited), model.recommend(&query)], ranked);
        }

        #[test]
        fn the_greatest_are_those_of_a_sorted_list(
            scores in prop::collection::vec(0..9_u8, 0..200),
            count in 0..20_usize,
        ) {
            let scores = scores.into_iter().map(f32::from);
            let all: Vec<(usize, f32)> = scores.enumerate().collect();
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(count);
            prop_assert_eq!(greatest(all.into_iter(), count), sorted);
        }
    }
}

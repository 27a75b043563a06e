//! Recommendation: what to put beside the till. Implicit-feedback ALS (Hu, Koren and Volinsky 2008) blended with what a
//! customer buys again and again and with what sells at the moment; association rules from baskets.
//!
//! In: a customer's id, a basket of stock codes, or both. Out: products, the best first; scores are comparable within an
//! answer alone.
//!
//! `model.safetensors`: `product` `[m, f]` and `customer` `[n, f]` f32 factors. `products.parquet`: `stock_code`,
//! `description`, `price`, `recent_orders`; `customers.parquet`: `customer_id`; `interactions.parquet`: `customer`,
//! `product` (rows of the two), `purchases`, `days`; `rules.parquet`: `product`, `other`, `orders`, `support`,
//! `confidence`, `lift`.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{Artifact, CustomerId, Model, ModelError, ModelKind, StockCode};

/// What the manifest holds for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Weight of an interaction over none: confidence is 1 + alpha for a single purchase.
    pub alpha: f64,
    /// Regularisation of a fold-in.
    pub lambda: f64,
    /// Days after which a purchase counts for 1/e in repeat purchase.
    pub repeat_days: f64,
    /// Weight of repeat purchase beside taste.
    pub repeat_weight: f64,
    /// Weight of recent popularity beside taste.
    pub popular_weight: f64,
}

/// A product that can be recommended.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Its stock code.
    pub stock_code: StockCode,
    /// What it is.
    pub description: Box<str>,
    /// Its usual price, shop currency.
    pub price: f64,
    /// Orders with it lately.
    pub recent_orders: f64,
}

/// How a customer has bought a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interaction {
    /// Row of the product.
    pub product: usize,
    /// Orders with it.
    pub purchases: f64,
    /// Days from the last one to the as-of time.
    pub days: f64,
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

/// The model.
#[derive(Debug)]
pub struct Recommendations {
    parameters: Parameters,
    factors: usize,
    /// `[m, f]`
    product_factors: Vec<f32>,
    /// Length of each product's factors, above 0.
    norms: Vec<f32>,
    /// `[n, f]`
    customer_factors: Vec<f32>,
    /// Sum of the products' outer products, `[f, f]`.
    gram: Vec<f64>,
    popularity: Vec<f64>,
    products: Vec<Product>,
    product_rows: HashMap<StockCode, usize>,
    customer_rows: HashMap<CustomerId, usize>,
    interactions: Vec<Vec<Interaction>>,
    rules: Vec<Vec<Rule>>,
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
            return Err(ModelError::inconsistent("product", format!("has {m} rows; the table has {}", table.rows())));
        }
        let product_factors: Vec<f32> = tensors.get("product", &[m, factors])?;
        let customers = artifact.table("customers.parquet")?;
        let n = customers.rows();
        let customer_factors: Vec<f32> = tensors.get("customer", &[n, factors])?;
        if product_factors.iter().chain(&customer_factors).any(|x| !x.is_finite()) {
            return Err(ModelError::inconsistent("product", "or customer has a factor that is not finite"));
        }

        let (codes, descriptions) = (table.text("stock_code")?, table.optional_text("description")?);
        let (prices, recent) = (table.float("price")?, table.float("recent_orders")?);
        let mut products = Vec::with_capacity(m);
        for (row, (code, description)) in codes.iter().zip(descriptions).enumerate() {
            products.push(Product {
                stock_code: code
                    .parse()
                    .map_err(|_| ModelError::inconsistent("stock_code", format!("is empty in row {row}")))?,
                description: description.unwrap_or_default(),
                price: prices[row],
                recent_orders: recent[row],
            });
        }
        let mut customer_rows = HashMap::with_capacity(n);
        for (row, id) in customers.text("customer_id")?.iter().enumerate() {
            let id =
                id.parse().map_err(|_| ModelError::inconsistent("customer_id", format!("is empty in row {row}")))?;
            customer_rows.insert(id, row);
        }
        let within = |row: i64, of: usize, name: &'static str| {
            usize::try_from(row)
                .ok()
                .filter(|row| *row < of)
                .ok_or_else(|| ModelError::inconsistent(name, format!("has no row {row}")))
        };
        let table = artifact.table("interactions.parquet")?;
        let (of, product, purchases, days) =
            (table.int("customer")?, table.int("product")?, table.float("purchases")?, table.float("days")?);
        let mut interactions = vec![Vec::new(); n];
        for row in 0..table.rows() {
            let (customer, product) = (within(of[row], n, "customer")?, within(product[row], m, "product")?);
            interactions[customer].push(Interaction { product, purchases: purchases[row], days: days[row] });
        }
        let table = artifact.table("rules.parquet")?;
        let (of, other, orders) = (table.int("product")?, table.int("other")?, table.int("orders")?);
        let (support, confidence, lift) = (table.float("support")?, table.float("confidence")?, table.float("lift")?);
        let mut rules = vec![Vec::new(); m];
        for row in 0..table.rows() {
            let (product, other) = (within(of[row], m, "rule")?, within(other[row], m, "rule")?);
            rules[product].push(Rule {
                other,
                orders: orders[row],
                support: support[row],
                confidence: confidence[row],
                lift: lift[row],
            });
        }

        let product_rows =
            products.iter().enumerate().map(|(row, product)| (product.stock_code.clone(), row)).collect();
        let most = products.iter().map(|product| product.recent_orders).fold(1.0, f64::max);
        let popularity =
            products.iter().map(|product| (1.0 + product.recent_orders.max(0.0)).ln() / (1.0 + most).ln()).collect();
        let norms = product_factors.chunks(factors).map(|row| dot(row, row).sqrt().max(f32::MIN_POSITIVE)).collect();
        let gram = gram(&product_factors, factors);
        Ok(Self {
            parameters,
            factors,
            product_factors,
            norms,
            customer_factors,
            gram,
            popularity,
            products,
            product_rows,
            customer_rows,
            interactions,
            rules,
        })
    }
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

    /// Row of a product.
    pub fn product(&self, stock_code: &str) -> Option<usize> {
        self.product_rows.get(StockCode::canonical(stock_code)).copied()
    }

    /// Row of a customer.
    pub fn customer(&self, id: &str) -> Option<usize> {
        self.customer_rows.get(CustomerId::canonical(id)).copied()
    }

    /// Customers and their rows.
    pub fn customers(&self) -> impl Iterator<Item = (&CustomerId, usize)> {
        self.customer_rows.iter().map(|(id, row)| (id, *row))
    }

    /// The same model with other weights, to choose them by.
    #[must_use]
    pub fn weighted(mut self, parameters: Parameters) -> Self {
        self.parameters = parameters;
        self
    }

    /// What to recommend.
    pub fn recommend(&self, query: &Query) -> Vec<Recommendation> {
        let taste = self.taste(query);
        let mut repeat = vec![0.0; self.products.len()];
        let mut purchases = vec![0_u64; self.products.len()];
        for interaction in query.customer.map(|row| self.interactions[row].as_slice()).unwrap_or_default() {
            let recent = (-interaction.days.max(0.0) / self.parameters.repeat_days).exp();
            repeat[interaction.product] = interaction.purchases.max(0.0).ln_1p() * recent;
            purchases[interaction.product] = interaction.purchases as u64;
        }
        let in_basket: HashSet<usize> = query.basket.iter().copied().collect();
        let mut found = Vec::with_capacity(self.products.len());
        for (row, product) in self.products.iter().enumerate() {
            let left_out = in_basket.contains(&row)
                || query.exclude.contains(&row)
                || (query.new_only && purchases[row] > 0)
                || query.min_price.is_some_and(|least| product.price < least)
                || query.max_price.is_some_and(|most| product.price > most);
            if left_out {
                continue;
            }
            let Parameters { repeat_weight, popular_weight, .. } = self.parameters;
            let parts = [f64::from(taste[row]), repeat_weight * repeat[row], popular_weight * self.popularity[row]];
            found.push((parts.iter().sum::<f64>(), row, parts));
        }
        let better = |a: &(f64, usize, [f64; 3]), b: &(f64, usize, [f64; 3])| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let limit = query.limit.min(found.len());
        if limit > 0 && limit < found.len() {
            found.select_nth_unstable_by(limit - 1, better);
            found.truncate(limit);
        }
        found.sort_unstable_by(better);
        found.truncate(limit);
        let explained = found.into_iter().map(|(score, product, parts)| {
            let reason = self.reason(query, product, parts, purchases[product]);
            Recommendation { product, score, reason }
        });
        explained.collect()
    }

    fn reason(&self, query: &Query, product: usize, [taste, repeat, popular]: [f64; 3], purchases: u64) -> Reason {
        if repeat > taste.max(popular) {
            return Reason::BoughtBefore(purchases);
        }
        if popular > taste {
            return Reason::Popular;
        }
        let of_basket = query.basket.iter().map(|basket| (*basket, self.similarity(*basket, product)));
        match of_basket.max_by(|a, b| a.1.total_cmp(&b.1)) {
            Some((basket, similarity)) if query.customer.is_none() || similarity > 0.5 => Reason::Basket(basket),
            Some(_) | None => Reason::Taste,
        }
    }

    /// Preference for every product, about 0 to 1.
    fn taste(&self, query: &Query) -> Vec<f32> {
        let folded;
        let of = match (query.customer, query.basket.is_empty()) {
            (Some(row), true) => &self.customer_factors[row * self.factors..][..self.factors],
            (None, true) => return vec![0.0; self.products.len()],
            (customer, false) => {
                let mut bought: Vec<usize> = query.basket.clone();
                bought.extend(
                    customer.iter().flat_map(|row| &self.interactions[*row]).map(|interaction| interaction.product),
                );
                folded = self.fold_in(&bought);
                &folded
            }
        };
        self.product_factors.chunks(self.factors).map(|row| dot(of, row)).collect()
    }

    /// Factors of somebody who has bought some products: one regularised least-squares solve (Hu et al. 2008, eq. 4).
    pub fn fold_in(&self, products: &[usize]) -> Vec<f32> {
        let (f, Parameters { alpha, lambda, .. }) = (self.factors, &self.parameters);
        let mut a = self.gram.clone();
        let mut b = vec![0.0; f];
        for product in products {
            let row = &self.product_factors[product * f..][..f];
            for i in 0..f {
                b[i] += (1.0 + alpha) * f64::from(row[i]);
                for j in 0..f {
                    a[i * f + j] += alpha * f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        for i in 0..f {
            a[i * f + i] += lambda;
        }
        solve(&mut a, &mut b);
        b.into_iter().map(|x| x as f32).collect()
    }

    fn similarity(&self, one: usize, other: usize) -> f32 {
        let row = |at: usize| &self.product_factors[at * self.factors..][..self.factors];
        dot(row(one), row(other)) / (self.norms[one] * self.norms[other])
    }

    /// Products whose factors point the same way, with the cosine.
    pub fn similar(&self, product: usize, limit: usize) -> Vec<(usize, f64)> {
        let others = (0..self.products.len()).filter(|other| *other != product);
        let mut found: Vec<_> = others.map(|other| (other, f64::from(self.similarity(product, other)))).collect();
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(limit);
        found
    }

    /// What goes into the same order, by confidence.
    pub fn rules(&self, product: usize) -> &[Rule] {
        &self.rules[product]
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn gram(factors: &[f32], f: usize) -> Vec<f64> {
    let mut gram = vec![0.0; f * f];
    for row in factors.chunks(f) {
        for i in 0..f {
            for j in 0..f {
                gram[i * f + j] += f64::from(row[i]) * f64::from(row[j]);
            }
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
            a[i * n + j] = if i == j { sum.max(1e-12).sqrt() } else { sum / a[j * n + j] };
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

    proptest! {
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

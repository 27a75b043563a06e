//! Association rules between pairs of products, of all orders.

use super::pairs::{self, Counts};

/// Least orders with both products of a rule.
const LEAST_ORDERS: u32 = 10;
/// Rules kept of each product.
const MOST_RULES: usize = 100;

/// A rule from one product to another.
pub(super) struct Rule {
    pub(super) product: u32,
    pub(super) other: u32,
    /// Orders with both.
    pub(super) orders: u32,
    /// Share of all orders that have both.
    pub(super) support: f64,
    /// Share of the orders with the product that have the other as well.
    pub(super) confidence: f64,
    /// Confidence over the other product's share of all orders.
    pub(super) lift: f64,
}

/// The rules of `orders` in order of product, then of confidence.
pub(super) fn rules(orders: &[Vec<u32>], products: usize) -> Vec<Rule> {
    let Counts {
        orders: of_product,
        pairs,
    } = pairs::count(orders, products, LEAST_ORDERS);
    let of_product = |product: u32| f64::from(of_product[product as usize]);
    let all = orders.len().max(1) as f64;
    let mut rules = Vec::with_capacity(2 * pairs.len());
    for pair in &pairs {
        let both = f64::from(pair.orders);
        for (product, other) in [(pair.one, pair.other), (pair.other, pair.one)] {
            let confidence = both / of_product(product);
            rules.push(Rule {
                product,
                other,
                orders: pair.orders,
                support: both / all,
                confidence,
                lift: confidence * all / of_product(other),
            });
        }
    }
    rules.sort_by(|a, b| {
        a.product
            .cmp(&b.product)
            .then(b.confidence.total_cmp(&a.confidence))
            .then(a.other.cmp(&b.other))
    });
    let mut last = None;
    let mut rank = 0;
    rules.retain(|rule| {
        let is_same = last.replace(rule.product) == Some(rule.product);
        rank = if is_same { rank + 1 } else { 0 };
        rank < MOST_RULES
    });
    rules
}

//! The tables of the model: products, customers, what customers have bought, association rules.

use std::collections::HashMap;

use super::features::{HALF_LIVES, Held, Shopper, Standing, WINDOWS, Window};
use crate::{CustomerId, ModelError, StockCode, Table, csr::Rows};

/// The place, by buyers, of the product that stands for a best seller: not the first, so that a
/// single hit does not set the scale.
const BEST_SELLER_PLACE: usize = 20;

/// Weight of sales in the order in which candidates are found, at those of a best seller.
const SALES_WEIGHT: f64 = 0.15;

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

/// What sells at the moment.
#[derive(Debug)]
pub(super) struct Sales {
    /// Rows of the products, those with the most buyers lately first.
    pub(super) popular: Vec<usize>,
    /// Buyers of a best seller within each window.
    pub(super) best: [f64; WINDOWS.len()],
    /// What its sales add to each product's place among the candidates.
    pub(super) score: Vec<f64>,
}

impl Sales {
    pub(super) fn of(products: &[Product]) -> Self {
        let best = best(products);
        Self {
            popular: popular(products),
            score: score(products, best[Window::LATELY as usize]),
            best,
        }
    }
}

fn popular(products: &[Product]) -> Vec<usize> {
    let sold = |row: usize| {
        let standing = &products[row].standing;
        let of = |window| standing.buyers_within(window);
        (of(Window::LATELY), of(Window::Ever))
    };
    let mut popular: Vec<usize> = (0..products.len()).collect();
    popular.sort_by(|a, b| {
        let (one, other) = (sold(*a), sold(*b));
        let lately = other.0.total_cmp(&one.0);
        lately.then(other.1.total_cmp(&one.1)).then(a.cmp(b))
    });
    popular
}

fn best(products: &[Product]) -> [f64; WINDOWS.len()] {
    std::array::from_fn(|window| {
        let mut all: Vec<f64> = products
            .iter()
            .map(|product| product.standing.buyers[window])
            .collect();
        let place = BEST_SELLER_PLACE.min(all.len()) - 1;
        *all.select_nth_unstable_by(place, |a, b| b.total_cmp(a)).1
    })
}

fn score(products: &[Product], best: f64) -> Vec<f64> {
    let best = (1.0 + best).ln().max(1.0);
    let buyers = |product: &Product| product.standing.buyers_within(Window::LATELY);
    products
        .iter()
        .map(|product| SALES_WEIGHT * (1.0 + buyers(product)).ln() / best)
        .collect()
}

pub(super) fn products(table: &Table) -> Result<Vec<Product>, ModelError> {
    let codes = table.text("stock_code")?;
    let descriptions = table.optional_text("description")?;
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

/// Name of one of several columns of the same kind.
pub fn column(name: &str, at: usize) -> String {
    format!("{name}_{at}")
}

/// The row of each customer.
pub(super) fn customer_rows(table: &Table) -> Result<HashMap<CustomerId, usize>, ModelError> {
    let ids = table.text("customer_id")?;
    let mut rows = HashMap::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        let id = id.parse().map_err(|_| {
            ModelError::inconsistent("customer_id", format!("is empty in row {row}"))
        })?;
        rows.insert(id, row);
    }
    Ok(rows)
}

pub(super) fn shoppers(table: &Table) -> Result<Vec<Shopper>, ModelError> {
    let orders = table.float("orders")?;
    let (recency, tenure) = (table.float("recency_days")?, table.float("tenure_days")?);
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

/// Numbers of rows of another table, which has `rows`.
fn row_numbers(numbers: &[i64], rows: usize, name: &'static str) -> Result<Vec<u32>, ModelError> {
    let number = |row: &i64| {
        let number = u32::try_from(*row).ok();
        let number = number.filter(|number| (*number as usize) < rows);
        number.ok_or_else(|| ModelError::inconsistent(name, format!("has no row {row}")))
    };
    numbers.iter().map(number).collect()
}

/// What each customer has bought, in order of product.
pub(super) fn held(
    table: &Table,
    customers: usize,
    products: usize,
) -> Result<Rows<Held>, ModelError> {
    let of = row_numbers(&table.int("customer")?, customers, "customer")?;
    let product = row_numbers(&table.int("product")?, products, "product")?;
    let (purchases, quantity) = (table.float("purchases")?, table.float("quantity")?);
    let (days, first) = (table.float("days")?, table.float("first_days")?);
    let fresh: Vec<Vec<f64>> = (0..HALF_LIVES.len())
        .map(|at| table.float(&column("fresh", at)))
        .collect::<Result<_, _>>()?;
    let held = |row: usize| Held {
        product: product[row] as usize,
        purchases: purchases[row].max(0.0),
        days: days[row].max(0.0),
        first_days: first[row].max(0.0),
        quantity: quantity[row],
        fresh: std::array::from_fn(|at| fresh[at][row].max(0.0)),
    };
    let rows = Rows::of_numbers(customers, of.iter().map(|customer| Some(*customer)));
    let mut held = rows.map(|row| held(row as usize));
    held.sort_each_by_key(|held| held.product);
    Ok(held)
}

/// The rules of each product, in the order of the table.
pub(super) fn rules(table: &Table, products: usize) -> Result<Rows<Rule>, ModelError> {
    let of = row_numbers(&table.int("product")?, products, "rule")?;
    let other = row_numbers(&table.int("other")?, products, "rule")?;
    let (orders, support) = (table.int("orders")?, table.float("support")?);
    let (confidence, lift) = (table.float("confidence")?, table.float("lift")?);
    let rule = |row: usize| Rule {
        other: other[row] as usize,
        orders: orders[row],
        support: support[row],
        confidence: confidence[row],
        lift: lift[row],
    };
    let rows = Rows::of_numbers(products, of.iter().map(|product| Some(*product)));
    Ok(rows.map(|row| rule(row as usize)))
}

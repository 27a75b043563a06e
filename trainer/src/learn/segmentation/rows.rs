//! The customers that are segmented.

use std::collections::HashSet;

use scoring::{
    TensorFile,
    segmentation::{Placement, Rfm, Spend},
};
use tch::Tensor;
use transactions::{LineKind, Money};

use crate::learn::lines::{DAY, Lines};

/// A customer's behaviour as a recipe counts it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The customer.
    pub(super) customer_id: String,
    /// Recency, frequency, monetary value.
    pub(super) rfm: Rfm,
    /// Days since the first order.
    pub(super) tenure_days: f64,
}

/// A row for each customer that a recipe covers, in order of their first line.
pub(super) fn table(lines: &Lines, recipe: &str, as_of: i64) -> Vec<Row> {
    let everything = recipe == "rfm3";
    // `rfm3` counts all lines, returns included, and whole days until a day after the last line;
    // the other recipes count days until the as-of time.
    let last_line = lines
        .lines
        .iter()
        .map(|line| line.time)
        .max()
        .unwrap_or(as_of);
    let none = (i64::MAX, i64::MIN, HashSet::new(), Money::ZERO);
    let mut customers: Vec<(i64, i64, HashSet<u32>, Money)> = vec![none; lines.customers.len()];
    for line in lines.before(as_of) {
        let Some(customer) = line.customer else {
            continue;
        };
        let (first, last, invoices, net) = &mut customers[customer as usize];
        if everything || line.is_paid() {
            *first = line.time.min(*first);
            *last = line.time.max(*last);
            invoices.insert(line.invoice);
        }
        if everything || line.is_paid() || line.kind == LineKind::Cancellation {
            *net += line.total;
        }
    }
    let days = |from: i64, to: i64| (to - from) as f64 / DAY as f64;
    let rows = customers
        .into_iter()
        .enumerate()
        .filter(|(_, (_, _, invoices, _))| !invoices.is_empty());
    rows.map(|(number, (first, last, invoices, net))| Row {
        customer_id: lines.customers.name(number as u32).to_owned(),
        rfm: Rfm {
            recency_days: if everything {
                days(last, last_line + DAY).floor()
            } else {
                days(last, as_of)
            },
            frequency: invoices.len() as f64,
            monetary: net.to_f64(),
        },
        tenure_days: days(first, if everything { last_line + DAY } else { as_of }),
    })
    .collect()
}

/// The customers of a recipe in their segments.
pub(super) struct Placed {
    pub(super) placement: Placement,
    pub(super) model: TensorFile,
    /// Index of each customer's segment, the most valuable 0.
    pub(super) placed: Vec<usize>,
    pub(super) forecasts: Vec<Option<Spend>>,
    /// The customers in the space in which the silhouette is measured, `[n, d]`.
    pub(super) x: Tensor,
}

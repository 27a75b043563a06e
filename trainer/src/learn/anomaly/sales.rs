//! The lines that the model scores, in the types of the scoring crate.

use chrono::{DateTime, NaiveDateTime};
use scoring::anomaly::{Sold, Transaction};

use crate::learn::lines::{Line, Lines};

/// Sales and charged services: lines that are to be scored include both.
pub(super) fn sales(lines: &Lines) -> impl Iterator<Item = &Line> {
    lines.lines.iter().filter(|line| line.is_paid())
}

pub(super) fn sold<'a>(lines: &'a Lines, line: &Line) -> Sold<'a> {
    let customer = line.customer;
    Sold {
        invoice: lines.invoices.name(line.invoice),
        time: time(line.time),
        line: Transaction {
            stock_code: lines.products.name(line.product),
            quantity: line.quantity as f64,
            unit_price: line.price.to_f64(),
            customer_id: customer.map_or("", |customer| lines.customers.name(customer)),
        },
    }
}

/// A time from seconds since 1970.
pub(super) fn time(seconds: i64) -> NaiveDateTime {
    DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .naive_utc()
}

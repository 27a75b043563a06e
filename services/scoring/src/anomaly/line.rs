//! The lines that are scored, and what is measured of them.

use chrono::NaiveDateTime;

/// What is measured of a line, in the order of every table and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Units.
    Quantity,
    /// Price of a unit, shop currency.
    UnitPrice,
    /// Quantity times unit price.
    LineTotal,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Quantity, Self::UnitPrice, Self::LineTotal];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quantity => "quantity",
            Self::UnitPrice => "unit_price",
            Self::LineTotal => "line_total",
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Quantity => "quantity",
            Self::UnitPrice => "unit price",
            Self::LineTotal => "line total",
        }
    }
}

/// A line to be scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transaction<'a> {
    /// The product.
    pub stock_code: &'a str,
    /// Units, 1 or more.
    pub quantity: f64,
    /// Price of a unit, above 0.
    pub unit_price: f64,
    /// The customer; empty if unknown.
    pub customer_id: &'a str,
}

/// A line of an invoice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sold<'a> {
    /// The invoice; empty if unknown.
    pub invoice: &'a str,
    /// Time of the line.
    pub time: NaiveDateTime,
    /// The line.
    pub line: Transaction<'a>,
}

impl Sold<'_> {
    /// Whether it sells something: both numbers are above 0.
    pub(super) fn sells(&self) -> bool {
        self.line.quantity > 0.0 && self.line.unit_price > 0.0
    }
}

/// A line as logarithms, with its product and customer by number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// The product; `None` if it was never sold before.
    pub product: Option<u32>,
    /// The customer; `None` if it is not known.
    pub customer: Option<u32>,
    /// Whether the line names a customer.
    pub named: bool,
    /// Logarithm of the units.
    pub quantity: f64,
    /// Logarithm of the price.
    pub price: f64,
}

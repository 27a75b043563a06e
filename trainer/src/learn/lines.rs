//! The transactions as rows in memory, with ids as small numbers: what every learner starts from.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use polars::prelude::*;

use super::{LearnError, Training};

/// Ten-thousandths in a unit of the shop's currency.
pub(crate) const SCALE: f64 = 10_000.0;

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// What a line is; see `lake::Kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sale,
    Cancellation,
    Service,
    Adjustment,
}

/// A line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) id: i64,
    pub(crate) invoice: u32,
    pub(crate) product: u32,
    pub(crate) customer: Option<u32>,
    pub(crate) country: u32,
    /// Seconds since 1970.
    pub(crate) time: i64,
    pub(crate) quantity: i64,
    /// Ten-thousandths of the shop's currency.
    pub(crate) price: i64,
    /// Quantity times price, exact.
    pub(crate) total: i64,
    pub(crate) kind: Kind,
    pub(crate) duplicate: bool,
}

impl Line {
    /// A product or a service that was paid for.
    pub(crate) fn is_paid(&self) -> bool {
        self.kind == Kind::Sale || (self.kind == Kind::Service && self.quantity > 0 && self.total > 0)
    }

    /// A product sold to a customer who is known.
    pub(crate) fn is_purchase(&self) -> bool {
        self.kind == Kind::Sale && self.customer.is_some()
    }

    pub(crate) fn total(&self) -> f64 {
        self.total as f64 / SCALE
    }

    pub(crate) fn price(&self) -> f64 {
        self.price as f64 / SCALE
    }
}

/// Names and their numbers, in the order in which they come.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    pub(crate) fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

/// All lines before the as-of time, in the order of the input.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<Line>,
    pub(crate) customers: Names,
    pub(crate) products: Names,
    pub(crate) countries: Names,
    pub(crate) invoices: Names,
    /// The last description of each product.
    pub(crate) descriptions: Vec<Option<String>>,
}

impl Lines {
    /// The lines that a training may see.
    pub(crate) fn of(training: &Training<'_>) -> Result<Self, LearnError> {
        Self::read(training.lines())
    }

    pub(crate) fn read(frame: LazyFrame) -> Result<Self, LearnError> {
        let frame = frame.sort(["line_id"], SortMultipleOptions::default()).collect()?;
        let [mut customers, mut products, mut countries, mut invoices] = [(); 4].map(|()| Names::default());
        let mut descriptions: Vec<Option<String>> = Vec::new();
        let text = |name: &str| frame.column(name)?.str();
        let (invoice, product, customer) = (text("invoice")?, text("stock_code")?, text("customer_id")?);
        let (country, kind, description) = (text("country")?, text("kind")?, text("description")?);
        let (id, quantity) = (frame.column("line_id")?.i64()?, frame.column("quantity")?.i64()?);
        let time = frame.column("invoice_time")?.datetime()?.physical().clone();
        let price = frame.column("unit_price")?.decimal()?.physical().clone();
        let total = frame.column("line_total")?.decimal()?.physical().clone();
        let duplicate = frame.column("is_duplicate")?.bool()?;

        let mut lines = Vec::with_capacity(frame.height());
        for row in 0..frame.height() {
            let product = products.number(product.get(row).unwrap_or_default());
            descriptions.resize(products.len(), None);
            if let Some(description) = description.get(row) {
                descriptions[product as usize] = Some(description.to_owned());
            }
            lines.push(Line {
                id: id.get(row).unwrap_or_default(),
                invoice: invoices.number(invoice.get(row).unwrap_or_default()),
                product,
                customer: customer.get(row).map(|name| customers.number(name)),
                country: countries.number(country.get(row).unwrap_or_default()),
                time: time.get(row).unwrap_or_default().div_euclid(1_000_000),
                quantity: quantity.get(row).unwrap_or_default(),
                price: i64::try_from(price.get(row).unwrap_or_default()).unwrap_or_default(),
                total: i64::try_from(total.get(row).unwrap_or_default()).unwrap_or_default(),
                kind: match kind.get(row) {
                    Some("sale") => Kind::Sale,
                    Some("cancellation") => Kind::Cancellation,
                    Some("service") => Kind::Service,
                    Some(_) | None => Kind::Adjustment,
                },
                duplicate: duplicate.get(row).unwrap_or_default(),
            });
        }
        Ok(Self { lines, customers, products, countries, invoices, descriptions })
    }

    /// The lines before an instant.
    pub(crate) fn before(&self, seconds: i64) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.time < seconds)
    }
}

/// Seconds since 1970 of a time in the shop's own zone.
pub(crate) fn seconds(time: NaiveDateTime) -> i64 {
    time.and_utc().timestamp()
}

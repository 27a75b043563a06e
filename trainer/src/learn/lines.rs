//! The transactions as rows in memory, with names as small numbers: the input of every learner.

use chrono::NaiveDateTime;
use polars::prelude::*;
use transactions::{DescriptionCounts, Interner, LineKind, Money};

use super::{LearnError, Training};

/// Seconds in a day.
pub(crate) const DAY: i64 = 86_400;

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
    pub(crate) price: Money,
    /// Quantity times price, exact.
    pub(crate) total: Money,
    pub(crate) kind: LineKind,
    pub(crate) is_duplicate: bool,
}

impl Line {
    /// A sale, or a service that was charged.
    pub(crate) fn is_paid(&self) -> bool {
        self.kind == LineKind::Sale
            || (self.kind == LineKind::Service && self.quantity > 0 && self.total > Money::ZERO)
    }

    /// A sale to a known customer.
    pub(crate) fn is_purchase(&self) -> bool {
        self.kind == LineKind::Sale && self.customer.is_some()
    }
}

/// All lines before the as-of time in the order of the input.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<Line>,
    pub(crate) customers: Interner,
    pub(crate) products: Interner,
    pub(crate) countries: Interner,
    pub(crate) invoices: Interner,
    /// The usual description of each product; see [`DescriptionCounts`].
    pub(crate) descriptions: Vec<Option<String>>,
}

impl Lines {
    /// The lines that a training may see.
    pub(crate) fn of(training: &Training<'_>) -> Result<Self, LearnError> {
        Self::read(training.lines())
    }

    /// The lines of the curated table `transactions` or a part of it.
    pub(crate) fn read(table: LazyFrame) -> Result<Self, LearnError> {
        // Names are numbered in the order of their lines, so that the same lines give the same
        // numbers, and with them the same model bytes.
        let table = table
            .sort(["line_id"], SortMultipleOptions::default())
            .collect()?;
        let [mut customers, mut products, mut countries, mut invoices] =
            [(); 4].map(|()| Interner::default());
        let mut texts = Interner::default();
        let mut counts = DescriptionCounts::default();
        let mut lines = Vec::with_capacity(table.height());
        for line in lake::lines(&table)? {
            let line = line?;
            let product = products.intern(line.stock_code)?;
            if let Some(description) = line.description {
                counts.add(product, texts.intern(description)?, line.kind);
            }
            let customer = line.customer.map(|name| customers.intern(name));
            lines.push(Line {
                id: line.id,
                invoice: invoices.intern(line.invoice)?,
                product,
                customer: customer.transpose()?,
                country: countries.intern(line.country)?,
                time: line.time.div_euclid(1_000_000),
                quantity: line.quantity,
                price: line.unit_price,
                total: line.total(),
                kind: line.kind,
                is_duplicate: line.is_duplicate,
            });
        }
        let usual = counts.usual(products.len(), |text| texts.name(text));
        let text = |number: Option<u32>| number.map(|number| texts.name(number).to_owned());
        Ok(Self {
            lines,
            customers,
            products,
            countries,
            invoices,
            descriptions: usual.into_iter().map(text).collect(),
        })
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

#[cfg(test)]
pub(crate) mod tests {
    use lake::{CurateOptions, IngestOptions, Lake, NoProgress};

    use super::*;

    /// The lines of a file with these rows below a heading.
    pub(crate) fn lines(rows: &str) -> Lines {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("rows.csv");
        let heading =
            "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
        fs_err::write(&input, heading.to_owned() + rows).unwrap();
        let lake = Lake::create(folder.path().join("lake")).unwrap();
        lake::ingest(&[input], &lake, &IngestOptions::default(), &NoProgress).unwrap();
        lake::curate(&lake, &CurateOptions::default(), &NoProgress).unwrap();
        Lines::read(lake.transactions().unwrap()).unwrap()
    }
}

//! The transactions as rows in memory, with ids as small numbers: what every learner starts from.

use std::{cmp::Reverse, collections::HashMap};

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
        self.kind == Kind::Sale
            || (self.kind == Kind::Service && self.quantity > 0 && self.total > 0)
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
    /// What each product is called; see [`usual`].
    pub(crate) descriptions: Vec<Option<String>>,
}

impl Lines {
    /// The lines that a training may see.
    pub(crate) fn of(training: &Training<'_>) -> Result<Self, LearnError> {
        Self::read(training.lines())
    }

    pub(crate) fn read(frame: LazyFrame) -> Result<Self, LearnError> {
        let frame = frame
            .sort(["line_id"], SortMultipleOptions::default())
            .collect()?;
        let [mut customers, mut products, mut countries, mut invoices] =
            [(); 4].map(|()| Names::default());
        let mut texts = Names::default();
        let mut called = Called::new();
        let text = |name: &str| frame.column(name)?.str();
        let (invoice, product, customer) =
            (text("invoice")?, text("stock_code")?, text("customer_id")?);
        let (country, kind, description) = (text("country")?, text("kind")?, text("description")?);
        let (id, quantity) = (
            frame.column("line_id")?.i64()?,
            frame.column("quantity")?.i64()?,
        );
        let time = frame.column("invoice_time")?.datetime()?.physical().clone();
        let price = frame.column("unit_price")?.decimal()?.physical().clone();
        let total = frame.column("line_total")?.decimal()?.physical().clone();
        let duplicate = frame.column("is_duplicate")?.bool()?;

        let mut lines = Vec::with_capacity(frame.height());
        for row in 0..frame.height() {
            let product = products.number(product.get(row).unwrap_or_default());
            let kind = match kind.get(row) {
                Some("sale") => Kind::Sale,
                Some("cancellation") => Kind::Cancellation,
                Some("service") => Kind::Service,
                Some(_) | None => Kind::Adjustment,
            };
            if let Some(description) = description.get(row) {
                let (sales, all) = called
                    .entry((product, texts.number(description)))
                    .or_default();
                *sales += u32::from(kind == Kind::Sale);
                *all += 1;
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
                kind,
                duplicate: duplicate.get(row).unwrap_or_default(),
            });
        }
        let descriptions = usual(&called, &texts, products.len());
        Ok(Self {
            lines,
            customers,
            products,
            countries,
            invoices,
            descriptions,
        })
    }

    /// The lines before an instant.
    pub(crate) fn before(&self, seconds: i64) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.time < seconds)
    }
}

/// Sales and lines of all kinds by product and description.
type Called = HashMap<(u32, u32), (u32, u32)>;

/// What each product is called most often when it is sold, the first by spelling of several; of one
/// that never was, what it is called most often at all: clerks write on adjustments what became of
/// the stock. Insights has the same rule.
fn usual(called: &Called, texts: &Names, products: usize) -> Vec<Option<String>> {
    let mut best = vec![None; products];
    for ((product, text), (sales, all)) in called {
        let one = Some((
            *sales,
            if *sales == 0 { *all } else { 0 },
            Reverse(texts.name(*text)),
        ));
        let best = &mut best[*product as usize];
        *best = one.max(*best);
    }
    best.into_iter()
        .map(|best| best.map(|(.., Reverse(text))| text.to_owned()))
        .collect()
}

/// Seconds since 1970 of a time in the shop's own zone.
pub(crate) fn seconds(time: NaiveDateTime) -> i64 {
    time.and_utc().timestamp()
}

#[cfg(test)]
pub(crate) mod tests {
    use lake::{CurateOptions, IngestOptions, Lake, NoProgress};

    use super::*;

    /// The lines of a file without its heading.
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

    #[test]
    fn a_product_is_called_what_it_is_sold_as() {
        let lines = lines(
            "1,10,RED MUG,2,1/1/2011 8:00,1.5,12,EIRE\n2,10,RED MUG,2,1/2/2011 \
             8:00,1.5,12,EIRE\n3,10,RED MUG NEW,2,1/3/2011 \
             8:00,1.5,12,EIRE\n4,10,damaged,-9,1/4/2011 8:00,0,,EIRE\n5,10,damaged,-9,1/4/2011 \
             9:00,0,,EIRE\n6,10,damaged,-9,1/4/2011 9:30,0,,EIRE\n6,11,TEAPOT,1,1/4/2011 \
             9:30,1,,EIRE\n6,11,A TEAPOT,1,1/4/2011 9:30,1,,EIRE\n7,12,??,-9,1/4/2011 \
             10:00,0,,EIRE\n8,13,,1,1/4/2011 10:00,1,,EIRE\n",
        );
        let called: Vec<_> = (0..4)
            .map(|product| {
                (
                    lines.products.name(product),
                    lines.descriptions[product as usize].as_deref(),
                )
            })
            .collect();
        assert_eq!(
            called,
            [
                ("10", Some("RED MUG")),
                ("11", Some("A TEAPOT")),
                ("12", Some("??")),
                ("13", None)
            ]
        );
    }
}

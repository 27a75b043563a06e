//! Insights: the shop's lines in columns, and figures over them. Nothing is learnt; what is
//! published is the data.
//!
//! In: a selection of lines by country, time, product. Out: counts, pieces, and money in exact
//! ten-thousandths of the shop's currency.
//!
//! Lines lie in order of time. Those of one invoice, instant, customer and country are a receipt,
//! with its sums beside it; everything that does not ask for products is answered from the receipts
//! alone. The products of whole months are added up by country beforehand (the cube); at the ends
//! of a range that begins or ends within a month, lines are read. `docs/insights.md` says which
//! answer comes from where, and what it takes.
//!
//! `lines.parquet`, in order: `line_id`, `product`, `description`, `quantity`, `unit_price`,
//! `kind`. `receipts.parquet`, in order: `time`, `invoice`, `customer`, `country`, and how many
//! `lines` it has. The others are the names that numbers in these stand for: `products` (with their
//! `description`), `descriptions`, `customers`, `countries`, `invoices`. -1 is nobody, or nothing.

mod build;
mod calendar;
mod export;
mod figures;
mod select;
mod shop;

use std::sync::Arc;

pub use build::Builder;
pub use calendar::Frequency;
pub use export::{Cursor, Kinds};
pub use figures::{Cell, Cohort, Growth, Order, Periods, Profile, Sales};
pub use select::{Filter, Selection, Unknown};
pub use shop::Shop;

use transactions::{LineKind, Money};

use crate::{Artifact, Model, ModelError, ModelKind};

/// The number of nobody, or nothing.
pub(crate) const NONE: u32 = u32::MAX;

/// Bits of a line's code that are its kind, and the bit of one that repeats another.
const KIND: u8 = 3;
const DUPLICATE: u8 = 4;
const SALE: u8 = 0;
const CANCELLATION: u8 = 1;

mod files {
    pub(super) const RECEIPTS: &str = "receipts.parquet";
    pub(super) const LINES: &str = "lines.parquet";
    pub(super) const PRODUCTS: &str = "products.parquet";
    pub(super) const INVOICES: &str = "invoices.parquet";
    pub(super) const CUSTOMERS: &str = "customers.parquet";
    pub(super) const COUNTRIES: &str = "countries.parquet";
    pub(super) const DESCRIPTIONS: &str = "descriptions.parquet";
}

/// The code of a line in column `kind`: its kind's place in [`LineKind::ALL`], and the bit of a
/// duplicate.
const fn code(kind: LineKind, is_duplicate: bool) -> u8 {
    let kind = match kind {
        LineKind::Sale => SALE,
        LineKind::Cancellation => CANCELLATION,
        LineKind::Service => 2,
        LineKind::Adjustment => 3,
    };
    if is_duplicate { kind | DUPLICATE } else { kind }
}

/// The kind of a line by its code.
fn kind_of(code: u8) -> LineKind {
    LineKind::ALL[usize::from(code & KIND)]
}

/// What lines add up to. Sales and cancellations alone count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many there are.
    pub lines: i64,
    /// Units sold.
    pub units: i64,
    /// Units taken back.
    pub returned: i64,
    /// Revenue of the units sold, before returns.
    pub gross: Money,
    /// Value of the units taken back.
    pub returns: Money,
}

impl Sums {
    /// Revenue net of returns.
    pub fn revenue(&self) -> Money {
        self.gross - self.returns
    }

    /// Whether a product was sold.
    pub fn sold(&self) -> bool {
        self.units > 0
    }

    fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.units += other.units;
        self.returned += other.returned;
        self.gross += other.gross;
        self.returns += other.returns;
    }

    fn add_line(&mut self, kind: u8, quantity: i32, unit_price: Money) {
        let quantity = i64::from(quantity);
        match kind & KIND {
            SALE => {
                self.lines += 1;
                self.units += quantity;
                self.gross += unit_price * quantity;
            }
            CANCELLATION => {
                self.lines += 1;
                self.returned -= quantity;
                self.returns -= unit_price * quantity;
            }
            _ => {}
        }
    }
}

/// The model: the shop's lines. Cheap to share with answers that take long.
#[derive(Debug, Clone)]
pub struct Insights(Arc<Shop>);

impl Insights {
    /// The lines.
    pub fn shop(&self) -> &Arc<Shop> {
        &self.0
    }
}

impl Model for Insights {
    const KIND: ModelKind = ModelKind::Insights;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        Ok(Self(Arc::new(Shop::load(artifact)?)))
    }

    fn warm(&self) {
        let all = self.0.all();
        std::hint::black_box((self.0.sales(&all), self.0.products(&all)));
    }
}

#[cfg(test)]
mod tests;

//! Insights: the shop's lines in columns, and figures over them. Nothing is learnt; what is
//! published is the data.
//!
//! In: a selection of lines by country, time, product. Out: counts, units, and exact amounts of the
//! shop's currency.
//!
//! Lines lie in order of time. Those of one invoice, instant, customer and country are a receipt,
//! with its sums beside it; everything that does not ask for products is answered from the receipts
//! alone. The products of whole months are added up by country beforehand (the cube); at the ends
//! of a range that begins or ends within a month, lines are read. `docs/insights.md` says how
//! each answer is computed, and what it costs.
//!
//! `lines.parquet`, in order: `line_id`, `product`, `description`, `quantity`, `unit_price`,
//! `kind`. `receipts.parquet`, in order: `time`, `invoice`, `customer`, `country`, and how many
//! `lines` it has. The others are the names that numbers in these stand for: `products` (with their
//! `description`), `descriptions`, `customers`, `countries`, `invoices`. -1 is a name that is
//! missing.

mod build;
mod calendar;
mod codes;
mod export;
mod figures;
mod files;
mod select;
mod shop;
mod sums;

use std::sync::Arc;

pub use build::Builder;
pub use calendar::Frequency;
pub use export::{Cursor, Kinds};
pub use figures::{Cell, Cohort, Growth, Order, Periods, Profile};
pub use select::{Filter, Selection, Unknown};
pub use shop::Shop;
pub use sums::{Sales, Sums};

use crate::{Artifact, Model, ModelError, ModelKind};

/// The model: the shop's lines. Cheap to share with answers that take long.
#[derive(Debug, Clone)]
pub struct InsightsModel(Arc<Shop>);

impl InsightsModel {
    /// The lines.
    pub fn shop(&self) -> &Arc<Shop> {
        &self.0
    }
}

impl Model for InsightsModel {
    const KIND: ModelKind = ModelKind::Insights;

    fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        artifact.expect(Self::KIND)?;
        let mut shop = Shop::load(artifact)?;
        shop.add_up_whole();
        Ok(Self(Arc::new(shop)))
    }

    fn warm(&self) {
        let all = self.0.all();
        std::hint::black_box((self.0.sales(&all), self.0.products(&all)));
    }
}

#[cfg(test)]
mod tests;

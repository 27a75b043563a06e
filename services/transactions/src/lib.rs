//! The shop's vocabulary, defined once: what a line of an invoice is, how money is counted, how
//! customers and products are spelled, and how names become numbers.
//!
//! No I/O and no heavy dependency, so that ingestion, training and serving all share it.

mod description;
mod ids;
mod interner;
mod line;
mod line_kind;
mod money;

pub use description::DescriptionCounts;
pub use ids::{CustomerId, EmptyId, InvoiceNumber, StockCode};
pub use interner::{Interner, TooManyNames};
pub use line::{Line, LineError, UncheckedLine};
pub use line_kind::{LineKind, UnknownLineKind};
pub use money::{Money, MoneyError};

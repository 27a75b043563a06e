//! The lake: a shop's transactions, from files as they come to tables that models and analysts
//! read.
//!
//! ```text
//! raw/          the rows as they came, as text
//! quarantine/   the rows that could not be used, each with its reason
//! processed/    the rest: typed, labelled, in the order of the input
//! curated/      what is derived from it as of a time
//! quality.json  what came in, and what is odd about it; profile.html the same for people
//! ```
//!
//! Every stage writes beside what is there and swaps the result in whole: a stage that fails or is
//! killed leaves the last good state. One stage at a time writes to a lake.

mod curate;
mod error;
mod folder;
mod ingest;
mod profile;
mod random;
mod synth;

pub use curate::{CurateOptions, CurateReport, TABLES, curate};
pub use error::LakeError;
pub use folder::{Lake, rows, text};
pub use ingest::{
    ColumnMapping, DateOrder, IngestOptions, IngestReport, Kind, Rejection, SERVICE_CODES,
    Transaction, Transactions, ingest, place_of, read_transactions,
};
pub use random::Random;
pub use synth::{SynthOptions, SynthReport, synth};

/// Told how far the work is.
pub trait Progress {
    /// A stage begins; `total` steps are ahead, where that is known.
    fn begin(&self, stage: &str, total: Option<u64>);
    /// `n` more steps are done.
    fn advance(&self, n: u64);
    /// The stage is over.
    fn end(&self);
}

/// Nobody is told.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

//! The lake: a shop's transactions, from input files to the tables that models and analysts read.
//!
//! ```text
//! raw/          the rows of the input as text
//! quarantine/   the rows that could not be used, each with its reason
//! processed/    all other rows: typed, labelled, in the order of the input
//! curated/      the tables derived from them as of a time
//! quality.json  what was read, and what is odd about it; profile.html shows the same
//! ```
//!
//! Every stage writes beside the current state and replaces it as a whole: a stage that fails or is
//! killed leaves the last good state. One stage at a time writes to a lake.

mod curate;
mod error;
mod ingest;
mod lake;
mod lines;
mod profile;
mod progress;
mod random;
mod render;
mod report;
mod staged;
mod synth;
mod tables;

pub use curate::{CurateOptions, curate};
pub use error::LakeError;
pub use ingest::{
    ColumnMapping, DateOrder, IngestOptions, Rejection, SERVICE_CODES, Transaction, Transactions,
    ingest, place_of, read_transactions,
};
pub use lake::Lake;
pub use lines::lines;
pub use progress::{NoProgress, Progress};
pub use random::Random;
pub use render::{rows, text};
pub use report::{CurateReport, IngestReport, SourceReport};
pub use synth::{SynthOptions, SynthReport, synth};
pub use tables::{TABLES, Table};

//! `trainer synth`

use std::path::PathBuf;

use chrono::NaiveDate;
use lake::SynthOptions;

use crate::{Context, Failure};

/// Write the transactions of a synthetic shop, for demos and scale tests
#[derive(Debug, clap::Args)]
pub(crate) struct Synth {
    /// CSV file to write; what was planted is written beside it as FILE.truth.json
    #[arg(long, value_name = "FILE", env = "SHOPKEEPER_OUTPUT")]
    output: PathBuf,
    /// Number of customers
    #[arg(long, default_value_t = 2_000)]
    customers: u32,
    /// Number of products
    #[arg(long, default_value_t = 1_000)]
    products: u32,
    /// Number of days from the first
    #[arg(long, default_value_t = 450)]
    days: u32,
    /// First day
    #[arg(long, value_name = "DAY", default_value = "2023-09-04")]
    start: NaiveDate,
    /// Random seed; the same seed writes the same bytes
    #[arg(long, default_value_t = 42, env = "SHOPKEEPER_SEED")]
    seed: u64,
}

impl Synth {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let options = SynthOptions {
            customers: self.customers,
            products: self.products,
            days: self.days,
            start: self.start,
            seed: self.seed,
        };
        let report = lake::synth(&options, &self.output, context.console)?;
        context.console.result(&report, || report.to_string())
    }
}

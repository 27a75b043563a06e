//! `trainer score`

use std::{fmt, path::PathBuf};

use indicatif::HumanCount;
use polars::prelude::DataFrame;
use scoring::ModelKind;
use serde::Serialize;

use crate::{
    Context, Failure,
    args::StoreArgs,
    bulk::{BulkTable, Request},
    catalog::entry,
    output::Format,
};

/// How many left-out parts of the input are reported.
const REPORTED: usize = 5;

/// Score in bulk with a published model: for campaigns, purchase orders, audits
#[derive(Debug, clap::Args)]
pub(crate) struct Score {
    /// The model
    model: ModelKind,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    request: Request,
    /// File to write, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// The result of the command.
#[derive(Debug, Serialize)]
struct Report {
    model: ModelKind,
    version: String,
    rows: usize,
    output: PathBuf,
    /// The first parts of the input that could not be scored, with reasons.
    left_out: Vec<String>,
    left_out_rows: usize,
}

impl Score {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let (model, runtime) = (self.model, &context.runtime);
        let format = Format::of(&self.output)?;
        self.request.check(model)?;
        let store = self.store.open()?;
        let pointer = runtime
            .block_on(store.current(model))?
            .ok_or(Failure::NotPublished(model))?;
        let artifact = runtime.block_on(store.fetch(model, &pointer.version))?;
        let score = entry(model).scorer.ok_or(Failure::NoScores(model))?;
        let BulkTable { columns, left_out } = score(&artifact, &self.request)?;
        let mut table = DataFrame::new_infer_height(columns)?;
        format.write(&mut table, &self.output)?;
        let report = Report {
            model,
            version: pointer.version,
            rows: table.height(),
            output: self.output,
            left_out_rows: left_out.len(),
            left_out: left_out.into_iter().take(REPORTED).collect(),
        };
        context.console.result(&report, || report.to_string())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            model,
            version,
            rows,
            output,
            left_out,
            left_out_rows,
        } = self;
        let rows = HumanCount(*rows as u64);
        write!(
            f,
            "{rows} rows by {model} {version} in {}",
            output.display()
        )?;
        if *left_out_rows > 0 {
            let reasons = left_out.join("; ");
            write!(f, "; {left_out_rows} of the input left out: {reasons}")?;
        }
        Ok(())
    }
}

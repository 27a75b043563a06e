//! `trainer ingest`

use lake::Lake;

use crate::{
    Context, Failure,
    args::{InputArgs, LakeArgs},
};

/// Read transactions into the lake: validate and label them, quarantine broken rows
#[derive(Debug, clap::Args)]
pub(crate) struct Ingest {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    lake: LakeArgs,
}

impl Ingest {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let lake = Lake::create(&self.lake.lake)?;
        let options = self.input.layout.options()?;
        let report = lake::ingest(&self.input.input, &lake, &options, context.console)?;
        context.console.result(&report, || report.to_string())
    }
}

//! `trainer curate`

use lake::{CurateOptions, Lake};

use crate::{
    Context, Failure,
    args::{AsOfArgs, LakeArgs},
};

/// Derive the curated tables and the quality profile
#[derive(Debug, clap::Args)]
pub(crate) struct Curate {
    #[command(flatten)]
    lake: LakeArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
}

impl Curate {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let lake = Lake::open(&self.lake.lake)?;
        let as_of = self.as_of.as_of;
        let report = lake::curate(&lake, &CurateOptions { as_of }, context.console)?;
        context.console.result(&report, || report.to_string())
    }
}

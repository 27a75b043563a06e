//! `trainer promote`

use scoring::ModelKind;

use crate::{
    Context, Failure,
    args::{StoreArgs, percent},
    versions::pointer_text,
};

/// Give a model's canary to more callers, or make it the current version
#[derive(Debug, clap::Args)]
pub(crate) struct Promote {
    /// The model
    model: ModelKind,
    /// Percentage of callers that get the canary. Default: make it the current version
    #[arg(long, value_name = "N", value_parser = percent())]
    percent: Option<u8>,
    #[command(flatten)]
    store: StoreArgs,
}

impl Promote {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let store = self.store.open()?;
        let promoted = store.promote(self.model, self.percent, context.now);
        let pointer = context.runtime.block_on(promoted)?;
        context
            .console
            .result(&pointer, || pointer_text(self.model, &pointer))
    }
}

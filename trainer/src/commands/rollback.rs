//! `trainer rollback`

use scoring::ModelKind;

use crate::{
    Context, Failure,
    args::{StoreArgs, Trial},
    versions::pointer_text,
};

/// Make an earlier version of a model current, or end a trial
#[derive(Debug, clap::Args)]
pub(crate) struct Rollback {
    /// The model
    model: ModelKind,
    /// The version. Default: the one before the current version
    version: Option<String>,
    /// End this trial instead, and keep the current version
    #[arg(long, value_enum, conflicts_with = "version")]
    channel: Option<Trial>,
    #[command(flatten)]
    store: StoreArgs,
}

impl Rollback {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let (model, store) = (self.model, self.store.open()?);
        let pointer = context.runtime.block_on(async {
            match self.channel {
                None => {
                    let version = self.version.as_deref();
                    store.rollback(model, version, context.now).await
                }
                Some(Trial::Canary) => store.set_canary(model, None).await,
                Some(Trial::Shadow) => store.set_shadow(model, None).await,
            }
        })?;
        context
            .console
            .result(&pointer, || pointer_text(model, &pointer))
    }
}

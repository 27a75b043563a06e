//! `trainer publish`

use lake::Lake;
use model_store::Channel;

use crate::{
    Context, Failure,
    args::{LakeArgs, ModelsArgs, StoreArgs, Trial, percent},
    pipeline::Pipeline,
};

/// Publish the evaluated models that pass their gates
#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    models: ModelsArgs,
    /// Try the models beside the current versions. Default: make them current
    #[arg(long, value_enum)]
    channel: Option<Trial>,
    /// With --channel canary: percentage of callers that get the new version
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = percent(),
        requires = "channel"
    )]
    percent: u8,
    #[command(flatten)]
    lake: LakeArgs,
    #[command(flatten)]
    store: StoreArgs,
}

impl Publish {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let lake = Lake::open(&self.lake.lake)?;
        let store = self.store.open()?;
        let pipeline = Pipeline::open(context, &lake, None)?;
        pipeline.each(&self.models.kinds(), |kind| {
            let (manifest, channel) = match self.channel {
                None => (pipeline.publish(kind, &store)?, Channel::Stable),
                Some(Trial::Canary) => {
                    let manifest = pipeline.publish_canary(kind, self.percent, &store)?;
                    (manifest, Channel::Canary)
                }
                Some(Trial::Shadow) => (pipeline.publish_shadow(kind, &store)?, Channel::Shadow),
            };
            Ok((manifest, Some(channel)))
        })
    }
}

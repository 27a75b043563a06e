//! `trainer evaluate`

use lake::Lake;

use crate::{
    Context, Failure,
    args::{DeviceArgs, LakeArgs, ModelsArgs, OptionalStoreArgs},
    pipeline::Pipeline,
};

/// Measure the trained models on a time split and check their gates
#[derive(Debug, clap::Args)]
pub(crate) struct Evaluate {
    #[command(flatten)]
    models: ModelsArgs,
    #[command(flatten)]
    lake: LakeArgs,
    #[command(flatten)]
    on: DeviceArgs,
    #[command(flatten)]
    store: OptionalStoreArgs,
}

impl Evaluate {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let device = self.on.device.device()?;
        let lake = Lake::open(&self.lake.lake)?.lock()?;
        let pipeline = Pipeline::open(context, &lake, self.store.open()?)?;
        pipeline.each(&self.models.kinds(), |kind| {
            Ok((pipeline.evaluate(kind, device)?, None))
        })
    }
}

//! `trainer models`

use scoring::ModelKind;

use crate::{
    Context, Failure,
    args::StoreArgs,
    versions::{Version, version_table},
};

/// List the versions in the model store
#[derive(Debug, clap::Args)]
pub(crate) struct Models {
    /// The model. Default: all
    model: Option<ModelKind>,
    #[command(flatten)]
    store: StoreArgs,
}

impl Models {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let Context {
            console, runtime, ..
        } = context;
        let store = self.store.open()?;
        let kinds = self
            .model
            .map_or(ModelKind::ALL.to_vec(), |kind| vec![kind]);
        let mut versions = Vec::new();
        for kind in kinds {
            for (manifest, channel) in runtime.block_on(store.versions(kind))? {
                versions.push(Version::of(manifest, channel));
            }
            // A damaged pointer does not hide the versions that it could be moved to.
            if let Err(error) = runtime.block_on(store.current(kind)) {
                console.note(&error.to_string());
            }
        }
        console.result(&versions, || version_table(&versions))
    }
}

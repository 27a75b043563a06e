//! `trainer train`

use lake::Lake;
use scoring::ModelKind;

use crate::{
    Context, Failure,
    args::{AsOfArgs, LakeArgs, ModelsArgs, OptionalStoreArgs, TrainingArgs},
    pipeline::{Pipeline, Settings},
};

/// Train models on the curated tables; they stay in the lake until they are published
#[derive(Debug, clap::Args)]
pub(crate) struct Train {
    #[command(flatten)]
    models: ModelsArgs,
    #[command(flatten)]
    lake: LakeArgs,
    #[command(flatten)]
    as_of: AsOfArgs,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    store: OptionalStoreArgs,
}

impl Train {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let kinds = self.models.kinds();
        self.training.check_recipes()?;
        let device = self.training.device()?;
        let lake = Lake::open(&self.lake.lake)?.lock()?;
        let as_of = match self.as_of.as_of {
            Some(as_of) => as_of,
            None => lake.as_of()?,
        };
        let pipeline = Pipeline::open(context, &lake, self.store.open()?)?;
        pipeline.each(&kinds, |kind: ModelKind| {
            let settings = Settings {
                as_of,
                seed: self.training.seed,
                device,
                recipe: self.training.recipe(kind),
            };
            Ok((pipeline.train(kind, settings)?, None))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{lake, trainer};

    #[test]
    fn a_model_later_than_its_tables_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        let failure = trainer(&["train", "insights", "--as-of", "2011-01-03"], &lake).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.starts_with("a model as of 2011-01-03 00:00:00 needs")
                && text.contains("as of 2011-01-02 00:00:00"),
            "{text}"
        );
        trainer(&["train", "insights", "--as-of", "2011-01-02"], &lake).unwrap();
    }
}

//! Groups of flags that several commands share. Parsing reads no file.

use std::{path::PathBuf, str::FromStr};

use chrono::{NaiveDate, NaiveDateTime};
use clap::Args;
use model_store::ModelStore;
use scoring::{ModelKind, UnknownModel};
use tch::Device;

use crate::{
    Failure,
    catalog::{check_recipe, model_names, recipe_names},
    device::DeviceChoice,
    layout::LayoutArgs,
};

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// The models. Default: all
    #[arg(value_name = "MODEL")]
    kinds: Vec<ModelKind>,
}

impl ModelsArgs {
    pub(crate) fn kinds(&self) -> Vec<ModelKind> {
        all_if_empty(&self.kinds)
    }
}

#[derive(Debug, Args)]
pub(crate) struct OnlyArgs {
    #[arg(
        long,
        value_name = "MODEL",
        num_args = 1..,
        value_delimiter = ',',
        help = format!("Train only these models: {}", model_names())
    )]
    only: Vec<ModelKind>,
}

impl OnlyArgs {
    pub(crate) fn kinds(&self) -> Vec<ModelKind> {
        all_if_empty(&self.only)
    }
}

fn all_if_empty(kinds: &[ModelKind]) -> Vec<ModelKind> {
    if kinds.is_empty() {
        ModelKind::ALL.to_vec()
    } else {
        kinds.to_vec()
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// Files or folders with transactions: CSV (plain, gzip, zstd), XLSX or Parquet
    #[arg(
        long,
        required = true,
        num_args = 1..,
        value_name = "FILE",
        env = "SHOPKEEPER_INPUT",
        value_delimiter = ','
    )]
    pub(crate) input: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Lake")]
pub(crate) struct LakeArgs {
    /// Folder of the raw, processed and curated tables
    #[arg(long, value_name = "DIR", env = "SHOPKEEPER_LAKE")]
    pub(crate) lake: PathBuf,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Time")]
pub(crate) struct AsOfArgs {
    /// Use only transactions before this day or instant. Default: all, as of the day after the
    /// last
    #[arg(long, value_name = "TIME", env = "SHOPKEEPER_AS_OF", value_parser = as_of)]
    pub(crate) as_of: Option<NaiveDateTime>,
}

fn as_of(text: &str) -> Result<NaiveDateTime, String> {
    let day = |text: &str| text.parse::<NaiveDate>().ok().map(NaiveDateTime::from);
    let instant = |text: &str| text.replace(' ', "T").parse::<NaiveDateTime>().ok();
    day(text)
        .or_else(|| instant(text))
        .ok_or_else(|| "a time is written 2011-09-01 or 2011-09-01T08:30:00".to_owned())
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct DeviceArgs {
    /// Device for tensor operations
    #[arg(long, value_enum, default_value_t, env = "SHOPKEEPER_DEVICE")]
    pub(crate) device: DeviceChoice,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingArgs {
    #[command(flatten)]
    on: DeviceArgs,

    /// Random seed; the same seed and input give the same models
    #[arg(long, default_value_t = 42, env = "SHOPKEEPER_SEED")]
    pub(crate) seed: u64,

    #[arg(
        long,
        value_name = "MODEL=NAME",
        env = "SHOPKEEPER_RECIPE",
        value_delimiter = ',',
        help = format!(
            "How a model is trained: {}. Default: the first of each model",
            recipe_names()
        )
    )]
    recipe: Vec<Recipe>,
}

impl TrainingArgs {
    pub(crate) fn device(&self) -> Result<Device, Failure> {
        self.on.device.device()
    }

    /// The recipe given for a model; of several, the last.
    pub(crate) fn recipe(&self, model: ModelKind) -> Option<&str> {
        let given = self.recipe.iter().rfind(|recipe| recipe.model == model);
        given.map(|recipe| recipe.name.as_str())
    }

    /// Refuses unknown recipes before any work is done, even those of models that are not trained.
    pub(crate) fn check_recipes(&self) -> Result<(), Failure> {
        self.recipe
            .iter()
            .try_for_each(|recipe| check_recipe(recipe.model, &recipe.name))
    }
}

/// `MODEL=NAME`
#[derive(Debug, Clone)]
struct Recipe {
    model: ModelKind,
    name: String,
}

impl FromStr for Recipe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (model, name) = text
            .split_once('=')
            .ok_or("a recipe is written MODEL=NAME")?;
        let model = model
            .parse()
            .map_err(|error: UnknownModel| error.to_string())?;
        Ok(Self {
            model,
            name: name.to_owned(),
        })
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Model store")]
pub(crate) struct StoreArgs {
    /// The store of published models: a folder, or file://, s3://, gs:// or az://
    #[arg(long, value_name = "URL", env = "SHOPKEEPER_MODELS")]
    models: String,
}

impl StoreArgs {
    pub(crate) fn open(&self) -> Result<ModelStore, Failure> {
        Ok(ModelStore::open(&self.models)?)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Model store")]
pub(crate) struct OptionalStoreArgs {
    /// The store of published models: customers without new lines keep the segments of its current
    /// version
    #[arg(long = "models", value_name = "URL", env = "SHOPKEEPER_MODELS")]
    store: Option<String>,
}

impl OptionalStoreArgs {
    pub(crate) fn open(&self) -> Result<Option<ModelStore>, Failure> {
        Ok(self.store.as_deref().map(ModelStore::open).transpose()?)
    }
}

/// How a version is tried beside the current one.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Trial {
    /// A percentage of callers get its answers, always the same callers
    Canary,
    /// No caller gets its answers; some calls compare them with those of the current version
    Shadow,
}

pub(crate) fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=100)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        training: TrainingArgs,
    }

    fn training(flags: &str) -> Option<TrainingArgs> {
        let line = Line::try_parse_from(format!("trainer {flags}").split(' '));
        line.ok().map(|line| line.training)
    }

    #[test]
    fn an_as_of_time_is_a_day_or_an_instant() {
        for (text, time) in [
            ("2011-09-01", Some("2011-09-01T00:00:00")),
            ("2011-09-01T08:30:00", Some("2011-09-01T08:30:00")),
            ("2011-09-01 08:30:00", Some("2011-09-01T08:30:00")),
            ("yesterday", None),
            ("2011-13-01", None),
        ] {
            let time = time.map(|time| time.parse().unwrap());
            assert_eq!(as_of(text).ok(), time, "{text}");
        }
    }

    #[test]
    fn the_last_recipe_of_a_model_wins_and_unknown_ones_are_refused() {
        let two = "--recipe segmentation=rfm3 --recipe segmentation=value4";
        let two = training(two).unwrap();
        assert_eq!(two.recipe(ModelKind::Segmentation), Some("value4"));
        assert_eq!(two.recipe(ModelKind::Churn), None);
        two.check_recipes().unwrap();
        let unknown = training("--recipe churn=rfm3").unwrap();
        assert!(matches!(
            unknown.check_recipes(),
            Err(Failure::Learn {
                model: ModelKind::Churn,
                ..
            })
        ));
        assert!(training("--recipe segmentation").is_none());
        assert!(training("--recipe sizes=rfm3").is_none());
    }
}

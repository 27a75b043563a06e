//! The command line. Flags that hold for a shop are also environment variables; what one command is
//! to do is not.

use std::{path::PathBuf, str::FromStr};

use chrono::{NaiveDate, NaiveDateTime};
use clap::{Args, Parser, Subcommand, builder::BoolishValueParser};
use lake::{ColumnMapping, DateOrder, IngestOptions, LakeError};
use scoring::{ModelKind, UnknownModel};

use crate::device::DeviceChoice;

/// Learn five models from a shop's transactions, and publish them with the shop's figures.
///
/// Exit codes: 0 done, 1 internal error, 2 wrong command line, 3 bad input, 4 bad environment
/// (disk, store, device), 5 a model did not pass its gates. Whatever fails, the last good tables
/// and models stay in use.
#[derive(Debug, Parser)]
#[command(name = "trainer", version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Write results and progress as JSON, a value a line
    #[arg(long, global = true, env = "SHOPKEEPER_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

impl Cli {
    /// Whether machines read the output.
    pub fn json(&self) -> bool {
        self.json
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ingest, curate, train, evaluate and publish
    Run {
        #[command(flatten)]
        input: InputArgs,
        #[command(flatten)]
        lake: LakeArgs,
        #[command(flatten)]
        as_of: AsOfArgs,
        #[command(flatten)]
        training: TrainingArgs,
        #[command(flatten)]
        store: StoreArgs,
        /// Train these models alone: segmentation, forecast, recommendation, churn, anomaly,
        /// insights
        #[arg(long, value_name = "MODEL", num_args = 1.., value_delimiter = ',')]
        only: Vec<ModelKind>,
    },
    /// Read transactions into the lake: validated, labelled, broken rows quarantined
    Ingest {
        #[command(flatten)]
        input: InputArgs,
        #[command(flatten)]
        lake: LakeArgs,
    },
    /// Derive the curated tables and the quality profile
    Curate {
        #[command(flatten)]
        lake: LakeArgs,
        #[command(flatten)]
        as_of: AsOfArgs,
    },
    /// Train models on the curated tables; they wait in the lake to be evaluated
    Train {
        /// Which models; none: all
        #[arg(value_name = "MODEL")]
        kinds: Vec<ModelKind>,
        #[command(flatten)]
        lake: LakeArgs,
        #[command(flatten)]
        as_of: AsOfArgs,
        #[command(flatten)]
        training: TrainingArgs,
        #[command(flatten)]
        store: OptionalStoreArgs,
    },
    /// Measure the trained models on a time split and check their gates
    Evaluate {
        /// Which models; none: all
        #[arg(value_name = "MODEL")]
        kinds: Vec<ModelKind>,
        #[command(flatten)]
        lake: LakeArgs,
        #[command(flatten)]
        on: DeviceArgs,
        #[command(flatten)]
        store: OptionalStoreArgs,
    },
    /// Publish the evaluated models whose gates pass
    Publish {
        /// Which models; none: all
        #[arg(value_name = "MODEL")]
        kinds: Vec<ModelKind>,
        /// Try them beside the current versions first; without it they become the current ones
        #[arg(long, value_enum)]
        channel: Option<Trial>,
        /// canary: callers who get it, of a hundred
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = percent(), requires = "channel")]
        percent: u8,
        #[command(flatten)]
        lake: LakeArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Give a model's canary to more callers, or to all: it becomes the current version
    Promote {
        /// Which model
        model: ModelKind,
        /// Callers who get it, of a hundred; without it all, for good
        #[arg(long, value_name = "N", value_parser = percent())]
        percent: Option<u8>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Make an earlier version of a model the current one, or end a trial
    Rollback {
        /// Which model
        model: ModelKind,
        /// Which version; none: the one before the current one
        version: Option<String>,
        /// End this trial instead: the current version stays, and answers everybody
        #[arg(long, value_enum, conflicts_with = "version")]
        channel: Option<Trial>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// List the versions in the model store
    Models {
        /// Which model; none: all
        model: Option<ModelKind>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Score in bulk with a published model: for campaigns, purchase orders, audits
    Score(ScoreArgs),
    /// Query the curated tables and `quarantine`: a table on a terminal, CSV elsewhere
    Sql {
        /// The query, for example "SELECT country, revenue FROM sales_per_country ORDER BY revenue
        /// DESC LIMIT 5"
        query: String,
        /// File to write instead, .csv or .parquet
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        lake: LakeArgs,
    },
    /// Write the transactions of a made-up shop, for demos and scale tests
    Synth(SynthArgs),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// Files or folders with transactions: CSV (plain, gzip, zstd), XLSX or Parquet
    #[arg(long, required = true, num_args = 1.., value_name = "FILE", env = "SHOPKEEPER_INPUT", value_delimiter = ',')]
    pub(crate) input: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LayoutArgs {
    /// TOML file that names the columns, where their names are unusual: `invoice = "Order"`
    #[arg(long, value_name = "FILE", env = "SHOPKEEPER_MAPPING")]
    mapping: Option<PathBuf>,

    /// Which comes first in dates such as 03/04/2024 and 03-04-2024; without it the month, or what
    /// the mapping says
    #[arg(long, value_enum, env = "SHOPKEEPER_DATE_ORDER")]
    date_order: Option<DateOrderChoice>,

    /// Stock codes that are services rather than products, in place of the usual ones (POST, DOT,
    /// M, ...)
    #[arg(
        long,
        value_name = "CODE",
        env = "SHOPKEEPER_SERVICE_CODES",
        value_delimiter = ','
    )]
    service_codes: Vec<String>,
}

impl LayoutArgs {
    /// Reads the mapping, where there is one.
    pub(crate) fn options(&self) -> Result<IngestOptions, LakeError> {
        let usual = IngestOptions::default();
        Ok(IngestOptions {
            mapping: self
                .mapping
                .as_deref()
                .map(ColumnMapping::read)
                .transpose()?,
            service_codes: if self.service_codes.is_empty() {
                usual.service_codes
            } else {
                self.service_codes.clone()
            },
            date_order: self.date_order.map(|order| match order {
                DateOrderChoice::MonthFirst => DateOrder::MonthFirst,
                DateOrderChoice::DayFirst => DateOrder::DayFirst,
            }),
        })
    }
}

/// How dates are written.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum DateOrderChoice {
    /// 12/31/2024
    MonthFirst,
    /// 31/12/2024
    DayFirst,
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
    /// Use transactions from before this day or instant alone; without it all, and the day after
    /// the last
    #[arg(long, value_name = "TIME", env = "SHOPKEEPER_AS_OF", value_parser = as_of)]
    pub(crate) as_of: Option<NaiveDateTime>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct DeviceArgs {
    /// Where tensors live
    #[arg(long, value_enum, default_value_t, env = "SHOPKEEPER_DEVICE")]
    pub(crate) device: DeviceChoice,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingArgs {
    #[command(flatten)]
    pub(crate) on: DeviceArgs,

    /// Seed of everything random; the same seed and input give the same models
    #[arg(long, default_value_t = 42, env = "SHOPKEEPER_SEED")]
    pub(crate) seed: u64,

    /// How a model is made; without it the first of segmentation=default, rfm3 or value4. Of the
    /// others each has one: forecast=blend, recommendation=ranked, churn=blend,
    /// anomaly=self-supervised, insights=lines
    #[arg(
        long,
        value_name = "MODEL=NAME",
        env = "SHOPKEEPER_RECIPE",
        value_delimiter = ','
    )]
    pub(crate) recipe: Vec<Recipe>,
}

impl TrainingArgs {
    pub(crate) fn recipe(&self, model: ModelKind) -> Option<&str> {
        self.recipe
            .iter()
            .rfind(|recipe| recipe.model == model)
            .map(|recipe| recipe.name.as_str())
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Model store")]
pub(crate) struct StoreArgs {
    /// Where models are published: a folder, or file://, s3://, gs:// or az://
    #[arg(long, value_name = "URL", env = "SHOPKEEPER_MODELS")]
    pub(crate) models: String,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Model store")]
pub(crate) struct OptionalStoreArgs {
    /// Where models are published; their current versions keep names stable and are compared with
    #[arg(long = "models", value_name = "URL", env = "SHOPKEEPER_MODELS")]
    pub(crate) models: Option<String>,
}

/// How a version is tried beside the current one.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Trial {
    /// A share of callers gets its answers, the same callers every time
    Canary,
    /// Nobody gets its answers; those of some calls are compared with the current version's
    Shadow,
}

fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=100)
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Which model
    pub(crate) model: ModelKind,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// anomaly: the lines to score, in a column layout that `ingest` reads, with or without a
    /// `line_id`. Others: a file with a column of customer ids (or series ids for forecast) to
    /// score alone; without it all
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// File to write, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// recommendation: products for each customer; without it 20
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) top: Option<u16>,
    /// recommendation: leave out what the customer has already bought
    #[arg(long)]
    pub(crate) new_only: bool,
    /// forecast: which series; without it those that the input names, or else the shop
    #[arg(long, value_enum)]
    pub(crate) level: Option<LevelChoice>,
    /// forecast: how long a period is; without it as the input's names say, or else a day
    #[arg(long, value_enum)]
    pub(crate) frequency: Option<FrequencyChoice>,
    /// forecast: periods from the as-of time on; without it 28 days, 8 weeks or 3 months
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=366))]
    pub(crate) horizon: Option<u16>,
}

/// Whose sales are forecast.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum LevelChoice {
    /// The shop, revenue
    Total,
    /// Each country, revenue
    Country,
    /// Each product, pieces
    Product,
}

/// How long a period is.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum FrequencyChoice {
    /// A day
    Daily,
    /// A week from Monday
    Weekly,
    /// A calendar month
    Monthly,
}

#[derive(Debug, Args)]
pub(crate) struct SynthArgs {
    /// CSV file to write; the truth that was planted goes beside it as FILE.truth.json
    #[arg(long, value_name = "FILE", env = "SHOPKEEPER_OUTPUT")]
    pub(crate) output: PathBuf,
    /// Customers
    #[arg(long, default_value_t = 2_000)]
    pub(crate) customers: u32,
    /// Products
    #[arg(long, default_value_t = 1_000)]
    pub(crate) products: u32,
    /// Days, from the first
    #[arg(long, default_value_t = 450)]
    pub(crate) days: u32,
    /// First day
    #[arg(long, value_name = "DAY", default_value = "2023-09-04")]
    pub(crate) start: NaiveDate,
    /// Seed; the same seed writes the same bytes
    #[arg(long, default_value_t = 42, env = "SHOPKEEPER_SEED")]
    pub(crate) seed: u64,
}

/// `MODEL=NAME`
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) model: ModelKind,
    pub(crate) name: String,
}

impl FromStr for Recipe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (model, name) = text
            .split_once('=')
            .ok_or("a recipe is written MODEL=NAME")?;
        let model = model.parse().map_err(|e: UnknownModel| e.to_string())?;
        Ok(Self {
            model,
            name: name.to_owned(),
        })
    }
}

fn as_of(text: &str) -> Result<NaiveDateTime, String> {
    let day = |text: &str| text.parse::<NaiveDate>().ok().map(NaiveDateTime::from);
    let instant = |text: &str| text.replace(' ', "T").parse::<NaiveDateTime>().ok();
    day(text)
        .or_else(|| instant(text))
        .ok_or_else(|| "a time is written 2011-09-01 or 2011-09-01T08:30:00".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_trial_has_a_share_and_ends_by_its_channel() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        let canary = parse("trainer publish churn --channel canary --lake l --models m").unwrap();
        assert!(
            matches!(
                canary,
                Command::Publish {
                    channel: Some(Trial::Canary),
                    percent: 10,
                    ..
                }
            ),
            "{canary:?}"
        );
        for wrong in [
            "trainer publish churn --percent 10 --lake l --models m",
            "trainer publish churn --channel canary --percent 0 --lake l --models m",
            "trainer publish churn --channel canary --percent 101 --lake l --models m",
            "trainer rollback churn v1 --channel canary --models m",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("trainer rollback churn --channel shadow --models m").is_ok());
        assert!(parse("trainer promote churn --models m").is_ok());
    }

    #[test]
    fn help_names_the_models_and_their_recipes() {
        let mut command = Cli::command();
        let help = command
            .find_subcommand_mut("run")
            .unwrap()
            .render_long_help()
            .to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for kind in ModelKind::ALL {
            let recipes = crate::models::recipes(kind);
            assert!(
                help.contains(&format!("{kind}={}", recipes[0])),
                "{kind}: {help}"
            );
            assert!(
                recipes.iter().all(|recipe| help.contains(recipe)),
                "{kind}: {help}"
            );
        }
        assert!(
            help.contains(&ModelKind::ALL.map(ModelKind::as_str).join(", ")),
            "{help}"
        );
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
            assert_eq!(
                as_of(text).ok(),
                time.map(|time| time.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn the_last_recipe_of_a_model_counts() {
        let cli = Cli::parse_from([
            "trainer",
            "train",
            "--lake",
            "l",
            "--recipe",
            "segmentation=rfm3",
            "--recipe",
            "segmentation=value4",
        ]);
        let Command::Train { training, .. } = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!(training.recipe(ModelKind::Segmentation), Some("value4"));
        assert_eq!(training.recipe(ModelKind::Churn), None);
        assert!("segmentation".parse::<Recipe>().is_err());
        assert!("sizes=rfm3".parse::<Recipe>().is_err());
    }
}

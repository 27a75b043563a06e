//! `trainer run`

use indicatif::HumanCount;
use lake::{CurateOptions, CurateReport, IngestReport, Lake};
use model_store::ModelStore;
use scoring::{Manifest, Metric, ModelKind};
use serde::Serialize;

use crate::{
    Context, Failure,
    args::{AsOfArgs, InputArgs, LakeArgs, OnlyArgs, StoreArgs, TrainingArgs},
    console::table,
    failure::chain,
    pipeline::{Pipeline, Settings},
    usage::{Usage, measure},
};

/// Ingest, curate, train, evaluate and publish
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
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
    #[command(flatten)]
    only: OnlyArgs,
}

/// The result of the command.
#[derive(Serialize)]
struct Report {
    ingest: IngestReport,
    curate: CurateReport,
    models: Vec<Outcome>,
    stages: Vec<Usage>,
}

/// The outcome of a model.
#[derive(Serialize)]
struct Outcome {
    model: ModelKind,
    published: bool,
    manifest: Option<Manifest>,
    error: Option<String>,
}

impl Run {
    pub(crate) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        self.training.check_recipes()?;
        let store = self.store.open()?;
        let device = self.training.device()?;
        let lake = Lake::create(&self.lake.lake)?.lock()?;
        let mut stages = Vec::new();

        let ingest = measure("ingest", &mut stages, || {
            let options = self.input.layout.options()?;
            lake::ingest(&self.input.input, &lake, &options, context.console)
        })?;
        let curate = measure("curate", &mut stages, || {
            let as_of = self.as_of.as_of;
            lake::curate(&lake, &CurateOptions { as_of }, context.console)
        })?;

        let pipeline = Pipeline::open(context, &lake, Some(store.clone()))?;
        // A model that fails does not keep the others from being published.
        let (mut models, mut failures) = (Vec::new(), Vec::new());
        for kind in self.only.kinds() {
            let settings = Settings {
                as_of: curate.as_of,
                seed: self.training.seed,
                device,
                recipe: self.training.recipe(kind),
            };
            let (outcome, failure) = one_model(kind, settings, &pipeline, &store, &mut stages);
            models.push(outcome);
            failures.extend(failure);
        }
        let report = Report {
            ingest,
            curate,
            models,
            stages,
        };
        context.console.result(&report, || report.text())?;
        Failure::of(failures)
    }
}

/// Trains, evaluates and publishes a model.
fn one_model(
    kind: ModelKind,
    settings: Settings<'_>,
    pipeline: &Pipeline<'_>,
    store: &ModelStore,
    stages: &mut Vec<Usage>,
) -> (Outcome, Option<Failure>) {
    let mut manifest = None;
    let mut steps = || -> Result<(), Failure> {
        manifest = Some(measure(&format!("train {kind}"), stages, || {
            pipeline.train(kind, settings)
        })?);
        manifest = Some(measure(&format!("evaluate {kind}"), stages, || {
            pipeline.evaluate(kind, settings.device)
        })?);
        measure(&format!("publish {kind}"), stages, || {
            pipeline.publish(kind, store)
        })?;
        Ok(())
    };
    let failure = steps().err();
    let outcome = Outcome {
        model: kind,
        published: failure.is_none(),
        manifest,
        error: failure.as_ref().map(chain),
    };
    (outcome, failure)
}

impl Outcome {
    fn row(&self) -> [String; 5] {
        let of =
            |part: fn(&Manifest) -> String| self.manifest.as_ref().map(part).unwrap_or_default();
        // The command ends with the reason why a model was not published.
        let outcome = if self.published {
            "published"
        } else {
            "not published"
        };
        [
            self.model.to_string(),
            of(|manifest| manifest.recipe.clone()),
            of(|manifest| manifest.version.clone()),
            of(|manifest| {
                manifest
                    .metrics
                    .first()
                    .map(metric_text)
                    .unwrap_or_default()
            }),
            outcome.to_owned(),
        ]
    }
}

fn metric_text(metric: &Metric) -> String {
    let Metric {
        name,
        value,
        baseline,
        ..
    } = metric;
    match baseline {
        Some(baseline) => format!("{name} {value:.3} (naive {baseline:.3})"),
        None => format!("{name} {value:.3}"),
    }
}

impl Report {
    fn text(&self) -> String {
        let stages = self.stages.iter();
        let total = Usage {
            stage: "total".to_owned(),
            wall_s: stages.clone().map(|usage| usage.wall_s).sum(),
            peak_mib: stages.clone().filter_map(|usage| usage.peak_mib).max(),
        };
        let stage_row = |usage: &Usage| {
            let peak = usage.peak_mib.map(|mib| format!("{} MiB", HumanCount(mib)));
            [
                usage.stage.clone(),
                format!("{:.2} s", usage.wall_s),
                peak.unwrap_or_else(|| "-".to_owned()),
            ]
        };
        [
            self.ingest.to_string(),
            self.curate.to_string(),
            table(
                ["model", "recipe", "version", "evaluation", "outcome"],
                self.models.iter().map(Outcome::row),
            ),
            table(
                ["stage", "wall time", "peak memory"],
                stages.chain([&total]).map(stage_row),
            ),
        ]
        .join("\n\n")
    }
}

//! The commands, each a few lines over the lake, the learners and the store.

use chrono::{DateTime, NaiveDateTime, Utc};
use lake::{CurateOptions, CurateReport, IngestReport, Lake, SynthOptions};
use model_store::{Canary, Channel, ModelStore, Pointer};
use scoring::{Manifest, ModelKind};
use serde::Serialize;

use crate::{
    Cli, Console, Failure,
    cli::{Command, InputArgs, SynthArgs, TrainingArgs, Trial},
    console::{table, thousands},
    models::{Models, Settings, candidates, check_recipe},
    output::Format,
    usage::{Usage, measure},
};

/// Does what the command line says.
///
/// # Errors
/// [`Failure`], with the exit code that goes with it.
pub fn execute(cli: Cli, now: DateTime<Utc>, console: &mut Console) -> Result<(), Failure> {
    let console = &*console;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Process)?;
    let open = |lake| -> Result<Lake, Failure> { Ok(Lake::open(lake)?) };
    let models = |lake, published: Option<&str>| {
        Ok::<_, Failure>(Models {
            lake,
            candidates: ModelStore::open(&candidates(lake).to_string_lossy())?,
            published: published.map(ModelStore::open).transpose()?,
            runtime: &runtime,
            console,
            now,
        })
    };
    match cli.command {
        Command::Run {
            input,
            lake,
            as_of,
            training,
            store,
            only,
        } => {
            let kinds = all_if_none(only);
            check(&kinds, &training)?;
            let store = ModelStore::open(&store.models)?;
            run(
                Run {
                    input,
                    lake: &lake.lake,
                    as_of: as_of.as_of,
                    training,
                    kinds,
                },
                store,
                &runtime,
                now,
                console,
            )
        }
        Command::Ingest { input, lake } => {
            let lake = Lake::create(&lake.lake)?;
            let report = ingest(&input, &lake, console)?;
            console.result(&report, || report.to_string())
        }
        Command::Curate { lake, as_of } => {
            let report = lake::curate(
                &open(&lake.lake)?,
                &CurateOptions { as_of: as_of.as_of },
                console,
            )?;
            console.result(&report, || report.to_string())
        }
        Command::Train {
            kinds,
            lake,
            as_of,
            training,
            store,
        } => {
            let kinds = all_if_none(kinds);
            check(&kinds, &training)?;
            let device = training.on.device.device()?;
            let lake = open(&lake.lake)?.hold()?;
            let as_of = match as_of.as_of {
                Some(as_of) => as_of,
                None => lake.as_of()?,
            };
            let models = models(&lake, store.models.as_deref())?;
            each(&kinds, console, |kind| {
                let settings = Settings {
                    as_of,
                    seed: training.seed,
                    device,
                    recipe: training.recipe(kind),
                };
                Ok(Version::of(models.train(kind, settings)?, None))
            })
        }
        Command::Evaluate {
            kinds,
            lake,
            on,
            store,
        } => {
            let device = on.device.device()?;
            let lake = open(&lake.lake)?.hold()?;
            let models = models(&lake, store.models.as_deref())?;
            each(&all_if_none(kinds), console, |kind| {
                Ok(Version::of(models.evaluate(kind, device)?, None))
            })
        }
        Command::Publish {
            kinds,
            channel,
            percent,
            lake,
            store,
        } => {
            let lake = open(&lake.lake)?;
            let store = ModelStore::open(&store.models)?;
            let models = models(&lake, None)?;
            each(&all_if_none(kinds), console, |kind| {
                let (manifest, channel) = match channel {
                    None => (models.publish(kind, &store)?, Channel::Stable),
                    Some(Trial::Canary) => (
                        models.publish_canary(kind, percent, &store)?,
                        Channel::Canary,
                    ),
                    Some(Trial::Shadow) => (models.publish_shadow(kind, &store)?, Channel::Shadow),
                };
                Ok(Version::of(manifest, Some(channel)))
            })
        }
        Command::Promote {
            model,
            percent,
            store,
        } => {
            let store = ModelStore::open(&store.models)?;
            let pointer = runtime.block_on(store.promote(model, percent, now))?;
            console.result(&pointer, || pointed(model, &pointer))
        }
        Command::Rollback {
            model,
            version,
            channel,
            store,
        } => {
            let store = ModelStore::open(&store.models)?;
            let pointer = runtime.block_on(async {
                match channel {
                    None => store.rollback(model, version.as_deref(), now).await,
                    Some(Trial::Canary) => store.set_canary(model, None).await,
                    Some(Trial::Shadow) => store.set_shadow(model, None).await,
                }
            })?;
            console.result(&pointer, || pointed(model, &pointer))
        }
        Command::Models { model, store } => {
            let store = ModelStore::open(&store.models)?;
            let kinds = all_if_none(model.into_iter().collect());
            let mut versions = Vec::new();
            for kind in kinds {
                for (manifest, channel) in runtime.block_on(store.versions(kind))? {
                    versions.push(Version::of(manifest, channel));
                }
                if let Err(error) = runtime.block_on(store.current(kind)) {
                    console.note(&error.to_string());
                }
            }
            console.result(&versions, || list(&versions))
        }
        Command::Score(args) => {
            let scored = crate::score::score(&args, &runtime)?;
            console.result(&scored, || scored.to_string())
        }
        Command::Sql {
            query,
            output,
            lake,
        } => {
            let format = output.as_deref().map(Format::of).transpose()?;
            let mut answer = open(&lake.lake)?.sql(&query)?;
            let (Some(format), Some(output)) = (format, output) else {
                return console.answer(&answer);
            };
            format.write(&mut answer, &output)?;
            let rows = answer.height();
            let report = serde_json::json!({ "rows": rows, "output": output });
            console.result(&report, || {
                format!("{} rows in {}", thousands(rows as u64), output.display())
            })
        }
        Command::Synth(args) => synth(&args, console),
    }
}

/// What `run` is told.
struct Run<'a> {
    input: InputArgs,
    lake: &'a std::path::Path,
    as_of: Option<NaiveDateTime>,
    training: TrainingArgs,
    kinds: Vec<ModelKind>,
}

/// What `run` tells.
#[derive(Serialize)]
struct Report {
    ingest: IngestReport,
    curate: CurateReport,
    models: Vec<Outcome>,
    stages: Vec<Usage>,
}

/// What became of a model.
#[derive(Serialize)]
struct Outcome {
    model: ModelKind,
    published: bool,
    manifest: Option<Manifest>,
    error: Option<String>,
}

fn run(
    Run {
        input,
        lake,
        as_of,
        training,
        kinds,
    }: Run<'_>,
    store: ModelStore,
    runtime: &tokio::runtime::Runtime,
    now: DateTime<Utc>,
    console: &Console,
) -> Result<(), Failure> {
    let device = training.on.device.device()?;
    let lake = Lake::create(lake)?.hold()?;
    let mut stages = Vec::new();
    let mut staged = |usage: Usage| stages.push(usage);

    let (ingest, usage) = measure("ingest", || ingest(&input, &lake, console))?;
    staged(usage);
    let (curate, usage) = measure("curate", || {
        lake::curate(&lake, &CurateOptions { as_of }, console)
    })?;
    staged(usage);

    let models = Models {
        lake: &lake,
        candidates: ModelStore::open(&candidates(&lake).to_string_lossy())?,
        published: Some(store.clone()),
        runtime,
        console,
        now,
    };
    // A model that fails does not keep the others from being published.
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    for &kind in &kinds {
        let mut manifest = None;
        let mut one = || -> Result<(), Failure> {
            let settings = Settings {
                as_of: curate.as_of,
                seed: training.seed,
                device,
                recipe: training.recipe(kind),
            };
            let (trained, usage) =
                measure(&format!("train {kind}"), || models.train(kind, settings))?;
            staged(usage);
            manifest = Some(trained);
            let (evaluated, usage) = measure(&format!("evaluate {kind}"), || {
                models.evaluate(kind, device)
            })?;
            staged(usage);
            manifest = Some(evaluated);
            let (_, usage) = measure(&format!("publish {kind}"), || models.publish(kind, &store))?;
            staged(usage);
            Ok(())
        };
        let result = one();
        let error = result.as_ref().err().map(crate::failure::chain);
        outcomes.push(Outcome {
            model: kind,
            published: error.is_none(),
            manifest,
            error,
        });
        failures.extend(result.err());
    }
    let report = Report {
        ingest,
        curate,
        models: outcomes,
        stages,
    };
    console.result(&report, || report_text(&report))?;
    fail(failures)
}

fn report_text(report: &Report) -> String {
    let models = report.models.iter().map(
        |Outcome {
             model,
             published,
             manifest,
             ..
         }| {
            let metric =
                manifest
                    .as_ref()
                    .and_then(|m| m.metrics.first())
                    .map(|m| match m.baseline {
                        Some(baseline) => {
                            format!("{} {:.3} (naive {baseline:.3})", m.name, m.value)
                        }
                        None => format!("{} {:.3}", m.name, m.value),
                    });
            [
                model.to_string(),
                manifest
                    .as_ref()
                    .map(|m| m.recipe.clone())
                    .unwrap_or_default(),
                manifest
                    .as_ref()
                    .map(|m| m.version.clone())
                    .unwrap_or_default(),
                metric.unwrap_or_default(),
                // Why, the command says when it ends.
                if *published {
                    "published"
                } else {
                    "not published"
                }
                .to_owned(),
            ]
        },
    );
    let total: f64 = report.stages.iter().map(|usage| usage.wall_s).sum();
    let peak = report
        .stages
        .iter()
        .filter_map(|usage| usage.peak_mib)
        .max();
    let total = Usage {
        stage: "total".to_owned(),
        wall_s: total,
        peak_mib: peak,
    };
    let stages = report.stages.iter().chain([&total]).map(
        |Usage {
             stage,
             wall_s,
             peak_mib,
         }| {
            let peak =
                peak_mib.map_or_else(|| "-".to_owned(), |mib| format!("{} MiB", thousands(mib)));
            [stage.clone(), format!("{wall_s:.2} s"), peak]
        },
    );
    [
        report.ingest.to_string(),
        report.curate.to_string(),
        table(
            ["model", "recipe", "version", "evaluation", "outcome"],
            models,
        ),
        table(["stage", "wall time", "peak memory"], stages),
    ]
    .join("\n\n")
}

fn ingest(input: &InputArgs, lake: &Lake, console: &Console) -> Result<IngestReport, Failure> {
    Ok(lake::ingest(
        &input.input,
        lake,
        &input.layout.options()?,
        console,
    )?)
}

fn synth(args: &SynthArgs, console: &Console) -> Result<(), Failure> {
    let SynthArgs {
        output,
        customers,
        products,
        days,
        start,
        seed,
    } = args;
    let options = SynthOptions {
        customers: *customers,
        products: *products,
        days: *days,
        start: *start,
        seed: *seed,
    };
    let report = lake::synth(&options, output, console)?;
    console.result(&report, || report.to_string())
}

/// Where a pointer points.
fn pointed(model: ModelKind, pointer: &Pointer) -> String {
    let Pointer {
        version,
        previous,
        canary,
        shadow,
        ..
    } = pointer;
    let mut text = format!("{model}: {version} is current");
    if let Some(previous) = previous {
        text += &format!("; {previous} is the one before it");
    }
    if let Some(Canary { version, percent }) = canary {
        text += &format!("; {version} is the canary of {percent} % of callers");
    }
    if let Some(version) = shadow {
        text += &format!("; {version} is the shadow");
    }
    text
}

/// A version in the store.
#[derive(Serialize)]
struct Version {
    /// Whether it is the one that answers whoever is not on trial.
    current: bool,
    /// What it is for, if anything.
    channel: Option<Channel>,
    #[serde(flatten)]
    manifest: Manifest,
}

impl Version {
    fn of(manifest: Manifest, channel: Option<Channel>) -> Self {
        Self {
            current: channel == Some(Channel::Stable),
            channel,
            manifest,
        }
    }
}

fn list(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "no model has been published here".to_owned();
    }
    let rows = versions.iter().map(
        |Version {
             channel, manifest, ..
         }| {
            let size: u64 = manifest.files.iter().map(|file| file.size).sum();
            [
                manifest.model.to_string(),
                manifest.version.clone(),
                channel
                    .map(|channel| channel.as_str().to_owned())
                    .unwrap_or_default(),
                manifest.recipe.clone(),
                manifest.as_of.to_string(),
                format!("{} KiB", thousands(size.div_ceil(1024))),
                manifest
                    .metrics
                    .first()
                    .map(|m| format!("{} {:.3}", m.name, m.value))
                    .unwrap_or_default(),
            ]
        },
    );
    table(
        [
            "model",
            "version",
            "channel",
            "recipe",
            "as of",
            "size",
            "evaluation",
        ],
        rows,
    )
}

fn all_if_none(kinds: Vec<ModelKind>) -> Vec<ModelKind> {
    if kinds.is_empty() {
        ModelKind::ALL.to_vec()
    } else {
        kinds
    }
}

fn check(kinds: &[ModelKind], training: &TrainingArgs) -> Result<(), Failure> {
    // Those that are named for other models as well: what is misspelt is not passed over.
    training
        .recipe
        .iter()
        .try_for_each(|recipe| check_recipe(recipe.model, Some(recipe.name.as_str())))?;
    kinds
        .iter()
        .try_for_each(|kind| check_recipe(*kind, training.recipe(*kind)))
}

/// Does a step for each model, prints what came of it, and fails at the end where one failed.
fn each(
    kinds: &[ModelKind],
    console: &Console,
    step: impl Fn(ModelKind) -> Result<Version, Failure>,
) -> Result<(), Failure> {
    let (mut versions, mut failures) = (Vec::new(), Vec::new());
    for &kind in kinds {
        match step(kind) {
            Ok(version) => versions.push(version),
            Err(failure) => failures.push(failure),
        }
    }
    if !versions.is_empty() {
        console.result(&versions, || list(&versions))?;
    }
    fail(failures)
}

/// One failure is itself; gates that failed are one list.
fn fail(mut failures: Vec<Failure>) -> Result<(), Failure> {
    if failures.len() < 2 {
        return failures.pop().map_or(Ok(()), Err);
    }
    let gates = failures.iter().filter_map(|failure| {
        if let Failure::Gates(gates) = failure {
            Some(gates)
        } else {
            None
        }
    });
    let gates: Vec<_> = gates.collect();
    if gates.len() == failures.len() {
        return Err(Failure::Gates(
            gates.into_iter().flatten().cloned().collect(),
        ));
    }
    Err(Failure::Several(failures))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    /// Runs a command line over a lake of a few rows.
    fn trainer(arguments: &[&str], lake: &Path) -> Result<(), Failure> {
        let lake = lake.to_string_lossy();
        let line = ["trainer"]
            .iter()
            .chain(arguments)
            .copied()
            .chain(["--lake", &lake]);
        execute(
            Cli::parse_from(line),
            DateTime::UNIX_EPOCH,
            &mut Console::new(true),
        )
    }

    /// A lake that ends with 1 January 2011.
    fn lake(folder: &Path) -> std::path::PathBuf {
        let (input, lake) = (folder.join("rows.csv"), folder.join("lake"));
        let heading =
            "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
        fs_err::write(
            &input,
            heading.to_owned() + "1,10,A THING,2,1/1/2011 8:00,1.5,12,EIRE\n",
        )
        .unwrap();
        trainer(&["ingest", "--input", &input.to_string_lossy()], &lake).unwrap();
        trainer(&["curate"], &lake).unwrap();
        lake
    }

    #[test]
    fn no_model_is_as_of_later_than_its_tables() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        let failure = trainer(&["train", "insights", "--as-of", "2011-01-03"], &lake).unwrap_err();
        assert!(
            failure
                .to_string()
                .starts_with("a model as of 2011-01-03 00:00:00 needs"),
            "{failure}"
        );
        assert!(
            failure.to_string().contains("as of 2011-01-02 00:00:00"),
            "{failure}"
        );
        trainer(&["train", "insights", "--as-of", "2011-01-02"], &lake).unwrap();
    }

    #[test]
    fn an_answer_goes_into_a_file_whole() {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path());
        let output = folder.path().join("answer.csv");
        let sql = |query: &str, output: &Path| {
            trainer(
                &["sql", query, "--output", &output.to_string_lossy()],
                &lake,
            )
        };
        sql("SELECT *, 1 AS i, 2 AS j FROM baskets", &output).unwrap();
        let text = fs_err::read_to_string(&output).unwrap();
        let columns = "invoice,customer_id,time,country,products,size,value,i,j\n";
        assert_eq!(
            text,
            columns.to_owned() + "1,12,2011-01-01 08:00:00,EIRE,\"[\"\"10\"\"]\",1,3.0000,1,2\n"
        );
        sql("SELECT * FROM quarantine", &output).unwrap();
        assert_eq!(
            fs_err::read_to_string(&output).unwrap(),
            "file,row,field,reason,text\n"
        );
        for refused in [
            "DROP TABLE baskets",
            "DESCRIBE baskets",
            "(DELETE FROM baskets)",
            "",
        ] {
            let failure = sql(refused, &output).unwrap_err();
            assert!(
                failure
                    .to_string()
                    .contains("it begins with none of SELECT"),
                "{refused}: {failure}"
            );
        }
        assert!(matches!(
            sql("SELECT 1", Path::new("answer.txt")),
            Err(Failure::Ending(_))
        ));
    }
}

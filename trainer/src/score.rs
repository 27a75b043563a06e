//! `trainer score`: bulk scoring with the scoring crate that the services use.

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
};

use lake::Kind;
use model_store::ModelStore;
use polars::prelude::*;
use rayon::prelude::*;
use scoring::{
    Artifact, Model, ModelKind,
    anomaly::Anomaly,
    churn::{Churn, RiskLevel},
    forecast::{self, Forecast},
    recommendation::{Query, Recommendations},
    segmentation::Segmentation,
};
use serde::Serialize;

use crate::{
    Failure,
    cli::{FrequencyChoice, LevelChoice, ScoreArgs},
    console::thousands,
    output::Format,
};

/// Quantiles of forecasts, the usual ones first.
const QUANTILES: [(&str, f64); 9] = [
    ("q10", 0.1),
    ("q50", 0.5),
    ("q90", 0.9),
    ("q20", 0.2),
    ("q30", 0.3),
    ("q40", 0.4),
    ("q60", 0.6),
    ("q70", 0.7),
    ("q80", 0.8),
];

/// What was scored.
#[derive(Debug, Serialize)]
pub(crate) struct Scored {
    model: ModelKind,
    version: String,
    rows: usize,
    output: PathBuf,
    /// What of the input could not be scored, and why; the first few.
    left_out: Vec<String>,
    left_out_rows: usize,
}

impl fmt::Display for Scored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            model,
            version,
            rows,
            output,
            left_out,
            left_out_rows,
        } = self;
        write!(
            f,
            "{} rows by {model} {version} in {}",
            thousands(*rows as u64),
            output.display()
        )?;
        if *left_out_rows > 0 {
            write!(
                f,
                "; {left_out_rows} of the input left out: {}",
                left_out.join("; ")
            )?;
        }
        Ok(())
    }
}

/// What was made of the input.
#[derive(Default)]
struct Table {
    columns: Vec<Column>,
    left_out: Vec<String>,
}

/// Products of a customer, unless the caller says.
const TOP: usize = 20;

/// How many of the rows that were left out are told.
const TOLD: usize = 5;

pub(crate) fn score(
    args: &ScoreArgs,
    runtime: &tokio::runtime::Runtime,
) -> Result<Scored, Failure> {
    let format = Format::of(&args.output)?;
    check(args)?;
    let store = ModelStore::open(&args.store.models)?;
    let kind = args.model;
    let pointer = runtime
        .block_on(store.current(kind))?
        .ok_or(Failure::NotPublished(kind))?;
    let artifact = runtime.block_on(store.fetch(kind, &pointer.version))?;
    let Table { columns, left_out } = match kind {
        ModelKind::Segmentation => segmentation(&load(&artifact)?, args)?,
        ModelKind::Churn => churn(&load(&artifact)?, args)?,
        ModelKind::Recommendation => recommendation(&load(&artifact)?, args)?,
        ModelKind::Forecast => forecast(&load(&artifact)?, args)?,
        ModelKind::Anomaly => anomaly(&load(&artifact)?, args)?,
        ModelKind::Insights => return Err(Failure::NoScores(kind)),
    };
    let mut table = DataFrame::new_infer_height(columns)?;
    format.write(&mut table, &args.output)?;
    Ok(Scored {
        model: kind,
        version: pointer.version,
        rows: table.height(),
        output: args.output.clone(),
        left_out_rows: left_out.len(),
        left_out: left_out.into_iter().take(TOLD).collect(),
    })
}

/// Refuses flags that another model would heed.
fn check(args: &ScoreArgs) -> Result<(), Failure> {
    let given = [
        ("--top", args.top.is_some(), ModelKind::Recommendation),
        ("--new-only", args.new_only, ModelKind::Recommendation),
        ("--level", args.level.is_some(), ModelKind::Forecast),
        ("--frequency", args.frequency.is_some(), ModelKind::Forecast),
        ("--horizon", args.horizon.is_some(), ModelKind::Forecast),
    ];
    match given
        .into_iter()
        .find(|(_, given, of)| *given && *of != args.model)
    {
        Some((flag, _, of)) => Err(Failure::Flag {
            flag,
            problem: format!("is for {of}, not for {}", args.model),
        }),
        None => Ok(()),
    }
}

fn load<M: Model>(artifact: &Artifact) -> Result<M, Failure> {
    M::load(artifact).map_err(|source| Failure::Unusable {
        model: M::KIND,
        source,
    })
}

fn text<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> Column {
    Column::new(name.into(), values.collect::<Vec<_>>())
}

/// Things with their ids.
type WithIds<T> = Vec<(String, T)>;

/// Things in order of id, and what of the input is not among them.
fn wanted<T>(
    args: &ScoreArgs,
    column: &str,
    mut all: WithIds<T>,
) -> Result<(WithIds<T>, Vec<String>), Failure> {
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let Some(input) = &args.input else {
        return Ok((all, Vec::new()));
    };
    let asked = ids(input, column)?;
    let set: HashSet<&str> = asked.iter().map(String::as_str).collect();
    all.retain(|(id, _)| set.contains(id.as_str()));
    let found: HashSet<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
    let unknown = asked
        .iter()
        .filter(|id| !found.contains(id.as_str()))
        .map(|id| format!("{column} {id} is unknown"));
    let unknown = unknown.collect();
    Ok((all, unknown))
}

/// The ids in a column of a CSV file, each once.
fn ids(input: &Path, column: &str) -> Result<Vec<String>, Failure> {
    let bad = |problem: String| Failure::Input {
        path: input.to_owned(),
        problem,
    };
    let mut reader = csv::Reader::from_path(input).map_err(|e| bad(e.to_string()))?;
    let header: Vec<String> = reader
        .headers()
        .map_err(|e| bad(e.to_string()))?
        .iter()
        .map(str::to_owned)
        .collect();
    let place = lake::place_of(&header, column)
        .ok_or_else(|| bad(format!("it has no column `{column}`")))?;
    let mut ids = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| bad(e.to_string()))?;
        let id = scoring::CustomerId::canonical(record.get(place).unwrap_or_default()).to_owned();
        if !id.is_empty() {
            ids.push(id);
        }
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}

fn segmentation(model: &Segmentation, args: &ScoreArgs) -> Result<Table, Failure> {
    let all = model
        .customers()
        .map(|(id, customer)| (id.to_string(), *customer))
        .collect();
    let (customers, left_out) = wanted(args, "customer_id", all)?;
    let placed: Vec<_> = customers
        .iter()
        .map(|(_, customer)| model.place(customer))
        .collect();
    let columns = vec![
        text("customer_id", customers.iter().map(|(id, _)| id.as_str())),
        Column::new(
            "segment_id".into(),
            placed.iter().map(|p| p.segment.id).collect::<Vec<_>>(),
        ),
        text(
            "segment_name",
            placed.iter().map(|p| p.segment.name.as_str()),
        ),
        text(
            "lifecycle",
            customers
                .iter()
                .map(|(_, customer)| model.lifecycle(customer).as_str()),
        ),
        text("rfm_cell", placed.iter().map(|p| p.rfm_cell)),
        Column::new(
            "expected_spend".into(),
            customers
                .iter()
                .map(|(_, c)| c.expected_spend())
                .collect::<Vec<_>>(),
        ),
    ];
    Ok(Table { columns, left_out })
}

fn churn(model: &Churn, args: &ScoreArgs) -> Result<Table, Failure> {
    let all = model
        .customers()
        .iter()
        .map(|customer| (customer.id.to_string(), customer))
        .collect();
    let (customers, left_out) = wanted(args, "customer_id", all)?;
    let level = |probability| match model.level(probability) {
        RiskLevel::Low => "Low",
        RiskLevel::Medium => "Medium",
        RiskLevel::High => "High",
    };
    let number = |name: &str, of: &dyn Fn(&scoring::churn::Customer) -> f64| {
        Column::new(
            name.into(),
            customers
                .iter()
                .map(|(_, customer)| of(customer))
                .collect::<Vec<_>>(),
        )
    };
    let columns = vec![
        text("customer_id", customers.iter().map(|(id, _)| id.as_str())),
        number("probability", &|customer| customer.probability),
        text(
            "risk_level",
            customers
                .iter()
                .map(|(_, customer)| level(customer.probability)),
        ),
        number("annual_value", &|customer| customer.annual_value),
        number("value_at_risk", &|customer| customer.value_at_risk()),
    ];
    Ok(Table { columns, left_out })
}

fn recommendation(model: &Recommendations, args: &ScoreArgs) -> Result<Table, Failure> {
    let all = model
        .customers()
        .map(|(id, row)| (id.to_string(), row))
        .collect();
    let (customers, left_out) = wanted(args, "customer_id", all)?;
    let lists: Vec<_> = customers
        .par_iter()
        .map(|(id, row)| {
            let limit = args.top.map_or(TOP, usize::from);
            (
                id,
                model.recommend(&Query {
                    customer: Some(*row),
                    limit,
                    new_only: args.new_only,
                    ..Query::default()
                }),
            )
        })
        .collect();
    let rows = || {
        lists.iter().flat_map(|(id, list)| {
            list.iter()
                .zip(1_u32..)
                .map(move |(found, rank)| (id, found, rank))
        })
    };
    let columns = vec![
        text("customer_id", rows().map(|(id, ..)| id.as_str())),
        Column::new(
            "rank".into(),
            rows().map(|(.., rank)| rank).collect::<Vec<_>>(),
        ),
        text(
            "stock_code",
            rows().map(|(_, found, _)| model.products()[found.product].stock_code.as_str()),
        ),
        Column::new(
            "score".into(),
            rows().map(|(_, found, _)| found.score).collect::<Vec<_>>(),
        ),
    ];
    Ok(Table { columns, left_out })
}

fn forecast(model: &Forecast, args: &ScoreArgs) -> Result<Table, Failure> {
    let choices = choices(args);
    let chosen = choices.iter().flat_map(|(level, frequency)| {
        let of_level = model
            .series()
            .iter()
            .filter(|series| series.level == *level);
        of_level.map(|series| {
            (
                series_id(*frequency, *level, &series.key),
                (series, *frequency),
            )
        })
    });
    let (series, left_out) = wanted(args, "series_id", chosen.collect())?;
    let points: Vec<Vec<forecast::Point>> = series
        .par_iter()
        .map(|(_, (series, frequency))| {
            let horizon = horizon(args.horizon, *frequency)?;
            Ok(model.forecast(
                series,
                *frequency,
                horizon,
                &QUANTILES.map(|(_, level)| level),
            ))
        })
        .collect::<Result<_, Failure>>()?;
    let rows = || {
        series
            .iter()
            .zip(&points)
            .flat_map(|((id, _), points)| points.iter().map(move |point| (id, point)))
    };
    let number = |name: &str, of: &dyn Fn(&forecast::Point) -> f64| {
        Column::new(
            name.into(),
            rows().map(|(_, point)| of(point)).collect::<Vec<_>>(),
        )
    };
    let mut columns = vec![
        text("series_id", rows().map(|(id, _)| id.as_str())),
        Column::new(
            "timestamp".into(),
            rows().map(|(_, point)| point.start).collect::<Vec<_>>(),
        ),
        number("mean", &|point| point.mean),
    ];
    for (at, (name, _)) in QUANTILES.into_iter().enumerate() {
        columns.push(number(name, &|point| point.quantiles[at]));
    }
    Ok(Table { columns, left_out })
}

/// The series that are asked for: by flags, or by an input whose names say the rest, or else the
/// shop's days.
fn choices(args: &ScoreArgs) -> Vec<(forecast::Level, forecast::Frequency)> {
    let levels = match args.level {
        Some(LevelChoice::Country) => vec![forecast::Level::Country],
        Some(LevelChoice::Product) => vec![forecast::Level::Product],
        None if args.input.is_some() => {
            vec![
                forecast::Level::Total,
                forecast::Level::Country,
                forecast::Level::Product,
            ]
        }
        Some(LevelChoice::Total) | None => vec![forecast::Level::Total],
    };
    let frequencies = match args.frequency {
        Some(FrequencyChoice::Weekly) => vec![forecast::Frequency::Weekly],
        Some(FrequencyChoice::Monthly) => vec![forecast::Frequency::Monthly],
        None if args.input.is_some() => forecast::Frequency::ALL.to_vec(),
        Some(FrequencyChoice::Daily) | None => vec![forecast::Frequency::Daily],
    };
    levels
        .iter()
        .flat_map(|level| frequencies.iter().map(|frequency| (*level, *frequency)))
        .collect()
}

fn word(frequency: forecast::Frequency) -> &'static str {
    match frequency {
        forecast::Frequency::Daily => "daily",
        forecast::Frequency::Weekly => "weekly",
        forecast::Frequency::Monthly => "monthly",
    }
}

fn series_id(frequency: forecast::Frequency, level: forecast::Level, key: &str) -> String {
    let word = word(frequency);
    match level {
        forecast::Level::Total => format!("{word}_total"),
        forecast::Level::Country => format!("{word}_country/{key}"),
        forecast::Level::Product => format!("{word}_product/{key}"),
    }
}

/// Periods ahead, as many as the service answers.
fn horizon(asked: Option<u16>, frequency: forecast::Frequency) -> Result<usize, Failure> {
    let (usual, most) = frequency.horizons();
    match asked.map_or(usual, usize::from) {
        asked if asked > most => {
            let problem = format!(
                "{asked} is too far: {most} is the most of {} forecasts",
                word(frequency)
            );
            Err(Failure::Flag {
                flag: "--horizon",
                problem,
            })
        }
        asked => Ok(asked),
    }
}

fn anomaly(model: &Anomaly, args: &ScoreArgs) -> Result<Table, Failure> {
    let Some(input) = &args.input else {
        return Err(Failure::Flag {
            flag: "--input",
            problem: "is missing: the lines to score".to_owned(),
        });
    };
    let lake::Transactions { lines, rejected } =
        lake::read_transactions(std::slice::from_ref(input), &args.layout.options()?)?;
    let sales: Vec<_> = lines
        .iter()
        .filter(|line| line.kind == Kind::Sale)
        .map(scoring_line)
        .collect();
    let mut of_sales = model.score_all(&sales).into_iter();
    let scored: Vec<_> = lines
        .iter()
        .map(|line| {
            if line.kind == Kind::Sale {
                of_sales.next().flatten()
            } else {
                None
            }
        })
        .collect();
    // Below every line that is scored: they are no alerts.
    let least = scored
        .iter()
        .flatten()
        .map(|score| score.score)
        .fold(f64::INFINITY, f64::min);
    let least = if least.is_finite() { least } else { 0.0 };
    let columns = vec![
        text("line_id", lines.iter().map(|line| line.line_id.as_str())),
        Column::new(
            "score".into(),
            scored
                .iter()
                .map(|s| s.as_ref().map_or(least, |s| s.score))
                .collect::<Vec<_>>(),
        ),
        text(
            "severity",
            scored
                .iter()
                .map(|s| s.as_ref().map_or("none", |s| s.severity.as_str())),
        ),
        Column::new(
            "reason".into(),
            lines
                .iter()
                .zip(&scored)
                .map(|(line, score)| match score {
                    Some(score) => score.reason(
                        &line.stock_code,
                        line.customer_id.as_deref().unwrap_or_default(),
                    ),
                    None => "no sale: returns, services and adjustments are not scored".to_owned(),
                })
                .collect::<Vec<_>>(),
        ),
        Column::new(
            "size".into(),
            scored
                .iter()
                .map(|s| s.as_ref().map_or(0.0, |s| s.size))
                .collect::<Vec<_>>(),
        ),
    ];
    let left_out = rejected
        .into_iter()
        .map(|(file, row, why)| format!("{file}, row {row}: {} {}", why.field, why.reason))
        .collect();
    Ok(Table { columns, left_out })
}

fn scoring_line(line: &lake::Transaction) -> scoring::anomaly::Sold<'_> {
    scoring::anomaly::Sold {
        invoice: &line.invoice,
        time: line.time,
        line: scoring::anomaly::Transaction {
            stock_code: &line.stock_code,
            quantity: line.quantity as f64,
            unit_price: line.unit_price,
            customer_id: line.customer_id.as_deref().unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(flags: &str) -> ScoreArgs {
        let line = format!("trainer score --models m --output o.csv {flags}");
        let Command::Score(args) = Cli::parse_from(line.split(' ')).command else {
            panic!("{line}")
        };
        args
    }

    #[test]
    fn a_flag_of_another_model_is_refused() {
        let refused = |flags: &str| {
            check(&parsed(flags))
                .err()
                .map(|failure| failure.to_string())
        };
        assert_eq!(
            refused("churn --top 3").as_deref(),
            Some("--top is for recommendation, not for churn")
        );
        assert_eq!(
            refused("anomaly --horizon 3").as_deref(),
            Some("--horizon is for forecast, not for anomaly")
        );
        for flags in [
            "recommendation --top 3 --new-only",
            "forecast --level total --frequency daily --horizon 3",
            "churn",
        ] {
            assert_eq!(refused(flags), None, "{flags}");
        }
    }

    #[test]
    fn a_horizon_is_one_that_the_service_answers() {
        let (usual, most) = forecast::Frequency::Monthly.horizons();
        let horizon = |asked| {
            horizon(asked, forecast::Frequency::Monthly).map_err(|failure| failure.to_string())
        };
        assert_eq!((horizon(None), horizon(Some(12))), (Ok(usual), Ok(most)));
        assert_eq!(
            horizon(Some(36)),
            Err("--horizon 36 is too far: 12 is the most of monthly forecasts".to_owned())
        );
    }

    #[test]
    fn the_input_says_which_series_unless_flags_do() {
        use forecast::{Frequency, Level};
        assert_eq!(
            choices(&parsed("forecast")),
            [(Level::Total, Frequency::Daily)]
        );
        let all = choices(&parsed("forecast --input i.csv"));
        assert_eq!(all.len(), 9);
        assert!(all.contains(&(Level::Country, Frequency::Weekly)));
        let weekly = choices(&parsed(
            "forecast --input i.csv --frequency weekly --level country",
        ));
        assert_eq!(weekly, [(Level::Country, Frequency::Weekly)]);
        assert_eq!(
            series_id(Frequency::Weekly, Level::Country, "Germany"),
            "weekly_country/Germany"
        );
    }

    #[test]
    fn ids_are_read_from_a_column_in_any_usual_spelling() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids.csv");
        for header in ["customer_id", "CustomerID", "Customer ID"] {
            std::fs::write(&file, format!("x,{header}\n1,17850.0\n2,14911\n3,17850\n")).unwrap();
            assert_eq!(
                ids(&file, "customer_id").unwrap(),
                ["14911", "17850"],
                "{header}"
            );
        }
        std::fs::write(&file, "x\n1\n").unwrap();
        assert!(
            ids(&file, "customer_id")
                .unwrap_err()
                .to_string()
                .contains("no column `customer_id`")
        );
    }
}

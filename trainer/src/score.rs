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
        let Self { model, version, rows, output, left_out, left_out_rows } = self;
        write!(f, "{} rows by {model} {version} in {}", thousands(*rows as u64), output.display())?;
        if *left_out_rows > 0 {
            write!(f, "; {left_out_rows} of the input left out: {}", left_out.join("; "))?;
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

/// How many of the rows that were left out are told.
const TOLD: usize = 5;

pub(crate) fn score(args: &ScoreArgs, runtime: &tokio::runtime::Runtime) -> Result<Scored, Failure> {
    let format = Format::of(&args.output)?;
    let store = ModelStore::open(&args.store.models)?;
    let kind = args.model;
    let pointer = runtime.block_on(store.current(kind))?.ok_or(Failure::NotPublished(kind))?;
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

fn load<M: Model>(artifact: &Artifact) -> Result<M, Failure> {
    M::load(artifact).map_err(|source| Failure::Unusable { model: M::KIND, source })
}

fn text<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> Column {
    Column::new(name.into(), values.collect::<Vec<_>>())
}

/// Things with their ids.
type WithIds<T> = Vec<(String, T)>;

/// Things in order of id, and what of the input is not among them.
fn wanted<T>(args: &ScoreArgs, column: &str, mut all: WithIds<T>) -> Result<(WithIds<T>, Vec<String>), Failure> {
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let Some(input) = &args.input else { return Ok((all, Vec::new())) };
    let asked = ids(input, column)?;
    let set: HashSet<&str> = asked.iter().map(String::as_str).collect();
    all.retain(|(id, _)| set.contains(id.as_str()));
    let found: HashSet<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
    let unknown = asked.iter().filter(|id| !found.contains(id.as_str())).map(|id| format!("{column} {id} is unknown"));
    let unknown = unknown.collect();
    Ok((all, unknown))
}

/// The ids in a column of a CSV file, each once.
fn ids(input: &Path, column: &str) -> Result<Vec<String>, Failure> {
    let bad = |problem: String| Failure::Input { path: input.to_owned(), problem };
    let mut reader = csv::Reader::from_path(input).map_err(|e| bad(e.to_string()))?;
    let header = reader.headers().map_err(|e| bad(e.to_string()))?.clone();
    let place = header.iter().position(|name| name.trim() == column);
    let place = place.ok_or_else(|| bad(format!("it has no column `{column}`")))?;
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
    let all = model.customers().map(|(id, customer)| (id.to_string(), *customer)).collect();
    let (customers, left_out) = wanted(args, "customer_id", all)?;
    let placed: Vec<_> = customers.iter().map(|(_, customer)| model.place(customer)).collect();
    let columns = vec![
        text("customer_id", customers.iter().map(|(id, _)| id.as_str())),
        Column::new("segment_id".into(), placed.iter().map(|p| p.segment.id).collect::<Vec<_>>()),
        text("segment_name", placed.iter().map(|p| p.segment.name.as_str())),
        text("lifecycle", customers.iter().map(|(_, customer)| model.lifecycle(customer).as_str())),
        text("rfm_cell", placed.iter().map(|p| p.rfm_cell)),
        Column::new("expected_spend".into(), customers.iter().map(|(_, c)| c.expected_spend()).collect::<Vec<_>>()),
    ];
    Ok(Table { columns, left_out })
}

fn churn(model: &Churn, args: &ScoreArgs) -> Result<Table, Failure> {
    let all = model.customers().iter().map(|customer| (customer.id.to_string(), customer)).collect();
    let (customers, left_out) = wanted(args, "customer_id", all)?;
    let level = |probability| match model.level(probability) {
        RiskLevel::Low => "Low",
        RiskLevel::Medium => "Medium",
        RiskLevel::High => "High",
    };
    let number = |name: &str, of: &dyn Fn(&scoring::churn::Customer) -> f64| {
        Column::new(name.into(), customers.iter().map(|(_, customer)| of(customer)).collect::<Vec<_>>())
    };
    let columns = vec![
        text("customer_id", customers.iter().map(|(id, _)| id.as_str())),
        number("probability", &|customer| customer.probability),
        text("risk_level", customers.iter().map(|(_, customer)| level(customer.probability))),
        number("annual_value", &|customer| customer.annual_value),
        number("value_at_risk", &|customer| customer.value_at_risk()),
    ];
    Ok(Table { columns, left_out })
}

fn recommendation(model: &Recommendations, args: &ScoreArgs) -> Result<Table, Failure> {
    let all = model.customers().map(|(id, row)| (id.to_string(), row)).collect();
    let (customers, left_out) = wanted(args, "customer_id", all)?;
    let lists: Vec<_> = customers
        .par_iter()
        .map(|(id, row)| {
            let limit = usize::from(args.top);
            (id, model.recommend(&Query { customer: Some(*row), limit, new_only: args.new_only, ..Query::default() }))
        })
        .collect();
    let rows =
        || lists.iter().flat_map(|(id, list)| list.iter().zip(1_u32..).map(move |(found, rank)| (id, found, rank)));
    let columns = vec![
        text("customer_id", rows().map(|(id, ..)| id.as_str())),
        Column::new("rank".into(), rows().map(|(.., rank)| rank).collect::<Vec<_>>()),
        text("stock_code", rows().map(|(_, found, _)| model.products()[found.product].stock_code.as_str())),
        Column::new("score".into(), rows().map(|(_, found, _)| found.score).collect::<Vec<_>>()),
    ];
    Ok(Table { columns, left_out })
}

fn forecast(model: &Forecast, args: &ScoreArgs) -> Result<Table, Failure> {
    let level = match args.level {
        LevelChoice::Total => forecast::Level::Total,
        LevelChoice::Country => forecast::Level::Country,
        LevelChoice::Product => forecast::Level::Product,
    };
    let (frequency, word) = match args.frequency {
        FrequencyChoice::Daily => (forecast::Frequency::Daily, "daily"),
        FrequencyChoice::Weekly => (forecast::Frequency::Weekly, "weekly"),
        FrequencyChoice::Monthly => (forecast::Frequency::Monthly, "monthly"),
    };
    let horizon = args.horizon.map_or(frequency.horizons().0, usize::from).min(frequency.horizons().1);
    let name = |series: &forecast::Series| match level {
        forecast::Level::Total => format!("{word}_total"),
        forecast::Level::Country => format!("{word}_country/{}", series.key),
        forecast::Level::Product => format!("{word}_product/{}", series.key),
    };
    let of_level = model.series().iter().filter(|series| series.level == level);
    let (series, left_out) = wanted(args, "series_id", of_level.map(|series| (name(series), series)).collect())?;
    let points: Vec<Vec<forecast::Point>> = series
        .par_iter()
        .map(|(_, series)| model.forecast(series, frequency, horizon, &QUANTILES.map(|(_, level)| level)))
        .collect();
    let rows = || series.iter().zip(&points).flat_map(|((id, _), points)| points.iter().map(move |point| (id, point)));
    let number = |name: &str, of: &dyn Fn(&forecast::Point) -> f64| {
        Column::new(name.into(), rows().map(|(_, point)| of(point)).collect::<Vec<_>>())
    };
    let mut columns = vec![
        text("series_id", rows().map(|(id, _)| id.as_str())),
        Column::new("timestamp".into(), rows().map(|(_, point)| point.start).collect::<Vec<_>>()),
        number("mean", &|point| point.mean),
    ];
    for (at, (name, _)) in QUANTILES.into_iter().enumerate() {
        columns.push(number(name, &|point| point.quantiles[at]));
    }
    Ok(Table { columns, left_out })
}

fn anomaly(model: &Anomaly, args: &ScoreArgs) -> Result<Table, Failure> {
    let Some(input) = &args.input else {
        return Err(Failure::Input { path: PathBuf::new(), problem: "give the lines with --input".to_owned() });
    };
    let lake::Transactions { lines, rejected } =
        lake::read_transactions(std::slice::from_ref(input), &args.layout.options()?)?;
    let sales: Vec<_> = lines.iter().filter(|line| line.kind == Kind::Sale).map(scoring_line).collect();
    let mut of_sales = model.score_all(&sales).into_iter();
    let scored: Vec<_> =
        lines.iter().map(|line| if line.kind == Kind::Sale { of_sales.next().flatten() } else { None }).collect();
    let columns = vec![
        text("line_id", lines.iter().map(|line| line.line_id.as_str())),
        Column::new("score".into(), scored.iter().map(|s| s.as_ref().map_or(0.0, |s| s.score)).collect::<Vec<_>>()),
        text("severity", scored.iter().map(|s| s.as_ref().map_or("none", |s| s.severity.as_str()))),
        Column::new(
            "reason".into(),
            lines
                .iter()
                .zip(&scored)
                .map(|(line, score)| match score {
                    Some(score) => score.reason(&line.stock_code, line.customer_id.as_deref().unwrap_or_default()),
                    None => "no sale: returns, services and adjustments are not scored".to_owned(),
                })
                .collect::<Vec<_>>(),
        ),
        Column::new("size".into(), scored.iter().map(|s| s.as_ref().map_or(0.0, |s| s.size)).collect::<Vec<_>>()),
    ];
    let left_out = rejected.into_iter().map(|(row, why)| format!("row {row}: {} {}", why.field, why.reason)).collect();
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
